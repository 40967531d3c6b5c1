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

from qilin_lib import strict_yaml
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.examine import configuration, read_config, tensors_of
from qilin_lib.models.load import weight_files
from qilin_lib.models.tiny import SHAPE
from qilin_lib.params import ROOT

# {base: its configuration, as far as sizes go}; read once.
KNOWN: dict[str, dict[str, Any]] = {
    name: model["config"]
    for model in strict_yaml.read(Path(__file__).with_name("known.yaml")).values()
    for name in model["names"]
}
# Fields of a configuration that mean the same in LLaMA's.
ALIKE = ("vocab_size", *SHAPE, "tie_word_embeddings", "attention_bias")
# NF4 with double quantisation: 4 bits a weight and about 0.127 bit of constants (Dettmers et al. 2023, §3).
NF4 = 4.127 / 8
# Bytes of a number.
WIDTH = {"float32": 4, "bfloat16": 2}


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
        taken = [one for name, one in self.linear if len(one) == 2 and is_named(name, parameters.target_modules)]
        return parameters.lora_r * sum(map(sum, taken))

    def copies(self, parameters: Any) -> int:
        """Weights of the modules that `modules_to_save` trains whole; one that no tensor is named by is as large as the
        embeddings (a head that is tied to them)."""
        count = 0
        for entry in parameters.modules_to_save:
            sizes = [prod(shape) for name, shape in self.tensors if name and is_named(name, [entry])]
            count += sum(sizes) or self.vocabulary * self.hidden
        return count

    def stored(self, p: Any) -> float:
        """Bytes while it trains, unsharded: NF4 with all else in fp32; fp32 for full training without DeepSpeed (and
        autocast's bfloat16 copies), else as `dtype` says."""
        width = WIDTH[p.dtype]
        if p.finetuning == "qlora":
            inner = self.matrices - self.vocabulary * self.hidden
            return inner * NF4 + (self.total - inner) * (width if p.deepspeed else 4)
        if p.finetuning == "full" and not p.deepspeed:
            return self.total * 4 + self.matrices * 2 * (width == 2)
        # The frozen originals of `modules_to_save` are as precise as their trained copies.
        originals = self.copies(p) if p.finetuning == "lora" and not p.deepspeed else 0
        return self.total * width + originals * (4 - width)

    def trained(self, p: Any) -> tuple[int, int]:
        """(weights that are trained, bytes of each): fp32 unless DeepSpeed keeps the fp32 copy."""
        count = self.total if p.finetuning == "full" else self.lora(p) + self.copies(p)
        return count, WIDTH[p.dtype] if p.deepspeed else 4

    def names(self, targets: str | list[str]) -> bool:
        """Whether every entry names a matrix; False also where it may name something larger, or names are not known."""
        matrices = [name for name, shape in self.tensors if name and len(shape) == 2]
        entries = [targets] if isinstance(targets, str) else [[target] for target in targets]
        return all(any(is_named(name, entry) for name in matrices) for entry in entries)


def is_named(name: str, targets: str | list[str]) -> bool:
    """Whether `target_modules` mean the matrix of this name, as peft reads them; all of them where it is not known."""
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
    folder, config = _found(base, tiny)
    config, tensors = config.get("text_config") or config, []

    def number(*names: str, default: int | None = None) -> int:
        # Configurations call a size by one of these names.
        found = next((config[name] for name in names if config.get(name)), default)
        if found is None:
            raise QilinError(f"base = '{base}': its config.json names no {names[0]}; nearest valid: a causal LM")
        return found

    hidden, heads = number("hidden_size", "n_embd", "d_model"), number("num_attention_heads", "n_head", "num_heads")
    width = heads * number("head_dim", default=hidden // heads)
    inner = number("intermediate_size", "ffn_hidden_size", "n_inner", "d_ff", default=4 * hidden)
    experts = number("num_experts", "num_local_experts", "n_routed_experts", default=0)
    expert = number("moe_intermediate_size", default=inner) if experts else inner
    routed = number("num_experts_per_tok", default=1) if experts else 0
    flowing = max(inner, expert * (routed + number("n_shared_experts", default=0))) if experts else inner
    layers, vocabulary = number("num_hidden_layers", "n_layer", "num_layers"), number("vocab_size", "padded_vocab_size")
    # What the weight files hold; nothing unless all of them are here.
    with suppress(QilinError):
        headers = [tensors_of(path) for path in weight_files(folder)] if folder else []
        tensors = [(name.removesuffix(".weight"), tuple(one)) for some in headers for name, one in some.items()]
    if not tensors:
        shared = width * number("num_key_value_heads", default=heads) // heads
        layer = [(width, hidden), (shared, hidden), (shared, hidden), (hidden, width), (hidden,), (hidden,)]
        layer += [(expert, hidden), (expert, hidden), (hidden, expert)] * max(1, experts)
        layer += [(experts, hidden)] * (experts > 1)
        layer += [(width,), (shared,), (shared,), (hidden,)] * bool(config.get("attention_bias"))
        ends = [(vocabulary, hidden)] * (1 if config.get("tie_word_embeddings") else 2)
        tensors = [("", shape) for shape in [*ends, *layer * layers, (hidden,)]]
    return Sizes(tuple(tensors), vocabulary, hidden, width, flowing, layers, routed)


def _found(base: str | Path, tiny: Any) -> tuple[Path | None, dict[str, Any]]:
    """(folder, what its config.json says) of `base`, named as for `shape`; no folder where only the sizes are known."""
    repository, _, revision = (name := str(base)).partition("@")
    if name == "tiny":
        if tiny is None:
            raise QilinError("base = 'tiny': its shape stands in the profile under tokenize.tiny, which was not given")
        return None, {one: getattr(tiny, one) for one in ("vocab_size", *SHAPE)} | {"tie_word_embeddings": False}
    folder = local(name) if local(name).is_dir() else None
    if folder is None and is_hub_id(name):
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(repository, "config.json", revision=revision or None)
        folder = Path(cached).parent if isinstance(cached, str) else None
    if folder:
        return folder, read_config(folder)
    for known, config in KNOWN.items():
        if known.lower() == repository.lower():
            return None, config
    raise QilinError(
        f"base = '{name}': neither a folder, nor in the local hub cache, nor a shape known here{nearest(name, KNOWN)}; "
        f"known are 'tiny' and {sorted(KNOWN)}"
    )


def shape(base: str | Path, tiny: Any = None) -> Any:
    """The transformers configuration of `base`: a local folder, a known name, a hub id in the local cache, or 'tiny'.

    `tiny` is the run's `schema_data.Tiny`, read only for base 'tiny'. Nothing is downloaded and no remote code runs.
    Raises QilinError if the shape is not to be had on this machine.
    """
    from transformers import LlamaConfig

    folder, known = _found(base, tiny)
    # Baichuan's own layout names its sizes as LLaMA does; transformers knows the type only by remote code.
    if folder is None or known.get("model_type") == "baichuan":
        return LlamaConfig(**{name: value for name, value in known.items() if name in ALIKE})
    return configuration(folder)


def local(name: str) -> Path:
    """The folder that a name stands for if it is one: relative to the kit, `~` is the user's home."""
    return ROOT / Path(name).expanduser()


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a hub repository, "owner/name" or "owner/name@revision"."""
    return name.partition("@")[0].count("/") == 1 and not name.startswith((".", "/", "~"))
