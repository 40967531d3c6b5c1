"""Benchmarks out of the training data: what holds an item of one, in any form in which an item gets into texts.

A record is judged by what would be written of it. It holds an item when (`items.RULES`)
  question  the item's question, of five letters or more, stands in it between borders: as a turn, a line, a sentence,
            behind a greeting, before thanks; an exam stem of less than ten letters only with the right answer beside it
  options   all options of an exam item stand in it, in any order and with any marks, amid most of the stem
  cloze     an exam question stands in it with an answer in its blank, or completed by its answer
  13-gram   a share of the question's 13-character grams stands in it
  answer    most of the item's reference answer, thirty letters or more, stands in it under whatever question
all of it in folded letters (letters.py): punctuation, case, width, and simplified or traditional characters aside.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from qilin_lib.chimed.items import GRAM, RULES, Item, Probe, probes
from qilin_lib.chimed.letters import END, HARD, SOFT, Letters, letters
from qilin_lib.chimed.shards import Texts, write_array, write_texts
from qilin_lib.chimed.shingles import gram_hashes_many, gram_set, growing_hashes, window_hashes

# Values of the filter a key: of foreign grams few come through to the binary search.
_SPARSE = 16
# A text between borders is looked up by its first letters, so many at most.
_KEY = GRAM - 1
# An item's options stand within so many times its length.
_REACH = 2
# An answer that seems to be there by so many of its 13-grams is looked for by shorter ones, of which a wrong character
# takes fewer.
_SEEMING = 0.25
# Of each probe: the share of its grams that a record must hold (NaN: that of the build), whether it is an answer.
_SHARE = np.dtype([("share", "<f8"), ("answer", "?")])


class Hit(NamedTuple):
    """A benchmark item held by a record; `how` is one of RULES, `share` that of its grams (1.0: not counted)."""

    benchmark: str
    item: str
    how: str
    share: float


class Index:
    """The probes of all items, and the hashes by which they are proposed, their keys, behind a filter.

    keys: hashes in rising order over the numbers of the probes to which they lead, uint64 [2, keys]. `load` maps them
    from disk, so that worker processes share one copy.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        own = probes([*items])
        # A text between borders is proposed by its first letters, options by those of the longest.
        leads = [max(probe.beside, key=len)[:_KEY] if probe.rule == "options" else probe.text for probe in own]
        hashes, offsets = gram_hashes_many(leads, GRAM)
        owners = np.repeat(np.arange(len(own), dtype=np.uint64), np.diff(offsets))
        # The owners rise already.
        keys = np.stack([hashes, owners])[:, np.argsort(hashes, kind="stable")]
        shares = [(math.nan if probe.share is None else probe.share, probe.rule == "answer") for probe in own]
        keys = keys[:, np.diff(keys, prepend=~keys[:, :1]).any(axis=0)]
        self._set(own.__getitem__, np.array(shares, _SHARE), keys)

    def _set(self, probe: Callable[[int], Probe], shares: np.ndarray, keys: np.ndarray) -> None:
        self._probe, self._shares, self.keys = probe, shares, keys
        self._hashes, self._owners = keys[0], keys[1].view(np.int64)
        self._totals = np.bincount(self._owners, minlength=len(shares))
        bits = (_SPARSE * len(self._hashes) + 1).bit_length()
        self._filter, self._shift = np.zeros(1 << bits, dtype=bool), np.uint64(64 - bits)
        self._filter[self._hashes >> self._shift] = True

    def save(self, stem: Path) -> None:
        """Write the probes (shards.write_texts), <stem>.shares.npy and <stem>.keys.npy."""
        own = map(self._probe, range(len(self._shares)))
        write_texts(stem, [pickle.dumps(tuple(probe)) for probe in own])
        write_array(stem.with_suffix(".shares.npy"), self._shares)
        write_array(stem.with_suffix(".keys.npy"), self.keys)

    @classmethod
    def load(cls, stem: Path) -> Index:
        """The index that `save` wrote under `stem`; probes and keys stay on disk."""
        index = cls.__new__(cls)
        # A plain view of the mapped pages: an np.memmap does more work at every slice taken of it.
        keys = np.asarray(np.load(stem.with_suffix(".keys.npy"), mmap_mode="r"))
        read = Texts(stem).raw
        probe = cache(lambda number: Probe(*pickle.loads(read(number))))  # noqa: S301 - what `save` wrote
        index._set(probe, np.load(stem.with_suffix(".shares.npy")), keys)
        return index

    def hits(self, records: Sequence[Sequence[str]], share: float) -> list[Hit | None]:
        """For each record, given as its texts, the benchmark item that it holds, or None.

        Of several items it is the one of the first rule, then of the largest share, then the first. How records are put
        into batches changes no result; time and memory grow with the batch.
        """
        own = letters([text for texts in records for text in texts])
        ends = np.cumsum([0, *map(len, records)])
        least = np.where(np.isnan(self._shares["share"]), share, self._shares["share"])
        best: dict[int, tuple[int, float, int]] = {}
        for there, number, places in self._proposed(own, ends, least) if len(self._hashes) else ():
            probe = self._probe(number)
            found = there.share(probe, places)
            if found and found >= least[number]:
                whole = probe.rule == "13-gram" and probe.text in there.letters
                rank = (RULES.index("question" if whole else probe.rule), -found, number)
                best[there.number] = min(rank, best.get(there.number, rank))
        hits: list[Hit | None] = [None] * len(records)
        for record, (rule, found, number) in best.items():
            probe = self._probe(number)
            hits[record] = Hit(probe.benchmark, probe.item, RULES[rule], round(-found, 3))
        return hits

    def _proposed(self, own: Letters, ends: np.ndarray, least: np.ndarray) -> Iterator[tuple[_Record, int, list[int]]]:
        """(record, number of a probe that it seems to hold, places of one of its keys); answers without numbers.

        ends: the number of each record's first text, and of all texts, int64 [records + 1].
        """
        answers, found = self._shares["answer"], [self._found(window_hashes(own.codes, GRAM))]
        # What stands between borders, by its length.
        begins = np.flatnonzero(own.borders[:-1])
        for length, hashes in enumerate(growing_hashes(own.codes, begins, _KEY), start=1):
            at = begins[: len(hashes)]
            # A text of so many letters may go on.
            apart = slice(None) if length == _KEY else np.flatnonzero(own.borders[at + length])
            found.append(self._found(hashes[apart], at[apart]))
        yield from self._owned(own, ends, np.concatenate(found, axis=1), np.where(answers, np.inf, least))
        bare = own.without_numbers()
        without = self._found(window_hashes(bare.codes, GRAM))
        yield from self._owned(bare, ends, without, np.where(answers, _SEEMING, np.inf))

    def _owned(
        self, own: Letters, ends: np.ndarray, found: np.ndarray, least: np.ndarray
    ) -> Iterator[tuple[_Record, int, list[int]]]:
        """(record, probe, places of one key) where a record holds the share `least` [probes] of a probe's keys.

        found: (places in `own`, keys there), int64 [2, n].
        """
        at, key = found
        bounds = np.append(0, np.flatnonzero(own.codes == ord(END)) + 1)[ends]
        record = np.searchsorted(bounds, at, "right") - 1
        order = np.lexsort((key, record))
        key, record = key[order], record[order]
        at = at[order] - bounds[record]
        begins = np.flatnonzero(np.diff(record, prepend=-1) | np.diff(key, prepend=-1))
        # One row for every probe of every key of a record: the places key, key + 1, … key + size - 1.
        key, record = key[begins], record[begins]
        size = np.searchsorted(self._hashes, self._hashes[key], "right") - key
        rows = np.arange(size.sum()) + np.repeat(key + size - np.cumsum(size), size)
        held = np.repeat(record, size) * len(least) + self._owners[rows]
        held, first, counts = np.unique(held, return_index=True, return_counts=True)
        record, probe = np.divmod(held, len(least))
        enough = np.flatnonzero(counts / self._totals[probe] >= least[probe])
        which = np.repeat(np.arange(len(size)), size)[first[enough]]
        found = zip(record[enough].tolist(), probe[enough].tolist(), which.tolist(), strict=True)
        whole, places = str(own), at.tolist()
        begins = [*begins.tolist(), len(places)]
        for number, some in groupby(found, itemgetter(0)):
            start, end = bounds[number : number + 2]
            there = _Record(number, whole[start:end], own.borders[start : end + 1].tobytes())
            for _, owner, n in some:
                yield there, owner, places[begins[n] : begins[n + 1]]

    def _found(self, hashes: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
        """The places of those `hashes` that are keys (theirs in the array without `places`), and the first key of each.

        int64 [2, n].
        """
        at = np.flatnonzero(self._filter.take((hashes >> self._shift).view(np.int64)))
        key = np.minimum(np.searchsorted(self._hashes, hashes[at]), len(self._hashes) - 1)
        true = self._hashes[key] == hashes[at]
        at = at[true]
        return np.stack([at if places is None else places[at], key[true]])


class _Record:
    """A record's letters, END behind each of its texts, and the border before each, one byte each."""

    def __init__(self, number: int, letters: str, borders: bytes) -> None:
        self.number, self.letters, self._borders = number, letters, borders
        self._grams: dict[int, frozenset[str]] = {}

    def share(self, probe: Probe, places: Sequence[int]) -> float:
        """The share that the record holds of a probe's grams; 0.0 when it lacks something that must stand beside.

        places: where the first letters of a text between borders, or of the longest option, seem to stand.
        """
        if probe.rule == "options":
            return max(self._amid(probe, at) for at in places)
        if len(probe.text) < GRAM:
            apart = any(self._stands(probe.text, at, HARD, probe.end) for at in places)
            return float(apart and all(map(self._has, probe.beside)))
        if probe.size not in self._grams:
            self._grams[probe.size] = gram_set(self.letters, probe.size)
        sought = gram_set(probe.text, probe.size)
        if not all(part in self.letters for part in probe.beside):
            return 0.0
        return len(sought & self._grams[probe.size]) / len(sought)

    def _stands(self, part: str, at: int, before: int = SOFT, behind: int = SOFT) -> bool:
        """Whether `part` is at a place, between borders at least so hard."""
        apart = self._borders[at] >= before and self._borders[at + len(part)] >= behind
        return apart and self.letters.startswith(part, at)

    def _has(self, part: str, first: int = 0, last: int | None = None) -> bool:
        """Whether `part` stands between borders of whatever kind, somewhere from `first` to `last`."""
        at = self.letters.find(part, first, last)
        while at >= 0 and not self._stands(part, at):
            at = self.letters.find(part, at + 1, last)
        return at >= 0

    def _amid(self, probe: Probe, at: int) -> float:
        """The share of a stem's grams around a place, outside its options; 0.0 when not all of these are there."""
        reach = _REACH * (len(probe.text) + sum(map(len, probe.beside)))
        first, last = max(0, at - reach), at + reach
        around = self.letters[first:last]
        if not all(option in around for option in probe.beside):
            return 0.0
        # Not beyond the text.
        first = max(first, self.letters.rfind(END, first, at) + 1)
        around, stem = self.letters[first:last].partition(END)[0], probe.text
        if not all(self._has(option, first, first + len(around)) for option in probe.beside):
            return 0.0
        # Options of one letter stay.
        for option in sorted((one for one in probe.beside if len(one) > 1), key=len, reverse=True):
            around, stem = around.replace(option, "\n"), stem.replace(option, "\n")
        sought = gram_set(stem, probe.size)
        return sum(gram in around for gram in sought) / len(sought)
