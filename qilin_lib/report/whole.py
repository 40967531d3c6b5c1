"""Notebook 07: everything of a run on one page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qilin_lib import chains, files, params
from qilin_lib.chimed import deid_score
from qilin_lib.models.names import accepted, read_scores
from qilin_lib.report import (
    breakdowns,
    browse,
    chimed_gpt,
    data,
    figures,
    html,
    judged,
    paper,
    tables,
    training,
)
from qilin_lib.report.html import Picture, Section, chain
from qilin_lib.report.markup import Box, Html, card, macro
from qilin_lib.report.render import Table, stem_of, with_notes, write_all
from qilin_lib.runs import Stage, read_manifest
from qilin_lib.train.fit import read_log


def all_tables(stage: Stage) -> list[Table]:
    """Tables 1-6 of the run, those below them (4c, 4r, 5a …) and A1, written as CSV, Markdown, LaTeX and text."""
    ledger = files.read_json(stage.parent("01_build_chimed") / "ledger.json")
    counts = files.read_json(stage.parent("02_tokenize") / "token_counts.json")
    digests = {name: read_manifest(stage.run_dir, name)["digest"] for name in ("01_build_chimed", "02_tokenize")}
    counted = [tables.data_table(number, ledger, counts, digests) for number in tables.DATA]
    scores = _scores(stage)
    made = [
        *with_notes(counted, accepted(stage.run_dir, "02_tokenize")),
        *result_tables(scores),
        *judged.tables(stage.parent("06_eval"), scores),
    ]
    stage.begin()
    if not stage.up_to_date:
        write_all(made, stage.dir)
    return made


def result_tables(scores: Mapping[str, Any]) -> list[Table]:
    """Tables 4-6, what lies under them, A1 and ChiMed-GPT's (C1 …), in the order of their numbers, from scores.json."""
    made = [tables.score_table(number, scores) for number in (4, 5, 6)]
    made += [breakdowns.category_table(scores), *breakdowns.group_tables(scores)]
    made += [*tables.released_tables(scores), breakdowns.variant_table(scores)]
    # 4, 4c, 4r, 5, 5a …: what belongs to a table of the paper stands below it.
    made.sort(key=lambda table: table.number)
    return [*made, breakdowns.paired_table(scores), *chimed_gpt.tables(scores)]


def _scores(stage: Stage) -> dict[str, Any]:
    return read_scores(stage.parent("06_eval") / "scores.json")


def links(stage: Stage, tables: Iterable[Table]) -> Html:
    """Titles of tables, each with links to its files, for an executed notebook."""
    rows = []
    for table in tables:
        paths = sorted(stage.dir.glob(f"{stem_of(table)}.*"))
        rows.append((table.heading, [(f"{stage.name}/{path.name}", path.suffix[1:]) for path in paths]))
    return macro("links", rows)


def forest(stage: Stage) -> Figure:
    """Our scores with intervals and the paper's numbers, where it has them."""
    return figures.forest(_scores(stage))


def systems() -> list[Html]:
    """A card for each system whose regime is a profile: what its paper did, what runs here, what is not available. All
    of it is read from the profiles' heads."""
    cards = []
    for profile in params.profiles():
        told = re.split(r"\w+ differs from ", params.head(profile))[0]
        _, *parts = re.split(r"\b(Paper|Here|Not available|Not built)\b[^:.]*: ", told)
        boxes: dict[str, list[str]] = {"Paper": [], "Here": [], "Not available": []}
        for label, text in zip(parts[::2], parts[1::2], strict=True):
            boxes[label.replace("built", "available")].append(text.strip())
        if (named := re.search(r"the regime of (.+?\)) in", told)) and boxes["Paper"]:
            shown = [Box(label, " ".join(texts)) for label, texts in boxes.items()]
            cards.append(card(named[1], shown[:1], shown[1:], aside=f"profile {profile}"))
    return cards


