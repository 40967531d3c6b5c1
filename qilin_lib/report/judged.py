"""Views of 06: what passages beside the question change, and what a judge makes of pairs of answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files
from qilin_lib.evaluate import evidence
from qilin_lib.evaluate.judging.comparison import OUTCOMES
from qilin_lib.models.names import foot
from qilin_lib.report.cells import Score
from qilin_lib.report.frames import name_of
from qilin_lib.report.render import Table

HEADINGS = {"win_rate": "Win rate", "length_controlled": "At equal length"}


def tables(folder: Path, scores: Mapping[str, Any]) -> list[Table]:
    """Passages against none, pairs, strengths and what the judge follows; [] where the profile asks for neither.

    `folder` is that of stage 06.
    """
    return [*retrieval_tables(folder, scores), *judged_tables(scores)]


def retrieval_tables(folder: Path, scores: Mapping[str, Any]) -> list[Table]:
    """J1: accuracy with passages less without, and less with passages by chance, on the same items."""
    rows = [row for row in scores["paired"] if evidence.parts(row["model_b"])[1] and row["metric"] == "accuracy"]
    if not rows:
        return []
    content = [
        [row["benchmark"], *(name_of(scores, row[side]) for side in ("model_a", "model_b")), _difference(row), row["p"]]
        for row in rows
    ]
    columns = ["Benchmark", "Asked as", "Asked with", "Difference, points", "p"]
    facts = files.read_json(folder / "evidence" / "index.json")
    left = "; ".join(f"{why} {count:,}" for why, count in facts["left_out"].items())
    notes = [
        f"Index: {facts['passages']:,} passages; left out: {left or 'nothing, since no document holds an item'}.",
        "Query: the question alone. random: as many passages by chance; gold: the item's own explanation, the best "
        "that could be found. Paired by item: Bonett-Price interval, exact McNemar.",
        *foot(scores, paper=""),
    ]  # fmt: skip
    return [Table("J1", "With passages beside the question", _frame(content, columns), notes)]


def _difference(row: Mapping[str, Any]) -> Score:
    return Score(row["difference"], n=row["n"], low=row["low"], high=row["high"], form="+.1f")


def judged_tables(scores: Mapping[str, Any]) -> list[Table]:
    """J2: pairs of models as judged; J3: their strengths; J4: what the judge follows."""
    judged = scores.get("judged")
    if judged is None:
        return []
    if "unfinished" in judged:
        why = [f"Nothing was judged: {judged['unfinished']}."]
        return [Table("J2", "Answers judged in pairs", _frame([], ["Model", "against"]), why)]
    about = f"Judge: {judged['judge']}, criteria {judged['preset']} ({judged['source']}); {judged['benchmark']}."
    counts = [
        [*(name_of(scores, row[side]) for side in ("model_a", "model_b")), *(row[name] for name in OUTCOMES),
         *(_rate(row, name) for name in HEADINGS)]
        for row in judged["comparison"]
    ]  # fmt: skip
    strengths = [[name_of(scores, row["model"]), _score(row, "strength", ".2f")] for row in judged["strengths"]]
    follows = [[row["control"], _score(row, "share", ".1f"), row["warning"] or "-"] for row in judged["controls"]]
    rule = (
        "Every pair in both orders; inconsistent: the orders differ; unread: no verdict, or an error. Win rate: points "
        "of the first model, ties half, bootstrap over items."
    )
    return [
        Table("J2", "Answers judged in pairs", _frame(counts, ["Model", "against", *OUTCOMES, *HEADINGS.values()]),
              [about, rule, *foot(scores, paper="")]),
        Table("J3", "Strengths (Bradley-Terry)", _frame(strengths, ["Model", "Strength, log odds"]), [about]),
        Table("J4", "What the judge follows", _frame(follows, ["Control", "Percent of decisions", "Warning"]),
              [about, "orders agree: Cohen's kappa of the verdicts in both orders, times 100"]),
    ]  # fmt: skip


def _frame(rows: list[list[Any]], columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns, dtype=object)


def _rate(row: Mapping[str, Any], name: str) -> Score:
    low, high = (row["low"], row["high"]) if name == "win_rate" else (row["lc_low"], row["lc_high"])
    return Score(row[name], n=row["n"] - row["unread"], low=low, high=high)


def _score(row: Mapping[str, Any], name: str, form: str) -> Score:
    return Score(row[name], n=row.get("n"), low=row["low"], high=row["high"], form=form)
