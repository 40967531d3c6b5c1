"""Which model a run starts from: "tiny", "smollm2", a local folder, or a hub id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from qilin_lib import files, runs, sample
from qilin_lib.errors import QilinError, sentence
from qilin_lib.models.baichuan import converted_from
from qilin_lib.models.examine import context, why_unusable
from qilin_lib.models.load import load_tokenizer, skeleton, weight_files
from qilin_lib.models.shapes import is_hub_id, local, shape
from qilin_lib.models.smollm2 import smollm2_base
from qilin_lib.models.tiny import tiny_base
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens.own_template import choose


def prepare(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """Make the run's base model ready and describe it in base.json: name, source, path, sizes, template and its hash.

    The tiny model is small and copied into the run; any other base is named where it lies. base_weights.json has the
    sha256 of every weight file.
    """
    parameters, name, show = stage.parameters, stage.parameters.base, show or live_line()
    if stage.up_to_date:
        stage.begin()
        show(FINISHED)
        return files.read_json(stage.dir / "base.json")
    # Refused before anything is moved.
    path = stage.dir / "base" if name == "tiny" else located(parameters, runs.cache_dir(), show)
    if name == "tiny":
        _check_block(parameters, parameters.tiny.max_position_embeddings)
    stage.begin()
    if name == "tiny":
        general = files.read_jsonl(stage.parent("01_build_chimed") / "general.jsonl")
        texts = sample.base_texts({row["text"] for row in general if row["split"] == "heldout"})
        made = tiny_base(*texts, parameters.tiny, parameters.seed, runs.cache_dir(), show)
        shutil.copytree(made, path, dirs_exist_ok=True)
    config = shape(path)
    described = {
        "name": name,
        "source": "kit" if name in ("tiny", "smollm2") else "folder" if local(name).is_dir() else "hub",
        # The tiny model's folder moves with the run, so its path is kept relative to the stage.
        "path": "base" if name == "tiny" else str(path),
        "parameters": skeleton(config).num_parameters(),
        "vocabulary": config.get_text_config().vocab_size,
        "converted": converted_from(path),
        **choose(parameters.template, load_tokenizer(path)).described,
    }
    # A hub id or a folder's name does not pin weights; these bytes do, and they are part of the stage's digest.
    weights = {file.name: files.sha256_file(file) for file in weight_files(path)}
    files.write_json(stage.dir / "base_weights.json", weights)
    files.write_json(stage.dir / "base.json", described)
    return described


def located(parameters: Any, cache: Path, progress: Callable[[str], None]) -> Path:
    """Folder of a base that is not "tiny", examined; QilinError says why it is not there or cannot be used."""
    name = parameters.base
    if name == "smollm2":
        path = smollm2_base(cache, progress)
    elif local(name).is_dir():
        path = local(name).resolve()
    elif is_hub_id(name):
        path = from_hub(f"base = '{name}'", name)
    else:
        raise QilinError(
            f"base = '{name}': neither 'tiny', nor an existing folder, nor a hub id like 'owner/name', nor 'smollm2'"
        )
    if why := why_unusable(path, sequence=False):
        raise QilinError(f"base = '{name}': {why}")
    _check_block(parameters, context(shape(path)))
    return path


def base_path(stage_dir: Path) -> Path:
    """Folder of the base model that 02_tokenize prepared."""
    return (stage_dir / files.read_json(stage_dir / "base.json")["path"]).resolve()


# What a model needs of a repository beside its weights: configuration, tokenizer.
BESIDE = ("*.json", "tokenizer*", "*.model", "*.txt", "*.jinja")
WEIGHTS = ("*.safetensors",)


def files_read(folder: Path) -> dict[str, Path]:
    """{name: file} of what loading the model in `folder` reads; a README or a download's cache is not among it."""
    paths = [path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()]
    # A folder without usable weights is refused where it is examined, with the reason.
    with suppress(QilinError):
        paths += weight_files(folder)
    return {path.name: path for path in sorted(paths)}


def from_hub(what: str, name: str) -> Path:
    """Folder with the files of a hub repository that a model needs: configuration, safetensors, tokenizer.

    QilinError, about `what`, if it is not to be had.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*BESIDE, *WEIGHTS]))
    # huggingface_hub's own errors, httpx's, and ValueError for a bad id have no common class; all mean one thing here.
    except Exception as reason:
        raise QilinError(
            f"{what}: no such folder, and not to be had from the hub ({sentence(reason)}); nearest valid: the path of "
            "a local folder with config.json, tokenizer and .safetensors, or HF_ENDPOINT set to a mirror"
        ) from None


def _check_block(parameters: Any, limit: int | None) -> None:
    if limit and parameters.block_size > limit:
        raise QilinError(
            f"block_size = {parameters.block_size}: the context of base = '{parameters.base}' is {limit} tokens; "
            f"nearest valid: {limit}"
        )
