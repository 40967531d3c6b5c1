"""Tables 4-6: a row per model, a column per metric, the paper's rows first, then those of this run with intervals.

The paper's rows hold the paper's numbers alone. Ours are called by base and stages; a difference is taken only where
our base is the paper's. Everything is read from 06_eval/scores.json. Tables 4r and 5r hold the same models
under the authors' own protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from qilin_lib import chains
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import store
from qilin_lib.evaluate.intervals import power_note
from qilin_lib.evaluate.scores import STAGES as PAPER_STAGES
from qilin_lib.models import names
from qilin_lib.models.names import STAGES, foot
from qilin_lib.report.cells import Score, Source, paper_text, score_text
from qilin_lib.report.chimed_gpt_paper import MODELS
from qilin_lib.report.layout import Table
from qilin_lib.report.paper import TABLE_4, TABLE_5, TABLE_6, UNKNOWN, Cell, PaperTable

PUBLISHED = {*MODELS, *(row.label for table in (TABLE_4, TABLE_5, TABLE_6) for row in table.rows)}
BENCHMARKS = {"ceval": "C-Eval", "cmexam": "CMExam", "huatuo": "Huatuo-26M"}
# Shares of right answers; one more decimal would suggest more than a few hundred items can tell.
ONE_DECIMAL = {"accuracy", "f1_weighted", "average", "average_hard", "clinical_medicine", "physician", "basic_medicine"}
NO_GROUPS = (
    "The items of this run carry no annotations (only CMExam's test_with_annotations.csv does): no break-down by "
    "department, disease group, competency, discipline or difficulty."
)
SHARES = ONE_DECIMAL - {"f1_weighted"}
INFLATED = {
    ("parsed_only", "accuracy"): "Accuracy, parsed rows only (inflated)",
    ("parsed_only", "f1_weighted"): "F1, parsed rows only (inflated)",
}
FAILURES = {"unparsed": "Unreadable", "cut": "Cut at the limit", "error": "Error"}
"""Why an answer counts as wrong or as empty though nobody judged it (evaluate.replies)."""
AVERAGING = {
    "ceval": "averages weigh every subject alike",
    "cmexam": "F1 weighs each gold answer by how often it occurs, unparsed answers are wrong; BLEU over the whole "
    "corpus, ROUGE as the mean of the items",
    "huatuo": "BLEU over the whole corpus, the others as the mean of the items",
}


Scores = Mapping[str, Any]
"""What `names.read_scores` returns."""


@dataclass(frozen=True)
class Column:
    """A column of Tables 4-6: the path of its score in a model's entry, its heading, whether the paper has it."""

    path: tuple[str, ...]
    heading: str
    in_paper: bool = True


@dataclass(frozen=True)
class Asked:
    """A table to make: the paper's, what to add to its number and title, {model: entry}, and the protocol."""

    paper: PaperTable
    suffix: str
    aside: str
    results: Mapping[str, Any]
    protocol: str


def table4(scores: Scores, digest: str = "") -> Table:
    """C-Eval: average, hard subset and the three medical subjects. `digest` is that of stage 06."""
    return _fixed(TABLE_4, scores, digest)


def table5(scores: Scores, digest: str = "") -> Table:
    """CMExam: answer prediction and explanation, as `table4`; beside them the numbers that drop unparsed answers."""
    return _fixed(TABLE_5, scores, digest)


def table6(scores: Scores, digest: str = "") -> Table:
    """Huatuo-26M: answer generation, as `table4`."""
    return _fixed(TABLE_6, scores, digest)


def released_tables(scores: Scores, digest: str = "") -> list[Table]:
    """Tables 4r, 5r and 5l, the authors' protocol; those of its benchmarks that were not run are left out.

    5l is CMExam as the authors' script for their fine-tuned (LoRA) models reads and measures the same answers.
    """
    made = scores.get("released", {})
    results = [(TABLE_4, "r", "the released protocol", made.get("ceval", {}))]
    results.append((TABLE_5, "r", "the released protocol", made.get("cmexam", {})))
    lora = {model: entry["lora"] for model, entry in made.get("cmexam", {}).items() if "lora" in entry}
    results.append((TABLE_5, "l", "the released protocol, script for fine-tuned models", lora))
    return [_made(Asked(*asked, "released"), scores, digest) for asked in results if asked[-1]]


