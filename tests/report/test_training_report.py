"""What notebooks 03-05 show of a training: perplexity, pairs, answers before and after."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest

from qilin_lib.report import training
from qilin_lib.report.training import improved, perplexity_table, preference_table

DRAWS = {"bootstrap_resamples": 1000, "seed": 17}
# Two documents, 3 and 4 nats a token before, 2 after; three tokens spell two characters.
SCORES: dict[str, Any] = {
    "medical": {"tokens": [30, 60], "chars": [20, 40], "before": [-90.0, -240.0], "after": [-60.0, -120.0]}
}


def value(cell: str) -> float:
    return float(cell.split(" [")[0])


def test_perplexity_a_token_and_a_character() -> None:
    row = perplexity_table(SCORES, DRAWS).words.iloc[0]
    names = ("before", "after", "after / before", "before, a character", "after, a character")
    nats = (330 / 90, 2, -150 / 90, 330 / 60, 3)
    assert [value(row[name]) for name in names] == pytest.approx([math.exp(n) for n in nats], rel=0.01)
    # The same in every document leaves no width; documents that differ do.
    assert row["after"] == "7.39 [7.39, 7.39]"
    low, high = (float(part) for part in row["before"].split(" [")[1].rstrip("]").split(", "))
    assert (low, high) == pytest.approx((math.exp(3), math.exp(4)), rel=0.01)
    # Half as many tokens with twice the nats each is the same likelihood of the same characters.
    other = perplexity_table({"medical": {**SCORES["medical"], "tokens": [15, 30]}}, DRAWS).words.iloc[0]
    assert row["after, a character"] == other["after, a character"] and row["after"] != other["after"]


@pytest.mark.parametrize(
    "empty", [{"tokens": [], "chars": [], "before": [], "after": []}, {"tokens": [], "before": [], "after": []}]
)
def test_nothing_held_out_is_said(empty: dict[str, Any]) -> None:
    frame = perplexity_table({"general": empty, **SCORES}, DRAWS).words
    assert frame.iloc[0].tolist() == ["general", "0", *["no items"] * 6]
    assert value(frame.iloc[1]["after"]) > 1


def test_improved_needs_three_documents_and_the_whole_interval_below_one() -> None:
    four = {name: values * 2 for name, values in SCORES["medical"].items()}
    assert improved(four, DRAWS)
    assert not improved({**four, "after": [-60.0, -300.0] * 2}, DRAWS)
    assert not any(improved({name: values[:n] for name, values in four.items()}, DRAWS) for n in range(3))


def test_a_tie_of_the_implicit_reward_is_no_preference() -> None:
    chosen = {"policy_chosen": [-1.0, -2.0, -3.0], "reference_chosen": [-2.0, -2.0, -2.0]}
    pairs = chosen | {"policy_rejected": [-2.0, -2.0, -2.0], "reference_rejected": [-2.0, -2.0, -2.0]}
    table = preference_table(pairs, 0.1, DRAWS).words.set_index("Metric")["value"]
    assert table["reward accuracy, percent"].startswith("33.3 ") and value(table["reward margin"]) == 0


@pytest.fixture
def behaviour() -> dict[str, Any]:
    reference = {"texts": ["旧0", "旧1"], "tokens": [10, 20], "cut": [False] * 2, "repetition": [0.0, 0.2]}
    policy = {"texts": ["新0", "新1"], "tokens": [20, 30], "cut": [True, False], "repetition": [0.5, 0.1]}
    prompts = [[{"role": "user", "content": f"问题{i}"}] for i in range(2)]
    return {"max_new_tokens": 64, "prompts": prompts, "reference": reference, "policy": policy}


def test_answers_before_and_after_stand_side_by_side(behaviour: dict[str, Any]) -> None:
    table = training.behaviour_table(behaviour, DRAWS)
    tokens, cut, repetition = table.words.values.tolist()
    assert tokens == ["tokens an answer", "15.0", "25.0", "+10.0 [+10.0, +10.0]"]
    assert cut[:3] == ["answers cut, percent", "0.0", "50.0"] and cut[3].startswith("+50.0 [+0.0, +")
    assert repetition[:3] == ["repetition, percent", "10.0", "30.0"]
    assert "2 held-out prompts, at most 64 tokens" in table.text()
    shown = training.answers(behaviour, most=1)
    assert shown.count("held-out prompt") == 1 and "新1" not in shown
    assert "问题0" in shown and "新0" in shown
    assert "SFT: 10 tokens, repetition 0 %" in shown and "DPO: 20 tokens, cut, repetition 50 %" in shown
    alarms = training.alarm_list(["A.", "B."])
    assert "2 to look at" in alarms and "A." in alarms and alarms.count('class="box"') == 2
    assert "none of the known signs" in training.alarm_list([])


def test_without_prompts_and_pairs_the_tables_say_so() -> None:
    empty: dict[str, list] = {name: [] for name in ("texts", "tokens", "cut", "repetition")}
    behaviour = {"max_new_tokens": 64, "prompts": [], "reference": empty, "policy": empty}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = training.behaviour_table(behaviour, DRAWS)
        sides = [f"{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")]
        pairs = preference_table({name: [] for name in sides}, 0.1, DRAWS)
    assert [row[1:] for row in shown.words.values.tolist()] == [["no items"] * 3] * 3
    assert "No prompt was sampled" in training.behaviour_table({}, DRAWS)
    assert training.answers(behaviour, 3) == training.answers({}, 3) == ""
    assert {cell for _, cell in pairs.words.values.tolist()} == {"no items"}
