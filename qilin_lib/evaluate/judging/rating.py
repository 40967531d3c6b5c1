"""Single answers rated: numbers for a preset's criteria, or which of an item's own criteria are met (HealthBench).

Items, not criteria, are resampled. An answer of which one number or one criterion could not be read, or of which the
judge failed, is counted as unread and is in no mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib.evaluate.intervals import PERCENT, mean_of, summary
from qilin_lib.evaluate.judging import verdicts
from qilin_lib.evaluate.judging.verdicts import Criterion, Preset
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.files import sha256_text

MEAN, POINTS = "mean", "points"
"""Of a model's rows: the mean of a preset's criteria; the points of an item's own criteria, in percent."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a judge is asked about a model's answer: all of a preset's criteria, or one of the item's own (`place`)."""

    item: str
    model: str
    place: int | None
    prompt: str

    @property
    def name(self) -> str:
        """Its id among all that is asked."""
        return f"{self.item} {self.model} {'' if self.place is None else self.place}".rstrip()


def questions(
    items: Mapping[str, Mapping], answers: Mapping[str, Mapping], chosen: Preset, own: Mapping[str, Sequence[Criterion]]
) -> Iterator[Question]:
    """Of every item and model; items: {id: {question, reference}}, answers: {model: {id: text}}, own: {id: criteria}"""
    for item, row in items.items():
        for model, texts in answers.items():
            if chosen.kind == "scores":
                prompt = verdicts.scores_prompt(chosen, row["question"], texts[item], row["reference"])
                yield Question(item, model, None, prompt)
            for place, criterion in enumerate(own.get(item, ())):
                yield Question(item, model, place, verdicts.criterion_prompt(row["question"], texts[item], criterion))


def record(question: Question, judge: str, reply: Reply, chosen: Preset) -> dict[str, Any]:
    """What is kept of one reply; `verdict`: {criterion: number}, or whether the criterion is met; None if unread."""
    read = verdicts.scores(reply.text, chosen) if chosen.kind == "scores" else verdicts.met(reply.text)
    verdict = None if reply.finish == ERROR else read
    return {
        "item": question.item,
        "model": question.model,
        "criterion": question.place,
        "judge": judge,
        "prompt_sha": sha256_text(question.prompt),
        "raw": reply.text,
        "verdict": verdict,
        "parsed": verdict is not None,
        **reply.ending,
    }


def ratings(
    records: Sequence[Mapping], chosen: Preset, own: Mapping[str, Sequence[Criterion]], resamples: int, seed: int
) -> pd.DataFrame:
    """One row per model and criterion (MEAN first, or POINTS alone): n (items read), unread, value, low, high.

    Bootstrap-t over items; no bounds below LEAST items.
    """
    said: dict[str, dict[str, list]] = {}
    for one in records:
        said.setdefault(one["model"], {}).setdefault(one["item"], []).append(one["verdict"])
    rows = []
    for model, items in said.items():
        read = [rated for item, replies in items.items() if (rated := _rated(item, replies, own))]
        for criterion in read[0] if read else [POINTS if own else MEAN]:
            mean = mean_of([rated[criterion] for rated in read], PERCENT if own else (chosen.low, chosen.high))
            row = {"model": model, "criterion": criterion, "unread": len(items) - len(read)}
            rows.append(row | summary(mean, resamples, seed))
    return pd.DataFrame(rows)


def _rated(item: str, said: Sequence[Any], own: Mapping[str, Sequence[Criterion]]) -> dict[str, float] | None:
    """{MEAN, and each criterion, or POINTS: value} of one answer; None if it is unread."""
    if own:
        points = verdicts.rubric_score(own[item], said)
        return None if points is None else {POINTS: points}
    (numbers,) = said
    return numbers and {MEAN: float(np.mean([*numbers.values()])), **numbers}
