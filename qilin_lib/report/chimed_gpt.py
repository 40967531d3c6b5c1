"""The block "ChiMed-GPT": its published numbers and ours on the same kind of task, in the form of Tables 4-6.

C1 named entities and multiple choice, C2 generated answers, C3 named entities by type. None of our models is ChiMed-GPT
or one of those it is compared with: the published rows and ours stand one below the other, and no difference is taken.
Everything of ours is read from 06_eval/scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qilin_lib.evaluate.entities import KINDS, NAMES
from qilin_lib.evaluate.variants import README_METRICS, TRUE_BLEU
from qilin_lib.models.names import foot
from qilin_lib.report import benchmark_tables as shared
from qilin_lib.report import chimed_gpt_paper as readme
from qilin_lib.report import further
from qilin_lib.report.cells import Score, paper_text
from qilin_lib.report.layout import Table
from qilin_lib.report.paper import Cell

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


@dataclass(frozen=True)
class Column:
    """A column: its benchmark, the path of its score in a model's entry, its heading, its name in the README or ""."""

    benchmark: str
    path: tuple[str, ...]
    heading: str
    published: str = ""
    decimals: int = 2


def tables(scores: Mapping[str, Any], digest: str = "") -> list[Table]:
    """C1, C2a ChiMed QA, C2b MC dialogue, then what was run of C2c, C2d, C3a-c; none if none of the benchmarks was run.
    After them `further.tables`.

    `scores` is scores.json, `digest` that of stage 06.
    """
    other = further.tables(scores, digest)
    if not any(_results(scores, benchmark) for benchmark in LABELS):
        return other
    made = [_results_table(scores, digest), _chimed_qa(), _generation("mc", "C2b", scores, digest, readme.MC_DIALOGUE)]
    for letter, benchmark in zip("cd", ("cmtmedqa", "meddialog"), strict=True):
        made += [_generation(benchmark, f"C2{letter}", scores, digest, {})] if _results(scores, benchmark) else []
    for letter, benchmark in zip("abc", ENTITIES, strict=True):
        made += [_types_table(benchmark, f"C3{letter}", scores, digest)] if _results(scores, benchmark) else []
    return made + other


def published() -> Table:
    """What ChiMed-GPT's README prints, a row a model, for a run that evaluated none of it."""
    groups = [("", readme.RESULTS), ("ChiMed QA, ", readme.CHIMED_QA), ("MC dialogue, ", readme.MC_DIALOGUE)]
    rows = [[m, *(paper_text(cell) for _, group in groups for cell in group[m].values())] for m in readme.MODELS]
    headings = [f"{LABELS[name]}, {'F1' if name in ENTITIES else 'accuracy'}" for name in readme.BENCHMARKS]
    headings += [f"{lead}{_readme_heading(name)}" for lead, _ in groups[1:] for name in readme.METRICS]
    frame = pd.DataFrame(rows, columns=["Model", *headings], dtype=str)
    notes = [readme.ABOUT, readme.ENTITIES_NOTE, readme.CEVAL_NOTE, readme.METRICS_NOTE]
    notes.append("None of its benchmarks was evaluated in this run.")
    return Table("C", "ChiMed-GPT's published results", frame, notes)


def _results(scores: Mapping[str, Any], benchmark: str) -> Mapping[str, Any]:
    """{model: entry} of a benchmark, {} where it was not run; of C-Eval only entries that hold the two subjects."""
    found = scores.get(benchmark, {})
    if benchmark != "ceval":
        return found
    return {model: entry for model, entry in found.items() if entry.get("chimed_gpt", {}).get("accuracy", {}).get("n")}


# --- C1 and C2 --------------------------------------------------------------------------------------------------------


def _results_table(scores: Mapping[str, Any], digest: str) -> Table:
    columns = [Column(name, ("f1",), f"{LABELS[name]}, F1", name) for name in ("ccks2019", "chimst")]
    columns.append(Column("ceval", ("chimed_gpt", "accuracy"), f"{LABELS['ceval']}, accuracy", "ceval", 1))
    columns += [Column(name, ("accuracy",), f"{LABELS[name]}, accuracy", name, 1) for name in ("cmmlu", "medqa")]
    columns.append(Column("cmeee", ("f1",), f"{LABELS['cmeee']}, F1 (ours only)"))
    exams = [column for column in columns if column.benchmark in EXAMS]
    shares = [shared.at(entry, c.path) for c in exams for entry in _results(scores, c.benchmark).values()]
    notes = [*_about_runs(columns, scores), *shared.power(shares, "Power of the accuracies")]
    notes += [readme.ABOUT, readme.ENTITIES_NOTE, readme.CEVAL_NOTE]
    return _made("C1", "ChiMed-GPT: named entities and multiple choice", columns, readme.RESULTS, scores, digest, notes)