def ordered(results: Iterable[str]) -> list[str]:
    """Models in the order of tables and figures: the stages, then baselines by name."""
    results = list(dict.fromkeys(results))
    further = [name for name in results if re.match(chains.NAME, name) and name not in STAGES]
    own = [*(name for name in STAGES if name in results), *further]
    return [*own, *sorted(set(results) - set(own))]


def stages_of(scores: Scores) -> list[str]:
    """Those of the paper's stages that the run has."""
    return [name for name in PAPER_STAGES if name in names.facts(scores)["names"]]


def name_of(scores: Scores, model: str) -> str:
    """What tables and figures call a model: one of the run by base and stages, a baseline as the profile does.

    A baseline that has the name of a published row is marked "(ours)".
    """
    name = names.facts(scores)["names"].get(model, model)
    return f"{name} (ours)" if name in PUBLISHED else name


def source(scores: Scores, benchmark: str, model: str, digest: str, protocol: str = "fixed") -> Source:
    """The records file that one model's scores on one benchmark are made of."""
    path = store.predictions("06_eval", protocol, benchmark, model).as_posix()
    return Source(path, digest, name_of(scores, model), protocol)


def across(scores: Scores, benchmark: str, path: Sequence[str], digest: str, decimals: int = 1) -> list[Score]:
    """The score at a path of every model that answered a benchmark: the cells of a row below `headings`."""
    return [
        Score(at(scores[benchmark][m], path), None, source(scores, benchmark, m, digest), decimals, "-")
        for m in ordered(scores[benchmark])
    ]


def headings(scores: Scores, benchmark: str) -> list[str]:
    """The names of the models that answered a benchmark, in the order of the tables."""
    return [name_of(scores, model) for model in ordered(scores[benchmark])]


def key(mapping: Mapping[str, Any], name: str, place: str) -> Any:
    """`mapping[name]`; QilinError, naming what there is, when it has none."""
    if name not in mapping:
        raise QilinError(f"{place} has no entry '{name}'; it has {', '.join(sorted(mapping)) or 'no entry at all'}")
    return mapping[name]


def paper_notes(table: PaperTable) -> list[str]:
    """Where every known cell of the paper stands, then what is uncertain about the table."""
    places: dict[str, list[str]] = {}
    for row in table.rows:
        for name, cell in row.cells.items():
            if cell.value is not None:
                places.setdefault(cell.origin, []).append(f"{row.label} {table.columns[name]} {paper_text(cell)}")
    known = "; ".join(f"{', '.join(cells)} ({origin})" for origin, cells in places.items())
    lead = f"Paper: {known}. " if known else ""
    return [f'{lead}"{UNKNOWN}" = stated neither in the text nor in the abstracts we have.', *table.notes]


def _fixed(table: PaperTable, scores: Scores, digest: str) -> Table:
    return _made(Asked(table, "", "", key(scores, table.benchmark, "scores.json"), "fixed"), scores, digest)


def _made(asked: Asked, scores: Scores, digest: str) -> Table:
    table, results = asked.paper, asked.results
    columns, rows, failed = _columns(asked), [], unfinished(scores, table.benchmark)
    for name, model, cells in _lines(table, results, scores):
        # A row without any number need not be said again: it stands in the table of the fixed protocol.
        if asked.suffix and model not in results and not any(_known(cells, column) for column in columns):
            continue
        where = source(scores, table.benchmark, model, digest, asked.protocol) if model in results else None
        whose = "this run" if model else "paper"
        missing = "not finished" if model in failed else "not evaluated" if model else ""
        rows.append([name, whose, *_cells(columns, cells, results.get(model), missing, where)])
    frame = pd.DataFrame(rows, columns=["Model", "From", *(column.heading for column in columns)], dtype=object)
    notes = _notes(asked, scores, columns) if results else [_not_run(table.benchmark)]
    notes += unfinished_notes(scores, table.benchmark)
    title = f"{table.title}: {asked.aside}" if asked.aside else table.title
    notes += [f"The paper's numbers: as under Table {table.number}."] if asked.suffix else paper_notes(table)
    notes = [*foot(scores), *notes]
    return Table(f"{table.number}{asked.suffix}", title, frame, notes)


