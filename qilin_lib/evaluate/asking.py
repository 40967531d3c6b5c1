"""The processes of 06 and 09: models and baselines answer tasks, and what of it can be scored."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import store
from qilin_lib.evaluate.models import MERGED, prepare
from qilin_lib.evaluate.replies import ERROR
from qilin_lib.evaluate.task import Task
from qilin_lib.files import read_jsonl, write_json
from qilin_lib.progress import Show
from qilin_lib.runs import Stage
from qilin_lib.train import launch

# The module that the processes run; it knows the tasks of both notebooks, which know this one.
WORKER = "qilin_lib.evaluate.worker"
TOO_MANY_ERRORS = 0.02
"""Above this share of refused prompts a model has no score: what is left is another benchmark."""


def ask(stage: Stage, raw_dir: str | Path, show: Show) -> dict[str, str]:
    """Let the stage's models and baselines answer its tasks, in processes of their own; records go to its folder.

    Returns {baseline: why} of those that could not answer everything. QilinError for a process that fails.
    """
    parameters, job = stage.parameters, stage.dir / "job.json"
    store.carry_over(stage.dir, stage.run.old(stage.name))
    store.forget_failures(stage.dir)
    failed = prepare(stage, show)
    write_json(
        job,
        {
            "parameters": parameters.model_dump(mode="json"),
            "run_dir": str(stage.run_dir),
            "raw_dir": str(raw_dir),
            "workers": _workers(parameters),
            "failed": list(failed),
        },
    )
    program = launch.plain(WORKER, job)
    launch.run(program, stage.dir / "eval.log", show, parameters.gpus, _workers(parameters))
    job.unlink()
    shutil.rmtree(stage.dir / MERGED, ignore_errors=True)
    failed |= store.failures(stage.dir)
    return {name: failed[name] for name in parameters.baselines if name in failed}


def failure_line(stage: Stage, failed: Mapping[str, str]) -> str:
    """What is said last of an evaluation in which baselines failed; "" if none did."""
    why = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
    return why and (
        f"{len(failed)} of {len(stage.parameters.baselines)} baselines failed: {why}. Finished answers are kept: "
        f"python -m qilin_lib.pipeline {stage.parameters.profile} --run {stage.run.name} --force --only "
        f"{stage.name[:2]} goes on with them"
    )


def _workers(parameters: Any) -> int:
    """One process a GPU (or a model that lies on several), or as many as `processes` says, or one a core."""
    each = parameters.vllm.get("tensor_parallel_size", 1)
    return max(1, parameters.gpus // each) if parameters.gpus else parameters.processes or len(os.sched_getaffinity(0))


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
