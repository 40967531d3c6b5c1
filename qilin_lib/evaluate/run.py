"""Notebook 06: every model answers every benchmark once; the records stay, the scores are derived from them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import ceval, cmexam, huatuo
from qilin_lib.evaluate.items import (
    BENCHMARKS,
    Item,
    cap,
    ceval_dev,
    ceval_items,
    ceval_names,
    cmexam_items,
    huatuo_items,
)
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.scores import compare, same_items, summarise
from qilin_lib.files import read_json, read_jsonl, sha256_file, sha256_text, write_json, write_jsonl

PROTOCOL = "fixed"

Progress = Callable[[str, str, int, int], None]
"""progress(model, benchmark, items done, items in all)."""


@dataclass(frozen=True)
class Task:
    """One benchmark made ready: its items, and how to ask, answer and measure them."""

    name: str
    split: str
    cap: int | None
    items: list[Item]
    invalid: list[dict]
    settings: dict[str, Any]
    prompts: Callable[[Sequence[Item], Any], list[Prompt]]
    run: Callable[..., Iterator[dict]]
    statistics: Callable[[Sequence[dict]], dict[str, Any]]


def evaluate(
    models: dict[str, Callable[[], Any]],
    benchmarks: Sequence[str],
    raw_dir: str | Path,
    out_dir: str | Path,
    params: Any,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Predictions and scores of all models on all benchmarks; returns what it writes to `out_dir`/scores.json.

    `models` maps a name (base, dcpt, sft, dpo) to a callable that loads it and returns its backend; one model is in
    memory at a time. A predictions file that is complete and belongs to the same prompts, settings and weights is kept.
    Unusable rows of the benchmarks are listed in `out_dir`/invalid.jsonl. Raises QilinError for an unknown benchmark.
    """
    out_dir = Path(out_dir)
    tasks = [prepare(benchmark, raw_dir, params) for benchmark in benchmarks]
    write_jsonl(out_dir / "invalid.jsonl", (row for task in tasks for row in task.invalid))
    for name, load in models.items():
        backend = load()
        for task in tasks:
            predict(task, name, backend, _predictions(out_dir, task.name, name), progress)
        del backend
        _free_memory()
    scores = score(tasks, list(models), out_dir, params)
    write_json(out_dir / "scores.json", scores)
    return scores


def prepare(benchmark: str, raw_dir: str | Path, params: Any) -> Task:
    """Read and cap one benchmark. Raises QilinError for an unknown one, or when nothing is left of it."""
    makers = {"ceval": _ceval_task, "cmexam": _cmexam_task, "huatuo": _huatuo_task}
    if benchmark not in makers:
        near = nearest(benchmark, makers)
        raise QilinError(f"benchmark '{benchmark}' is not known{near}; choose from {', '.join(makers)}")
    task = makers[benchmark](raw_dir, params)
    if not task.items:
        raise QilinError(f"benchmark '{benchmark}' has no usable item in {raw_dir} ({len(task.invalid)} unusable rows)")
    return task


def predict(task: Task, model_name: str, backend: Any, path: Path, progress: Progress | None = None) -> bool:
    """Write one predictions file and, last, its key beside it; False when a complete one with that key was there."""
    asked = task.prompts(task.items, backend)
    key = _key(task, asked, backend)
    beside = path.with_name(f"{model_name}.key.json")
    if beside.exists() and path.exists():
        if read_json(beside) == {"key": key, "records": len(asked), "sha256": sha256_file(path)}:
            return False
    records = task.run(task.items, asked, backend, model_name, progress=_counter(task, model_name, progress))
    count = write_jsonl(path, records)
    write_json(beside, {"key": key, "records": count, "sha256": sha256_file(path)})
    return True


