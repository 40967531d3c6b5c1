"""Will it fit? Memory per process by term, before anything is loaded, beside what the machine has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.models.load import parameter_count

GIB = 2**30
# NF4 with double quantisation: 4 bits a weight and about 0.127 bit of constants (Dettmers et al. 2023, §3).
NF4_BYTES = 4.127 / 8


@dataclass(frozen=True)
class Preflight:
    """Estimated GiB by term, their sum, and what is there."""

    terms: dict[str, float]
    available: float
    place: str

    @property
    def total(self) -> float:
        return sum(self.terms.values())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{name}</td><td style='text-align:right'>{value:.2f}</td></tr>"
            for name, value in self.terms.items()
        )
        verdict = "fits" if self.total < self.available else "does NOT fit"
        return (
            f"<table><tr><th>memory per process</th><th>GiB</th></tr>{rows}<tr><th>sum</th>"
            f"<th style='text-align:right'>{self.total:.2f}</th></tr></table>"
            f"<p>{self.place} has {self.available:.1f} GiB: it {verdict}.</p>"
        )


def preflight(parameters: Any, weights: Path, length: int) -> Preflight:
    """Estimate for one process training `weights` on sequences of `length` tokens.

    Terms: weights, adapter, gradients, optimizer (AdamW, fp32), logits, activations. ZeRO-2 shards gradients and
    optimizer over the GPUs, ZeRO-3 the weights too. Gradient checkpointing keeps one activation a layer.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(weights, trust_remote_code=False)
    count = parameter_count(weights)
    width = {"float32": 4, "bfloat16": 2}[parameters.dtype]
    vocabulary = 2 * config.vocab_size * config.hidden_size
    stored = vocabulary * 4 + (count - vocabulary) * NF4_BYTES if parameters.finetuning == "qlora" else count * width
    trained = count if parameters.finetuning == "full" else _adapter_size(config, parameters)
    shards = max(1, parameters.gpus * parameters.nodes)
    tokens = parameters.per_device_train_batch_size * length * (2 if parameters.notebook == "05_dpo" else 1)
    per_layer = config.hidden_size * (2 if parameters.gradient_checkpointing else 34)
    terms = {
        "weights": stored / (shards if parameters.deepspeed == "zero3" else 1),
        "adapter": 0 if parameters.finetuning == "full" else trained * 4,
        "gradients": trained * 4 / (shards if parameters.deepspeed else 1),
        "optimizer": trained * 8 / (shards if parameters.deepspeed else 1),
        "logits": tokens * config.vocab_size * 4 * 2,
        "activations": tokens * per_layer * config.num_hidden_layers * width / 2,
    }
    place, available = _room(parameters.gpus)
    return Preflight({name: value / GIB for name, value in terms.items()}, available, place)


def _adapter_size(config: Any, parameters: Any) -> int:
    """Trainable weights of LoRA on all linear layers (r × (in + out) each) plus the modules saved whole."""
    hidden, inner = config.hidden_size, config.intermediate_size
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads) * (hidden // config.num_attention_heads)
    lora = config.num_hidden_layers * parameters.lora_r * (2 * 2 * hidden + 2 * (hidden + heads) + 3 * (hidden + inner))
    return lora + len(parameters.modules_to_save) * config.vocab_size * hidden


def _room(gpus: int) -> tuple[str, float]:
    if gpus:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.get_device_name(0), torch.cuda.mem_get_info(0)[1] / GIB
        return "this machine (no GPU)", 0.0
    return "this machine", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
