"""BM25 (Robertson & Zaragoza 2009, idf as in Lucene) over folded letters and pairs of neighbours, on disk.

A Chinese word need not be known to be found: of 3,027 public questions more find their answer by letters and pairs than
by words of jieba (LOG.md). An index is a folder of shards, each complete when its last file is there, so that
a killed build goes on. Frequencies are common to all shards, since they are added up when
a query comes. bm25s gives the same scores, but holds a corpus as Python lists, and parts of it have their own idf.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from qilin_lib import files
from qilin_lib.chimed import decontaminate
from qilin_lib.chimed.letters import END, letters
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.records import Rejection
from qilin_lib.chimed.shards import Texts, write_array, write_texts
from qilin_lib.errors import QilinError
from qilin_lib.retrieval.passages import Document, documents, passages

K1, B = 1.5, 0.75
SHARD_CHARS, LEAK_CHARS = 4_000_000, 500_000
# A key of a term is 42 bits, two letters of 21; the rest of 63 bits numbers the passages of a shard.
_LETTER, _PASSAGE = np.uint64(21), np.uint64(21)


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found: its number in the index, its BM25 score, "file:line" of its corpus, and its text."""

    number: int
    score: float
    origin: str
    text: str


def terms(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(keys, owners, counts) of all letters and pairs of neighbours, sorted by key, then owner; uint64, int64, int64.

    owners: the number of the text. Neighbours are letters with nothing but marks between them.
    """
    codes = letters(texts).codes.astype(np.uint64)
    ends = codes == ord(END)
    owners = (np.cumsum(ends) - ends).astype(np.uint64)
    pairs = ~ends[:-1] & ~ends[1:]
    keys = np.concatenate([codes[~ends], (codes[:-1][pairs] + np.uint64(1)) << _LETTER | codes[1:][pairs]])
    both = np.concatenate([owners[~ends], owners[:-1][pairs]])
    found, counts = np.unique(keys << _PASSAGE | both, return_counts=True)
    return found >> _PASSAGE, (found & np.uint64((1 << 21) - 1)).astype(np.int64), counts


def write_shard(stem: Path, texts: Sequence[str], origins: Sequence[str]) -> int:
    """Write texts, their origins, and the terms with the texts that hold them; returns the number of terms."""
    write_texts(stem, texts)
    write_texts(_origins(stem), origins)
    keys, owners, counts = terms(texts)
    begins = np.flatnonzero(np.diff(keys, prepend=np.uint64(0)))
    write_array(stem.with_suffix(".keys.npy"), keys[begins])
    write_array(stem.with_suffix(".begins.npy"), np.append(begins, len(keys)))
    write_array(stem.with_suffix(".owners.npy"), owners.astype(np.uint32))
    write_array(stem.with_suffix(".counts.npy"), np.minimum(counts, 255).astype(np.uint8))
    sizes = np.bincount(owners, weights=counts, minlength=len(texts))
    write_array(stem.with_suffix(".sizes.npy"), sizes.astype(np.float32))
    return int(counts.sum())


def _origins(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}-origins")


class _Shard:
    def __init__(self, stem: Path) -> None:
        # Plain views of mapped pages: an np.memmap does more work at every slice taken of it.
        parts = [np.asarray(np.load(stem.with_suffix(f".{part}.npy"), mmap_mode="r")) for part in _PARTS]
        self.keys, self.begins, self.owners, self.counts, self.sizes = parts
        self.texts, self.origins = Texts(stem), Texts(_origins(stem))

    def ranges(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the postings of `keys` begin and end; both 0 for one that the shard has not."""
        at = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        there = self.keys[at] == keys
        return self.begins[at] * there, self.begins[at + 1] * there


_PARTS = ("keys", "begins", "owners", "counts", "sizes")


class Index:
    """An index on disk, mapped. `len` is its number of passages."""

    def __init__(self, folder: Path) -> None:
        facts = files.read_json(folder / "index.json")
        self.facts: dict = facts
        shards = [_Shard(folder / name) for name in facts["shards"]]
        # Where every document holds a test item nothing is left to look up.
        self._shards = [shard for shard in shards if len(shard.keys)]
        self._firsts = np.cumsum([0, *(len(shard.sizes) for shard in self._shards)])
        average = facts["terms"] / max(1, len(self))
        self._norms = [(K1 * (1 - B + B * shard.sizes / average)).astype(np.float32) for shard in self._shards]

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def hit(self, number: int, score: float = 0.0) -> Hit:
        """The passage of a number, 0 … len - 1."""
        n = int(np.searchsorted(self._firsts, number, "right")) - 1
        place = number - int(self._firsts[n])
        return Hit(number, score, self._shards[n].origins[place], self._shards[n].texts[place])

    def scores(self, query: str) -> np.ndarray:
        """The BM25 score of every passage, float32 [len]; 0 for one that shares no term."""
        keys, _, counts = terms([query])
        ranges = [shard.ranges(keys) for shard in self._shards]
        frequency = sum(ends - begins for begins, ends in ranges)
        idf = np.log1p((len(self) - frequency + 0.5) / (frequency + 0.5)) * counts
        scores = np.zeros(len(self), dtype=np.float32)
        for shard, norms, first, (begins, ends) in zip(
            self._shards, self._norms, self._firsts[:-1], ranges, strict=True
        ):
            own = scores[first : first + len(norms)]
            for weight, begin, end in zip(idf.astype(np.float32), begins, ends, strict=True):
                owners, count = shard.owners[begin:end], shard.counts[begin:end].astype(np.float32)
                own[owners] += weight * count / (count + norms[owners])
        return scores

    def search(self, query: str, k: int) -> list[Hit]:
        """The `k` passages of the highest scores above 0, of equal ones the first."""
        return [self.hit(number, score) for number, score in best(self.scores(query), k)]


def best(scores: np.ndarray, k: int) -> list[tuple[int, float]]:
    """(number, score) of the `k` highest scores above 0, in order, of equal ones the first."""
    if not len(scores) or k < 1:
        return []
    least = np.partition(scores, -min(k, len(scores)))[-min(k, len(scores))]
    numbers = np.flatnonzero((scores >= least) & (scores > 0))
    order = numbers[np.lexsort((numbers, -scores[numbers]))][:k]
    return [(int(number), float(scores[number])) for number in order]


def build(
    corpus: Path, folder: Path, benchmarks: Path, share: float, workers: int | None = None, show: Callable = print
) -> Index:
    """The index of `corpus` in `folder`, made unless it is there; a killed build goes on with the shards it had.

    benchmarks: stem of a saved `decontaminate.Index`; a document that holds an item of it, where the share of the
    item's 13-grams counts as holding it, gives no passage. QilinError: no such corpus, or one without a passage.
    """
    if (folder / "index.json").exists():
        return Index(folder)
    unread: Counter[str] = Counter()
    with files.naming(folder), Pool(workers) as pool:
        shards = []
        for name in pool.map(_shard, _tasks(corpus, folder, benchmarks, share, unread)):
            shards.append(name)
            show(f"retrieval: {len(shards)} shards of {SHARD_CHARS / 1e6:g} M characters")
    facts = [files.read_json(folder / f"{name}.json") for name in shards]
    left_out = sum((Counter(fact["left_out"]) for fact in facts), unread)
    if not any(fact["passages"] for fact in facts):
        raise QilinError(f"retrieval: corpus: {corpus} gives no passage; left out: {dict(left_out) or 'nothing'}")
    totals = {name: sum(fact[name] for fact in facts) for name in ("passages", "terms")}
    files.write_json(folder / "index.json", {**totals, "left_out": dict(sorted(left_out.items())), "shards": shards})
    return Index(folder)


def _tasks(
    corpus: Path, folder: Path, benchmarks: Path, share: float, unread: Counter[str]
) -> Iterator[tuple[Path, list[Document], Path, float]]:
    held: list[Document] = []
    number = size = 0
    for read in documents(corpus):
        if isinstance(read, Rejection):
            unread[f"not read: {read.reason}"] += 1
            continue
        held.append(read)
        size += len(read.text)
        if size >= SHARD_CHARS:
            yield folder / f"{number:05d}", held, benchmarks, share
            held, number, size = [], number + 1, 0
    if held:
        yield folder / f"{number:05d}", held, benchmarks, share


def _shard(stem: Path, read: list[Document], benchmarks: Path, share: float) -> str:
    """Write the shard of some documents unless it is there; returns its name."""
    facts = stem.with_suffix(".json")
    if not facts.exists():
        left_out: Counter[str] = Counter()
        texts, origins = [], []
        for document, leak in zip(read, _leaks(read, benchmarks, share), strict=True):
            pieces = passages(document.text)
            if leak:
                left_out[f"holds an item of {leak.benchmark}: {leak.how}"] += len(pieces)
            else:
                texts += pieces
                origins += [document.origin] * len(pieces)
        terms_in = write_shard(stem, texts, origins)
        files.write_json(facts, {"passages": len(texts), "terms": terms_in, "left_out": left_out})
    return stem.name


def _leaks(read: Sequence[Document], benchmarks: Path, share: float) -> list[decontaminate.Hit | None]:
    """For each document the benchmark item that it holds, or None; looked up in parts, since memory grows with them."""
    ends = np.cumsum([len(document.text) for document in read]) // LEAK_CHARS
    parts = groupby(zip(ends.tolist(), read, strict=True), itemgetter(0))
    index = _benchmarks(benchmarks)
    return [hit for _, part in parts for hit in index.hits([(document.text,) for _, document in part], share)]


_benchmarks = cache(decontaminate.Index.load)
