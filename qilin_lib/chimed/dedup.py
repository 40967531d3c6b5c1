"""Near-duplicates after Lee et al. 2022 (arXiv 2107.06499): MinHash over character n-grams, LSH banding, true Jaccard.

A pair counts only when the true Jaccard similarity of its n-gram sets reaches the threshold; MinHash merely proposes
pairs. Duplicates are the connected components of those pairs; of each the first in corpus order is kept. The result
depends on nothing but the texts, the threshold and n.

Exact-substring removal, the other half of Lee et al., belongs here as `repeated_spans(texts, length)` over a suffix
array (pydivsufsort); not written yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np

from qilin_lib.chimed.shingles import gram_hashes, gram_set

PERMUTATIONS = 128
_BATCH = 512
# Standard deviation of a MinHash estimate is at most 0.5 / sqrt(128) = 0.044: a pair whose estimate lies this far
# (5 deviations) below the threshold is not worth verifying.
_MARGIN = 0.22


def signatures(skeletons: Sequence[str], ngram: int = 5) -> np.ndarray:
    """MinHash signatures, uint32 [len(skeletons), PERMUTATIONS]."""
    from rensa import RMinHash

    rows = [np.empty((0, PERMUTATIONS), dtype=np.uint32)]
    for start in range(0, len(skeletons), _BATCH):
        hashes = [gram_hashes(bones, ngram) for bones in skeletons[start : start + _BATCH]]
        offsets = np.cumsum([0, *map(len, hashes)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(hashes), offsets, PERMUTATIONS, 42)
        rows.append(np.array(matrix.to_rows(), dtype=np.uint32))
    return np.concatenate(rows)


def band_rows(threshold: float) -> int:
    """Rows a band such that a pair exactly at the threshold shares a band with probability >= 0.999 (1 to 16)."""
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows) >= 0.999:
            return rows
    return 1


def duplicates(skeletons: Sequence[str], marks: np.ndarray, threshold: float = 0.7, ngram: int = 5) -> list[int | None]:
    """For each text the index of the earlier text that is kept instead of it, or None when the text itself is kept.

    `marks` are the signatures of `skeletons`. An empty skeleton is a duplicate of nothing.
    """
    first: dict[str, int] = {}
    same = [first.setdefault(bones, number) if bones else number for number, bones in enumerate(skeletons)]
    distinct = np.array(sorted(first.values()), dtype=np.int64)
    grams = lru_cache(maxsize=20_000)(lambda number: gram_set(skeletons[number], ngram))
    parents = list(range(len(skeletons)))
    for one, other in _candidates(distinct, marks, threshold):
        roots = _root(parents, one), _root(parents, other)
        if roots[0] != roots[1] and jaccard(grams(one), grams(other)) >= threshold:
            parents[max(roots)] = min(roots)
    kept = [_root(parents, number) for number in same]
    return [None if keeper == number else keeper for number, keeper in enumerate(kept)]


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """|A ∩ B| / |A ∪ B|; 0.0 for two empty sets."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared) if shared else 0.0


def _candidates(distinct: np.ndarray, marks: np.ndarray, threshold: float) -> Iterator[tuple[int, int]]:
    rows = band_rows(threshold)
    enough = int(np.ceil((threshold - _MARGIN) * PERMUTATIONS))
    for start in range(0, PERMUTATIONS, rows):
        band = np.ascontiguousarray(marks[distinct, start : start + rows])
        _, labels = np.unique(band.view(np.dtype((np.void, band.shape[1] * 4))).ravel(), return_inverse=True)
        order = np.argsort(labels, kind="stable")
        starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
        ends = np.append(starts[1:], len(order))
        for group in np.flatnonzero(ends - starts > 1):
            yield from _similar(distinct[order[starts[group] : ends[group]]], marks, enough)


def _similar(group: np.ndarray, marks: np.ndarray, enough: int) -> Iterator[tuple[int, int]]:
    table = marks[group]
    for at in range(len(group) - 1):
        agree = (table[at + 1 :] == table[at]).sum(axis=1)
        for other in group[at + 1 :][agree >= enough]:
            yield int(group[at]), int(other)


def _root(parents: list[int], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
