from __future__ import annotations

import time

import numpy as np
import pytest

from qilin_lib.evaluate.intervals import (
    Statistic,
    bootstrap,
    mcnemar,
    mean_of,
    paired,
    percentiles,
    proportion,
    resample_counts,
    summary,
    wilson,
)


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
    # Two groups of 8 and 2 carry the information of 4 / (1/8 + 1/2) = 6.4 items.
    low, high = wilson(0.5, 6.4)
    assert (found["low"], found["high"]) == pytest.approx((100 * low, 100 * high))


def test_resamples_draw_n_items_within_their_strata_and_depend_on_the_seed_alone():
    strata = np.array([0] * 30 + [1] * 5)
    counts = resample_counts(35, 200, 7, strata)
    assert (counts[:, :30].sum(axis=1) == 30).all() and (counts[:, 30:].sum(axis=1) == 5).all()
    assert (counts == resample_counts(35, 200, 7, strata)).all()
    assert (counts != resample_counts(35, 200, 8, strata)).any()


def test_the_bootstrap_equals_resampling_the_items_themselves():
    values = np.random.default_rng(1).exponential(size=50)
    counts = resample_counts(50, 20, 3)
    expected = [np.repeat(values, row.astype(int)).mean() for row in counts]
    assert bootstrap(mean_of(values), counts) == pytest.approx(expected)


def test_the_bootstrap_of_6000_items_takes_seconds():
    rows = np.random.default_rng(0).random((6000, 10))
    start = time.perf_counter()
    summary(Statistic(rows, lambda sums: sums[..., 0] / sums[..., 1]), 1000, 0)
    assert time.perf_counter() - start < 10


def test_paired_difference_has_its_sign_and_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(2)
    a = rng.normal(50, 20, 300)
    b = a + rng.normal(2, 1, 300)
    row = paired(mean_of(a), mean_of(b), 500, 0)
    assert row["n"] == 300 and row["difference"] == pytest.approx((b - a).mean())
    assert row["low"] < row["difference"] < row["high"] and row["high"] - row["low"] < 1 and row["p"] < 0.01
    same = paired(mean_of(a), mean_of(a), 500, 0)
    assert same["difference"] == 0 and same["p"] == 1.0


def test_paired_proportions_use_mcnemar():
    rng = np.random.default_rng(3)
    a, b = rng.random(200) < 0.3, rng.random(200) < 0.5
    row = paired(proportion(a), proportion(b), 500, 0)
    assert row["p"] == mcnemar(a, b) and row["difference"] == pytest.approx(100 * (b.mean() - a.mean()))


def coverage(draw, truth: float, times: int = 300) -> float:
    inside = 0
    for seed in range(times):
        found = summary(draw(np.random.default_rng(seed)), 200, seed)
        inside += found["low"] <= truth <= found["high"]
    return inside / times


def test_intervals_hold_the_truth_95_times_in_100():
    # 300 simulated test sets: a true coverage of 95 % stays above 91.5 % (three standard errors).
    assert 0.915 <= coverage(lambda rng: proportion(rng.random(200) < 0.4), 40.0) <= 0.99
    assert 0.905 <= coverage(lambda rng: mean_of(rng.exponential(20, 200)), 20.0) <= 0.99


def test_the_macro_average_covers_too():
    sizes = [5, 20, 40, 25]
    groups = np.repeat(np.arange(4), sizes)
    assert 0.915 <= coverage(lambda rng: proportion(rng.random(90) < 0.4, groups), 40.0) <= 0.99


def test_percentiles():
    assert percentiles(np.arange(1001.0)) == (25.0, 975.0)
