"""What lies under Tables 4-6: categories and annotated groups, the same answers under other metric code, paired tests.

Everything is read from 06_eval/scores.json; a cell leads to the records it is made of, as in Tables 4-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from qilin_lib.evaluate.breakdown import NO_CATEGORY, NOT_ANNOTATED
from qilin_lib.models.names import foot
from qilin_lib.report.annotations import COLUMNS, ENGLISH
from qilin_lib.report.benchmark_tables import across, headings, key, name_of, ordered, source
from qilin_lib.report.cells import Score, signed
from qilin_lib.report.layout import Table

CATEGORIES = {
    "stem": "STEM",
    "social_science": "Social science",
    "humanities": "Humanities",
    "other": "Other",
}


def category_table(scores: Mapping[str, Any], digest: str = "") -> Table:
    """C-Eval by the four categories of its site: a row a model. `digest` is that of stage 06."""
    results = key(scores, "ceval", "scores.json")
    made = {model: results[model].get("categories", {}) for model in ordered(results)}
    # Subjects that C-Eval does not know (mapping.json may add some) are a column only where there are any.
    names = [*CATEGORIES, *([NO_CATEGORY] if any(NO_CATEGORY in found for found in made.values()) else [])]
    rows = [
        [name_of(scores, m), *(Score(found.get(c), None, source(scores, "ceval", m, digest), 1, "-") for c in names)]
        for m, found in made.items()
    ]
    columns = ["Model", *(CATEGORIES.get(name, name) for name in names)]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    notes = ["Mean of the category's subjects, every subject with the same weight; percent, with 95 % interval and n."]
    if not rows:
        notes = ["C-Eval was not evaluated in this run."]
    notes = [*foot(scores), *notes, "The paper gives no numbers by category."]
    return Table("4c", "C-Eval by category", frame, notes)


def no_subjects(scores: Mapping[str, Any]) -> str:
    """Why there is no figure of C-Eval by subject, in a sentence; "" where there is one."""
    results = scores["ceval"]
    if not results:
        return "C-Eval by subject: C-Eval was not evaluated in this run."
    if any(score["n"] for entry in results.values() for score in entry["subjects"].values()):
        return ""
    return "C-Eval by subject: no item of this run has a public answer (the test split's are not), so none is drawn."


def group_tables(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """CMExam's accuracy by each annotation column: a row a value, the commonest first, a column a model.

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


def _group_table(scores: Mapping[str, Any], column: str, letter: str, digest: str) -> Table:
    values = group_values(scores["cmexam"], column)
    english = any(value in ENGLISH for value in values)
    rows = [
        [
            str(number),
            value,
            *([ENGLISH.get(value, "-")] if english else []),
            *across(scores, "cmexam", ("groups", column, value), digest),
        ]
        for number, value in enumerate(values, start=1)
    ]
    title = f"CMExam by {COLUMNS.get(column, column)}: accuracy"
    names = " The English names are ours." if english else ""
    notes = [f"Percent, with 95 % interval and n.{names}", *foot(scores)]
    columns = ["No.", "Value", *(["English"] if english else []), *headings(scores, "cmexam")]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    return Table(f"5{letter}", title, frame, notes, compact=True)


def variant_table(scores: Mapping[str, Any], digest: str = "") -> Table:
    """Huatuo-26M: the same answers under other metric code, a row a variant, a column a model."""
    results = key(scores, "huatuo", "scores.json")
    names = list(dict.fromkeys(name for model in ordered(results) for name in results[model].get("variants", {})))
    rows = [[name, *across(scores, "huatuo", ("variants", name), digest, 2)] for name in names]
    frame = pd.DataFrame(rows, columns=["Variant", *headings(scores, "huatuo")], dtype=object)
    notes = [
        "One set of answers, measured by the code that each name says (metric, package, level, tokens). Which of them "
        "the paper and Huatuo-26M used is not known; numbers of two rows must not be compared.",
        "Percent, with 95 % interval and n where they were computed.",
    ]
    if not rows:
        notes = ["Huatuo-26M was not evaluated in this run, or no other metric code was run on its answers."]
    title = "Huatuo-26M: the same answers, other metric code"
    return Table("6v", title, frame, [*notes, *foot(scores)], compact=True)


def paired_table(scores: Mapping[str, Any]) -> Table:
    """Differences between models on the same items, from the "paired" list of scores.json."""
    rows = []
    for pair in key(scores, "paired", "scores.json"):
        later, earlier = (name_of(scores, pair[model]) for model in ("model_b", "model_a"))
        names = [pair["benchmark"], pair["metric"], f"({later}) \u2212 ({earlier})"]
        interval = f"[{signed(pair['low'], 2)}, {signed(pair['high'], 2)}]"
        tests = [f"{pair[name]:.3g}" if pair.get(name) is not None else "-" for name in ("p", "p_adjusted")]
        rows.append([*names, signed(pair["difference"], 2), interval, str(pair["n"]), *tests])
    columns = ["Benchmark", "Metric", "Compared", "Difference, points", "95 % interval", "n", "p", "p, Holm"]
    notes = [
        "Stages that follow each other, the first and the last, each baseline and the last; differences on the same "
        "items with 95 % interval; one that holds 0 shows no difference.",
        f"p: exact McNemar for proportions, paired bootstrap for the rest; adjusted after Holm (1979) for the "
        f"{len(rows)} comparisons of this run. From 06_eval/scores.json.",
    ]
    if not rows:
        notes = ["Nothing to compare: fewer than two models answered the same benchmark."]
    frame = pd.DataFrame(rows, columns=columns, dtype=str)
    return Table("A1", "Paired differences between models", frame, [*notes, *foot(scores)])


def usage_table(scores: Mapping[str, Any]) -> Table | None:
    """Requests, tokens and cost of models behind an endpoint; None where the run asked none."""
    usage = scores.get("usage", {})
    if not usage:
        return None
    names = list(dict.fromkeys(name for counts in usage.values() for name in counts))
    rows = [[name_of(scores, m), *(_amount(counts.get(n)) for n in names)] for m, counts in sorted(usage.items())]
    frame = pd.DataFrame(rows, columns=["Model", *(name.replace("_", " ") for name in names)], dtype=str)
    notes = ["Answers from the cache cost nothing; cost is in the currency of the profile's prices, if it gives any."]
    return Table("", "Requests to endpoints", frame, [*notes, *foot(scores)])


def _amount(value: Any) -> str:
    return "not known" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"
