"""Exact repeated substrings over a whole corpus (ExactSubstr of Lee et al. 2022, arXiv 2107.06499) in bounded memory.

A window is `length` consecutive characters (Unicode code points) of one text. It is repeated when the same characters
stand earlier: in an earlier text, or further left in the same one, overlapping allowed. A text's repeated spans are the
union of its repeated windows. So the first occurrence always stays, and what is cut still exists. (The code released
with the paper, a suffix array over bytes, marks every copy, the first included.)

A suffix array of 3 GB of text takes 24 GB. Here every window has a rolling 64-bit hash:
1. Which hashes come more than once? Asked by their leading bits, for one range of hashes after the other, so that few
   are in memory and none on disk: a task reads the whole corpus, and sorts what lies in its range.
2. Where do those stand? Each shard once: what is repeated inside it, and where a hash comes first in it.
3. Where did these come before, in another shard? Ranges of hashes again.
4. All that was found is compared character by character. Two different windows share a hash with a probability of
   2**-64, some two of n windows with about n**2 / 2**65 (n = 10**9: 0.03): then all is done again with other hashes.
So the result is exact, and the same with any number of workers. Time is that of 3 + characters / RANGE readings of the
corpus, some 15 ns a character each; on disk are 16 to 24 bytes for a repeated window at most, one in a hundred others.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts
from qilin_lib.errors import QilinError

# Windows of a range of hashes (8 bytes each), first occurrences linked at once (60 bytes each), and characters hashed at
# once, few enough for the cache of a core.
RANGE, FIRSTS, CHUNK = 1 << 26, 1 << 24, 1 << 15
_ATTEMPTS = 4
# `count` windows from place `at` of the corpus, whose characters stand at place `source`, too.
_RUN = np.dtype([("at", "<i8"), ("source", "<i8"), ("count", "<i8")])
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Say = Callable[[str], None]


def repeated_spans(
    stems: Sequence[Path], length: int, work: Path, pool: Pool, progress: Say
) -> Iterator[list[list[tuple[int, int]]]]:
    """For each shard, in order, the repeated spans of each of its texts: merged half-open character ranges.

    `stems`: shards written by shards.write_texts, in corpus order; `length`: characters of a window. `work` is a folder
    for this alone: emptied first, and without a file once all spans are read. Memory of a worker: 8 bytes for each of
    RANGE windows and for each repeated one, 60 for each of FIRSTS, and some 50 times a shard's characters.
    QilinError: `length` below 2.
    """
    if length < 2:
        raise QilinError(f"length of repeated substrings: {length}; the least is 2 characters, 50 to 100 are usual")
    _table.cache_clear()
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
    shards = range(len(stems))
    sizes = [*pool.map(_measure, ((stem, work / f"{shard}") for shard, stem in enumerate(stems)))]
    bases = np.cumsum([0, *sizes], dtype=np.int64)
    ranges = 1 + int(bases[-1]) // RANGE
    progress(f"repeated substrings: hashing {bases[-1] / 1e6:,.0f} M characters, {ranges} ranges of hashes")
    with open(work / "repeated", "wb") as whole:
        for part in pool.map(_repeated, ((stems, work, length, number, ranges, seed) for number in range(ranges))):
            whole.write(part)
    tasks = ((stem, work / f"{shard}", int(bases[shard]), length, ranges, seed) for shard, stem in enumerate(stems))
    ranges = 1 + sum(pool.map(_find, tasks)) // FIRSTS
    progress("repeated substrings: comparing what was found")
    for _ in pool.map(_link, ((work, len(stems), number, ranges) for number in range(ranges))):
        pass
    right = all([*pool.map(_settle, ((stems, work, shard, bases, length, ranges) for shard in shards))])
    for path in work.iterdir():
        if path.suffixes not in ([".starts", ".npy"], [".spans", ".npy"]):
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
    for shift, factor in (
        (30, 0xBF58476D1CE4E5B9),
        (27, 0x94D049BB133111EB),
        (31, 1),
    ):  # Steele et al. 2014, splitmix64
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


def _keys(hashes: np.ndarray, ranges: int) -> np.ndarray:
    """The range of each hash and 32 bits more, which ascend with it: range << 32 | bits, uint64."""
    keys = hashes >> np.uint64(16)
    keys *= np.uint64(ranges)
    keys >>= np.uint64(16)
    return keys


def _repeated(stems: Sequence[Path], work: Path, length: int, number: int, ranges: int, seed: int) -> bytes:
    """The keys of a range that come more than once in the corpus, ascending; uint64."""
    found, held = [np.empty(0, dtype=np.uint32)], 0
    for shard, stem in enumerate(stems):
        for _, hashes, inside in _hashes(stem, work / f"{shard}", length, seed):
            keys = _keys(hashes, ranges)
            found.append(keys[inside & (keys >> np.uint64(32) == number)].astype(np.uint32))
            held += len(found[-1])
        if held > 2 * RANGE:
            # Only repetitions make a range so large, and two of a kind say it all.
            whole = _ascending(found)
            found.append(whole[np.append([True, True], whole[2:] != whole[:-2])[: len(whole)]])
            held = len(found[-1])
    whole = _ascending(found)
    again = whole[1:][whole[1:] == whole[:-1]]
    return (again[_first(again)].astype(np.uint64) | np.uint64(number << 32)).tobytes()


def _ascending(parts: list[np.ndarray]) -> np.ndarray:
    whole = np.concatenate(parts)
    parts.clear()
    whole.sort()
    return whole


def _first(values: np.ndarray) -> np.ndarray:
    """Whether each of ascending values is the first of its kind; bool."""
    return np.append(True, values[1:] != values[:-1])[: len(values)]


@lru_cache(maxsize=1)
def _table(path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.uint64]:
    """The repeated keys, ascending; bool: is there one with these leading bits (of the key, mixed)?; 64 - the bits."""
    # Ending in a key beyond all others, which is no window's.
    known = np.append(np.fromfile(path, dtype=np.uint64), ~np.uint64(0))
    bits = min(26, 5 + len(known).bit_length())
    table, shift = np.zeros(1 << bits, dtype=bool), np.uint64(64 - bits)
    table[(known * _GOLDEN) >> shift] = True
    return known, table, shift


def _find(stem: Path, to: Path, base: int, length: int, ranges: int, seed: int) -> int:
    """Where a shard has windows whose key is repeated: in <to>.near those that stand earlier in the shard, in
    <to>.first.npy the others, uint64 [n, 2] of (hash, place), ascending. Returns n.

    Places are characters of the corpus, `base` the first of the shard.
    """
    known, table, shift = _table(to.with_name("repeated"), seed)
    held, places = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for at, hashes, inside in _hashes(stem, to, length, seed):
        likely = np.flatnonzero(table.take((_keys(hashes, ranges) * _GOLDEN >> shift).view(np.int64)) & inside)
        held.append(hashes[likely])
        places.append(at + likely)
    hashes, place = np.concatenate(held), base + np.concatenate(places)
    order, first = _grouped(hashes)
    keys = _keys(hashes[order], ranges)
    sure = known[np.searchsorted(known, keys)] == keys
    order, first = order[sure], first[sure]
    _write_runs(to.with_name(f"{to.name}.near"), place[order], first)
    firsts = order[first]
    np.save(f"{to}.first.npy", np.stack([hashes[firsts], place[firsts].astype(np.uint64)], axis=1))
    return len(firsts)


def _grouped(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An order in which hashes ascend, equal ones as they come; bool: which are, in it, the first of their kind."""
    order = np.argsort(hashes)
    first = _first(hashes[order])
    both = np.cumsum(first) << 32 | order
    both.sort()
    return both & 0xFFFFFFFF, first


