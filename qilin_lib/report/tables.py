"""Tables 1-6 of the paper with our numbers beside the paper's, and what each number rests on written under the table.

Tables 1-3 are made here from 01_build_chimed/ledger.json and 02_tokenize/token_counts.json, Tables 4-6 by
`benchmark_tables` and `breakdowns` from 06_eval/scores.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from qilin_lib.report.benchmark_tables import key, paper_notes, released_tables, table4, table5, table6  # noqa: F401
from qilin_lib.report.breakdowns import (  # noqa: F401
    category_table,
    group_tables,
    no_subjects,
    paired_table,
    usage_table,
    variant_table,
)
from qilin_lib.report.cells import Linked, Source, paper_text, score_text, signed  # noqa: F401
from qilin_lib.report.external import ExternalTable
from qilin_lib.report.layout import Table, to_html, to_latex, to_markdown, to_text, write_all  # noqa: F401
from qilin_lib.report.paper import TABLE_1, TABLE_2, TABLE_3, PaperTable, Row

# --- Tables 1-3: the data -------------------------------------------------------------------------------------------


LEDGER, COUNTS = "01_build_chimed/ledger.json", "02_tokenize/token_counts.json"
Digests = Mapping[str, str]
"""{stage: digest of its manifest}, empty while the stages are being made."""


def table1(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-CPT by data set: samples, tokens and MB of ours, the paper's, and the difference where both are known."""
    return _data_table(TABLE_1, "cpt", ledger, tokens, digests or {})


