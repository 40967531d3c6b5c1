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
from qilin_lib.evaluate import intervals

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
    "confidence", "right": share with its Wilson interval}; an empty one has None. QilinError if the lengths differ, if
    a reward is not finite, or if `bins` < 1.
    """
    margins = _margins(chosen, rejected)
    if bins < 1:
        raise QilinError(f"bins = {bins}: a reliability diagram needs at least one bin; {BINS} is usual here")
    right, confidence = margins > 0, _sigmoid(np.abs(margins))
    place = _places(confidence, bins)
    # Both in the form that keeps its digits where the model is almost sure.
    squares, surprises = _sigmoid(-margins) ** 2, np.logaddexp(0.0, -margins)
    return {
        "n": len(margins),
        "ties": int((margins == 0).sum()),
        "accuracy": _share(right),
        "ece": _ece(right, confidence, place, bins, resamples, seed),
        "brier": _mean(squares, resamples, seed),
        "log_loss": _mean(surprises, resamples, seed),
        "bins": [_bin(number, bins, right, confidence, place) for number in range(bins)],
    }


def accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> intervals.Summary:
    """Share of pairs whose chosen answer has the larger reward: {"value", "n", "low", "high"} with Wilson's 95 %
    interval. A tie counts as wrong, as in DPO's table: nothing was told apart. QilinError as `calibration`."""
    return _share(_margins(chosen, rejected) > 0)


def by_source(scores: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, list[float]]]:
    """{source: {"chosen", "rejected"}} of a heldout.json, sources by name."""
    grouped: dict[str, dict[str, list[float]]] = {source: {} for source in sorted(set(scores["sources"]))}
    for source, chosen, rejected in zip(scores["sources"], scores["chosen"], scores["rejected"], strict=True):
        grouped[source].setdefault("chosen", []).append(chosen)
        grouped[source].setdefault("rejected", []).append(rejected)
    return grouped


def _margins(chosen: Sequence[float], rejected: Sequence[float]) -> np.ndarray:
    if len(chosen) != len(rejected):
        raise QilinError(
            f"rewards of {len(chosen)} chosen and {len(rejected)} rejected answers: a pair has one of each; nearest "
            "valid: equally many"
        )
    margins = np.asarray(chosen, dtype=float) - np.asarray(rejected, dtype=float)
    if not np.isfinite(margins).all():
        first = int(np.flatnonzero(~np.isfinite(margins))[0])
        raise QilinError(
            f"pair {first}: rewards {chosen[first]} and {rejected[first]} are not finite numbers; the reward model "
            "diverged, nearest valid: a smaller learning_rate of rlhf.reward"
        )
    return margins


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0.0, -values))


def _places(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Number of each pair's bin [N]; the right end belongs to a bin."""
    edges = 0.5 + 0.5 * np.arange(1, bins) / bins
    return np.searchsorted(edges, confidence, side="left")


def _share(right: np.ndarray) -> intervals.Summary:
    if not len(right):
        return {"value": None, "n": 0, "low": None, "high": None}
    share = float(right.mean())
    if len(right) < intervals.LEAST:
        return {"value": share, "n": len(right), "low": None, "high": None}
    low, high = intervals.wilson(share, len(right))
    return {"value": share, "n": len(right), "low": low, "high": high}


def _mean(losses: np.ndarray, resamples: int, seed: int) -> intervals.Summary:
    """The mean of losses [N], none of them negative."""
    if not len(losses):
        return {"value": None, "n": 0, "low": None, "high": None}
    if len(losses) < intervals.LEAST:
        return {"value": float(losses.mean()), "n": len(losses), "low": None, "high": None}
    low, high, _ = intervals.studentised(intervals.mean_of(losses), resamples, seed)
    return {"value": float(losses.mean()), "n": len(losses), "low": max(0.0, low), "high": high}


def _ece(
    right: np.ndarray, confidence: np.ndarray, place: np.ndarray, bins: int, resamples: int, seed: int
) -> intervals.Summary:
    """Mean over pairs of |share right - mean confidence| of their bin."""
    n = len(right)
    if not n:
        return {"value": None, "n": 0, "low": None, "high": None}
    gaps = np.zeros((n, bins))
    gaps[np.arange(n), place] = right - confidence
    counts = intervals.resample_counts(n, resamples, seed)
    low, high = intervals.percentiles(np.abs(counts @ gaps).sum(axis=1) / n)
    return {"value": float(np.abs(gaps.sum(axis=0)).sum() / n), "n": n, "low": low, "high": high}


def _bin(number: int, bins: int, right: np.ndarray, confidence: np.ndarray, place: np.ndarray) -> dict[str, Any]:
    inside = place == number
    return {
        "low": 0.5 + 0.5 * number / bins,
        "high": 0.5 + 0.5 * (number + 1) / bins,
        "n": int(inside.sum()),
        "confidence": float(confidence[inside].mean()) if inside.any() else None,
        "right": _share(right[inside]),
    }
