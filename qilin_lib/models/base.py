"""Which model a run starts from: "tiny", "smollm2", a local folder, or a hub id."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.models.baichuan import converted_from
from qilin_lib.models.load import load_tokenizer, parameter_count
from qilin_lib.models.smollm2 import smollm2_base
from qilin_lib.models.tiny import tiny_base
from qilin_lib.params import ROOT
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.sample import corpus
from qilin_lib.tokens.template import choose


def prepare(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """The run's base model, described as in base.json: `prepare_base` with what the embedded sample teaches "tiny"."""
    stage.begin()
    general = stage.parent("01_build_chimed") / "general.jsonl"

    def texts() -> tuple[list[str], list[str]]:
        held = {row["text"] for row in files.read_jsonl(general) if row["split"] == "heldout"}
        return corpus.base_texts(runs.cache_dir(), held)

    return prepare_base(stage.parameters, stage, texts, runs.cache_dir(), show or live_line())


def prepare_base(
    parameters: Any,
    stage: Stage,
    texts: Callable[[], tuple[list[str], list[str]]],
    cache: Path,
    progress: Callable[[str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Make `parameters.base` ready and describe it in base.json: name, source, path, sizes, template and its hash.

    The tiny model is small and copied into the run; any other base is named where it lies. base_weights.json has the
    sha256 of every weight file. `texts` gives what the tiny model learns from and what its tokenizer is trained on; it
    is called only if "tiny" is asked for.
    """
    if stage.up_to_date:
        progress(FINISHED)
        return files.read_json(stage.dir / "base.json")
    name, stage_dir = parameters.base, stage.dir
    if name == "tiny":
        path = stage_dir / "base"
        made = tiny_base(*texts(), parameters.tiny, parameters.seed, cache, progress)
        shutil.copytree(made, path, dirs_exist_ok=True)
    elif name == "smollm2":
        path = smollm2_base(cache, progress)
    elif (ROOT / name).is_dir():
        path = (ROOT / name).resolve()
    elif name.count("/") == 1 and not name.startswith((".", "/")):
        path = from_hub(name)
    else:
        raise QilinError(
            f"base = '{name}': neither 'tiny', nor an existing folder, nor a hub id like 'owner/name', nor 'smollm2'"
        )
    template = choose(parameters.template, load_tokenizer(path))
    is_folder = (ROOT / Path(name).expanduser()).is_dir()
    # The tiny model's folder moves with the run, so its path is kept relative to the stage.
    described = {
        "name": name,
        "source": "kit" if name in ("tiny", "smollm2") else "folder" if is_folder else "hub",
        "path": "base" if name == "tiny" else str(path),
        "parameters": parameter_count(path),
        "vocabulary": files.read_json(path / "config.json")["vocab_size"],
        "converted": converted_from(path),
        "template": template.name,
        "template_sha256": template.sha256,
    }
    # A hub id or a folder's name does not pin weights; these bytes do, and they are part of the stage's digest.
    weights = {file.name: files.sha256_file(file) for file in sorted(path.glob("*.safetensors"))}
    files.write_json(stage_dir / "base_weights.json", weights)
    files.write_json(stage_dir / "base.json", described)
    return described


def base_path(stage_dir: Path) -> Path:
    """Folder of the base model that 02_tokenize prepared."""
    return (stage_dir / files.read_json(stage_dir / "base.json")["path"]).resolve()


# What a model needs of a repository: configuration, safetensors, tokenizer.
PATTERNS = ("*.json", "*.safetensors", "tokenizer*", "*.model", "*.txt", "*.jinja")


def from_hub(name: str) -> Path:
    """Folder with the files of a hub repository that a model needs."""
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(name, allow_patterns=list(PATTERNS)))


def files_read(folder: Path) -> dict[str, Path]:
    """{name: file} of what loading the model in `folder` reads; a README or a download's cache is not among it."""
    return {path.name: path for pattern in PATTERNS for path in sorted(folder.glob(pattern)) if path.is_file()}
