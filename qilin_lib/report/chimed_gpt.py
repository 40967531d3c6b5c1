"""The block "ChiMed-GPT": its published numbers and ours on the same kind of task, in the form of Tables 4-6.

C1 named entities and multiple choice, C2 generated answers, C3 named entities by type. None of our models is ChiMed-GPT
or one of those it is compared with: the published rows and ours stand one below the other, and no difference is taken.
Everything of ours is read from 06_eval/scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from qilin_lib.evaluate.entities import KINDS, NAMES
from qilin_lib.evaluate.variants import README_METRICS, TRUE_BLEU
from qilin_lib.models.names import foot
from qilin_lib.report import further
from qilin_lib.report import tables as shared
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.frames import at, ordered
from qilin_lib.report.paper import CHIMED_GPT, CHIMED_GPT_NOTES
from qilin_lib.report.render import Table
from qilin_lib.report.tables import Column, Rows

ENTITIES = {"ccks2019": "CCKS-2019", "chimst": "ChiMST", "cmeee": "CMeEE-V2"}
EXAMS = {"ceval": "C-Eval, two subjects", "cmmlu": "CMMLU", "medqa": "MedQA"}
DIALOGUES = {"mc": "MC dialogue", "cmtmedqa": "CMtMedQA", "meddialog": "MedDialog"}
LABELS = ENTITIES | EXAMS | DIALOGUES
# What an entry of a reply can be (entities.KINDS), in words.
ENTRIES = {
    "parsed": "entries read as entities",
    "unknown_type": "entries of an unknown type",
    "not_in_text": "entries that are not in the text",
    "none": 'entries that say "none"',
    "unreadable": "entries that cannot be read",
}
# Whoever reads only the heading must see that the README's BLEU-1 is none.
KNOWN_AS = {"B-1": " (is BLEU-2, spaced string)", "B-2": " (is BLEU-3, spaced string)"}
README_HEADINGS = {metric: f"README's {metric}{KNOWN_AS.get(metric, '')}" for metric in README_METRICS}
C1 = (
    Column("ccks2019", "f1", "CCKS-2019, F1", published="ccks2019"),
    Column("chimst", "f1", "ChiMST, F1", published="chimst"),
    Column("ceval", "chimed_gpt/accuracy", "C-Eval, two subjects, accuracy", ".1f", "ceval"),
    Column("cmmlu", "accuracy", "CMMLU, accuracy", ".1f", "cmmlu"),
    Column("medqa", "accuracy", "MedQA, accuracy", ".1f", "medqa"),
    Column("cmeee", "f1", "CMeEE-V2, F1 (ours only)", published=""),
)


def tables(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """C1, C2a ChiMed QA, C2b MC dialogue, then what was run of C2c, C2d, C3a-c; none if none of the benchmarks was run.
    After them `further.tables`.

    `scores` is scores.json, `digest` that of stage 06.
    """
    run = [benchmark for benchmark in LABELS if _results(scores, benchmark)]
    other = further.tables(scores, digest)
    if not run:
        return other
    exams = [column for column in C1 if column.benchmark in EXAMS]
    shares = [at(entry, c.path) for c in exams for entry in _results(scores, c.benchmark).values()]
    notes = [*shared.power(shares, "Power of the accuracies"), *_notes("about", "entities", "ceval")]
    made = [_made("C1", "ChiMed-GPT: named entities and multiple choice", C1, "results", scores, digest, notes)]
    made += [_chimed_qa(), _generation("mc", "C2b", scores, digest)]
    own = {"cmtmedqa": "C2c", "meddialog": "C2d"}
    made += [_generation(name, number, scores, digest) for name, number in own.items() if name in run]
    lettered = zip("abc", ENTITIES, strict=True)
    made += [_types_table(name, f"C3{letter}", scores, digest) for letter, name in lettered if name in run]
    return made + other


def shown(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """`tables`, or what is published where none of the benchmarks was run."""
    return tables(scores, digest) or [published()]


def published() -> Table:
    """What ChiMed-GPT's README prints, a row per model, for a run that evaluated none of it."""
    groups = {"results": "", "chimed_qa": "ChiMed QA, ", "mc": "MC dialogue, "}
    rows = [
        [m, *(Score(cell.value, form=".2f") for group in groups for cell in CHIMED_GPT[group][m].values())]
        for m in CHIMED_GPT["results"]
    ]
    headings = [column.heading for column in C1 if column.published]
    headings += [f"{lead}{name}" for lead in list(groups.values())[1:] for name in README_HEADINGS.values()]
    notes = ["None of its benchmarks was evaluated in this run.", *_notes("about", "entities", "ceval", "metrics")]
    content = pd.DataFrame(rows, columns=["Model", *headings], dtype=object)
    return Table("C", "ChiMed-GPT's published results", content, notes)


def _notes(*names: str) -> list[str]:
    return [CHIMED_GPT_NOTES[name] for name in names]


def _results(scores: Mapping[str, Any], benchmark: str) -> Mapping[str, Any]:
    """{model: entry} of a benchmark, {} where it was not run; of C-Eval only entries that hold the two subjects."""
    found = scores.get(benchmark, {})
    if benchmark != "ceval":
        return found
    return {model: entry for model, entry in found.items() if entry.get("chimed_gpt", {}).get("accuracy", {}).get("n")}


