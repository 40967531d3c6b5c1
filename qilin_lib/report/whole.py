"""Notebook 07: everything of a run on one page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qilin_lib import chains, files
from qilin_lib.chimed import deid_score
from qilin_lib.models.names import accepted, read_scores
from qilin_lib.report import breakdowns, browse, chimed_gpt, data, figures, html, judged, paper, tables, training
from qilin_lib.report.markup import Html, macro
from qilin_lib.report.preferences import method_name
from qilin_lib.report.render import Table, stem_of, with_notes, write_all
from qilin_lib.runs import Stage, read_manifest
from qilin_lib.train.fit import read_log


def all_tables(stage: Stage) -> list[Table]:
    """Tables 1-6 of the run, those below them (4c, 4r, 5a …) and A1, written as CSV, Markdown, LaTeX and text."""
    ledger = files.read_json(stage.parent("01_build_chimed") / "ledger.json")
    counts = files.read_json(stage.parent("02_tokenize") / "token_counts.json")
    digests = {name: read_manifest(stage.run_dir, name)["digest"] for name in ("01_build_chimed", "02_tokenize")}
    counted = [table(ledger, counts, digests) for table in (tables.table1, tables.table2, tables.table3)]
    made = list(with_notes(counted, accepted(stage.run_dir, "02_tokenize")))
    made += result_tables(_scores(stage), read_manifest(stage.run_dir, "06_eval")["digest"])
    made += judged.tables(stage.parent("06_eval"), _scores(stage))
    stage.begin()
    if not stage.up_to_date:
        write_all(made, stage.dir)
    return made


def result_tables(scores: Mapping[str, Any], digest: str) -> list[Table]:
    """Tables 4-6, what lies under them, A1 and ChiMed-GPT's (C1 …), in the order of their numbers, from scores.json."""
    made = [table(scores, digest) for table in (tables.table4, tables.table5, tables.table6)]
    made += [breakdowns.category_table(scores, digest), *breakdowns.group_tables(scores, digest)]
    made += [*tables.released_tables(scores, digest), breakdowns.variant_table(scores, digest)]
    # 4, 4c, 4r, 5, 5a …: what belongs to a table of the paper stands below it.
    second = chimed_gpt.tables(scores, digest)
    return [*sorted(made, key=lambda table: table.number), breakdowns.paired_table(scores), *second]


def _scores(stage: Stage) -> dict[str, Any]:
    return read_scores(stage.parent("06_eval") / "scores.json")


def links(stage: Stage, tables: Iterable[Table]) -> Html:
    """Titles of tables, each with links to its files, for an executed notebook."""
    rows = [(table.heading, sorted(stage.dir.glob(f"{stem_of(table)}.*"))) for table in tables]
    files = [(title, [(f"{stage.name}/{path.name}", path.suffix[1:]) for path in paths]) for title, paths in rows]
    return macro("links", files)


def forest(stage: Stage) -> Figure:
    """Our scores with intervals and the paper's numbers, where it has them."""
    return figures.forest(_scores(stage), paper.TABLES)


def chain(stage: Stage) -> Table:
    """The manifests of the run, back to the raw files."""
    return html.manifest_chain(stage.run_dir, stage.name)


def _checks(stage: Stage, ledger: Mapping[str, Any]) -> list[Table]:
    mode = read_manifest(stage.run_dir, "01_build_chimed")["parameters"]["decontaminate"]
    rules = data.deid_score_table(deid_score.score(deid_score.labelled_cases("test")))
    return [data.contamination_table(ledger, mode), data.deidentified_table(ledger), rules]


