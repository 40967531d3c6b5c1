"""Exact repeated substrings over a whole corpus (ExactSubstr of Lee et al. 2022, arXiv 2107.06499) in bounded memory.

A window is `length` consecutive characters (Unicode code points) of one text. It is repeated when the same characters
stand earlier: in an earlier text, or further left in the same one, overlapping allowed. A text's repeated spans are the
union of its repeated windows. So the first occurrence always stays, and what is cut still exists. (The code released
with the paper, a suffix array over bytes, marks every copy, the first included.)

A suffix array of 3 GB of text takes 24 GB. Here every window has a rolling 64-bit hash, and windows of equal hash are
brought together for one range of hashes after the other: a task reads the whole corpus and sorts what lies in its
range. Some two of n different windows share a hash with a probability of n**2 / 2**65 (n = 10**9: 0.03); the later of
them then counts as repeated. On disk is a byte for each character.
"""

from __future__ import annotations

import re
import shutil
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts, write_array, write_texts

# Windows compared at once (16 bytes each), and characters hashed at once, few enough for the cache of a core.
RANGE, CHUNK = 3 << 24, 1 << 15
# A byte for each character of the corpus: 1 where a window begins that stands earlier, too.
_MARKS = "repeated.u1"
Span = tuple[int, int]


def write_shard(stem: Path, texts: Sequence[str]) -> None:
    """Write texts to search in (shards.write_texts); <stem>.starts.npy: where each starts in them, and the end."""
    write_texts(stem, texts)
    write_array(stem.with_suffix(".starts.npy"), np.cumsum([0, *map(len, texts)], dtype=np.int64))


def repeated_spans(
    stems: Sequence[Path], length: int, work: Path, pool: Pool, progress: Callable[[str], None]
) -> Iterator[list[list[Span]]]:
    """For each shard, in order, the repeated spans of each of its texts: merged half-open character ranges.

    `stems`: shards written by `write_shard`, in corpus order; `length`: characters of a window. `work` is a folder
    for this alone, emptied first. The same for any number of workers.
    """
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    sizes = [int(_starts(stem)[-1]) for stem in stems]
    bases = np.cumsum([0, *sizes], dtype=np.int64)
    ranges = 1 + int(bases[-1]) // RANGE
    progress(f"repeated substrings: {bases[-1] / 1e6:,.0f} M characters, {ranges} ranges of hashes")
    with open(work / _MARKS, "wb") as marks:
        # Written, not only made so long: a full disk is told here, and kills no process that maps the file.
        marks.writelines(map(bytes, (*sizes, 1)))
    for _ in pool.map(_compare, ((stems, work, bases, length, number, ranges) for number in range(ranges))):
        pass
    return (_spans(stem, work, *bases[shard : shard + 2], length) for shard, stem in enumerate(stems))


def _starts(stem: Path) -> np.ndarray:
    return np.load(stem.with_suffix(".starts.npy"))


