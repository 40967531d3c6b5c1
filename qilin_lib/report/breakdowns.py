"""What lies under Tables 4-6: categories and annotated groups, the same answers under other metric code, paired tests.

Everything is read from 06_eval/scores.json; a cell leads to the records it is made of, as in Tables 4-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qilin_lib import strict_yaml
from qilin_lib.evaluate.benchmarks.ceval import NO_CATEGORY
from qilin_lib.evaluate.benchmarks.cmexam import NOT_ANNOTATED
from qilin_lib.models import names
from qilin_lib.report.cells import NAMES, Score
from qilin_lib.report.frames import name_of, ordered
from qilin_lib.report.paper import TABLES, ExternalTable
from qilin_lib.report.render import Table, view
from qilin_lib.report.tables import LABELS, Column, Scores, across, score_rows

_ANNOTATIONS = strict_yaml.read(Path(__file__).with_name("annotations.yaml"))
# English names of CMExam's annotation columns and of their values.
COLUMNS: dict[str, str] = _ANNOTATIONS["columns"]
ENGLISH: dict[str, str] = _ANNOTATIONS["values"]
CATEGORIES = NAMES["categories"]
# {a score's name: its heading in Tables 4-6}.
HEADINGS = {name: heading for table in TABLES.values() for name, heading in table.columns.items()}


def category_table(scores: Scores) -> Table:
    """C-Eval by the four categories of its site, a row per model."""
    results = scores["ceval"]
    shown = CATEGORIES
    # Subjects that C-Eval does not know (mapping.json may add some) are a column only where there are any.
    if any(NO_CATEGORY in entry.get("categories", {}) for entry in results.values()):
        shown = CATEGORIES | {NO_CATEGORY: NO_CATEGORY}
    columns = [Column("ceval", ("categories", name), title, ".1f") for name, title in shown.items()]
    rows, heads = score_rows(columns, ordered(results), scores)
    instead = "" if results else "no_categories"
    return view("tables", "categories", rows, heads, names.foot(scores), "4c", instead=instead).without("From")


def no_subjects(scores: Scores) -> str:
    """Why there is no figure of C-Eval by subject, in a sentence; "" where there is one."""
    results = scores["ceval"]
    if not results:
        return "C-Eval by subject: C-Eval was not evaluated in this run."
    if any(score["n"] for entry in results.values() for score in entry["subjects"].values()):
        return ""
    return "C-Eval by subject: no item of this run has a public answer (the test split's are not), so none is drawn."


def group_tables(scores: Scores) -> list[Table]:
    """CMExam's accuracy by each annotation column: a row per value, the commonest first, a column per model.

    Empty where the items carry no annotations: a note of Table 5 says so then.
    """
    found = {column for entry in scores["cmexam"].values() for column in entry.get("groups", {})}
    columns = [*(column for column in COLUMNS if column in found), *sorted(found - {*COLUMNS})]
    tables = []
    for column, letter in zip(columns, "abcdefgh", strict=False):
        values = list(group_values(scores["cmexam"], column))
        lines, models = across(scores, "cmexam", {value: ("groups", column, value) for value in values})
        rows = [
            [str(number), value, ENGLISH.get(value, "-"), *cells]
            for number, (value, *cells) in enumerate(lines, start=1)
        ]
        shown, foot = COLUMNS.get(column, column), names.foot(scores)
        made = view("tables", "groups", rows, models, foot, f"5{letter}", compact=True, column=shown)
        tables.append(made if {*values} & {*ENGLISH} else made.without("English"))
    return tables


def group_values(results: Mapping[str, Any], column: str) -> dict[str, int]:
    """{value: items} of an annotation column over all models, the commonest first, items without a value last."""
    counts: dict[str, int] = {}
    for entry in results.values():
        for value, score in entry.get("groups", {}).get(column, {}).items():
            counts[value] = max(counts.get(value, 0), score["n"])
    return dict(sorted(counts.items(), key=lambda pair: (pair[0] == NOT_ANNOTATED, -pair[1], pair[0])))


def variant_table(scores: Scores) -> Table:
    """Huatuo-26M: the same answers under other metric code, a row per variant, a column per model."""
    results = scores["huatuo"]
    variants = dict.fromkeys(name for model in ordered(results) for name in results[model].get("variants", {}))
    rows, models = across(scores, "huatuo", {name: ("variants", name) for name in variants}, ".2f")
    instead = "" if rows else "no_variants"
    return view("tables", "variants", rows, models, names.foot(scores), "6v", compact=True, instead=instead)


def paired_table(scores: Scores) -> Table:
    """Differences between models on the same items, from the "paired" list of scores.json."""
    rows = []
    for pair in scores["paired"]:
        compared = f"({name_of(scores, pair['model_b'])}) \u2212 ({name_of(scores, pair['model_a'])})"
        gap = Score.of({**pair, "value": pair["difference"]}, "+.2f")
        tests = [Score(pair.get(name), form=".3g") for name in ("p", "p_adjusted")]
        labels = LABELS.get(pair["benchmark"], pair["benchmark"]), HEADINGS.get(pair["metric"], pair["metric"])
        rows.append([*labels, compared, gap, *tests])
    instead, count = "" if rows else "no_pairs", len(rows)
    return view("tables", "paired", rows, (), names.foot(scores), "A1", compact=True, instead=instead, count=count)


def usage_table(scores: Scores) -> Table | None:
    """Requests, tokens and cost of models behind an endpoint; None where the run asked none."""
    usage = scores.get("usage", {})
    if not usage:
        return None
    counted = list(dict.fromkeys(name for counts in usage.values() for name in counts))
    rows = []
    for model, counts in sorted(usage.items()):
        forms = {name: ",.4f" if isinstance(counts.get(name), float) else "," for name in counted}
        amounts = [Score(counts.get(name), form=form, missing="not known") for name, form in forms.items()]
        rows.append([name_of(scores, model), *amounts])
    return view("tables", "usage", rows, (name.replace("_", " ") for name in counted), names.foot(scores))


def external_table(printed: ExternalTable, number: str) -> Table:
    """Another project's table as it printed it, labelled with its origin; numbered by the caller ("5a")."""
    # As printed: every column with as many decimals as its longest number ("16.90", not "16.9").
    columns = zip(*printed.rows.values(), strict=True)
    forms = [f".{max(len(str(v).partition('.')[2]) for v in column if v is not None)}f" for column in columns]
    rows = [
        [name, "external", *(Score(value, form=form) for value, form in zip(values, forms, strict=True))]
        for name, values in printed.rows.items()
    ]
    return view("tables", "external", rows, printed.columns, (), number, title=printed.title, origin=printed.origin)
