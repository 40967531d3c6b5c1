"""Notebook 08's report pieces: the reward model's accuracy and calibration, and the pool of rejection sampling."""

from __future__ import annotations

import itertools
import statistics
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.calibration import calibration
from qilin_lib.report import charts, rlhf

DRAWS = SimpleNamespace(bootstrap_resamples=1000, seed=17)
SCORES = {
    "ids": [f"p{i}" for i in range(5)],
    "sources": ["zhongjing", "medical_rlhf", "zhongjing", "zhongjing", "zhongjing"],
    "chosen": [2.0, 1.0, 3.0, -1.0, 0.5],
    "rejected": [1.0, 1.0, 0.0, 1.0, -0.5],
}


def answers(name: str, rewards: list[float], number: int = 1, empty: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    ranked = sorted((k for k in range(len(rewards)) if k not in empty), key=lambda k: -rewards[k])
    return [
        {
            "id": name,
            "round": number,
            "prompt": [{"role": "user", "content": f"问题<{name}>"}],
            "sample": k,
            "answer": "" if k in empty else f"答{name}{k}&",
            "tokens": 10 * k,
            "reward": reward,
            "kept": k == ranked[0],
        }
        for k, reward in enumerate(rewards)
    ]


POOL = [*answers("a", [0.0, 3.0, 1.0, 2.0]), *answers("b", [1.0, 1.0, 1.0, 1.0]), *answers("c", [-4.0, 0.0, 2.0, -2.0])]


def words(figure: Any) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


# --- the reward model -------------------------------------------------------------------------------------------------


def test_accuracy_stands_by_source_and_in_all() -> None:
    table = rlhf.accuracy_table(SCORES, DRAWS)
    rows = table.words.values.tolist()
    assert [row[:2] + row[3:4] for row in rows] == [
        ["medical_rlhf", "1", "1"],
        ["zhongjing", "4", "0"],
        ["Total", "5", "1"],
    ]
    # Wilson by hand: 3 of 4, z = 1.96.
    assert rows[1][2] == "75.0 [30.1, 95.4]" and rows[2][2].startswith("60.0 [")
    assert rows[0][4] == "0.000" and rows[2][4].startswith("0.600 [")
    assert "equal rewards count as wrong" in table.text() and "n = 5: a 95 % interval of" in table.text()


def test_accuracy_of_no_pair_has_no_number() -> None:
    empty = {name: [] for name in SCORES}
    assert rlhf.accuracy_table(empty, DRAWS).words.values.tolist() == [["Total", "0", "no items", "0", "no items"]]


def test_calibration_table_stands_beside_knowing_nothing() -> None:
    found = calibration(SCORES["chosen"], SCORES["rejected"], 200, 1)
    rows = rlhf.calibration_table(found).words.values.tolist()
    assert [row[0] for row in rows] == ["expected calibration error", "Brier score", "log loss, nats"]
    assert [row[2] for row in rows] == ["-", "0.250", "0.693"]
    assert rows[1][1].startswith(f"{found['brier']['value']:.3f} [{found['brier']['low']:.3f}, ")


def test_calibration_figure_draws_every_filled_bin_and_all_counts() -> None:
    draw = np.random.default_rng(1)
    chosen = draw.normal(0.5, 2, 300)
    found = calibration(chosen, np.zeros(300), 100, 1)
    figure = rlhf.calibration_figure(found)
    top, bottom = figure.axes
    drawn = next(line for line in top.lines if line.get_marker() == "o")
    filled = [one for one in found["bins"] if one["n"]]
    assert list(drawn.get_xdata()) == pytest.approx([100 * one["confidence"] for one in filled])
    assert list(drawn.get_ydata()) == pytest.approx([100 * one["right"]["value"] for one in filled])
    assert [bar.get_height() for bar in bottom.patches] == [one["n"] for one in found["bins"]]
    assert sum(bar.get_height() for bar in bottom.patches) == 300
    assert {"calibrated", "share right, 95 % interval"} <= words(figure) and all(map(str.isascii, words(figure)))
    assert charts.png(figure).startswith(b"\x89PNG")


def test_a_calibration_of_nothing_is_an_empty_figure() -> None:
    """08 goes on where no pair is held out."""
    figure = rlhf.calibration_figure(calibration([], [], 100, 1))
    assert charts.png(figure) and [bar.get_height() for bar in figure.axes[1].patches] == [0] * 5


# --- the pool ---------------------------------------------------------------------------------------------------------


def test_pool_table_holds_means_over_questions() -> None:
    (row,) = rlhf.pool_table(POOL, DRAWS).words.values.tolist()
    assert row[:3] == ["1", "3", "4"] and row[8] == "1"
    values = [cell.split(" [")[0] for cell in row[3:8]]
    # Worst 0, 1, -4; mean 1.5, 1, -1; best 3, 1, 2.
    assert values[:4] == ["-1.000", "0.500", "2.000", "1.500"]

    def chance(gap: float) -> float:
        return float(1 / (1 + np.exp(-gap)))

    expected = statistics.mean(
        statistics.mean(map(chance, gaps)) for gaps in ((3.0, 2.0, 1.0), (0.0, 0.0, 0.0), (6.0, 4.0, 2.0))
    )
    assert float(values[4]) == pytest.approx(100 * expected, abs=0.05)


def test_pool_table_has_a_row_a_round() -> None:
    second = answers("a", [5.0, 6.0], 2) + answers("d", [5.0, 8.0], 2)
    rows = rlhf.pool_table([*POOL, *second], DRAWS).words.values.tolist()
    assert [row[:3] for row in rows] == [["1", "3", "4"], ["2", "2", "2"]]
    assert rows[1][5] == "7.000", "no interval below three"


@pytest.mark.parametrize("seed", [1, 2])
def test_best_of_k_is_the_mean_over_all_subsets(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rewards = {name: [float(value) for value in draw.normal(size=6)] for name in "abcde"}
    found = rlhf.best_of_k([row for name, own in rewards.items() for row in answers(name, own)], DRAWS)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    for k, score in found.items():
        by_hand = [statistics.mean(map(max, itertools.combinations(own, k))) for own in rewards.values()]
        assert score["value"] == pytest.approx(statistics.mean(by_hand)) and score["n"] == 5
        assert score["low"] < score["value"] < score["high"]
    assert [score["value"] for score in found.values()] == sorted(score["value"] for score in found.values())


def test_an_empty_answer_is_never_the_best() -> None:
    pool = answers("a", [9.0, 1.0, 2.0], empty=(0,))
    assert rlhf.best_of_k(pool, DRAWS)[3]["value"] == 2.0
    shown = rlhf.pool_examples(pool)
    assert "best of 3: reward 2.00, 20 tokens, kept" in shown and "worst of 3: reward 9.00, 0 tokens" in shown
    assert "(empty)" in shown


def test_one_question_and_one_answer_have_no_interval() -> None:
    (row,) = rlhf.pool_table(answers("a", [1.5]), DRAWS).words.values.tolist()
    assert row == ["1", "1", "1", "1.500", "1.500", "1.500", "0.000", "no items", "1"]
    assert rlhf.best_of_k(answers("a", [1.5]), DRAWS) == {1: {"value": 1.5, "n": 1, "low": None, "high": None}}


def test_examples_are_spread_over_the_pool_and_escaped() -> None:
    pool = [row for i in range(6) for row in answers(f"q{i}", [0.0, 1.0])]
    shown = rlhf.pool_examples(pool, most=3)
    assert [f"q{i}" in shown for i in range(6)] == [True, False] * 3
    assert "问题&lt;q0&gt;" in shown and "答q01&amp;" in shown and "<q0>" not in shown
    assert rlhf.pool_examples(pool, most=50).count('class="head"') == 6


@pytest.mark.parametrize("show", [rlhf.pool_table, rlhf.best_of_k, rlhf.best_of_k_figure, rlhf.pool_examples])
def test_an_empty_pool_is_refused(show: Any) -> None:
    with pytest.raises(QilinError, match="holds no answer"):
        show([], DRAWS)