def write_report(stage: Stage, made: list[Table], cases: Mapping[str, Html]) -> Path:
    """report.html: one self-contained page. Returns its path; leaves it alone if the stage is up to date.

    `cases`: {"huatuo", "cmexam": the case studies; "question": the answers of all stages, shown if one was asked}.
    """
    target = stage.dir / "report.html"
    stage.begin()
    if stage.up_to_date:
        return target
    ledger = files.read_json(stage.parent("01_build_chimed") / "ledger.json")
    bars = html.Picture(figures.ledger_bar(ledger), "Records by source and fate")
    notes = accepted(stage.run_dir, "01_build_chimed")
    sections = [
        html.Section("Data: Tables 1-3", tuple(_of(made, "123"))),
        html.Section("Where every record went", with_notes((bars, data.ledger_table(ledger)), notes)),
        html.Section("Test items in training data, personal data", with_notes(_checks(stage, ledger), notes)),
        html.Section("Training", tuple(_training(stage))),
        *result_sections(_scores(stage), made),
        *([html.Section("Passages and judges", tuple(further))] if (further := _of(made, "J")) else []),
        html.Section("Case study: Huatuo-26M (Figure 2)", (cases["huatuo"],)),
        html.Section("Case study: CMExam (Figure 3)", (cases["cmexam"],)),
        *([html.Section("One question to all stages", (cases["question"],))] if stage.parameters.question else []),
        html.Section("Search all records", (browse.section(stage),)),
        html.Section("Numbers of other papers", tuple(_external())),
        html.Section("Where it comes from", (chain(stage),)),
    ]
    return html.report(sections, target, f"Qilin-Med, run {stage.run_dir.name}")


def _of(made: list[Table], numbers: str) -> list[Table]:
    return [table for table in made if table.number[0] in numbers]


def result_sections(scores: Mapping[str, Any], made: list[Table]) -> list[html.Section]:
    """The sections that scores.json fills, whatever benchmarks, protocols and models it holds."""
    crosses = "Our scores with 95 % intervals; crosses: the paper's numbers, in rows of their own."
    usage = breakdowns.usage_table(scores)
    return [
        html.Section("Ours and the paper's", (html.Picture(figures.forest(scores, paper.TABLES), crosses),)),
        html.Section("C-Eval: Table 4", (*_of(made, "4"), _subjects(scores))),
        html.Section("CMExam: Table 5", (*_of(made, "5"), *_departments(scores))),
        html.Section("Huatuo-26M: Table 6", tuple(_of(made, "6"))),
        html.Section("From stage to stage", (*_of(made, "A"), *([usage] if usage else []))),
        html.Section("ChiMed-GPT", tuple(_of(made, "C") or chimed_gpt.shown({}))),
    ]


def _training(stage: Stage) -> list[Any]:
    folders = {name: chains.folder(name) for name in stage.parameters.chain}
    logs = {name: read_log(stage.parent(folder)) for name, folder in folders.items()}
    parts: list[Any] = [html.Picture(figures.loss_curves(logs), "Training loss of the stages")]
    for name, folder in folders.items():
        heldout, drawn = files.read_json(stage.parent(folder) / "heldout.json"), _drawn(stage, folder)
        notes = accepted(stage.run_dir, folder)
        if chains.method(name) == "dpo":
            parts += _pairs(name, logs[name], stage.facts(folder), heldout, drawn, notes)
        else:
            table = training.perplexity_table(heldout, drawn)
            parts += with_notes([replace(table, title=f"{table.title}: before and after {name.upper()}")], notes)
    return parts


def _pairs(
    name: str, log: Any, facts: Mapping[str, Any], heldout: Any, drawn: Mapping[str, Any], notes: list[str]
) -> list[Any]:
    """The curves and the held-out pairs of a training on preference pairs."""
    curves = figures.dpo_curves(log, facts.get("step_zero_expected", math.log(2)))
    title = method_name(facts) if name == "dpo" else f"{name}, {method_name(facts)}"
    pairs = training.preference_table(heldout, facts["beta"], drawn)
    caption = f"{title}: rewards and log-probabilities on training batches"
    return [html.Picture(curves, caption), *with_notes([pairs], notes)]


def _drawn(stage: Stage, name: str) -> Mapping[str, Any]:
    """The parameters of a stage, which say how its intervals are drawn."""
    return read_manifest(stage.run_dir, name)["parameters"]


def _subjects(scores: Mapping[str, Any]) -> html.Picture | str:
    caption = "C-Eval: accuracy by subject with 95 % intervals"
    return breakdowns.no_subjects(scores) or html.Picture(figures.subject_accuracy(scores), caption)


def _departments(scores: Mapping[str, Any]) -> list[html.Picture]:
    """Nothing where items carry no annotations: a note of Table 5 says so."""
    if not any("department" in entry.get("groups", {}) for entry in scores["cmexam"].values()):
        return []
    return [html.Picture(figures.group_accuracy(scores), "CMExam: accuracy by clinical department with 95 % intervals")]


def _external() -> list[Table]:
    return [breakdowns.external_table(table, f"A{number}") for number, table in enumerate(paper.EXTERNAL, start=3)]
