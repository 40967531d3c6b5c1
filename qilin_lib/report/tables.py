"""Tables 1-6 of the paper with our numbers beside the paper's, and what each number rests on.

Tables 1-3 are read from 01_build_chimed/ledger.json and 02_tokenize/token_counts.json, all others from
06_eval/scores.json. The paper's rows hold the paper's numbers alone; ours are called by base and stages, and a
difference is taken only where our base is the paper's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qilin_lib.evaluate import store
from qilin_lib.evaluate.intervals import power_note
from qilin_lib.models import names
from qilin_lib.report.cells import NAMES, Score, sentences
from qilin_lib.report.frames import at, bare, count, leaves, name_of, ordered, results_of, stages_of
from qilin_lib.report.paper import TABLES, UNKNOWN, Cell, PaperTable, Row
from qilin_lib.report.render import Table, table

Scores = Mapping[str, Any]
"""What `names.read_scores` returns."""
Published = Mapping[str, Mapping[str, Cell]]
"""{row of others: {column: cell}}."""
Digests = Mapping[str, str]
"""{stage: digest of its manifest}, empty while the stages are being made."""
LABELS, INFLATED, FAILURES = NAMES["benchmarks"], NAMES["inflated"], NAMES["failures"]
# Shares of right answers; one more decimal would suggest more than a few hundred items can tell.
SHARES = {"accuracy", "average", "average_hard", "clinical_medicine", "physician", "basic_medicine"}
FATES = ("kept", "rejected", "duplicate", "contaminated", "excluded", "merged")
LEDGER, COUNTS = "01_build_chimed/ledger.json", "02_tokenize/token_counts.json"
DATA = {1: "cpt", 2: "sft", 3: "dpo"}
"""The set that a table of the paper's counts."""


# --- Tables 1-3: the data ---------------------------------------------------------------------------------------------


def data_table(
    number: int, ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None
) -> Table:
    """Tables 1-3, ChiMed-CPT, -SFT and -DPO by data set: samples (of DPO triplets), tokens and MB of ours, the paper's,
    and the difference where both are known."""
    printed = TABLES[number]
    entries = [entry for entry in ledger["sources"] if entry["set"] == DATA[number]]
    counts, stamps = tokens.get(DATA[number], {}), digests or {}
    *papers, total = printed.rows
    ours: dict[str, list[Any]] = {row.label: [] for row in papers}
    further = []
    for entry in entries:
        # The paper's row that the reader names goes before the one that has the folder.
        named = str(entry.get("table_row") or "").casefold()
        owners = [row for row in papers if row.label.casefold() == named]
        owners += [row for row in papers if entry["source"] in row.sources]
        (ours[owners[0].label] if owners else further).append(entry)
    rows = []
    for row in papers:
        sources = ", ".join(sorted(entry["source"] for entry in ours[row.label])) or "-"
        rows.append([row.group, row.label, sources, *_sizes(ours[row.label], counts, row, stamps)])
    for entry in further:
        name = entry["source"]
        rows.append(["Further (no paper row)", name, name, *_sizes([entry], counts, None, stamps)])
    rows.append(["", "Total", f"{len(entries)} sources", *_sizes(entries, counts, total, stamps)])
    columns = ["Type", "Dataset", "Our sources", "Samples", "Tokens", "Size MB"]
    notes = [*_ledger_notes(entries, tokens, stamps), *paper_notes(printed)]
    return table(printed.title, rows, columns, notes, str(number))


def _sizes(
    entries: Sequence[Mapping[str, Any]], counts: Mapping[str, Any], row: Row | None, digests: Digests
) -> Iterator[Score]:
    """Samples, tokens, MB of some ledger entries. Tokens are given only when every kept source was counted."""
    kept = [entry["source"] for entry in entries if entry["kept"]]
    samples = sum(entry["kept"] + entry.get("elsewhere", 0) for entry in entries)
    tokens = sum(counts[source]["tokens"] for source in kept) if {*kept} <= {*counts} else None
    megabytes = sum(entry["bytes_kept"] for entry in entries) / 1e6
    for name, value, form, path in (
        ("samples", samples, ",.0f", LEDGER),
        ("tokens", tokens, ",.0f", COUNTS),
        ("size_mb", megabytes, ",.1f" if megabytes >= 10 else ".3f", LEDGER),
    ):
        yield Score(
            value if entries else None,
            form=form,
            missing="not counted" if entries else "not in this run",
            paper=row and row.known.get(name, Cell(None)),
            records=path,
            manifest=digests.get(path.partition("/")[0], ""),
        )


