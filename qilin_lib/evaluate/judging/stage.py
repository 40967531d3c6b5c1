"""The judged comparison of 06: a judge, any model that can answer, is asked about pairs of finished answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import store
from qilin_lib.evaluate.asking import ITEMS
from qilin_lib.evaluate.evidence import variants
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import comparison
from qilin_lib.evaluate.judging.comparison import Game, Pair
from qilin_lib.evaluate.judging.verdicts import preset
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Prompt, fit, huatuo_messages
from qilin_lib.evaluate.replies import Reply, spoken
from qilin_lib.evaluate.scores import Table
from qilin_lib.files import read_jsonl, write_jsonl
from qilin_lib.runs import Stage

FOLDER = "judging"
CONTROLS = {"longer": comparison.longest, "first": comparison.first_shown}
"""Judges that need no model, and that every other judge is held against."""


@dataclass(frozen=True)
class Judging(Task):
    """Games as items: each item's question is the whole prompt for the judge."""

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        new = self.settings["max_new_tokens"]
        return [fit(lambda question, _: huatuo_messages(question), item, (), "", backend, new) for item in items]

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        return [
            {"output": reply.text, **reply.ending} for reply in backend.generate(asked, self.settings["max_new_tokens"])
        ]

    def statistics(self, records: Sequence[dict]) -> Table:
        """None: what the judgments add up to is the pairs' (`comparison`)."""
        return {}


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


def pairs(stage: Stage) -> list[Pair]:
    """The answers to be compared: of every two models of `eval.judge`, to each of its items."""
    own = stage.parameters.judge
    models = stage.parameters.models if own.models is None else own.models
    paths = {name: store.predictions(stage.dir, FIXED, own.benchmark, name) for name in models}
    answers = {
        name: {row["id"]: spoken(row["output"]) for row in read_jsonl(path)}
        for name, path in paths.items()
        if path.exists()
    }
    asked = stage.dir / ITEMS / f"{own.benchmark}.jsonl"
    questions = {row["id"]: row["question"] for row in (read_jsonl(asked) if asked.exists() else ())}
    chosen = list(questions)[: own.max_items]
    return [
        Pair(item, questions[item], a, b, answers[a][item], answers[b][item])
        for item in chosen
        for a, b in combinations(answers, 2)
    ]


def task(stage: Stage, games: Sequence[Game]) -> Judging:
    """The games as something to ask."""
    own = stage.parameters.judge
    items = [Item(FOLDER, _name(game), "-", None, game.prompt, None, None, "") for game in games]
    return Judging(FOLDER, FIXED, "-", own.max_items, items, [], {"max_new_tokens": own.max_new_tokens})


def _name(game: Game) -> str:
    return f"{game.pair.item} {game.pair.model_a} {game.pair.model_b} {game.order}"


def records(stage: Stage, games: Sequence[Game]) -> list[dict[str, Any]]:
    """What the judge said of all games, written to judging/records.jsonl as well."""
    judge = stage.parameters.judge.by
    if judge in CONTROLS:
        replies = [CONTROLS[judge](game) for game in games]
    else:
        path = store.predictions(stage.dir, FIXED, FOLDER, judge)
        store.finish(path, [_name(game) for game in games])
        rows = {row["id"]: row for row in read_jsonl(path)}
        found = (rows[_name(game)] for game in games)
        replies = [Reply(row["output"], row["finish"], error=row.get("error", "")) for row in found]
    said = [comparison.record(game, judge, reply) for game, reply in zip(games, replies, strict=True)]
    write_jsonl(stage.dir / FOLDER / "records.jsonl", said)
    return said


def judged(stage: Stage, said: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the judgments add up to, as scores.json holds it: tables as lists of rows (`comparison`)."""
    own, parameters = stage.parameters.judge, stage.parameters
    how = parameters.bootstrap_resamples, parameters.seed
    tables = {
        "comparison": comparison.comparison(said, *how),
        "strengths": comparison.strengths(said, *how),
        "controls": comparison.controls(said, *how),
    }
    about = {"judge": own.by, "preset": own.preset, "source": preset(own.preset).source, "benchmark": own.benchmark}
    return about | {name: _plain(table) for name, table in tables.items()}


def _plain(table: Any) -> list[dict[str, Any]]:
    return table.astype(object).where(table.notna(), None).to_dict("records")
