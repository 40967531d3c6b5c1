"""Exact repeated substrings over a whole corpus (ExactSubstr of Lee et al. 2022, arXiv 2107.06499) in bounded memory.

A window is `length` consecutive characters (Unicode code points) of one text. It is repeated when the same characters
stand earlier: in an earlier text, or further left in the same one, overlapping allowed. A text's repeated spans are the
union of its repeated windows. So the first occurrence always stays, and what is cut still exists. (The code released
with the paper, a suffix array over bytes, marks every copy, the first included.)

A suffix array of 3 GB of text takes 24 GB. Here every window has a rolling 64-bit hash, and windows of equal hash are
brought together for one range of hashes after the other, so that few are in memory: a task reads the whole corpus and
sorts what lies in its range. All that is found is compared character by character. Two different windows share a hash
with a probability of 2**-64, some two of n windows with about n**2 / 2**65 (n = 10**9: 0.03): then all is done again
with other hashes. So the result is exact, and the same with any number of workers. On disk are the repetitions alone,
24 bytes each at most. Time is that of 3 + characters / RANGE readings of the corpus, some 15 ns a character each.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts
from qilin_lib.errors import QilinError

# Windows compared at once (28 bytes each), and characters hashed at once, few enough for the cache of a core; 2**16 at
# most.
RANGE, CHUNK = 3 << 24, 1 << 15
_ATTEMPTS = 4
# `count` windows from place `at` of the corpus, whose characters stand at place `source`, too.
_RUN = np.dtype([("at", "<i8"), ("source", "<i8"), ("count", "<i8")])

Say = Callable[[str], None]


def repeated_spans(
    stems: Sequence[Path], length: int, work: Path, pool: Pool, progress: Say
) -> Iterator[list[list[tuple[int, int]]]]:
    """For each shard, in order, the repeated spans of each of its texts: merged half-open character ranges.

    `stems`: shards written by shards.write_texts, in corpus order; `length`: characters of a window. `work` is a folder
    for this alone: emptied first, and without a file once all spans are read. Memory of a worker: 28 bytes for each of
    RANGE windows, 24 for each run of repeated ones in a shard, and some 20 for each character of a shard.
    QilinError: `length` below 2.
    """
    if length < 2:
        raise QilinError(f"length of repeated substrings: {length}; the least is 2 characters, 50 to 100 are usual")
    _opened.cache_clear()
    for seed in range(_ATTEMPTS):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        if _search(stems, length, work, pool, progress, seed):
            return _read(work, len(stems))
        progress("repeated substrings: two different strings have one hash; once more with other hashes")
    raise QilinError(f"length of repeated substrings: {length}; the hashes of this corpus collide; try another length")


def _read(work: Path, shards: int) -> Iterator[list[list[tuple[int, int]]]]:
    for shard in range(shards):
        spans: list[list[tuple[int, int]]] = [[] for _ in np.load(work / f"{shard}.starts.npy")[1:]]
        for text, begin, end in np.load(work / f"{shard}.spans.npy").tolist():
            spans[text].append((begin, end))
        for kind in ("starts", "spans"):
            (work / f"{shard}.{kind}.npy").unlink()
        yield spans


_LINE = re.compile(r"([^\n]*)\n?")
# A sentence with what closes it, or the rest of a line.
_SENTENCE = re.compile(r"[^。！？!?]*[。！？!?]+[”’」』）)》]*|[^。！？!?]+")


def whole_sentences(text: str, spans: Sequence[tuple[int, int]], heading: int = 0) -> list[tuple[int, int]]:
    """What may be cut out of `text`: the sentences that lie in `spans` whole, a line with its end when all of it does.

    Nothing of the first `heading` characters. Spans are half-open, ascending and disjoint, as those returned.
    """
    found: list[list[int]] = []
    open_spans = iter(spans)
    begin, end = next(open_spans, (len(text), len(text)))
    for line in _LINE.finditer(text, heading):
        sentences, gone = 0, []
        for sentence in _SENTENCE.finditer(text, *line.span(1)):
            while end < sentence.end() and end < len(text):
                begin, end = next(open_spans, (len(text), len(text)))
            sentences += 1
            if begin <= sentence.start():
                gone.append(sentence.span())
        for start, stop in [line.span()] if gone and len(gone) == sentences else gone:
            if found and found[-1][1] == start:
                found[-1][1] = stop
            else:
                found.append([start, stop])
    if found and found[-1][1] == len(text) and found[-1][0] > heading and text[found[-1][0] - 1] == "\n":
        found[-1][0] -= 1  # No line stands below the end of the line before any more.
        if len(found) > 1 and found[-2][1] == found[-1][0]:
            found[-2:] = [[found[-2][0], found[-1][1]]]
    return [(start, stop) for start, stop in found]


def cut(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """`text` without the characters of `spans` (half-open, ascending, disjoint)."""
    kept, last = [], 0
    for begin, end in spans:
        kept.append(text[last:begin])
        last = end
    return "".join([*kept, text[last:]])


def _search(stems: Sequence[Path], length: int, work: Path, pool: Pool, progress: Say, seed: int) -> bool:
    """Write the spans of every shard to <work>/<shard>.spans.npy; False when a hash was wrong."""
    sizes = [*pool.map(_measure, ((stem, work / f"{shard}") for shard, stem in enumerate(stems)))]
    bases = np.cumsum([0, *sizes], dtype=np.int64)
    ranges = 1 + int(bases[-1]) // RANGE
    progress(f"repeated substrings: {bases[-1] / 1e6:,.0f} M characters, {ranges} ranges of hashes")
    for _ in pool.map(_compare, ((stems, work, bases, length, number, ranges, seed) for number in range(ranges))):
        pass
    progress("repeated substrings: comparing what was found character by character")
    right = all([*pool.map(_settle, ((stems, work, shard, bases, length) for shard in range(len(stems))))])
    for path in work.glob("*.runs"):
        path.unlink()
    return right


def _measure(stem: Path, to: Path) -> int:
    """The characters of a shard; <to>.starts.npy has where its texts start in them, and the end."""
    starts = Texts(stem).starts()
    np.save(to.with_name(f"{to.name}.starts"), starts)
    return int(starts[-1])


@lru_cache(maxsize=1)
def constants(seed: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A number for each code point; the powers B**i of an odd B, and B**-i, for i < size. All uint64."""
    numbers = np.arange(0x110001, dtype=np.uint64) + np.uint64((seed + 1) << 32)
    # Mixed as in splitmix64 (Steele et al. 2014), so that they depend on no library's version.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        numbers = (numbers ^ numbers >> np.uint64(shift)) * np.uint64(factor)
    base = int(numbers[-1]) | 1
    rows = [np.full(size, number, dtype=np.uint64) for number in (base, pow(base, -1, 1 << 64))]
    for row in rows:
        row[0] = 1
        np.cumprod(row, out=row)
    return numbers, *rows


