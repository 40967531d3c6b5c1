"""One process's share of the answers: every model in turn, every task, chunk by chunk."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qilin_lib.evaluate import store
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.plan import RELEASED, Task, chunks
from qilin_lib.evaluate.prompts import AS_IT_COMES, Prompt, asking
from qilin_lib.files import read_json, sha256_text, write_json

Progress = Callable[[str, str, int, int, float], None]
"""progress(model, "benchmark, protocol", items done by all processes, items in all, seconds left at this pace)."""


def answer_all(
    tasks: Sequence[Task],
    models: dict[str, Callable[[], Any]],
    shots: dict[str, int],
    out_dir: str | Path,
    rank: int = 0,
    of: int = 1,
    progress: Progress | None = None,
    benchmarks: dict[str, list[str]] | None = None,
    may_fail: Collection[str] = (),
    errors_again: bool = False,
) -> None:
    """Let every model answer this process's chunks of every task; one model is in memory at a time.

    `models` maps a name to a callable that loads it; `shots` to its C-Eval examples; `benchmarks` to those it is asked
    (absent: all). What an interrupted call of the same prompts, settings and weights has answered is kept, with
    `errors_again` less the records of prompts that a server refused. A model of `may_fail` that cannot go on is noted
    (`store.note_failure`), and the others answer.
    """
    for name, load in models.items():
        mine = [task for task in tasks if task.name in (benchmarks or {}).get(name, [task.name])]
        try:
            if mine:
                _answer_of_one(mine, name, load, shots[name], Path(out_dir), rank, of, progress, errors_again)
        except Exception as reason:
            if name not in may_fail:
                raise
            traceback.print_exc()
            store.note_failure(out_dir, name, reason)
        _free_memory()


def _answer_of_one(
    tasks: Sequence[Task],
    name: str,
    load: Callable[[], Any],
    shots: int,
    out_dir: Path,
    rank: int,
    of: int,
    progress: Progress | None,
    errors_again: bool,
) -> None:
    backend = load()
    try:
        for task in tasks:
            path = store.predictions(out_dir, task.protocol, task.name, name)
            answer(task, name, backend, shots, path, rank, of, progress, errors_again)
    finally:
        if rank == 0 and hasattr(backend, "usage"):
            _add_usage(out_dir / "usage" / f"{name}.json", backend.usage())


def answer(
    task: Task,
    model_name: str,
    backend: Any,
    shots: int,
    path: Path,
    rank: int = 0,
    of: int = 1,
    progress: Progress | None = None,
    errors_again: bool = False,
) -> None:
    """Append this process's records of one task to its part of `path`; a chunk counts only as a whole."""
    asked = task.prompts(task.items, backend, shots)
    key = _key(task, asked, backend)
    if (store.complete(path, key) or store.reuse(path, key)) and not (errors_again and store.reopen(path, key)):
        return
    equal = _equal(asked)
    index = {item.id: i for i, item in enumerate(task.items)}
    cut = chunks(task, {twins[0]: asked[twins[0]] for twins in equal.values()}, backend)
    mine = (
        [task.items[i].id for one in chunk for i in equal[_same(asked[one])]]
        for chunk in _share(cut, backend, rank, of)
    )
    before, started = store.count(path), time.monotonic()
    shown = started

    def records(ids: list[str]) -> list[dict]:
        items, prompts = [task.items[index[one]] for one in ids], [asked[index[one]] for one in ids]
        answers = task.answer(items, prompts, _Once(backend))
        return [_record(task, model_name, backend, *row) for row in zip(items, prompts, answers, strict=True)]

    def told(left: int, _: int) -> None:
        nonlocal shown
        # Counting reads every part: after each chunk of a long benchmark that would be most of the reading.
        if progress and (left == 0 or time.monotonic() - shown >= 1):
            shown = time.monotonic()
            progress(model_name, f"{task.name}, {task.protocol}", *_pace(path, before, task, started))

    store.fill(path, rank, key, mine, records, told)