def _chimed_qa() -> Table:
    columns = [Column("chimed_qa", (), _readme_heading(name), name) for name in readme.METRICS]
    ours = "Ours: the data of ChiMed are not available to us (signed contract): the published numbers stand alone."
    notes = [ours, readme.ABOUT, readme.METRICS_NOTE]
    return _made("C2a", "ChiMed-GPT: ChiMed QA", columns, readme.CHIMED_QA, {}, "", notes)


def _generation(benchmark: str, number: str, scores: Mapping[str, Any], digest: str, rows: readme.Published) -> Table:
    columns = [Column(benchmark, ("variants", README_METRICS[m]), _readme_heading(m), m) for m in readme.METRICS]
    columns += [Column(benchmark, ("variants", name), heading) for heading, name in TRUE_BLEU.items()]
    title = f"{'ChiMed-GPT' if rows else 'ChiMed-GPT, a set of ours'}: {LABELS[benchmark]}"
    notes = [*_about_runs(columns, scores), *([readme.ABOUT] if rows else ["ChiMed-GPT was not evaluated on it."])]
    return _made(number, title, columns, rows, scores, digest, [*notes, readme.METRICS_NOTE, readme.TRUE_NOTE])


def _readme_heading(metric: str) -> str:
    """Whoever reads only the heading must see that the README's BLEU-1 is none."""
    real = {"B-1": " (is BLEU-2, spaced string)", "B-2": " (is BLEU-3, spaced string)"}
    return f"README's {metric}{real.get(metric, '')}"


def _made(
    number: str,
    title: str,
    columns: Sequence[Column],
    rows: readme.Published,
    scores: Mapping[str, Any],
    digest: str,
    notes: Sequence[str],
) -> Table:
    """The published rows, then our models; a column per score."""
    body = [
        [name, "published", *(Score(None, cells.get(c.published, Cell(None)), decimals=c.decimals) for c in columns)]
        for name, cells in rows.items()
    ]

    def cell(column: Column, model: str) -> Score:
        entry = _results(scores, column.benchmark).get(model)
        found, where = shared.at(entry, column.path), shared.source(scores, column.benchmark, model, digest)
        return Score(found, None, where, column.decimals, "not evaluated" if entry is None else "-")

    models = shared.ordered({model for column in columns for model in _results(scores, column.benchmark)})
    body += [[shared.name_of(scores, model), "this run", *(cell(c, model) for c in columns)] for model in models]
    frame = pd.DataFrame(body, columns=["Model", "From", *(column.heading for column in columns)], dtype=object)
    return Table(number, title, frame, [*(foot(scores, paper="") if models else []), *notes])


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
    """Micro F1 by type and over all, then what became of the replies; a column a model."""
    results = _results(scores, benchmark)
    kinds = dict.fromkeys(kind for entry in results.values() for kind in entry["types"])
    lines: dict[str, tuple[str, ...]] = {
        f"{kind} {NAMES.get(kind, '')}".rstrip(): ("types", kind, "f1") for kind in kinds
    }
    lines |= {f"all types, {said}": (said.lower(),) for said in ("F1", "precision", "recall")}
    lines |= {"all types, F1 of places": ("spans", "f1"), "replies that cannot be read": ("unparsed",)}
    lines |= {"replies cut at the limit": ("cut",), "replies with an error": ("error",)}
    lines |= {ENTRIES[kind]: ("lines", kind) for kind in KINDS}
    rows = [[heading, *shared.across(scores, benchmark, path, digest)] for heading, path in lines.items()]
    notes = [
        "F1 over distinct (type, mention) pairs of each text, by type over the texts that hold the type or are said to "
        "hold it; of places: type, begin and end must agree. Percent, with 95 % interval and n texts.",
        "A reply that cannot be read holds no entity, which lowers the recall. Entries: percent of all entries of all "
        "replies; those of an unknown type and those that are not in the text are wrong predictions.",
        "No numbers by type are published." if benchmark != "cmeee" else "ChiMed-GPT was not evaluated on it.",
    ]
    frame = pd.DataFrame(rows, columns=["Type", *shared.headings(scores, benchmark)], dtype=object)
    title = f"Named entities by type: {LABELS[benchmark]}"
    return Table(number, title, frame, [*notes, *foot(scores, paper="")], compact=True)
