"""One benchmark under one protocol, as a value: its items and the way to ask, answer and measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qilin_lib.evaluate.benchmark_files import Unreadable
from qilin_lib.evaluate.items import Item, unusable
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.scores import Table

FIXED, RELEASED = "fixed", "released"


@dataclass(frozen=True)
class Task:
    """One benchmark under one protocol. `prompts(items, backend, shots)`; `answer(items, prompts, backend)` gives each
    record's own part; `statistics(records)`; `likelihood`: choices are scored, by a backend that can."""

    name: str
    protocol: str
    split: str
    cap: int | None
    items: list[Item]
    invalid: list[dict]
    settings: dict[str, Any]
    likelihood: bool
    prompts: Callable[[Sequence[Item], Any, int], list[Prompt]]
    answer: Callable[[Sequence[Item], Sequence[Prompt], Any], list[dict]]
    statistics: Callable[[Sequence[dict]], Table]

    @classmethod
    def unread(cls, name: str, why: Unreadable) -> Task:
        """A benchmark that cannot be read: nothing is asked of it, and `invalid` says why."""
        row = unusable(name, why.file, 0, str(why), "", reason="unreadable benchmark")
        return cls(name, FIXED, "-", None, [], [row], {}, False, lambda *_: [], lambda *_: [], lambda *_: {})
