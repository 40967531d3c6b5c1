"""Near-duplicates after Lee et al. 2022 (NearDup, arXiv 2107.06499): MinHash, LSH bands, true Jaccard, components.

A pair is a duplicate when its texts are equal; or when its signatures agree in all rows of some band, agree in
`least_agreement` rows in all, the Jaccard similarity of its n-gram sets reaches the threshold, and the two do not
differ in signs (shingles.differ_in_signs). Duplicates are the connected components of those pairs. MinHash misses a
pair at the threshold with probability 0.01 at most, and joins none below it.

MinHash after Broder 1997, "On the resemblance and containment of documents"; 16 bits a value are enough to tell equal
minima from different ones (b-bit minwise hashing, Li and König 2010, arXiv 0910.3349).

Where more than REACH distinct texts share a bucket of a band, as texts on one template do, a text is compared with the
bucket's first and with the REACH that follow it only; pairs further apart may be missed there.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from rensa import RMinHash
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import bdtr

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts, write_array, write_texts
from qilin_lib.chimed.shingles import differ_in_signs, gram_hashes_many

PERMUTATIONS, _SEED = 128, 42
FACT = np.dtype([("digest", "S16"), ("length", "<u4")])
# Characters signed at once: what a batch's hashes need stays in a core's cache.
_BATCH_CHARS = 60_000
REACH = 256
# Records of a band whose signatures are in memory at once (256 bytes each); pairs compared at once, few enough for the
# cache; n-grams of pairs verified at once (some 40 bytes each).
_CHUNK, _COMPARED, _GRAMS = 1_000_000, 1024, 4_000_000
_NO_PAIRS = np.empty((0, 2), dtype=np.int64)


def write_sketch(stem: Path, skeletons: Sequence[str], ngram: int) -> None:
    """Write the shard `stem`: skeletons (any may be empty), and signatures of their sets of character `ngram`-grams.

    Beside the skeletons (shards.write_texts): <stem>.marks.npy, uint16 [records, PERMUTATIONS]; last <stem>.facts.npy,
    FACT [records].
    """
    encoded = [bones.encode("utf-8") for bones in skeletons]
    write_texts(stem, encoded)
    write_array(stem.with_suffix(".marks.npy"), signatures(skeletons, ngram))
    digests = (hashlib.blake2b(raw, digest_size=16).digest() for raw in encoded)
    facts = [*zip(digests, map(len, skeletons), strict=True)]
    write_array(stem.with_suffix(".facts.npy"), np.array(facts, dtype=FACT))


def signatures(skeletons: Sequence[str], ngram: int) -> np.ndarray:
    """MinHash signatures, uint16 [len(skeletons), PERMUTATIONS]; that of an empty skeleton is all zero."""
    marks = np.zeros((len(skeletons), PERMUTATIONS), dtype=np.uint16)
    filled = np.flatnonzero([bool(bones) for bones in skeletons])
    batch = np.cumsum([len(skeletons[number]) for number in filled]) // _BATCH_CHARS
    for members in np.split(filled, np.flatnonzero(np.diff(batch)) + 1) if len(filled) else ():
        hashes, offsets = gram_hashes_many([skeletons[number] for number in members], ngram)
        table = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), PERMUTATIONS, _SEED)
        flat = array("I")
        for row in table.to_rows():
            flat.fromlist(row)
        minima = np.frombuffer(flat, dtype=np.uint32).reshape(-1, PERMUTATIONS)
        # The minimum over a long text is small, so its own 16 bits would say little; a multiplication spreads it.
        marks[members] = minima * np.uint32(0x9E3779B1) >> np.uint32(16)
    return marks


def near_duplicates(
    folder: Path, stems: Sequence[Path], threshold: float, ngram: int, pool: Pool, progress: Callable[[str], None]
) -> np.ndarray:
    """For each record the number of the first record of its component, itself when alone; int64 [records].

    Records are numbered in order of the shards `stems` of `write_sketch`. An empty skeleton is a duplicate of nothing.
    `folder` takes intermediate arrays.
    """
    bands = PERMUTATIONS // band_rows(threshold)
    roots = _collapse(folder, stems)
    progress(f"near-duplicates: {len(np.load(folder / 'distinct.npy'))} distinct of {len(roots)} texts, {bands} bands")
    tasks = ((folder, stems, band, threshold, ngram) for band in range(bands))
    for band, edges in enumerate(pool.map(_band_edges, tasks), start=1):
        if len(edges):
            roots = joined(roots, edges)
            # Tasks yet to start read what is connected by now and skip it, which changes no component.
            write_array(folder / "roots.npy", roots)
        progress(f"near-duplicates: band {band} of {bands}, {len(edges)} new links")
    return roots


def band_rows(threshold: float) -> int:
    """The most rows a band such that a pair exactly at the threshold shares a band with probability >= 0.991."""
    for rows in range(PERMUTATIONS, 1, -1):
        if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= 0.009:
            return rows
    return 1


def least_agreement(threshold: float) -> int:
    """The agreeing rows below which a pair in a band is not verified; one at the threshold has fewer with p = 0.0001.

    With `band_rows`: a pair at the threshold is found with probability >= 0.99, one above it more surely.
    """
    sure = band_rows(threshold)
    free = PERMUTATIONS - sure
    return sure + int((bdtr(np.arange(free), free, threshold) <= 0.0001).sum())


def _collapse(folder: Path, stems: Sequence[Path]) -> np.ndarray:
    """Connect equal skeletons: for each record the number of the first equal one, int64 [records].

    Writes for `_band_edges`, in `folder`: this as roots.npy; distinct.npy, the numbers of the first of each skeleton
    that is not empty; starts.npy, the number of each shard's first record and of the end; lengths.npy, in characters.
    """
    facts = [np.load(stem.with_suffix(".facts.npy")) for stem in stems]
    whole = np.concatenate([np.empty(0, dtype=FACT), *facts])
    _, firsts, which = np.unique(whole["digest"], return_index=True, return_inverse=True)
    roots, numbers, filled = firsts[which], np.arange(len(whole)), whole["length"] > 0
    roots[~filled] = numbers[~filled]
    write_array(folder / "distinct.npy", np.flatnonzero((roots == numbers) & filled))
    write_array(folder / "starts.npy", np.cumsum([0, *map(len, facts)]))
    write_array(folder / "lengths.npy", whole["length"])
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


def _band_edges(folder: Path, stems: Sequence[Path], band: int, threshold: float, ngram: int) -> np.ndarray:
    """Pairs of duplicates that share this band and are not connected in <folder>/roots.npy; int64 [n, 2]."""
    search, rows = _Search(folder, stems, threshold, ngram), band_rows(threshold)
    distinct = np.load(folder / "distinct.npy")
    keys = np.zeros(len(distinct), dtype=np.uint64)
    for row in search.marks(distinct, slice(band * rows, (band + 1) * rows)).T:
        keys = keys * np.uint64(0x9E3779B97F4A7C15) ^ row
    order = np.argsort(keys, kind="stable")
    members, groups = distinct[order], np.cumsum(np.diff(keys[order], prepend=keys[order[:1]]) != 0)
    # Only buckets whose members are not all connected.
    mixed = np.zeros(len(groups), dtype=bool)
    mixed[groups[1:][(groups[1:] == groups[:-1]) & (np.diff(search.roots[members]) != 0)]] = True
    members, groups = members[mixed[groups]], groups[mixed[groups]]
    # Cut between buckets into pieces of about _CHUNK members.
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    cuts = firsts[np.flatnonzero(np.diff(firsts // _CHUNK)) + 1]
    pieces = zip(np.split(members, cuts), np.split(groups, cuts), strict=True)
    return np.concatenate([_NO_PAIRS, *(search.links(band * rows, *piece) for piece in pieces)])


class _Search:
    """The records of a corpus, numbered over all shards, as a task sees them."""

    def __init__(self, folder: Path, stems: Sequence[Path], threshold: float, ngram: int) -> None:
        self.stems, self.threshold, self.ngram, self._shard = stems, threshold, ngram, cache(Texts)
        self.starts, self.roots, self.lengths = (np.load(folder / f"{n}.npy") for n in ("starts", "roots", "lengths"))

    def links(self, row: int, members: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """The duplicates among the members of each bucket (`groups`, ascending) that connect what is apart.

        `row`: the band's first. A pair that shares an earlier band is left to that one, but in buckets above REACH.
        """
        marks, large = self.marks(members), np.bincount(groups)[groups] > REACH
        _, firsts, which = np.unique(self.roots[members], return_index=True, return_inverse=True)
        roots, found = firsts[which], [_NO_PAIRS]
        for pairs in _pairs(groups):
            pairs = pairs[roots[pairs[:, 0]] != roots[pairs[:, 1]]]
            pairs = np.concatenate([_NO_PAIRS, *self._likely(row, marks, large, pairs)])
            grams = np.cumsum(self.lengths[members[pairs]].sum(axis=1, dtype=np.int64))
            for block in np.split(pairs, np.flatnonzero(np.diff(grams // _GRAMS)) + 1):
                block = block[roots[block[:, 0]] != roots[block[:, 1]]]
                if len(block):
                    same = block[self._similar(members[block])]
                    found.append(members[same])
                    roots = joined(roots, same)
        return np.concatenate(found)

    def _likely(self, row: int, marks: np.ndarray, large: np.ndarray, pairs: np.ndarray) -> Iterator[np.ndarray]:
        """Those of the pairs whose signatures agree in enough rows, and that are this band's."""
        least, rows = least_agreement(self.threshold), band_rows(self.threshold)
        for at in range(0, len(pairs), _COMPARED):
            some = pairs[at : at + _COMPARED]
            same = marks[some[:, 0]] == marks[some[:, 1]]
            enough = same.sum(axis=1) >= least
            some, before = some[enough], same[enough, :row].reshape(enough.sum(), row // rows, rows)
            yield some[large[some[:, 0]] | ~before.all(axis=2).any(axis=1)]

    def _similar(self, pairs: np.ndarray) -> np.ndarray:
        """Whether two records have n-gram sets of the threshold's Jaccard similarity, and the same signs; bool."""
        numbers, which = np.unique(pairs, return_inverse=True)
        ones, others = which.reshape(-1, 2).T
        texts = self.texts(numbers)
        hashes, offsets = gram_hashes_many(texts, self.ngram)
        hashes = (hashes >> np.uint64(2)).astype(np.int64)
        grams = csr_array((np.ones(len(hashes), dtype=np.int32), hashes, offsets), shape=(len(texts), 1 << 62))
        grams.sum_duplicates()
        sizes = np.diff(grams.indptr)
        shared = np.diff(grams[ones].multiply(grams[others]).indptr)
        alike = shared / (sizes[ones] + sizes[others] - shared) >= self.threshold
        for pair in np.flatnonzero(alike).tolist():
            alike[pair] = not differ_in_signs(texts[ones[pair]], texts[others[pair]])
        return alike

    def marks(self, numbers: np.ndarray, rows: slice = slice(None)) -> np.ndarray:
        """These rows of records' signatures, uint16 [len(numbers), rows]."""
        marks = np.empty((len(numbers), len(range(PERMUTATIONS)[rows])), dtype=np.uint16)
        for stem, start, places in self._by_shard(numbers):
            marks[places] = np.load(stem.with_suffix(".marks.npy"))[:, rows][numbers[places] - start]
        return marks

    def texts(self, numbers: np.ndarray) -> list[str]:
        """Skeletons of records."""
        texts = [""] * len(numbers)
        for stem, start, places in self._by_shard(numbers):
            for place, text in zip(places.tolist(), self._shard(stem).some(numbers[places] - start), strict=True):
                texts[place] = text
        return texts

    def _by_shard(self, numbers: np.ndarray) -> Iterator[tuple[Path, int, np.ndarray]]:
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], self.starts)
        for shard in np.flatnonzero(np.diff(bounds)):
            yield self.stems[shard], self.starts[shard], order[bounds[shard] : bounds[shard + 1]]


def _pairs(groups: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of places of the same group, int64 [n, 2]: of its first with all, then of neighbours ever further apart."""
    firsts = np.flatnonzero(np.diff(groups, prepend=-1))
    places = np.arange(len(groups))
    yield np.stack([np.repeat(firsts, np.diff(firsts, append=len(groups))), places], axis=1)
    held = [_NO_PAIRS]
    for step in range(1, REACH + 1):
        places = places[: np.searchsorted(places, len(groups) - step)]
        places = places[groups[places] == groups[places + step]]
        held.append(np.stack([places, places + step], axis=1))
        if sum(map(len, held)) > _CHUNK:
            yield np.concatenate(held)
            held = [_NO_PAIRS]
    yield np.concatenate(held)
