"""Combinations of training parameters that do not work, each with the reason and the nearest that does.

A rule stands here only if a thread, a line of an installed library, or a failing run of our own says so, or arithmetic.
ZeRO-3 with
`modules_to_save` (huggingface/peft#1418) and with gradient checkpointing have none: both work on two CPU processes.
"""

from __future__ import annotations

from typing import Any


def check(parameters: Any) -> None:
    """ValueError with one sentence for the first rule that `parameters` (a `schema.Training`) breaks."""
    own = {"04_sft": _sft_rules, "05_dpo": _dpo_rules, "08_rlhf": _rlhf_rules}.get(parameters.notebook)
    for broken, sentence in _rules(parameters) + (own(parameters) if own else []):
        if broken:
            raise ValueError(sentence)


def _rules(p: Any) -> list[tuple[bool, str]]:
    zero3 = (p.deepspeed or "").startswith("zero3")
    return [
        (
            p.finetuning == "qlora" and zero3,
            f"finetuning: qlora with deepspeed: {p.deepspeed}: every process would load the whole NF4 model all the "
            "same (transformers splits no quantised model), and adapters were saved empty (deepspeedai/DeepSpeed#3620);"
            f" nearest valid: deepspeed: {(p.deepspeed or '').replace('3', '2')}, or finetuning: lora",
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


def _sft_rules(p: Any) -> list[tuple[bool, str]]:
    # Role tags and the end token need a few tokens beside the two turns.
    least = p.max_source_length + p.max_target_length + 16
    return [
        (
            p.max_length < least,
            f"max_length: {p.max_length} is too short for one turn of max_source_length + max_target_length; nearest "
            f"valid: {least}",
        )
    ]


def _dpo_rules(p: Any) -> list[tuple[bool, str]]:
    return [
        (
            p.learning_rate > 1e-5 and not p.allow_high_lr,
            f"learning_rate: {p.learning_rate} is high for DPO and ends in babble (hiyouga/LLaMA-Factory#797); nearest "
            "valid: 1e-5, or say allow_high_lr: true",
        ),
        (
            p.finetuning != "full" and "lm_head" in _listed(p.target_modules),
            "target_modules: lm_head with DPO would never be trained: TRL takes log-probabilities from lm_head.weight "
            "and refuses an adapter on it; nearest valid: modules_to_save: [lm_head]",
        ),
    ]


def _rlhf_rules(p: Any) -> list[tuple[bool, str]]:
    batch = p.rl.per_device_train_batch_size * p.gradient_accumulation_steps
    return [
        (
            p.keep > p.num_samples,
            f"keep: {p.keep} is more than num_samples: {p.num_samples}; nearest valid: {p.num_samples}",
        ),
        (
            p.method != "none" and batch % p.num_generations > 0,
            f"num_generations: {p.num_generations} does not divide the {batch} answers of a step (rl."
            "per_device_train_batch_size x gradient_accumulation_steps); nearest valid: a divisor of it from 2 on",
        ),
    ]


def _listed(modules: str | list[str]) -> list[str]:
    return [modules] if isinstance(modules, str) else modules
