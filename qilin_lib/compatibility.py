"""Combinations of training parameters that do not work, each with the reason and the nearest that does."""

from __future__ import annotations

from typing import Any


def check(parameters: Any) -> None:
    """ValueError with one sentence for the first rule that `parameters` (a `schema.Training`) breaks."""
    for broken, sentence in _rules(parameters):
        if broken:
            raise ValueError(sentence)


def _rules(p: Any) -> list[tuple[bool, str]]:
    zero3 = (p.deepspeed or "").startswith("zero3")
    return [
        (
            p.finetuning == "qlora" and zero3,
            f"finetuning: qlora with deepspeed: {p.deepspeed} saves empty adapters (deepspeedai/DeepSpeed#3620); "
            "nearest valid: deepspeed: zero2, or finetuning: lora",
        ),
        (
            bool(p.gpus) and p.nproc_per_node not in (None, p.gpus),
            f"nproc_per_node: {p.nproc_per_node} with gpus: {p.gpus}: one process drives one GPU; nearest valid: "
            f"nproc_per_node: {p.gpus}, or null",
        ),
        (
            bool(p.deepspeed) and p.gpus == 0 and p.nproc_per_node is None,
            f"deepspeed: {p.deepspeed} needs gpus >= 1, or nproc_per_node for processes on the CPU, got gpus: 0; "
            "nearest valid: deepspeed: null",
        ),
        (
            p.nodes > 1 and p.gpus == 0 and p.nproc_per_node is None,
            f"nodes: {p.nodes} needs gpus >= 1 on every node, got gpus: 0; nearest valid: nodes: 1",
        ),
    ]
