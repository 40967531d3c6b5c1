"""95 % intervals must hold the truth 95 times in 100, within one point: what they are for, shown by simulation.

Each test draws thousands of test sets from a known distribution and asks the shipped functions for their intervals. The
standard error of a coverage from 3,000 sets is 0.4 points, so a bound of one point is 2.5 of them. Wilson's is exact:
no simulation, the binomial probabilities themselves. One distribution per kind of interval is in every run, the others
are `extended`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from qilin_lib.evaluate.intervals import (
    Statistic,
    mean_of,
    paired,
    proportion,
    summary,
    wilson,
)
from qilin_lib.evaluate.metrics import bleu, f1_rows, f1_weighted

pytestmark = pytest.mark.slow
RESAMPLES = 199


def extended(*values: Any, id: str | None = None) -> Any:
    """A parameter of the tests that run by hand."""
    return pytest.param(*values, marks=pytest.mark.extended, id=id)


Draw = Callable[[np.random.Generator], Statistic]


def coverage(draw: Draw, truth: float, sets: int) -> float:
    """Percent of `sets` simulated test sets whose interval holds the truth."""
    rng = np.random.default_rng(0)
    found = (summary(draw(rng), RESAMPLES, 0) for _ in range(sets))
    return 100 * sum(entry["low"] <= truth <= entry["high"] for entry in found) / sets


def paired_coverage(draw: Callable[[np.random.Generator], tuple], truth: float, sets: int) -> float:
    rng = np.random.default_rng(0)
    found = (paired(*draw(rng), RESAMPLES, 0) for _ in range(sets))
    return 100 * sum(entry["low"] <= truth <= entry["high"] for entry in found) / sets


@pytest.mark.parametrize("n", [22, 49, 100, 200, 811])
def test_wilson_averaged_over_true_shares(n: int):
    # Averaged over p as in Agresti and Coull (1998) and Newcombe (1998): at one p it swings with the binomial's steps.
    shares = np.linspace(0.05, 0.95, 181)
    hits = np.arange(n + 1)
    ways = np.array([math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in hits])
    likely = np.exp(ways + hits * np.log(shares)[:, None] + (n - hits) * np.log1p(-shares)[:, None])
    low, high = np.array([wilson(k / n, n) for k in hits]).T
    holds = (low <= shares[:, None]) & (shares[:, None] <= high)
    assert 94 <= 100 * (likely * holds).sum(axis=1).mean() <= 96


# Subjects of C-Eval's val set have 11 to 49 questions; the hard subset is 8 of the 52.
SIZES = np.random.default_rng(1).integers(11, 50, 52)


@pytest.mark.parametrize("subjects", [52, extended(8)])
@pytest.mark.parametrize(
    "spread",
    [pytest.param((0.2, 0.7), id="usual"), extended((0.25, 0.25), id="alike"), extended((0.05, 0.95), id="far apart")],
)
def test_average_over_unequal_subjects(subjects: int, spread: tuple[float, float]):
    shares, sizes = np.linspace(*spread, subjects), SIZES[:subjects]
    groups, each = np.repeat(np.arange(subjects), sizes), np.repeat(shares, sizes)
    found = coverage(lambda rng: proportion(rng.random(len(each)) < each, groups), 100 * shares.mean(), 6000)
    assert 94 <= found <= 96


# Per-item text scores are skewed: many low ones, some high, for ROUGE-2 of a weak model mostly zeros.
SKEWED = {
    "exponential": (lambda rng, n: rng.exponential(15, n), 15),
    "beta": (lambda rng, n: 100 * rng.beta(1.2, 6, n), 100 * 1.2 / 7.2),
    "mostly zero": (lambda rng, n: 100 * rng.beta(2, 8, n) * (rng.random(n) < 0.25), 5),
}


@pytest.mark.parametrize(
    ("shape", "n"),
    [
        ("exponential", 100),
        *(extended(*other) for other in (("beta", 100), ("mostly zero", 100), ("exponential", 250))),
    ],
)
def test_mean_of_a_skewed_text_metric(shape: str, n: int):
    draw, truth = SKEWED[shape]
    assert 94 <= coverage(lambda rng: mean_of(draw(rng, n)), truth, 3000) <= 96


def answers(rng: np.random.Generator, n: int) -> np.ndarray:
    """Overlaps [n, 3, 4] of answers of log-normal lengths whose quality differs, orders nested."""
    reference = np.clip(rng.lognormal(4, 0.7, n), 5, 400).astype(int)
    predicted = np.clip(reference * rng.lognormal(-0.1, 0.4, n), 5, None).astype(int)
    quality, rows = rng.beta(4, 6, n), np.zeros((n, 3, 4))
    matches = np.minimum(reference, predicted).astype(float)
    for order in range(4):
        share = np.clip(quality + 0.15 * order, 0, 1)
        # Normal steps instead of binomial ones: six times faster, and as good a corpus.
        matches = np.clip(matches * share + rng.normal(0, 1, n) * np.sqrt(matches * share * (1 - share)), 0, matches)
        rows[:, :, order] = np.stack([matches, predicted - order, reference - order], axis=1)
    return rows


def test_corpus_bleu():
    value = functools.partial(bleu, order=4)
    truth = float(value(answers(np.random.default_rng(99), 1_000_000).sum(axis=0)))
    assert 94 <= coverage(lambda rng: Statistic(answers(rng, 120), value), truth, 2000) <= 96


def test_weighted_f1():
    letters = np.array(["A", "B", "CD"])

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        gold = letters[rng.choice(3, n, p=[0.5, 0.3, 0.2])]
        return gold, np.where(rng.random(n) < 0.4, gold, letters[rng.choice(3, n)])

    truth = float(f1_weighted(f1_rows(*draw(np.random.default_rng(99), 200_000)).sum(axis=0)))
    found = coverage(lambda rng: Statistic(f1_rows(*draw(rng, 150)), f1_weighted), truth, 2000)
    assert 94 <= found <= 96


@pytest.mark.parametrize("n", [100, extended(400)])
def test_difference_of_paired_accuracies(n: int):
    def draw(rng: np.random.Generator) -> tuple[Statistic, Statistic]:
        ease, luck = rng.random(n), rng.random((2, n))
        return proportion(luck[0] < 0.7 * ease), proportion(luck[1] < 0.1 + 0.8 * ease)

    assert 94 <= paired_coverage(draw, 15.0, 3000) <= 96


@pytest.mark.parametrize("subjects", [20, extended(8)])
def test_difference_of_paired_averages_over_subjects(subjects: int):
    groups = np.repeat(np.arange(subjects), SIZES[:subjects])
    ease = np.linspace(0.1, 0.9, subjects)

    def draw(rng: np.random.Generator) -> tuple[Statistic, Statistic]:
        luck = rng.random((2, len(groups)))
        return proportion(luck[0] < 0.7 * ease[groups], groups), proportion(luck[1] < 0.1 + 0.8 * ease[groups], groups)

    assert 94 <= paired_coverage(draw, 15.0, 8000) <= 96


@pytest.mark.parametrize("n", [100, extended(250)])
def test_difference_of_paired_text_metrics(n: int):
    def draw(rng: np.random.Generator) -> tuple[Statistic, Statistic]:
        first = rng.exponential(15, n)
        return mean_of(first), mean_of(0.5 * first + rng.exponential(10, n))

    assert 94 <= paired_coverage(draw, 2.5, 3000) <= 96
