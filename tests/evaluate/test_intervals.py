from __future__ import annotations

import math
import time

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import (
    POSITIVE,
    Statistic,
    bonett_price,
    estimates,
    holm,
    mcnemar,
    mean_of,
    paired,
    power_note,
    proportion,
    resample_counts,
    summary,
    wilson,
)
from qilin_lib.evaluate.metrics import bleu, f1_rows, f1_weighted, overlaps


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (3, 10), (10, 10), (2724, 6811), (1, 1)])
def test_wilson_is_scipys(hits: int, n: int):
    from scipy.stats import binomtest

    interval = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert wilson(hits / n, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_mcnemar_is_the_exact_binomial_test():
    from scipy.stats import binomtest

    rng = np.random.default_rng(0)
    a, b = rng.random(400) < 0.4, rng.random(400) < 0.5
    lost, won = (a & ~b).sum(), (~a & b).sum()
    assert mcnemar(a, b) == pytest.approx(binomtest(int(lost), int(lost + won)).pvalue)
    assert mcnemar(a, a) == 1.0 and mcnemar(np.zeros(10), np.ones(10)) == pytest.approx(2 / 2**10)


def test_a_proportion_has_wilsons_interval_and_an_empty_one_none():
    found = summary(proportion([True, False, True, True]), 100, 0)
    low, high = wilson(0.75, 4)
    assert found == {"value": 75.0, "n": 4, "low": pytest.approx(100 * low), "high": pytest.approx(100 * high)}
    for empty in (proportion([]), proportion([], []), mean_of([])):
        assert summary(empty, 100, 0) == {"value": None, "n": 0, "low": None, "high": None}


def test_groups_weigh_alike_whatever_their_size():
    found = summary(proportion([True] * 8 + [False] * 2, ["a"] * 8 + ["b"] * 2), 100, 0)
    assert found["value"] == 50.0 and found["n"] == 10
    # Shares drawn to 0.5 by two items: 9/10 of 8 and 1/4 of 2; as many trials as give a mean this variance.
    trials = 0.25 / ((0.9 * 0.1 / 8 + 0.25 * 0.75 / 2) / 4)
    low, high = wilson(0.5, trials)
    assert (found["low"], found["high"]) == pytest.approx((100 * low, 100 * high))


def test_standard_errors_of_bleu_and_f1_are_the_jackknifes():
    rng = np.random.default_rng(4)
    texts = [list(rng.choice(list("一二三四五六七"), rng.integers(8, 60))) for _ in range(400)]
    noisy = [[c if rng.random() < 0.8 else "〇" for c in text] for text in texts]
    gold, guess = rng.choice(["A", "B", "CD"], (2, 400))
    for statistic in (Statistic(overlaps(noisy, texts), bleu_4), Statistic(f1_rows(gold, guess), f1_weighted)):
        rows = statistic.rows
        without = statistic.value(rows.sum(axis=0) - rows)
        jackknife = np.sqrt(399 / 400 * ((without - without.mean()) ** 2).sum())
        assert estimates(statistic, np.ones((1, 400)))[1] == pytest.approx([jackknife], rel=0.01)


def bleu_4(sums: np.ndarray) -> np.ndarray:
    return bleu(sums, 4)


def test_items_without_variance_are_as_uncertain_as_a_proportion():
    alike = summary(mean_of([40.0] * 9), 100, 0)
    assert (alike["low"], alike["high"]) == pytest.approx([100 * bound for bound in wilson(0.4, 9)])
    rated = summary(mean_of([5.0] * 6, (1, 5)), 100, 0)
    assert (rated["low"], rated["high"]) == pytest.approx((1 + 4 * wilson(1.0, 6)[0], 5))
    # Without bounds nothing is known of how far others may lie.
    assert summary(mean_of([40.0] * 9, POSITIVE), 100, 0) == {"value": 40.0, "n": 9, "low": 40.0, "high": 40.0}
    # All zero: as if none of 30 had been right, not a bound of zero.
    assert summary(mean_of([0.0] * 30), 100, 0)["high"] == pytest.approx(100 * wilson(0.0, 30)[1])
    assert summary(mean_of([0.0] * 30 + [90.0]), 200, 0)["low"] == 0.0


def test_paired_difference_has_its_sign_and_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(2)
    a = rng.normal(50, 20, 300)
    b = a + rng.normal(2, 1, 300)
    row = paired(mean_of(a), mean_of(b), 500, 0)
    assert row["n"] == 300 and row["difference"] == pytest.approx((b - a).mean())
    assert row["low"] < row["difference"] < row["high"] and row["high"] - row["low"] < 1 and row["p"] < 0.01
    same = paired(mean_of(a), mean_of(a), 500, 0)
    assert same["difference"] == 0 and same["p"] == 1.0


@pytest.mark.parametrize("gap", [10.0, 100.0])
def test_equal_gaps_of_three_items_prove_nothing(gap: float):
    """The exact sign test: three coins fall alike one time in four."""
    row = paired(mean_of([0.0] * 3), mean_of([gap] * 3), 1000, 0)
    assert row["p"] == 0.25 and row["low"] < 0 < gap <= row["high"]
    assert paired(mean_of([0.0] * 30), mean_of([gap] * 30), 1000, 0)["p"] < 1e-6


def test_the_exact_test_of_many_items_takes_no_time():
    draw = np.random.default_rng(1).random((2, 100_000))
    begun = time.perf_counter()
    p = mcnemar(draw[0] < 0.5, draw[1] < 0.503)
    assert time.perf_counter() - begun < 1 and 0 < p < 1


def test_an_unmistakable_difference_is_not_bounded_by_the_number_of_resamples():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(5)
    a = rng.normal(50, 20, 60)
    for shift in (0.5, 1.0, 1.5):
        b = a + rng.normal(shift, 1, 60)
        p = paired(mean_of(a), mean_of(b), 200, 0)["p"]
        expected = ttest_rel(b, a).pvalue
        assert p == pytest.approx(expected, rel=0.02) if expected < 1e-4 else 0.3 * expected < p < 3 * expected + 0.02


def test_bonett_and_price_by_hand():
    # 3 lost and 9 won of 40: (9 + 1 - 3 - 1) / 42 and its Wald interval.
    low, high = bonett_price(3 / 40, 9 / 40, 40)
    half = 1.959964 * np.sqrt((14 / 42 - (6 / 42) ** 2) / 42)
    assert (low, high) == pytest.approx((6 / 42 - half, 6 / 42 + half), abs=1e-6)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.5]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_power_note():
    width, difference = power_note(22).split("; ")
    assert width == "n = 22: a 95 % interval of ±21 points at 50 %"
    assert difference == "two models must differ by 40 points to be told apart 4 times in 5"
    assert power_note(6811).startswith(
        "n = 6,811: a 95 % interval of ±1.2 points at 50 %; two models must differ by 2.4"
    )
    assert power_note(10).endswith("too few to tell two models apart") and power_note(0) == "n = 0: no items"


