"""The other way to find passages: vectors of an encoder (the extra `retrieval-dense`), and both rankings together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from qilin_lib.chimed.shards import write_array
from qilin_lib.errors import QilinError
from qilin_lib.retrieval.index import Index, best

Encode = Callable[[Sequence[str]], np.ndarray]
# Of reciprocal ranks (Cormack et al. 2009): how little the first ranks count more than the next.
RANK_CONSTANT = 60


def encoder(name: str) -> Encode:
    """Unit vectors float32 [texts, width] of a sentence-transformers model, a folder or a hub id.

    QilinError: the package is not installed, or the model cannot be loaded.
    """
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        raise QilinError("retrieval: dense: sentence-transformers is missing: pip install .[retrieval-dense]") from None
    try:
        model = SentenceTransformer(name)
    except (OSError, ValueError) as reason:
        raise QilinError(f"retrieval: dense: '{name}' cannot be loaded: {reason}") from reason
    return lambda texts: model.encode([*texts], normalize_embeddings=True, show_progress_bar=False)


def vectors(index: Index, encode: Encode, path: Path, at_once: int = 4096) -> np.ndarray:
    """The vectors of all passages of an index, float16 [len(index), width], written to `path` unless they are there."""
    if not path.exists():
        numbers = range(0, len(index), at_once)
        texts = ([index.hit(n).text for n in range(first, min(first + at_once, len(index)))] for first in numbers)
        write_array(path, np.concatenate([encode(some).astype(np.float16) for some in texts]))
    return np.load(path, mmap_mode="r")


def nearest_vectors(passages: np.ndarray, query: np.ndarray, k: int, at_once: int = 65_536) -> list[tuple[int, float]]:
    """(number, cosine) of the `k` passages nearest to `query` [width], of equal ones the first."""
    parts = range(0, len(passages), at_once)
    return best(np.concatenate([passages[at : at + at_once].astype(np.float32) @ query for at in parts]), k)


def fused(rankings: Sequence[Sequence[int]], k: int) -> list[tuple[int, float]]:
    """(number, Σ 1 / (60 + rank)) of the best `k` of several rankings of numbers, of equal ones the first."""
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, number in enumerate(ranking, start=1):
            scores[number] += 1 / (RANK_CONSTANT + rank)
    return sorted(scores.items(), key=lambda row: (-row[1], row[0]))[:k]
