"""The words that tell what a reply says of an option: data/cues.yaml, compiled."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace
from typing import Any

import yaml

# In a pattern: the mention that is judged, and one that must be by letters.
MENTION, LETTERS = "●", "◆"


class Cues:
    """The patterns of one label, each in two halves: what stands before the mention that is judged, and after it."""

    def __init__(self, patterns: list[str], filler: str) -> None:
        self._before, self._after, self._around = [], [], []
        for pattern in patterns:
            first, second = pattern.replace("~", filler).replace(LETTERS, MENTION).split(MENTION)
            halves = re.compile(f"(?:{first})$"), re.compile(second), LETTERS in pattern
            kind = self._around if first and second or LETTERS in pattern else self._before if first else self._after
            kind.append(halves)
        self._first = re.compile("|".join(first.pattern for first, _, _ in self._before) or "(?!)")
        self._second = re.compile("|".join(second.pattern for _, second, _ in self._after) or "(?!)")

    def after(self, text: str) -> bool:
        """Whether what follows a mention says so by itself."""
        return bool(self._second.match(text))

    def say(self, before: str, after: str, letters: bool) -> bool:
        """Whether the words around a mention say so; `letters`: it is one by letters."""
        if self._first.search(before) or self._second.match(after):
            return True
        fitting = (pair for pair in self._around if letters or not pair[2])
        return any(first.search(before) and second.match(after) for first, second, _ in fitting)


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
