"""The judge of 06, any model that can answer: it compares finished answers in pairs, or rates each by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import pandas as pd

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import plan, store
from qilin_lib.evaluate.asking import ITEMS, answered
from qilin_lib.evaluate.benchmarks import KINDS
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.evidence import variants
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import comparison, rating, sheet
from qilin_lib.evaluate.judging.comparison import Game, Pair
from qilin_lib.evaluate.judging.rating import Question
from qilin_lib.evaluate.judging.verdicts import Criterion, preset
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.replies import Reply, spoken
from qilin_lib.files import read_jsonl, write_jsonl
from qilin_lib.progress import Show
from qilin_lib.runs import Stage

FOLDER = "judging"
RUBRICS = ("rubrics", "patients")
"""Benchmarks whose items have criteria of their own."""
TABLES = ("comparison", "strengths", "controls")
CONTROLS = {"longer": comparison.longest, "first": comparison.first_shown}
"""Judges that need no model, and that every other judge is held against."""


def check(parameters: Any) -> None:
    """QilinError where `eval.judge` names a judge, a model or a preset that is not there."""
    own = parameters.judge
    rows, chosen = [*parameters.models, *parameters.baselines, *variants(parameters)], preset(own.preset)
    for name, there, value in [
        ("by", [*parameters.baselines, *CONTROLS], own.by),
        *(("models", rows, model) for model in own.models or ()),
    ]:
        if value not in there:
            raise QilinError(f"eval.judge.{name}: '{value}' does not answer here{nearest(value, there)}")
    if chosen.kind != "pair" and own.by in CONTROLS:
        raise QilinError(
            f"eval.judge.by: '{own.by}' compares two answers, and preset '{own.preset}' scores one; nearest valid: "
            f"{next(iter(parameters.baselines), 'a baseline')}, or preset: zhongjing"
        )
    if chosen.kind == "rubric" and own.benchmark not in RUBRICS:
        raise QilinError(
            f"eval.judge.benchmark: {own.benchmark} has no criteria of its own, which preset '{own.preset}' reads; "
            f"nearest valid: {' or '.join(RUBRICS)}"
        )


def judge(stage: Stage, failed: Mapping[str, str], show: Show) -> dict[str, Any]:
    """What the judge of `eval.judge` makes of the finished answers, as scores.json holds it: tables as lists of rows,
    those of `comparison`, or "ratings" under a preset that scores; {"unfinished": why} where it cannot.

    Every judgment stands in judging/records.jsonl. Of pairs judging/sheet.html asks people too.
    """
    own, parameters, chosen = stage.parameters.judge, stage.parameters, preset(stage.parameters.judge.preset)
    criteria = _criteria(stage) if chosen.kind == "rubric" else {}
    if chosen.kind == "pair":
        compared = pairs(stage)
        asked: list[Game] | list[Question] = [*comparison.games(compared, chosen)]
    else:
        asked = [*rating.questions(*_answers(stage), chosen, criteria)]
    if not asked:
        fewer = "fewer than two models have" if chosen.kind == "pair" else "no model has"
        return {"unfinished": f"eval.judge: {fewer} answered {own.benchmark}"}
    if own.by not in CONTROLS and own.by not in failed:
        answered(stage, [task(stage, asked)], f"{FOLDER}/items", (), show, [own.by])
        failed = failed | store.failures(stage.dir)
    if own.by in failed:
        return {"unfinished": failed[own.by]}
    if chosen.kind == "pair":
        sheet.write(compared, chosen, stage.dir / FOLDER, parameters.seed)
        made: dict[str, Callable] = {name: getattr(comparison, name) for name in TABLES}
    else:
        made = {"ratings": partial(rating.ratings, chosen=chosen, own=criteria)}
    said = records(stage, asked)
    write_jsonl(stage.dir / FOLDER / "records.jsonl", said)
    draws = {"resamples": parameters.bootstrap_resamples, "seed": parameters.seed}
    about = {"judge": own.by, "preset": own.preset, "source": chosen.source, "benchmark": own.benchmark}
    return about | {name: _rows(table(said, **draws)) for name, table in made.items()}


def _criteria(stage: Stage) -> dict[str, list[Criterion]]:
    """{item: its own criteria} of what was asked."""
    found = [task for task in plan.read(stage.dir / ITEMS, KINDS) if task.name == stage.parameters.judge.benchmark]
    return found[0].criteria if found else {}


def _answers(stage: Stage) -> tuple[dict[str, dict], dict[str, dict[str, str]]]:
    """({item: its row, what was said before its question in it}, {model: {item: answer}}) of what is to be judged."""
    own = stage.parameters.judge
    answers = {}
    for name in stage.parameters.models if own.models is None else own.models:
        path = store.predictions(stage.dir, FIXED, own.benchmark, name)
        if path.exists():
            answers[name] = {row["id"]: spoken(row["output"]) for row in read_jsonl(path)}
    asked = stage.dir / ITEMS / f"{own.benchmark}.jsonl"
    rows = list(read_jsonl(asked))[: own.max_items] if asked.exists() else []
    return {row["id"]: row | {"question": _said(row)} for row in rows}, answers


def _said(row: Mapping[str, Any]) -> str:
    """An item's question after the turns before it."""
    before = [f"用户：{said}\n医生：{answer}\n" for said, answer in row.get("history") or ()]
    return f"{''.join(before)}用户：{row['question']}" if before else row["question"]


def pairs(stage: Stage) -> list[Pair]:
    """The answers to be compared: of every two models of `eval.judge`, to each of its items."""
    items, answers = _answers(stage)
    return [
        Pair(item, row["question"], a, b, answers[a][item], answers[b][item])
        for item, row in items.items()
        for a, b in combinations(answers, 2)
    ]


def task(stage: Stage, asked: Sequence[Game | Question]) -> Task:
    """What the judge is asked, as a task: each item's question is the whole prompt for the judge."""
    own = stage.parameters.judge
    items = [Item(FOLDER, one.name, "-", None, one.prompt, None, None, "") for one in asked]
    return Huatuo(FOLDER, FIXED, "-", own.max_items, items, [], {"max_new_tokens": own.max_new_tokens}, "char")


def records(stage: Stage, asked: Sequence[Game | Question]) -> list[dict[str, Any]]:
    """What the judge said of all that it was asked."""
    judge, chosen = stage.parameters.judge.by, preset(stage.parameters.judge.preset)
    make = comparison.record if chosen.kind == "pair" else partial(rating.record, chosen=chosen)
    if judge in CONTROLS:
        return [make(one, judge, CONTROLS[judge](one)) for one in asked]
    path = store.predictions(stage.dir, FIXED, FOLDER, judge)
    store.finish(path, [one.name for one in asked])
    rows = {row["id"]: row for row in read_jsonl(path)}
    found = (rows[one.name] for one in asked)
    replies = (Reply(row["output"], row["finish"], error=row.get("error", "")) for row in found)
    return [make(one, judge, reply) for one, reply in zip(asked, replies, strict=True)]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
