"""Packing of a batch: every conversation once, no row too long, no more rows than first-fit, padding on its own."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from qilin_lib.tokens.bins import fill, pack_rows
from qilin_lib.tokens.template import IGNORE

CAPACITY = st.integers(1, 40)
BATCHES = CAPACITY.flatmap(lambda c: st.tuples(st.lists(st.integers(1, c), max_size=14), st.just(c)))


def sums(rows: list[list[int]], lengths: list[int]) -> list[int]:
    return [sum(lengths[i] for i in row) for row in rows]


def first_fit(lengths: list[int], capacity: int) -> int:
    """The oracle: rows that first-fit needs in the given order."""
    room: list[int] = []
    for length in lengths:
        for row in range(len(room)):
            if room[row] >= length:
                room[row] -= length
                break
        else:
            room.append(capacity - length)
    return len(room)


@given(BATCHES)
@example(([5, 3, 2, 4, 4, 2], 10))
def test_every_sequence_once_within_capacity_and_in_few_rows(batch: tuple[list[int], int]) -> None:
    lengths, capacity = batch
    rows = pack_rows(lengths, capacity)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(total <= capacity for total in sums(rows, lengths))
    assert len(rows) <= first_fit(lengths, capacity)
    assert len(rows) <= first_fit(sorted(lengths, reverse=True), capacity)
    assert all(row == sorted(row) for row in rows) and [row[0] for row in rows] == sorted(row[0] for row in rows)


def narrowest(lengths: list[int], count: int) -> int:
    """The oracle: the fullest row's tokens in the best of all divisions into `count` rows, by trying every one."""
    ways = product(range(count), repeat=len(lengths))
    return min(
        max(sum(n for n, r in zip(lengths, way, strict=True) if r == row) for row in range(count)) for way in ways
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(30, 60))
def test_rows_are_nearly_as_equal_as_they_can_be(lengths: list[int], capacity: int) -> None:
    rows = pack_rows(lengths, capacity)
    # MULTIFIT's bound is 13/11; a token more, because lengths are whole.
    assert max(sums(rows, lengths)) <= narrowest(lengths, len(rows)) * 13 / 11 + 1


def test_rows_share_what_there_is() -> None:
    assert pack_rows([300, 100, 100, 100, 100, 100], 640) == [[0, 1], [2, 3, 4, 5]]
    assert pack_rows([50] * 12, 320) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert pack_rows([7], 7) == [[0]] and pack_rows([], 7) == []
    with pytest.raises(ValueError, match="9 tokens does not fit a row of 8"):
        pack_rows([3, 9], 8)


SEQUENCES = st.lists(
    st.lists(st.integers(4, 99), min_size=1, max_size=9).flatmap(
        lambda ids: st.tuples(st.just(ids), st.tuples(*[st.sampled_from([IGNORE, token]) for token in ids]).map(list))
    ),
    min_size=1,
    max_size=6,
)


@given(SEQUENCES, st.booleans())
def test_filled_rows_hold_each_sequence_and_isolated_padding(
    sequences: list[tuple[list[int], list[int]]], packing: bool
) -> None:
    lengths = [len(ids) for ids, _ in sequences]
    rows = pack_rows(lengths, 20) if packing else [[i] for i in range(len(sequences))]
    blocks = fill(sequences, rows, pad_id=0)
    width = max(sums(rows, lengths))
    assert all(part.shape == (len(rows), width) and part.dtype == np.int32 for part in vars(blocks).values())
    for row, members in enumerate(rows):
        ids = [token for i in members for token in sequences[i][0]]
        positions = [place for i in members for place in range(lengths[i])]
        labels = [label for i in members for label in [IGNORE, *sequences[i][1][1:]]]
        rest = width - len(ids)
        assert blocks.ids[row].tolist() == ids + [0] * rest
        assert blocks.positions[row].tolist() == positions + list(range(rest))
        assert blocks.labels[row].tolist() == labels + [IGNORE] * rest
