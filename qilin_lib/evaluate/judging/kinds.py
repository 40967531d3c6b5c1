"""All kinds of judging, and nowhere else: what a judge is asked of an item's answers, what it says, what that makes.

A kind is made of a preset and of the benchmark's task, and has
  asks(item, answers)                what a judge is asked of {model: its answer}
  read(asked, text)                  the verdict in a reply; None if there is none
  tables(records, resamples, seed)   {name: frame} for scores.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib.evaluate.intervals import PERCENT
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import comparison, verdicts
from qilin_lib.evaluate.judging.comparison import LOSS, ORDERS, WIN
from qilin_lib.evaluate.judging.rating import MEAN, POINTS, ratings
from qilin_lib.evaluate.judging.verdicts import FIRST, SECOND, TIE, Asked, Preset
from qilin_lib.evaluate.replies import Reply

WORDS = {FIRST: "回答1更好", SECOND: "回答2更好", TIE: "平局"}
"""What a judge of pairs is asked to write."""
BETTER = (
    "[问题]\n{question}\n[问题结束]\n\n[回答1]\n{first}\n[回答1结束]\n\n[回答2]\n{second}\n[回答2结束]\n\n"
    "请按以下标准比较两个回答：{criteria}。回答的先后和长短不应影响判断。"
    "先简要分析，最后一行只写以下三者之一：“回答1更好”、“回答2更好”、“平局”。"
)
NUMBERS = (
    "[问题]\n{question}\n[问题结束]\n\n{known}[回答]\n{answer}\n[回答结束]\n\n请对回答逐项打分，每项为"
    "{low}到{high}的整数，不要轻易给满分。只按以下格式输出分数，不作解释：\n{lines}"
)
MET = (
    "[问题]\n{question}\n[问题结束]\n\n[回答]\n{answer}\n[回答结束]\n\n[标准]\n{criterion}\n[标准结束]\n\n"
    '回答是否符合该标准？只输出JSON：{{"criteria_met": true}} 或 {{"criteria_met": false}}。'
)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models' answers to one item."""

    item: str
    question: str
    model_a: str
    model_b: str
    answer_a: str
    answer_b: str

    def shown(self, order: str) -> tuple[str, str]:
        """The answers in an order ("ab": A's first)."""
        return (self.answer_a, self.answer_b) if order == "ab" else (self.answer_b, self.answer_a)

    def asked(self, order: str, prompt: str) -> Asked:
        """The pair in one order, as `prompt` asks it."""
        about = {"item": self.item, "model_a": self.model_a, "model_b": self.model_b, "order": order}
        return Asked(" ".join(about.values()), prompt, about, len(self.answer_a) - len(self.answer_b))


def verdict_on_a(decided: str | None, order: str) -> str | None:
    """Win, tie or loss of A, whose answer came first in order "ab"; None where nothing was decided."""
    if decided in (FIRST, SECOND):
        return WIN if (decided == FIRST) == (order == "ab") else LOSS
    return decided


@dataclass(frozen=True)
class Pairs:
    """Which of two answers is better: every two models', in both orders."""

    preset: Preset
    task: Any = None

    def pairs(self, item: Item, answers: Mapping[str, str]) -> list[Pair]:
        """Every two models' answers."""
        return [Pair(item.id, item.question, a, b, answers[a], answers[b]) for a, b in combinations(answers, 2)]

    def asks(self, item: Item, answers: Mapping[str, str]) -> Iterator[Asked]:
        criteria = "；".join(self.preset.criteria)
        for pair in self.pairs(item, answers):
            for order in ORDERS:
                first, second = pair.shown(order)
                prompt = BETTER.format(question=pair.question, first=first, second=second, criteria=criteria)
                yield pair.asked(order, prompt)

    def read(self, asked: Asked, text: str) -> str | None:
        return verdict_on_a(verdicts.pair_verdict(text), asked.about["order"])

    def tables(self, records: Sequence[Mapping], resamples: int, seed: int) -> dict[str, pd.DataFrame]:
        made = (comparison.comparison, comparison.strengths, comparison.controls)
        return {table.__name__: table(records, resamples, seed) for table in made}


@dataclass(frozen=True)
class Scores:
    """A whole number for each of the preset's criteria, against the reference answer where there is one."""

    preset: Preset
    task: Any = None

    def asks(self, item: Item, answers: Mapping[str, str]) -> Iterator[Asked]:
        known = f"[参考答案]\n{item.reference}\n[参考答案结束]\n\n" if item.reference else ""
        scale = {"low": self.preset.low, "high": self.preset.high}
        lines = "\n".join(f"{criterion}: x" for criterion in self.preset.criteria)
        for model, text in answers.items():
            prompt = NUMBERS.format(question=item.question, known=known, answer=text, lines=lines, **scale)
            yield Asked(f"{item.id} {model}", prompt, {"item": item.id, "model": model, "criterion": None})

    def read(self, asked: Asked, text: str) -> dict[str, int] | None:
        return verdicts.scores(text, self.preset)

    def tables(self, records: Sequence[Mapping], resamples: int, seed: int) -> dict[str, pd.DataFrame]:
        def rated(item: str, said: Sequence[dict | None]) -> dict[str, float] | None:
            (numbers,) = said
            return numbers and {MEAN: float(np.mean([*numbers.values()])), **numbers}

        return {"ratings": ratings(records, rated, MEAN, (self.preset.low, self.preset.high), resamples, seed)}


@dataclass(frozen=True)
class OwnCriteria:
    """Which of the item's own criteria are met, each asked by itself (HealthBench)."""

    preset: Preset
    task: Any

    def asks(self, item: Item, answers: Mapping[str, str]) -> Iterator[Asked]:
        for model, text in answers.items():
            for place, own in enumerate(self.task.criteria[item.id]):
                prompt = MET.format(question=item.question, answer=text, criterion=own.criterion)
                about = {"item": item.id, "model": model, "criterion": place}
                yield Asked(f"{item.id} {model} {place}", prompt, about)

    def read(self, asked: Asked, text: str) -> bool | None:
        return verdicts.met(text)

    def tables(self, records: Sequence[Mapping], resamples: int, seed: int) -> dict[str, pd.DataFrame]:
        def rated(item: str, said: Sequence[bool | None]) -> dict[str, float] | None:
            points = verdicts.rubric_score(self.task.criteria[item], said)
            return None if points is None else {POINTS: points}

        return {"ratings": ratings(records, rated, POINTS, PERCENT, resamples, seed)}


KINDS = {"pair": Pairs, "scores": Scores, "rubric": OwnCriteria}
"""By the `kind` of a preset."""


def longest(asked: Asked) -> Reply:
    """The control judge that prefers the longer answer."""
    longer = FIRST if (asked.length > 0) == (asked.about["order"] == "ab") else SECOND
    return Reply(WORDS[longer if asked.length else TIE])


CONTROLS: dict[str, Callable[[Asked], Reply]] = {"longer": longest, "first": lambda asked: Reply(WORDS[FIRST])}
"""Judges of pairs that need no model, and that every other judge is held against."""
