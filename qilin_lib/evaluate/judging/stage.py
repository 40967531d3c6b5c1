"""The judge of 06, any model that can answer: it compares finished answers in pairs, or rates each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import store
from qilin_lib.evaluate.asking import answered, scored_records
from qilin_lib.evaluate.benchmarks import WITH_CRITERIA
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.evidence import variants
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import sheet
from qilin_lib.evaluate.judging.kinds import CONTROLS, KINDS
from qilin_lib.evaluate.judging.verdicts import Asked, preset, record
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.replies import Reply, spoken
from qilin_lib.files import read_jsonl, write_jsonl
from qilin_lib.progress import Show
from qilin_lib.runs import Stage

FOLDER = "judging"


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
    if chosen.kind == "rubric" and own.benchmark not in WITH_CRITERIA:
        raise QilinError(
            f"eval.judge.benchmark: {own.benchmark} has no criteria of its own, which preset '{own.preset}' reads; "
            f"nearest valid: {' or '.join(WITH_CRITERIA)}"
        )


def judge(stage: Stage, tasks: Sequence[Task], failed: Mapping[str, str], show: Show) -> dict[str, Any]:
    """What the judge of `eval.judge` makes of the finished answers to `tasks`, as scores.json holds it: the tables of
    its kind as lists of rows; {"unfinished": why} where it cannot.

    Every judgment stands in judging/records.jsonl. Of pairs judging/sheet.html asks people too.
    """
    own, parameters, chosen = stage.parameters.judge, stage.parameters, preset(stage.parameters.judge.preset)
    judged = next((task for task in tasks if (task.name, task.protocol) == (own.benchmark, FIXED)), None)
    kind, models = KINDS[chosen.kind](chosen, judged), _answers(stage, judged, failed) if judged else {}
    said = [
        (replace(item, question=_said(item)), {model: texts[item.id] for model, texts in models.items()})
        for item in (judged.items[: own.max_items] if judged else ())
    ]
    asked = [one for item, answers in said for one in kind.asks(item, answers)]
    if not asked:
        fewer = "fewer than two models have" if chosen.kind == "pair" else "no model has"
        return {"unfinished": f"eval.judge: {fewer} a score on {own.benchmark}"}
    if own.by in CONTROLS:
        replies = [CONTROLS[own.by](one) for one in asked]
    else:
        if own.by not in failed:
            answered(stage, [_task(own, asked)], f"{FOLDER}/items", (), show, [own.by])
            failed = failed | store.failures(stage.dir)
        if own.by in failed:
            return {"unfinished": failed[own.by]}
        replies = _replies(stage, asked)
    if chosen.kind == "pair":
        compared = [pair for item, answers in said for pair in kind.pairs(item, answers)]
        sheet.write(compared, chosen, stage.dir / FOLDER, parameters.seed)
    pairs = zip(asked, replies, strict=True)
    records = [record(one, own.by, reply, kind.read(one, reply.text)) for one, reply in pairs]
    write_jsonl(stage.dir / FOLDER / "records.jsonl", records)
    about = {"judge": own.by, "preset": own.preset, "source": chosen.source, "benchmark": own.benchmark}
    made = kind.tables(records, parameters.bootstrap_resamples, parameters.seed)
    return about | {name: _rows(table) for name, table in made.items()}


def _answers(stage: Stage, judged: Task, failed: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """{model: {item: answer}} of those that are to be judged and have a score."""
    own = stage.parameters.judge
    names = stage.parameters.models if own.models is None else own.models
    there = [name for name in names if store.predictions(stage.dir, FIXED, judged.name, name).exists()]
    records, _ = scored_records(judged, there, stage.dir, failed)
    return {name: {row["id"]: spoken(row["output"]) for row in rows} for name, rows in records.items()}


def _said(item: Item) -> str:
    """An item's question after the turns before it."""
    before = [f"用户：{said}\n医生：{answer}\n" for said, answer in item.history]
    return f"{''.join(before)}用户：{item.question}" if before else item.question


def _task(own: Any, asked: Sequence[Asked]) -> Task:
    """What the judge is asked, as a task: each item's question is the whole prompt for the judge."""
    items = [Item(FOLDER, one.name, "-", None, one.prompt, None, None, "") for one in asked]
    return Huatuo(FOLDER, FIXED, "-", own.max_items, items, [], {"max_new_tokens": own.max_new_tokens}, "char")


def _replies(stage: Stage, asked: Sequence[Asked]) -> list[Reply]:
    """What the judge said of all that it was asked."""
    path = store.predictions(stage.dir, FIXED, FOLDER, stage.parameters.judge.by)
    store.finish(path, [one.name for one in asked])
    rows = {row["id"]: row for row in read_jsonl(path)}
    found = (rows[one.name] for one in asked)
    return [Reply(row["output"], row["finish"], error=row.get("error", "")) for row in found]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
