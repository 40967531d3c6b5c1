"""Attitude scales as data: one YAML file a scale, read strictly.

data/scales/example.yaml shows and explains every key. The wording of a published scale belongs to its authors: such a
file stays with whoever may use it, and a profile names its path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import sha256_text
from qilin_lib.params import ROOT, read_yaml

FOLDER = Path(__file__).resolve().parent / "data" / "scales"
TEXTS = ("name", "title", "citation", "licence", "language", "instruction", "high_total", "low_total")
KEYS = (*TEXTS, "options", "reversed", "items")
ITEM_KEYS = ("number", "text", "subscale", "paraphrases")
PLACEHOLDERS = ("{options}", "{item}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Statement:
    """One item of a scale. `wordings`: the original, then its paraphrases; `reversed`: points count from the end."""

    number: int
    wordings: tuple[str, ...]
    subscale: str | None
    reversed: bool


@dataclass(frozen=True)
class Scale:
    """One scale. Content n of `options` (1, 2, …) is n points, or counted from the end where an item is reversed."""

    name: str
    title: str
    citation: str
    licence: str
    language: str
    instruction: str
    high_total: str
    low_total: str
    options: tuple[str, ...]
    items: tuple[Statement, ...]
    sha256: str
    """Of the file: records of another version are not taken for this one's."""

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest total possible."""
        return len(self.items), len(self.items) * len(self.options)

    @property
    def midpoint(self) -> float:
        """The total half-way: what neutral answers give, and answers that cancel out."""
        return sum(self.range) / 2

    def points(self, statement: Statement, content: int) -> int:
        """Points of choosing option `content` (1, 2, …)."""
        return len(self.options) + 1 - content if statement.reversed else content

    def always(self, content: int) -> int:
        """The total of who answers every item with option `content` (1, 2, …)."""
        return sum(self.points(statement, content) for statement in self.items)


def read(name: str) -> Scale:
    """The scale `name` of the kit, or the one in the YAML file at path `name` (relative to the repository).

    Raises QilinError naming file, item and the nearest valid choice: no such scale; what `read_yaml` refuses; a key
    that is unknown, missing or of another kind; fewer than two options; two that read alike; a number twice; a reversed
    number that is no item; an instruction without {options} or {item}.
    """
    path = _path(name)
    content = read_yaml(path)
    _keys(content, KEYS, KEYS, path.name)
    texts = {key: _text(content[key], f"{path.name}: {key}") for key in TEXTS}
    _check_texts(texts, path.name)
    options = _texts(content["options"], f"{path.name}: options")
    if len(options) < 2:
        raise QilinError(f"{path.name}: options are {len(options)}, and a choice needs two at least")
    items = _items(content["items"], path.name)
    turned = _reversed(content["reversed"], [number for number, *_ in items], path.name)
    return Scale(
        **texts,
        options=options,
        items=tuple(Statement(number, words, part, number in turned) for number, words, part in items),
        sha256=sha256_text(path.read_text(encoding="utf-8")),
    )


def _path(name: str) -> Path:
    inside = FOLDER / f"{name}.yaml"
    path = inside if NAME.fullmatch(name) and inside.exists() else ROOT / name
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        raise QilinError(
            f"bias.scales names '{name}'{nearest(name, known)}: no scale of the kit ({', '.join(known)}) and "
            "no path of a YAML file"
        )
    return path


def _keys(content: Any, known: Sequence[str], needed: Sequence[str], where: str) -> None:
    if not isinstance(content, dict):
        raise QilinError(f"{where} is {_kind(content)}, not a mapping with the keys {', '.join(needed)}")
    for key in content:
        if key not in known:
            raise QilinError(f"{where}: unknown key '{key}'{nearest(str(key), known)}; known are {', '.join(known)}")
    for key in needed:
        if key not in content:
            raise QilinError(f"{where} has no '{key}'; needed are {', '.join(needed)}")


def _check_texts(texts: dict[str, str], where: str) -> None:
    if not NAME.fullmatch(texts["name"]):
        near = re.sub(r"[^A-Za-z0-9_-]+", "-", texts["name"]).strip("-_") or "my-scale"
        raise QilinError(f"{where}: name '{texts['name']}' is no file name; nearest valid: '{near}'")
    for placeholder in PLACEHOLDERS:
        found = texts["instruction"].count(placeholder)
        if found != 1:
            raise QilinError(f"{where}: instruction holds {placeholder} {found} times; write it exactly once")


def _items(content: Any, where: str) -> list[tuple[int, tuple[str, ...], str | None]]:
    """(number, wordings, subscale) of each item, in the file's order."""
    if not isinstance(content, list) or not content:
        raise QilinError(f"{where}: items is {_kind(content)}, not a list with one item at least")
    items: list[tuple[int, tuple[str, ...], str | None]] = []
    for place, entry in enumerate(content, start=1):
        number, *rest = _item(entry, f"{where}, item {place} of the list", where)
        if number in [other for other, *_ in items]:
            raise QilinError(f"{where}, item {number}: the number stands there twice; next free: {_free(items)}")
        items.append((number, *rest))
    named = [number for number, _, part in items if part is not None]
    if named and len(named) < len(items):
        bare = next(number for number, _, part in items if part is None)
        raise QilinError(f"{where}, item {bare} has no subscale, but item {named[0]} has; give one to all or to none")
    return items


