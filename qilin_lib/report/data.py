"""Showing notebook 01: sources, one example record, the ledger, what was dropped and why, leaks, personal data."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.deid_score import ALL, Row
from qilin_lib.chimed.items import BENCHMARKS, RULES
from qilin_lib.chimed.leaks import Recall
from qilin_lib.chimed.readers.find import printable
from qilin_lib.chimed.records import Record
from qilin_lib.chimed.sources import BY_NAME, all_unread, inventory, listed, units
from qilin_lib.errors import QilinError, nearest
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.frames import count
from qilin_lib.report.markup import Html, conversation_card, macro
from qilin_lib.report.render import Table, table, view
from qilin_lib.report.tables import FATES


def sources_table(raw: Path) -> Table:
    """Every registered source: whether its folder is there, the sets it feeds, its licence; below, what is not read."""
    rows, left = [], all_unread(raw)
    for name, state in inventory(raw).items():
        source = BY_NAME.get(name)
        if state == "present" and name in left:
            state += f", {len(left[name])} file{'s' * (len(left[name]) > 1)} not read"
        if state == "unknown":
            state += nearest(name.lower(), BY_NAME)
        feeds = dict.fromkeys(kind for feed in source.feeds for kind in feed.rows) if source else ["-"]
        about = (" + ".join(source.licences()), source.home) if source else ("-", "-")
        rows.append([printable(name), state, ", ".join(feeds), *about])
    notes = [f"not read in {name}: {listed(files)}" for name, files in left.items()]
    return view("data", "sources", rows, (), notes, folder=raw.name)


def example(raw: Path, name: str) -> Html:
    """The first readable record of a source, and what it becomes in ChiMed-SFT."""
    for unit in units(BY_NAME[name], raw, ("sft",)):
        if isinstance(unit.read, Record):
            made = compose("sft", unit.read.payload) or {}
            return conversation_card(name, made.get("messages", []), f"{unit.read.file}, line {unit.read.line}")
    return macro("paragraph", f"{name} has no record that feeds sft in this raw folder.")


def ledger_table(ledger: Mapping[str, Any]) -> Table:
    """A row per source and set, each adding up to what was read; the sum of all in the last."""
    names = ("read", *FATES, "substring_chars", "deidentified")
    counts = [[count(row[name]) for name in names] for row in ledger["sources"]]
    rows = [[row["source"], row["set"], *line] for row, line in zip(ledger["sources"], counts, strict=True)]
    rows.append(["Total", "", *(sum(column) for column in zip(*counts, strict=True))])
    notes = [f"{name}: {listed(files)}" for name, files in ledger.get("notes", {}).items()]
    return view("data", "ledger", rows, [*FATES, "substring", "deidentified"], notes, fates=" + ".join(FATES))


def kept(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Records kept by set; QilinError names the source and set whose counts do not add up."""
    result: Counter[str] = Counter()
    for row in ledger["sources"]:
        accounted = sum(count(row[name]) for name in FATES)
        if row["read"] != accounted:
            raise QilinError(
                f"ledger of {row['source']} in {row['set']}: {row['read']} read, {accounted} accounted for"
            )
        result[row["set"]] += row["kept"]
    return dict(result)


