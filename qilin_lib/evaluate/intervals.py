"""95 % intervals and paired tests, chosen by their coverage (tests/evaluate/test_coverage.py).

Proportions: Wilson's score interval; averages of groups' shares: the same with effective trials; differences of paired
proportions: Bonett and Price. All else: the studentised bootstrap over items, since the percentile bootstrap holds a
skewed mean of 100 items 93.4 times in 100 only (Hesterberg 2015, arXiv 1411.5279, recommends the same).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr

from qilin_lib.errors import QilinError

Z = 1.959963984540054
Z_POWER = 0.8416212335729143  # 80 % power
EPSILON = 1e-4  # relative step of the numerical slopes
LEAST = 3  # items; below it resamples show nothing of the spread, and nothing is claimed
TINY = 1e-9  # points; below it a standard error is rounding
PERCENT, ANY, POSITIVE = (0.0, 100.0), (-math.inf, math.inf), (0.0, math.inf)
Summary = dict[str, float | int | None]


@dataclass(frozen=True)
class Statistic:
    """A metric as a smooth function of summed per-item rows.

    `rows` [N, …], one an item; `value` maps sums of rows [..., …] to the metric [...], which lies within `bounds`;
    `correct` [N] is set if it is a share of right items, `groups` [N] (0, 1, …) if it is the mean of groups' shares.
    `shown` is the rising function between the metric, on whose scale an interval is computed, and what is told of it.
    """

    rows: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]
    correct: np.ndarray | None = None
    groups: np.ndarray | None = None
    bounds: tuple[float, float] = PERCENT
    shown: Callable[[np.ndarray], np.ndarray] = np.positive


def mean_of(values: Sequence[float] | np.ndarray, bounds: tuple[float, float] = PERCENT) -> Statistic:
    """The mean of per-item values [N]."""
    values = np.asarray(values, dtype=float)
    return Statistic(np.stack([values, np.ones_like(values)], axis=-1), ratio, bounds=bounds)


def ratio(sums: np.ndarray) -> np.ndarray:
    """The first sum [..., 2] by the second -> [...]."""
    return sums[..., 0] / sums[..., 1]


def proportion(correct: Sequence[bool], groups: Sequence[str] | None = None) -> Statistic:
    """The share of right items; with `groups` [N] the mean of the groups' shares, each group with the same weight."""
    hits = np.asarray(correct, dtype=bool)
    labels = np.zeros(len(hits), dtype=int) if groups is None else np.unique(groups, return_inverse=True)[1]
    many, items = len(np.bincount(labels)), np.arange(len(hits))
    rows = np.zeros((len(hits), 2 * many))
    rows[items, labels], rows[items, many + labels] = hits, 1

    def mean_share(sums: np.ndarray) -> np.ndarray:
        right, members = np.split(sums, 2, axis=-1)
        return 100 * (right / members).mean(axis=-1)

    return Statistic(rows, mean_share, hits, labels)


def summary(statistic: Statistic, resamples: int, seed: int, ids: Sequence[str] = ()) -> Summary:
    """{"value", "n", "low", "high"}; the value None when there is no item, the bounds below LEAST items.

    QilinError for an item whose rows are no numbers, by its id if there are as many `ids`, else by its place.
    """
    n = len(statistic.rows)
    if n == 0:
        return {"value": None, "n": 0, "low": None, "high": None}
    _check_finite(statistic, ids)
    value = float(statistic.value(statistic.rows.sum(axis=0)))
    if n < LEAST:
        return {"value": float(statistic.shown(value)), "n": n, "low": None, "high": None}
    if statistic.correct is not None:
        # Trials that a plain proportion would need for the variance of this mean of shares (Korn and Graubard 1998).
        (share,), sizes, (shares,) = _shares(statistic.groups, statistic.correct)
        trials = _effective(share * (1 - share), shares * (1 - shares), sizes)
        low, high = (100 * bound for bound in wilson(value / 100, trials))
    else:
        least, most = statistic.bounds
        low, high, _ = studentised(statistic, resamples, seed)
        low, high = max(least, low), min(most, high)
        if math.isfinite(most) and (low == high or value in statistic.bounds):
            # No bootstrap sees beyond items that are all alike; of scores within bounds, proportions spread the most.
            share = min(1.0, max(0.0, (value - least) / (most - least)))
            low, high = (least + (most - least) * bound for bound in wilson(share, n))
    value, low, high = (float(statistic.shown(number)) for number in (value, low, high))
    return {"value": value, "n": n, "low": low, "high": high}


