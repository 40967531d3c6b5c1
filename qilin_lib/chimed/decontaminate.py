"""Benchmarks out of the training data: what holds an item of one, in any form in which an item gets into texts.

A record is judged by what would be written of it. It holds an item when (`RULES`)
  question  the item's question stands in it between borders, short as it may be: as a turn, a line, a sentence, behind
            a greeting, before thanks. An exam stem of less than ten letters counts with the right answer beside it only
  options   a short exam stem and all its options stand in it, in any order and with any marks
  cloze     an exam question stands in it with an answer in its blank
  13-gram   a share of the question's 13-character grams stands in it
  answer    the item's reference answer, thirty letters or more, stands in it under whatever question
all of it in folded letters (letters.py): punctuation, case, width, and simplified or traditional characters aside.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qilin_lib import files
from qilin_lib.chimed.items import GRAM, RULES, Item, Probe, probes
from qilin_lib.chimed.letters import HARD, Letters, decoded, letters
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import gram_hashes, gram_set, row_hashes, window_hashes

# Bits of the filter a gram, and the most bits of a hash that choose one: a filter of few grams stays in the cache of a
# core, and with the 2.4 million grams of 60,000 items 2 % of foreign grams come through to the binary search.
_SPARSE, _MOST_BITS = 56, 27


@dataclass(frozen=True, slots=True)
class Hit:
    """A benchmark item held by a record; `how` is one of RULES, `share` that of its 13-grams (1.0: not counted)."""

    benchmark: str
    item: str
    how: str
    share: float


class Index:
    """The probes of all items, ready to be looked up: short texts by length, 13-gram hashes in a sorted array.

    Its arrays, for G grams of all probes together: hashes uint64 [G] in rising order, and the probe that each belongs
    to, int32 [G]. `load` maps them from disk, so that worker processes share one copy.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        own = [*items]
        known = probes(own)
        searched = [number for number, probe in enumerate(known) if len(probe.text) >= GRAM]
        grams = [np.unique(gram_hashes(known[number].text, GRAM)) for number in searched]
        owners = np.repeat(np.array(searched, dtype=np.int32), [len(row) for row in grams])
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        self._set([(item.benchmark, item.place) for item in own], known, flat[order], owners[order])

    def _set(self, places: list[tuple[str, str]], known: list[Probe], grams: np.ndarray, owners: np.ndarray) -> None:
        self._places, self._probes, self._grams, self._owners = places, known, grams, owners
        self._totals = np.bincount(owners, minlength=len(known))
        self._short: dict[str, list[int]] = {}
        for number, probe in enumerate(known):
            if len(probe.text) < GRAM:
                self._short.setdefault(probe.text, []).append(number)

    @cached_property
    def _short_hashes(self) -> dict[int, np.ndarray]:
        """{length: the sorted hashes of the short texts of that length}."""
        by_length: dict[int, list[np.ndarray]] = {}
        for text in self._short:
            by_length.setdefault(len(text), []).append(gram_hashes(text, len(text)))
        return {length: np.unique(np.concatenate(by_length[length])) for length in sorted(by_length)}

    @cached_property
    def _begins(self) -> np.ndarray:
        """Whether a short text begins with a code point, bool [0x110000]."""
        begins = np.zeros(0x110000, dtype=bool)
        begins[[ord(text[0]) for text in self._short]] = True
        return begins

    @cached_property
    def _filter(self) -> tuple[np.ndarray, np.uint64]:
        """A bit for each value of the hashes' first bits, packed, and by how much a hash is shifted to be one."""
        bits = min(_MOST_BITS, max(10, (_SPARSE * len(self._grams)).bit_length()))
        shift = np.uint64(64 - bits)
        packed = np.zeros(1 << (bits - 3), dtype=np.uint8)
        at = self._grams >> shift
        np.bitwise_or.at(packed, at >> np.uint64(3), _bit(at))
        return packed, shift

    def __len__(self) -> int:
        return len(self._places)

    def save(self, stem: Path) -> None:
        """Write <stem>.probes.jsonl, <stem>.places.json, <stem>.grams.npy and <stem>.owners.npy."""
        for part, values in (("grams", self._grams), ("owners", self._owners)):
            write_array(stem.with_suffix(f".{part}.npy"), values)
        files.write_json(stem.with_suffix(".places.json"), self._places)
        rows = ({name: getattr(probe, name) for name in Probe.__slots__} for probe in self._probes)
        files.write_jsonl(stem.with_suffix(".probes.jsonl"), rows)

    @classmethod
    def load(cls, stem: Path) -> Index:
        """The index that `save` wrote under `stem`; its arrays stay on disk. QilinError: nothing was saved there."""
        index = cls.__new__(cls)
        rows = files.read_jsonl(stem.with_suffix(".probes.jsonl"))
        known = [Probe(**row | {"beside": tuple(row["beside"])}) for row in rows]
        arrays = [np.load(stem.with_suffix(f".{part}.npy"), mmap_mode="r") for part in ("grams", "owners")]
        # Plain views of the mapped pages: an np.memmap does more work at every slice taken of it.
        index._set(files.read_json(stem.with_suffix(".places.json")), known, *map(np.asarray, arrays))
        return index

    def hits(self, records: Sequence[Sequence[str]], share: float) -> list[Hit | None]:
        """For each record, given as its texts, the benchmark item that it holds, or None.

        Of several items it is the one of the first rule, then of the largest share, then the first. How records are put
        into batches changes no result; time and memory grow with the batch.
        """
        batch = _Batch(letters([text for texts in records for text in texts]), np.array([*map(len, records)], np.int64))
        best: dict[int, tuple[int, float, int, Hit]] = {}
        for record, number, found in (*self._between_borders(batch), *self._of_grams(batch, share)):
            probe = self._probes[number]
            how = "question" if probe.how == "13-gram" and batch.holds(record, probe.text) else probe.how
            rank = (RULES.index(how), -found, probe.item)
            if record not in best or rank < best[record][:3]:
                best[record] = (*rank, Hit(*self._places[probe.item], how, round(found, 3)))
        return [best[record][3] if record in best else None for record in range(len(records))]

    def _between_borders(self, batch: _Batch) -> Iterator[tuple[int, int, float]]:
        """(record, number of a short probe that it holds, 1.0)."""
        for at, length in batch.places_of(self._short_hashes, self._begins):
            text = decoded(batch.letters.codes[at : at + length])
            record = batch.record_at(at, length)
            for number in self._short.get(text, ()) if record is not None else ():
                probe = self._probes[number]
                hard = batch.letters.borders[at] == batch.letters.borders[at + length] == HARD
                beside = (batch.stands(record, part) for part in probe.beside)
                if (hard or probe.how == "options") and all(beside):
                    yield record, number, 1.0

    def _of_grams(self, batch: _Batch, share: float) -> Iterator[tuple[int, int, float]]:
        """(record, number of a probe of which it holds enough grams, the share that it holds)."""
        if not len(self._grams):
            return
        wanted = np.array([share if probe.share is None else probe.share for probe in self._probes])
        for record, numbers in self._likely(batch, wanted):
            # Hashes proposed the probes; only true 13-grams decide.
            grams = frozenset().union(*(gram_set(text, GRAM) for text in batch.texts(record)))
            for number in numbers.tolist():
                probe = self._probes[number]
                sought = gram_set(probe.text, GRAM)
                found = len(sought & grams) / len(sought)
                if found >= wanted[number] and all(batch.holds(record, part) for part in probe.beside):
                    yield record, number, found

    def _likely(self, batch: _Batch, wanted: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """(record, numbers of the probes of which it seems to hold enough), by hashes alone."""
        records, first = self._shared_grams(batch)
        size = np.searchsorted(self._grams, self._grams[first], "right") - first
        # One row for every owner of every shared gram: the places first, first + 1, ... first + size - 1.
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        owners = self._owners[np.repeat(first, size) + within]
        pairs, counts = np.unique(np.repeat(records, size) * len(self._probes) + owners, return_counts=True)
        of_record, probe = np.divmod(pairs, len(self._probes))
        enough = np.flatnonzero(counts / self._totals[probe] >= wanted[probe])
        records, begins = np.unique(of_record[enough], return_index=True)
        yield from zip(records.tolist(), np.split(probe[enough], begins[1:]), strict=len(records) > 0)

    def _shared_grams(self, batch: _Batch) -> tuple[np.ndarray, np.ndarray]:
        """The distinct (record, gram) pairs whose gram some probe has; a gram is its first place in `_grams`."""
        hashes = window_hashes(batch.letters.codes, GRAM)
        packed, shift = self._filter
        bits = hashes >> shift
        at = np.flatnonzero(packed[bits >> np.uint64(3)])
        at = at[packed[bits[at] >> np.uint64(3)] & _bit(bits[at]) != 0]
        first = np.searchsorted(self._grams, hashes[at], "left")
        # Past the last gram stands the last one, which differs from the hash that was looked for.
        true = self._grams[np.minimum(first, len(self._grams) - 1)] == hashes[at]
        records, inside = batch.records_at(at, GRAM)
        pairs = (records * len(self._grams) + first)[true & inside]
        return np.divmod(np.unique(pairs), len(self._grams))


class _Batch:
    """The letters of a batch, and which of them are whose. `counts` [records]: the texts of each."""

    def __init__(self, own: Letters, counts: np.ndarray) -> None:
        self.letters = own
        self._first = np.concatenate([[0], np.cumsum(counts)])
        self._of_text = np.repeat(np.arange(len(counts)), counts)
        self._texts: dict[int, list[str]] = {}

    def texts(self, record: int) -> list[str]:
        """The letters of a record's texts."""
        if record not in self._texts:
            numbers = range(self._first[record], self._first[record + 1])
            self._texts[record] = [self.letters.text(number) for number in numbers]
        return self._texts[record]

    def holds(self, record: int, part: str) -> bool:
        """Whether a text of the record has these letters, anywhere."""
        return any(part in text for text in self.texts(record))

    def stands(self, record: int, part: str) -> bool:
        """Whether a text of the record has these letters between borders of whatever kind."""
        borders = self.letters.borders
        starts = self.letters.starts[self._first[record] : self._first[record + 1]].tolist()
        for start, text in zip(starts, self.texts(record), strict=True):
            at = text.find(part)
            while at >= 0:
                if borders[start + at] and borders[start + at + len(part)]:
                    return True
                at = text.find(part, at + 1)
        return False

    def places_of(self, hashes: dict[int, np.ndarray], likely: np.ndarray) -> Iterator[tuple[int, int]]:
        """(place, length) of what, between borders, seems to be one of the texts of {length: sorted hashes}.

        `likely` [code points]: with which letters they begin.
        """
        codes, borders = self.letters.codes, self.letters.borders
        begins = np.flatnonzero(borders[:-1])
        begins = begins[likely[codes[begins]]]
        for length, known in hashes.items():
            at = begins[: np.searchsorted(begins, len(codes) - length, "right")]
            at = at[borders[at + length] > 0]
            own = row_hashes(codes[at[:, None] + np.arange(length)])
            first = np.minimum(np.searchsorted(known, own), len(known) - 1)
            for place in at[known[first] == own].tolist():
                yield place, length

    def records_at(self, at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The record of each place, and whether `length` letters from there lie in one text."""
        starts = self.letters.starts
        text = np.searchsorted(starts, at, "right") - 1
        return self._of_text[text], at + length <= starts[text + 1]

    def record_at(self, at: int, length: int) -> int | None:
        """The record that has the `length` letters at a place in one text."""
        records, inside = self.records_at(np.array([at]), length)
        return int(records[0]) if inside[0] else None


def _bit(numbers: np.ndarray) -> np.ndarray:
    return np.left_shift(np.uint8(1), numbers.astype(np.uint8) & np.uint8(7))
