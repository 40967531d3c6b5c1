"""Notebook 08's comparison of policies as tables, figures and cards."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.report import policies
from qilin_lib.report.charts import png

SFT = "tiny 2.3M + DCPT + SFT"
NAMES = {"sft": SFT, "dpo": f"{SFT} + DPO", "rejection_sampling": f"{SFT} + rejection sampling", "rl": f"{SFT} + RL"}
VALUES = {"sft": 1.0, "dpo": 2.0, "rejection_sampling": 3.0, "rl": 4.0}


def score(value: float | None, n: int = 24) -> dict[str, Any]:
    spread = None if value is None else 0.5
    return {"value": value, "n": n, "low": spread and value - spread, "high": spread and value + spread}


@pytest.fixture
def compared(run_of: Any) -> dict[str, Any]:
    entries = {
        name: {metric: score(value + 10 * place) for place, metric in enumerate(policies.COLUMNS)}
        for name, value in VALUES.items()
    }
    entries["sft"]["kl_answer"] = {"value": 0.0, "n": 24, "low": 0.0, "high": 0.0}
    paired = [
        {"metric": metric, "model_a": "sft", "model_b": name, "n": 24, "difference": -1.25, "low": -2.0, "high": -0.5,
         "p": 0.00002, "p_adjusted": 0.04}
        for name in ("dpo", "rl")
        for metric in ("reward", "bleu_1")
    ]  # fmt: skip
    settings = {"questions": 24, "too_long": 2, "max_new_tokens": 64, "tokenisation": "char"}
    return {"policies": entries, "paired": paired, "settings": settings, "run": run_of("tiny", 2_263_296)}


@pytest.fixture
def records() -> dict[str, list[dict[str, Any]]]:
    def row(name: str, i: int) -> dict[str, Any]:
        return {
            "id": f"zhongjing-{i}<",
            "prompt": [{"role": "user", "content": f"问题{i}<b>"}],
            "chosen": f"优选{i}",
            "answer": f"{name}答{i}<i>",
            "reward": -1.5,
            "tokens": 7,
            "cut": name == "rl",
            "repetition": 0.25,
        }

    return {NAMES[name]: [row(name, i) for i in range(5)] for name in VALUES}


def test_notes_say_who_judges_how_many_and_what_could_be_seen(compared: dict) -> None:
    notes = " ".join(policies.comparison_table(compared).notes)
    assert "24 held-out questions" in notes and "2 questions too long" in notes
    assert "a higher reward alone is no better answer" in notes and "n = 24: a 95 % interval of ±20 points" in notes
    # Half of [-2, -0.5] is 0.75 = 1.96 standard errors; four times in five needs 2.80 of them.
    assert f"must be about {NAMES['dpo']} 1.07, {NAMES['rl']} 1.07 to be found 4 times in 5" in notes


def test_differences_come_with_interval_and_both_p(compared: dict) -> None:
    table = policies.differences_table(compared)
    row = table.words.values.tolist()[0]
    assert row[:2] == [NAMES["dpo"], "Reward, greedy"] and str(row[2]) == "-1.25 [-2.00, -0.50] (n=24)"
    assert row[3:] == ["2e-05", "0.040"] and "over the 4 rows" in table.notes[1]


def test_without_questions_there_are_words_and_no_figure(compared: dict) -> None:
    empty = {name: dict.fromkeys(policies.COLUMNS, score(None, 0)) for name in VALUES}
    nothing = {
        "policies": empty,
        "paired": [],
        "settings": compared["settings"] | {"questions": 0},
        "run": compared["run"],
    }
    assert str(policies.comparison_table(nothing).words["Reward, greedy"][0]) == "no items"
    assert policies.differences_table(nothing).words.empty
    assert png(policies.reward_against_kl(nothing)), "08 goes on where no pair is held out"


def test_a_mark_stands_at_its_policy_s_divergence_and_reward(compared: dict) -> None:
    figure = policies.reward_against_kl(compared)
    axes = figure.axes[0]
    marks = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(marks) == list(NAMES.values())
    assert (marks[NAMES["rl"]].get_xdata()[0], marks[NAMES["rl"]].get_ydata()[0]) == (144.0, 14.0)
    bars = [sorted(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert [143.5, 144.5] in bars and [144.0, 144.0] in bars
    assert len({(line.get_color(), line.get_marker()) for line in marks.values()}) == 4
    assert png(figure).startswith(b"\x89PNG")


def test_the_curve_shows_reward_divergence_length_and_cuts() -> None:
    rows = [
        {"step": step, "reward": 0.1 * step, "kl": 0.0, "completions/mean_length": 30, "completions/clipped_ratio": 0.1}
        for step in (2, 4, 6)
    ]
    axes = policies.rl_curve([*rows, {"step": 6, "train_loss": 0.0}]).axes
    assert len(axes) == 4 and axes[0].lines[0].get_xydata().tolist()[-1] == pytest.approx([6, 0.6])
    assert [len(one.lines[0].get_xdata()) for one in axes] == [3] * 4
    assert len(policies.rl_curve([{"step": 1, "loss": 0.0}]).axes) == 4
    with pytest.raises(QilinError, match="log of reinforcement learning is empty"):
        policies.rl_curve([])


def test_answers_of_all_policies_stand_side_by_side_and_are_escaped(records: dict) -> None:
    shown = policies.side_by_side(records)
    assert shown.count("held-out question") == 3 and "dpo答2" in shown and "dpo答3" not in shown
    assert "问题0&lt;b&gt;" in shown and "<b>" not in shown and "<i>" not in shown and "zhongjing-0&lt;" in shown
    assert "SFT + RL: reward -1.50, 7 tokens, cut, repetition 25 %" in shown and "优选1" in shown
    assert policies.side_by_side(records, most=9).count("held-out question") == 5