@cache
def _constants(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A number for each code point; the powers B**i of an odd B, and B**-i, for i < size. All uint64."""
    numbers = np.arange(0x110001, dtype=np.uint64) + np.uint64(1 << 32)
    # Mixed as in splitmix64 (Steele et al. 2014), so that they depend on no library's version.
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        numbers = (numbers ^ numbers >> np.uint64(shift)) * np.uint64(factor)
    base = int(numbers[-1]) | 1
    rows = [np.full(size, number, dtype=np.uint64) for number in (base, pow(base, -1, 1 << 64))]
    for row in rows:
        row[0] = 1
        np.cumprod(row, out=row)
    return numbers, *rows


def _hashes(stem: Path, length: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(first character, hashes of the windows from there on, whether each lies in one text) for pieces of a shard.

    A hash is polynomial mod 2**64 of random numbers: the difference of two running sums, brought to one power.
    """
    whole, sizes = Texts(stem).whole(), np.diff(_starts(stem))
    held = np.maximum(sizes - length + 1, 0)
    inside = np.repeat(np.resize([True, False], 2 * len(sizes)), np.stack([held, sizes - held], axis=1).ravel())
    numbers, powers, inverse = _constants(CHUNK + length)
    for at in range(0, len(whole) - length + 1, CHUNK):
        codes = np.frombuffer(whole[at : at + CHUNK + length - 1].encode("utf-32-le", "surrogatepass"), dtype="<u4")
        terms = numbers.take(codes)
        terms *= powers[: len(codes)]
        sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(terms, out=sums[1:])
        hashes = sums[length:] - sums[:-length]
        hashes *= inverse[: len(hashes)]
        yield at, hashes, inside[at : at + len(hashes)]


def _compare(stems: Sequence[Path], work: Path, bases: np.ndarray, length: int, number: int, ranges: int) -> None:
    """Mark the windows of a range of hashes that stand earlier, too."""
    low, last = (number << 64) // ranges, ((number + 1) << 64) // ranges - 1
    marks = np.memmap(work / _MARKS, np.uint8, "r+")
    hashes, places = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    for shard, stem in enumerate(stems):
        for at, some, inside in _hashes(stem, length):
            own = np.flatnonzero(inside & (some - np.uint64(low) <= np.uint64(last - low)))
            if len(own) > 2 * CHUNK // ranges + 64:
                # Repetitions alone bring so many into one range: the first of each kind stands for them from here.
                again = _repeated(some[own])
                marks[bases[shard] + at + own[again]] = 1
                own = np.delete(own, again)
            hashes.append(some[own])
            places.append(bases[shard] + at + own)
    hashes = np.concatenate(hashes)
    again = _repeated(hashes)
    marks[np.concatenate(places)[again]] = 1


def _repeated(hashes: np.ndarray) -> np.ndarray:
    """Indices of the elements that come earlier as well."""
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
    return order[1:][hashes[order[1:]] == hashes[order[:-1]]]


def _spans(stem: Path, work: Path, base: int, end: int, length: int) -> list[list[Span]]:
    """The spans of each text of a shard, whose characters are those from `base` to `end`."""
    starts = _starts(stem)
    marks = np.memmap(work / _MARKS, np.uint8, "r")[base:end]
    windows = np.flatnonzero(marks)
    texts = np.searchsorted(starts, windows, side="right") - 1
    apart = (np.diff(windows) > length) | (np.diff(texts) != 0)
    first, last = (windows[np.insert(apart, at, True)[: len(windows)]] for at in (0, len(apart)))
    owner = np.searchsorted(starts, first, side="right") - 1
    spans: list[list[Span]] = [[] for _ in starts[1:]]
    for text, begin, end in zip(owner.tolist(), first - starts[owner], last + length - starts[owner], strict=True):
        spans[text].append((int(begin), int(end)))
    return spans


_LINE = re.compile(r"([^\n]*)\n?")
# A sentence with what closes it, or the rest of a line.
_SENTENCE = re.compile(r"[^。！？!?]*[。！？!?]+[”’」』）)》]*|[^。！？!?]+")


def whole_sentences(text: str, spans: Sequence[Span], heading: int = 0) -> list[Span]:
    """What may be cut out of `text`: the sentences that lie in `spans` whole, a line with its end when all of it does.

    Nothing of the first `heading` characters. Spans are half-open, ascending and disjoint, as those returned.
    """
    begins = [begin for begin, _ in spans]

    def repeated(sentence: re.Match[str]) -> bool:
        at = bisect_right(begins, sentence.start()) - 1
        return at >= 0 and sentence.end() <= spans[at][1]

    gone: list[Span] = []
    for line in _LINE.finditer(text, heading):
        sentences = list(_SENTENCE.finditer(text, *line.span(1)))
        own = [sentence.span() for sentence in sentences if repeated(sentence)]
        gone += [line.span()] if own and len(own) == len(sentences) else own
    cuts = _touching(gone)
    if cuts and cuts[-1][1] == len(text):
        start = cuts[-1][0]
        if start > heading and text[start - 1] == "\n":
            # No line stands below the end of the line before any more.
            cuts = _touching([*cuts[:-1], (start - 1, len(text))])
    return cuts


def _touching(spans: Iterable[Span]) -> list[Span]:
    """Spans that touch as one."""
    joined: list[Span] = []
    for start, stop in spans:
        if joined and joined[-1][1] == start:
            start = joined.pop()[0]
        joined.append((start, stop))
    return joined


def cut(text: str, spans: Iterable[Span]) -> str:
    """`text` without the characters of `spans` (half-open, ascending, disjoint)."""
    kept, last = [], 0
    for begin, end in spans:
        kept.append(text[last:begin])
        last = end
    return "".join([*kept, text[last:]])
