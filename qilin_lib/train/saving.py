"""What a finished training leaves: adapter/ (LoRA) and model/ (full weights, tokenizer, template)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib.models.adapters import merge
from qilin_lib.models.load import load_tokenizer


def save(trainer: Any, job: SimpleNamespace, weights: Path) -> None:
    """Write adapter/ and model/ below `job.out`; called by every process (ZeRO-3 gathers), written by the first."""
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    if job.parameters.finetuning == "full":
        model.save_pretrained(job.out / "model")
        load_tokenizer(weights).save_pretrained(job.out / "model")
        return
    # DPO's frozen reference is an adapter too, and no part of the result.
    model.save_pretrained(job.out / "adapter", selected_adapters=["default"])
    merge(weights, job.out / "adapter", job.out / "model", job.parameters.finetuning == "qlora", job.parameters.dtype)
