"""A table as a value, and its dresses: text (terminal), HTML (notebook, report), Markdown, LaTeX and CSV (files).

A cell is a text, or a `Score` or `Linked` of `cells`, which know their own dresses.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib.files import write_text
from qilin_lib.report.cells import Linked, Score, link_markdown, link_paths
from qilin_lib.report.latex import latex_heading, latex_table, latex_text
from qilin_lib.report.markup import TABLE_STYLE, Html, escape, styled, visible

# Cells that say "there is no number here" and are shown in grey.
ABSENT = ("not available", "no items", "not evaluated", "not in this run", "not counted", "no paper row", "-")
# Columns of words, which read from the left; all others hold numbers.
WORDS = frozenset(
    (
        "Type,Dataset,Our sources,Model,From,Benchmark,Metric,Compared,Stage,Status,Digest,Stands on,Git commit,"
        "Set,Feeds,Licence,Reason,Place,Begins with,Split,Protocols,What,Value,Variant,English,Statement,Subscale"
    ).split(",")
)


@dataclass(frozen=True, repr=False)
class Table:
    """A table with notes under it. `number` begins with the paper's own for "1" to "6", empty for one without."""

    number: str
    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    compact: bool = False
    """Interval and n beside the number instead of below it: for long tables."""

    @property
    def heading(self) -> str:
        return f"Table {self.number}. {self.title}" if self.number else self.title

    def __repr__(self) -> str:
        return to_text(self)

    def _repr_html_(self) -> str:
        # An executed notebook lies in the run's folder, so that its links start there.
        return to_html(self, "")


def with_notes(parts: Iterable[Any], notes: list[str]) -> tuple[Any, ...]:
    """`parts` of a page with `notes` added under every table."""
    return tuple(replace(part, notes=[*part.notes, *notes]) if isinstance(part, Table) else part for part in parts)


def width(text: str) -> int:
    """Columns a terminal needs for `text`: two for wide and full-width characters, none for combining marks."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in str(text)
    )


def _pad(text: str, size: int, left: bool) -> str:
    gap = " " * (size - width(text))
    return text + gap if left else gap + text


def to_text(table: Table) -> str:
    """Aligned plain text; Chinese characters count as two columns wide, a line break in a cell becomes a blank."""
    rows = [list(map(str, table.frame.columns)), *(list(map(str, row)) for row in table.frame.itertuples(index=False))]
    sizes = [max(map(width, column)) for column in zip(*rows, strict=True)]
    left = [column in WORDS for column in table.frame.columns]
    lines = [
        "  ".join(_pad(*cell) for cell in zip([c.replace("\n", " ") for c in row], sizes, left, strict=True)).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(width, lines))
    lines = [table.heading, rule, lines[0], rule, *lines[1:], rule, *(f"* {note}" for note in table.notes)]
    return visible("\n".join(lines)) + "\n"


def _classes(**wanted: bool) -> str:
    names = " ".join(name for name, on in wanted.items() if on)
    return f' class="{names}"' if names else ""


def _cell_html(cell: Any, left: bool, prefix: str | None) -> str:
    if isinstance(cell, Score | Linked):
        return f"<td{_classes(left=left, none=str(cell) in ABSENT)}>{cell.html(prefix)}</td>"
    # Interval and n go below their number, so that seven metrics fit side by side.
    score = re.fullmatch(r"(\S+) (\[[^]]*\]) (\(n=\d+\))", str(cell))
    body = "{} <small>{}</small> <small>{}</small>".format(*map(escape, score.groups())) if score else escape(cell)
    return f"<td{_classes(left=left, none=cell in ABSENT)}>{body}</td>"


def _is_ours(columns: list[str], row: tuple[Any, ...]) -> bool:
    """Whether the row of a table that mixes the paper's rows with ours holds a number of ours."""
    return "From" in columns and any(isinstance(cell, Score) and cell.known for cell in row)


