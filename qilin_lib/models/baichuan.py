"""Baichuan-7B without its remote code: `python -m qilin_lib.models.baichuan SRC DST` writes a LLaMA-layout folder.

Baichuan-7B is LLaMA but for one fused projection: `W_pack` holds the query's, key's and value's rows in that order
(baichuan-inc/Baichuan-7B, modeling_baichuan.py). Baichuan2-7B also normalises the rows of its head (arXiv 2309.10305).
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from qilin_lib import files
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.load import made_once, skeleton, weight_files, write_shards
from qilin_lib.models.sentencepieces import fast_tokenizer
from qilin_lib.models.shapes import is_hub_id

SINGLES = ("model.safetensors", "pytorch_model.bin")
NEEDED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "rms_norm_eps",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)
# First line of the README.md of a converted folder.
TITLES = {kind: f"# {kind}'s layout, converted to LLaMA's" for kind in ("Baichuan-7B", "Baichuan2-7B")}
FOLDED = (
    "Baichuan2: NormHead folded, the rows of lm_head are L2-normalised once; generation is the same, but training the "
    "head is not: Baichuan2 normalises anew at every step"
)


def convert(source: Path, target: Path) -> list[str]:
    """Convert the checkpoint in `source` to a LLaMA-layout folder `target` with a fast tokenizer; lines on what was
    done, which also stand in the folder's README.md.

    Memory stays near one file that is written (2 GB), and `target` appears only when whole. Raises QilinError for
    anything that is not Baichuan-7B's or Baichuan2-7B's layout, for a tensor that is unknown, missing, twice there or
    of another shape, and for a `target` that is not empty.
    """
    if target.is_dir() and not any(target.iterdir()):
        target.rmdir()
    if target.exists():
        raise QilinError(f"{target} exists and is not empty: choose a new folder")
    report: list[str] = []
    made_once(target, lambda folder: report.extend(_convert(source, folder)))
    return report


def _convert(source: Path, folder: Path) -> list[str]:
    config, pieces = read_config(source), source / "tokenizer.model"
    special = (config[f"{name}_token_id"] for name in ("bos", "eos", "pad"))
    tokenizer = fast_tokenizer(pieces, *special, config["max_position_embeddings"])
    if len(tokenizer) > config["vocab_size"]:
        raise QilinError(f"{pieces}: {len(tokenizer)} pieces, but vocab_size is {config['vocab_size']}")
    tokenizer.save_pretrained(folder)
    # llama.cpp's converter reads the vocabulary from it.
    shutil.copyfile(pieces, folder / pieces.name)
    # Safetensors before .bin. Which file an index says a tensor is in does not matter: all are read.
    there = [one for one in SINGLES for name in (one, f"{one}.index.json") if (source / name).exists()]
    if not there:
        raise QilinError(f"{source}: neither {' nor '.join(SINGLES)} nor an index of one")
    paths = weight_files(source, there[0])
    found = {tensor.dtype for path in paths for tensor in _tensors(path).values()}
    dtypes = sorted(str(dtype).removeprefix("torch.") for dtype in found)
    if len(dtypes) != 1:
        raise QilinError(f"{source}: weights in {dtypes}; nearest valid: all in one of them")
    shards, written = write_shards(folder, llama_tensors(paths, config))
    llama = _llama(config, dtypes[0])
    llama.save_pretrained(folder)
    size = f"{config['num_hidden_layers']} layers, {skeleton(llama).num_parameters():,} parameters in {dtypes[0]}"
    report = [
        f"{size}; every W_pack split into q, k, v",
        "rotary_emb.inv_freq buffers dropped (rotary base 10000, computed by LLaMA itself)",
        f"{written:,} bytes of weights in {shards} file{'s' if shards > 1 else ''}",
        f"tokenizer: {len(tokenizer)} pieces with SentencePiece's own ids; neither bos nor eos is added, "
        f"pad is {tokenizer.pad_token}",
        *[FOLDED] * is_second(config),
    ]
    title = TITLES["Baichuan2-7B" if is_second(config) else "Baichuan-7B"]
    files.write_text(folder / "README.md", "\n- ".join([f"{title}\n", *report]) + "\n")
    return report


def read_config(source: Path) -> dict[str, Any]:
    """config.json of a Baichuan-7B or Baichuan2-7B folder; QilinError says why another one is refused."""
    path = source / "config.json"
    config = files.read_json(path)
    if config.get("model_type") != "baichuan":
        raise QilinError(f"{path}: model_type {config.get('model_type')!r} is not Baichuan's")
    if "max_position_embeddings" not in config:
        raise QilinError(f"{path}: LLaMA's layout has no ALiBi, so Baichuan-13B is not converted, only the 7B models")
    if missing := [name for name in NEEDED if config.get(name) is None]:
        raise QilinError(f"{path}: {missing[0]} is missing{nearest(missing[0], config)}")
    return config


def is_second(config: dict[str, Any]) -> bool:
    """Whether a configuration is Baichuan2's, whose head normalises its rows."""
    return "z_loss_weight" in config or config["vocab_size"] == 125696


