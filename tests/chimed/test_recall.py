"""Recall on leaks that are made of real items, and false hits by a check that shares nothing with the judgement."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from qilin_lib.chimed import leaks, sources
from qilin_lib.chimed.batches import identified
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import item_of
from qilin_lib.chimed.records import Dialogue, Exam, Payload, Record, strings
from qilin_lib.sample import raw_dir

SHARE = 0.6


def folders() -> list[Path]:
    real = os.environ.get("QILIN_RAW_DIR")
    return [raw_dir(), *([Path(real)] if real else [])]


def units(raw: Path, sets: tuple[str, ...]) -> Iterator[Record]:
    for source in sources.REGISTRY:
        for unit in sources.units(source, raw, sets):
            if isinstance(unit.read, Record):
                yield unit.read


@pytest.mark.slow
@pytest.mark.parametrize("raw", folders(), ids=lambda path: path.parent.name)
def test_leaks_of_every_kind_are_found_in_every_benchmark(raw: Path):
    rows = leaks.recall(raw, SHARE, most=150)
    low = [row for row in rows if row.found < 0.99 * row.made and row.made - row.found > 1]
    assert not low
    assert {row.kind for row in rows} >= leaks.KINDS.keys() - {
        "question composed from a graph",
        "another wording of the question",
    }
    assert sum(row.made for row in rows) > 2000


# --- false hits, by a check that shares nothing with the judgement ----------------------------------------------------


def bare(text: str) -> str:
    text = unicodedata.normalize("NFKC", re.sub(r"&\w+;|<[^>]*>", "", text)).lower()
    return "".join(character for character in text if character.isalnum())


def parts(payload: Payload) -> tuple[str, list[str], str]:
    """(question, options, answer or explanation) of an item, bare."""
    if isinstance(payload, Exam):
        return bare(payload.question), sorted(bare(text) for _, text in payload.options), bare(payload.explanation)
    assert isinstance(payload, Dialogue)
    return bare(payload.turns[0]), [], bare(payload.turns[-1])


class Shared:
    """Whether a text shares a question or a long answer (most of its 13-grams), or an option set, of an item."""

    def __init__(self, payloads: list[Payload]) -> None:
        self.of: dict[tuple[str, str], set[tuple[int, str]]] = defaultdict(set)
        self.sizes: dict[tuple[int, str], int] = {}
        self.short: dict[str, list[str]] = defaultdict(list)
        self.sets: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        for number, payload in enumerate(payloads):
            question, options, answer = parts(payload)
            # Numbers of a list are no part of an answer.
            said = re.sub(r"\d", "", answer)
            for name, text in (("question", question), ("answer", said if len(said) >= 30 else "")):
                grams = {text[at : at + 13] for at in range(len(text) - 12)}
                self.sizes[number, name] = len(grams)
                for gram in grams:
                    self.of[name, gram].add((number, name))
            if 4 < len(question) < 13:
                self.short[question] += options or [""]
            if options and not "".join(options).isascii():
                self.sets[max(options, key=len)].add(tuple(options))

    def __call__(self, text: str) -> bool:
        held: dict[tuple[int, str], int] = defaultdict(int)
        for name, own in (("question", text), ("answer", re.sub(r"\d", "", text))):
            for gram in {own[at : at + 13] for at in range(len(own) - 12)}:
                for key in self.of.get((name, gram), ()):
                    held[key] += 1
        # Four fifths of an answer's 13-grams are the answer less its greeting, or less its end.
        if any(count >= (SHARE if key[1] == "question" else 0.8) * self.sizes[key] for key, count in held.items()):
            return True
        for size in range(5, 13):
            for question in {text[at : at + size] for at in range(len(text) - size + 1)} & self.short.keys():
                # An exam's short stem is a question with one of its options only.
                if any(option in text for option in self.short[question]):
                    return True
        longest = (options for key, sets in self.sets.items() if key in text for options in sets)
        return any(all(option in text for option in options) for options in longest)


@pytest.mark.slow
@pytest.mark.parametrize("raw", folders(), ids=lambda path: path.parent.name)
def test_of_ten_thousand_clean_records_at_most_one_is_lost(raw: Path):
    tests = [*units(raw, ("eval",))]
    index = Index([item for read in tests if (item := item_of(read))])
    shared = Shared([read.payload for read in tests])
    payloads = [read.payload for read in units(raw, sources.TRAINING_SETS)]
    hits = [
        hit
        for at in range(0, len(payloads), 2000)
        for hit in index.hits([identified(payload) for payload in payloads[at : at + 2000]], SHARE)
    ]
    lost = [payload for payload, hit in zip(payloads, hits, strict=True) if hit]
    false = [payload for payload in lost if not shared(bare("".join(strings(payload))))]
    assert len(payloads) > 2000 and len(lost) > 5
    assert len(false) * 10_000 <= len(payloads), [strings(payload) for payload in false]