def write_report(stage: Stage, made: list[Table], cases: Mapping[str, Html]) -> Path:
    """report.html: one self-contained page. Returns its path; leaves it alone if the stage is up to date.

    `cases`: {"huatuo", "cmexam": the case studies; "question": the answers of all stages, shown if one was asked}.
    """
    target = stage.dir / "report.html"
    stage.begin()
    if stage.up_to_date:
        return target
    external = [breakdowns.external_table(table, f"A{number}") for number, table in enumerate(paper.EXTERNAL, start=3)]
    sections = [
        Section("Data: Tables 1-3", _of(made, "123")),
        *_data_sections(stage),
        Section("Training", tuple(_training(stage))),
        *result_sections(_scores(stage), made),
        Section("Passages and judges", (*_of(made, "J"), *judged.pictures(_scores(stage)))),
        Section("Case study: Huatuo-26M (Figure 2)", (cases["huatuo"],)),
        Section("Case study: CMExam (Figure 3)", (cases["cmexam"],)),
        Section("One question to all stages", (cases["question"],) if stage.parameters.question else ()),
        Section("Search all records", (browse.section(stage),)),
        Section("Numbers of other papers", tuple(external)),
        Section("Other systems", tuple(systems())),
        Section("Where it comes from", (chain(stage),)),
    ]
    return html.report([one for one in sections if one.parts], target, f"Qilin-Med, run {stage.run_dir.name}")


def _of(made: list[Table], numbers: str) -> tuple[Table, ...]:
    return tuple(table for table in made if table.number[0] in numbers)


def _data_sections(stage: Stage) -> list[Section]:
    """What became of every record; test items and personal data that were found."""
    ledger = files.read_json(stage.parent("01_build_chimed") / "ledger.json")
    mode = read_manifest(stage.run_dir, "01_build_chimed")["parameters"]["decontaminate"]
    notes = accepted(stage.run_dir, "01_build_chimed")
    bars = Picture(figures.ledger_bar(ledger), "Records by source and fate")
    rules = data.deid_score_table(deid_score.score(deid_score.labelled_cases("test")))
    checks = [data.contamination_table(ledger, mode), data.deidentified_table(ledger), rules]
    return [
        Section("Where every record went", with_notes([bars, data.ledger_table(ledger)], notes)),
        Section("Test items in training data, personal data", with_notes(checks, notes)),
    ]


def result_sections(scores: Mapping[str, Any], made: list[Table]) -> list[Section]:
    """The sections that scores.json fills, whatever benchmarks, protocols and models it holds."""
    crosses = "Our scores with 95 % intervals; crosses: the paper's numbers, in rows of their own."
    subjects: Picture | str = breakdowns.no_subjects(scores)
    if not subjects:
        subjects = Picture(figures.subject_accuracy(scores), "C-Eval: accuracy by subject with 95 % intervals")
    cmexam: list[Any] = list(_of(made, "5"))
    # Where items carry no annotations, a note of Table 5 says so.
    if any("department" in entry.get("groups", {}) for entry in scores["cmexam"].values()):
        caption = "CMExam: accuracy by clinical department with 95 % intervals"
        cmexam.append(Picture(figures.group_accuracy(scores), caption))
    usage = breakdowns.usage_table(scores)
    return [
        Section("Ours and the paper's", (Picture(figures.forest(scores), crosses),)),
        Section("C-Eval: Table 4", (*_of(made, "4"), subjects)),
        Section("CMExam: Table 5", tuple(cmexam)),
        Section("Huatuo-26M: Table 6", _of(made, "6")),
        Section("From stage to stage", (*_of(made, "A"), *([usage] if usage else []))),
        Section("ChiMed-GPT", _of(made, "C")),
    ]


def _training(stage: Stage) -> list[Any]:
    """The losses of all trainings, then of each what held-out texts or pairs say."""
    folders = {name: chains.folder(name) for name in stage.parameters.chain}
    logs = {folder: read_log(stage.parent(folder)) for folder in folders.values()}
    parts: list[Any] = [Picture(figures.loss_curves(logs), "Training loss of the stages")]
    for name, folder in folders.items():
        heldout = files.read_json(stage.parent(folder) / "heldout.json")
        # A stage's parameters say how its intervals are drawn.
        drawn = read_manifest(stage.run_dir, folder)["parameters"]
        if chains.method(name) == "dpo":
            facts = stage.facts(folder)
            title = training.method_name(facts) if name == "dpo" else f"{name}, {training.method_name(facts)}"
            curves = figures.dpo_curves(logs[folder], facts.get("step_zero_expected", math.log(2)))
            parts.append(Picture(curves, f"{title}: rewards and log-probabilities on training batches"))
            table = training.preference_table(heldout, facts["beta"], drawn)
        else:
            table = training.perplexity_table(heldout, drawn)
            table = replace(table, title=f"{table.title}: before and after {name.upper()}")
        parts += with_notes([table], accepted(stage.run_dir, folder))
    return parts
