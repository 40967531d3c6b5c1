"""Near-duplicates after Lee et al. 2022 (NearDup, arXiv 2107.06499): MinHash, LSH bands, true Jaccard, components.

Input are sketch shards (sketch.py). A pair is a duplicate when its texts are equal; or when its signatures agree in all
rows of some band, agree in `least_agreement` rows in all, the Jaccard similarity of its n-gram sets reaches the
threshold, and the two do not differ in signs (shingles.differ_in_signs). Duplicates are the connected components of
those pairs: they depend on the texts, the threshold and n alone. MinHash misses a pair at the threshold with
probability 0.01 at most, and joins none below it.

What keeps it fast. Equal skeletons collapse before anything else. One task is one band. A pair that is connected
already is not looked at again, which changes no component. The rows that agree are counted before a text is read. Of
the bands in which a pair meets, only the first answers for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from math import comb
from pathlib import Path

import numpy as np

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import differ_in_signs, gram_hashes_many
from qilin_lib.chimed.sketch import PERMUTATIONS, Sketches, read_facts
from qilin_lib.errors import QilinError

# Records of a band whose signatures are in memory at once (256 bytes each).
_CHUNK = 1_000_000
# Pairs whose signatures are compared at once: few enough for the cache.
_COMPARED = 1024
# Pairs laid out at once, and n-grams of pairs verified at once (8 bytes each, some ten arrays).
_PAIRS = 250_000
_GRAMS = 4_000_000
# In a bucket above this size the pivots' pairs are verified whichever band answers for them, so that 50,000 copies of
# one text are connected by 50,000 verifications, not left to be compared two by two.
_LARGE = 64
_PIVOTS = 3
# Larger buckets are worked off in squares of this many texts.
_TILE = 2000
# From this many pairs on, `_join_crowd` pays.
_CROWD = 3000
# A 64-bit key: 20 bits say whose gram it is, 44 bits which.
_BITS, _HIGH, _LOW = np.uint64(44), np.uint64(20), np.uint64(2**44 - 1)


def near_duplicates(
    folder: Path, stems: Sequence[Path], threshold: float, ngram: int, pool: Pool, progress: Callable[[str], None]
) -> np.ndarray:
    """For each record the number of the first record of its component, itself when alone; int64 [records].

    Records are numbered in order of the sketch shards `stems`, then of their place in a shard. An empty skeleton is a
    duplicate of nothing. `folder` takes intermediate arrays (30 bytes a record). The same for any number of workers.
    """
    roots = collapse(folder, stems)
    bands = PERMUTATIONS // band_rows(threshold)
    progress(f"near-duplicates: {len(np.load(folder / 'distinct.npy'))} distinct of {len(roots)} texts, {bands} bands")
    tasks = ((folder, stems, band, threshold, ngram) for band in range(bands))
    for band, edges in enumerate(pool.map(band_edges, tasks), start=1):
        if len(edges):
            join(roots, *edges.T)
            # Tasks yet to start read what is known by now and skip it.
            write_array(folder / "roots.npy", roots)
        progress(f"near-duplicates: band {band} of {bands}, {len(edges)} new links")
    return find(roots, np.arange(len(roots)))


def band_rows(threshold: float) -> int:
    """The most rows a band such that a pair exactly at the threshold shares a band with probability >= 0.991.

    QilinError: a threshold that is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise QilinError(f"near-duplicate threshold {threshold}: must be above 0 and at most 1, such as 0.7")
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= 0.009:
            return rows
    return 1


def least_agreement(threshold: float) -> int:
    """The agreeing rows below which a pair in a band is not verified; one at the threshold has fewer with p = 0.0001.

    With `band_rows`: a pair at the threshold is found with probability >= 0.99, one above it more surely.
    """
    sure = band_rows(threshold)
    free, below = PERMUTATIONS - sure, 0.0
    for rows in range(free + 1):
        below += comb(free, rows) * threshold**rows * (1 - threshold) ** (free - rows)
        if below > 0.0001:
            return sure + rows
    return PERMUTATIONS


