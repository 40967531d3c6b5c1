"""Showing the items and records of notebook 06."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from qilin_lib import files
from qilin_lib.chimed.readers.find import printable
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import store
from qilin_lib.evaluate.benchmarks import FURTHER
from qilin_lib.evaluate.plan import FIXED, RELEASED
from qilin_lib.report.breakdowns import no_subjects
from qilin_lib.report.cells import Score
from qilin_lib.report.figures import subject_accuracy
from qilin_lib.report.frames import name_of, ordered
from qilin_lib.report.markup import Box, Html, card, macro
from qilin_lib.report.render import Table

PROTOCOLS = (FIXED, RELEASED)
LETTERS = ("A", "B", "C", "D", "E")
# What is shown of a record beside its texts.
READ = ("gold", "prediction", "correct", "scoring", "shots", "truncated", "groups", "scores")


def items_table(tasks: Iterable[Any]) -> Table:
    """Items a benchmark brings to this run, its protocols, split, cap, and rows left out: unusable, or trained on."""
    rows: dict[str, list[Any]] = {}
    tasks = list(tasks)
    for task in tasks:
        if task.name in rows:
            rows[task.name][1] += f", {task.protocol}"
            continue
        cap = Score(task.cap, form="d", missing="none")
        rows[task.name] = [task.name, task.protocol, task.split, len(task.items), cap, len(task.invalid)]
    columns = ["Benchmark", "Protocols", "Split", "items asked", "cap", "rows left out"]
    notes = [
        "The cap of C-Eval and CMMLU is per subject; capped items are a seeded sample in file order; all protocols ask "
        "the same"
    ]
    unread = {task.name: row["detail"] for task in tasks for row in task.invalid if not task.items}
    notes += [f"{name}: {printable(detail)}" for name, detail in unread.items()]
    return Table("", "Items", pd.DataFrame(list(rows.values()), columns=columns, dtype=object), notes)


def read(stage_dir: str | Path, protocol: str, benchmark: str, model: str) -> list[dict[str, Any]]:
    """One model's records. Raises QilinError for a file that is missing or holds none."""
    path = store.predictions(stage_dir, protocol, benchmark, model)
    records = list(files.read_jsonl(path))
    if not records:
        raise QilinError(f"{path} holds no record; run notebooks/06_eval.ipynb again")
    return records


def models_of(stage_dir: str | Path, benchmark: str, protocol: str = "fixed") -> list[str]:
    """Models with a finished predictions file: the stages, then baselines by name."""
    folder = store.predictions(stage_dir, protocol, benchmark, "-").parent
    return ordered(path.name.removesuffix(".jsonl") for path in folder.glob("*.jsonl"))


def first_answered(stage_dir: str | Path, benchmarks: Iterable[str], protocols: Iterable[str]) -> tuple[str, str]:
    """The first of `benchmarks`, then of the further ones, and of `protocols` that has records.

    A benchmark that could not be read has none. Raises QilinError when no benchmark has.
    """
    for benchmark, protocol in itertools.product((*benchmarks, *FURTHER), protocols):
        if models_of(stage_dir, benchmark, protocol):
            return benchmark, protocol
    raise QilinError(f"{stage_dir} holds no record of any benchmark; run notebooks/06_eval.ipynb again")


def names_of(stage_dir: str | Path, models: Iterable[str]) -> dict[str, str]:
    """{model: what it is called}, as scores.json beside the records says."""
    return {model: name_of(files.read_json(Path(stage_dir) / "scores.json"), model) for model in models}


def example(stage_dir: str | Path, benchmark: str, model: str, protocol: str | None = None) -> Html:
    """The first record of a predictions file: prompt, output, reference, and what was read from it.

    `protocol`: None = the first that the run has of fixed and released.
    """
    record = read(stage_dir, protocol or _protocol(stage_dir, benchmark), benchmark, model)[0]
    parts = [Box(name, record[name]) for name in ("prompt", "output", "reference") if record.get(name)]
    told = [f"{key} {_told(record[key])}" for key in READ if record.get(key) not in (None, {})]
    return card(record["id"], parts, aside=" · ".join(told))


def letters_table(stage_dir: str | Path, benchmark: str = "cmexam", protocol: str | None = None) -> Table:
    """How often each model gave each answer, beside the gold answers; "-" is an answer that could not be read.

    `protocol` as in `example`.
    """
    protocol = protocol or _protocol(stage_dir, benchmark)
    gold: Counter = Counter()
    given: dict[str, Counter] = {}
    models = models_of(stage_dir, benchmark, protocol)
    for model, name in names_of(stage_dir, models).items() if models else ():
        records = read(stage_dir, protocol, benchmark, model)
        given[name] = Counter(_kind(record["prediction"]) for record in records)
        gold = Counter(_kind(record["gold"]) for record in records)
    columns = [*LETTERS, "several letters", "-"]
    shown = {"gold": gold, **given} if given else {}
    rows = [[name, *(counts[column] for column in columns)] for name, counts in shown.items()]
    notes = [] if given else [f"No model answered {benchmark} under protocol {protocol}."]
    return Table("", "Answers given", pd.DataFrame(rows, columns=["Model", *columns], dtype=object), notes)


def subjects(scores: Mapping[str, Any]) -> Figure | Html:
    """The figure of C-Eval by subject, or why there is none, in a sentence."""
    reason = no_subjects(scores)
    return macro("paragraph", reason) if reason else subject_accuracy(scores)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _protocol(stage_dir: str | Path, benchmark: str) -> str:
    return next((name for name in PROTOCOLS if models_of(stage_dir, benchmark, name)), PROTOCOLS[0])


def _kind(letters: str | None) -> str:
    return "-" if not letters else letters if len(letters) == 1 else "several letters"
