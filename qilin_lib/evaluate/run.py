"""Notebook 06: every model answers every benchmark once; the records stay, the scores are derived from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qilin_lib.chains import BUILD
from qilin_lib.evaluate import evidence, store
from qilin_lib.evaluate.asking import evaluated, read_records, scored_records
from qilin_lib.evaluate.benchmarks import PAPER, ceval, prepare
from qilin_lib.evaluate.items import there
from qilin_lib.evaluate.judging import stage as judging
from qilin_lib.evaluate.plan import FIXED, RELEASED, Task
from qilin_lib.evaluate.scores import adjust, compare, same_items, summarise
from qilin_lib.files import write_jsonl
from qilin_lib.progress import Show, live_line
from qilin_lib.runs import Stage


def items(stage: Stage) -> list[Task]:
    """The tasks of 06 with their items. QilinError if the raw folder that 01 read is gone."""
    return prepare(there(stage.facts(BUILD)["raw_dir"]), stage.parameters, stage.parent(BUILD))


def evaluate(stage: Stage, show: Show | None = None, tasks: Sequence[Task] | None = None) -> dict[str, Any]:
    """Predictions and scores of the run's models and baselines; returns what it writes to scores.json.

    `tasks`: what `items` gave, None to read it now. Unusable rows of the benchmarks are listed in invalid.jsonl. A
    baseline that cannot answer stands under "unfinished"; see `asking.evaluated` for what is kept and raised.
    """

    parameters = stage.parameters
    only = evidence.benchmarks(parameters)
    names = [*parameters.models, *parameters.baselines, *evidence.variants(parameters)]

    def scored(tasks: Sequence[Task], failed: Mapping[str, str]) -> dict[str, Any]:
        unusable = {task.name: task.invalid for task in tasks}
        write_jsonl(stage.dir / "invalid.jsonl", (row for rows in unusable.values() for row in rows))
        usable = [task for task in tasks if task.items]
        models = {task.name: [name for name in names if task.name in only.get(name, [task.name])] for task in usable}
        scores = score(usable, models, stage.dir, parameters, failed)
        for task in usable:
            # C-Eval's submission files are taken whole only.
            whole = task.split == "test" and task.cap is None and parameters.ceval_subjects is None
            for name in scores[task.name] if task.name == "ceval" and whole else ():
                target = stage.dir / "submission" / task.protocol / f"{name}.json"
                ceval.write_submission(read_records(task, name, stage.dir), target)
        judged = {"judged": judging.judge(stage, usable, failed, show)} if parameters.judge else {}
        # A judge has its bill, too.
        return scores | judged | {"usage": store.bills(stage.dir)}

    show = show or live_line()
    evidence.check(parameters)
    if parameters.judge:
        judging.check(parameters)
    return evaluated(stage, show, lambda: items(stage) if tasks is None else tasks, scored)


def score(
    tasks: Sequence[Task],
    models: dict[str, list[str]],
    out_dir: str | Path,
    params: Any,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """scores.json from the records alone; `models` maps a benchmark to the models that were asked it.

    Makes the finished files out of what the processes wrote. Under "unfinished" it says of each benchmark why a model
    has no score: it `failed` before it had answered all, or a server refused too many of its prompts
    (`asking.TOO_MANY_ERRORS`). Raises QilinError when another model's record is missing.
    """
    scores: dict[str, Any] = {name: {} for name in PAPER} | {RELEASED: {}}
    about = ("split", "cap", "invalid", "shots", "truncated", "scoring", "unfinished")
    beside: dict[str, dict] = {name: {} for name in about}
    pairs: list[dict] = []
    for task in tasks:
        names = [name for name in models[task.name] if task.protocol == FIXED or not evidence.parts(name)[1]]
        records, unfinished = scored_records(task, names, out_dir, failed)
        same_items(task.name, records)
        tables = {name: task.statistics(rows) for name, rows in records.items()}
        brief = {
            name: summarise(table, params.bootstrap_resamples, params.seed, [item.id for item in task.items])
            for name, table in tables.items()
        }
        why = beside["unfinished"].setdefault(task.name, {})
        if task.protocol == RELEASED:
            scores[RELEASED][task.name] = brief
            # What kept a model from the fixed protocol has been said.
            why |= {name: f"protocol released: {reason}" for name, reason in unfinished.items() if name not in why}
            continue
        scores[task.name] = brief
        why |= unfinished
        if task.name in PAPER:
            pairs += compare(task.name, tables, params.bootstrap_resamples, params.seed, ["base", *params.chain])
        for name, value in _settings(task, records).items():
            beside[name][task.name] = value
    more = {
        "paired": adjust(pairs),
        "usage": store.bills(out_dir),
        "tokenisation": params.tokenisation,
        "protocol": FIXED,
    }
    return scores | beside | more


def _settings(task: Task, records: dict[str, list[dict]]) -> dict[str, Any]:
    rows = [row for answers in records.values() for row in answers]
    # Shots that the prompts really held: one number, or "2-5" where a short context left fewer in some.
    shots = {row["shots"] for row in rows} if task.likelihood else set()
    return {
        "split": task.split,
        "cap": task.cap,
        "invalid": len(task.invalid),
        "shots": f"{min(shots)}-{max(shots)}" if len(shots) > 1 else next(iter(shots), None),
        "truncated": {model: sum(row["truncated"] for row in answers) for model, answers in records.items()},
        "scoring": ", ".join(sorted({row["scoring"] for row in rows})),
    }
