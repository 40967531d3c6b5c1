"""What notebook 06 asks: one task a benchmark and protocol, with its items and the way to ask, answer and measure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import ceval, cmexam, further, huatuo, released
from qilin_lib.evaluate.benchmark_files import Unreadable
from qilin_lib.evaluate.items import Item, cap, ceval_dev, ceval_items, ceval_names, cmexam_items, huatuo_items
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.task import FIXED, RELEASED, Task

# Items of a subject that share one forward pass. It is no parameter: records must not depend on how they were made.
LIKELIHOOD_CHUNK = 16
# The notebook that knows what a model was trained on.
BUILD = "01_build_chimed"


def prepare(raw_dir: str | Path, params: Any, built: Path | None = None) -> list[Task]:
    """The tasks of a run, benchmarks in the order of `params.benchmarks`, `fixed` before `released`, then the further
    ones. `built` is the folder of notebook 01, which says what a model was trained on (None: nothing).

    One whose files cannot be read is a task without items, whose `invalid` names file and reason. Raises QilinError for
    an unknown benchmark or subject, or when nothing is left of all of them.
    """
    makers = {"ceval": _ceval, "cmexam": _cmexam, "huatuo": _huatuo}
    tasks = []
    for name in params.benchmarks:
        if name not in makers:
            near = nearest(name, makers)
            raise QilinError(f"benchmark '{name}' is not known{near}; choose from {', '.join(makers)}")
        try:
            tasks += [task for task in makers[name](raw_dir, params) if task.protocol in params.protocols]
        except Unreadable as reason:
            tasks.append(Task.unread(name, reason))
    tasks += further.prepare(raw_dir, params, built)
    if tasks and not any(task.items for task in tasks):
        why = "; ".join(f"{task.name}: {task.invalid[0]['detail']}" for task in tasks if task.invalid)
        raise QilinError(f"no benchmark in {raw_dir} has an item to ask: {why}")
    if not tasks:
        raise QilinError(
            f"eval.protocols = {params.protocols} leaves nothing of eval.benchmarks = {params.benchmarks}: Huatuo-26M "
            "has no released evaluator; nearest valid: protocols = ['fixed']"
        )
    return tasks


def chunks(task: Task, asked: Sequence[Prompt], backend: Any) -> list[list[int]]:
    """Indices of the items that are answered together.

    They are cut from all items of the task, so that neither a restart nor the number of processes moves a result.
    Scored choices: a subject's items in their order, 16 at most. Generation: the longest first, `batch_size` at most,
    a subject by itself where its items share their examples.
    """
    if task.likelihood and backend.likelihood:
        return [part for group in _by_subject(task, range(len(asked))) for part in _cut(group, LIKELIHOOD_CHUNK)]
    longest = sorted(range(len(asked)), key=lambda i: (-len(asked[i].ids or asked[i].text), i))
    groups = _by_subject(task, longest) if any(prompt.shared for prompt in asked) else [longest]
    return [part for group in groups for part in _cut(group, backend.batch_size)]


def _by_subject(task: Task, indices: Sequence[int]) -> list[list[int]]:
    groups: dict[str | None, list[int]] = {}
    for index in indices:
        groups.setdefault(task.items[index].subject, []).append(index)
    return list(groups.values())


def _cut(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _ceval(raw_dir: str | Path, params: Any) -> list[Task]:
    items, invalid = ceval_items(raw_dir, params.ceval_split, params.ceval_subjects)
    shots = max([params.shots, *(line.shots or 0 for line in params.baselines.values())])
    dev, limit = ceval_dev(raw_dir, shots, params.ceval_subjects), params.max_items_ceval_per_subject
    common = ("ceval", params.ceval_split, limit, cap(items, limit, params.seed), invalid)
    fixed = partial(_with_shots, ceval.prompts, dev=dev, names=ceval_names(raw_dir))
    asked = partial(_with_shots, released.ceval_prompts, dev=dev)
    return [
        _task(FIXED, common, {}, fixed, ceval.answer, ceval.statistics, likelihood=True),
        _task(RELEASED, common, {}, asked, released.ceval_answer, released.ceval_statistics),
    ]


def _cmexam(raw_dir: str | Path, params: Any) -> list[Task]:
    items, invalid = cmexam_items(raw_dir, params.cmexam_split)
    limit, new = params.max_items_cmexam, {"max_new_tokens": params.max_new_tokens_cmexam}
    common = ("cmexam", params.cmexam_split, limit, cap(items, limit, params.seed), invalid)
    fixed, measured = (
        partial(_without_shots, cmexam.prompts, **new),
        partial(cmexam.statistics, how=params.tokenisation),
    )
    asked = partial(_without_shots, released.cmexam_prompts)
    return [
        _task(FIXED, common, new, fixed, partial(cmexam.answer, **new), measured),
        _task(RELEASED, common, {}, asked, released.cmexam_answer, released.cmexam_statistics),
    ]


def _huatuo(raw_dir: str | Path, params: Any) -> list[Task]:
    items, invalid = huatuo_items(raw_dir)
    limit, new = params.max_items_huatuo, {"max_new_tokens": params.max_new_tokens_huatuo}
    common = ("huatuo", "test", limit, cap(items, limit, params.seed), invalid)
    asked, measured = (
        partial(_without_shots, huatuo.prompts, **new),
        partial(huatuo.statistics, how=params.tokenisation),
    )
    return [_task(FIXED, common, new, asked, partial(huatuo.answer, **new), measured)]


def _with_shots(make: Callable, items: Sequence[Item], backend: Any, shots: int, **settings: Any) -> list[Prompt]:
    return make(items, backend, shots=shots, **settings)


def _without_shots(make: Callable, items: Sequence[Item], backend: Any, shots: int, **settings: Any) -> list[Prompt]:
    """CMExam and Huatuo-26M are asked without examples, whatever `shots` says of C-Eval."""
    return make(items, backend, **settings)


def _task(
    protocol: str,
    common: tuple[str, str, int | None, list[Item], list[dict]],
    settings: dict[str, Any],
    prompts: Callable,
    answer: Callable,
    statistics: Callable,
    likelihood: bool = False,
) -> Task:
    name, split, limit, items, invalid = common
    return Task(name, protocol, split, limit, items, invalid, settings, likelihood, prompts, answer, statistics)