def _hashes(stem: Path, to: Path, length: int, seed: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first character, hashes of the windows from there on, whether each lies in one text) for pieces of a shard.

    A hash is polynomial mod 2**64 of random numbers: the difference of two running sums, brought to one power.
    """
    whole, sizes = Texts(stem).whole(), np.diff(np.load(f"{to}.starts.npy"))
    held = np.maximum(sizes - length + 1, 0)
    inside = np.repeat(np.resize([True, False], 2 * len(sizes)), np.stack([held, sizes - held], axis=1).ravel())
    numbers, powers, inverse = constants(seed, CHUNK + length)
    for at in range(0, len(whole) - length + 1, CHUNK):
        codes = np.frombuffer(whole[at : at + CHUNK + length - 1].encode("utf-32-le", "surrogatepass"), dtype="<u4")
        terms = numbers.take(codes)
        terms *= powers[: len(codes)]
        sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(terms, out=sums[1:])
        hashes = sums[length:] - sums[:-length]
        hashes *= inverse[: len(hashes)]
        yield at, hashes, inside[at : at + len(hashes)]


def _compare(
    stems: Sequence[Path], work: Path, bases: np.ndarray, length: int, number: int, ranges: int, seed: int
) -> None:
    """Write to <number>-near.runs and <number>-far.runs the windows of a range of hashes that stand earlier."""
    low, last = (number << 64) // ranges, ((number + 1) << 64) // ranges - 1
    hashes, offsets, origins = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.uint16)], [0]
    with open(work / f"{number}-near.runs", "wb") as near:
        for shard, stem in enumerate(stems):
            for at, found, inside in _hashes(stem, work / f"{shard}", length, seed):
                own = np.flatnonzero(inside & (found - np.uint64(low) <= np.uint64(last - low)))
                if len(own) > 2 * CHUNK // ranges + 64:
                    # Repetitions alone bring so many into one range: the first of each kind stands for them from here.
                    again, source = _repeated(found[own])
                    near.write(_runs(bases[shard] + at + own[again], bases[shard] + at + own[source]).tobytes())
                    own = np.delete(own, again)
                hashes.append(found[own])
                offsets.append(own.astype(np.uint16))
                origins.append(int(bases[shard]) + at)
    ends, offset = np.cumsum([*map(len, hashes)]), np.concatenate(offsets)
    hashes[:] = [np.concatenate(hashes)]
    again, source = (
        np.array(origins)[np.searchsorted(ends, some, side="right")] + offset[some] for some in _repeated(hashes[0])
    )
    _runs(again, source).tofile(work / f"{number}-far.runs")


def _repeated(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the elements that come earlier as well, and of the nearest earlier one of each."""
    # One sort of (leading bits, index), many times as fast as an argsort; who shares these is looked at again.
    low = np.uint64((1 << len(hashes).bit_length()) - 1)
    packed = hashes & ~low
    packed |= np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    alike = (packed[1:] ^ packed[:-1]) <= low
    shared = (np.append(alike, False) | np.append(False, alike))[: len(packed)]
    some = (packed[shared] & low).astype(np.int64)
    some.sort()
    order = some[np.argsort(hashes[some], kind="stable")]
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    return order[same + 1], order[same]