def table2(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-SFT by data set, as `table1`."""
    return _data_table(TABLE_2, "sft", ledger, tokens, digests or {})


def table3(ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests | None = None) -> Table:
    """ChiMed-DPO by data set, as `table1`; a sample is one (prompt, chosen, rejected) triplet."""
    return _data_table(TABLE_3, "dpo", ledger, tokens, digests or {})


def _data_table(
    table: PaperTable, part: str, ledger: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests
) -> Table:
    entries = [entry for entry in key(ledger, "sources", "ledger.json") if entry["set"] == part]
    counts = tokens.get(part, {})
    owner = {entry["source"]: _owner(table, entry) for entry in entries}
    # A difference can stand only where the paper gives a number at all.
    compared = [name for name in table.columns if any(row.cells[name].value is not None for row in table.rows)]

    def line(kind: str, label: str, sources: str, mine: list[Mapping[str, Any]], row: Row | None) -> list[Any]:
        ours = _ours(mine, counts)
        theirs = ["no paper row"] * 3 if row is None else [paper_text(cell) for cell in row.cells.values()]
        gaps = [_gap(ours.get(name), row, name) for name in compared]
        return [kind, label, sources, *_cells(ours, digests), *theirs, *gaps]

    rows = [
        line(row.group, row.label, _sources(mine), mine, row)
        for row in table.rows[:-1]
        for mine in [[entry for entry in entries if owner[entry["source"]] is row]]
    ]
    further = [entry for entry in entries if owner[entry["source"]] is None]
    rows += [line("Further", entry["source"], entry["source"], [entry], None) for entry in further]
    rows.append(line("", "Total", f"{len(entries)} sources", entries, table.rows[-1]))
    columns = ["Type", "Dataset", "Our sources", "Samples (ours)", "Tokens (ours)", "Size MB (ours)"]
    columns += [f"{heading.capitalize()} (paper)" for heading in table.columns.values()]
    columns += [f"{HEADINGS[name]}, ours \u2212 paper" for name in compared]
    notes = [*_ledger_notes(entries, counts, tokens, digests), *paper_notes(table)]
    return Table(str(table.number), table.title, pd.DataFrame(rows, columns=columns, dtype=object), notes)


HEADINGS = {"samples": "Samples", "tokens": "Tokens", "size_mb": "Size MB"}


def _owner(table: PaperTable, entry: Mapping[str, Any]) -> Row | None:
    """The paper's row that a ledger entry belongs to: by the row its reader names, else by its folder."""
    named = str(entry.get("table_row") or "").casefold()
    for row in table.rows[:-1]:
        if named == row.label.casefold():
            return row
    return next((row for row in table.rows[:-1] if entry["source"] in row.sources), None)


def _sources(entries: list[Mapping[str, Any]]) -> str:
    return ", ".join(sorted(entry["source"] for entry in entries)) or "-"


def _ours(entries: list[Mapping[str, Any]], counts: Mapping[str, Any]) -> dict[str, float | None]:
    """Samples, tokens, MB of some ledger entries. Tokens are given only when every kept source was counted."""
    if not entries:
        return {}
    kept = [entry["source"] for entry in entries if entry["kept"]]
    counted = all(source in counts for source in kept)
    return {
        "samples": sum(entry["kept"] + entry.get("elsewhere", 0) for entry in entries),
        "tokens": sum(counts[source]["tokens"] for source in kept) if counted else None,
        "size_mb": sum(entry["bytes_kept"] for entry in entries) / 1e6,
    }


def _cells(ours: Mapping[str, float | None], digests: Digests) -> list[Any]:
    if not ours:
        return ["not in this run"] * 3
    ledger = Source(LEDGER, digests.get("01_build_chimed", ""))
    counts = Source(COUNTS, digests.get("02_tokenize", ""))
    tokens = "not counted" if ours["tokens"] is None else Linked(f"{ours['tokens']:,}", counts)
    return [Linked(f"{ours['samples']:,}", ledger), tokens, Linked(_megabytes(ours["size_mb"]), ledger)]


def _gap(ours: float | None, row: Row | None, name: str) -> str:
    theirs = None if row is None else row.cells[name].value
    return "-" if ours is None or theirs is None else signed(ours - theirs, 1 if name == "size_mb" else 0)


def _megabytes(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3f}"


def _ledger_notes(
    entries: list[Mapping[str, Any]], counts: Mapping[str, Any], tokens: Mapping[str, Any], digests: Digests
) -> list[str]:
    def total(column: str) -> int:
        return sum(entry[column] for entry in entries)

    rejected = sum(sum(entry["rejected"].values()) for entry in entries)
    notes = [
        f"Our samples and sizes: {LEDGER}{_stamp(digests, '01_build_chimed')}; MB = 10^6 bytes of UTF-8. Read "
        f"{total('read'):,} = kept {total('kept'):,} + rejected {rejected:,} + duplicate {total('duplicate'):,} + "
        f"contaminated {total('contaminated'):,} + excluded {total('excluded'):,} + merged {total('merged'):,}; "
        f"{total('substring_chars'):,} characters were cut out of kept records as repeated substrings.",
        f"Our tokens: {COUNTS}{_stamp(digests, '02_tokenize')}, tokenizer {tokens.get('tokenizer', 'not recorded')}.",
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


# --- shared -----------------------------------------------------------------------------------------------------------


def external_table(table: ExternalTable, number: str) -> Table:
    """Another project's table as it printed it, labelled with its origin; numbered by the caller ("5a")."""
    # As printed: every column with as many decimals as its longest number ("16.90", not "16.9").
    columns = list(zip(*(values for _, values in table.rows), strict=True))
    decimals = [max(len(str(v).partition(".")[2]) for v in column if v is not None) for column in columns]
    rows = []
    for name, values in table.rows:
        cells = ["-" if v is None else f"{v:.{d}f}" for v, d in zip(values, decimals, strict=True)]
        rows.append([name, "external", *cells])
    frame = pd.DataFrame(rows, columns=["Model", "From", *table.columns], dtype=str)
    notes = [f"Origin: {table.origin}.", "Metric code differs from ours: compare within this table only."]
    return Table(number, table.title, frame, notes)


def _stamp(digests: Digests, stage: str) -> str:
    return f" ({stage}/manifest.json {digests[stage][:12]})" if stage in digests else ""
