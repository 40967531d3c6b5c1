"""Pairwise judgments and what they add up to: every pair is judged in both orders, and items, not votes, are resampled.

A pair of answers is won, tied or lost where both orders say so, "inconsistent" where they differ, and "unread" where
one of them decides nothing or failed: an error is never a verdict. Two controls judge beside the judge: "the longer
answer wins" and "the first answer wins".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from qilin_lib.evaluate.intervals import LEAST, TINY, mean_of, percentiles, resample_counts, summary
from qilin_lib.evaluate.judging.verdicts import TIE

WIN, LOSS, INCONSISTENT, UNREAD = "win", "loss", "inconsistent", "unread"
OUTCOMES = (WIN, TIE, LOSS, INCONSISTENT, UNREAD)
ORDERS = ("ab", "ba")
POINTS = {WIN: 1.0, TIE: 0.5, LOSS: 0.0}
HUMAN = "human: "
"""Before the name of a person who judged."""
# A judge follows length or order, rather than content, above such a share of its decisions (lower end of the interval).
FOLLOWS = 75.0
PREFERS = {"first": "answer shown first", "second": "answer shown second", "longer": "longer answer"}
KEPT = ["item", "order", "verdict", "length"]
# Of the strengths' squares, so that a model that won or lost everything has a finite one.
PENALTY = 0.01


def judged(records: Sequence[Mapping]) -> pd.DataFrame:
    """One row a judge, item and pair: judge, item, model_a, model_b, ab, ba (verdicts), outcome, points, length.

    points: the mean of the orders that were shown, 0–1, NaN for an unread item. People see one order only.
    """
    rows: dict[tuple, dict[str, Mapping]] = {}
    for one in records:
        key = one["judge"], one["item"], one["model_a"], one["model_b"]
        rows.setdefault(key, {})[one["order"]] = one
    frame = []
    for key, shown in rows.items():
        verdicts = [one["verdict"] for one in shown.values()]
        unread = None in verdicts
        outcome = UNREAD if unread else verdicts[0] if len({*verdicts}) == 1 else INCONSISTENT
        points = np.nan if unread else np.mean([POINTS[verdict] for verdict in verdicts])
        both = (shown[order]["verdict"] if order in shown else None for order in ORDERS)
        frame.append((*key, *both, outcome, points, next(iter(shown.values()))["length"]))
    names = ["judge", "item", "model_a", "model_b", *ORDERS, "outcome", "points", "length"]
    return pd.DataFrame(frame, columns=names)


def agreement(records: Sequence[Mapping]) -> pd.DataFrame:
    """How far judges agree, one row for two of them: first, second, people (how many of them), n, raw (percent),
    kappa; the last row, of all, has Krippendorff's alpha instead."""
    frame = judged(records)
    table = frame.pivot_table(index=["item", "model_a", "model_b"], columns="judge", values="outcome", aggfunc="first")
    said = {judge: [one if one in POINTS else None for one in table[judge]] for judge in table.columns}
    rows = []
    for (first, a), (second, b) in combinations(said.items(), 2):
        people = sum(name.startswith(HUMAN) for name in (first, second))
        rows.append((first, second, people, *agreed(a, b), None))
    if len(said) > 1:
        labels = [[POINTS.get(one) for one in own] for own in said.values()]
        people = sum(name.startswith(HUMAN) for name in said)
        rows.append(("all", "", people, len(table), None, None, alpha(labels)))
    return pd.DataFrame(rows, columns=["first", "second", "people", "n", "raw", "kappa", "alpha"])


