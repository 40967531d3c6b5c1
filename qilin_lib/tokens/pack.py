"""Packing for DCPT: documents end in EOS and are cut into blocks of `block_size`; the remainder is kept.

The released `pretraining.py` has no EOS between documents and drops the remainder of every 1,000 lines. `isolated`
restarts position ids at every document, which keeps attention inside it, and gives no loss to a document's first
token; `naive` lets documents see each other (MeetKai/functionary#265 measures the difference).
"""

from __future__ import annotations

from collections.abc import Iterable
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
    """Read what `Blocks.save` wrote."""
    return Blocks(*np.load(path))


def pack(
    documents: Iterable[list[int]], block_size: int, eos_id: int, pad_id: int, packing: str = "isolated"
) -> Blocks:
    """Pack token lists into blocks. Every token of every document, and one EOS each, stands in exactly one block."""
    stream: list[int] = []
    starts: list[bool] = []
    for document in documents:
        stream += [*document, eos_id]
        starts += [True] + [False] * len(document)
    padding = -len(stream) % block_size
    ids = np.array(stream + [pad_id] * padding, dtype=np.int32).reshape(-1, block_size)
    begins = np.array(starts + [False] * padding, dtype=bool).reshape(ids.shape)
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
