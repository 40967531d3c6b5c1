"""A table per further benchmark whose line in the registry says its columns, so that a new one is shown at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qilin_lib.evaluate.benchmarks import FURTHER, Benchmark
from qilin_lib.models.names import foot
from qilin_lib.report import tables as shared
from qilin_lib.report.frames import ordered
from qilin_lib.report.render import Table


def tables(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """C4a …: a row per model, a column per score and one per kind of failure, of the benchmarks that were run.

    `digest` is that of stage 06.
    """
    shown = [(name, row) for name, row in FURTHER.items() if row.columns and scores.get(name)]
    lettered = zip("abcdefghijklmnop", shown, strict=False)
    return [_table(f"C4{letter}", name, row, scores, digest) for letter, (name, row) in lettered]


def _table(number: str, benchmark: str, row: Benchmark, scores: Mapping[str, Any], digest: str) -> Table:
    headings = {"/".join(path): heading for path, heading in row.columns.items()} | shared.FAILURES
    columns = [shared.Column(benchmark, path, heading, ".1f") for path, heading in headings.items()]
    rows = shared.Rows({}, "", ordered(scores[benchmark]))
    cap, split = (scores[name][benchmark] for name in ("cap", "split"))
    asked = f"Protocol fixed, split {split}, {'no cap on items' if cap is None else f'cap {cap} items'}"
    notes = [
        *foot(scores, paper=""),
        *shared.unfinished_notes(scores, benchmark),
        f"{asked}; unusable rows of the benchmark {scores['invalid'][benchmark]}. Percent, with 95 % interval and n; "
        f"records in 06_eval/predictions/fixed/{benchmark}.",
        *shared.cut_notes(scores, benchmark),
    ]
    content = shared.by_model(columns, rows, scores, digest).drop(columns="From")
    return Table(number, row.label, content, notes)
