"""Does a reward model know what it does not know? Held-out pairs, and P(chosen ≻ rejected) = σ(r_c - r_r).

A reward model that was trained with Bradley and Terry's loss states such a probability for every pair. Confidence is
that of the answer it prefers, max(p, 1 - p); it is right when that is the chosen one. Reliability and expected
calibration error as in Guo et al. 2017 (arXiv 1706.04599), on confidences from 50 to 100 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import POSITIVE, Summary, mean_of, percentiles, proportion, resample_counts, summary

BINS = 5


def calibration(
    chosen: Sequence[float], rejected: Sequence[float], resamples: int, seed: int, bins: int = BINS
) -> dict[str, Any]:
    """How far stated confidence and share right agree on N pairs with rewards `chosen` [N] and `rejected` [N].

    {"n", "ties", "accuracy", "ece", "brier", "log_loss", "bins"}; scores are {"value", "n", "low", "high"} with 95 %
    intervals, accuracy and expected calibration error (ECE) as shares, log loss in nats. A pair with equal rewards is
    wrong, at a confidence of one half. Accuracy: Wilson. Brier score and log loss: bootstrap-t over pairs. ECE: the
    percentile bootstrap; ECE is biased upward on few pairs (a calibrated model's is above 0 too), and so is its
    interval. Bins are of equal width over (1/2, 1], right end included, the first one with 1/2: {"low", "high", "n",
    "confidence", "right": share with its Wilson interval}; an empty one has None. QilinError if the lengths differ, or
    if a reward is not finite.
    """
    margins = _margins(chosen, rejected)
    right, confidence = margins > 0, _sigmoid(np.abs(margins))
    edges = 0.5 + 0.5 * np.arange(bins + 1) / bins
    # The right end belongs to a bin.
    place = np.searchsorted(edges[1:-1], confidence, side="left")
    # The mean over pairs of |share right - mean confidence| of their bin.
    gaps, n = np.zeros((len(margins), bins)), len(margins)
    gaps[np.arange(n), place] = right - confidence
    ece: Summary = {"value": None, "n": n, "low": None, "high": None}
    if n:
        low, high = percentiles(np.abs(resample_counts(n, resamples, seed) @ gaps).sum(axis=1) / n)
        ece |= {"value": float(np.abs(gaps.sum(axis=0)).sum() / n), "low": low, "high": high}
    # Both in the form that keeps its digits where the model is almost sure.
    squares, surprises = _sigmoid(-margins) ** 2, np.logaddexp(0.0, -margins)
    return {
        "n": len(margins),
        "ties": int((margins == 0).sum()),
        "accuracy": _share(right),
        "ece": ece,
        "brier": summary(mean_of(squares, POSITIVE), resamples, seed),
        "log_loss": summary(mean_of(surprises, POSITIVE), resamples, seed),
        "bins": [
            {
                "low": float(edges[number]),
                "high": float(edges[number + 1]),
                "n": int((place == number).sum()),
                "confidence": float(confidence[place == number].mean()) if (place == number).any() else None,
                "right": _share(right[place == number]),
            }
            for number in range(bins)
        ],
    }


def accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> Summary:
    """Share of pairs whose chosen answer has the larger reward: {"value", "n", "low", "high"} with Wilson's 95 %
    interval. A tie counts as wrong, as in DPO's table: nothing was told apart. QilinError as `calibration`."""
    return _share(_margins(chosen, rejected) > 0)


def by_source(scores: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, list[float]]]:
    """{source: {"chosen", "rejected"}} of a heldout.json, sources by name."""
    grouped = {source: {"chosen": [], "rejected": []} for source in sorted(set(scores["sources"]))}
    for source, chosen, rejected in zip(scores["sources"], scores["chosen"], scores["rejected"], strict=True):
        grouped[source]["chosen"].append(chosen)
        grouped[source]["rejected"].append(rejected)
    return grouped


def _margins(chosen: Sequence[float], rejected: Sequence[float]) -> np.ndarray:
    if len(chosen) != len(rejected):
        raise QilinError(
            f"rewards of {len(chosen)} chosen and {len(rejected)} rejected answers: a pair has one of each; nearest "
            "valid: equally many"
        )
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    for number in np.flatnonzero(~np.isfinite(margins)):
        raise QilinError(
            f"pair {number}: rewards {chosen[number]} and {rejected[number]} are not finite numbers; the reward model "
            "diverged, nearest valid: a smaller learning_rate of rlhf.reward"
        )
    return margins


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))


def _share(right: np.ndarray) -> Summary:
    percent = summary(proportion(right), 0, 0)
    shares = {name: percent[name] / 100 for name in ("value", "low", "high") if percent[name] is not None}
    return percent | shares
