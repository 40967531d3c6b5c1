"""Showing notebook 01: sources, one example record, what was dropped and why, what was de-identified."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.records import Record
from qilin_lib.chimed.sources import BY_NAME, inventory, units
from qilin_lib.errors import QilinError
from qilin_lib.report.layout import Table
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.report.tokens import box


def sources_table(raw: Path) -> Table:
    """Every registered source: whether its folder is there, the paper's row, the sets it feeds, its licence."""
    rows = []
    for name, state in inventory(raw).items():
        source = BY_NAME.get(name)
        feeds = dict.fromkeys(kind for feed in source.feeds for kind in feed.rows) if source else ["-"]
        rows.append([name, state, ", ".join(feeds), source.licence if source else "-", source.home if source else "-"])
    columns = ["Dataset", "Status", "Feeds", "Licence", "From"]
    return Table("", f"Sources below {raw.name}", pd.DataFrame(rows, columns=columns, dtype=str))


def example(raw: Path, name: str, kind: str = "sft") -> Html:
    """The first readable record of a source, and what it becomes in set `kind`."""
    for unit in units(BY_NAME[name], raw, (kind,)):
        if isinstance(unit.read, Record):
            made = compose(kind, unit.read.payload) or {}
            turns = "".join(box(turn["role"], turn["content"]) for turn in made.get("messages", []))
            head = f"<div class='head'>{escape(name)}<span>{escape(unit.read.file)}, line {unit.read.line}</span></div>"
            return styled(CASE_STYLE, f"<div class='qm-case'>{head}{turns}</div>")
    return Html(f"<p>{escape(name)} has no record that feeds {escape(kind)} in this raw folder.</p>")


def ledger_table(ledger: Mapping[str, Any]) -> Table:
    """One line a source and set; every line adds up to what was read."""
    names = ("source", "set", "read", "kept", "rejected", "duplicate", "contaminated", "excluded", "deidentified")
    rows = [[_count(row[name]) for name in names] for row in ledger["sources"]]
    total = ["all", "", *(_sum(ledger, name) for name in names[2:])]
    notes = [
        "read = kept + rejected + duplicate + contaminated + excluded; de-identified counts placeholders, not records"
    ]
    if ledger.get("hits"):
        hits = ", ".join(f"{name} {count}" for name, count in ledger["hits"].items())
        notes.append(f"training records that held a test item, by benchmark: {hits}")
    frame = pd.DataFrame([*rows, total], columns=["Dataset", "Set", *names[2:]], dtype=str)
    return Table("", "Ledger", frame, notes)


def _count(value: Any) -> str:
    return (
        f"{sum(value.values()):,}"
        if isinstance(value, Mapping)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )


def _sum(ledger: Mapping[str, Any], name: str) -> str:
    values = (row[name] for row in ledger["sources"])
    return f"{sum(sum(value.values()) if isinstance(value, Mapping) else value for value in values):,}"


def kept(ledger: Mapping[str, Any]) -> dict[str, int]:
    """Records kept by set; QilinError names the source and set whose counts do not add up."""
    result: dict[str, int] = {}
    for row in ledger["sources"]:
        rest = row["duplicate"] + row["contaminated"] + row["excluded"]
        accounted = row["kept"] + sum(row["rejected"].values()) + rest
        if row["read"] != accounted:
            raise QilinError(
                f"ledger of {row['source']} in {row['set']}: {row['read']} read, {accounted} accounted for"
            )
        result[row["set"]] = result.get(row["set"], 0) + row["kept"]
    return result


def dropped_table(path: Path, each: int = 2) -> Table:
    """Some records that were not kept, `each` a reason, with file and line."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for row in files.read_jsonl(path):
        found = shown.setdefault(row["reason"], [])
        if len(found) < each and row["file"] not in {other["file"] for other in found}:
            found.append(row)
    rows = [
        [reason, row["source"], f"{row['file']}, line {row['line']}", row["excerpt"][:32]]
        for reason, some in sorted(shown.items())
        for row in islice(some, each)
    ]
    return Table(
        "-", "Not kept, by reason", pd.DataFrame(rows, columns=["Reason", "Dataset", "Place", "Begins with"], dtype=str)
    )


def deidentified_table(ledger: Mapping[str, Any]) -> Table:
    """Placeholders by type and source."""
    sources = [row for row in ledger["sources"] if row["deidentified"]]
    kinds = sorted({kind for row in sources for kind in row["deidentified"]})
    rows = [[row["source"], row["set"], *(str(row["deidentified"].get(kind, 0)) for kind in kinds)] for row in sources]
    return Table("", "Placeholders", pd.DataFrame(rows, columns=["Dataset", "Set", *kinds], dtype=str))