def _write_runs(path: Path, places: np.ndarray, first: np.ndarray) -> None:
    """Write the windows at `places` that are not the `first` of their kind, each with the place before as its source."""
    again = np.flatnonzero(~first)
    found = np.empty(len(again), dtype=_RUN)
    found["at"], found["source"], found["count"] = places[again], places[again - 1], 1
    _joined(found).tofile(path)


def _joined(runs: np.ndarray) -> np.ndarray:
    """In order, and neighbours with neighbouring sources as one."""
    runs = runs[np.argsort(runs["at"])]
    counts = runs["count"]
    apart = (np.diff(runs["at"]) != counts[:-1]) | (np.diff(runs["source"]) != counts[:-1])
    heads = np.flatnonzero(np.append(True, apart)[: len(runs)])
    joined = runs[heads]
    joined["count"] = np.add.reduceat(counts, heads)
    return joined


def _link(work: Path, shards: int, number: int, ranges: int) -> None:
    """Write <number>.far: windows that stand in an earlier shard, for one range of hashes."""
    rows = [np.empty((0, 2), dtype=np.uint64)]
    for shard in range(shards):
        first = np.load(work / f"{shard}.first.npy")
        rows.append(first[_keys(first[:, 0], ranges) >> np.uint64(32) == number])
    hashes, place = np.concatenate(rows).T
    order, first = _grouped(hashes)
    _write_runs(work / f"{number}.far", place[order], first)


def _settle(stems: Sequence[Path], work: Path, shard: int, bases: np.ndarray, length: int, ranges: int) -> bool:
    """Write a shard's spans, int64 [spans, 3] of (text, begin, end); False when a window is not what its source is."""
    found = [np.fromfile(work / f"{shard}.near", dtype=_RUN)]
    for number in range(ranges):
        path = work / f"{number}.far"
        far = np.memmap(path, dtype=_RUN, mode="r") if path.stat().st_size else np.empty(0, dtype=_RUN)
        found.append(far[slice(*np.searchsorted(far["at"], bases[shard : shard + 2]))])
    runs = _joined(np.concatenate(found))
    starts = bases[shard] + np.load(work / f"{shard}.starts.npy")
    text = np.searchsorted(starts, runs["at"], side="right") - 1
    begin = runs["at"] - starts[text]
    end = begin + runs["count"] + length - 1
    head = np.append(True, (begin[1:] > end[:-1]) | (text[1:] != text[:-1]))[: len(runs)]
    np.save(
        work / f"{shard}.spans", np.stack([text[head], begin[head], end[np.append(head[1:], True)[: len(runs)]]], 1)
    )
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
