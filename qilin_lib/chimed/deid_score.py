"""How well de-identification finds what it should, on sentences labelled by hand.

Most of the split "tune", short sentences, is invented by the author of the rules, a part by people who had not read
the rules and set out to mislead them. "train" holds 6,302 clinical texts and consultations by eighteen such people,
half of them without anything to find; the model of names learns from both. "natural" (800 texts by four further
hands, asked to write as wards and patients do every day) and "numbers" (300 by one, rich in addresses and numbers) were
scored before anybody read them, twice, around a change for speed. "test", 200 texts of one hand that meant to mislead,
is not trained on; its counts, never its texts, were looked at as the weights were made: nobody may tune on these three.
Identity numbers carry area codes that do not exist, numbers of wards and hospitals are public.

A span covers what identifies and nothing beside it: the number without its cue, the name without its title, the date
of birth without "出生", the bed with "床" where the number stands alone.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from importlib.resources import files
from typing import NamedTuple

from qilin_lib.chimed.deidentify import KINDS, Span, find

ALL = "all"


class Case(NamedTuple):
    """One sentence. `spans` are (start, end, type) in characters, half-open, in order; empty for a hard negative."""

    text: str
    spans: tuple[Span, ...]
    split: str


class Row(NamedTuple):
    """Span-level counts of one type, or of all types together (type = "all").

    `covered` counts labelled spans of which every character is replaced, whatever the type and the borders.
    """

    type: str
    true_positives: int
    false_positives: int
    false_negatives: int
    covered: int

    @property
    def labelled(self) -> int:
        return self.true_positives + self.false_negatives


def labelled_cases(split: str | None = None) -> tuple[Case, ...]:
    """The labelled sentences that come with the package: all, or those of one split."""
    lines = files("qilin_lib.chimed").joinpath("data/deidentification.jsonl").read_text(encoding="utf-8").splitlines()
    cases = [_case(json.loads(line)) for line in lines]
    return tuple(case for case in cases if split in (None, case.split))


def _case(row: dict) -> Case:
    return Case(row["text"], tuple((start, end, kind) for start, end, kind in row["spans"]), row["split"])


def score(cases: Iterable[Case]) -> tuple[Row, ...]:
    """One row for each type, then one for all together.

    A span counts as found when type and borders agree exactly, but for spaces at its ends.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for case in cases:
        found = find(case.text)
        wanted = {_trim(case.text, *span) for span in case.spans}
        given = {_trim(case.text, *span) for span in found}
        gone = {place for start, end, _ in found for place in range(start, end)}
        covered = {span for span in wanted if gone.issuperset(range(*span[:2]))}
        sets = (wanted & given, given - wanted, wanted - given, covered)
        for column, spans in zip(Row._fields[1:], sets, strict=True):
            counts.update((column, kind) for *_, kind in spans)
            counts[column, ALL] += len(spans)
    return tuple(Row(kind, *(counts[column, kind] for column in Row._fields[1:])) for kind in (*KINDS, ALL))


def _trim(text: str, start: int, end: int, kind: str) -> Span:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip()), kind
