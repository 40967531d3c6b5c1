"""Benchmarks out of the training data: equal question stems, and benchmark items that are found inside a record.

The benchmarks are C-Eval, CMExam, Huatuo-26M, CMMLU, MedQA (mainland China) and CMtMedQA's test file: of each what its
source feeds to the set "eval". CMExam's train split is training data.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from qilin_lib import files
from qilin_lib.chimed.records import Dialogue, Exam, Payload, Record, questions
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import gram_hashes, gram_hashes_many, gram_set, skeleton

GRAM = 13
# A shorter stem ("下列说法正确的是") is shared by unrelated questions; such an item is known by its stem and options
# together.
SHORT_STEM = 10
BENCHMARKS = {
    "ceval": "ceval",
    "cmexam": "cmexam",
    "huatuo26m_test": "huatuo",
    "cmmlu": "cmmlu",
    "medqa": "medqa",
    "cmtmedqa": "cmtmedqa",
}
# The filter has 2**24 bytes, one bit for each value of a hash's first 27 bits: with the 2.4 million grams of 60,000
# items it lets 2 % of foreign grams through to the binary search.
_BYTE = np.uint64(64 - 24)
_BIT = np.uint64(64 - 27)


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
            # Many dialogues begin alike ("医生您好"): one of several turns, or short, is known by all that is said.
            if len(turns) > 2 or benchmark == "cmtmedqa" and len(stem) < SHORT_STEM:
                stem = skeleton("".join(turns))
            return Item(benchmark, place, stem, stem, stem)
    return None


class Index:
    """The items of all benchmarks, ready to be looked up: stems in a dict, 13-gram hashes in a sorted array.

    Its arrays, for G grams of all items together: hashes uint64 [G] in rising order, and the item that each belongs to,
    int32 [G]. `load` maps them from disk, so that worker processes share one copy.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        own = [item for item in items if item.stem]
        # An item shorter than a gram would match wherever its few characters stand; it can be hit as a stem only.
        searched = [number for number, item in enumerate(own) if len(item.text) >= GRAM]
        grams = [np.unique(gram_hashes(own[number].text, GRAM)) for number in searched]
        owners = np.repeat(np.array(searched, dtype=np.int32), [len(row) for row in grams])
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        self._set(own, flat[order], owners[order], _filter(flat[order]))

    def _set(self, items: list[Item], grams: np.ndarray, owners: np.ndarray, known: np.ndarray) -> None:
        self._items, self._grams, self._owners, self._known = items, grams, owners, known
        self._totals = np.bincount(owners, minlength=len(items))
        self._stems: dict[str, int] = {}
        for number, item in enumerate(items):
            self._stems.setdefault(item.stem, number)

    def __len__(self) -> int:
        return len(self._items)

    def save(self, stem: Path) -> None:
        """Write <stem>.items.jsonl, <stem>.grams.npy, <stem>.owners.npy and <stem>.filter.npy."""
        for part, values in (("grams", self._grams), ("owners", self._owners), ("filter", self._known)):
            write_array(stem.with_suffix(f".{part}.npy"), values)
        files.write_jsonl(stem.with_suffix(".items.jsonl"), map(asdict, self._items))

    @classmethod
    def load(cls, stem: Path) -> Index:
        """The index that `save` wrote under `stem`; its arrays stay on disk. QilinError: nothing was saved there."""
        index = cls.__new__(cls)
        items = [Item(**row) for row in files.read_jsonl(stem.with_suffix(".items.jsonl"))]
        arrays = [np.load(stem.with_suffix(f".{part}.npy"), mmap_mode="r") for part in ("grams", "owners", "filter")]
        # Plain views of the mapped pages: an np.memmap does more work at every slice taken of it.
        index._set(items, *map(np.asarray, arrays))
        return index

    def hits(self, payloads: Sequence[Payload], bones: Sequence[str], share: float) -> list[Hit | None]:
        """For each payload (its skeleton in `bones`) the benchmark item that it holds, the best matching one, or None.

        An item is held when the payload asks its question (`Item.stem`), or when its text has at least `share` of the
        distinct 13-grams of `Item.text` (and all of `Item.asked`, where `Item.text` is more than that). How records
        are put into batches changes no result; memory grows with the batch.
        """
        found = [self._asked(payload) for payload in payloads]
        # What is settled, or shorter than a gram, need not be searched.
        rest = [own if hit is None and len(own) >= GRAM else "" for own, hit in zip(bones, found, strict=True)]
        for place, numbers in self._likely(rest, share) if len(self._grams) else ():
            found[place] = self._verified(numbers, rest[place], share)
        return found

    def _asked(self, payload: Payload) -> Hit | None:
        for question in questions(payload):
            # A question may carry its options on further lines: its first line alone is compared too.
            for asked in (question, question.partition("\n")[0]) if "\n" in question else (question,):
                if (number := self._stems.get(skeleton(asked))) is not None:
                    return Hit(self._items[number].benchmark, self._items[number].place, "stem", 1.0)
        return None

    def _likely(self, bones: Sequence[str], share: float) -> Iterator[tuple[int, np.ndarray]]:
        """(place in `bones`, numbers of the items of which it seems to hold `share`, best first), by hashes alone."""
        texts, first = self._shared_grams(bones)
        size = np.searchsorted(self._grams, self._grams[first], "right") - first
        # One row for every owner of every shared gram: the places first, first + 1, ... first + size - 1.
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        owners = self._owners[np.repeat(first, size) + within]
        pairs, counts = np.unique(np.repeat(texts, size) * len(self) + owners, return_counts=True)
        shares = counts / self._totals[pairs % len(self)]
        pairs, shares = pairs[shares >= share], shares[shares >= share]
        for text in np.unique(pairs // len(self)).tolist():
            here = slice(*np.searchsorted(pairs, [text * len(self), (text + 1) * len(self)]))
            # Rising item numbers: a stable sort leaves items of equal share in the order of the benchmarks.
            yield text, pairs[here][np.argsort(-shares[here], kind="stable")] % len(self)

    def _shared_grams(self, bones: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The distinct (text, gram) pairs whose gram some item has; a gram is its first place in `_grams`."""
        hashes, offsets = gram_hashes_many(bones, GRAM)
        at = np.flatnonzero(self._known[hashes >> _BYTE])
        at = at[self._known[hashes[at] >> _BYTE] & _bit(hashes[at]) != 0]
        first = np.searchsorted(self._grams, hashes[at], "left")
        # Past the last gram stands the last one, which differs from the hash that was looked for.
        true = self._grams[np.minimum(first, len(self._grams) - 1)] == hashes[at]
        at, first = at[true], first[true]
        texts = np.searchsorted(offsets, at, "right") - 1
        return np.divmod(np.unique(texts * len(self._grams) + first), len(self._grams))

    def _verified(self, numbers: np.ndarray, bones: str, share: float) -> Hit | None:
        # Hashes proposed the items, best share first; only true 13-grams decide.
        grams = gram_set(bones, GRAM)
        for number in numbers.tolist():
            item = self._items[number]
            wanted = gram_set(item.text, GRAM)
            found = len(wanted & grams) / len(wanted)
            if found >= share and (item.text == item.asked or item.asked in bones):
                return Hit(item.benchmark, item.place, f"{GRAM}-gram", round(found, 3))
        return None


def _bit(hashes: np.ndarray) -> np.ndarray:
    return np.left_shift(np.uint8(1), (hashes >> _BIT).astype(np.uint8) & np.uint8(7))


def _filter(grams: np.ndarray) -> np.ndarray:
    known = np.zeros(1 << 24, dtype=np.uint8)
    np.bitwise_or.at(known, grams >> _BYTE, _bit(grams))
    return known