def _ledger_notes(entries: Sequence[Mapping[str, Any]], tokens: Mapping[str, Any], digests: Digests) -> list[str]:
    stamp = {stage: f" ({stage}/manifest.json {digest[:12]})" for stage, digest in digests.items()}
    total = {name: sum(count(entry[name]) for entry in entries) for name in ("read", *FATES, "substring_chars")}
    elsewhere = [f"{entry['source']} {entry['elsewhere']:,}" for entry in entries if entry.get("elsewhere")]
    notes = sentences(
        "tables",
        "ledger",
        ledger=f"{LEDGER}{stamp.get('01_build_chimed', '')}",
        counts=f"{COUNTS}{stamp.get('02_tokenize', '')}",
        read=total["read"],
        fates=" + ".join(f"{name} {total[name]:,}" for name in FATES),
        cut=total["substring_chars"],
        tokenizer=tokens.get("tokenizer", "not recorded"),
    )
    return notes + (sentences("tables", "elsewhere", diseases=", ".join(elsewhere)) if elsewhere else [])


# --- models by scores, scores by models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Column:
    """A column of scores: benchmark, the score's path in a model's entry, heading, format, and its name in published
    rows, None where nobody else has such a column."""

    benchmark: str
    path: Sequence[str]
    heading: str
    form: str = ".2f"
    published: str | None = None

    def paper(self, cells: Mapping[str, Cell] | None) -> Cell | None:
        """The cell of this column in a published row; None without such a row or column."""
        if cells is None or self.published is None:
            return None
        return cells.get(self.published, Cell(None))


def score_of(scores: Scores, model: str, column: Column, protocol: str = "fixed", paper: Cell | None = None) -> Score:
    """A model's score in a column; one that is not there says why."""
    entry = results_of(scores, column.benchmark, protocol).get(model)
    summary = at(entry, column.path)
    if summary is None:
        failed = model in unfinished(scores, column.benchmark)
        missing = "-" if entry is not None else "not finished" if failed else "not evaluated"
        return Score(form=column.form, missing=missing, paper=paper)
    return Score.of(
        summary,
        column.form,
        missing="no items" if summary["value"] is None else "",
        paper=paper,
        model=name_of(scores, model),
        protocol=protocol,
        records=store.predictions("06_eval", protocol, column.benchmark, model).as_posix(),
        manifest=scores.get("digest", ""),
    )


def score_rows(
    columns: Sequence[Column],
    models: Iterable[str],
    scores: Scores,
    protocol: str = "fixed",
    published: Published | None = None,
    whose: str = "",
    compared: Published | None = None,
) -> tuple[list[list[Any]], list[str]]:
    """(a row per published one, as from `whose`, then one per model of ours, a column per score; the headings above
    them); `compared`: the published cells beside a model's."""
    rows = []
    for label, cells in (published or {}).items():
        papers = [Score(form=column.form, missing="", paper=column.paper(cells)) for column in columns]
        rows.append([label, whose, *papers])
    for model in models:
        beside = (compared or {}).get(model)
        own = [score_of(scores, model, column, protocol, column.paper(beside)) for column in columns]
        rows.append([name_of(scores, model), "this run", *own])
    return rows, ["Model", "From", *(column.heading for column in columns)]


def across(
    scores: Scores, benchmark: str, lines: Mapping[str, Sequence[str]], form: str = ".1f"
) -> tuple[list[list[Any]], list[str]]:
    """(a row per line of `lines` {heading: path}, a column per model that answered; the models' names)."""
    models = bare(scores[benchmark])
    columns = [Column(benchmark, path, heading, form) for heading, path in lines.items()]
    rows = [[column.heading, *(score_of(scores, model, column) for model in models)] for column in columns]
    return rows, [name_of(scores, model) for model in models]


# --- Tables 4-6 -------------------------------------------------------------------------------------------------------


