"""What near-duplicate search needs of a text, a shard at a time on disk: skeleton, MinHash signature, digest, length.

MinHash after Broder 1997, "On the resemblance and containment of documents"; 16 bits a value are enough to tell equal
minima from different ones (b-bit minwise hashing, Li and König 2010, arXiv 0910.3349).
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rensa import RMinHash

from qilin_lib.chimed.shards import write_array, write_bytes
from qilin_lib.chimed.shingles import gram_hashes_many

PERMUTATIONS = 128
FACT = np.dtype([("digest", "S16"), ("length", "<u4")])
_SEED = 42
# Characters signed at once: what a batch's hashes need stays in a core's cache.
_BATCH_CHARS = 60_000


def write_sketch(stem: Path, skeletons: Sequence[str], ngram: int) -> None:
    """Write the shard `stem`: skeletons (any may be empty), and signatures of their sets of character `ngram`-grams.

    Beside the skeletons (shards.write_bytes): <stem>.marks.npy, uint16 [records, PERMUTATIONS]; last <stem>.facts.npy,
    FACT [records].
    """
    encoded = [bones.encode("utf-8") for bones in skeletons]
    write_bytes(stem, encoded)
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
