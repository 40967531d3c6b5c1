"""Notebook 08's report pieces: reward model, pool of rejection sampling, comparison of rlhf."""

from __future__ import annotations

import itertools
import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.calibration import calibration
from qilin_lib.report import charts, rlhf
from tests.report.conftest import EMPTY, SFT, score

DRAWS = SimpleNamespace(bootstrap_resamples=1000, seed=17)
SCORES = {
    "ids": [f"p{i}" for i in range(5)],
    "sources": ["zhongjing", "medical_rlhf", "zhongjing", "zhongjing", "zhongjing"],
    "chosen": [2.0, 1.0, 3.0, -1.0, 0.5],
    "rejected": [1.0, 1.0, 0.0, 1.0, -0.5],
}
NAMES = {"sft": SFT, "dpo": f"{SFT} + DPO", "rejection_sampling": f"{SFT} + rejection sampling", "rl": f"{SFT} + RL"}


def answers(name: str, rewards: list[float], number: int = 1, empty: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    ranked = sorted((k for k in range(len(rewards)) if k not in empty), key=lambda k: -rewards[k])
    return [
        {
            "id": name,
            "round": number,
            "prompt": [{"role": "user", "content": f"问题{name}"}],
            "sample": k,
            "answer": "" if k in empty else f"答{name}{k}",
            "tokens": 10 * k,
            "reward": reward,
            "kept": k == ranked[0],
        }
        for k, reward in enumerate(rewards)
    ]


POOL = [*answers("a", [0.0, 3.0, 1.0, 2.0]), *answers("b", [1.0, 1.0, 1.0, 1.0]), *answers("c", [-4.0, 0.0, 2.0, -2.0])]


# --- the reward model -------------------------------------------------------------------------------------------------


def test_accuracy_stands_by_source_and_in_all() -> None:
    table = rlhf.accuracy_table(SCORES, DRAWS)
    rows = table.words.values.tolist()
    expected = [["medical_rlhf", "1", "1"], ["zhongjing", "4", "0"], ["Total", "5", "1"]]
    assert [row[:2] + row[3:4] for row in rows] == expected
    # Wilson by hand: 3 of 4, z = 1.96.
    assert rows[1][2] == "75.0 [30.1, 95.4]" and rows[2][2].startswith("60.0 [")
    assert rows[0][4] == "0.000" and rows[2][4].startswith("0.600 [")
    assert any("n = 5: a 95 % interval of" in note for note in table.notes)
    empty = {name: [] for name in SCORES}
    assert rlhf.accuracy_table(empty, DRAWS).words.values.tolist() == [["Total", "0", "no items", "0", "no items"]]


def test_calibration_stands_beside_knowing_nothing_and_draws_every_filled_bin() -> None:
    found = calibration(SCORES["chosen"], SCORES["rejected"], 200, 1)
    rows = rlhf.calibration_table(found).words.values.tolist()
    assert [row[2] for row in rows] == ["-", "0.250", "0.693"]
    assert rows[1][1].startswith(f"{found['brier']['value']:.3f} [{found['brier']['low']:.3f}, ")
    found = calibration(np.random.default_rng(1).normal(0.5, 2, 300), np.zeros(300), 100, 1)
    top, bottom = rlhf.calibration_figure(found).axes
    drawn = next(line for line in top.lines if line.get_marker() == "o")
    filled = [one for one in found["bins"] if one["n"]]
    assert list(drawn.get_xdata()) == pytest.approx([100 * one["confidence"] for one in filled])
    assert list(drawn.get_ydata()) == pytest.approx([100 * one["right"]["value"] for one in filled])
    assert [bar.get_height() for bar in bottom.patches] == [one["n"] for one in found["bins"]]
    # 08 goes on where no pair is held out.
    figure = rlhf.calibration_figure(calibration([], [], 100, 1))
    assert charts.png(figure) and [bar.get_height() for bar in figure.axes[1].patches] == [0] * 5


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_pool_table_holds_means_over_questions_a_row_a_round() -> None:
    second = answers("a", [5.0, 6.0], 2) + answers("d", [5.0, 8.0], 2)
    row, later = rlhf.pool_table([*POOL, *second], DRAWS).words.values.tolist()
    assert row[:3] == ["1", "3", "4"] and row[8] == "1"
    values = [cell.split(" [")[0] for cell in row[3:8]]
    # Worst 0, 1, -4; mean 1.5, 1, -1; best 3, 1, 2.
    assert values[:4] == ["-1.000", "0.500", "2.000", "1.500"]
    gaps = ((3.0, 2.0, 1.0), (0.0, 0.0, 0.0), (6.0, 4.0, 2.0))
    expected = statistics.mean(statistics.mean(1 / (1 + np.exp(-gap)) for gap in each) for each in gaps)
    assert float(values[4]) == pytest.approx(100 * expected, abs=0.05)
    assert later[:3] == ["2", "2", "2"] and later[5] == "7.000", "no interval below three"
    (alone,) = rlhf.pool_table(answers("a", [1.5]), DRAWS).words.values.tolist()
    assert alone == ["1", "1", "1", "1.500", "1.500", "1.500", "0.000", "no items", "1"]


def test_best_of_k_is_the_mean_over_all_subsets() -> None:
    draw = np.random.default_rng(1)
    rewards = {name: [float(value) for value in draw.normal(size=6)] for name in "abcde"}
    found = rlhf.best_of_k([row for name, own in rewards.items() for row in answers(name, own)], DRAWS)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    for k, expected in found.items():
        by_hand = [statistics.mean(map(max, itertools.combinations(own, k))) for own in rewards.values()]
        assert expected["value"] == pytest.approx(statistics.mean(by_hand)) and expected["n"] == 5
        assert expected["low"] < expected["value"] < expected["high"]


def test_an_empty_answer_is_never_the_best_and_examples_are_spread() -> None:
    pool = answers("a", [9.0, 1.0, 2.0], empty=(0,))
    assert rlhf.best_of_k(pool, DRAWS)[3]["value"] == 2.0
    shown = rlhf.pool_examples(pool)
    assert "best of 3: reward 2.00, 20 tokens, kept" in shown and "worst of 3: reward 9.00, 0 tokens" in shown
    shown = rlhf.pool_examples([row for i in range(6) for row in answers(f"q{i}", [0.0, 1.0])], most=3)
    assert [f"q{i}" in shown for i in range(6)] == [True, False] * 3
    with pytest.raises(QilinError, match="holds no answer"):
        rlhf.pool_table([], DRAWS)


# --- the policies -----------------------------------------------------------------------------------------------------


@pytest.fixture
def compared(run_of: Any) -> dict[str, Any]:
    entries = {
        name: {metric: score(value + 10 * place, 24, 0.5) for place, metric in enumerate(rlhf.COLUMNS)}
        for value, name in enumerate(NAMES, start=1)
    }
    gap = {"n": 24, "difference": -1.25, "low": -2.0, "high": -0.5, "p": 0.00002, "p_adjusted": 0.04}
    paired = [
        {"metric": metric, "model_a": "sft", "model_b": name, **gap}
        for name in ("dpo", "rl")
        for metric in ("reward", "bleu_1")
    ]
    settings = {"questions": 24, "too_long": 2, "max_new_tokens": 64, "tokenisation": "char"}
    return {"policies": entries, "paired": paired, "settings": settings, "run": run_of("tiny", 2_263_296)}


def test_policies_stand_side_by_side_with_what_could_be_seen(compared: dict) -> None:
    notes = " ".join(rlhf.comparison_table(compared).notes)
    assert "24 held-out questions" in notes and "2 questions too long" in notes
    assert "n = 24: a 95 % interval of ±20 points" in notes
    # Half of [-2, -0.5] is 0.75 = 1.96 standard errors; four times in five needs 2.80 of them.
    assert f"must be about {NAMES['dpo']} 1.07, {NAMES['rl']} 1.07 to be found 4 times in 5" in notes
    table = rlhf.differences_table(compared)
    row = table.words.values.tolist()[0]
    assert row == [NAMES["dpo"], "Reward, greedy", "-1.25 [-2.00, -0.50] (n=24)", "2e-05", "0.040"]
    assert "over the 4 rows" in table.notes[1]
    axes = rlhf.reward_against_kl(compared).axes[0]
    marks = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(marks) == list(NAMES.values())
    assert (marks[NAMES["rl"]].get_xdata()[0], marks[NAMES["rl"]].get_ydata()[0]) == (144.0, 14.0)
    bars = [sorted(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert [143.5, 144.5] in bars and [144.0, 144.0] in bars


def test_without_questions_there_are_words_and_an_empty_figure(compared: dict) -> None:
    compared["policies"] = {name: dict.fromkeys(rlhf.COLUMNS, EMPTY) for name in NAMES}
    compared |= {"paired": [], "settings": compared["settings"] | {"questions": 0}}
    assert rlhf.comparison_table(compared).words["Reward, greedy"][0] == "no items"
    assert rlhf.differences_table(compared).words.empty
    assert charts.png(rlhf.reward_against_kl(compared)), "08 goes on where no pair is held out"


def test_the_curve_shows_reward_divergence_length_and_cuts() -> None:
    more = {"kl": 0.0, "completions/mean_length": 30, "completions/clipped_ratio": 0.1}
    rows = [{"step": step, "reward": 0.1 * step, **more} for step in (2, 4, 6)]
    axes = rlhf.rl_curve([*rows, {"step": 6, "train_loss": 0.0}]).axes
    assert [len(one.lines[0].get_xdata()) for one in axes] == [3] * 4
    assert axes[0].lines[0].get_xydata().tolist()[-1] == pytest.approx([6, 0.6])


def test_answers_of_all_policies_stand_side_by_side() -> None:
    question = {"prompt": [{"role": "user", "content": "问题"}], "chosen": "优选", "tokens": 7, "repetition": 0.25}
    rows = {
        label: [
            question | {"id": f"q{i}", "answer": f"{name}答{i}", "reward": -1.5, "cut": name == "rl"} for i in range(5)
        ]
        for name, label in NAMES.items()
    }
    shown = rlhf.side_by_side(rows)
    assert shown.count("held-out question") == 3 and "dpo答2" in shown and "dpo答3" not in shown
    assert "SFT + RL: reward -1.50, 7 tokens, cut, repetition 25 %" in shown and "优选" in shown
