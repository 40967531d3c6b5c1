"""Packing for DCPT: documents end in EOS and are cut into blocks of `block_size`; the remainder is kept.

The released `pretraining.py` has no EOS between documents and drops the remainder of every 1,000 lines. `isolated`
restarts position ids at every document, which keeps attention inside it, and gives no loss to a document's first
token; `naive` lets documents see each other (MeetKai/functionary#265 measures the difference).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qilin_lib.tokens.template import IGNORE


@dataclass(frozen=True)
class Blocks:
    """ids, positions, labels: int32 arrays of shape (blocks, block_size); padding has label IGNORE."""

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray

    @property
    def useful_tokens(self) -> int:
        """Tokens that carry loss."""
        return int((self.labels != IGNORE).sum())

    def save(self, path: Path) -> None:
        """One .npy of shape (3, blocks, block_size); the same bytes for the same content."""
        np.save(path, np.stack([self.ids, self.positions, self.labels]))


def load_blocks(path: Path) -> Blocks:
    """Read what `Blocks.save` wrote; the pages of a large file are shared by all processes that train on it."""
    return Blocks(*np.load(path, mmap_mode="r"))


def pack(
    documents: Sequence[Sequence[int]], block_size: int, eos_id: int, pad_id: int, packing: str = "isolated"
) -> Blocks:
    """Pack documents (token ids) into blocks. Every token, and one EOS a document, stands in exactly one block."""
    length = sum(map(len, documents)) + len(documents)
    padding = -length % block_size
    stream = np.full(length + padding, pad_id, dtype=np.int32)
    begins = np.zeros(length + padding, dtype=bool)
    at = 0
    for document in documents:
        begins[at] = True
        stream[at : at + len(document)] = document
        at += len(document) + 1
        stream[at - 1] = eos_id
    ids, begins = stream.reshape(-1, block_size), begins.reshape(-1, block_size)
    labels = ids.copy()
    if padding:
        labels[-1, block_size - padding :] = IGNORE
    if packing == "naive":
        return Blocks(ids, np.broadcast_to(np.arange(block_size, dtype=np.int32), ids.shape).copy(), labels)
    begins[:, 0] = True
    if padding:
        # Padding is a "document" of its own, else it would lengthen the last real one.
        begins[-1, block_size - padding] = True
    labels[begins] = IGNORE
    return Blocks(ids, _positions(begins), labels)


def _positions(begins: np.ndarray) -> np.ndarray:
    """Distance of every token to the last True in its row: 0, 1, 2, 0, 1, …"""
    column = np.broadcast_to(np.arange(begins.shape[1], dtype=np.int32), begins.shape)
    return column - np.maximum.accumulate(np.where(begins, column, 0), axis=1)
