"""Notebook 05's report pieces: alarms, behaviour table, answers side by side, and the curves with lengths."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

from qilin_lib.report import figures, preferences, training

DRAWS = {"bootstrap_resamples": 1000, "seed": 17}


@pytest.fixture
def behaviour() -> dict[str, Any]:
    return {
        "max_new_tokens": 64,
        "prompts": [[{"role": "user", "content": f"问题{i}<b>"}] for i in range(4)],
        "reference": {
            "texts": [f"旧{i}" for i in range(4)],
            "tokens": [10, 20, 30, 40],
            "cut": [False] * 4,
            "repetition": [0.0, 0.1, 0.2, 0.1],
        },
        "policy": {
            "texts": ["新<0>", "新1", "新2", "新3"],
            "tokens": [20, 30, 40, 50],
            "cut": [True, False, False, False],
            "repetition": [0.5, 0.1, 0.2, 0.4],
        },
    }


def test_behaviour_table_holds_means_and_paired_differences(behaviour: dict[str, Any]) -> None:
    table = preferences.behaviour_table(behaviour, DRAWS)
    assert table.words.values.tolist()[0] == ["tokens an answer", "25.0", "35.0", "+10.0 [+10.0, +10.0]"]
    cut, repetition = table.words.values.tolist()[1:]
    assert cut[:3] == ["answers cut, percent", "0.0", "25.0"] and cut[3].startswith("+25.0 [+0.0, +")
    assert repetition[:3] == ["repetition, percent", "10.0", "30.0"] and repetition[3].startswith("+20.0 [")
    assert "4 held-out prompts, at most 64 tokens" in table.text()


def test_answers_stand_side_by_side_and_are_escaped(behaviour: dict[str, Any]) -> None:
    shown = preferences.answers(behaviour, most=2)
    assert shown.count("held-out prompt") == 2 and "新2" not in shown
    assert "问题0&lt;b&gt;" in shown and "新&lt;0&gt;" in shown and "<b>" not in shown
    assert "SFT: 10 tokens, repetition 0 %" in shown and "DPO: 20 tokens, cut, repetition 50 %" in shown
    assert preferences.answers(behaviour, most=9).count("held-out prompt") == 4


def test_alarms_are_listed_or_said_to_be_none() -> None:
    shown = preferences.alarm_list(["A < B.", "C."])
    assert "2 to look at" in shown and "A &lt; B." in shown and shown.count('class="box"') == 2
    assert "none of the known signs" in preferences.alarm_list([])


def test_curves_show_loss_margin_accuracy_and_both_sides() -> None:
    sides = {f"{kind}/{side}": 3.0 for kind in ("rewards", "logps", "lengths") for side in ("chosen", "rejected")}
    row = {"loss": 0.6, "rewards/margins": 0.1, "rewards/accuracies": 0.5, **sides}
    axes = figures.dpo_curves([{"step": step, **row} for step in range(5)]).axes
    drawn = [sum(len(line.get_xdata()) == 5 for line in one.lines) for one in axes]
    assert drawn == [1, 1, 1, 2, 2, 2]
    assert [one.get_title() for one in axes][-1] == "answer length, tokens"
    assert figures.dpo_curves([]).axes


def test_without_prompts_and_pairs_the_tables_say_so() -> None:
    empty: dict[str, list] = {name: [] for name in ("texts", "tokens", "cut", "repetition")}
    behaviour = {"max_new_tokens": 64, "prompts": [], "reference": empty, "policy": empty}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = preferences.behaviour_table(behaviour, DRAWS)
        sides = [f"{who}_{side}" for who in ("policy", "reference") for side in ("chosen", "rejected")]
        pairs = training.preference_table({name: [] for name in sides}, 0.1, DRAWS)
    assert [row[1:] for row in shown.words.values.tolist()] == [["no items"] * 3] * 3
    assert "No prompt was sampled" in preferences.behaviour_table({}, DRAWS)
    assert preferences.answers(behaviour, 3) == preferences.answers({}, 3) == ""
    assert pairs.words.values.tolist()[0] == ["reward accuracy, percent", "no items"]
    assert {value for _, value in pairs.words.values.tolist()[1:]} == {"no items"}