def body_html(table: Table, prefix: str | None = None) -> Html:
    """The table in its scrolling box with caption and notes, every cell escaped, without the style.

    `prefix`: the way from the page to the run's folder, for links; None = no links.
    """
    columns = list(table.frame.columns)
    head = "".join(f"<th{_classes(left=c in WORDS)}>{escape(c)}</th>" for c in columns)
    rows = []
    for row in table.frame.itertuples(index=False, name=None):
        cells = "".join(_cell_html(cell, column in WORDS, prefix) for column, cell in zip(columns, row, strict=True))
        rows.append(f"<tr{_classes(ours=_is_ours(columns, row), total='Total' in row)}>{cells}</tr>")
    notes = "".join(f"<li>{link_paths(note, prefix)}</li>" for note in table.notes)
    return Html(
        f'<div class="qm-table{" compact" if table.compact else ""}"><div class="caption">{escape(table.heading)}</div>'
        f'<div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )


def to_html(table: Table, prefix: str | None = None) -> Html:
    """The table with its own scoped style, for a notebook cell; `prefix` as in `body_html`."""
    return styled(TABLE_STYLE, body_html(table, prefix))


def markdown_text(text: object) -> str:
    """`text` as Markdown shows it word for word."""
    # "](" would make a link of what a data set or a model says.
    escaped = str(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return re.sub(r"\s*\n\s*", "<br>", re.sub(r"[<>]", lambda m: {"<": "&lt;", ">": "&gt;"}[m[0]], escaped))


def _markdown_cell(cell: Any, prefix: str | None) -> str:
    return cell.markdown(prefix) if isinstance(cell, Score | Linked) else markdown_text(cell)


def to_markdown(table: Table, prefix: str | None = None) -> str:
    """A pipe table under a heading, the notes as a list below it; `prefix` as in `body_html`."""
    columns = list(table.frame.columns)
    lines = [f"### {markdown_text(table.heading)}", ""]
    lines.append("| " + " | ".join(map(markdown_text, columns)) + " |")
    lines.append("|" + "|".join(":---" if c in WORDS else "---:" for c in columns) + "|")
    for row in table.frame.itertuples(index=False, name=None):
        lines.append("| " + " | ".join(_markdown_cell(cell, prefix) for cell in row) + " |")
    notes = [f"- {link_markdown(markdown_text(note), prefix)}" for note in table.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def to_latex(table: Table) -> str:
    """The table as a LaTeX float with booktabs rules; its first line says which packages it needs."""
    left = [column in WORDS for column in table.frame.columns]
    rows = [[latex_heading(column, "l" if side else "r") for column, side in zip(table.frame, left, strict=True)]]
    for row in table.frame.itertuples(index=False, name=None):
        cells = [cell.latex() if isinstance(cell, Score | Linked) else latex_text(str(cell)) for cell in row]
        rows.append(cells)
    return latex_table(table.number, table.title, left, rows, table.notes)


def to_csv(table: Table) -> str:
    """The cells as CSV; a table of scores in long form: a line per score with interval, n and the paper's number.

    The row's words (model, group, English name …) stand in columns of their own, under their headings in lower case.
    """
    rows = []
    for row in table.frame.itertuples(index=False, name=None):
        cells = dict(zip(table.frame.columns, row, strict=True))
        words = {name.lower(): _csv_text(cell) for name, cell in cells.items() if not isinstance(cell, Score)}
        scores = {name: cell.row() for name, cell in cells.items() if isinstance(cell, Score)}
        rows += [{"table": table.number, "model": "", **words, "column": name, **own} for name, own in scores.items()]
    # Int64 knows missing values; as a float, n would read "500.0".
    return (pd.DataFrame(rows).astype({"n": "Int64"}) if rows else table.frame).to_csv(index=False)


def _csv_text(cell: Any) -> str:
    """A cell's text; an apostrophe before what a spreadsheet would run as a formula."""
    text = str(cell)
    return f"'{text}" if re.match(r"[=+@\t\r]|-[^\d.]", text) else text


def stem_of(table: Table) -> str:
    """The name of a table's files without their ending, e.g. table_5a."""
    return f"table_{re.sub(r'[^0-9A-Za-z]+', '_', table.number).lower()}"


def write_all(tables: Iterable[Table], out_dir: str | Path, prefix: str = "../") -> list[Path]:
    """Write table_<number>.csv, .md and .tex for each table; returns the paths written.

    The last one is tables.txt with the paper's own tables (a bare number), which is what a terminal shows.
    """
    out, written, texts = Path(out_dir), [], []
    for table in tables:
        stem = stem_of(table)
        dresses = {".csv": to_csv(table), ".md": to_markdown(table, prefix), ".tex": to_latex(table)}
        for suffix, content in dresses.items():
            write_text(out / f"{stem}{suffix}", content)
            written.append(out / f"{stem}{suffix}")
        texts += [to_text(table)] if table.number.isdigit() else []
    write_text(out / "tables.txt", "\n\n".join(texts))
    return [*written, out / "tables.txt"]
