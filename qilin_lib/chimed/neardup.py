"""Near-duplicates after Lee et al. 2022 (NearDup, arXiv 2107.06499): MinHash, LSH bands, true Jaccard, components.

Input are sketch shards (sketch.py). A pair is a duplicate when its texts are equal; or when its signatures agree in all
rows of some band, agree in `least_agreement` rows in all, the Jaccard similarity of its n-gram sets reaches the
threshold, and the two do not differ in signs (shingles.differ_in_signs). Duplicates are the connected components of
those pairs: they depend on the texts, the threshold and n alone. MinHash misses a pair at the threshold with
probability 0.01 at most, and joins none below it.

Not every pair is looked at where more than REACH distinct texts share a band's bucket, which copies of one template do:
there a text is compared with the bucket's first and with the REACH that follow it, as others cap their buckets. So time
is at most linear in the distinct texts of a bucket, but REACH comparisons each: template text is slow text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import differ_in_signs, gram_hashes_many
from qilin_lib.chimed.sketch import PERMUTATIONS, Sketches
from qilin_lib.errors import QilinError

REACH = 256
# Records of a band whose signatures are in memory at once (256 bytes each); pairs compared at once, few enough for the
# cache; n-grams of pairs verified at once (some 40 bytes each).
_CHUNK, _COMPARED, _GRAMS = 1_000_000, 1024, 4_000_000


def near_duplicates(
    folder: Path, stems: Sequence[Path], threshold: float, ngram: int, pool: Pool, progress: Callable[[str], None]
) -> np.ndarray:
    """For each record the number of the first record of its component, itself when alone; int64 [records].

    Records are numbered in order of the sketch shards `stems`, then of their place in a shard. An empty skeleton is a
    duplicate of nothing. `folder` takes intermediate arrays (20 bytes a record). The same for any number of workers.
    QilinError: a threshold that is not above 0 and at most 1.
    """
    bands = PERMUTATIONS // band_rows(threshold)
    roots = collapse(folder, stems)
    progress(f"near-duplicates: {len(np.load(folder / 'distinct.npy'))} distinct of {len(roots)} texts, {bands} bands")
    tasks = ((folder, stems, band, threshold, ngram) for band in range(bands))
    for band, edges in enumerate(pool.map(band_edges, tasks), start=1):
        if len(edges):
            roots = joined(roots, edges)
            # Tasks yet to start read what is connected by now and skip it, which changes no component.
            write_array(folder / "roots.npy", roots)
        progress(f"near-duplicates: band {band} of {bands}, {len(edges)} new links")
    return roots


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
    that is not empty; starts.npy, the number of the first record of each shard and of the end; lengths.npy, in
    characters.
    """
    facts = [np.load(stem.with_suffix(".facts.npy")) for stem in stems]
    whole = np.concatenate([np.empty((0, 3), dtype=np.uint64), *facts])
    numbers = np.arange(len(whole))
    order = np.lexsort((whole[:, 1], whole[:, 0]))
    fresh = np.diff(whole[order, :2], axis=0, prepend=0).any(axis=1)
    fresh[:1] = True
    roots = np.empty_like(numbers)
    roots[order] = order[fresh][np.cumsum(fresh) - 1]
    empty = whole[:, 2] == 0
    roots[empty] = numbers[empty]
    write_array(folder / "distinct.npy", np.flatnonzero((roots == numbers) & ~empty))
    write_array(folder / "starts.npy", np.cumsum([0, *map(len, facts)]))
    write_array(folder / "lengths.npy", whole[:, 2].astype(np.uint32))
    write_array(folder / "roots.npy", roots)
    return roots


