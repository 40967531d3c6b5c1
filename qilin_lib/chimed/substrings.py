"""Exact repeated substrings over a whole corpus (ExactSubstr of Lee et al. 2022, arXiv 2107.06499) in bounded memory.

A window is `length` consecutive characters (Unicode code points) of one text. It is repeated when the same characters
stand earlier: in an earlier text, or further left in the same one, overlapping allowed. A text's repeated spans are the
union of its repeated windows. So the first occurrence always stays, and what is cut still exists. (The code released
with the paper, a suffix array over bytes, marks every copy, the first included.)

A suffix array of 3 GB of text takes 24 GB. Here windows are compared by 64-bit hashes, which are spilled to disk and
brought together by range of hash; to keep that small, most windows are settled in blocks (windows.blocks):
1. A block whose key no other block has holds no repeated window. These are nearly all.
2. A block whose characters all occur in an earlier block is repeated as a whole, and needs no further look.
3. What remains, blocks that are first with their characters but share their key, is compared window by window.
4. All that was found is compared on the texts themselves. Two different windows share a hash with a probability of
   2**-64, some two of n windows with about n**2 / 2**65 (n = 10**9: 0.03): then all is done again with other hashes.
So the result is exact, and the same with any number of workers. Time and disk are linear in the corpus.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.windows import BLOCK, Chunk, Hashes, blocks, chunks, gram, previous
from qilin_lib.errors import QilinError

# `count` windows, the first at byte `start` of a shard. MATCH: their characters occur earlier, at byte `source` of the
# whole corpus.
PLACE = np.dtype([("start", "u4"), ("count", "u4")])
MATCH = np.dtype([("start", "u4"), ("count", "u4"), ("source", "i8")])
WINDOW = np.dtype([("hash", "u8"), ("start", "u4")])
# Records compared at once (about 100 bytes each while they are); windows on disk at once.
RECORDS, WINDOWS = 1 << 22, 1 << 28
_ATTEMPTS = 4
# Bytes compared at once.
PIECE = 1 << 22

Say = Callable[[str], None]
Slice = tuple[int, str, int, int]  # number of the file, its path, first record, records


def repeated_spans(
    stems: Sequence[Path], length: int, work: Path, pool: Pool, progress: Say
) -> Iterator[list[list[tuple[int, int]]]]:
    """For each shard, in order, the repeated spans of each of its texts: merged half-open character ranges.

    `stems`: shards written by shards.write_texts, in corpus order; `length`: characters of a window. `work` is a folder
    for this alone: emptied first, and without a file once all spans are read. Memory is bounded by RECORDS and by the
    repetitions within one shard, some MB for shards of some MB.
    QilinError: `length` below 2, or a shard of 4 GB or more.
    """
    if length < 2:
        raise QilinError(f"length of repeated substrings: {length}; the least is 2 characters, 50 to 100 are usual")
    sizes = [stem.with_suffix(".utf8").stat().st_size for stem in stems]
    if max(sizes, default=0) >= 1 << 32:
        raise QilinError(f"{stems[int(np.argmax(sizes))]}.utf8: {max(sizes)} bytes; a shard holds less than {1 << 32}")
    bases = np.cumsum([0, *sizes], dtype=np.int64)
    for seed in range(_ATTEMPTS):
        shutil.rmtree(work, ignore_errors=True)
        if _search(stems, bases, length, work, pool, progress, seed):
            return _read(stems, work)
        progress("repeated substrings: two different strings have one hash; once more with other hashes")
    raise QilinError(f"length of repeated substrings: {length}; the hashes of this corpus collide; try another length")


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


def _search(
    stems: Sequence[Path], bases: np.ndarray, length: int, work: Path, pool: Pool, progress: Say, seed: int
) -> bool:
    """Write the spans of every shard; False when a hash was wrong. `bases`: bytes of the corpus before each shard."""
    for name in ("local", "blocks", "matches", "unsettled", "windows", "singles", "spans"):
        (work / name).mkdir(parents=True)
    progress(f"repeated substrings: hashing {bases[-1] / 1e6:,.0f} MB of text")
    # The minimum of w hashes changes every (w + 1) / 2 places, w = length - gram + 1; a character is a byte or more.
    bins = _bins(2 * int(bases[-1]) // (length - gram(length) + 2))
    tasks = ((stem, shard, int(bases[shard]), length, bins, work, seed) for shard, stem in enumerate(stems))
    columns = _slices(work / "blocks", list(pool.map(_sketch, tasks)), bins)
    progress(f"repeated substrings: comparing {sum(count for column in columns for *_, count in column):,} blocks")
    compared = list(pool.map(_compare_blocks, ((number, column, bases, work) for number, column in enumerate(columns))))
    shutil.rmtree(work / "blocks")
    matches = _slices(work / "matches", [counts for counts, *_ in compared], len(stems))
    unsettled = _slices(work / "unsettled", [counts for _, counts, _ in compared], len(stems))
    windows = sum(count for *_, count in compared)
    progress(f"repeated substrings: comparing {windows:,} windows one by one")
    singles = _compare_windows(stems, bases, length, unsettled, windows, work, pool, seed)
    progress("repeated substrings: comparing what was found character by character")
    names, found = [str(stem) for stem in stems], zip(matches, singles, strict=True)
    tasks = ((names, shard, bases, length, [*more, *single], work) for shard, (more, single) in enumerate(found))
    right = all([*pool.map(_settle, tasks)])
    for name in ("local", "matches", "unsettled", "windows", "singles"):
        shutil.rmtree(work / name)
    return right


def _read(stems: Sequence[Path], work: Path) -> Iterator[list[list[tuple[int, int]]]]:
    for shard, stem in enumerate(stems):
        spans: list[list[tuple[int, int]]] = [[] for _ in np.load(stem.with_suffix(".ends.npy"))]
        path = work / "spans" / f"{shard}.npy"
        for text, begin, end in np.load(path).tolist():
            spans[text].append((begin, end))
        path.unlink()
        yield spans


# --- records on disk, sorted into bins --------------------------------------------------------------------------------
# Scratch files are written plainly: whoever is interrupted starts again, and syncing thousands of them takes minutes.


def _bins(records: int) -> int:
    """A power of two: bins of at most RECORDS, were they equal."""
    return 1 << max(0, (records // RECORDS).bit_length())


def _top(hashes: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each hash. Minima are small numbers, so that they are spread first."""
    spread = (hashes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(48)
    return (spread >> np.uint64(17 - bins.bit_length())).astype(np.uint16)  # 16 bits are sorted by radix


def _spill(path: Path, records: np.ndarray, of: np.ndarray, bins: int) -> list[int]:
    """Write `records` sorted by their bin (`of`), else in order; returns how many each bin has."""
    records[np.argsort(of, kind="stable")].tofile(path)
    return np.bincount(of, minlength=bins).tolist()


def _slices(folder: Path, counts: Sequence[Sequence[int]], bins: int) -> list[list[Slice]]:
    """For each bin, what to read of the files folder/0, folder/1, …; counts[file][bin]."""
    columns: list[list[Slice]] = [[] for _ in range(bins)]
    for number, row in enumerate(counts):
        first = 0
        for column, count in zip(columns, row, strict=True):
            if count:
                column.append((number, str(folder / f"{number}"), first, count))
            first += count
    return columns


def _gather(slices: Sequence[Slice], dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """The records, and the number of the file of each."""
    parts = [np.fromfile(path, dtype, count, offset=first * dtype.itemsize) for _, path, first, count in slices]
    numbers = np.array([number for number, *_ in slices], dtype=np.int64)
    return np.concatenate([np.empty(0, dtype), *parts]), np.repeat(numbers, [len(part) for part in parts])


# --- what the workers do ----------------------------------------------------------------------------------------------


def _sketch(stem: Path, shard: int, base: int, length: int, bins: int, work: Path, seed: int) -> list[int]:
    """Spill a shard's blocks. Those that occur earlier in their chunk are matches already, so that long runs of one
    character, or of one phrase, stay small."""
    kept, local = [np.empty(0, BLOCK)], [np.empty(0, MATCH)]
    for chunk in chunks(stem, length):
        here = blocks(chunk, length, seed)
        before = _earlier(here)
        local.append(_joined(chunk, _matches(here, before, base + here["start"][before].astype(np.int64))))
        kept.append(here[before < 0])
    np.concatenate(local).tofile(work / "local" / f"{shard}")
    records = np.concatenate(kept)
    return _spill(work / "blocks" / f"{shard}", records, _top(records["key"], bins), bins)


def _earlier(records: np.ndarray) -> np.ndarray:
    """For each block the index of the nearest earlier one with the same characters, or -1."""
    before = previous(np.ascontiguousarray(records["content"]))
    # Whatever hashes do, a match is as long as its source.
    before[records["count"][before] != records["count"]] = -1
    return before


def _matches(records: np.ndarray, before: np.ndarray, sources: np.ndarray) -> np.ndarray:
    some = before >= 0
    found = np.empty(np.count_nonzero(some), MATCH)
    found["start"], found["count"], found["source"] = records["start"][some], records["count"][some], sources[some]
    return found


def _joined(chunk: Chunk, found: np.ndarray) -> np.ndarray:
    """One match for neighbouring windows with neighbouring sources."""
    at, counts = _characters(chunk, found), found["count"].astype(np.int64)
    head = np.ones(len(found), dtype=bool)
    head[1:] = (np.diff(found["source"] - found["start"]) != 0) | (at[1:] != at[:-1] + counts[:-1])
    joined = found[head]
    joined["count"] = np.diff(np.append(0, np.cumsum(counts))[np.append(np.flatnonzero(head), len(found))])
    return joined


def _compare_blocks(
    number: int, slices: list[Slice], bases: np.ndarray, work: Path
) -> tuple[list[int], list[int], int]:
    """Settle the blocks of one bin; returns how many matches and unsettled blocks each shard has, and their windows."""
    records, shard = _gather(slices, BLOCK)
    before = _earlier(records)
    found = _matches(records, before, bases[shard[before]] + records["start"][before])
    matches = _spill(work / "matches" / f"{number}", found, shard[before >= 0], len(bases) - 1)
    first = np.flatnonzero(before < 0)
    same_key = previous(records["key"][first])
    shared = same_key >= 0
    shared[same_key[shared]] = True
    first = first[shared]
    left = records[["start", "count"]][first].astype(PLACE)
    unsettled = _spill(work / "unsettled" / f"{number}", left, shard[first], len(bases) - 1)
    return matches, unsettled, int(left["count"].sum())


def _compare_windows(
    stems: Sequence[Path], bases: np.ndarray, length: int, unsettled: list[list[Slice]], windows: int, work: Path,
    pool: Pool, seed: int,
) -> list[list[Slice]]:  # fmt: skip
    """Settle what blocks left, in as many passes over the texts as the disk asks for; returns each shard's matches."""
    bins, counts = _bins(windows), []
    passes = min(bins, 1 + windows // WINDOWS)
    for turn in range(passes):
        part = range(bins * turn // passes, bins * (turn + 1) // passes)
        todo = ((stem, shard, length, unsettled[shard], bins, part, work, seed) for shard, stem in enumerate(stems))
        columns = _slices(work / "windows", list(pool.map(_spill_windows, todo)), bins)
        counts += pool.map(_compare_singles, ((number, columns[number], bases, work) for number in part))
    return _slices(work / "singles", counts, len(stems))


def _spill_windows(
    stem: Path, shard: int, length: int, slices: list[Slice], bins: int, part: range, work: Path, seed: int
) -> list[int]:
    places, _ = _gather(slices, PLACE)
    places = places[np.argsort(places["start"], kind="stable")]
    spilled = [np.empty(0, WINDOW)]
    for chunk, here in _by_chunk(stem, length, places):
        at = _characters(chunk, here)
        counts = here["count"].astype(np.int64)
        each = np.repeat(at, counts) + _ranges(counts)
        records = np.empty(len(each), WINDOW)
        records["hash"] = Hashes(chunk.codes, seed).some(each, length)
        records["start"] = chunk.at[each] + chunk.first
        of = _top(records["hash"], bins)
        spilled.append(records[(of >= part.start) & (of < part.stop)])
    records = np.concatenate(spilled)
    return _spill(work / "windows" / f"{shard}", records, _top(records["hash"], bins), bins)


def _compare_singles(number: int, slices: list[Slice], bases: np.ndarray, work: Path) -> list[int]:
    records, shard = _gather(slices, WINDOW)
    before = previous(np.ascontiguousarray(records["hash"]))
    some = before >= 0
    found = np.ones(np.count_nonzero(some), MATCH)
    found["start"] = records["start"][some]
    found["source"] = (bases[shard[before]] + records["start"][before])[some]
    return _spill(work / "singles" / f"{number}", found, shard[some], len(bases) - 1)


def _settle(names: list[str], shard: int, bases: np.ndarray, length: int, slices: list[Slice], work: Path) -> bool:
    """Compare a shard's matches with their sources, and write their spans: int64 [spans, 3], text, begin, end."""
    found = np.concatenate([np.fromfile(work / "local" / f"{shard}", MATCH), _gather(slices, MATCH)[0]])
    found = found[np.argsort(found["start"], kind="stable")]
    begin, end, last = (np.zeros(len(found), dtype=np.int64) for _ in range(3))
    ends = np.load(f"{names[shard]}.ends.npy")
    text = np.searchsorted(ends, found["start"], side="right")
    starts = np.concatenate([[0], ends])[:-1]
    text_begin, characters, done = np.zeros(len(ends), dtype=np.int64), 0, 0
    for chunk, here in _by_chunk(Path(names[shard]), length, found) if len(found) else ():
        at, rows = _characters(chunk, here), slice(done, done + len(here))
        begin[rows], end[rows] = characters + at, characters + at + here["count"] + length - 1
        last[rows] = chunk.first + chunk.at[at + here["count"] + length - 1]
        own = slice(*np.searchsorted(starts, [chunk.first, chunk.first + chunk.at[chunk.own]]))
        text_begin[own] = characters + np.searchsorted(chunk.at, starts[own] - chunk.first)
        characters, done = characters + chunk.own, done + len(here)
    # A text's matches that touch make one span.
    head = np.ones(len(found), dtype=bool)
    head[1:] = (begin[1:] > end[:-1]) | (text[1:] != text[:-1])
    tail, shift = np.append(head[1:], True)[: len(head)], text_begin[text]
    np.save(work / "spans" / f"{shard}.npy", np.stack([text[head], (begin - shift)[head], (end - shift)[tail]], axis=1))
    return _same(names, shard, bases, found["start"].astype(np.int64), last, found["source"])


def _by_chunk(stem: Path, length: int, places: np.ndarray) -> Iterator[tuple[Chunk, np.ndarray]]:
    """A shard's chunks, and those of `places` (sorted by start) that begin in each."""
    starts = np.ascontiguousarray(places["start"])
    for chunk in chunks(stem, length):
        low, high = np.searchsorted(starts, [chunk.first, chunk.first + chunk.at[chunk.own]])
        yield chunk, places[low:high]


def _characters(chunk: Chunk, places: np.ndarray) -> np.ndarray:
    return np.searchsorted(chunk.at, places["start"].astype(np.int64) - chunk.first)


def _same(
    names: list[str], shard: int, bases: np.ndarray, starts: np.ndarray, ends: np.ndarray, sources: np.ndarray
) -> bool:
    """Are bytes starts..ends of the shard those at `sources` of the corpus? Neighbouring matches with neighbouring
    sources are one string: each character is read once, not once for each window that holds it."""
    head = np.ones(len(starts), dtype=bool)
    head[1:] = (np.diff(sources - starts) != 0) | (starts[1:] >= ends[:-1])
    starts, sources, sizes = starts[head], sources[head], ends[np.append(head[1:], True)[: len(head)]] - starts[head]
    origin = np.searchsorted(bases, sources, side="right") - 1
    pieces = -(-sizes // PIECE)
    pick, done = np.repeat(np.arange(len(sizes)), pieces), PIECE * _ranges(pieces)
    order = np.argsort(origin[pick], kind="stable")  # each source file is opened once
    pick, done = pick[order], done[order]
    at, sizes = (sources - bases[origin])[pick] + done, np.minimum(sizes[pick] - done, PIECE)
    rows = zip(*(row.tolist() for row in (origin[pick], at, starts[pick] + done, sizes)), strict=True)
    with open(f"{names[shard]}.utf8", "rb") as mine:
        one = mine.fileno()
        for other, group in groupby(rows, key=itemgetter(0)):
            with open(f"{names[other]}.utf8", "rb") as source:
                two = source.fileno()
                if not all(os.pread(one, size, start) == os.pread(two, size, at) for _, at, start, size in group):
                    return False
    return True


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0, 1, … count - 1 for each of `counts`, one after the other."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
