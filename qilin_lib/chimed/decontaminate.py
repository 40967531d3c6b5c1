"""Benchmarks out of the training data: equal question stems, and benchmark items that are found inside a record.

The benchmarks are C-Eval (dev, val, test), CMExam (val, test) and Huatuo-26M (test). CMExam's train split is training
data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from qilin_lib.chimed.records import Dialogue, Exam, Payload, Record, questions
from qilin_lib.chimed.shingles import gram_hashes, gram_set, skeleton

GRAM = 13
# A shorter stem ("下列说法正确的是") is shared by unrelated questions; such an item is known by its stem and options
# together.
SHORT_STEM = 10
BENCHMARKS = {"ceval": "ceval", "cmexam": "cmexam", "huatuo26m_test": "huatuo"}
_BITS = 24


@dataclass(frozen=True, slots=True)
class Hit:
    """A benchmark item found in a record.

    how = "stem" (equal questions) or "13-gram" (`share` of its 13-grams found).
    """

    benchmark: str
    item: str
    how: str
    share: float


@dataclass(frozen=True, slots=True)
class Item:
    """A benchmark item: its place, the skeleton compared as a stem, the skeleton whose 13-grams are looked for, and
    `asked`.

    `asked` is the question alone. Where `text` had to borrow the options, a record must also hold `asked`: sibling
    questions share one set of options.
    """

    benchmark: str
    place: str
    stem: str
    text: str
    asked: str


def item_of(record: Record) -> Item | None:
    """The benchmark item of a record that a benchmark's reader yielded; None for a payload that asks nothing."""
    benchmark, place = BENCHMARKS[record.source], f"{record.source}/{record.file}:{record.line}"
    match record.payload:
        case Exam(question, options):
            stem, full = skeleton(question), skeleton(question + "".join(letter + text for letter, text in options))
            # A stem shorter than one gram cannot be looked for inside a text; stem and options can.
            known, searched = (full if len(stem) < limit else stem for limit in (SHORT_STEM, GRAM))
            return Item(benchmark, place, known, searched, stem)
        case Dialogue(turns):
            stem = skeleton(turns[0])
            return Item(benchmark, place, stem, stem, stem)
    return None


class Index:
    """The items of all benchmarks, ready to be looked up: stems in a dict, 13-gram hashes in a sorted array."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = [item for item in items if item.stem]
        self._stems: dict[str, int] = {}
        for number, item in enumerate(self._items):
            self._stems.setdefault(item.stem, number)
        # An item shorter than a gram would match wherever its few characters stand; it can be hit as a stem only.
        searched = [number for number, item in enumerate(self._items) if len(item.text) >= GRAM]
        grams = [np.unique(gram_hashes(self._items[number].text, GRAM)) for number in searched]
        self._totals = np.zeros(len(self._items), dtype=np.int64)
        self._totals[searched] = [len(row) for row in grams]
        owners = np.repeat(np.array(searched, dtype=np.int64), [len(row) for row in grams])
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        self._grams, self._owners = flat[order], owners[order]
        self._seen = np.zeros(1 << _BITS, dtype=bool)
        self._seen[self._grams >> np.uint64(64 - _BITS)] = True

    def __len__(self) -> int:
        return len(self._items)

    def hit(self, payload: Payload, bones: str, share: float) -> Hit | None:
        """The benchmark item that `payload` (skeleton `bones`) holds, the best matching one, or None."""
        for question in questions(payload):
            # A question may carry its options on further lines: its first line alone is compared too.
            for asked in (question, question.partition("\n")[0]):
                if (number := self._stems.get(skeleton(asked))) is not None:
                    return Hit(self._items[number].benchmark, self._items[number].place, "stem", 1.0)
        return self._inside(bones, share)

    def _inside(self, bones: str, share: float) -> Hit | None:
        if len(bones) < GRAM or not len(self._grams):
            return None
        hashes = gram_hashes(bones, GRAM)
        hashes = np.unique(hashes[self._seen[hashes >> np.uint64(64 - _BITS)]])
        low, high = np.searchsorted(self._grams, hashes, "left"), np.searchsorted(self._grams, hashes, "right")
        spans = [self._owners[a:b] for a, b in zip(low, high, strict=True) if b > a]
        if not spans:
            return None
        numbers, found = np.unique(np.concatenate(spans), return_counts=True)
        shares = found / self._totals[numbers]
        likely = numbers[shares >= share]
        if not len(likely):
            return None
        return self._verified(likely[np.argsort(-shares[shares >= share], kind="stable")], bones, share)

    def _verified(self, numbers: np.ndarray, bones: str, share: float) -> Hit | None:
        # Hashes proposed the items, best share first; only true 13-grams decide.
        grams = gram_set(bones, GRAM)
        for number in numbers:
            item = self._items[int(number)]
            wanted = gram_set(item.text, GRAM)
            found = len(wanted & grams) / len(wanted)
            if found >= share and (item.text == item.asked or item.asked in bones):
                return Hit(item.benchmark, item.place, f"{GRAM}-gram", round(found, 3))
        return None
