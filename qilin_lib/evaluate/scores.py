"""From statistics to scores.json: values with intervals, and paired comparisons of consecutive stages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.evidence import RANDOM, RETRIEVAL, parts
from qilin_lib.evaluate.intervals import Statistic, holm, paired, summary
from qilin_lib.evaluate.replies import FAILURES

STAGES = ("base", "dcpt", "sft", "dpo")

Table = dict[str, Any]
"""metric -> Statistic, or a name -> another such table (C-Eval's subjects, Huatuo-26M's variants)."""


def summarise(table: Table, resamples: int, seed: int, ids: Sequence[str] = ()) -> dict[str, Any]:
    """The table with each Statistic replaced by {"value", "n", "low", "high"}.

    QilinError for a metric that is no number, with the item's id if `ids` are those of all records.
    """
    brief = {}
    for name, entry in table.items():
        if not isinstance(entry, Statistic):
            brief[name] = summarise(entry, resamples, seed, ids)
            continue
        try:
            brief[name] = summary(entry, resamples, seed, ids)
        except QilinError as reason:
            raise QilinError(f"{name}: {reason}") from None
    return brief


def compare(
    benchmark: str, tables: dict[str, Table], resamples: int, seed: int, own: Sequence[str] = STAGES
) -> list[dict]:
    """One row per metric and pair of models: b minus a, in points.

    Compared are stages (`own`, in their order) that follow each other, the first with the last, every other model with
    the last stage, and a row with passages with the same model without, and with passages by chance (`evidence`). The
    tables must come from the same items in the same order (`same_items`); metrics without items or without the other
    model's, FAILURES and those of nested tables are left out.
    """
    rows, stages = [], [stage for stage in own if stage in tables]
    ends = [(stages[0], stages[-1])] if len(stages) > 2 else []
    further = {name: parts(name) for name in tables}
    others = [(name, stages[-1]) for name in sorted(tables.keys() - set(own)) if stages and not further[name][1]]
    shown = [(model, name) for name, (model, kind) in further.items() if kind and model in tables]
    chance = [(f"{m} + {RANDOM}", f"{m} + {RETRIEVAL}") for m in dict.fromkeys(model for model, _ in shown)]
    chance = [pair for pair in chance if {*pair} <= tables.keys()]
    for a, b in [*pairwise(stages), *ends, *others, *shown, *chance]:
        for metric, left in tables[a].items():
            if metric in FAILURES or not isinstance(left, Statistic) or len(left.rows) == 0 or metric not in tables[b]:
                continue
            row = {"benchmark": benchmark, "metric": metric, "model_a": a, "model_b": b}
            rows.append(row | paired(left, tables[b][metric], resamples, seed))
    return rows


def adjust(rows: Sequence[dict]) -> list[dict]:
    """The rows of `compare` for all benchmarks of a run, each with "p_adjusted" (Holm over all that have a p)."""
    adjusted = iter(holm([row["p"] for row in rows if row["p"] is not None]))
    return [row | {"p_adjusted": None if row["p"] is None else next(adjusted)} for row in rows]


def same_items(benchmark: str, records: dict[str, Sequence[dict]]) -> None:
    """QilinError unless every model's records answer the same items in the same order."""
    expected: tuple[str, list[str]] | None = None
    for model, rows in records.items():
        ids = [row["id"] for row in rows]
        expected = expected or (model, ids)
        if ids != expected[1]:
            raise QilinError(f"{benchmark}: '{model}' and '{expected[0]}' answered different items; run both again")