def _not_run(benchmark: str) -> str:
    return f"{BENCHMARKS[benchmark]} was not evaluated in this run: the paper's numbers stand alone."


def _columns(asked: Asked) -> list[Column]:
    """The paper's columns, CMExam's inflated ones behind the answers, FAILURES last; of the released protocol those
    that it has."""
    made = [Column((name,), heading) for name, heading in asked.paper.columns.items()]
    extra = [Column(path, heading, False) for path, heading in INFLATED.items()]

    def there(column: Column) -> bool:
        return any(at(entry, column.path) for entry in asked.results.values())

    made = [column for column in made if asked.protocol == "fixed" or there(column)]
    answers = [column for column in made if column.path[-1] in ONE_DECIMAL]
    failed = [Column((name,), heading, False) for name, heading in FAILURES.items()]
    return [*answers, *filter(there, extra), *made[len(answers) :], *filter(there, failed)]


def at(entry: Mapping[str, Any] | None, path: Sequence[str]) -> Mapping[str, Any] | None:
    """The score at a path of a model's entry, None where there is none."""
    for name in path:
        entry = (entry or {}).get(name)
        if not isinstance(entry, Mapping):
            return None
    return entry if entry is not None and "value" in entry else None


def _lines(
    table: PaperTable, results: Mapping[str, Any], scores: Scores
) -> list[tuple[str, str, Mapping[str, Cell] | None]]:
    """(name, our model or "", the paper's cells) of each row: the paper's rows, then ours.

    Ours have the cells of the paper's row of the same stage if they were trained as it was, on the paper's base.
    """
    compared = {row.ours: row.cells for row in table.rows if row.ours in names.facts(scores)["as_paper"]}
    failed = unfinished(scores, table.benchmark)
    models = dict.fromkeys([*stages_of(scores), *ordered([*results, *failed])]) if results or failed else ()
    return [
        *((row.label, "", row.cells) for row in table.rows),
        *((name_of(scores, model), model, compared.get(model)) for model in models),
    ]


def _known(cells: Mapping[str, Cell] | None, column: Column) -> bool:
    return cells is not None and column.in_paper and cells[column.path[0]].value is not None


def _cells(
    columns: Sequence[Column], paper: Mapping[str, Cell] | None, entry: Any, missing: str, where: Source | None
) -> list[Score]:
    return [
        Score(
            at(entry, column.path),
            paper[column.path[0]] if paper is not None and column.in_paper else None,
            where,
            1 if column.path[-1] in {*ONE_DECIMAL, *FAILURES} else 2,
            missing if entry is None else "-",
        )
        for column in columns
    ]


def _notes(asked: Asked, scores: Scores, columns: Sequence[Column]) -> list[str]:
    benchmark, protocol, results = asked.paper.benchmark, asked.protocol, asked.results
    notes = [_settings(benchmark, scores, protocol), _reading(benchmark, protocol)]
    notes += cut_notes(scores, benchmark) if protocol == "fixed" else []
    if any(column.path[0] == "parsed_only" for column in columns):
        notes.append(
            "Parsed rows only: answers that could not be read are left out of numerator and denominator, as CMExam's "
            "own evaluation does; it flatters a model that often gives no answer. Everywhere else they count as wrong."
        )
    if benchmark == "cmexam" and not any(entry.get("groups") for entry in results.values()):
        notes += [NO_GROUPS] if protocol == "fixed" else []
    shares = [at(entry, c.path) for entry in results.values() for c in columns if c.path[-1] in SHARES]
    return [*notes, *power(shares), *_agreement(asked, scores)]


