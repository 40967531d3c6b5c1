"""Benchmarks out of the training data: what holds an item of one, in any form in which an item gets into texts.

A record is judged by what would be written of it. It holds an item when (`RULES`)
  question  the item's question, of five letters or more, stands in it between borders: as a turn, a line, a sentence,
            behind a greeting, before thanks; an exam stem of less than ten letters only with the right answer beside it
  options   all options of an exam item stand in it, in any order and with any marks, amid most of the stem
  cloze     an exam question stands in it with an answer in its blank, or completed by its answer
  13-gram   a share of the question's 13-character grams stands in it
  answer    most of the item's reference answer, thirty letters or more, stands in it under whatever question
all of it in folded letters (letters.py): punctuation, case, width, and simplified or traditional characters aside.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from qilin_lib import files
from qilin_lib.chimed.items import ANSWER_GRAM, GRAM, RULES, Item, Probe, probes
from qilin_lib.chimed.letters import HARD, SOFT, Letters, decoded, letters
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import gram_hashes, gram_hashes_many, gram_set, row_hashes, window_hashes

# Bits of the filter a gram, and the most bits of a hash that choose one: a filter of few grams stays in the cache of a
# core, and with the 2.4 million grams of 60,000 items 2 % of foreign grams come through to the binary search.
_SPARSE, _MOST_BITS = 56, 27


# Texts between borders are looked up by their first letters, so many at most.
_KEY = GRAM - 1
# An option of so many items ("以上都是") leads to none of them, where it has another.
_OFTEN = 20
# An item's options stand within so many times its length, amid so much of the stem, by its bigrams.
_REACH, _MOST = 2, 2 / 3
# An answer that seems to be there by so many of its 13-grams is looked for by shorter ones, of which a wrong character
# takes fewer.
_SEEMING = 0.25


@dataclass(frozen=True, slots=True)
class Hit:
    """A benchmark item held by a record; `how` is one of RULES, `share` that of its grams (1.0: not counted)."""

    benchmark: str
    item: str
    how: str
    share: float


class Index:
    """The probes of all items, ready to be looked up: texts between borders by key, 13-gram hashes in a sorted array.

    Its arrays, for G grams of all probes together: hashes uint64 [G] in rising order, and the probe that each belongs
    to, int32 [G]. `load` maps them from disk, so that worker processes share one copy.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        own = [*items]
        known = probes(own)
        searched = [number for number, probe in enumerate(known) if not _placed(probe)]
        grams = [np.unique(gram_hashes(known[number].text, GRAM)) for number in searched]
        owners = np.repeat(np.array(searched, dtype=np.int32), [len(row) for row in grams])
        flat = np.concatenate([np.empty(0, dtype=np.uint64), *grams])
        order = np.argsort(flat, kind="stable")
        self._set([(item.benchmark, item.place) for item in own], known, flat[order], owners[order])

    def _set(self, places: list[tuple[str, str]], known: list[Probe], grams: np.ndarray, owners: np.ndarray) -> None:
        self._places, self._probes, self._grams, self._owners = places, known, grams, owners
        self._totals = np.bincount(owners, minlength=len(known))

    @cached_property
    def _words(self) -> _Words:
        return _Words(self._probes)

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
        """(record, number of a probe that it holds between borders, the share of its grams)."""
        for record, number, places in self._words.candidates(batch):
            probe = self._probes[number]
            if probe.how == "options":
                found = max(batch.amid(place, probe) for place in places)
                if found >= _MOST:
                    yield record, number, found
            elif any(batch.set_apart(place, probe) for place in places):
                if all(batch.stands(record, part) for part in probe.beside):
                    yield record, number, 1.0

    def _of_grams(self, batch: _Batch, share: float) -> Iterator[tuple[int, int, float]]:
        """(record, number of a probe of which it holds enough grams, the share that it holds)."""
        if not len(self._grams):
            return
        answers = np.array([probe.how == "answer" for probe in self._probes])
        wanted = np.array([share if probe.share is None else probe.share for probe in self._probes])
        yield from self._enough(batch, np.where(answers, np.inf, wanted), GRAM, wanted)
        yield from self._enough(batch.without_numbers(), np.where(answers, _SEEMING, np.inf), ANSWER_GRAM, wanted)

    def _enough(
        self, batch: _Batch, seeming: np.ndarray, size: int, wanted: np.ndarray
    ) -> Iterator[tuple[int, int, float]]:
        for record, numbers in self._likely(batch, seeming):
            # Hashes proposed the probes; only true grams decide.
            grams = frozenset().union(*(gram_set(text, size) for text in batch.texts(record)))
            for number in numbers.tolist():
                probe = self._probes[number]
                sought = gram_set(probe.text, size)
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


def _placed(probe: Probe) -> bool:
    """Whether a probe is looked up between borders."""
    return probe.how == "options" or len(probe.text) < GRAM