def score_table(number: int, scores: Scores) -> Table:
    """Tables 4-6 under the fixed protocol: C-Eval by subject, CMExam with the numbers that drop unparsed answers
    beside, Huatuo-26M."""
    printed = TABLES[number]
    results, failed = results_of(scores, printed.benchmark), unfinished(scores, printed.benchmark)
    there = _paths(results)
    further = Column(printed.benchmark, ("perplexity",), NAMES["measures"]["perplexity"])
    columns = [column for column in (*_columns(printed), further) if column.published or column.path in there]
    models = dict.fromkeys([*stages_of(scores), *ordered([*results, *failed])]) if results or failed else ()
    return _with_ours(printed, columns, {row.label: row.known for row in printed.rows}, list(models), scores)


def released_tables(scores: Scores) -> list[Table]:
    """Tables 4r, 5r and 5l, the authors' protocol; those of its benchmarks that were not run are left out.

    5l is CMExam as the authors' script for their fine-tuned (LoRA) models reads and measures the same answers.
    """
    tables = []
    for number, suffix, below in ((4, "r", ()), (5, "r", ()), (5, "l", ("lora",))):
        printed = TABLES[number]
        results = results_of(scores, printed.benchmark, "released")
        there = _paths(results)
        columns = [column for column in _columns(printed, below) if column.path in there]
        models = [model for model in ordered(results) if not below or "lora" in results[model]]
        # A row without any number need not be said again: it stands in the table of the fixed protocol.
        wanted = {column.published for column in columns}
        papers = {row.label: row.known for row in printed.rows if wanted & {*row.known}}
        if models:
            tables.append(_with_ours(printed, columns, papers, models, scores, suffix))
    return tables


def _paths(results: Mapping[str, Any]) -> set[tuple[str, ...]]:
    return {place for entry in results.values() for place, _ in leaves(entry)}


def _columns(printed: PaperTable, below: tuple[str, ...] = ()) -> list[Column]:
    """The paper's columns, CMExam's inflated ones behind the answers, FAILURES last. `below`: where in a model's entry
    the scores stand."""

    def column(path: str, heading: str, published: str | None = None) -> Column:
        place = (*below, *path.split("/"))
        share = place[-1] in {*SHARES, "f1_weighted", *FAILURES}
        return Column(printed.benchmark, place, heading, ".1f" if share else ".2f", published)

    known = [column(name, heading, name) for name, heading in printed.columns.items()]
    inflated, failures = ([column(*one) for one in further.items()] for further in (INFLATED, FAILURES))
    answers, texts = ([one for one in known if one.form == form] for form in (".1f", ".2f"))
    return [*answers, *inflated, *texts, *failures]


def _with_ours(
    printed: PaperTable,
    columns: Sequence[Column],
    papers: Published,
    models: Sequence[str],
    scores: Scores,
    suffix: str = "",
) -> Table:
    """The paper's rows, then ours; `suffix`: that of a table of the released protocol."""
    benchmark, protocol = printed.benchmark, "released" if suffix else "fixed"
    results = results_of(scores, benchmark, protocol)
    compared = {row.ours: row.known for row in printed.rows if row.ours in scores["run"]["as_paper"]}
    notes = names.foot(scores) + unfinished_notes(scores, benchmark)
    if results:
        notes += [asked_note(scores, benchmark, protocol), *cut_notes(scores, benchmark)]
        notes += sentences("tables", "parsed_only") if any("parsed_only" in one.path for one in columns) else []
        bare_items = benchmark == "cmexam" and not any(entry.get("groups") for entry in results.values())
        notes += sentences("tables", "no_groups") if bare_items and protocol == "fixed" else []
        notes += power(results, [column for column in columns if column.path[-1] in SHARES])
    else:
        notes.append(f"{LABELS[benchmark]} was not evaluated in this run: the paper's numbers stand alone.")
    notes += [f"The paper's numbers: as under Table {printed.number}."] if suffix else paper_notes(printed)
    aside = {"": "", "r": ": the released protocol", "l": ": the released protocol, script for fine-tuned models"}
    rows = score_rows(columns, models, scores, protocol, papers, "paper", compared)
    return table(f"{printed.title}{aside[suffix]}", *rows, notes, f"{printed.number}{suffix}")


