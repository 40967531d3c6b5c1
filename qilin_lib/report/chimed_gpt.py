"""The block "ChiMed-GPT": its published numbers and ours on the same kind of task, in the form of Tables 4-6.

C1 named entities and multiple choice, C2 generated answers, C3 named entities by type, C4 further benchmarks of ours.
None of our models is ChiMed-GPT or one of those it is compared with: the published rows and ours stand one below the
other, and no difference is taken. Everything of ours is read from 06_eval/scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qilin_lib.evaluate.benchmarks import FURTHER
from qilin_lib.evaluate.entities import KINDS
from qilin_lib.evaluate.entities import NAMES as TYPES
from qilin_lib.evaluate.variants import README_METRICS, TRUE_BLEU
from qilin_lib.models.names import foot
from qilin_lib.report import tables as shared
from qilin_lib.report.cells import NAMES, sentences
from qilin_lib.report.frames import at, ordered
from qilin_lib.report.paper import CHIMED_GPT, CHIMED_GPT_NOTES
from qilin_lib.report.render import Table, table, view
from qilin_lib.report.tables import LABELS, Column

ENTITIES = ("ccks2019", "chimst", "cmeee")
EXAMS = ("ceval", "cmmlu", "medqa")
DIALOGUES = ("mc", "cmtmedqa", "meddialog")
# Whoever reads only the heading must see that the README's BLEU-1 is none.
KNOWN_AS = {"B-1": " (is BLEU-2, spaced string)", "B-2": " (is BLEU-3, spaced string)"}
README_HEADINGS = {metric: f"README's {metric}{KNOWN_AS.get(metric, '')}" for metric in README_METRICS}
C1 = (
    Column("ccks2019", ("f1",), "CCKS-2019, F1", published="ccks2019"),
    Column("chimst", ("f1",), "ChiMST, F1", published="chimst"),
    Column("ceval", ("chimed_gpt", "accuracy"), "C-Eval, two subjects, accuracy", ".1f", "ceval"),
    Column("cmmlu", ("accuracy",), "CMMLU, accuracy", ".1f", "cmmlu"),
    Column("medqa", ("accuracy",), "MedQA, accuracy", ".1f", "medqa"),
    Column("cmeee", ("f1",), "CMeEE-V2, F1 (ours only)", published=""),
)


def tables(scores: Mapping[str, Any]) -> list[Table]:
    """C1, C2a ChiMed QA and C2b MC dialogue, which have published rows; then what was run of C2c, C2d, C3a-c, and
    C4a …, the further benchmarks whose line in the registry says their columns."""
    exams = {name: _results(scores, name) for name in EXAMS}
    shares = {f"{name} {model}": entry for name, results in exams.items() for model, entry in results.items()}
    power = shared.power(shares, [column for column in C1 if column.benchmark in EXAMS], "Power of the accuracies")
    notes, title = [*power, *_notes("about", "entities", "ceval")], "named entities and multiple choice"
    columns = [Column("chimed_qa", (), heading, published=name) for name, heading in README_HEADINGS.items()]
    none_of_ours = [*sentences("tables", "chimed_qa"), *_notes("about", "metrics")]
    made = [
        _made("C1", f"ChiMed-GPT: {title}", C1, "results", scores, notes),
        _made("C2a", "ChiMed-GPT: ChiMed QA", columns, "chimed_qa", {}, none_of_ours),
    ]
    for letter, name in zip("bcd", DIALOGUES, strict=True):
        if scores.get(name) or name in CHIMED_GPT:
            made.append(_generation(name, f"C2{letter}", scores))
    for letter, name in zip("abc", ENTITIES, strict=True):
        if scores.get(name):
            made.append(_types_table(name, f"C3{letter}", scores))
    further = [name for name, row in FURTHER.items() if row.columns and scores.get(name)]
    return made + [
        _further(name, f"C4{letter}", scores) for letter, name in zip("abcdefghijklmnop", further, strict=False)
    ]


def _notes(*names: str) -> list[str]:
    return [CHIMED_GPT_NOTES[name] for name in names]


def _results(scores: Mapping[str, Any], benchmark: str) -> Mapping[str, Any]:
    """{model: entry} of a benchmark, {} where it was not run; of C-Eval only entries that hold the two subjects."""
    results = scores.get(benchmark, {})
    if benchmark != "ceval":
        return results
    return {model: entry for model, entry in results.items() if (at(entry, C1[2].path) or {}).get("n")}


def _generation(benchmark: str, number: str, scores: Mapping[str, Any]) -> Table:
    metrics = {heading: (README_METRICS[name], name) for name, heading in README_HEADINGS.items()}
    metrics |= {heading: (name, "") for heading, name in TRUE_BLEU.items()}
    columns = [
        Column(benchmark, ("variants", code), heading, published=name) for heading, (code, name) in metrics.items()
    ]
    if any("perplexity" in entry for entry in _results(scores, benchmark).values()):
        columns.append(Column(benchmark, ("perplexity",), NAMES["measures"]["perplexity"]))
    known = benchmark in CHIMED_GPT
    title = f"{'ChiMed-GPT' if known else 'ChiMed-GPT, a set of ours'}: {LABELS[benchmark]}"
    about = _notes("about") if known else ["ChiMed-GPT was not evaluated on it."]
    return _made(number, title, columns, benchmark, scores, [*about, *_notes("metrics", "true_bleu")])


def _made(
    number: str,
    title: str,
    columns: Sequence[Column],
    group: str,
    scores: Mapping[str, Any],
    notes: Sequence[str],
) -> Table:
    """The published rows of a group of the README, then our models; a column per score."""
    asked = {column.benchmark: _results(scores, column.benchmark) for column in columns}
    models = ordered({model for results in asked.values() for model in results})
    about = foot(scores, paper="") if models else []
    for benchmark, results in asked.items():
        if not results:
            continue
        # What was asked, what could not be read, was cut or is not finished.
        ceval = benchmark == "ceval"
        own = {model: entry["chimed_gpt"] for model, entry in results.items()} if ceval else results
        said = [shared.asked_note(scores, benchmark, lead=f"{LABELS[benchmark]}{', two subjects' * ceval}, ours")]
        said += [*shared.failure_notes(own, scores), *shared.cut_notes(scores, benchmark)]
        about.append(" ".join(said + shared.unfinished_notes(scores, benchmark)))
    missing = [LABELS[name] for name, results in asked.items() if scores and not results]
    about += [f"Not evaluated in this run: {', '.join(missing)}."] if missing else []
    published = CHIMED_GPT.get(group, {})
    rows = shared.score_rows(columns, models, {**scores, **asked}, "fixed", published, "published")
    return table(title, *rows, [*about, *notes], number)


def _types_table(benchmark: str, number: str, scores: Mapping[str, Any]) -> Table:
    """Micro F1 by type and over all, then what became of the replies; a column per model."""
    kinds = dict.fromkeys(kind for entry in scores[benchmark].values() for kind in entry["types"])
    lines: dict[str, Sequence[str]] = {
        f"{kind} {TYPES.get(kind, '')}".rstrip(): ("types", kind, "f1") for kind in kinds
    }
    lines |= {f"all types, {name}": (name.lower(),) for name in ("F1", "precision", "recall")}
    lines |= {
        "all types, F1 of places": ("spans", "f1"),
        "replies that cannot be read": ("unparsed",),
        "replies cut at the limit": ("cut",),
        "replies with an error": ("error",),
    }
    lines |= {NAMES["entries"][kind]: ("lines", kind) for kind in KINDS}
    rows, models = shared.across(scores, benchmark, lines)
    after = ["ChiMed-GPT was not evaluated on it." if benchmark == "cmeee" else "No numbers by type are published."]
    notes, label = foot(scores, paper=""), LABELS[benchmark]
    return view("tables", "types", rows, models, notes, number, after, compact=True, label=label)


def _further(benchmark: str, number: str, scores: Mapping[str, Any]) -> Table:
    """A row per model, a column per score and one per kind of failure."""
    row = FURTHER[benchmark]
    paths = dict(row.columns) | {(failure,): heading for failure, heading in shared.FAILURES.items()}
    columns = [Column(benchmark, path, heading, ".1f") for path, heading in paths.items()]
    rows = shared.score_rows(columns, ordered(scores[benchmark]), scores)
    notes = [*foot(scores, paper=""), *shared.unfinished_notes(scores, benchmark)]
    notes += [shared.asked_note(scores, benchmark), *shared.cut_notes(scores, benchmark)]
    return table(row.label, *rows, notes, number).without("From")
