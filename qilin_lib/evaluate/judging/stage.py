"""The judged comparison of 06: a judge, any model that can answer, is asked about pairs of finished answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pandas as pd

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import store
from qilin_lib.evaluate.asking import ITEMS, answered
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.evidence import variants
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import comparison, sheet
from qilin_lib.evaluate.judging.comparison import Game, Pair
from qilin_lib.evaluate.judging.verdicts import preset
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.replies import Reply, spoken
from qilin_lib.files import read_jsonl, write_jsonl
from qilin_lib.progress import Show
from qilin_lib.runs import Stage

FOLDER = "judging"
CONTROLS = {"longer": comparison.longest, "first": comparison.first_shown}
"""Judges that need no model, and that every other judge is held against."""


def check(parameters: Any) -> None:
    """QilinError where `eval.judge` names a judge, a model or a preset that is not there."""
    own = parameters.judge
    rows = [*parameters.models, *parameters.baselines, *variants(parameters)]
    for name, there, value in [
        ("by", [*parameters.baselines, *CONTROLS], own.by),
        *(("models", rows, model) for model in own.models or ()),
    ]:
        if value not in there:
            raise QilinError(f"eval.judge.{name}: '{value}' does not answer here{nearest(value, there)}")
    if preset(own.preset).kind != "pair":
        raise QilinError(f"eval.judge.preset: '{own.preset}' scores single answers; nearest valid: zhongjing")


def judge(stage: Stage, failed: Mapping[str, str], show: Show) -> dict[str, Any]:
    """What the judge of `eval.judge` makes of the finished answers, as scores.json holds it: tables as lists of rows
    (`comparison`); {"unfinished": why} where it cannot. Every judgment stands in judging/records.jsonl, and judging/
    sheet.html asks people about the same pairs."""
    own, parameters = stage.parameters.judge, stage.parameters
    compared, chosen = pairs(stage), preset(own.preset)
    games = [*comparison.games(compared, chosen)]
    if not games:
        return {"unfinished": f"eval.judge: fewer than two models have answered {own.benchmark}"}
    if own.by not in CONTROLS and own.by not in failed:
        answered(stage, [task(stage, games)], f"{FOLDER}/items", (), show, [own.by])
        failed = failed | store.failures(stage.dir)
    if own.by in failed:
        return {"unfinished": failed[own.by]}
    sheet.write(compared, chosen, stage.dir / FOLDER, parameters.seed)
    said = records(stage, games)
    write_jsonl(stage.dir / FOLDER / "records.jsonl", said)
    tables = {
        name: _rows(table(said, parameters.bootstrap_resamples, parameters.seed))
        for name, table in (
            ("comparison", comparison.comparison),
            ("strengths", comparison.strengths),
            ("controls", comparison.controls),
        )
    }
    about = {"judge": own.by, "preset": own.preset, "source": chosen.source, "benchmark": own.benchmark}
    return about | tables


def pairs(stage: Stage) -> list[Pair]:
    """The answers to be compared: of every two models of `eval.judge`, to each of its items."""
    own = stage.parameters.judge
    answers = {}
    for name in stage.parameters.models if own.models is None else own.models:
        path = store.predictions(stage.dir, FIXED, own.benchmark, name)
        if path.exists():
            answers[name] = {row["id"]: spoken(row["output"]) for row in read_jsonl(path)}
    asked = stage.dir / ITEMS / f"{own.benchmark}.jsonl"
    questions = {row["id"]: row["question"] for row in (read_jsonl(asked) if asked.exists() else ())}
    return [
        Pair(item, questions[item], a, b, answers[a][item], answers[b][item])
        for item in list(questions)[: own.max_items]
        for a, b in combinations(answers, 2)
    ]


def task(stage: Stage, games: Sequence[Game]) -> Task:
    """The games as something to ask: each item's question is the whole prompt for the judge."""
    own = stage.parameters.judge
    items = [Item(FOLDER, _name(game), "-", None, game.prompt, None, None, "") for game in games]
    return Huatuo(FOLDER, FIXED, "-", own.max_items, items, [], {"max_new_tokens": own.max_new_tokens}, "char")


def _name(game: Game) -> str:
    return f"{game.pair.item} {game.pair.model_a} {game.pair.model_b} {game.order}"


def records(stage: Stage, games: Sequence[Game]) -> list[dict[str, Any]]:
    """What the judge said of all games."""
    judge = stage.parameters.judge.by
    if judge in CONTROLS:
        return [comparison.record(game, judge, CONTROLS[judge](game)) for game in games]
    path = store.predictions(stage.dir, FIXED, FOLDER, judge)
    store.finish(path, [_name(game) for game in games])
    rows = {row["id"]: row for row in read_jsonl(path)}
    found = (rows[_name(game)] for game in games)
    replies = (Reply(row["output"], row["finish"], error=row.get("error", "")) for row in found)
    return [comparison.record(game, judge, reply) for game, reply in zip(games, replies, strict=True)]


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