# --- notes ------------------------------------------------------------------------------------------------------------


def paper_notes(printed: PaperTable) -> list[str]:
    """Where every known cell of the paper stands, then what is uncertain about the table."""
    places: dict[str, list[str]] = {}
    for row in printed.rows:
        for name, cell in row.known.items():
            places.setdefault(cell.origin, []).append(f"{row.label} {printed.columns[name]} {cell.text}")
    known = "; ".join(f"{', '.join(cells)} ({origin})" for origin, cells in places.items())
    lead = f"Paper: {known}. " if known else ""
    return [f'{lead}"{UNKNOWN}" = stated neither in the text nor in the abstracts we have.', *printed.notes]


def asked_note(scores: Scores, benchmark: str, protocol: str = "fixed", lead: str = "Ours") -> str:
    """How a benchmark was asked in this run and where its records lie."""

    def of(name: str) -> str:
        value = scores.get(name, {})
        value = value.get(benchmark, "not recorded") if isinstance(value, Mapping) else value
        # Where models were scored in different ways, each has its own.
        each = value.items() if isinstance(value, Mapping) else ()
        return ", ".join(f"{name_of(scores, model)} {own}" for model, own in each) or str(value)

    unit = "items a subject" if benchmark in ("ceval", "cmmlu") else "items"
    parts = [f"protocol {protocol}", f"split {of('split')}"]
    parts.append("no cap on items" if of("cap") == "None" else f"cap {of('cap')} {unit}")
    if protocol == "fixed":
        parts.append("no examples" if of("shots") == "None" else f"shots {of('shots')}")
        parts += [f"scoring {of('scoring')}", *sentences("asked", benchmark)]
        if benchmark in ("cmexam", "huatuo"):
            parts.append(f"tokenisation of BLEU and ROUGE {of('tokenisation')}")
    else:
        parts.append("the authors' prompts, answer extraction and arithmetic, their defects included")
    parts.append(f"unusable rows of the benchmark {of('invalid')}")
    where = f"records in 06_eval/predictions/{protocol}/{benchmark}, all scores in 06_eval/scores.json"
    return f"{lead}: {'; '.join(parts)}. Percent, with 95 % interval and n; {where}."


def failure_notes(results: Mapping[str, Any], scores: Scores) -> list[str]:
    """The shares of FAILURES of each model, a sentence each; those that are 0 everywhere are left out."""
    notes = []
    for failure, heading in FAILURES.items():
        shares = {model: results[model].get(failure) for model in ordered(results)}
        if any(share and share["value"] for share in shares.values()):
            known = [f"{name_of(scores, model)} {Score(**share)}" for model, share in shares.items() if share]
            notes.append(f"{heading}, percent: {'; '.join(known)}.")
    return notes


def unfinished(scores: Scores, benchmark: str) -> Mapping[str, str]:
    """{model: why it has no score on a benchmark that it was asked}."""
    return scores.get("unfinished", {}).get(benchmark, {})


def unfinished_notes(scores: Scores, benchmark: str) -> list[str]:
    """Which models did not finish a benchmark, and why, one sentence; [] where all did."""
    failed = [f"{name_of(scores, model)} ({why})" for model, why in unfinished(scores, benchmark).items()]
    return [f"Not finished: {'; '.join(failed)}."] if failed else []


def cut_notes(scores: Scores, benchmark: str) -> list[str]:
    """How many prompts of each model were cut, one sentence; [] where nobody counted."""
    counts = scores.get("truncated", {}).get(benchmark)
    if not counts:
        return []
    cut = [f"{name_of(scores, model)} {counts[model]}" for model in ordered(counts) if counts[model]]
    return [f"Prompts cut to fit the context: {', '.join(cut)}." if cut else "No prompt was cut to fit the context."]


def power(results: Mapping[str, Any], columns: Sequence[Column], lead: str = "Power") -> list[str]:
    """What each n of some shares of right answers can show, one sentence; [] where there is none."""
    shares = [at(entry, column.path) for entry in results.values() for column in columns]
    sizes = sorted({share["n"] for share in shares if share and share["n"]})
    return [f"{lead}: {'; '.join(power_note(n) for n in sizes)}."] if sizes else []
