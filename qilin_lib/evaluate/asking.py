"""The runner of 06 and 09: tasks are planned, models and baselines answer them in processes, records are scored.

`python -m qilin_lib.evaluate.asking job.json` is such a process, alone or one of many.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import evidence, plan, store
from qilin_lib.evaluate.answering import Share, answer_all
from qilin_lib.evaluate.benchmarks import KINDS
from qilin_lib.evaluate.models import MERGED, loaders, prepare, shots
from qilin_lib.evaluate.plan import Task
from qilin_lib.evaluate.replies import ERROR
from qilin_lib.files import read_json, read_jsonl, write_json
from qilin_lib.models.names import describe_run, read_scores
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.schema import SECTIONS
from qilin_lib.train import launch

ITEMS = "items"
"""Folder of a stage with what it asks (`plan.write`)."""
TOO_MANY_ERRORS = 0.02
"""Above this share of refused prompts a model has no score: what is left is another benchmark."""


def evaluated(
    stage: Stage,
    show: Show | None,
    planned: Callable[[], Sequence[Task]],
    score: Callable[[Sequence[Task], dict[str, str]], dict[str, Any]],
) -> dict[str, Any]:
    """scores.json of a stage: what `score(tasks, {baseline that failed: why})` makes of the answers to `planned()`.

    Finished answers that belong to the same prompts, settings and weights are kept, also those of a stage that was
    moved aside; unfinished ones are gone on with. Does nothing if the stage is up to date. The last line shown, and
    "failed", name the baselines that cannot answer. Raises QilinError, also for a process that fails.
    """
    show, target = show or live_line(), stage.dir / "scores.json"
    if not stage.up_to_date:
        # What a plan refuses is refused before anything is moved.
        tasks = planned()
        stage.begin()
    if stage.up_to_date:
        show(FINISHED)
        return read_scores(target)
    usable, baselines = [task for task in tasks if task.items], stage.parameters.baselines
    store.carry_over(stage.dir, stage.run.old(stage.name))
    # What stopped an earlier attempt says nothing of the next.
    shutil.rmtree(stage.dir / "failures", ignore_errors=True)
    failed = prepare(stage, show)
    evidence.prepare(stage, {task.name: task.items for task in usable}, show)
    answered(stage, usable, ITEMS, failed, show)
    shutil.rmtree(stage.dir / MERGED, ignore_errors=True)
    failed |= store.failures(stage.dir)
    failed = {name: failed[name] for name in baselines if name in failed}
    told = ""
    if failed:
        why = "; ".join(f"{name} ({reason})" for name, reason in failed.items())
        told = (
            f"{len(failed)} of {len(baselines)} baselines failed: {why}. Finished answers are kept: "
            f"python -m qilin_lib.pipeline {stage.parameters.profile} --run {stage.run.name} --force --only "
            f"{stage.name[:2]} goes on with them"
        )
    write_json(target, score(tasks, failed) | {"run": describe_run(stage), "failed": told})
    show(told or FINISHED)
    return read_scores(target)


def answered(
    stage: Stage, tasks: Sequence[Task], folder: str, failed: Collection[str], show: Show, only: Sequence[str] = ()
) -> None:
    """Let the stage's models and baselines answer `tasks`, in processes of their own that find them in a folder of the
    stage; records go to the stage. Not those that have `failed`, or `only` some. QilinError for a process that fails.
    """
    plan.write(tasks, stage.dir / folder)
    parameters = stage.parameters
    # One process a GPU (or a model that lies on several), or as many as `processes` says, or one a core.
    cards = parameters.gpus // parameters.vllm.get("tensor_parallel_size", 1)
    job = {
        "parameters": parameters.model_dump(mode="json"),
        "run_dir": str(stage.run_dir),
        "workers": max(1, cards) if parameters.gpus else parameters.processes or len(os.sched_getaffinity(0)),
        "items": folder,
        "failed": list(failed),
        "only": list(only),
    }
    launched("qilin_lib.evaluate.asking", stage.dir / "job.json", job, "eval.log", show)


def launched(module: str, path: Path, job: dict[str, Any], log: str, show: Show) -> None:
    """Run `job["workers"]` processes of a module, which never talk to each other, until they end; `path` holds their
    job while they do. QilinError when one fails."""
    write_json(path, job)
    launch.run(launch.plain(module, path), path.with_name(log), show, job["parameters"]["gpus"], job["workers"])
    path.unlink()


def work(job: str | Path) -> None:
    """Answer one process's share of a job that `answered` wrote.

    Processes never talk to each other. Each computes with one thread on the CPU: sums in another order give other last
    digits, and a record must not depend on how many processes there were. More cores are used by more processes.
    """
    import torch

    said = read_json(job)
    parameters = SECTIONS[said["parameters"]["notebook"]][1].model_validate(said["parameters"])
    stage = Stage(parameters, Path(said["run_dir"]), "", {}, False)
    # A single process takes no rank from around it: a pod of a training operator says one to all that runs there.
    rank = int(os.environ["RANK"]) if said["workers"] > 1 else 0
    if not parameters.gpus:
        torch.set_num_threads(1)
    first_card = rank * parameters.vllm.get("tensor_parallel_size", 1)
    load = loaders(stage, f"cuda:{first_card}" if parameters.gpus else "cpu")
    load = {name: how for name, how in load.items() if name not in said["failed"]}
    load |= evidence.loaders(stage, load)
    load = {name: how for name, how in load.items() if said["only"] in ([], [name])}

    def tell(model: str, task: str, done: int, total: int, left: float) -> None:
        launch.report(text=f"{model}: {task} {done}/{total}, {left:.0f} s left")

    answer_all(
        plan.read(stage.dir / said["items"], KINDS),
        load,
        {name: shots(stage, name) for name in load},
        stage.dir,
        Share(rank, said["workers"], tell if rank == 0 else None, getattr(parameters, "ask_errors_again", False)),
        # A judge may answer no benchmark itself.
        {} if said["only"] else evidence.benchmarks(parameters),
        {name for name in load if evidence.parts(name)[0] in parameters.baselines},
    )


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


if __name__ == "__main__":
    work(sys.argv[1])
