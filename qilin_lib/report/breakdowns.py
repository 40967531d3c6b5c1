"""What lies under Tables 4-6: categories and annotated groups, the same answers under other metric code, paired tests.

Everything is read from 06_eval/scores.json; a cell leads to the records it is made of, as in Tables 4-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qilin_lib.evaluate.benchmarks.ceval import NO_CATEGORY
from qilin_lib.evaluate.benchmarks.cmexam import NOT_ANNOTATED
from qilin_lib.models import names
from qilin_lib.report.annotations import COLUMNS, ENGLISH
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.frames import key, name_of, ordered
from qilin_lib.report.paper import ExternalTable
from qilin_lib.report.render import Table
from qilin_lib.report.tables import Column, Rows, Scores, across, by_model, frame, headings

CATEGORIES = {"stem": "STEM", "social_science": "Social science", "humanities": "Humanities", "other": "Other"}


def category_table(scores: Scores, digest: str = "") -> Table:
    """C-Eval by the four categories of its site, a row per model. `digest` is that of stage 06."""
    results = key(scores, "ceval", "scores.json")
    # Subjects that C-Eval does not know (mapping.json may add some) are a column only where there are any.
    extra = [NO_CATEGORY] if any(NO_CATEGORY in entry.get("categories", {}) for entry in results.values()) else []
    columns = [
        Column("ceval", f"categories/{name}", title, ".1f")
        for name, title in (CATEGORIES | dict(zip(extra, extra, strict=True))).items()
    ]
    content = by_model(columns, Rows({}, "", ordered(results)), scores, digest).drop(columns="From")
    about = sentences("tables", "categories") if results else ["C-Eval was not evaluated in this run."]
    notes = [*names.foot(scores), *about, "The paper gives no numbers by category."]
    return Table("4c", "C-Eval by category", content, notes)


def no_subjects(scores: Scores) -> str:
    """Why there is no figure of C-Eval by subject, in a sentence; "" where there is one."""
    results = scores["ceval"]
    if not results:
        return "C-Eval by subject: C-Eval was not evaluated in this run."
    if any(score["n"] for entry in results.values() for score in entry["subjects"].values()):
        return ""
    return "C-Eval by subject: no item of this run has a public answer (the test split's are not), so none is drawn."


def group_tables(scores: Scores, digest: str = "") -> list[Table]:
    """CMExam's accuracy by each annotation column: a row per value, the commonest first, a column per model.

    Empty where the items carry no annotations: a note of Table 5 says so then.
    """
    results = key(scores, "cmexam", "scores.json")
    found = {column for entry in results.values() for column in entry.get("groups", {})}
    columns = [*(c for c in COLUMNS if c in found), *sorted(found - set(COLUMNS))]
    return [_group_table(scores, column, letter, digest) for column, letter in zip(columns, "abcdefgh", strict=False)]


def group_values(results: Mapping[str, Any], column: str) -> dict[str, int]:
    """{value: items} of an annotation column over all models, the commonest first, items without a value last."""
    counts: dict[str, int] = {}
    for entry in results.values():
        for value, score in entry.get("groups", {}).get(column, {}).items():
            counts[value] = max(counts.get(value, 0), score["n"])
    return dict(sorted(counts.items(), key=lambda pair: (pair[0] == NOT_ANNOTATED, -pair[1], pair[0])))


def _group_table(scores: Scores, column: str, letter: str, digest: str) -> Table:
    values = group_values(scores["cmexam"], column)
    english = any(value in ENGLISH for value in values)
    cells = across(scores, "cmexam", {value: f"groups/{column}/{value}" for value in values}, digest)
    rows = [
        [str(number), value, *([ENGLISH.get(value, "-")] if english else []), *line]
        for number, (value, line) in enumerate(zip(values, cells, strict=True), start=1)
    ]
    columns = ["No.", "Group", *(["English"] if english else []), *headings(scores, "cmexam")]
    notes = [*names.foot(scores), f"Percent, with 95 % interval and n.{' The English names are ours.' * english}"]
    title = f"CMExam by {COLUMNS.get(column, column)}: accuracy"
    return Table(f"5{letter}", title, frame(rows, columns), notes, compact=True)


def variant_table(scores: Scores, digest: str = "") -> Table:
    """Huatuo-26M: the same answers under other metric code, a row per variant, a column per model."""
    results = key(scores, "huatuo", "scores.json")
    variants = dict.fromkeys(name for model in ordered(results) for name in results[model].get("variants", {}))
    cells = across(scores, "huatuo", {name: f"variants/{name}" for name in variants}, digest, ".2f")
    rows = ([name, *line] for name, line in zip(variants, cells, strict=True))
    content = frame(rows, ["Variant", *headings(scores, "huatuo")])
    missing = ["Huatuo-26M was not evaluated in this run, or no other metric code was run on its answers."]
    notes = sentences("tables", "variants") if variants else missing
    title = "Huatuo-26M: the same answers, other metric code"
    return Table("6v", title, content, [*names.foot(scores), *notes], compact=True)


def paired_table(scores: Scores) -> Table:
    """Differences between models on the same items, from the "paired" list of scores.json."""
    rows = []
    for pair in key(scores, "paired", "scores.json"):
        later, earlier = (name_of(scores, pair[model]) for model in ("model_b", "model_a"))
        gap = Score(pair["difference"], pair["n"], pair["low"], pair["high"], "+.2f")
        tests = [Score(pair.get(name), form=".3g") for name in ("p", "p_adjusted")]
        rows.append([pair["benchmark"], pair["metric"], f"({later}) \u2212 ({earlier})", gap, *tests])
    columns = ["Benchmark", "Metric", "Compared", "Difference, points", "p", "p, Holm"]
    missing = ["Nothing to compare: fewer than two models answered the same benchmark."]
    notes = sentences("tables", "paired", count=len(rows)) if rows else missing
    title = "Paired differences between models"
    return Table("A1", title, frame(rows, columns), [*names.foot(scores), *notes], compact=True)


def usage_table(scores: Scores) -> Table | None:
    """Requests, tokens and cost of models behind an endpoint; None where the run asked none."""
    usage = scores.get("usage", {})
    if not usage:
        return None
    counted = list(dict.fromkeys(name for counts in usage.values() for name in counts))
    rows = [[name_of(scores, m), *(_amount(counts.get(n)) for n in counted)] for m, counts in sorted(usage.items())]
    content = frame(rows, ["Model", *(name.replace("_", " ") for name in counted)])
    return Table("", "Requests to endpoints", content, [*names.foot(scores), *sentences("tables", "usage")])


def _amount(value: float | None) -> Score:
    return Score(value, form=",.4f" if isinstance(value, float) else ",", missing="not known")


def external_table(table: ExternalTable, number: str) -> Table:
    """Another project's table as it printed it, labelled with its origin; numbered by the caller ("5a")."""
    # As printed: every column with as many decimals as its longest number ("16.90", not "16.9").
    printed = zip(*table.rows.values(), strict=True)
    decimals = [max(len(str(v).partition(".")[2]) for v in column if v is not None) for column in printed]
    rows = [
        [name, "external", *(Score(v, form=f".{d}f") for v, d in zip(values, decimals, strict=True))]
        for name, values in table.rows.items()
    ]
    notes = [f"Origin: {table.origin}.", "Metric code differs from ours: compare within this table only."]
    return Table(number, table.title, frame(rows, ["Model", "From", *table.columns]), notes)
