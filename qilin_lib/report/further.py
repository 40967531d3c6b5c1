"""A table per further benchmark whose line in the registry says its columns, so that a new one is shown at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from qilin_lib.evaluate.benchmarks import FURTHER, Benchmark
from qilin_lib.models.names import foot
from qilin_lib.report import benchmark_tables as shared
from qilin_lib.report.cells import Score
from qilin_lib.report.layout import Table


def tables(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """A row per model, a column per score and one per kind of failure, of the benchmarks that were run; `digest` is
    that of stage 06."""
    return [_table(name, row, scores, digest) for name, row in FURTHER.items() if row.columns and scores.get(name)]


def _table(benchmark: str, row: Benchmark, scores: Mapping[str, Any], digest: str) -> Table:
    columns = dict(row.columns) | {(kind,): heading for kind, heading in shared.FAILURES.items()}

    def cell(path: tuple[str, ...], model: str) -> Score:
        found, where = shared.at(scores[benchmark][model], path), shared.source(scores, benchmark, model, digest)
        return Score(found, None, where, 1, "-")

    models = shared.ordered(scores[benchmark])
    rows = [[shared.name_of(scores, model), *(cell(path, model) for path in columns)] for model in models]
    cap, split = (scores[name][benchmark] for name in ("cap", "split"))
    asked = f"Protocol fixed, split {split}, {'no cap on items' if cap is None else f'cap {cap} items'}"
    notes = [
        f"{asked}; unusable rows of the benchmark {scores['invalid'][benchmark]}. Percent, with 95 % interval and n; "
        f"records in 06_eval/predictions/fixed/{benchmark}.",
        *shared.cut_notes(scores, benchmark),
        *shared.unfinished_notes(scores, benchmark),
    ]
    frame = pd.DataFrame(rows, columns=["Model", *columns.values()], dtype=object)
    return Table("", row.label, frame, [*foot(scores, paper=""), *notes])
