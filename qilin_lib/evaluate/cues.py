"""The words that tell what a reply says of an option: data/cues.yaml, compiled."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import yaml

MENTION = "●"
"""In a pattern: the mention that is judged."""


class Cues:
    """The patterns of one label, each in two halves: what stands before the mention that is judged, and after it."""

    def __init__(self, patterns: list[str], filler: str) -> None:
        halves = [pattern.replace("~", filler).split(MENTION) for pattern in patterns]
        self._before = re.compile("|".join(f"(?:{first})$" for first, second in halves if not second) or "(?!)")
        self._after = re.compile("|".join(second for first, second in halves if not first) or "(?!)")
        self._around = [
            (re.compile(f"(?:{first})$"), re.compile(second)) for first, second in halves if first and second
        ]

    def after(self, text: str) -> bool:
        """Whether what follows a mention says so by itself."""
        return bool(self._after.match(text))

    def say(self, before: str, after: str) -> bool:
        """Whether the words around a mention say so."""
        if self._before.search(before) or self._after.match(after):
            return True
        return any(first.search(before) and second.match(after) for first, second in self._around)


def _compiled(value: Any, filler: str) -> Any:
    if isinstance(value, str):
        return re.compile(value)
    if isinstance(value, list):
        return Cues(value, filler)
    return SimpleNamespace(cue=re.compile(value["cue"]), until=re.compile(rf"[,:]\s*(?:{value['until']})"))


def _load() -> SimpleNamespace:
    text = files("qilin_lib.evaluate").joinpath("data/cues.yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    filler = table.pop("filler")
    return SimpleNamespace(**{name: _compiled(value, filler) for name, value in table.items()})


CUES = _load()