def _same(prompt: Prompt) -> tuple:
    """Prompts that are the same for a model, which would say the same twice."""
    return tuple(prompt.ids) or json.dumps(prompt.messages, ensure_ascii=False), prompt.reply_prefix


def _equal(asked: Sequence[Prompt]) -> dict[tuple, list[int]]:
    """{prompt: indices of the items that have it}."""
    groups: dict[tuple, list[int]] = {}
    for index, prompt in enumerate(asked):
        groups.setdefault(_same(prompt), []).append(index)
    return groups


class _Once:
    """A backend that is asked equal prompts once."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def generate(self, prompts: Sequence[Prompt], *how: Any) -> list[Any]:
        return self._asked(self._backend.generate, prompts, *how)

    def choice_logprobs(self, prompts: Sequence[Prompt], *how: Any) -> list[Any]:
        return self._asked(self._backend.choice_logprobs, prompts, *how)

    def _asked(self, ask: Callable, prompts: Sequence[Prompt], *how: Any) -> list[Any]:
        distinct = {_same(prompt): prompt for prompt in prompts}
        answers = dict(zip(distinct, ask(list(distinct.values()), *how), strict=True))
        return [answers[_same(prompt)] for prompt in prompts]


def _share(every: list[list[int]], backend: Any, rank: int, of: int) -> Iterable[list[int]]:
    """This process's chunks out of all of them, done or not: the others may be writing while this one looks."""
    # A server answers many at once by itself, and one process keeps to its limit of requests.
    return every[rank::of] if backend.tokenizer is not None else every if rank == 0 else []


def _pace(path: Path, before: int, task: Task, started: float) -> tuple[int, int, float]:
    finished, count = store.count(path), len(task.items)
    rate = max(1, finished - before) / (time.monotonic() - started)
    return min(finished, count), count, max(0, count - finished) / rate


def _record(task: Task, model_name: str, backend: Any, item: Item, prompt: Prompt, own: dict) -> dict:
    exam = {} if item.options is None else {"gold": item.gold, "n_options": len(item.options), "groups": item.groups}
    return {
        "id": item.id,
        "benchmark": task.name,
        "model": model_name,
        "protocol": task.protocol,
        "split": item.split,
        "template": RELEASED if task.protocol == RELEASED else backend.template.name,
        "scoring": "likelihood" if task.likelihood and backend.likelihood else "generate",
        **({"subject": item.subject} if item.subject else {}),
        "prompt": prompt.text,
        "shots": prompt.shots,
        "truncated": prompt.truncated,
        "reference": item.reference,
        **exam,
        **own,
    }


def _key(task: Task, asked: Sequence[Prompt], backend: Any) -> str:
    """What the predictions depend on: not the number of processes, and the batch size only where written answers can
    move with it, in less than float32."""
    dtype = getattr(getattr(backend, "model", None), "dtype", None)
    exact = (task.likelihood and backend.likelihood) or dtype is None or str(dtype) == "torch.float32"
    items = [
        [item.id, item.gold, item.reference, item.options, prompt.ids or prompt.messages]
        for item, prompt in zip(task.items, asked, strict=True)
    ]
    stop = sorted({tag for prompt in asked for tag in prompt.stop})
    parts = [
        task.protocol,
        task.name,
        task.split,
        task.settings,
        backend.template.name,
        backend.fingerprint(),
        items,
        stop,
        *([] if exact else [backend.batch_size]),
        *([asdict(asking(backend))] if asking(backend) != AS_IT_COMES else []),
    ]
    return sha256_text(json.dumps(parts, ensure_ascii=False))


def _add_usage(path: Path, usage: dict[str, Any]) -> None:
    """A server's bill is the sum over all attempts: what one attempt paid for, the next finds in its cache."""
    before = read_json(path) if path.exists() else {}
    write_json(path, {name: None if more is None else more + (before.get(name) or 0) for name, more in usage.items()})


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
