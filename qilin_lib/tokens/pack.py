"""Packing for DCPT: documents end in EOS and are cut into blocks of `block_size`; the remainder is kept.

The released `pretraining.py` has no EOS between documents and drops the remainder of every 1,000 lines. `isolated`
restarts position ids at every document, which keeps attention inside it, and gives no loss to a document's first
token; `naive` lets documents see each other (MeetKai/functionary#265 measures the difference). `begin` is what the
tokenizer puts before a text by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.tokens.template import IGNORE

# Tokens that are packed at a time.
TOKENS = 1 << 18


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
    """Read what `write` wrote; the pages of a large file are shared by all processes that train on it."""
    return Blocks(*np.load(path, mmap_mode="r"))


def pack(documents: Sequence[Sequence[int]], *how: Any) -> Blocks:
    """Pack documents (token ids) into blocks, given the further arguments of `packed`. Every token, and one EOS a
    document, stands in exactly one block."""
    some = list(packed(documents, *how))
    return Blocks(*map(np.concatenate, zip(*(vars(blocks).values() for blocks in some), strict=True)))


def write(path: Path, documents: Iterable[Sequence[int]], length: int, *how: Any) -> int:
    """`pack` documents straight into the file that `Blocks.save` would write; returns how many tokens carry loss.

    `length` is what they take, beginnings and ends included, `how` the further arguments of `packed`; memory is that of
    some blocks.
    """
    block_size = how[0]
    count = -(-length // block_size)
    done = useful = 0
    with files.atomic(path, binary=True) as handle:
        described = {"descr": "<i4", "fortran_order": False, "shape": (3, count, block_size)}
        np.lib.format.write_array_header_1_0(handle, described)
        start = handle.tell()
        for blocks in packed(documents, *how):
            for place, part in enumerate(vars(blocks).values()):
                handle.seek(start + 4 * block_size * (place * count + done))
                handle.write(part.tobytes())
            done += len(blocks.ids)
            useful += blocks.useful_tokens
    return useful


def packed(
    documents: Iterable[Sequence[int]],
    block_size: int,
    eos_id: int,
    pad_id: int,
    packing: str = "isolated",
    begin: Sequence[int] = (),
) -> Iterator[Blocks]:
    """The blocks of `pack`, some at a time."""
    stream = np.full(max(1, TOKENS // block_size) * block_size, pad_id, dtype=np.int32)
    begins = np.zeros(len(stream), dtype=bool)
    at, head, tail = 0, np.asarray(begin, np.int32), np.array([eos_id], np.int32)
    for document in documents:
        ids = np.concatenate([head, np.asarray(document, np.int32), tail])
        begins[at] = True
        while at + len(ids) >= len(stream):
            room = len(stream) - at
            stream[at:], ids = ids[:room], ids[room:]
            yield _blocks(stream, begins, len(stream), block_size, packing)
            stream, begins, at = np.full_like(stream, pad_id), np.zeros_like(begins), 0
        stream[at : at + len(ids)] = ids
        at += len(ids)
    rows = -(-at // block_size) * block_size
    yield _blocks(stream[:rows], begins[:rows], at, block_size, packing)


def _blocks(stream: np.ndarray, begins: np.ndarray, length: int, block_size: int, packing: str) -> Blocks:
    """Whole blocks; from token `length` on there is only padding."""
    labels = stream.copy()
    labels[length:] = IGNORE
    if packing == "isolated":
        begins[::block_size] = True
        # Padding is a "document" of its own, else it would lengthen the last real one.
        begins[length : length + 1] = True
        labels[begins] = IGNORE
    else:
        begins = np.zeros_like(begins)
        begins[::block_size] = True
    ids, labels, begins = (part.reshape(-1, block_size) for part in (stream, labels, begins))
    column = np.broadcast_to(np.arange(block_size, dtype=np.int32), begins.shape)
    # The distance of every token to the last beginning in its row: 0, 1, 2, 0, 1, …
    return Blocks(ids, column - np.maximum.accumulate(np.where(begins, column, 0), axis=1), labels)