def _item(entry: Any, place: str, where: str) -> tuple[int, tuple[str, ...], str | None]:
    _keys(entry, ITEM_KEYS, ("number", "text"), place)
    number = entry["number"]
    if type(number) is not int or number < 1:
        raise QilinError(f"{place}: number is {number!r}, not a whole number from 1 on")
    own = f"{where}, item {number}"
    further = _texts(entry.get("paraphrases", []), f"{own}: paraphrases")
    wordings = (_text(entry["text"], f"{own}: text"), *further)
    if len(set(wordings)) < len(wordings):
        raise QilinError(f"{own}: a paraphrase repeats another wording, which would count it twice; leave it out")
    return number, wordings, _text(entry["subscale"], f"{own}: subscale") if "subscale" in entry else None


def _reversed(content: Any, numbers: Sequence[int], where: str) -> set[int]:
    if not isinstance(content, list):
        raise QilinError(f"{where}: reversed is {_kind(content)}, not a list of item numbers ([] for none)")
    for number in content:
        if type(number) is not int or number not in numbers:
            near = min(numbers, key=lambda other: abs(other - number)) if type(number) is int else numbers[0]
            raise QilinError(f"{where}: reversed names {number!r}, which is no item; nearest valid: {near}")
        if content.count(number) > 1:
            raise QilinError(f"{where}: reversed names item {number} twice; keep one")
    return set(content)


def _texts(content: Any, where: str) -> tuple[str, ...]:
    if not isinstance(content, list):
        raise QilinError(f"{where} is {_kind(content)}, not a list of texts")
    texts = tuple(_text(entry, f"{where}, number {n}") for n, entry in enumerate(content, start=1))
    for n, text in enumerate(texts, start=1):
        if text in texts[: n - 1]:
            raise QilinError(f"{where}, number {n}: '{text}' stands there twice; keep one")
    return texts


def _text(content: Any, where: str) -> str:
    """A text without blanks around it; YAML makes no text of bare true, false, 1 or null, so those need quotes."""
    if not isinstance(content, str):
        raise QilinError(f"{where} is {_kind(content)}, not a text; write it in quotes")
    if not content.strip():
        raise QilinError(f"{where} is empty; write a text")
    return content.strip()


def _free(items: Sequence[tuple]) -> int:
    return max(number for number, *_ in items) + 1


def _kind(content: Any) -> str:
    return "nothing" if content is None else f"{content!r:.40} ({type(content).__name__})"
