"""One process's share of the answers: every model in turn, every task, chunk by chunk."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qilin_lib.evaluate import evidence, store
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.plan import RELEASED, Task
from qilin_lib.evaluate.prompts import AS_IT_COMES, Prompt, asking
from qilin_lib.files import sha256_text

# Items of a subject that share one forward pass. It is no parameter: records must not depend on how they were made.
LIKELIHOOD_CHUNK = 16
Progress = Callable[[str, str, int, int, float], None]
"""progress(model, "benchmark, protocol", items done by all processes, items in all, seconds left at this pace)."""


@dataclass(frozen=True)
class Share:
    """This process's part of the work (`rank` of `of`), whom it tells of it, and whether refused prompts are asked
    once more."""

    rank: int = 0
    of: int = 1
    progress: Progress | None = None
    errors_again: bool = False


def answer_all(
    tasks: Sequence[Task],
    models: dict[str, Callable[[], Any]],
    shots: dict[str, int],
    out_dir: str | Path,
    share: Share = Share(),
    benchmarks: Mapping[str, list[str]] = MappingProxyType({}),
    may_fail: Collection[str] = (),
) -> None:
    """Let every model answer this process's chunks of every task; one model is in memory at a time.

    `models` maps a name to a callable that loads it; `shots` to its C-Eval examples; `benchmarks` to those it is asked
    (absent: all). What an interrupted call of the same prompts, settings and weights has answered is kept. A model of
    `may_fail` that cannot go on is noted (`store.note_failure`), and the others answer.
    """
    import torch

    for name, load in models.items():
        # The authors' protocol knows no passages.
        mine = [
            task
            for task in tasks
            if task.name in benchmarks.get(name, [task.name])
            and not (evidence.parts(name)[1] and task.protocol == RELEASED)
        ]
        try:
            if mine:
                _answer_of_one(mine, name, load(), shots[name], out_dir, share)
        except Exception as reason:
            if name not in may_fail:
                raise
            traceback.print_exc()
            store.note_failure(out_dir, name, reason)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _answer_of_one(
    tasks: Sequence[Task], name: str, backend: Any, shots: int, out_dir: str | Path, share: Share
) -> None:
    paid = store.bill(out_dir, name, backend.usage) if share.rank == 0 and hasattr(backend, "usage") else _nothing
    try:
        for task in tasks:
            answer(task, name, backend, shots, store.predictions(out_dir, task.protocol, task.name, name), share, paid)
    finally:
        paid()
        if hasattr(backend, "close"):
            backend.close()


def _nothing() -> None:
    """Who asks no server has no bill."""


def answer(
    task: Task,
    model: str,
    backend: Any,
    shots: int,
    path: Path,
    share: Share = Share(),
    paid: Callable[[], None] = _nothing,
) -> None:
    """Append this process's records of one task to its part of `path`; a chunk counts only as a whole.

    `paid()` after each, since a killed process writes nothing more.
    """
    # A server answers many at once by itself, and one process keeps to its limit of requests.
    if backend.tokenizer is None and share.rank:
        return
    prompts = dict(zip([item.id for item in task.items], task.prompts(task.items, backend, shots), strict=True))
    key = _key(task, list(prompts.values()), backend)
    finished = store.there(path, key)
    # Of what other processes answer too nothing is opened anew: what vLLM refuses, it refuses again.
    again = share.errors_again and backend.tokenizer is None
    if finished and not (again and store.reopen(path, key)):
        return
    items = {item.id: item for item in task.items}
    before, started = store.count(path), time.monotonic()
    shown = started

    def records(ids: list[str]) -> list[dict]:
        rows = [(items[name], prompts[name]) for name in ids]
        own = task.answer([item for item, _ in rows], [prompt for _, prompt in rows], _Once(backend))
        return [_record(task, model, backend, *row, part) for row, part in zip(rows, own, strict=True)]

    def told(left: int, _: int) -> None:
        nonlocal shown
        paid()
        # Counting reads every part: after each chunk of a long benchmark that would be most of the reading.
        if share.progress and (left == 0 or time.monotonic() - shown >= 1):
            shown, done, total = time.monotonic(), store.count(path), len(items)
            rate = max(1, done - before) / (shown - started)
            seconds = max(0, total - done) / rate
            share.progress(model, f"{task.name}, {task.protocol}", min(done, total), total, seconds)

    # Out of all chunks, done or not: the others may be writing while this process looks.
    mine = chunks(task, prompts, backend)[share.rank :: 1 if backend.tokenizer is None else share.of]
    store.fill(path, share.rank, key, mine, records, told)


def chunks(task: Task, prompts: Mapping[str, Prompt], backend: Any) -> list[list[str]]:
    """Ids of the items that are answered together, out of `prompts` {id of an item: its prompt}.

    They are cut from all items of the task, so that neither a restart nor the number of processes moves a result.
    Scored choices: a subject's items in their order, LIKELIHOOD_CHUNK at most. Generation: the longest first,
    `batch_size` at most, a subject by itself where its items share their examples. Items with the same prompt are in
    one chunk, cut as if only the first of them were there.
    """
    twins: dict[tuple, list[str]] = {}
    for name, prompt in prompts.items():
        twins.setdefault(_same(prompt), []).append(name)
    subjects, firsts = {item.id: item.subject for item in task.items}, [names[0] for names in twins.values()]
    scored = task.likelihood and backend.likelihood
    if not scored:
        firsts.sort(key=lambda name: -len(prompts[name].ids or prompts[name].text))
    apart = scored or any(prompts[name].shared for name in firsts)
    groups: dict[str | None, list[str]] = {}
    for name in firsts:
        groups.setdefault(subjects[name] if apart else None, []).append(name)
    size = LIKELIHOOD_CHUNK if scored else backend.batch_size
    cut = [group[start : start + size] for group in groups.values() for start in range(0, len(group), size)]
    return [[twin for name in part for twin in twins[_same(prompts[name])]] for part in cut]


def _same(prompt: Prompt) -> tuple:
    """Prompts that are the same for a model, which would say the same twice."""
    return tuple(prompt.ids) or json.dumps(prompt.messages, ensure_ascii=False), prompt.reply_prefix


class _Once:
    """A backend that is asked equal prompts once."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._backend, name)
        return partial(self._asked, found) if name in ("generate", "choice_logprobs") else found

    @staticmethod
    def _asked(ask: Callable, prompts: Sequence[Prompt], *how: Any) -> list[Any]:
        distinct = {_same(prompt): prompt for prompt in prompts}
        answers = dict(zip(distinct, ask(list(distinct.values()), *how), strict=True))
        return [answers[_same(prompt)] for prompt in prompts]


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
        **({"passages": prompt.passages} if prompt.passages else {}),
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
        # A line at an endpoint says whether its letters are scored, by the same model after the same prompts.
        *(["likelihood"] if backend.tokenizer is None and task.likelihood and backend.likelihood else []),
        *([asdict(replace(asking(backend), passages=None))] if asking(backend) != AS_IT_COMES else []),
    ]
    return sha256_text(json.dumps(parts, ensure_ascii=False))
