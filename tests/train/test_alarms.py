"""Alarms: logs of trainings that went wrong, each beside a log that must stay silent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.train.alarms import alarms, spikes

CALM = SimpleNamespace(learning_rate=5e-6, beta=0.1)


def log(steps: int = 400, every: int = 4, **changes: Any) -> list[dict[str, Any]]:
    """A healthy training: accuracy from chance to 0.8, margin up, chosen answers a little likelier.

    A change is a number, or a function of the share of training done.
    """
    rows = []
    for step in range(every, steps + 1, every):
        done = step / steps
        row = {
            "step": step,
            "loss": 0.69 - 0.2 * done,
            "rewards/accuracies": 0.4 + 0.4 * done,
            "rewards/chosen": 0.1 * done,
            "rewards/margins": 0.8 * done,
            "lengths/chosen": 200.0,
        }
        rows.append(row | {name: value(done) if callable(value) else value for name, value in changes.items()})
    return rows


def behaviour(tokens: float = 50, cut: float = 0, repetition: float = 0.1) -> dict[str, Any]:
    """Eight answers before and after; the arguments are those after."""
    made = {"tokens": [50.0] * 8, "cut": [False] * 8, "repetition": [0.1] * 8}
    after = {"tokens": [tokens] * 8, "cut": [i < cut for i in range(8)], "repetition": [repetition] * 8}
    return {"max_new_tokens": 256, "reference": made, "policy": after}


def test_a_healthy_training_is_silent() -> None:
    assert alarms(log(), CALM, 400, behaviour()) == []
    assert alarms(log(), CALM, 400, None) == []
    assert alarms([], CALM, 400, None) == []
    # Rows that are no training rows: an evaluation before step 1 has other names.
    assert alarms([{"step": 0, "eval_loss": 0.0}, *log()], CALM, 400, None) == []


SOON = {"loss": lambda done: 0.0 if done <= 0.02 else 0.5}
FALL, STEADY = {"rewards/chosen": lambda done: -0.5 * done}, {"rewards/margins": 0.3}


def ranked_from(start: float) -> dict[str, Any]:
    return {"rewards/accuracies": lambda done: 1.0 if done > start else 0.6}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        # hiyouga/LLaMA-Factory#8974: loss 0.0 and accuracy 1.0 from step 5.
        ({"rewards/accuracies": 1.0}, "By step 4 of 400"),
        ({"loss": 0.0}, "#8974"),
        (SOON, "#8974"),
        (ranked_from(0.05), "surface feature"),
        (ranked_from(0.1), "surface feature"),
        (ranked_from(0.15), ""),
        (FALL, "pushing both sides down"),
        (FALL, "4.4 nats less likely"),
        # The same fall with a margin that does not grow, and a fall below one nat.
        (FALL | STEADY, ""),
        ({"rewards/chosen": lambda done: -0.09 * done}, ""),
        # In the last quarter more than a tenth of a nat a token: 200 tokens and beta 0.1, so a reward of -2.
        ({"rewards/chosen": -2.2} | STEADY, "0.11 nats a token"),
        ({"rewards/chosen": -1.9} | STEADY, ""),
        ({"rewards/chosen": -2.1, "lengths/chosen": 400.0} | STEADY, ""),
    ],
)
def test_a_log_that_went_wrong_raises_its_alarm_and_no_other(changes: dict[str, Any], words: str) -> None:
    found = alarms(log(**changes), CALM, 400, behaviour())
    assert len(found) == bool(words) and all(words in sentence for sentence in found)


@pytest.mark.parametrize(("rate", "count"), [(1e-5, 0), (1.1e-5, 1)])
def test_high_learning_rate(rate: float, count: int) -> None:
    found = alarms(log(), SimpleNamespace(learning_rate=rate, beta=0.1), 400, behaviour())
    assert len(found) == count and all("LLaMA-Factory#797" in sentence for sentence in found)


@pytest.mark.parametrize(
    "after, word",
    [({"tokens": 80}, "grew from 50 to 80 tokens"), ({"cut": 3}, "do not end within 256 tokens"),
     ({"repetition": 0.25}, "rose from 0.10 to 0.25"), ({"tokens": 74}, ""), ({"cut": 2}, ""),
     ({"repetition": 0.19}, ""), ({"tokens": 20, "repetition": 0.0}, "")],
)  # fmt: skip
def test_answers_that_grow_do_not_end_or_repeat(after: dict[str, float], word: str) -> None:
    found = alarms(log(), CALM, 400, behaviour(**after))
    assert len(found) == bool(word) and all(word in sentence for sentence in found)


def test_every_alarm_names_source_and_remedy() -> None:
    bad = log(**{"loss": 0.0, "rewards/chosen": lambda done: -5 * done})
    found = alarms(bad, SimpleNamespace(learning_rate=1e-3, beta=0.1), 400, behaviour(200, 8, 0.9))
    assert len(found) == 7
    for sentence in found:
        assert "#" in sentence and ("Try " in sentence or "try " in sentence or "Look at" in sentence)


@pytest.mark.parametrize(("rates", "told"), [([0.0], 1), ([0.0, 1e-5], 0), ([1e-5, 0.0], 0), ([], 0)])
def test_a_training_that_is_all_warmup_is_told(rates: list[float], told: int) -> None:
    """The only step of a small set has the rate at which the warmup begins: 0."""
    found = spikes([{"step": place, "loss": 1.0, "learning_rate": rate} for place, rate in enumerate(rates, 1)], 1.0)
    assert len(found) == told and all("warmup_ratio: 0" in sentence for sentence in found)