def collapse(folder: Path, stems: Sequence[Path]) -> np.ndarray:
    """Connect equal skeletons: for each record the number of the first equal one, int64 [records].

    Writes for `band_edges`, in `folder`: this as roots.npy; distinct.npy, the numbers of the first of each skeleton
    that is not empty; starts.npy, the number of the first record of each shard and of the end; lengths.npy, uint32,
    in characters; ends.npy, where its skeleton ends in the shard's file of UTF-8.
    """
    facts = [read_facts(stem) for stem in stems]
    starts = np.cumsum([0, *map(len, facts)])
    whole = np.concatenate([np.empty((0, 3), dtype=np.uint64), *facts])
    order = np.lexsort((whole[:, 1], whole[:, 0]))
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (whole[order[1:], :2] != whole[order[:-1], :2]).any(axis=1)
    roots = np.empty(len(order), dtype=np.int64)
    roots[order] = order[fresh][np.cumsum(fresh) - 1]
    empty = whole[:, 2] == 0
    numbers = np.arange(len(order))
    roots[empty] = numbers[empty]
    write_array(folder / "distinct.npy", np.flatnonzero((roots == numbers) & ~empty))
    write_array(folder / "starts.npy", starts)
    write_array(folder / "lengths.npy", whole[:, 2].astype(np.uint32))
    ends = [np.load(stem.with_suffix(".ends.npy")) for stem in stems]
    write_array(folder / "ends.npy", np.concatenate([np.empty(0, dtype=np.int64), *ends]))
    write_array(folder / "roots.npy", roots)
    return roots