def _settings(benchmark: str, scores: Scores, protocol: str) -> str:
    def of(name: str) -> str:
        value = scores.get(name, "not recorded")
        value = value.get(benchmark, "not recorded") if isinstance(value, Mapping) else value
        return ", ".join(f"{m} {v}" for m, v in value.items()) if isinstance(value, Mapping) else str(value)

    parts = [f"protocol {protocol}", f"split {of('split')}"]
    if benchmark == "ceval":
        parts.append(f"shots {of('shots')}")
    unit = "items a subject" if benchmark == "ceval" else "items"
    parts.append("no cap on items" if of("cap") == "None" else f"cap {of('cap')} ({unit})")
    if protocol == "fixed":
        parts.append(f"scoring {of('scoring')}")
        parts += [] if benchmark == "ceval" else [f"tokenisation of BLEU and ROUGE {of('tokenisation')}"]
        parts.append(AVERAGING[benchmark])
    parts.append(f"unusable rows of the benchmark {of('invalid')}")
    return f"Ours: {'; '.join(parts)}. Percent, with 95 % interval and n."


def _reading(benchmark: str, protocol: str) -> str:
    released = "The authors' prompts, answer extraction and arithmetic, their defects included. "
    lead = released if protocol == "released" else ""
    return (
        f"{lead}A number leads to its records in 06_eval/predictions/{protocol}/{benchmark}, its n to "
        "06_eval/manifest.json; all scores: 06_eval/scores.json."
    )


def failure_notes(results: Mapping[str, Any], scores: Scores) -> list[str]:
    """The shares of FAILURES of each model, a sentence each; those that nobody recorded are left out."""
    notes = []
    for failure, heading in FAILURES.items():
        found = {name_of(scores, model): at(results[model], (failure,)) for model in ordered(results)}
        if shares := [f"{name} {score_text(share)}" for name, share in found.items() if share]:
            notes.append(f"{heading}, percent: {'; '.join(shares)}.")
    return notes


def unfinished(scores: Scores, benchmark: str) -> Mapping[str, str]:
    """{model: why it has no score on a benchmark that it was asked}."""
    return scores.get("unfinished", {}).get(benchmark, {})


def unfinished_notes(scores: Scores, benchmark: str) -> list[str]:
    """Which models did not finish a benchmark, and why, one sentence; [] where all did."""
    failed = unfinished(scores, benchmark)
    return [f"Not finished: {'; '.join(f'{name} ({why})' for name, why in failed.items())}."] if failed else []


def cut_notes(scores: Scores, benchmark: str) -> list[str]:
    """How many prompts of each model were cut, one sentence; [] where nobody counted."""
    counts = scores.get("truncated", {}).get(benchmark)
    if not counts:
        return []
    cut = [f"{name_of(scores, model)} {counts[model]}" for model in ordered(counts) if counts[model]]
    return [f"Prompts cut to fit the context: {', '.join(cut)}." if cut else "No prompt was cut to fit the context."]


def power(scores: Iterable[Mapping[str, Any] | None], lead: str = "Power") -> list[str]:
    """What each n of some shares of right answers can show, one sentence; [] where there is none."""
    sizes = sorted({score["n"] for score in scores if score and score["n"]})
    return [f"{lead}: {'; '.join(power_note(n) for n in sizes)}."] if sizes else []


def _agreement(asked: Asked, scores: Scores) -> list[str]:
    """The paper's numbers inside and outside our intervals; [] unless our base is the paper's."""
    inside, outside = [], []
    rows = {row.ours: row.label for row in asked.paper.rows}
    for _, model, cells in _lines(asked.paper, asked.results, scores):
        for name, cell in (cells or {}).items() if model else ():
            agrees = Score(at(asked.results.get(model), (name,)), cell).agrees
            if agrees is not None:
                text = f"{rows[model]} {asked.paper.columns[name]} {paper_text(cell)}"
                (inside if agrees else outside).append(text)
    if not inside + outside:
        return []
    return [
        "In brackets: ours minus the paper's number of the same stage. Paper's numbers inside our interval: "
        f"{', '.join(inside) or 'none'}; outside: {', '.join(outside) or 'none'}."
    ]