def _runs(at: np.ndarray, source: np.ndarray) -> np.ndarray:
    runs = np.empty(len(at), dtype=_RUN)
    runs["at"], runs["source"], runs["count"] = at, source, 1
    return _joined(runs)


def _joined(runs: np.ndarray) -> np.ndarray:
    """In order, and neighbours with neighbouring sources as one."""
    runs = runs[np.argsort(runs["at"])]
    counts = runs["count"]
    apart = (np.diff(runs["at"]) != counts[:-1]) | (np.diff(runs["source"]) != counts[:-1])
    heads = np.flatnonzero(np.append(True, apart)[: len(runs)])
    joined = runs[heads]
    joined["count"] = np.add.reduceat(counts, heads)
    return joined


def _settle(stems: Sequence[Path], work: Path, shard: int, bases: np.ndarray, length: int) -> bool:
    """Write a shard's spans, int64 [spans, 3] of (text, begin, end); False when a window is not what its source is."""
    found = [np.empty(0, dtype=_RUN)]
    for path in work.glob("*.runs"):
        if path.stat().st_size:
            runs = np.memmap(path, dtype=_RUN, mode="r")
            found.append(runs[slice(*(bisect_left(runs["at"], base) for base in bases[shard : shard + 2]))])
    runs = _joined(np.concatenate(found))
    starts = bases[shard] + np.load(work / f"{shard}.starts.npy")
    text = np.searchsorted(starts, runs["at"], side="right") - 1
    begin = runs["at"] - starts[text]
    end = begin + runs["count"] + length - 1
    head = np.append(True, (begin[1:] > end[:-1]) | (text[1:] != text[:-1]))[: len(runs)]
    tail = np.append(head[1:], True)[: len(runs)]
    np.save(work / f"{shard}.spans", np.stack([text[head], begin[head], end[tail]], axis=1))
    return _same(stems, work, shard, bases, runs, length)


@lru_cache(maxsize=64)
def _opened(stem: Path, to: Path) -> tuple[Texts, np.ndarray]:
    """A shard's texts, and where they start in its characters; sources of neighbouring shards are much the same."""
    return Texts(stem), np.load(f"{to}.starts.npy")


def _same(stems: Sequence[Path], work: Path, shard: int, bases: np.ndarray, runs: np.ndarray, length: int) -> bool:
    """Whether the characters of all runs of a shard are those of their sources; each text is read once."""
    whole, runs = Texts(stems[shard]).whole(), runs[np.argsort(runs["source"])]
    origin = np.searchsorted(bases, runs["source"], side="right") - 1
    columns = origin, runs["source"] - bases[origin], runs["at"] - bases[shard], runs["count"] + length - 1
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for other, group in groupby(rows, key=lambda row: row[0]):
        (texts, starts), text, begin = _opened(stems[other], work / f"{other}"), "", 0
        for _, there, here, size in group:
            if there >= begin + len(text):
                number = int(np.searchsorted(starts, there, side="right")) - 1
                text, begin = texts[number], int(starts[number])
            if whole[here : here + size] != text[there - begin : there - begin + size]:
                return False
    return True