def find(roots: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The roots of the trees in which `numbers` stand; shortens their ways in `roots`."""
    found = roots[numbers]
    while True:
        above = roots[found]
        if (above == found).all():
            break
        found = above
    roots[numbers] = found
    return found


def join(roots: np.ndarray, ones: np.ndarray, others: np.ndarray) -> None:
    """Connect ones[i] with others[i], all i. The root of a tree is its smallest number."""
    while len(ones):
        ones, others = find(roots, ones), find(roots, others)
        apart = ones != others
        ones, others = ones[apart], others[apart]
        # Where several trees want the same root, the smallest gets it now and the others in the next round.
        np.minimum.at(roots, np.maximum(ones, others), np.minimum(ones, others))


def band_edges(folder: Path, stems: Sequence[Path], band: int, threshold: float, ngram: int) -> np.ndarray:
    """Links that one band adds to what <folder>/roots.npy holds: (record, first record known to be connected), [n, 2].

    Memory: some 60 bytes a record of the corpus, 300 a record of _CHUNK, and 50 a gram of _GRAMS.
    """
    names = ("starts", "ends", "roots", "lengths", "distinct")
    starts, ends, roots, lengths, distinct = (np.load(folder / f"{name}.npy") for name in names)
    before = roots.copy()
    search = _Search(Sketches(stems, starts, ends), roots, lengths, threshold, ngram, band)
    for members, groups in _chunks(*_buckets(search, distinct)):
        _link(search, members, groups)
    changed = np.flatnonzero(roots != before)
    return np.stack([changed, roots[changed]], axis=1)


@dataclass(frozen=True, slots=True)
class _Search:
    """One band of a corpus: what `band_edges` works on. `roots` changes: the trees of connected records."""

    sketches: Sketches
    roots: np.ndarray
    lengths: np.ndarray
    threshold: float
    ngram: int
    band: int


def _buckets(search: _Search, distinct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Records that share the band's key with another one to which they are not known to be connected, by bucket."""
    rows = band_rows(search.threshold)
    keys = search.sketches.keys(slice(search.band * rows, (search.band + 1) * rows))[distinct]
    order = np.argsort(keys)
    keys, members = keys[order], distinct[order]
    groups = np.cumsum(np.concatenate([np.zeros(1, bool), keys[1:] != keys[:-1]])[: len(keys)])
    known = find(search.roots, members)
    open_groups = np.zeros(len(members) + 1, dtype=bool)
    open_groups[groups[1:][(groups[1:] == groups[:-1]) & (known[1:] != known[:-1])]] = True
    wanted = open_groups[groups]
    return members[wanted], groups[wanted]


def _chunks(members: np.ndarray, groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut at bucket borders into pieces of about _CHUNK records; buckets of a piece are numbered from 0."""
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    cuts = firsts[np.flatnonzero(np.diff(firsts // _CHUNK)) + 1]
    for piece, numbers in zip(np.split(members, cuts), np.split(groups, cuts), strict=True):
        if len(piece):
            yield piece, np.cumsum(np.diff(numbers, prepend=numbers[0]) > 0)


def _link(search: _Search, members: np.ndarray, groups: np.ndarray) -> None:
    """Connect all duplicates of each bucket: first those of a pivot or a few in each, then what is left."""
    marks = search.sketches.marks(members)
    done = np.zeros(len(members), dtype=bool)
    large = np.bincount(groups)[groups] > _LARGE
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    for turn in range(_PIVOTS):
        known = find(search.roots, members)
        # The pivot: the bucket's first member; later, in large buckets, the first one outside that one's component.
        outside = np.flatnonzero(large & ~done & (known != known[firsts][groups])) if turn else firsts
        pivots = np.full(len(firsts), -1)
        pivots[groups[outside][::-1]] = outside[::-1]
        done[pivots[pivots >= 0]] = True
        others = np.flatnonzero((pivots[groups] >= 0) & ~done & (known != known[pivots[groups]]))
        _connect(search, members, marks, pivots[groups[others]], others, large[others])
    # What can still be apart: members outside the component of their bucket's first one, with all but the pivots.
    known = find(search.roots, members)
    outside = ~done & (known != known[firsts][groups])
    places = np.flatnonzero(~done & (np.bincount(groups, outside) > 0)[groups])
    places = places[np.lexsort((~outside[places], groups[places]))]
    for ones, others in _pairs(groups[places], outside[places]):
        known = find(search.roots, members[places])
        apart = known[ones] != known[others]
        ones, others = places[ones[apart]], places[others[apart]]
        _connect(search, members, marks, ones, others, np.zeros(len(ones), dtype=bool))


def _pairs(groups: np.ndarray, outside: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of pairs of places (one < other) of the same group, one of them `outside`, which stand first in a group.

    A group above _TILE comes in squares, so that a block of pairs touches few texts.
    """
    ends = np.searchsorted(groups, groups, side="right")
    sizes = np.bincount(groups)[groups] if len(groups) else groups
    counts = np.where(outside & (sizes <= _TILE), ends - np.arange(len(groups)) - 1, 0)
    total = np.concatenate([[0], np.cumsum(counts)])
    row = 0
    while row < len(groups):
        last = max(row + 1, int(np.searchsorted(total, total[row] + _PAIRS, side="right")) - 1)
        ones = np.repeat(np.arange(row, last), counts[row:last])
        yield ones, ones + 1 + np.arange(len(ones)) - np.repeat(total[row:last] - total[row], counts[row:last])
        row = last
    for group in np.unique(groups[sizes > _TILE]):
        begin, end = np.searchsorted(groups, [group, group + 1])
        stop = begin + np.count_nonzero(outside[begin:end])
        for top in range(begin, stop, _TILE):
            for left in range(top, end, _TILE):
                ones = np.arange(top, min(top + _TILE, stop))
                others = np.arange(left, min(left + _TILE, end))
                wanted = np.nonzero(ones[:, None] < others)
                yield ones[wanted[0]], others[wanted[1]]


def _connect(
    search: _Search, members: np.ndarray, marks: np.ndarray, ones: np.ndarray, others: np.ndarray, always: np.ndarray
) -> None:
    """Join those of the pairs (places in `members`) that are duplicates and, unless `always`, owned by this band."""
    likely = np.flatnonzero(_agreement(marks, ones, others) >= least_agreement(search.threshold))
    ones, others, always = ones[likely], others[likely], always[likely]
    for at in range(0, len(ones), _PAIRS):
        block = slice(at, at + _PAIRS)
        always[block] |= _owned(search, marks[ones[block]], marks[others[block]])
    left, right = members[ones[always]], members[others[always]]
    # 24: so that even of the shortest texts a block holds fewer than 2**19 pairs, as `_similar` needs.
    grams = np.cumsum(search.lengths[left].astype(np.int64) + search.lengths[right] + 24)
    if _crowded(search, left, right):
        _join_crowd(search, left, right)
        return
    for block in np.split(np.arange(len(left)), np.flatnonzero(np.diff(grams // _GRAMS)) + 1):
        block = block[find(search.roots, left[block]) != find(search.roots, right[block])]
        if len(block):
            same = block[_similar(search, left[block], right[block])]
            join(search.roots, left[same], right[same])


def _owned(search: _Search, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether this is the first band in which the signatures ones[i] and others[i] agree; bool."""
    rows = band_rows(search.threshold)
    same = (ones == others)[:, : (search.band + 1) * rows]
    agree = reduce(np.logical_and, (same[:, row::rows] for row in range(rows)))
    return agree[:, search.band] & ~agree[:, : search.band].any(axis=1)


def _agreement(marks: np.ndarray, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    counts = np.empty(len(ones), dtype=np.uint8)
    for at in range(0, len(ones), _COMPARED):
        block = slice(at, at + _COMPARED)
        bits = np.packbits(marks.take(ones[block], 0) == marks.take(others[block], 0), axis=1)
        words = np.bitwise_count(bits.view(np.uint64))
        counts[block] = words[:, 0] + words[:, 1]
    return counts


def _similar(search: _Search, ones: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether two records have n-gram sets of the threshold's Jaccard similarity, and the same signs; bool [pairs].

    A set is that of 44-bit hashes of its grams. In a pair of 1,000 grams two fall together with probability 3e-8, and
    that changes the verdict only where the similarity is within 0.001 of the threshold.
    """
    numbers, places = np.unique(np.concatenate([ones, others]), return_inverse=True)
    texts = search.sketches.texts(numbers)
    grams, offsets = _gram_sets(texts, search.ngram)
    sizes = np.diff(offsets)
    left, right = places[: len(ones)], places[len(ones) :]
    small, large = np.minimum(sizes[left], sizes[right]), np.maximum(sizes[left], sizes[right])
    alike = small / large >= search.threshold
    wanted = np.flatnonzero(alike)
    shared = _shared(grams, offsets, left[wanted], right[wanted])
    alike[wanted] = shared / (small[wanted] + large[wanted] - shared) >= search.threshold
    for pair in np.flatnonzero(alike).tolist():
        alike[pair] = not differ_in_signs(texts[left[pair]], texts[right[pair]])
    return alike


def _gram_sets(texts: Sequence[str], ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Distinct 44-bit gram hashes of each of fewer than 2**20 texts, end to end and ascending in each; offsets."""
    hashes, offsets = gram_hashes_many(texts, ngram)
    keys = (hashes >> _HIGH) | np.repeat(np.arange(len(texts), dtype=np.uint64) << _BITS, np.diff(offsets))
    keys.sort()
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    return keys & _LOW, np.searchsorted(keys, np.arange(len(texts) + 1, dtype=np.uint64) << _BITS)


def _shared(grams: np.ndarray, offsets: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sizes of the intersections of sets left[i] and right[i], int64."""
    # A loop, since sorting all pairs at once takes twice as long: two sets of 200 fit the cache, their sum does not.
    ends = offsets.tolist()
    shared = np.empty(len(left), dtype=np.int64)
    for at, (one, other) in enumerate(zip(left.tolist(), right.tolist(), strict=True)):
        both = np.concatenate((grams[ends[one] : ends[one + 1]], grams[ends[other] : ends[other + 1]]))
        both.sort()
        shared[at] = np.count_nonzero(both[1:] == both[:-1])
    return shared


def _picked(flat: np.ndarray, offsets: np.ndarray, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pieces `which` of `flat`, end to end, and their sizes."""
    sizes = offsets[which + 1] - offsets[which]
    places = np.arange(sizes.sum())
    places += np.repeat(offsets[which] - (np.cumsum(sizes) - sizes), sizes)
    return flat[places], sizes


def _crowded(search: _Search, left: np.ndarray, right: np.ndarray) -> bool:
    """Whether these are so many of all pairs between two sets of texts that `_join_crowd` is the faster way."""
    if len(left) < _CROWD:
        return False
    rows, columns = np.unique(left), np.unique(right)
    grams = search.lengths[rows].sum(dtype=np.int64) + search.lengths[columns].sum(dtype=np.int64)
    return len(left) > 8 * (len(rows) + len(columns)) and grams < 2 * _GRAMS


def _join_crowd(search: _Search, left: np.ndarray, right: np.ndarray) -> None:
    """Join those of the pairs that are duplicates, text by text of `left` against many of `right`."""
    rows, row_of = np.unique(left, return_inverse=True)
    columns = np.unique(right)
    row_texts, texts = search.sketches.texts(rows), search.sketches.texts(columns)
    row_grams, row_offsets = _gram_sets(row_texts, search.ngram)
    grams, offsets = _gram_sets(texts, search.ngram)
    vocabulary, ids = np.unique(np.concatenate([row_grams, grams]), return_inverse=True)
    row_ids, ids = np.split(ids, [len(row_grams)])
    marked = np.zeros(len(vocabulary), dtype=bool)
    order = np.argsort(row_of, kind="stable")
    for row, pairs in enumerate(np.split(order, np.searchsorted(row_of[order], np.arange(1, len(rows))))):
        others = np.searchsorted(columns, right[pairs])
        others = others[find(search.roots, columns[others]) != find(search.roots, rows[row : row + 1])]
        if len(others):
            own = row_ids[row_offsets[row] : row_offsets[row + 1]]
            marked[own] = True
            chosen, sizes = _picked(ids, offsets, others)
            shared = np.add.reduceat(marked[chosen], np.cumsum(sizes) - sizes, dtype=np.int64)
            marked[own] = False
            near = others[shared / (len(own) + sizes - shared) >= search.threshold].tolist()
            same = columns[[other for other in near if not differ_in_signs(row_texts[row], texts[other])]]
            join(search.roots, np.full(len(same), rows[row]), same)
