"""A table as a value, and its three dresses: plain text (terminal), HTML (notebook, report), Markdown (repository)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from qilin_lib.files import write_text
from qilin_lib.report.markup import TABLE_STYLE, Html, escape, styled

# Cells that say "there is no number here" and are shown in grey.
ABSENT = ("not available", "no items", "not evaluated", "not in this run", "not counted", "no paper row", "-")
OURS = "this run"
# Columns of words, which read from the left; all others hold numbers.
WORDS = frozenset(
    (
        "Type,Dataset,Our sources,Model,From,Benchmark,Metric,Compared,Stage,Status,Digest,Stands on,Git commit,"
        "Set,Feeds,Licence,Reason,Place,Begins with,Split,What,Value"
    ).split(",")
)


@dataclass(frozen=True)
class Table:
    """A table of text cells with notes under it. `number` is the paper's own for "1" to "6", empty for one without."""

    number: str
    title: str
    frame: pd.DataFrame
    notes: list[str] = field(default_factory=list)

    @property
    def heading(self) -> str:
        return f"Table {self.number}. {self.title}" if self.number else self.title

    def _repr_html_(self) -> str:
        return to_html(self)


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
    return "\n".join([table.heading, rule, lines[0], rule, *lines[1:], rule, *(f"* {n}" for n in table.notes)]) + "\n"


def _classes(**wanted: bool) -> str:
    names = " ".join(name for name, on in wanted.items() if on)
    return f' class="{names}"' if names else ""


def _cell_html(cell: str, left: bool) -> str:
    # Interval and n go below their number, so that seven metrics fit side by side.
    score = re.fullmatch(r"(\S+) (\[[^]]*\]) (\(n=\d+\))", cell)
    body = "{} <small>{}</small> <small>{}</small>".format(*map(escape, score.groups())) if score else escape(cell)
    return f"<td{_classes(left=left, none=cell in ABSENT)}>{body}</td>"


def body_html(table: Table) -> Html:
    """The table in its scrolling box with caption and notes, every cell escaped, without the style."""
    columns = list(table.frame.columns)
    head = "".join(f"<th{_classes(left=c in WORDS)}>{escape(c)}</th>" for c in columns)
    rows = []
    for row in table.frame.astype(str).itertuples(index=False):
        cells = "".join(_cell_html(cell, column in WORDS) for column, cell in zip(columns, row, strict=True))
        rows.append(f"<tr{_classes(ours=OURS in row, total='Total' in row)}>{cells}</tr>")
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    return Html(
        f'<div class="qm-table"><div class="caption">{escape(table.heading)}</div>'
        f'<div class="scroll" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</div>"
    )


def to_html(table: Table) -> Html:
    """The table with its own scoped style, for a notebook cell."""
    return styled(TABLE_STYLE, body_html(table))


def _markdown_cell(cell: object) -> str:
    text = str(cell).replace("\\", "\\\\").replace("|", "\\|")
    return re.sub(r"\s*\n\s*", "<br>", re.sub(r"[<>]", lambda m: {"<": "&lt;", ">": "&gt;"}[m[0]], text))


def to_markdown(table: Table) -> str:
    """A pipe table under a heading, the notes as a list below it."""
    columns = list(table.frame.columns)
    lines = [f"### {_markdown_cell(table.heading)}", ""]
    lines.append("| " + " | ".join(map(_markdown_cell, columns)) + " |")
    lines.append("|" + "|".join(":---" if c in WORDS else "---:" for c in columns) + "|")
    for row in table.frame.itertuples(index=False):
        lines.append("| " + " | ".join(map(_markdown_cell, row)) + " |")
    notes = [f"- {_markdown_cell(note)}" for note in table.notes]
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def write_all(tables: Iterable[Table], out_dir: str | Path) -> list[Path]:
    """Write table_<number>.csv and .md for each table and one tables.txt with all; returns the paths written."""
    out, written, texts = Path(out_dir), [], []
    for table in tables:
        stem = f"table_{re.sub(r'[^0-9A-Za-z]+', '_', table.number).lower()}"
        for suffix, content in ((".csv", table.frame.to_csv(index=False)), (".md", to_markdown(table))):
            write_text(out / f"{stem}{suffix}", content)
            written.append(out / f"{stem}{suffix}")
        texts.append(to_text(table))
    write_text(out / "tables.txt", "\n\n".join(texts))
    return [*written, out / "tables.txt"]