# --- C1 and C2 --------------------------------------------------------------------------------------------------------


def _chimed_qa() -> Table:
    columns = [Column("chimed_qa", "", heading, published=name) for name, heading in README_HEADINGS.items()]
    notes = [*sentences("tables", "chimed_qa"), *_notes("about", "metrics")]
    return _made("C2a", "ChiMed-GPT: ChiMed QA", columns, "chimed_qa", {}, "", notes)


def _generation(benchmark: str, number: str, scores: Mapping[str, Any], digest: str) -> Table:
    columns = [
        Column(benchmark, f"variants/{README_METRICS[name]}", heading, published=name)
        for name, heading in README_HEADINGS.items()
    ]
    columns += [Column(benchmark, f"variants/{name}", heading, published="") for heading, name in TRUE_BLEU.items()]
    known = benchmark in CHIMED_GPT
    title = f"{'ChiMed-GPT' if known else 'ChiMed-GPT, a set of ours'}: {LABELS[benchmark]}"
    notes = [*(_notes("about") if known else ["ChiMed-GPT was not evaluated on it."]), *_notes("metrics", "true_bleu")]
    return _made(number, title, columns, benchmark, scores, digest, notes)


def _made(
    number: str,
    title: str,
    columns: Sequence[Column],
    group: str,
    scores: Mapping[str, Any],
    digest: str,
    notes: Sequence[str],
) -> Table:
    """The published rows of a group of the README, then our models; a column per score."""
    models = ordered({model for column in columns for model in _results(scores, column.benchmark)})
    asked = {name: _results(scores, name) for name in dict.fromkeys(column.benchmark for column in columns)}
    kept = scores | asked if scores else {}
    content = shared.by_model(columns, Rows(CHIMED_GPT.get(group, {}), "published", models), kept, digest)
    about = [*(foot(scores, paper="") if models else []), *(_about_runs(columns, scores) if scores else [])]
    return Table(number, title, content, [*about, *notes])


def _about_runs(columns: Sequence[Column], scores: Mapping[str, Any]) -> list[str]:
    """A note on each benchmark that was run: what was asked, what could not be read; one on those that were not."""
    benchmarks = list(dict.fromkeys(column.benchmark for column in columns))
    notes = [_about_run(name, scores) for name in benchmarks if _results(scores, name)]
    missing = [LABELS[name] for name in benchmarks if not _results(scores, name)]
    return notes + ([f"Not evaluated in this run: {', '.join(missing)}."] if missing else [])


def _about_run(benchmark: str, scores: Mapping[str, Any]) -> str:
    def of(name: str, missing: Any = "not recorded") -> Any:
        return scores.get(name, {}).get(benchmark, missing)

    cap, results = of("cap"), _results(scores, benchmark)
    unit = "items a subject" if benchmark in ("ceval", "cmmlu") else "items"
    parts = [f"protocol fixed, split {of('split')}", "no cap on items" if cap is None else f"cap {cap} {unit}"]
    parts += ["no examples" if of("shots") is None else f"shots {of('shots')}", f"scoring {of('scoring')}"]
    parts += ["dialogues that no training set of the run holds"] if benchmark in DIALOGUES else []
    parts.append(f"unusable rows of the benchmark {of('invalid')}")
    asked = {model: entry["chimed_gpt"] for model, entry in results.items()} if benchmark == "ceval" else results
    notes = [f"{LABELS[benchmark]}, ours: {'; '.join(parts)}.", *shared.failure_notes(asked, scores)]
    notes += [*shared.cut_notes(scores, benchmark), *shared.unfinished_notes(scores, benchmark)]
    where = f"06_eval/predictions/fixed/{benchmark}"
    return " ".join([*notes, f"Percent, with 95 % interval and n; records in {where}."])


# --- C3 ---------------------------------------------------------------------------------------------------------------


def _types_table(benchmark: str, number: str, scores: Mapping[str, Any], digest: str) -> Table:
    """Micro F1 by type and over all, then what became of the replies; a column per model."""
    kinds = dict.fromkeys(kind for entry in _results(scores, benchmark).values() for kind in entry["types"])
    lines = {f"{kind} {NAMES.get(kind, '')}".rstrip(): f"types/{kind}/f1" for kind in kinds}
    lines |= {f"all types, {told}": told.lower() for told in ("F1", "precision", "recall")}
    lines |= {"all types, F1 of places": "spans/f1", "replies that cannot be read": "unparsed"}
    lines |= {"replies cut at the limit": "cut", "replies with an error": "error"}
    lines |= {ENTRIES[kind]: f"lines/{kind}" for kind in KINDS}
    cells = shared.across(scores, benchmark, lines, digest)
    rows = [[heading, *line] for heading, line in zip(lines, cells, strict=True)]
    published = "No numbers by type are published." if benchmark != "cmeee" else "ChiMed-GPT was not evaluated on it."
    notes = [*foot(scores, paper=""), *sentences("tables", "types"), published]
    content = pd.DataFrame(rows, columns=["Type", *shared.headings(scores, benchmark)], dtype=object)
    return Table(number, f"Named entities by type: {LABELS[benchmark]}", content, notes, compact=True)
