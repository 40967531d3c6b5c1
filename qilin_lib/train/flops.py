"""Arithmetic of a training step, and what a processor can do at most: the two sides of MFU and of a time estimate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from qilin_lib.models.shapes import Linear

# Dense bfloat16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets; the first name that fits counts.
DATASHEET = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H200": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
}
# Share of the peak that a time estimate assumes. Full 7B training on A100 reaches 50-64 % (llm-foundry's benchmark
# tables, MPT-7B; Baichuan-7B's README states 58 %); plain PyTorch with LoRA, short rows and sdpa stays below.
ASSUMED_GPU, ASSUMED_CPU = 0.4, 0.25


@dataclass(frozen=True)
class PerToken:
    """Floating-point operations for one input token: what the method needs (`model`, the M of MFU) and what runs
    (`hardware`: also the forward pass that gradient checkpointing repeats)."""

    model: float
    hardware: float


def per_token(linears: Sequence[Linear], length: float, parameters: Any, scored: float = 1.0) -> PerToken:
    """Operations a token of a training step on rows of `length` tokens, of which the share `scored` reaches the head.

    Two a weight forward, two for the gradient of the layer's input, two for that of its weight if it is trained: 6 N in
    full training, 4 N under LoRA. Attention is counted over the whole row, not causally: 12 x attention width x length
    a layer (PaLM, arXiv:2204.02311, Appendix B). DPO with a live reference adds one forward pass.
    """
    head = max(linears, key=lambda layer: layer.name == "lm_head")
    forward = backward = 0.0
    for layer in linears:
        share = scored if layer is head else 1.0
        weights, lora = layer.inputs * layer.outputs, layer.rank * (layer.inputs + layer.outputs)
        forward += 2 * share * (weights + lora)
        backward += 2 * share * (weights * (1 + layer.trained) + 2 * lora)
        if layer.name == "q_proj":
            forward += 4 * layer.outputs * length
            backward += 8 * layer.outputs * length
    live = parameters.notebook == "05_dpo" and not parameters.precompute_ref_log_probs
    model = forward * (1 + live) + backward
    # torch stops computing a layer again at the last tensor that is needed, which no plain down_proj gives.
    unneeded = [layer for layer in linears if layer.name == "down_proj" and not layer.rank]
    again = forward - 2 * scored * head.inputs * head.outputs - 2 * sum(x.inputs * x.outputs for x in unneeded)
    return PerToken(model, model + again * parameters.gradient_checkpointing)


def peak(dtype: str, gpu: bool) -> tuple[float | None, str]:
    """(most TFLOP/s of one process's processor, where the number is from); None for a GPU that is not in the table."""
    import torch

    if not gpu:
        tflops = _probe(dtype)
        return tflops, f"measured: {dtype} matrix product on this CPU, {torch.get_num_threads()} threads"
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return datasheet(name, dtype)


def datasheet(name: str, dtype: str) -> tuple[float | None, str]:
    """(TFLOP/s, source) of a GPU by its name; None where the name or the number format is not in the table."""
    known = next((key for key in DATASHEET if key.replace(" ", "").lower() in name.replace(" ", "").lower()), None)
    if known is None or dtype != "bfloat16":
        return None, f"no data sheet value for {name or 'a GPU that is not here'} in {dtype}"
    return DATASHEET[known], f"data sheet of {known}, dense bfloat16"


@cache
def _probe(dtype: str, size: int = 1024, seconds: float = 0.3) -> float:
    """TFLOP/s of square matrix products: the fastest of those that fit in `seconds` after a first, untimed one."""
    import torch

    with torch.random.fork_rng(devices=[]):
        left = torch.randn(size, size).to(getattr(torch, dtype))
    left @ left
    best, end = float("inf"), time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        left @ left
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12
