"""95 % intervals and paired tests: Wilson for proportions, the bootstrap over items for the rest."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Statistic:
    """A metric as a function of summed per-item rows.

    `rows` [N, …], one an item; `value` maps sums of rows [..., …] to the metric in percent [...]; `correct` [N] is set
    if the metric is a proportion (then Wilson and McNemar are used); `strata` [N], if any, are resampled within.
    """

    rows: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]
    correct: np.ndarray | None = None
    strata: np.ndarray | None = None


def mean_of(values: Sequence[float] | np.ndarray) -> Statistic:
    """The mean of per-item values [N] (in percent already)."""
    values = np.asarray(values, dtype=float)
    return Statistic(np.stack([values, np.ones_like(values)], axis=-1), lambda sums: sums[..., 0] / sums[..., 1])


def proportion(correct: Sequence[bool], groups: Sequence[str] | None = None) -> Statistic:
    """The share of right items; with `groups` [N] the mean of the groups' shares, each group with the same weight."""
    hits = np.asarray(correct, dtype=bool)
    labels = np.zeros(len(hits), dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    member = labels[:, None] == np.unique(labels)[None, :]
    rows = np.concatenate([member & hits[:, None], member], axis=1).astype(float)
    return Statistic(rows, _mean_share, hits, None if groups is None else labels)


def summary(statistic: Statistic, resamples: int, seed: int) -> Summary:
    """{"value", "n", "low", "high"} in percent; value and bounds None when there is no item."""
    n = len(statistic.rows)
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    value = float(statistic.value(statistic.rows.sum(axis=0)))
    if statistic.correct is not None:
        low, high = (100 * bound for bound in wilson(value / 100, _trials(statistic)))
    else:
        low, high = percentiles(bootstrap(statistic, _counts(statistic, resamples, seed)))
    return {"value": value, "n": n, "low": low, "high": high}


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % score interval of a proportion `share` in [0, 1] out of `trials`, as shares."""
    centre = (share + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    return max(0.0, centre - half), min(1.0, centre + half)


def resample_counts(n: int, resamples: int, seed: int, strata: np.ndarray | None = None) -> np.ndarray:
    """How often each item is drawn in each resample -> [resamples, n]; with `strata` [n], drawn within each stratum."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, n))
    labels = np.zeros(n) if strata is None else strata
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        even = np.full(len(members), 1 / len(members))
        counts[:, members] = generator.multinomial(len(members), even, size=resamples)
    return counts


def bootstrap(statistic: Statistic, counts: np.ndarray) -> np.ndarray:
    """The metric in every resample: counts [R, N] -> [R]."""
    return statistic.value(np.tensordot(counts, statistic.rows, axes=1))


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired(a: Statistic, b: Statistic, resamples: int, seed: int) -> dict[str, float | int]:
    """{"n", "difference", "low", "high", "p"} of b minus a on the same items in the same order.

    Interval: percentiles of the paired bootstrap. p: for proportions McNemar's exact test on the items (of all groups
    together), else the bootstrap's two-sided share beyond zero.
    """
    counts = _counts(a, resamples, seed)
    gaps = bootstrap(b, counts) - bootstrap(a, counts)
    low, high = percentiles(gaps)
    difference = float(b.value(b.rows.sum(axis=0)) - a.value(a.rows.sum(axis=0)))
    p = _sided(gaps) if a.correct is None or b.correct is None else mcnemar(a.correct, b.correct)
    return {"n": len(a.rows), "difference": difference, "low": low, "high": high, "p": p}


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact p of McNemar (1947) for right/wrong arrays [N] of two models on the same items."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    lost, won = int((a & ~b).sum()), int((~a & b).sum())
    changed = lost + won
    tail = sum(math.comb(changed, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**changed)


def _mean_share(sums: np.ndarray) -> np.ndarray:
    hits, members = np.split(sums, 2, axis=-1)
    return 100 * (hits / members).mean(axis=-1)


def _trials(statistic: Statistic) -> float:
    """Trials that a plain proportion would need for the variance of this mean of shares.

    With G groups of n_g items and one common p the variance is p (1 - p) sum(1 / n_g) / G^2; where the groups' shares
    differ the true variance is smaller, so the interval errs on the wide side.
    """
    sizes = np.bincount(np.zeros(len(statistic.rows), int) if statistic.strata is None else statistic.strata)
    return float(len(sizes) ** 2 / (1 / sizes).sum())


def _sided(gaps: np.ndarray) -> float:
    # One added resample on each side: a finite bootstrap cannot show a p of zero.
    below, above = (gaps <= 0).sum() + 1, (gaps >= 0).sum() + 1
    return float(min(1.0, 2 * min(below, above) / (len(gaps) + 1)))


def _counts(statistic: Statistic, resamples: int, seed: int) -> np.ndarray:
    if statistic.strata is None:
        return _shared_counts(len(statistic.rows), resamples, seed)
    return resample_counts(len(statistic.rows), resamples, seed, statistic.strata)


@functools.lru_cache(maxsize=1)
def _shared_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    # All metrics of a benchmark are resampled alike; drawing takes longer than everything done with the draw.
    counts = resample_counts(n, resamples, seed)
    counts.setflags(write=False)
    return counts
