"""Combinations of training parameters that do not work, each with the reason and the nearest that does.

A rule stands here only if arithmetic, a thread, a line of an installed library, or a failing run of our own says so.
ZeRO-3 has none with `modules_to_save` (huggingface/peft#1418) or gradient checkpointing: both work on two processes,
checkpointing as transformers does it (SFT) and the reentrant way, forced by TRL under peft (DPO; huggingface/trl#2514).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def check(parameters: Any) -> None:
    """ValueError with one sentence for the first rule that `parameters` (a `schema.Trained`) breaks."""
    own = {"04_sft": _sft, "05_dpo": _dpo, "08_rlhf": _rlhf}.get(parameters.notebook)
    for sentence in (*_common(parameters), *(own(parameters) if own else ())):
        raise ValueError(sentence)


def _common(p: Any) -> Iterator[str]:
    deepspeed = p.deepspeed or ""
    processes = bool(p.gpus) or p.nproc_per_node is not None
    if p.finetuning == "qlora" and deepspeed.startswith("zero3"):
        yield (
            f"finetuning: qlora with deepspeed: {deepspeed}: every process would load the whole NF4 model all the "
            "same (transformers splits no quantised model), and adapters were saved empty (deepspeedai/DeepSpeed#3620);"
            f" nearest valid: deepspeed: {deepspeed.replace('3', '2')}, or finetuning: lora"
        )
    if p.gpus and p.nproc_per_node not in (None, p.gpus):
        yield (
            f"nproc_per_node: {p.nproc_per_node} with gpus: {p.gpus}: one process drives one GPU; nearest valid: "
            f"nproc_per_node: {p.gpus}, or null"
        )
    if deepspeed and not processes:
        yield (
            f"deepspeed: {deepspeed} needs gpus >= 1, or nproc_per_node for processes on the CPU, got gpus: 0; "
            "nearest valid: deepspeed: null"
        )
    if p.nodes > 1 and not processes:
        yield f"nodes: {p.nodes} needs gpus >= 1 on every node, got gpus: 0; nearest valid: nodes: 1"


def _sft(p: Any) -> Iterator[str]:
    # Role tags and the end token need a few tokens beside the two turns.
    least = p.max_source_length + p.max_target_length + 16
    if p.max_length < least:
        yield (
            f"max_length: {p.max_length} is too short for one turn of max_source_length + max_target_length; nearest "
            f"valid: {least}"
        )


def _dpo(p: Any) -> Iterator[str]:
    if p.method != "dpo":
        for name, plain in (("label_smoothing", "0.0"), ("rpo_alpha", "null"), ("precompute_ref_log_probs", "false")):
            if value := getattr(p, name):
                yield f"{name}: {value} with method: {p.method}: only dpo has it; nearest valid: {name}: {plain}"
    modules = [p.target_modules] if isinstance(p.target_modules, str) else p.target_modules
    if p.learning_rate > 1e-5 and not p.allow_high_lr:
        yield (
            f"learning_rate: {p.learning_rate} is high for DPO and ends in babble (hiyouga/LLaMA-Factory#797); nearest "
            "valid: 1e-5, or say allow_high_lr: true"
        )
    if (
        p.finetuning == "lora"
        and (p.deepspeed or "").startswith("zero3")
        and not (p.precompute_ref_log_probs or p.method == "orpo")
    ):
        yield (
            f"deepspeed: {p.deepspeed} with a live reference: DeepSpeed expects one pass through the layers in a step, "
            "and there are two, adapter on and off ('pop from an empty deque' on two processes); nearest valid: "
            f"precompute_ref_log_probs: true, or deepspeed: {p.deepspeed.replace('3', '2')}"
        )
    if p.finetuning != "full" and "lm_head" in modules and p.method != "orpo":
        yield (
            "target_modules: lm_head with DPO would never be trained: TRL takes log-probabilities from lm_head.weight "
            "and refuses an adapter on it; nearest valid: modules_to_save: [lm_head]"
        )


def _rlhf(p: Any) -> Iterator[str]:
    batch = p.rl.per_device_train_batch_size * p.gradient_accumulation_steps
    if p.keep > p.num_samples:
        yield f"keep: {p.keep} is more than num_samples: {p.num_samples}; nearest valid: {p.num_samples}"
    if p.method != "none" and batch % p.num_generations:
        yield (
            f"num_generations: {p.num_generations} does not divide the {batch} answers of a step (rl."
            "per_device_train_batch_size x gradient_accumulation_steps); nearest valid: a divisor of it from 2 on"
        )