@pytest.mark.parametrize("n", [100, 400])
def test_the_difference_of_the_power_note_is_found_4_times_in_5(n: int):
    points = float(power_note(n).split("differ by ")[1].split(" points")[0])
    rng, found = np.random.default_rng(0), 0
    for _ in range(1500):
        luck = rng.random((2, n))
        found += mcnemar(luck[0] < 0.5 - points / 200, luck[1] < 0.5 + points / 200) < 0.05
    # The exact test is a little stricter than the formula's.
    assert 0.72 < found / 1500 < 0.84


def test_of_no_item_there_is_no_interval() -> None:
    assert all(math.isnan(bound) for bound in wilson(0.0, 0))
    assert resample_counts(0, 10, 1).shape == (10, 0)
    for nothing in (proportion([]), mean_of([])):
        assert paired(nothing, nothing, 100, 1) == {"n": 0, "difference": None, "low": None, "high": None, "p": None}


@pytest.mark.parametrize("values", [[37.0], [10.0, 90.0], [0.0, 0.0], [100.0]])
def test_below_three_items_there_is_a_value_without_interval_and_p(values: list[float]) -> None:
    n, value = len(values), sum(values) / len(values)
    assert summary(mean_of(values), 100, 0) == {"value": value, "n": n, "low": None, "high": None}
    hits = [True] * n
    assert summary(proportion(hits), 100, 0) == {"value": 100.0, "n": n, "low": None, "high": None}
    nothing = mean_of([0.0] * n)
    unknown = dict.fromkeys(("low", "high", "p"))
    assert paired(nothing, mean_of(values), 100, 0) == {"n": n, "difference": value, **unknown}
    assert paired(proportion([False] * n), proportion(hits), 100, 0)["p"] is None
    assert None not in summary(mean_of([*values, *values, 5.0]), 100, 0).values()


def test_a_metric_that_is_not_a_number_is_an_error_with_its_item() -> None:
    with pytest.raises(QilinError, match="item 2 of 4 .*nan"):
        summary(mean_of([1.0, float("nan"), 3.0, 4.0]), 100, 0)
    with pytest.raises(QilinError, match="item 4 of 4 .*inf"):
        paired(mean_of([1.0, 2.0, 3.0, 4.0]), mean_of([1.0, 2.0, 3.0, float("inf")]), 100, 0)
