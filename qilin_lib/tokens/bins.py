"""Packing for SFT: the conversations of one batch share rows without seeing each other.

The batch stays what the paper counts (§4.2: conversations a GPU); only its padding goes. Positions restart at every
conversation and at the padding, which is how transformers tells neighbours apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from qilin_lib.tokens.pack import Blocks
from qilin_lib.tokens.template import IGNORE

Rows = list[list[int]]


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def pack_rows(lengths: Sequence[int], capacity: int) -> Rows:
    """Which sequences stand in which row: few rows of at most `capacity` tokens, and these as equally full as found.

    First-fit, in decreasing order or in the given one if that needs fewer rows; then the capacity is lowered by
    bisection as far as the number of rows allows (MULTIFIT: Coffman, Garey & Johnson 1978), because every row is padded
    to the fullest. Indices ascend in a row, rows by their first; a function of its arguments alone. ValueError for a
    sequence longer than `capacity`.
    """
    if not lengths:
        return []
    if max(lengths) > capacity:
        raise ValueError(f"a sequence of {max(lengths)} tokens does not fit a row of {capacity}")
    decreasing = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    found = min((_first_fit(lengths, capacity, order) for order in (decreasing, range(len(lengths)))), key=len)
    low, high = max(lengths), _fullest(found, lengths)
    while low < high:
        middle = (low + high) // 2
        tried = _first_fit(lengths, middle, decreasing)
        if len(tried) <= len(found):
            found, high = tried, _fullest(tried, lengths)
        else:
            low = middle + 1
    return sorted(sorted(row) for row in found)


def in_order(lengths: Sequence[int], capacity: int) -> Rows:
    """The sequences one after the other as they come, a new row where the next one does not fit."""
    return _first_fit(lengths, capacity, range(len(lengths)), last_only=True)


def _first_fit(lengths: Sequence[int], capacity: int, order: Iterable[int], last_only: bool = False) -> Rows:
    rows: Rows = []
    room: list[int] = []
    for i in order:
        tried = range(max(0, len(rows) - 1) if last_only else 0, len(rows))
        row = next((row for row in tried if room[row] >= lengths[i]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


def _fullest(rows: Rows, lengths: Sequence[int]) -> int:
    return max(sum(lengths[i] for i in row) for row in rows)


def fill(sequences: Sequence[tuple[Sequence[int], Sequence[int]]], rows: Rows, pad_id: int) -> Blocks:
    """Rows of (ids, labels) sequences as arrays of shape (rows, tokens of the fullest), padded on the right.

    A sequence's first token and the padding carry no loss.
    """
    width = _fullest(rows, [len(ids) for ids, _ in sequences])
    shape = (len(rows), width)
    blocks = Blocks(np.full(shape, pad_id, np.int32), np.zeros(shape, np.int32), np.full(shape, IGNORE, np.int32))
    for row, members in enumerate(rows):
        start = 0
        for i in members:
            ids, labels = sequences[i]
            end = start + len(ids)
            blocks.ids[row, start:end] = ids
            blocks.positions[row, start:end] = np.arange(len(ids))
            blocks.labels[row, start + 1 : end] = labels[1:]
            start = end
        # Padding is a "sequence" of its own, else it would lengthen the last real one.
        blocks.positions[row, start:] = np.arange(width - start)
    return blocks
