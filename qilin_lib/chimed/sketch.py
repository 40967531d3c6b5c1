"""What near-duplicate search needs of a text, a shard at a time on disk: skeleton, MinHash signature, digest.

A shard with stem `work/00012` holds, beside the skeletons (shards.write_texts),
  00012.marks.npy  the signatures, uint16 [records, PERMUTATIONS];
  00012.facts.npy  uint64 [records, 3], a 128-bit digest of the skeleton and its length in characters; written last.

MinHash after Broder 1997, "On the resemblance and containment of documents"; 16 bits a value are enough to tell equal
minima from different ones (b-bit minwise hashing, Li and König 2010, arXiv 0910.3349).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rensa import RMinHash

from qilin_lib.chimed.shards import Texts, write_array, write_texts
from qilin_lib.chimed.shingles import gram_hashes_many

PERMUTATIONS = 128
_SEED = 42
# Characters signed at once: what a batch's hashes need stays in a core's cache.
_BATCH_CHARS = 60_000


def write_sketch(stem: Path, skeletons: Sequence[str], ngram: int) -> None:
    """Write the shard `stem`: skeletons (any may be empty), and signatures of their sets of character `ngram`-grams."""
    write_texts(stem, skeletons)
    write_array(stem.with_suffix(".marks.npy"), signatures(skeletons, ngram))
    digests = b"".join(hashlib.blake2b(bones.encode("utf-8"), digest_size=16).digest() for bones in skeletons)
    lengths = np.fromiter(map(len, skeletons), dtype=np.uint64, count=len(skeletons))
    facts = np.column_stack([np.frombuffer(digests, dtype="<u8").reshape(-1, 2), lengths])
    write_array(stem.with_suffix(".facts.npy"), facts)


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


@dataclass(frozen=True, slots=True)
class Sketches:
    """The shards of a corpus, its records numbered from 0 in order of the shards.

    starts: the number of each shard's first record, and of the end.
    """

    stems: Sequence[Path]
    starts: np.ndarray

    def keys(self, rows: slice) -> np.ndarray:
        """For each record a 64-bit hash of these rows of its signature; uint64 [records]."""
        keys = np.zeros(self.starts[-1], dtype=np.uint64)
        for stem, start, end in zip(self.stems, self.starts, self.starts[1:], strict=False):
            for column in np.load(stem.with_suffix(".marks.npy"))[:, rows].T:
                keys[start:end] = keys[start:end] * np.uint64(0x9E3779B97F4A7C15) ^ column
        return keys

    def marks(self, numbers: np.ndarray) -> np.ndarray:
        """Signatures of records, uint16 [len(numbers), PERMUTATIONS]."""
        marks = np.empty((len(numbers), PERMUTATIONS), dtype=np.uint16)
        for stem, start, places in self._by_shard(numbers):
            marks[places] = np.load(stem.with_suffix(".marks.npy"))[numbers[places] - start]
        return marks

    def texts(self, numbers: np.ndarray) -> list[str]:
        """Skeletons of records."""
        texts = [""] * len(numbers)
        for stem, start, places in self._by_shard(numbers):
            shard = Texts(stem)
            for place in places.tolist():
                texts[place] = shard[int(numbers[place] - start)]
        return texts

    def _by_shard(self, numbers: np.ndarray) -> Iterator[tuple[Path, int, np.ndarray]]:
        order = np.argsort(numbers, kind="stable")
        bounds = np.searchsorted(numbers[order], self.starts)
        for shard in np.flatnonzero(np.diff(bounds)):
            yield self.stems[shard], self.starts[shard], order[bounds[shard] : bounds[shard + 1]]
