"""Showing the items and records of notebook 06."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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
from qilin_lib.report.render import Table, view

# What is shown of a record beside its texts.
READ = ("gold", "prediction", "correct", "scoring", "shots", "truncated", "groups", "scores")


def items_table(tasks: Iterable[Any]) -> Table:
    """Items a benchmark brings to this run, its protocols, split, cap, and rows left out: unusable, or trained on."""
    by_name: dict[str, list[Any]] = {}
    for task in tasks:
        by_name.setdefault(task.name, []).append(task)
    rows, unread = [], []
    for name, (task, *others) in by_name.items():
        protocols = ", ".join(one.protocol for one in (task, *others))
        cap = Score(task.cap, form="d", missing="none")
        rows.append([name, protocols, task.split, len(task.items), cap, len(task.invalid)])
        if not task.items:
            unread += [f"{name}: {printable(row['detail'])}" for row in task.invalid[-1:]]
    return view("data", "items", rows, after=unread)


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


def example(stage_dir: str | Path, benchmark: str, model: str, protocol: str = FIXED) -> Html:
    """The first record of a predictions file: prompt, output, reference, and what was read from it."""

    def told(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {told(inner)}" for name, inner in value.items())
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.2f}" if isinstance(value, float) else str(value)

    record = read(stage_dir, protocol, benchmark, model)[0]
    parts = [Box(name, record[name]) for name in ("prompt", "output", "reference") if record.get(name)]
    about = [f"{key} {told(record[key])}" for key in READ if record.get(key) not in (None, {})]
    return card(record["id"], parts, aside=" · ".join(about))


def letters_table(stage_dir: str | Path, benchmark: str = "cmexam") -> Table:
    """How often each model gave each answer, beside the gold answers; "-" is an answer that could not be read.

    Of the fixed protocol, or of the released one where the run has no other.
    """

    def counted(records: Iterable[Mapping[str, Any]], name: str) -> Counter:
        letters = [record[name] or "-" for record in records]
        return Counter("several letters" if len(given) > 1 else given for given in letters)

    protocol = next((name for name in (FIXED, RELEASED) if models_of(stage_dir, benchmark, name)), FIXED)
    models = models_of(stage_dir, benchmark, protocol)
    given: dict[str, Counter] = {}
    for model, name in names_of(stage_dir, models).items():
        records = read(stage_dir, protocol, benchmark, model)
        given.setdefault("gold", counted(records, "gold"))
        given[name] = counted(records, "prediction")
    columns = ["A", "B", "C", "D", "E", "several letters", "-"]
    rows = [[name, *(counts[column] for column in columns)] for name, counts in given.items()]
    notes = [] if given else [f"No model answered {benchmark} under protocol {protocol}."]
    return view("data", "letters", rows, columns, notes)


def subjects(scores: Mapping[str, Any]) -> Figure | Html:
    """The figure of C-Eval by subject, or why there is none, in a sentence."""
    reason = no_subjects(scores)
    return macro("paragraph", reason) if reason else subject_accuracy(scores)
