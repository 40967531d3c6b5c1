"""The runner of 06 and 09: tasks are planned, models and baselines answer them in processes, records are scored."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import store
from qilin_lib.evaluate.models import prepare
from qilin_lib.evaluate.plan import Task, write
from qilin_lib.evaluate.replies import ERROR
from qilin_lib.files import read_jsonl, write_json
from qilin_lib.models.names import describe_run, read_scores
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.train import launch

WORKER = "qilin_lib.evaluate.worker"
ITEMS = "items"
"""Folder of a stage with what it asks (`plan.write`)."""
TOO_MANY_ERRORS = 0.02
"""Above this share of refused prompts a model has no score: what is left is another benchmark."""


def evaluated(
    stage: Stage,
    show: Show | None,
    plan: Callable[[], Sequence[Task]],
    score: Callable[[Sequence[Task], dict[str, str]], dict[str, Any]],
) -> dict[str, Any]:
    """scores.json of a stage: what `score(tasks, {baseline that failed: why})` makes of the answers to `plan()`.

    Finished answers that belong to the same prompts, settings and weights are kept, also those of a stage that was
    moved aside; unfinished ones are gone on with. Does nothing if the stage is up to date. The last line shown, and
    "failed", name the baselines that cannot answer. Raises QilinError, also for a process that fails.
    """
    show, target = show or live_line(), stage.dir / "scores.json"
    if not stage.up_to_date:
        # What a plan refuses is refused before anything is moved.
        tasks = plan()
        stage.begin()
    if stage.up_to_date:
        show(FINISHED)
        return read_scores(target)
    failed = ask(stage, [task for task in tasks if task.items], show)
    told = failure_line(stage, failed)
    write_json(target, score(tasks, failed) | {"run": describe_run(stage), "failed": told})
    show(told or FINISHED)
    return read_scores(target)


def ask(stage: Stage, tasks: Sequence[Task], show: Show) -> dict[str, str]:
    """Let the stage's models and baselines answer `tasks`, in processes of their own that find them in items/; records
    go to the stage's folder.

    Returns {baseline: why} of those that could not answer everything. QilinError for a process that fails.
    """
    parameters = stage.parameters
    store.carry_over(stage.dir, stage.run.old(stage.name))
    store.forget_failures(stage.dir)
    failed = prepare(stage, show)
    write(tasks, stage.dir / ITEMS)
    job = {
        "parameters": parameters.model_dump(mode="json"),
        "run_dir": str(stage.run_dir),
        "workers": _workers(parameters),
        "failed": list(failed),
    }
    launched(WORKER, stage.dir / "job.json", job, "eval.log", show)
    failed |= store.failures(stage.dir)
    return {name: failed[name] for name in parameters.baselines if name in failed}


def launched(module: str, path: Path, job: dict[str, Any], log: str, show: Show) -> None:
    """Run `job["workers"]` processes of a module, which never talk to each other, until they end; `path` holds their
    job while they do. QilinError when one fails."""
    write_json(path, job)
    launch.run(launch.plain(module, path), path.with_name(log), show, job["parameters"]["gpus"], job["workers"])
    path.unlink()


def failure_line(stage: Stage, failed: Mapping[str, str]) -> str:
    """What is said last of an evaluation in which baselines failed; "" if none did."""
    why = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
    return why and (
        f"{len(failed)} of {len(stage.parameters.baselines)} baselines failed: {why}. Finished answers are kept: "
        f"python -m qilin_lib.pipeline {stage.parameters.profile} --run {stage.run.name} --force --only "
        f"{stage.name[:2]} goes on with them"
    )


def _workers(parameters: Any) -> int:
    """One process a GPU, or as many as `processes` says, or one a core."""
    return parameters.gpus or parameters.processes or len(os.sched_getaffinity(0))


def scored_records(
    task: Task, models: Sequence[str], out_dir: str | Path, failed: Mapping[str, str]
) -> tuple[dict[str, list[dict]], dict[str, str]]:
    """({model: its records}, {model: why it has no score})."""
    records, unfinished = {}, {}
    for name in models:
        try:
            rows = read_records(task, name, out_dir)
        except QilinError:
            if name not in failed:
                raise
            unfinished[name] = failed[name]
            continue
        errors = [row for row in rows if row.get("finish") == ERROR]
        if len(errors) > TOO_MANY_ERRORS * len(rows):
            why = f"the server refused {len(errors)} of {len(rows)} prompts, e.g. {errors[0]['id']}"
            unfinished[name] = f"{why} ({errors[0].get('error', 'no reason given')})"
        else:
            records[name] = rows
    return records, unfinished


def read_records(task: Task, model: str, out_dir: str | Path) -> list[dict]:
    """The records of one model in item order, from its finished file, made if need be; QilinError when one lacks."""
    path = store.predictions(out_dir, task.protocol, task.name, model)
    store.finish(path, [item.id for item in task.items])
    return list(read_jsonl(path))