def contamination_table(ledger: Mapping[str, Any], decontaminate: bool | str = True) -> Table:
    """Training records that held a benchmark item, by source, benchmark and rule; `decontaminate` is the build's.

    Benchmarks that the raw folder does not have, or of which nothing was read, are named below the table.
    """
    rows = {row["source"]: row["kept"] for row in ledger["sources"] if row["set"] == "eval"}
    items = {name: rows.get(source, 0) for source, name in BENCHMARKS.items()}
    there = [name for name in BENCHMARKS.values() if items[name]]
    columns = ["Dataset", *there, "all", *(f"by {rule}" for rule in RULES)]
    title = "Training records that held a benchmark item"
    if not decontaminate:
        blank = [Score(missing="not counted")] * (len(columns) - 1)
        return table(title, [["Total", *blank]], columns, ["decontaminate: false: nothing was compared"])
    hits, rules = (pd.DataFrame.from_dict(ledger.get(name, {}), orient="index") for name in ("hits", "rules"))
    parts = [hits.reindex(columns=there), hits.sum(axis=1), rules.reindex(index=hits.index, columns=list(RULES))]
    found = pd.concat(parts, axis=1).fillna(0).astype(int)
    found.loc["Total"] = found.sum()
    lines = found.astype(object).reset_index().to_numpy().tolist()
    present = {*rows, *ledger.get("unread", {})}
    empty = {source: name for source, name in BENCHMARKS.items() if not items[name]}
    lists = {
        "compared with": [f"{items[name]:,} items of {name}" for name in there] or ["no benchmark"],
        "not compared, because the raw folder does not have them:": [empty[s] for s in empty if s not in present],
        "not compared, because their folders are there but nothing in them was read as a test item:": [
            empty[s] for s in empty if s in present
        ],
    }
    fate = "kept all the same (decontaminate: report)" if decontaminate == "report" else "left out of every set"
    notes = [f"{lead} {', '.join(names)}" for lead, names in lists.items() if names]
    return table(title, lines, columns, [*notes, *sentences("data", "compared_with", fate=fate)])


def leak_recall_table(rows: Iterable[Recall]) -> Table:
    """Leaks made of the benchmarks' own items: percent found by kind and benchmark, with Wilson 95 % interval."""
    cells: dict[str, dict[str, Recall]] = {}
    for row in rows:
        cells.setdefault(row.kind, {})[row.benchmark] = row
    there = list(dict.fromkeys(name for found in cells.values() for name in found))
    lines = []
    for kind, found in cells.items():
        each = [Score.share(found[name].found, found[name].made) if name in found else Score() for name in there]
        total = Score.share(sum(row.found for row in found.values()), sum(row.made for row in found.values()))
        lines.append([kind, *each, total])
    return view("data", "recall", lines, [*there, "all"])


def dropped_table(path: Path, each: int = 2) -> Table:
    """Lines of dropped.jsonl with file and line, `each` a reason, drawn at random (the same every time)."""
    draw = random.Random("dropped")
    counts: Counter[str] = Counter()
    shown: dict[str, list[dict[str, Any]]] = {}
    # Algorithm R (Vitter 1985): one pass, and no more than `each` lines a reason in memory.
    for row in files.read_jsonl(path):
        sample = shown.setdefault(row["reason"], [])
        counts[row["reason"]] += 1
        if len(sample) < each:
            sample.append(row)
        elif (place := draw.randrange(counts[row["reason"]])) < each:
            sample[place] = row
    rows = [
        [reason, counts[reason], row["source"], row["set"], f"{row['file']}, line {row['line']}", row["excerpt"][:32]]
        for reason in sorted(shown)
        for row in shown[reason]
    ]
    return view("data", "dropped", rows, lines=counts.total(), file=path.name, each=each)


def deidentified_table(ledger: Mapping[str, Any]) -> Table:
    """Placeholders by type and source."""
    sources = [row for row in ledger["sources"] if row["deidentified"]]
    kinds = sorted({kind for row in sources for kind in row["deidentified"]})
    rows = [[row["source"], row["set"], *(row["deidentified"].get(kind, 0) for kind in kinds)] for row in sources]
    return view("data", "deidentified", rows, kinds)


def deid_score_table(rows: Iterable[Row], texts: str = "labelled sentences") -> Table:
    """De-identification of `texts`: precision, recall and F1 by type, in percent with 95 % intervals."""
    cells = []
    for row in rows:
        replaced = row.true_positives + row.false_positives
        jaccard = Score.share(row.true_positives, replaced + row.false_negatives)
        bounds = {name: getattr(jaccard, name) for name in ("value", "low", "high")}
        # F1 = 2J / (1 + J), which grows with J: the interval goes through the same formula.
        f1 = {name: None if value is None else 200 * value / (100 + value) for name, value in bounds.items()}
        scores = [Score.share(row.true_positives, replaced), Score.share(row.true_positives, row.labelled)]
        scores += [Score(n=jaccard.n, **f1), Score.share(row.covered, row.labelled)]
        cells.append(["Total" if row.type == ALL else row.type, row.labelled, *scores])
    return view("data", "rules", cells, texts=texts)
