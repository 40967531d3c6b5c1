"""Sizes of base models without their weights: what a dry run on a machine without model and network needs.

Only `shape` imports transformers; the rest reads configurations and headers of safetensors files.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.examine import tensors_of
from qilin_lib.models.load import weight_files
from qilin_lib.models.tiny import SHAPE
from qilin_lib.params import ROOT

_LLAMA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
_LLAMA_13B = {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40}
_SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
# Qwen2 has biases on q, k and v alone; LLaMA's flag adds o's, 100,352 numbers of 7.6 billion.
_QWEN2_7B = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "attention_bias": True,
}
# From the config.json that the authors publish. Baichuan is LLaMA's arithmetic with W_pack = [q; k; v]; its 13B
# has ALiBi for rotary positions, which changes no size.
KNOWN: dict[str, dict[str, Any]] = {
    "baichuan-inc/Baichuan-7B": {**_LLAMA_7B, "vocab_size": 64000, "max_position_embeddings": 4096},
    "baichuan-inc/Baichuan2-13B-Base": {**_LLAMA_13B, "vocab_size": 125696, "max_position_embeddings": 4096},
    "baichuan-inc/Baichuan2-13B-Chat": {**_LLAMA_13B, "vocab_size": 125696, "max_position_embeddings": 4096},
    "huggyllama/llama-7b": {**_LLAMA_7B, "vocab_size": 32000, "max_position_embeddings": 2048},
    "HuggingFaceTB/SmolLM2-135M": _SMOLLM2_135M,
    "HuggingFaceTB/SmolLM2-135M-Instruct": _SMOLLM2_135M,
    "smollm2": _SMOLLM2_135M,
    "baichuan-inc/Baichuan2-7B-Chat": {**_LLAMA_7B, "vocab_size": 125696, "max_position_embeddings": 4096},
    "Qwen/Qwen2.5-7B-Instruct": _QWEN2_7B,
}
# The folders that the large profiles name, before the command of their headers has written them.
KNOWN |= {
    "models/baichuan-7b-llama": KNOWN["baichuan-inc/Baichuan-7B"],
    "models/baichuan2-7b-chat-llama": KNOWN["baichuan-inc/Baichuan2-7B-Chat"],
    "models/Qwen2.5-7B-Instruct": _QWEN2_7B,
}


# NF4 with double quantisation: 4 bits a weight and about 0.127 bit of constants (Dettmers et al. 2023, §3).
NF4 = 4.127 / 8
# What configurations call these sizes; the first name that is there counts.
ALIASES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "inner": ("intermediate_size", "ffn_hidden_size", "n_inner", "d_ff"),
    "heads": ("num_attention_heads", "n_head", "num_heads"),
    "vocabulary": ("vocab_size", "padded_vocab_size"),
    "experts": ("num_experts", "num_local_experts", "n_routed_experts"),
}


@dataclass(frozen=True)
class Sizes:
    """Names and shapes of a model's tensors (names without ".weight"; "" where only the configuration is known), and
    the sizes that bound its activations: `width` is that of all attention heads, `inner` that of a token's experts,
    `routed` their number."""

    tensors: tuple[tuple[str, tuple[int, ...]], ...]
    vocabulary: int
    hidden: int
    width: int
    inner: int
    layers: int
    routed: int

    @property
    def total(self) -> int:
        return sum(prod(shape) for _, shape in self.tensors)

    @property
    def largest(self) -> int:
        return max(prod(shape) for _, shape in self.tensors)

    @property
    def linear(self) -> list[tuple[str, tuple[int, ...]]]:
        """Matrices of the layers: all but embeddings and head, which have a row for each word."""
        return [(name, shape) for name, shape in self.tensors if len(shape) > 1 and shape[0] != self.vocabulary]

    @property
    def matrices(self) -> int:
        """Weights that every token is multiplied with, the head included."""
        return sum(prod(shape) for _, shape in self.linear) + self.vocabulary * self.hidden

    def lora(self, parameters: Any) -> int:
        """Weights of LoRA on `target_modules`: rank x (rows + columns); all matrices where names are not known."""
        shapes = (shape for name, shape in self.linear if len(shape) == 2 and _named(name, parameters.target_modules))
        return parameters.lora_r * sum(map(sum, shapes))

    def copies(self, parameters: Any) -> int:
        """Weights of the modules that `modules_to_save` trains whole; one that no tensor is named by is as large as the
        embeddings (a head that is tied to them)."""
        count = 0
        for entry in parameters.modules_to_save:
            sizes = [prod(shape) for name, shape in self.tensors if name and _named(name, [entry])]
            count += sum(sizes) or self.vocabulary * self.hidden
        return count

    def stored(self, p: Any) -> float:
        """Bytes while it trains, unsharded: NF4 with all else in fp32; fp32 for full training without DeepSpeed (and
        autocast's bfloat16 copies), else as `dtype` says."""
        width = 4 if p.dtype == "float32" else 2
        if p.finetuning == "qlora":
            inner = self.matrices - self.vocabulary * self.hidden
            return inner * NF4 + (self.total - inner) * (2 if p.deepspeed and width == 2 else 4)
        if p.finetuning == "full" and not p.deepspeed:
            return self.total * 4 + self.matrices * 2 * (width == 2)
        # The frozen originals of `modules_to_save` are as precise as their trained copies.
        originals = self.copies(p) if p.finetuning == "lora" and not p.deepspeed else 0
        return self.total * width + originals * (4 - width)

    def trained(self, p: Any) -> tuple[int, int]:
        """(weights that are trained, bytes of each): fp32 unless DeepSpeed keeps the fp32 copy."""
        count = self.total if p.finetuning == "full" else self.lora(p) + self.copies(p)
        return count, 2 if p.deepspeed and p.dtype == "bfloat16" else 4

    def names(self, targets: str | list[str]) -> bool:
        """Whether every entry names a matrix; False also where it may name something larger, or names are not known."""
        entries: list[str | list[str]] = [targets] if isinstance(targets, str) else [[target] for target in targets]
        matrices = [name for name, shape in self.tensors if name and len(shape) == 2]
        return all(any(_named(name, entry) for name in matrices) for entry in entries)


def _named(name: str, targets: str | list[str]) -> bool:
    if not name or targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(f".{name}".endswith(f".{target}") for target in targets)


def sizes(base: str | Path, tiny: Any = None) -> Sizes:
    """Sizes of `base`, named as for `shape`: exact from the headers of its weight files where they are here.

    Else as LLaMA's arithmetic has it from config.json's few numbers: exact for LLaMA and Baichuan, near for others.
    Raises QilinError if they are not to be had on this machine.
    """
    config = content(base, tiny)
    config = config.get("text_config") or config
    size = {key: next((config[n] for n in names if config.get(n)), None) for key, names in ALIASES.items()}
    if missing := [key for key in ("hidden", "layers", "heads", "vocabulary") if not size[key]]:
        raise QilinError(
            f"base = '{base}': its config.json names no {ALIASES[missing[0]][0]}; nearest valid: a causal LM"
        )
    inner, routed = size["inner"] or 4 * size["hidden"], 0
    if size["experts"]:
        routed = config.get("num_experts_per_tok") or 1
        inner = max(
            inner, (config.get("moe_intermediate_size") or inner) * (routed + (config.get("n_shared_experts") or 0))
        )
    found: list[tuple[str, tuple[int, ...]]] = []
    folder = _folder(str(base))
    if folder:
        with suppress(QilinError):
            for path in weight_files(folder):
                found += [(name.removesuffix(".weight"), tuple(s)) for name, s in tensors_of(path).items()]
    tensors = tuple(found) or tuple(("", shape) for shape in _as_llama(config, size))
    width = size["heads"] * (config.get("head_dim") or size["hidden"] // size["heads"])
    return Sizes(tensors, size["vocabulary"], size["hidden"], width, inner, size["layers"], routed)


def _as_llama(config: dict[str, Any], size: dict[str, Any]) -> list[tuple[int, ...]]:
    hidden, heads = size["hidden"], size["heads"]
    width = heads * (config.get("head_dim") or hidden // heads)
    shared = width * (config.get("num_key_value_heads") or heads) // heads
    inner, experts = size["inner"] or 4 * hidden, size["experts"] or 1
    layer = [(width, hidden), (shared, hidden), (shared, hidden), (hidden, width), (hidden,), (hidden,)]
    if experts > 1:
        inner, layer = config.get("moe_intermediate_size") or inner, [*layer, (experts, hidden)]
    layer += [(inner, hidden), (inner, hidden), (hidden, inner)] * experts
    if config.get("attention_bias"):
        layer += [(width,), (shared,), (shared,), (hidden,)]
    ends = [(size["vocabulary"], hidden)] * (1 if config.get("tie_word_embeddings") else 2)
    return [*ends, *layer * size["layers"], (hidden,)]


def content(base: str | Path, tiny: Any = None) -> dict[str, Any]:
    """What config.json says of `base`, or would: as for `shape`, but without transformers."""
    name = str(base)
    if name == "tiny":
        if tiny is None:
            raise QilinError("base = 'tiny': its shape stands in the profile under tokenize.tiny, which was not given")
        return {field: getattr(tiny, field) for field in ("vocab_size", *SHAPE)} | {"tie_word_embeddings": False}
    if folder := _folder(name):
        if not (folder / "config.json").exists():
            raise QilinError(
                f"base = '{folder}': holds no config.json; a model folder has config.json and *.safetensors"
            )
        return files.read_json(folder / "config.json")
    known = {key.lower(): value for key, value in KNOWN.items()}
    plain = name.lower().partition("@")[0]
    if plain not in known:
        raise QilinError(
            f"base = '{name}': neither a folder, nor in the local hub cache, nor a shape known here"
            f"{nearest(name, KNOWN)}; known are 'tiny' and {sorted(KNOWN)}"
        )
    return known[plain]


def shape(base: str | Path, tiny: Any = None) -> Any:
    """The transformers configuration of `base`: a local folder, a known name, a hub id in the local cache, or 'tiny'.

    `tiny` is the run's `schema.Tiny`, read only for base 'tiny'. Nothing is downloaded and no remote code runs. Raises
    QilinError if the shape is not to be had on this machine.
    """
    from transformers import AutoConfig, LlamaConfig

    found, folder = content(base, tiny), _folder(str(base))
    if folder is None:
        return LlamaConfig(**found)
    if found.get("model_type") == "baichuan":
        # Baichuan's own layout names its sizes as LLaMA does; transformers knows the type only by remote code.
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        return LlamaConfig(**{name: found[name] for name in names})
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ValueError as reason:
        raise QilinError(
            f"base = '{folder}': transformers does not know model_type {found.get('model_type')!r} without remote "
            f"code ({str(reason).splitlines()[0]}); nearest valid: a folder in LLaMA layout"
        ) from None


def _folder(name: str) -> Path | None:
    """The local folder that a name stands for, or that of a hub id in the local cache."""
    folder = ROOT / Path(name).expanduser()
    if name == "tiny" or folder.is_dir():
        return None if name == "tiny" else folder
    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or name.startswith((".", "/")):
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None