class _Words:
    """The texts that must stand between borders, by the hashes of their first letters (their keys, numbered).

    A probe is proposed where one of its texts stands, the rarest and longest, in a record that has the keys of all.
    """

    def __init__(self, known: Sequence[Probe]) -> None:
        texts = {n: _between(probe) for n, probe in enumerate(known) if _placed(probe)}
        often = Counter(text for own in texts.values() for text in own)
        hashes = gram_hashes_many([text[:_KEY] for text in often], _KEY)[0]
        self._keys, number = np.unique(hashes, return_inverse=True)
        of_text = dict(zip(often, number.tolist(), strict=True))
        self._needed = {n: frozenset(map(of_text.__getitem__, own)) for n, own in texts.items()}
        self._begins = np.zeros(0x110000, dtype=bool)
        self._begins[[ord(text[0]) for text in often]] = True
        self._lengths = sorted({min(len(text), _KEY) for text in often})
        self._led: dict[int, list[int]] = {}
        for n, own in texts.items():
            first = max(own, key=lambda text: (often[text] < _OFTEN, len(text))) if len(own) > 1 else own[0]
            self._led.setdefault(of_text[known[n].text if known[n].how != "options" else first], []).append(n)
        self._leads = np.isin(np.arange(len(self._keys)), [*self._led])

    def candidates(self, batch: _Batch) -> Iterator[tuple[int, int, list[int]]]:
        """(record, number of a probe all of whose texts seem to stand in it, the places of the text that leads)."""
        records, keys, places = self._standing(batch)
        records, begins = np.unique(records, return_index=True)
        split = (np.split(row, begins[1:]) for row in (keys, places))
        for record, there, where in zip(records.tolist(), *split, strict=len(records) > 0):
            own = set(there.tolist())
            for key in np.unique(there[self._leads[there]]).tolist():
                numbers = [number for number in self._led[key] if self._needed[number] <= own]
                at = where[slice(*np.searchsorted(there, (key, key + 1)))].tolist() if numbers else []
                yield from ((record, number, at) for number in numbers)

    def _standing(self, batch: _Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The records, keys and places of what seems to stand between borders, ordered so."""
        codes, borders = batch.letters.codes, batch.letters.borders
        begins = np.flatnonzero(borders[:-1])
        begins = begins[self._begins[codes[begins]]]
        found = [np.empty((3, 0), dtype=np.int64)]
        for length in self._lengths:
            at = begins[: np.searchsorted(begins, len(codes) - length, "right")]
            # A text of so many letters may go on.
            at = at if length == _KEY else at[borders[at + length] > 0]
            own = row_hashes(codes[at[:, None] + np.arange(length)])
            key = np.minimum(np.searchsorted(self._keys, own), len(self._keys) - 1)
            records, inside = batch.records_at(at, length)
            found.append(np.stack([records, key, at])[:, (self._keys[key] == own) & inside])
        records, keys, places = np.concatenate(found, axis=1)
        order = np.lexsort((places, keys, records))
        return records[order], keys[order], places[order]


def _without(text: str, options: Sequence[str]) -> str:
    """A text with a mark in place of each option; options of one letter stay."""
    for option in sorted(options, key=len, reverse=True):
        text = text.replace(option, "\n") if len(option) > 1 else text
    return text


def _between(probe: Probe) -> tuple[str, ...]:
    return probe.beside if probe.how == "options" else (probe.text, *probe.beside)


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
        starts = self.letters.starts[self._first[record] : self._first[record + 1]].tolist()
        return any(self._bordered(start, text, part) for start, text in zip(starts, self.texts(record), strict=True))

    def _bordered(self, start: int, text: str, part: str) -> bool:
        """Whether `text`, the letters from place `start` on, has `part` between borders."""
        borders = self.letters.borders
        at = text.find(part)
        while at >= 0 and not (borders[start + at] and borders[start + at + len(part)]):
            at = text.find(part, at + 1)
        return at >= 0

    def set_apart(self, place: int, probe: Probe) -> bool:
        """Whether a short probe's text is at a place, with hard borders; beside its answer it may end at any border."""
        end = place + len(probe.text)
        least = SOFT if probe.how == "question" and probe.beside else HARD
        borders = self.letters.borders
        there = borders[place] == HARD and borders[end] >= least
        return bool(there) and decoded(self.letters.codes[place:end]) == probe.text

    def amid(self, place: int, probe: Probe) -> float:
        """The share of a stem's bigrams around a place, outside its options; 0.0 when not all of these are there."""
        starts = self.letters.starts
        text = np.searchsorted(starts, place, "right") - 1
        reach = _REACH * (len(probe.text) + sum(map(len, probe.beside)))
        first, last = max(starts[text], place - reach), min(starts[text + 1], place + reach)
        around = decoded(self.letters.codes[first:last])
        if not all(self._bordered(first, around, option) for option in probe.beside):
            return 0.0
        around, stem = _without(around, probe.beside), _without(probe.text, probe.beside)
        sought = gram_set(stem, 2)
        return sum(gram in around for gram in sought) / len(sought)

    def records_at(self, at: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
        """The record of each place, and whether `length` letters from there lie in one text."""
        starts = self.letters.starts
        text = np.searchsorted(starts, at, "right") - 1
        return self._of_text[text], at + length <= starts[text + 1]

    def without_numbers(self) -> _Batch:
        """The same batch without the numbers in its texts."""
        return _Batch(self.letters.without_numbers(), np.diff(self._first))


def _bit(numbers: np.ndarray) -> np.ndarray:
    return np.left_shift(np.uint8(1), numbers.astype(np.uint8) & np.uint8(7))
