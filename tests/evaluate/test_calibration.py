"""Reliability of a reward model: scikit-learn counts the same bins and scores; intervals hold what they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, log_loss

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.calibration import accuracy, by_source, calibration


def pairs(n: int, seed: int, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Rewards of n pairs that are chosen as Bradley and Terry's model says; `sharpness` 1 states the true chances."""
    draw = np.random.default_rng(seed)
    one, other = draw.normal(size=(2, n))
    first = draw.random(n) < 1 / (1 + np.exp(-(one - other)))
    return sharpness * np.where(first, one, other), sharpness * np.where(first, other, one)


def judged(chosen: np.ndarray, rejected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(right, confidence) by another road than the module's."""
    p = np.array([1 / (1 + math.exp(r - c)) for c, r in zip(chosen, rejected, strict=True)])
    return p > 0.5, np.maximum(p, 1 - p)


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
def test_scores_are_scikit_learns(sharpness: float) -> None:
    chosen, rejected = pairs(400, 3, sharpness)
    right, confidence = judged(chosen, rejected)
    found = calibration(chosen, rejected, 200, 1)
    assert found["accuracy"]["value"] == pytest.approx(right.mean())
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(right, confidence))
    assert found["log_loss"]["value"] == pytest.approx(log_loss(right, confidence))
    for name in ("accuracy", "ece", "brier", "log_loss"):
        assert found[name]["n"] == 400 and found[name]["low"] < found[name]["high"]


@pytest.mark.parametrize("bins", [1, 5, 10])
def test_bins_are_scikit_learns(bins: int) -> None:
    """Its bins cover 0 to 1; twice as many of them have the same edges from one half on."""
    chosen, rejected = pairs(700, 4)
    right, confidence = judged(chosen, rejected)
    found = calibration(chosen, rejected, 100, 1, bins)
    filled = [one for one in found["bins"] if one["n"]]
    shares, means = calibration_curve(right, confidence, n_bins=2 * bins, strategy="uniform")
    assert [one["right"]["value"] for one in filled] == pytest.approx(shares)
    assert [one["confidence"] for one in filled] == pytest.approx(means)
    weights = np.array([one["n"] for one in filled]) / 700
    assert weights.sum() == pytest.approx(1) and len(found["bins"]) == bins
    assert found["ece"]["value"] == pytest.approx(float(weights @ np.abs(shares - means)))


def test_bins_include_their_right_end_and_the_first_also_one_half() -> None:
    margins = [0.0, math.log(3), math.log(3) + 1e-9, -math.log(3)]
    first, second = calibration(margins, [0.0] * 4, 100, 1, bins=2)["bins"]
    assert (first["n"], second["n"]) == (3, 1)
    assert (first["low"], first["high"], second["high"]) == (0.5, 0.75, 1.0)
    assert first["right"]["value"] == pytest.approx(1 / 3) and second["right"]["value"] == 1


def test_a_tie_is_wrong_at_a_confidence_of_one_half() -> None:
    found = calibration([1.0, 2.0, 0.0], [1.0, 1.0, 1.0], 100, 1)
    assert found["ties"] == 1 and found["accuracy"]["value"] == pytest.approx(1 / 3)
    assert accuracy([1.0, 2.0, 0.0], [1.0, 1.0, 1.0]) == found["accuracy"]
    level = calibration([5.0] * 8, [5.0] * 8, 100, 1)
    assert level["accuracy"]["value"] == 0 and level["brier"]["value"] == 0.25
    assert level["log_loss"]["value"] == pytest.approx(math.log(2)) and level["ece"]["value"] == 0.5


def test_overconfidence_shows_and_calibration_does_not() -> None:
    calm = calibration(*pairs(20_000, 5), 100, 1)
    loud = calibration(*pairs(20_000, 5, 4.0), 100, 1)
    assert calm["ece"]["value"] < 0.015 and loud["ece"]["low"] > 0.1
    for one in calm["bins"]:
        assert one["right"]["low"] - 0.02 < one["confidence"] < one["right"]["high"] + 0.02
    assert calm["accuracy"] == loud["accuracy"]
    assert calm["log_loss"]["high"] < loud["log_loss"]["low"] and calm["brier"]["high"] < loud["brier"]["low"]


def test_intervals_of_the_losses_cover_the_truth() -> None:
    """Of 150 samples of 80 pairs, about 95 % hold the value of 200,000 pairs."""
    truth = calibration(*pairs(200_000, 6), 2, 1)
    held = {"accuracy": 0, "brier": 0, "log_loss": 0}
    for seed in range(150):
        found = calibration(*pairs(80, 100 + seed), 200, seed)
        for name in held:
            held[name] += found[name]["low"] <= truth[name]["value"] <= found[name]["high"]
    assert all(0.9 * 150 <= count for count in held.values()), held


def test_pairs_are_grouped_by_source() -> None:
    scores = {"ids": ["a", "b", "c"], "sources": ["z", "m", "z"], "chosen": [1, 2, 3], "rejected": [4, 5, 6]}
    assert by_source(scores) == {
        "m": {"chosen": [2], "rejected": [5]},
        "z": {"chosen": [1, 3], "rejected": [4, 6]},
    }


@pytest.mark.parametrize(
    ("chosen", "rejected", "bins", "sentence"),
    [
        ([1.0], [1.0, 2.0], 5, "rewards of 1 chosen and 2 rejected answers"),
        ([0.0, float("nan")], [0.0, 0.0], 5, "pair 1: rewards nan and 0.0 are not finite"),
    ],
)
def test_what_is_no_pair_is_refused(chosen: list, rejected: list, bins: int, sentence: str) -> None:
    with pytest.raises(QilinError, match=sentence):
        calibration(chosen, rejected, 100, 1, bins)
