"""Showing the items and records of notebook 06."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files
from qilin_lib.report.layout import Table
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.report.tokens import box


def items_table(tasks: Iterable[Any]) -> Table:
    """Items a benchmark brings to this run, its split and cap, and rows of its files that could not be used."""
    rows = [
        [
            task.name,
            task.split,
            str(len(task.items)),
            "none" if task.cap is None else str(task.cap),
            str(len(task.invalid)),
        ]
        for task in tasks
    ]
    columns = ["Benchmark", "Split", "items asked", "cap", "unusable rows"]
    notes = ["C-Eval's cap is per subject; capped items are a seeded sample in file order"]
    return Table("", "Items", pd.DataFrame(rows, columns=columns), notes)


def progress(show: Callable[[str], None]) -> Callable[[str, str, int, int], None]:
    """A progress callable for `evaluate.run.evaluate` that shows one line."""
    return lambda model, benchmark, done, total: show(f"{model}: {benchmark} {done}/{total}")


def example(stage_dir: Path, benchmark: str, model: str) -> Html:
    """The first record of a predictions file: prompt, output, reference, and what was read from it."""
    record = next(iter(files.read_jsonl(stage_dir / "predictions" / benchmark / f"{model}.jsonl")))
    parts = "".join(box(name, record.get(name) or "") for name in ("prompt", "output", "reference"))
    rest = {key: record[key] for key in ("gold", "prediction", "correct") if key in record}
    head = f"<div class='head'>{escape(record['id'])}<span>{escape(rest)}</span></div>"
    return styled(CASE_STYLE, f"<div class='qm-case'>{head}{parts}</div>")


def letters_table(stage_dir: Path, models: list[str], benchmark: str = "cmexam") -> Table:
    """How often each model gave each answer, beside the gold answers; "-" is an answer that could not be read."""
    gold, given = Counter(), {}
    for model in models:
        rows = list(files.read_jsonl(stage_dir / "predictions" / benchmark / f"{model}.jsonl"))
        given[model] = Counter(_kind(row["prediction"]) for row in rows)
        gold = Counter(_kind(row["gold"]) for row in rows)
    columns = ["A", "B", "C", "D", "E", "several letters", "-"]
    rows = [[name, *(str(counts[column]) for column in columns)] for name, counts in {"gold": gold, **given}.items()]
    return Table("", "Answers given", pd.DataFrame(rows, columns=["Model", *columns]))


def _kind(letters: str | None) -> str:
    return "-" if not letters else letters if len(letters) == 1 else "several letters"
