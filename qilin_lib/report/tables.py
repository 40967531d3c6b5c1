"""Tables 1-6 of the paper with our numbers beside the paper's, what lies under them, and what each number rests on.

Tables 1-3 are read from 01_build_chimed/ledger.json and 02_tokenize/token_counts.json, all others from
06_eval/scores.json. The paper's rows hold the paper's numbers alone; ours are called by base and stages, and a
difference is taken only where our base is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from qilin_lib.evaluate.intervals import power_note
from qilin_lib.models import names
from qilin_lib.report import frames
from qilin_lib.report.cells import Score, score_text, sentences
from qilin_lib.report.frames import at, bare, count, key, name_of, ordered, stages_of
from qilin_lib.report.paper import TABLES, UNKNOWN, Cell, PaperTable, Row
from qilin_lib.report.render import Table

Scores = Mapping[str, Any]
"""What `names.read_scores` returns."""
BENCHMARKS = {"ceval": "C-Eval", "cmexam": "CMExam", "huatuo": "Huatuo-26M"}
# Shares of right answers; one more decimal would suggest more than a few hundred items can tell.
SHARES = {"accuracy", "average", "average_hard", "clinical_medicine", "physician", "basic_medicine"}
INFLATED = {
    "parsed_only/accuracy": "Accuracy, parsed rows only (inflated)",
    "parsed_only/f1_weighted": "F1, parsed rows only (inflated)",
}
FAILURES = {"unparsed": "Unreadable", "cut": "Cut at the limit", "error": "Error"}
"""Why an answer counts as wrong or as empty though nobody judged it (evaluate.replies)."""
LEDGER, COUNTS = "01_build_chimed/ledger.json", "02_tokenize/token_counts.json"
Digests = Mapping[str, str]
"""{stage: digest of its manifest}, empty while the stages are being made."""


def frame(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> pd.DataFrame:
    """The content of a table: cells of any kind."""
    return pd.DataFrame(list(rows), columns=list(columns), dtype=object)


# --- Tables 1-3: the data ---------------------------------------------------------------------------------------------


def table1(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-CPT by data set: samples, tokens and MB of ours, the paper's, and the difference where both are known."""
    return _data_table(TABLES[1], "cpt", ledger, tokens, digests or {})


def table2(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-SFT by data set, as `table1`."""
    return _data_table(TABLES[2], "sft", ledger, tokens, digests or {})


def table3(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-DPO by data set, as `table1`; a sample is one (prompt, chosen, rejected) triplet."""
    return _data_table(TABLES[3], "dpo", ledger, tokens, digests or {})


def _data_table(
    table: PaperTable, part: str, ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests
) -> Table:
    entries = [entry for entry in key(ledger, "sources", "ledger.json") if entry["set"] == part]
    counts, total = tokens.get(part, {}), table.rows[-1]
    owner = {entry["source"]: _owner(table, entry) for entry in entries}
    blocks = [(row.group, row.label, [e for e in entries if owner[e["source"]] is row], row) for row in table.rows[:-1]]
    blocks += [("Further (no paper row)", e["source"], [e], None) for e in entries if owner[e["source"]] is None]
    rows = [
        [group, label, ", ".join(sorted(e["source"] for e in mine)) or "-", *_sizes(mine, counts, row, digests)]
        for group, label, mine, row in blocks
    ]
    rows.append(["", "Total", f"{len(entries)} sources", *_sizes(entries, counts, total, digests)])
    content = frame(rows, ("Type", "Dataset", "Our sources", "Samples", "Tokens", "Size MB"))
    notes = [*_ledger_notes(entries, counts, tokens, digests), *paper_notes(table)]
    return Table(str(table.number), table.title, content, notes)


def _owner(table: PaperTable, entry: Mapping[str, Any]) -> Row | None:
    """The paper's row that a ledger entry belongs to: by the row its reader names, else by its folder."""
    named = str(entry.get("table_row") or "").casefold()
    rows = table.rows[:-1]
    by_name = (row for row in rows if named == row.label.casefold())
    return next(by_name, None) or next((row for row in rows if entry["source"] in row.sources), None)


def _sizes(
    entries: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], row: Row | None, digests: Digests
) -> Iterator[Score]:
    """Samples, tokens, MB of some ledger entries. Tokens are given only when every kept source was counted."""
    kept = [entry["source"] for entry in entries if entry["kept"]]
    counted = all(source in counts for source in kept)
    megabytes = sum(entry["bytes_kept"] for entry in entries) / 1e6
    ours = {
        "samples": (sum(entry["kept"] + entry.get("elsewhere", 0) for entry in entries), ",.0f", LEDGER),
        "tokens": (sum(counts[s]["tokens"] for s in kept) if counted else None, ",.0f", COUNTS),
        "size_mb": (megabytes, ",.1f" if megabytes >= 10 else ".3f", LEDGER),
    }
    for name, (value, form, path) in ours.items():
        paper, digest = row and row.cell(name), digests.get(path.partition("/")[0], "")
        missing = "not counted" if entries else "not in this run"
        yield Score(value if entries else None, form=form, missing=missing, paper=paper, records=path, manifest=digest)