def wilson(share: float, trials: float) -> tuple[float, float]:
    """Wilson's (1927) 95 % score interval of a proportion `share` in [0, 1] out of `trials`, as shares; of none NaN."""
    if not trials:
        return math.nan, math.nan
    centre = (share + Z * Z / (2 * trials)) / (1 + Z * Z / trials)
    half = Z / (1 + Z * Z / trials) * math.sqrt(share * (1 - share) / trials + Z * Z / (4 * trials * trials))
    # The bounds are 0 and 1 exactly there; rounding would put a share of 0 outside its own interval.
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))


def bonett_price(lost: float, won: float, trials: float) -> tuple[float, float]:
    """95 % interval of won - lost, the shares in [0, 1] of `trials` pairs that changed to wrong and to right.

    Bonett and Price (2012), J. Educ. Behav. Stat. 37: one pair more of each kind, then Wald.
    """
    down, up = (lost * trials + 1) / (trials + 2), (won * trials + 1) / (trials + 2)
    half = Z * math.sqrt((down + up - (up - down) ** 2) / (trials + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def resample_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    """How often each item is drawn in each resample -> [resamples, n]."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float) if n else np.zeros((resamples, 0))


def estimates(statistic: Statistic, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The metric and its standard error (delta method) in every resample: counts [R, N] -> [R], [R].

    Slopes are taken numerically along each sum times 1 ± EPSILON: a sum of zero (no n-gram shared) stays zero, so no
    step crosses the place where smoothing starts.
    """
    n, shape = len(statistic.rows), statistic.rows.shape[1:]
    rows = _flat(statistic)
    sums = counts @ rows
    changes = np.zeros_like(sums)
    for column in range(rows.shape[1]):
        step = np.zeros(rows.shape[1])
        step[column] = EPSILON
        up, down = (statistic.value((sums * factor).reshape(-1, *shape)) for factor in (1 + step, 1 - step))
        changes[:, column] = (up - down) / (2 * EPSILON)
    slopes = np.divide(changes, sums, out=np.zeros_like(sums), where=sums != 0)
    effects = slopes @ rows.T
    squares = np.einsum("rn,rn->r", counts, np.square(effects, out=effects)) - changes.sum(axis=1) ** 2 / n
    return statistic.value(sums.reshape(-1, *shape)), np.sqrt(np.maximum(squares, 0.0))


def studentised(statistic: Statistic, resamples: int, seed: int) -> tuple[float, float, float]:
    """Symmetric bootstrap-t interval of a metric, and the two-sided p of its being zero (low, high, p).

    Hall (1988), J. R. Stat. Soc. B 50: the symmetric form errs by 1 / n^2 where the equal-tailed one errs by 1 / n.
    Resamples without any variance have no t and are left out. Where zero lies beyond every resample, Student's
    distribution gives p: else no correction for many comparisons could leave anything of a p of 1 / (resamples + 1).
    """
    n = len(statistic.rows)
    (centre,), (error,) = estimates(statistic, np.ones((1, n)))
    if error < TINY:
        # The exact sign test: all items lie on one side.
        return float(centre), float(centre), 1.0 if abs(centre) < TINY else 2.0 ** (1 - n)
    values, errors = estimates(statistic, _shared_counts(n, resamples, seed))
    usable = errors > TINY
    t = np.abs((values[usable] - centre) / errors[usable])
    # "weibull": the k-th of R values lies at k / (R + 1), without which few resamples cover too little.
    half = float(error) * (float(np.percentile(t, 95, method="weibull")) if len(t) else Z)
    observed = abs(centre / error)
    further = int((t >= observed).sum())
    # One added resample: a finite bootstrap cannot show a p of zero.
    p = (further + 1) / (len(t) + 1)
    if not further:
        degrees = max(1, n - 1)
        # Wallace (1959): Student's t as a normal deviate, right to three digits of p.
        deviate = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(observed**2 / n))
        p = min(p, math.erfc(deviate / math.sqrt(2)))
    return float(centre) - half, float(centre) + half, p


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def paired(a: Statistic, b: Statistic, resamples: int, seed: int) -> Summary:
    """{"n", "difference", "low", "high", "p"} of b minus a on the same items in the same order; without items None,
    below LEAST items the difference alone.

    Proportions: Bonett and Price, p of McNemar's exact test on the items (of all groups together). Else bootstrap-t of
    the difference, items resampled together.
    """
    row: Summary = {"n": len(a.rows), **dict.fromkeys(("difference", "low", "high", "p"))}
    if not len(a.rows):
        return row
    _check_finite(a)
    _check_finite(b)

    def difference(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return b.shown(b.value(right)) - a.shown(a.value(left))

    row["difference"] = float(difference(a.rows.sum(axis=0), b.rows.sum(axis=0)))
    if len(a.rows) < LEAST:
        return row
    if a.correct is None or b.correct is None:

        def both(sums: np.ndarray) -> np.ndarray:
            left, right = np.split(sums, [_flat(a).shape[1]], axis=-1)
            lead = sums.shape[:-1]
            return difference(left.reshape(*lead, *a.rows.shape[1:]), right.reshape(*lead, *b.rows.shape[1:]))

        widest = a.bounds[1] - a.bounds[0]
        low, high, p = studentised(Statistic(np.concatenate([_flat(a), _flat(b)], axis=1), both), resamples, seed)
        if low == high and math.isfinite(widest):
            # Pairs that are all alike: as if so large a share of them had changed.
            share = row["difference"] / 100
            low, high = (100 * bound for bound in bonett_price(max(0.0, -share), max(0.0, share), len(a.rows)))
        low, high = max(-widest, low), min(widest, high)
    else:
        # Shares of items that b lost and won, each group with the same weight, and the effective number of pairs.
        (lost, won), sizes, (down, up) = _shares(a.groups, a.correct & ~b.correct, ~a.correct & b.correct)
        trials = _effective(lost + won - (won - lost) ** 2, down + up - (up - down) ** 2, sizes)
        low, high = (100 * bound for bound in bonett_price(lost, won, trials))
        p = mcnemar(a.correct, b.correct)
    return row | {"low": low, "high": high, "p": p}


def mcnemar(a: np.ndarray, b: np.ndarray) -> float:
    """Two-sided exact p of McNemar (1947) for right/wrong arrays [N] of two models on the same items."""
    a, b = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    lost, won = int((a & ~b).sum()), int((~a & b).sum())
    return min(1.0, 2 * float(bdtr(min(lost, won), lost + won, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p of each of m tests: below 0.05 keeps the chance of any false find below 5 %."""
    adjusted, worst = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        worst = max(worst, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = worst
    return adjusted


def power_note(n: int) -> str:
    """What n items can show: half width of a 95 % interval at 50 %, and the least difference found 4 times in 5.

    The width is the normal approximation's. The difference is McNemar's (sample size of Connor 1987, Biometrics 43,
    solved for it) of two models at 50 % whose answers are unrelated, so half of them change: the worst case.
    """
    if n == 0:
        return "n = 0: no items"
    width = f"n = {n:,}: a 95 % interval of ±{_points(100 * Z / (2 * math.sqrt(n)))} points at 50 %"
    changed = 0.5
    alpha = Z * math.sqrt(changed)
    root = n * alpha**2 - (n + Z_POWER**2) * (alpha**2 - Z_POWER**2 * changed)
    # Below four items no difference whatever would be found so often, and the equation has no root.
    gap = (alpha * math.sqrt(n) + math.sqrt(root)) / (n + Z_POWER**2) if root >= 0 else math.inf
    if gap > changed:
        return f"{width}; too few to tell two models apart"
    return f"{width}; two models must differ by {_points(100 * gap)} points to be told apart 4 times in 5"


def _points(points: float) -> str:
    return f"{points:.0f}" if points >= 10 else f"{points:.1f}"


def _check_finite(statistic: Statistic, ids: Sequence[str] = ()) -> None:
    flat = _flat(statistic)
    bad = np.flatnonzero(~np.isfinite(flat).all(axis=1))
    if len(bad):
        first, n = int(bad[0]), len(flat)
        which = f"item {ids[first]}" if len(ids) == n else f"item {first + 1} of {n}"
        value = next(number for number in flat[first].tolist() if not math.isfinite(number))
        raise QilinError(f"{which} has the metric {value}, which is no number; look at its record, and ask it again")


def _flat(statistic: Statistic) -> np.ndarray:
    return statistic.rows.reshape(len(statistic.rows), -1)


def _shares(groups: np.ndarray, *events: np.ndarray) -> tuple[list[float], np.ndarray, list[np.ndarray]]:
    """Of each event: the mean of the groups' shares, and the groups' shares drawn to it by two items more.

    Unless drawn, a group of two items that are both right would count as one without any variance.
    """
    sizes = np.bincount(groups)
    hits = [np.bincount(groups, weights=event) for event in events]
    means = [float((hit / sizes).mean()) for hit in hits]
    return means, sizes, [(hit + 2 * mean) / (sizes + 2) for hit, mean in zip(hits, means, strict=True)]


def _effective(variance: float, variances: np.ndarray, sizes: np.ndarray) -> float:
    """Trials n for which variance / n is the variance of the groups' mean; as if all groups were alike when it is 0."""
    mean = float((variances / sizes).sum()) / len(sizes) ** 2
    return variance / mean if mean > 0 else float(len(sizes) ** 2 / (1 / sizes).sum())


@functools.lru_cache(maxsize=1)
def _shared_counts(n: int, resamples: int, seed: int) -> np.ndarray:
    # All metrics of a benchmark are resampled alike; drawing takes longer than everything done with the draw.
    counts = resample_counts(n, resamples, seed)
    counts.setflags(write=False)
    return counts
