"""Shapes of base models without their weights: what a dry run on a machine without model and network needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.adapters import check_modules, lora_config
from qilin_lib.models.load import skeleton
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


def shape(base: str | Path, tiny: Any = None) -> Any:
    """The transformers configuration of `base`: a local folder, a known name, a hub id in the local cache, or 'tiny'.

    `tiny` is the run's `schema.Tiny`, read only for base 'tiny'. Nothing is downloaded and no remote code runs. Raises
    QilinError if the shape is not to be had on this machine.
    """
    from transformers import LlamaConfig

    name = str(base)
    if name == "tiny":
        if tiny is None:
            raise QilinError("base = 'tiny': its shape stands in the profile under tokenize.tiny, which was not given")
        return LlamaConfig(
            **{field: getattr(tiny, field) for field in ("vocab_size", *SHAPE)}, tie_word_embeddings=False
        )
    folder = ROOT / Path(name).expanduser()
    if folder.is_dir():
        return _from_folder(folder)
    cached = _from_cache(name)
    if cached is not None:
        return cached
    known = {key.lower(): value for key, value in KNOWN.items()}
    plain = name.lower().partition("@")[0]
    if plain not in known:
        raise QilinError(
            f"base = '{name}': neither a folder, nor in the local hub cache, nor a shape known here"
            f"{nearest(name, KNOWN)}; known are 'tiny' and {sorted(KNOWN)}"
        )
    return LlamaConfig(**known[plain])


def _from_folder(folder: Path) -> Any:
    from transformers import AutoConfig, LlamaConfig

    if not (folder / "config.json").exists():
        raise QilinError(f"base = '{folder}': holds no config.json; a model folder has config.json and *.safetensors")
    content = files.read_json(folder / "config.json")
    if content.get("model_type") == "baichuan":
        # Baichuan's own layout names its sizes as LLaMA does; transformers knows the type only by remote code.
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
        return LlamaConfig(**{name: content[name] for name in names})
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except ValueError as reason:
        raise QilinError(
            f"base = '{folder}': transformers does not know model_type {content.get('model_type')!r} without remote "
            f"code ({str(reason).splitlines()[0]}); nearest valid: a folder in LLaMA layout"
        ) from None


def _from_cache(name: str) -> Any:
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    if repository.count("/") != 1 or name.startswith((".", "/")):
        return None
    found = try_to_load_from_cache(repository, "config.json", revision=revision or None)
    return _from_folder(Path(found).parent) if isinstance(found, str) else None


@dataclass(frozen=True)
class Linear:
    """One linear layer: features in and out, rank of its LoRA (0 = none), whether its own weight is trained."""

    name: str
    inputs: int
    outputs: int
    rank: int
    trained: bool


@dataclass(frozen=True)
class Census:
    """Numbers of weights: all of the base model, those of its linear layers without the head, the trained ones (`lora`
    matrices, `copies` of modules saved whole, or all), and the linear layers one by one."""

    config: Any
    total: int
    inner: int
    lora: int
    copies: int
    layers: tuple[Linear, ...]
    head: Linear

    @property
    def trained(self) -> int:
        return self.lora + self.copies or self.total


def census(config: Any, parameters: Any) -> Census:
    """Count the weights of a model of shape `config` as peft wraps it for `parameters`, on the meta device.

    Nothing is allocated. peft itself decides what `target_modules` and `modules_to_save` match (7B: about 4 s).
    """
    import torch
    from peft import get_peft_model

    full, model = parameters.finetuning == "full", skeleton(config)
    total = sum(weight.numel() for weight in model.parameters())
    if not full:
        check_modules(model, parameters)
        with torch.device("meta"):
            model = get_peft_model(model, lora_config(parameters))
    trained = {name: weight.numel() for name, weight in model.named_parameters() if weight.requires_grad}
    lora = 0 if full else sum(count for name, count in trained.items() if ".lora_" in name)
    found = linears(model)
    return Census(
        config,
        total,
        sum(layer.inputs * layer.outputs for layer in found[:-1]),
        lora,
        0 if full else sum(trained.values()) - lora,
        tuple(found[:-1]),
        found[-1],
    )


def linears(model: Any) -> list[Linear]:
    """Linear layers of a language model in their order, the head last; one that peft saves whole counts as trained."""
    found = []
    for name, module in model.named_modules():
        sizes = getattr(module, "in_features", 0), getattr(module, "out_features", 0)
        parts = name.split(".")
        # Wrappers of peft carry the sizes of what they wrap: look at the wrapper only.
        inside = {"base_layer", "original_module", "modules_to_save"} & set(parts)
        if all(sizes) and not inside and "lora_" not in name:
            # DPO's frozen copy of an adapter never runs beside the trained one.
            rank = getattr(module, "r", {}).get("default", 0)
            trained = bool(getattr(module, "modules_to_save", None)) or _is_trained(module, rank)
            found.append(Linear(parts[-1], *sizes, rank, trained))
    return sorted(found, key=lambda layer: layer.name == "lm_head")


def _is_trained(module: Any, rank: int) -> bool:
    return rank == 0 and any(weight.requires_grad for weight in module.parameters())