def _ledger_notes(
    entries: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests
) -> list[str]:
    stamp = {stage: f" ({stage}/manifest.json {digest[:12]})" for stage, digest in digests.items()}
    fates = ("kept", "rejected", "duplicate", "contaminated", "excluded", "merged")
    total = {name: sum(count(entry[name]) for entry in entries) for name in ("read", *fates, "substring_chars")}
    notes = [
        f"Our samples and sizes: {LEDGER}{stamp.get('01_build_chimed', '')}; MB = 10^6 bytes of UTF-8. Read "
        f"{total['read']:,} = {' + '.join(f'{name} {total[name]:,}' for name in fates)}; "
        f"{total['substring_chars']:,} characters were cut out of kept records as repeated substrings.",
        f"Our tokens: {COUNTS}{stamp.get('02_tokenize', '')}, tokenizer {tokens.get('tokenizer', 'not recorded')}.",
    ]
    elsewhere = [f"{entry['source']} {entry['elsewhere']:,}" for entry in entries if entry.get("elsewhere")]
    if elsewhere:
        notes.append(
            "Samples of a graph are the diseases that it knows. Of these some stand in the record of an earlier graph, "
            f"where their tokens and bytes are counted: {', '.join(elsewhere)}."
        )
    kept = {entry["source"]: entry["kept"] for entry in entries}
    for source in sorted(set(kept) | set(counts)):
        counted = counts.get(source, {}).get("samples", 0)
        if counted != kept.get(source, 0):
            notes.append(f"{source}: the ledger keeps {kept.get(source, 0):,} samples, tokens are of {counted:,}.")
    return notes