def joined(roots: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """`roots` (for each number the first of its component) after connecting the pairs `edges`, int64 [n, 2]."""
    numbers = np.arange(len(roots))
    ones, others = np.concatenate([np.stack([numbers, roots], axis=1), edges]).T
    graph = coo_array((np.ones(len(ones), dtype=bool), (ones, others)), shape=(len(roots), len(roots)))
    count, labels = connected_components(graph, directed=False)
    firsts = np.empty(count, dtype=np.int64)
    firsts[labels[::-1]] = numbers[::-1]
    return firsts[labels]


@dataclass(frozen=True, slots=True)
class _Search:
    """What a task knows of the corpus: `roots` and `lengths` of its records, as `collapse` writes them."""

    sketches: Sketches
    roots: np.ndarray
    lengths: np.ndarray
    threshold: float
    ngram: int


def band_edges(folder: Path, stems: Sequence[Path], band: int, threshold: float, ngram: int) -> np.ndarray:
    """Pairs of duplicates that share this band and are not connected in <folder>/roots.npy; int64 [n, 2].

    Memory: some 60 bytes a record of the corpus, 300 a record of _CHUNK, and 40 a gram of _GRAMS.
    """
    starts, roots, lengths, distinct = (
        np.load(folder / f"{name}.npy") for name in ("starts", "roots", "lengths", "distinct")
    )
    search = _Search(Sketches(stems, starts), roots, lengths, threshold, ngram)
    rows = band_rows(threshold)
    keys = search.sketches.keys(slice(band * rows, (band + 1) * rows))[distinct]
    order = np.argsort(keys, kind="stable")
    members = distinct[order]
    groups = np.cumsum(np.diff(keys[order], prepend=keys[order[:1]]) != 0)
    # Only buckets whose members are not all connected.
    mixed = np.zeros(len(groups), dtype=bool)
    mixed[groups[1:][(groups[1:] == groups[:-1]) & (np.diff(roots[members]) != 0)]] = True
    members, groups = members[mixed[groups]], groups[mixed[groups]]
    # Cut between buckets into pieces of about _CHUNK members.
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    cuts = firsts[np.flatnonzero(np.diff(firsts // _CHUNK)) + 1]
    pieces = zip(np.split(members, cuts), np.split(groups, cuts), strict=True)
    return np.concatenate([np.empty((0, 2), dtype=np.int64), *(_links(search, *piece) for piece in pieces)])


def _links(search: _Search, members: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The duplicates among the members of each bucket (`groups`, ascending) that connect what is not connected."""
    marks = search.sketches.marks(members)
    _, firsts, which = np.unique(search.roots[members], return_index=True, return_inverse=True)
    roots, found = firsts[which], [np.empty((0, 2), dtype=np.int64)]
    for pairs in _pairs(groups):
        pairs = pairs[roots[pairs[:, 0]] != roots[pairs[:, 1]]]
        pairs = pairs[_agreement(marks, pairs) >= least_agreement(search.threshold)]
        grams = np.cumsum(search.lengths[members[pairs]].sum(axis=1, dtype=np.int64))
        for block in np.split(pairs, np.flatnonzero(np.diff(grams // _GRAMS)) + 1):
            block = block[roots[block[:, 0]] != roots[block[:, 1]]]
            if len(block):
                same = block[_similar(search, members[block])]
                found.append(members[same])
                roots = joined(roots, same)
    return np.concatenate(found)


def _pairs(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of places of the same group, int64 [n, 2]: of its first with all, then of neighbours ever further apart."""
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    places = np.arange(len(groups))
    yield np.stack([np.repeat(firsts, np.diff(firsts, append=len(groups))), places], axis=1)
    held: list[np.ndarray] = []
    for step in range(1, REACH + 1):
        places = places[: np.searchsorted(places, len(groups) - step)]
        places = places[groups[places] == groups[places + step]]
        held.append(np.stack([places, places + step], axis=1))
        if sum(map(len, held)) > _CHUNK:
            yield np.concatenate(held)
            held.clear()
    yield np.concatenate([np.empty((0, 2), dtype=np.int64), *held])


def _agreement(marks: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """In how many rows the signatures of each pair agree."""
    counts = np.empty(len(pairs), dtype=np.uint8)
    for at in range(0, len(pairs), _COMPARED):
        ones, others = pairs[at : at + _COMPARED].T
        counts[at : at + _COMPARED] = (marks[ones] == marks[others]).sum(axis=1)
    return counts


def _similar(search: _Search, pairs: np.ndarray) -> np.ndarray:
    """Whether two records have n-gram sets of the threshold's Jaccard similarity, and the same signs; bool [pairs].

    A set is that of 62-bit hashes of its grams: two of 1,000 grams fall together with a probability of 1e-13.
    """
    numbers, which = np.unique(pairs, return_inverse=True)
    ones, others = which.reshape(-1, 2).T
    texts = search.sketches.texts(numbers)
    hashes, offsets = gram_hashes_many(texts, search.ngram)
    hashes = (hashes >> np.uint64(2)).astype(np.int64)
    grams = csr_array((np.ones(len(hashes), dtype=np.int32), hashes, offsets), shape=(len(texts), 1 << 62))
    grams.sum_duplicates()
    sizes = np.diff(grams.indptr)
    shared = np.diff(grams[ones].multiply(grams[others]).indptr)
    alike = shared / (sizes[ones] + sizes[others] - shared) >= search.threshold
    for pair in np.flatnonzero(alike).tolist():
        alike[pair] = not differ_in_signs(texts[ones[pair]], texts[others[pair]])
    return alike