def score(tasks: Sequence[Task], models: Sequence[str], out_dir: str | Path, params: Any) -> dict[str, Any]:
    """scores.json from the prediction files alone."""
    resamples, seed = params.bootstrap_resamples, params.seed
    scores: dict[str, Any] = {name: {} for name in BENCHMARKS}
    shots: dict[str, int | str | None] = {}
    truncated: dict[str, dict[str, int]] = {}
    pairs: list[dict] = []
    for task in tasks:
        records = {model: list(read_jsonl(_predictions(Path(out_dir), task.name, model))) for model in models}
        same_items(task.name, records)
        tables = {model: task.statistics(rows) for model, rows in records.items()}
        scores[task.name] = {model: summarise(table, resamples, seed) for model, table in tables.items()}
        pairs += compare(task.name, tables, resamples, seed)
        shots[task.name] = _shots(row for rows in records.values() for row in rows)
        truncated[task.name] = {model: sum(row["truncated"] for row in rows) for model, rows in records.items()}
    return scores | {
        "paired": pairs,
        "tokenisation": params.tokenisation,
        "protocol": PROTOCOL,
        "split": {task.name: task.split for task in tasks},
        "cap": {task.name: task.cap for task in tasks},
        "invalid": {task.name: len(task.invalid) for task in tasks},
        "shots": shots,
        "truncated": truncated,
    }


def _shots(records: Iterable[dict]) -> int | str | None:
    """Shots that the prompts really held: one number, or "2-5" where a short context left fewer in some."""
    seen = {row["shots"] for row in records if "shots" in row}
    return f"{min(seen)}-{max(seen)}" if len(seen) > 1 else next(iter(seen), None)


def _ceval_task(raw_dir: str | Path, params: Any) -> Task:
    items, invalid = ceval_items(raw_dir, params.ceval_split)
    limit, shots = params.max_items_ceval_per_subject, params.shots
    return Task(
        "ceval",
        params.ceval_split,
        limit,
        cap(items, limit, params.seed),
        invalid,
        {"shots": shots},
        partial(ceval.prompts, dev=ceval_dev(raw_dir), names=ceval_names(raw_dir), shots=shots),
        ceval.run,
        ceval.statistics,
    )


def _cmexam_task(raw_dir: str | Path, params: Any) -> Task:
    items, invalid = cmexam_items(raw_dir, params.cmexam_split)
    limit, new = params.max_items_cmexam, {"max_new_tokens": params.max_new_tokens_cmexam}
    return Task(
        "cmexam",
        params.cmexam_split,
        limit,
        cap(items, limit, params.seed),
        invalid,
        new,
        partial(cmexam.prompts, **new),
        partial(cmexam.run, **new),
        partial(cmexam.statistics, tokenisation=params.tokenisation),
    )


def _huatuo_task(raw_dir: str | Path, params: Any) -> Task:
    items, invalid = huatuo_items(raw_dir)
    limit, new = params.max_items_huatuo, {"max_new_tokens": params.max_new_tokens_huatuo}
    return Task(
        "huatuo",
        "test",
        limit,
        cap(items, limit, params.seed),
        invalid,
        new,
        partial(huatuo.prompts, **new),
        partial(huatuo.run, **new),
        partial(huatuo.statistics, tokenisation=params.tokenisation),
    )


def _key(task: Task, asked: Sequence[Prompt], backend: Any) -> str:
    """What the predictions depend on; the batch size is not part of it, results do not depend on that."""
    items = [
        [item.id, item.gold, item.reference, item.options, prompt.ids]
        for item, prompt in zip(task.items, asked, strict=True)
    ]
    parts = [PROTOCOL, task.name, task.split, task.settings, backend.template.name, backend.fingerprint(), items]
    return sha256_text(json.dumps(parts, ensure_ascii=False))


def _predictions(out_dir: Path, benchmark: str, model: str) -> Path:
    return out_dir / "predictions" / benchmark / f"{model}.jsonl"


def _counter(task: Task, model: str, progress: Progress | None) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        progress(model, task.name, done, len(task.items))

    return count


def _free_memory() -> None:
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
