"""What a doctor's question is by our definition, and conversations drawn to a share of them."""

from __future__ import annotations

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.train import questions


@pytest.mark.parametrize(
    "text",
    [
        "多大年纪了？",
        "您好，发烧几天了",
        "有没有对药物过敏？”",
        "哪里疼",
        "建议查血。之前吃过什么药",
        "月经是否规律 ",
        "Any pain?",
    ],
)
def test_a_turn_that_ends_in_a_question_is_one(text: str) -> None:
    assert questions.is_question(text)


@pytest.mark.parametrize(
    "text",
    ["建议多喝水。", "疼吗？那就先休息，明天复查。", "什么都可以吃。", "", "不必担心", "您问的是什么药？是阿莫西林。"],
)
def test_a_turn_that_ends_in_advice_is_none(text: str) -> None:
    assert not questions.is_question(text)


def rows(*kinds: str) -> list[list[dict[str, str]]]:
    """One conversation per word: a letter per assistant turn, q asks and a advises."""
    said = {"q": "多久了？", "a": "多休息。"}
    return [[{"role": "assistant", "content": said[kind]} for kind in word] for word in kinds]


def test_conversations_are_left_out_until_the_share_is_reached() -> None:
    often = np.array([1, 2, 1, 1, 1, 1, 0])
    drawn, said = questions.drawn(rows("q", "qa", "a", "a", "a", "aa", "q"), often, 0.5, 1)
    assert said["before"] == 2 / 8 and said["after"] >= 0.5 and said["wanted"] == 0.5
    assert drawn[:2].tolist() == [1, 2] and drawn[6] == 0, "what asks stays, as often as it was drawn"
    assert said["left_out"] == int((drawn[:6] == 0).sum()) == 3
    again, _ = questions.drawn(rows("q", "qa", "a", "a", "a", "aa", "q"), often, 0.5, 1)
    assert np.array_equal(drawn, again)


@pytest.mark.parametrize(("wanted", "left"), [(0.0, {"a"}), (1.0, {"q"}), (0.5, {"q", "a"})])
def test_both_directions(wanted: float, left: set[str]) -> None:
    kinds = ["q", "q", "a", "a"]
    kept = questions.chosen(np.array([questions.counted(one) for one in rows(*kinds)]), wanted, 3)
    assert {kind for kind, own in zip(kinds, kept, strict=True) if own} == left


def test_a_share_that_no_choice_has_is_refused() -> None:
    with pytest.raises(QilinError, match=r"question_share = 0.5: among 2 turns 0 are questions.*nearest valid: null"):
        questions.drawn(rows("a", "a"), np.array([1, 1]), 0.5, 1)


def test_nothing_to_count_is_no_share() -> None:
    assert questions.share(np.empty((0, 2), dtype=int)) is None
    assert questions.chosen(np.empty((0, 2), dtype=int), 0.5, 1).tolist() == []