# --- models by scores, scores by models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of scores: benchmark, the score's path in a model's entry, heading, format, and its name in published
    rows, None where nobody else has such a column."""

    benchmark: str
    path: str
    heading: str
    form: str = ".2f"
    published: str | None = None


@dataclass(frozen=True)
class Rows:
    """The rows of a table of scores: published ones, {label: cells}, as from `whose`; our models, in order.

    `compared`: the published cells that ours are set beside, by model; `protocol`: how ours were asked.
    """

    published: Mapping[str, Mapping[str, Cell]]
    whose: str
    models: Sequence[str]
    protocol: str = "fixed"
    compared: Mapping[str, Mapping[str, Cell]] = field(default_factory=dict)


def by_model(columns: Sequence[Column], rows: Rows, scores: Scores, digest: str) -> pd.DataFrame:
    """The content of a table of scores: published rows, then a row per model of ours, a column per score."""
    body = [
        [label, rows.whose, *(Score(form=c.form, missing="", paper=_published(cells, c)) for c in columns)]
        for label, cells in rows.published.items()
    ]
    find = _finder(scores, digest, {column.benchmark for column in columns}, rows.protocol) if rows.models else None
    for model in rows.models:
        beside = rows.compared.get(model)
        papers = [None if beside is None else _published(beside, column) for column in columns]
        cells = [find(model, column, paper) for column, paper in zip(columns, papers, strict=True)]
        body.append([name_of(scores, model), "this run", *cells])
    return frame(body, ["Model", "From", *(column.heading for column in columns)])


def _published(cells: Mapping[str, Cell], column: Column) -> Cell | None:
    return None if column.published is None else cells.get(column.published, Cell(None))


def _finder(scores: Scores, digest: str, benchmarks: set[str], protocol: str) -> Any:
    """find(model, column, paper's cell) -> the Score; one that is not there says why."""
    rows = [row for row in frames.scored(scores, digest, benchmarks) if row["protocol"] == protocol]
    found = {(row["model"], row["benchmark"], row["path"]): row for row in rows}
    asked = {(model, benchmark) for benchmark, under, model, _ in frames.entries(scores) if under == protocol}

    def find(model: str, column: Column, paper: Cell | None = None) -> Score:
        row = found.get((model, column.benchmark, column.path))
        if row:
            numbers = {name: row[name] for name in ("value", "n", "low", "high", "protocol", "records", "manifest")}
            missing = "no items" if row["value"] is None else ""
            return Score(**numbers, form=column.form, missing=missing, paper=paper, model=row["name"])
        failed = model in unfinished(scores, column.benchmark)
        missing = "-" if (model, column.benchmark) in asked else "not finished" if failed else "not evaluated"
        return Score(form=column.form, missing=missing, paper=paper)

    return find


def across(
    scores: Scores, benchmark: str, lines: Mapping[str, str], digest: str, form: str = ".1f"
) -> list[list[Score]]:
    """For each path of `lines` {heading: path} the score of every model that answered a benchmark, below `headings`."""
    find = _finder(scores, digest, {benchmark}, "fixed")
    return [[find(m, Column(benchmark, path, "", form)) for m in bare(scores[benchmark])] for path in lines.values()]


def headings(scores: Scores, benchmark: str) -> list[str]:
    """The names of the models that answered a benchmark, in the order of the tables."""
    return [name_of(scores, model) for model in bare(scores[benchmark])]


# --- Tables 4-6 -------------------------------------------------------------------------------------------------------


def table4(scores: Scores, digest: str = "") -> Table:
    """C-Eval: average, hard subset and the three medical subjects. `digest` is that of stage 06."""
    return _score_table(TABLES[4], scores, digest)


def table5(scores: Scores, digest: str = "") -> Table:
    """CMExam: answer prediction and explanation, as `table4`; beside them the numbers that drop unparsed answers."""
    return _score_table(TABLES[5], scores, digest)


def table6(scores: Scores, digest: str = "") -> Table:
    """Huatuo-26M: answer generation, as `table4`."""
    return _score_table(TABLES[6], scores, digest)


def released_tables(scores: Scores, digest: str = "") -> list[Table]:
    """Tables 4r, 5r and 5l, the authors' protocol; those of its benchmarks that were not run are left out.

    5l is CMExam as the authors' script for their fine-tuned (LoRA) models reads and measures the same answers.
    """
    made = scores.get("released", {})
    tables = [
        _score_table(TABLES[number], scores, digest, "released", suffix="r", aside="the released protocol")
        for number in (4, 5)
        if made.get(TABLES[number].benchmark)
    ]
    if any("lora" in entry for entry in made.get("cmexam", {}).values()):
        aside = "the released protocol, script for fine-tuned models"
        tables.append(_score_table(TABLES[5], scores, digest, "released", "lora/", suffix="l", aside=aside))
    return tables


def _score_table(
    table: PaperTable,
    scores: Scores,
    digest: str,
    protocol: str = "fixed",
    below: str = "",
    suffix: str = "",
    aside: str = "",
) -> Table:
    """A table of the paper's, under a protocol; `below`: where in a model's entry its scores stand."""
    benchmark = table.benchmark
    results = scores["released"][benchmark] if suffix else key(scores, benchmark, "scores.json")
    there = {path for entry in results.values() for path in map("/".join, (place for place, _ in frames.leaves(entry)))}
    columns = [column for column in _columns(table, below) if column.path in there or (not suffix and column.published)]
    failed = unfinished(scores, benchmark)
    models = [model for model in ordered(results) if not below or "lora" in results[model]]
    if not suffix:
        models = list(dict.fromkeys([*stages_of(scores), *ordered([*results, *failed])])) if results or failed else []
    wanted = {column.published for column in columns}
    # A row without any number need not be said again: it stands in the table of the fixed protocol.
    published = {row.label: row.known for row in table.rows if not suffix or wanted & {*row.known}}
    compared = {row.ours: row.known for row in table.rows if row.ours in names.facts(scores)["as_paper"]}
    rows = Rows(published, "paper", models, protocol, compared)
    notes = names.foot(scores) + unfinished_notes(scores, benchmark)
    if results:
        notes += [*_agreement(table, rows, results, below), *_notes(table, scores, protocol, columns, results)]
    else:
        notes.append(f"{BENCHMARKS[benchmark]} was not evaluated in this run: the paper's numbers stand alone.")
    notes += [f"The paper's numbers: as under Table {table.number}."] if suffix else paper_notes(table)
    title = f"{table.title}: {aside}" if aside else table.title
    return Table(f"{table.number}{suffix}", title, by_model(columns, rows, scores, digest), notes)


def _columns(table: PaperTable, below: str) -> list[Column]:
    """The paper's columns, CMExam's inflated ones behind the answers, FAILURES last."""

    def column(path: str, heading: str, published: str | None = None) -> Column:
        one = path.rpartition("/")[2] in {*SHARES, "f1_weighted", *FAILURES}
        return Column(table.benchmark, below + path, heading, ".1f" if one else ".2f", published)

    made = [column(name, heading, name) for name, heading in table.columns.items()]
    answers = [one for one in made if one.form == ".1f"]
    extra = [column(path, heading) for path, heading in INFLATED.items()]
    return [*answers, *extra, *made[len(answers) :], *(column(*failure) for failure in FAILURES.items())]


def _notes(
    table: PaperTable, scores: Scores, protocol: str, columns: Sequence[Column], results: Mapping[str, Any]
) -> list[str]:
    benchmark, fixed = table.benchmark, protocol == "fixed"
    released = "" if fixed else "The authors' prompts, answer extraction and arithmetic, their defects included. "
    notes = [
        _settings(benchmark, scores, protocol),
        f"{released}A number leads to its records in 06_eval/predictions/{protocol}/{benchmark}, its n to "
        "06_eval/manifest.json; all scores: 06_eval/scores.json.",
        *(cut_notes(scores, benchmark) if fixed else []),
    ]
    if any(column.path.startswith("parsed_only") for column in columns):
        notes += sentences("tables", "parsed_only")
    if fixed and benchmark == "cmexam" and not any(entry.get("groups") for entry in results.values()):
        notes += sentences("tables", "no_groups")
    return [*notes, *power(at(e, c.path) for e in results.values() for c in columns if c.path.split("/")[-1] in SHARES)]


def _settings(benchmark: str, scores: Scores, protocol: str) -> str:
    def of(name: str) -> str:
        value = scores.get(name, "not recorded")
        value = value.get(benchmark, "not recorded") if isinstance(value, Mapping) else value
        return ", ".join(f"{m} {v}" for m, v in value.items()) if isinstance(value, Mapping) else str(value)

    parts = [f"protocol {protocol}", f"split {of('split')}"]
    parts += [f"shots {of('shots')}"] if benchmark == "ceval" else []
    unit = "items a subject" if benchmark == "ceval" else "items"
    parts.append("no cap on items" if of("cap") == "None" else f"cap {of('cap')} ({unit})")
    if protocol == "fixed":
        parts.append(f"scoring {of('scoring')}")
        parts += [] if benchmark == "ceval" else [f"tokenisation of BLEU and ROUGE {of('tokenisation')}"]
        parts += sentences("tables", benchmark)
    parts.append(f"unusable rows of the benchmark {of('invalid')}")
    return f"Ours: {'; '.join(parts)}. Percent, with 95 % interval and n."


def _agreement(table: PaperTable, rows: Rows, results: Mapping[str, Any], below: str) -> list[str]:
    """The paper's numbers inside and outside our intervals; [] unless our base is the paper's."""
    inside, outside = [], []
    labels = {row.ours: row.label for row in table.rows}
    for model in rows.models:
        for name, cell in rows.compared.get(model, {}).items():
            agrees = Score(**(at(results.get(model), f"{below}{name}") or {}), paper=cell).agrees
            if agrees is not None:
                (inside if agrees else outside).append(f"{labels[model]} {table.columns[name]} {cell.text}")
    if not inside + outside:
        return []
    return [
        "In brackets: ours minus the paper's number of the same stage. Paper's numbers inside our interval: "
        f"{', '.join(inside) or 'none'}; outside: {', '.join(outside) or 'none'}."
    ]


def paper_notes(table: PaperTable) -> list[str]:
    """Where every known cell of the paper stands, then what is uncertain about the table."""
    places: dict[str, list[str]] = {}
    for row in table.rows:
        for name, cell in row.known.items():
            places.setdefault(cell.origin, []).append(f"{row.label} {table.columns[name]} {cell.text}")
    known = "; ".join(f"{', '.join(cells)} ({origin})" for origin, cells in places.items())
    lead = f"Paper: {known}. " if known else ""
    return [f'{lead}"{UNKNOWN}" = stated neither in the text nor in the abstracts we have.', *table.notes]


# --- notes ------------------------------------------------------------------------------------------------------------


def failure_notes(results: Mapping[str, Any], scores: Scores) -> list[str]:
    """The shares of FAILURES of each model, a sentence each; those that nobody recorded, or
    that are 0 everywhere, are left out."""
    notes = []
    for failure, heading in FAILURES.items():
        found = {name_of(scores, model): results[model].get(failure) for model in ordered(results)}
        known = {name: share for name, share in found.items() if share}
        if any(share["value"] for share in known.values()):
            told = "; ".join(f"{name} {score_text(share)}" for name, share in known.items())
            notes.append(f"{heading}, percent: {told}.")
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