def agreed(first: Sequence, second: Sequence) -> tuple[int, float | None, float | None]:
    """(items that both judges judged, in what percent of these they say the same, Cohen's kappa (1960)); None without
    such an item, and kappa where chance alone agrees always."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    n, same = len(both), sum(a == b for a, b in both)
    if not both:
        return 0, None, None
    shares = [{label: count / n for label, count in Counter(said).items()} for said in zip(*both, strict=True)]
    chance = sum(share * shares[1].get(label, 0) for label, share in shares[0].items())
    return n, 100 * same / n, None if chance == 1 else (same / n - chance) / (1 - chance)


def alpha(judgments: Sequence[Sequence[float | None]]) -> float | None:
    """Krippendorff's alpha of nominal labels (2011, "Computing Krippendorff's Alpha-Reliability"); rows: judges,
    columns: items, None: a judge has not seen the item. None without two different labels."""
    units = [[label for label in labels if label is not None] for labels in zip(*judgments, strict=True)]
    units = [Counter(unit) for unit in units if len(unit) > 1]
    totals = Counter()
    different = 0.0
    for unit in units:
        totals.update(unit)
        n = unit.total()
        different += (n * n - sum(count * count for count in unit.values())) / (n - 1)
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * different / expected if expected else None


def comparison(records: Sequence[Mapping], resamples: int, seed: int) -> pd.DataFrame:
    """One row a judge and pair of models: n, OUTCOMES, win_rate, low, high, length_controlled, lc_low, lc_high.

    win_rate: the mean of points over read items in percent, bootstrap-t over items; no bounds below LEAST items.
    """
    rows = []
    for (judge, a, b), own in judged(records).groupby(["judge", "model_a", "model_b"], sort=False):
        read = own[own["points"].notna()]
        rate = summary(mean_of(100 * read["points"].to_numpy()), resamples, seed)
        row = {"judge": judge, "model_a": a, "model_b": b, "n": len(own)}
        row |= {outcome: int((own["outcome"] == outcome).sum()) for outcome in OUTCOMES}
        row |= {"win_rate": rate["value"], "low": rate["low"], "high": rate["high"]}
        rows.append(row | length_controlled(read["points"], read["length"], resamples, seed))
    return pd.DataFrame(rows)


def length_controlled(
    points: Sequence[float], lengths: Sequence[float], resamples: int, seed: int
) -> dict[str, float | None]:
    """{"length_controlled", "lc_low", "lc_high"}: the win rate in percent that answers of equal length would have.

    A logistic regression of points on tanh of the standardised difference of lengths (Dubois et al. 2024, without their
    terms of models and instructions). None below LEAST items or where all points are the same.
    """
    points, lengths = np.asarray(points, dtype=float), np.asarray(lengths, dtype=float)
    names = ("length_controlled", "lc_low", "lc_high")
    if len(points) < LEAST or np.ptp(points) == 0:
        return dict.fromkeys(names)
    spread = lengths.std() or 1.0
    design = np.stack([np.ones_like(lengths), np.tanh(lengths / spread)], axis=1)
    value = logistic(design, points, np.ones_like(points))[0]
    draws = [logistic(design, points, counts)[0] for counts in resample_counts(len(points), min(resamples, 200), seed)]
    low, high = percentiles(np.array(draws))
    return dict(zip(names, (100 * expit(one) for one in (value, low, high)), strict=True))


def logistic(design: np.ndarray, shares: np.ndarray, weights: np.ndarray, ridge: float = 1e-6) -> np.ndarray:
    """Coefficients [k] of a logistic regression of shares 0–1 [n] on `design` [n, k], with a ridge on all of them."""

    def loss(beta: np.ndarray) -> tuple[float, np.ndarray]:
        z = design @ beta
        value = weights @ (np.logaddexp(0, z) - shares * z) + ridge * beta @ beta
        return value, design.T @ (weights * (expit(z) - shares)) + 2 * ridge * beta

    return minimize(loss, np.zeros(design.shape[1]), jac=True, method="BFGS").x


def strengths(records: Sequence[Mapping], resamples: int, seed: int) -> pd.DataFrame:
    """Bradley-Terry strengths (1952) of all models: model, strength (mean 0), low, high; ties are half a win each.

    Percentile bootstrap over items, all pairs of an item together; no bounds where all draws are alike. None at all of
    a model without a pair that was read.
    """
    every = judged(records)
    frame = every[every["points"].notna()]
    models = _models(frame)
    a, b = (pd.Categorical(frame[side], models).codes for side in ("model_a", "model_b"))
    items, points = pd.factorize(frame["item"])[0], frame["points"].to_numpy()
    design = np.zeros((len(frame), len(models)))
    design[np.arange(len(frame)), a] += 1
    design[np.arange(len(frame)), b] -= 1
    table = pd.DataFrame({"strength": [], "low": [], "high": []}, dtype=float)
    if models:
        value = _bradley_terry(design, points, np.ones_like(points))
        many = items.max() + 1
        counts = resample_counts(many, min(resamples, 200), seed)[:, items]
        draws = np.array([_bradley_terry(design, points, own) for own in counts])
        differ = (many >= LEAST) & (np.ptp(draws, axis=0) > TINY)
        low, high = np.where(differ, np.percentile(draws, [2.5, 97.5], axis=0), np.nan)
        table = pd.DataFrame({"strength": value, "low": low, "high": high}, index=models)
    return table.reindex(_models(every)).rename_axis("model").reset_index()


def _models(frame: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys([*frame["model_a"], *frame["model_b"]]))


def _bradley_terry(design: np.ndarray, points: np.ndarray, weights: np.ndarray) -> np.ndarray:
    found = logistic(design, points, weights, PENALTY)
    return found - found.mean()


def controls(records: Sequence[Mapping], resamples: int, seed: int) -> pd.DataFrame:
    """What a judge follows: control, share (percent), low, high, n, warning ("" if there is nothing to say).

    first, longer: of all decisions those for the first shown and for the longer answer. orders agree: Cohen's kappa
    (times 100) of the verdicts in the two orders, 0 for a judge that decides by chance.
    """
    decided = pd.DataFrame([one for one in records if one["verdict"] in (WIN, LOSS)], columns=KEPT)
    won = decided["verdict"] == WIN
    decided["first"] = won == (decided["order"] == "ab")
    decided["second"] = ~decided["first"]
    decided["longer"] = (won == (decided["length"] > 0)).where(decided["length"] != 0)
    rows = []
    for control in ("first", "second", "longer"):
        # Both orders of an item are one draw.
        items = decided[control].dropna().astype(float).groupby(decided["item"]).mean()
        found = summary(mean_of(100 * items.to_numpy()), resamples, seed)
        warned = found["low"] is not None and found["low"] > FOLLOWS
        warning = f"prefers the {PREFERS[control]}" if warned else ""
        rows.append((control, found["value"], found["low"], found["high"], found["n"], warning))
    both = judged(records)
    both = both[both["points"].notna()]
    agreed, low, high = _orders_agree(both, resamples, seed)
    chance = "" if low is None or low > 0 else "the two orders agree no more than by chance"
    rows.append(("orders agree", agreed, low, high, len(both), chance))
    return pd.DataFrame(rows, columns=["control", "share", "low", "high", "n", "warning"])


def _orders_agree(both: pd.DataFrame, resamples: int, seed: int) -> tuple[float | None, float | None, float | None]:
    """100 times Cohen's kappa of the verdicts in the two orders, and its percentile interval over items."""
    ab, ba = both["ab"].to_numpy(), both["ba"].to_numpy()
    items, kappa = pd.factorize(both["item"])[0], agreed(ab, ba)[2]
    many = len(set(items))
    if many < LEAST or kappa is None:
        return None, None, None
    # All pairs of an item are one draw.
    counts = resample_counts(many, min(resamples, 200), seed).astype(int)[:, items]
    draws = [agreed(np.repeat(ab, drawn), np.repeat(ba, drawn))[2] for drawn in counts]
    return 100 * kappa, *percentiles(np.array([100 * one for one in draws if one is not None]))
