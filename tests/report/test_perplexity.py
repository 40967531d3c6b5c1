"""Perplexity before and after: a token and a character, with intervals over documents."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qilin_lib.report.training import improved, perplexity_table

DRAWS = {"bootstrap_resamples": 1000, "seed": 17}
# Two documents, 3 nats a token before and 2 after; three tokens spell two characters.
SCORES: dict[str, Any] = {
    "medical": {"tokens": [30, 60], "chars": [20, 40], "before": [-90.0, -180.0], "after": [-60.0, -120.0]}
}


def value(cell: str) -> float:
    return float(cell.split(" [")[0])


def bounds(cell: str) -> list[float]:
    return [float(part) for part in cell.split(" [")[1].rstrip("]").split(", ")]


def test_perplexity_a_token_and_a_character() -> None:
    row = perplexity_table(SCORES, DRAWS).words.iloc[0]
    assert [value(row[name]) for name in ("before", "after", "after / before")] == pytest.approx(
        [math.exp(3), math.exp(2), math.exp(-1)], rel=0.01
    )
    names = ("before, a character", "after, a character", "after / before, a character")
    assert [value(row[name]) for name in names] == pytest.approx([math.exp(4.5), math.exp(3), math.exp(-1.5)], rel=0.01)


def test_intervals_hold_the_value_and_open_with_the_spread() -> None:
    """The same ratio in every document leaves no width; documents that differ do."""
    flat = perplexity_table(SCORES, DRAWS).words.iloc[0]["before, a character"]
    assert bounds(flat) == [value(flat)] * 2
    spread = {"medical": {**SCORES["medical"], "before": [-90.0, -90.0]}}
    cell = perplexity_table(spread, DRAWS).words.iloc[0]["before, a character"]
    low, high = bounds(cell)
    assert low < value(cell) < high
    assert (low, high) == pytest.approx((math.exp(90 / 40), math.exp(90 / 20)), rel=0.01)


def test_the_same_text_with_another_tokenizer_differs_a_token_only() -> None:
    """Half as many tokens with twice the nats each is the same likelihood of the same characters."""
    other = {"medical": {**SCORES["medical"], "tokens": [15, 30]}}
    ours, theirs = (perplexity_table(scores, DRAWS).words.iloc[0] for scores in (SCORES, other))
    assert ours["after, a character"] == theirs["after, a character"] and ours["after"] != theirs["after"]


@pytest.mark.parametrize(
    "empty", [{"tokens": [], "chars": [], "before": [], "after": []}, {"tokens": [], "before": [], "after": []}]
)
def test_nothing_held_out_is_said(empty: dict[str, Any]) -> None:
    frame = perplexity_table({"general": empty, **SCORES}, DRAWS).words
    assert frame.iloc[0].tolist() == ["general", "0", *["no items"] * 6]
    assert value(frame.iloc[1]["after"]) > 1


def test_improved_needs_the_whole_interval_below_one() -> None:
    four = {name: values * 2 for name, values in SCORES["medical"].items()}
    assert improved(four, DRAWS)
    assert not improved({**four, "after": [-60.0, -200.0] * 2}, DRAWS)


@pytest.mark.parametrize("documents", [0, 1, 2])
def test_below_three_documents_nothing_is_claimed(documents: int) -> None:
    entry = {"tokens": [30], "chars": [20], "before": [-90.0], "after": [-60.0]}
    assert improved({name: values * documents for name, values in entry.items()}, DRAWS) is False