def _llama(config: dict[str, Any], dtype: str) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        **{name: config[name] for name in (*NEEDED, "max_position_embeddings")},
        num_key_value_heads=config["num_attention_heads"],
        hidden_act="silu",
        tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        initializer_range=config.get("initializer_range", 0.02),
        dtype=dtype,
        architectures=["LlamaForCausalLM"],
    )


def converted_from(folder: Path) -> str:
    """The model whose layout `convert` read to write a folder, by the title of its README.md; "" for any other."""
    readme = folder / "README.md"
    first = readme.read_text(encoding="utf-8", errors="replace").partition("\n")[0] if readme.is_file() else ""
    return next((kind for kind, title in TITLES.items() if title == first), "")


def _tensors(path: Path) -> dict[str, Any]:
    """The tensors of a file but its rotary buffers, mapped into memory: what is not touched is not read."""
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, RuntimeError, pickle.UnpicklingError, EOFError) as reason:
        raise QilinError(f"{path} is damaged or holds more than tensors: {str(reason).splitlines()[0]}") from None
    for name in [name for name in tensors if name.endswith(".rotary_emb.inv_freq")]:
        buffer = tensors.pop(name)
        # Dropping a buffer is right only if it is what LLaMA computes; the tolerance is bfloat16's rounding.
        right = 10000.0 ** -(torch.arange(len(buffer), dtype=torch.float32) / len(buffer))
        if not torch.allclose(buffer.float(), right, rtol=0.01, atol=0.0):
            raise QilinError(f"{path}: {name} is not that of rotary base 10000, a rescaled model is not converted")
    return tensors


def llama_tensors(paths: list[Path], config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(name, tensor) of a checkpoint under LLaMA's names; QilinError unless it holds each expected tensor once, in its
    shape.

    W_pack's rows are q, k, v. Of Baichuan2 each row of lm_head is divided by its L2 norm, in fp32.
    """
    import torch

    missing = {name: tuple(tensor.shape) for name, tensor in skeleton(_llama(config, "float32")).state_dict().items()}
    for name in [name for name in missing if "q_proj" in name]:
        rows, *columns = missing[name]
        missing[name.replace("q_proj", "W_pack")] = (3 * rows, *columns)
    missing = {name: shape for name, shape in missing.items() if not re.search("[qkv]_proj", name)}
    for path in paths:
        for name, tensor in _tensors(path).items():
            if name not in missing:
                raise QilinError(f"{path}: {name} is no tensor of Baichuan-7B, or twice there{nearest(name, missing)}")
            shape = missing.pop(name)
            if tuple(tensor.shape) != shape:
                raise QilinError(f"{path}: {name} has shape {tuple(tensor.shape)}, config.json asks for {shape}")
            if "W_pack" in name:
                names = [name.replace("W_pack", f"{part}_proj") for part in "qkv"]
                yield from zip(names, tensor.chunk(3), strict=True)
            elif name == "lm_head.weight" and is_second(config):
                yield name, torch.nn.functional.normalize(tensor.float(), dim=-1).to(tensor.dtype)
            else:
                yield name, tensor
    if missing:
        raise QilinError(f"{paths[0].parent}: {next(iter(missing))} is missing ({len(missing)} tensors are)")


def main(arguments: list[str]) -> int:
    """Convert SRC to DST and say what was done; 2 with one sentence when it is refused."""
    if len(arguments) != 2:
        print("usage: python -m qilin_lib.models.baichuan SRC DST")
        print("SRC: Baichuan-7B's or Baichuan2-7B's own files, a folder or a hub id; DST: a new folder, LLaMA's layout")
        return 2
    source, target = map(Path, arguments)
    try:
        if not source.exists() and is_hub_id(arguments[0]):
            wanted = ["*.json", "*.bin", "*.safetensors", "*.model"]
            source = Path(snapshot_download(arguments[0], allow_patterns=wanted))
        started = time.monotonic()
        report = convert(source, target)
    except (QilinError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{target}: written in {time.monotonic() - started:.1f} s", *report, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
