"""A table as a value, and how it is shown: text, HTML, Markdown, LaTeX, CSV.

A cell is a text, a number, or a `Score`: a number with interval, n and the paper's number. Paths are relative to the
run's folder; `prefix` is the way from a page to it ("" for an executed notebook, "../" for a page inside a stage), None
where links would lead nowhere.
"""

from __future__ import annotations

import csv
import io
import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from tabulate import tabulate
from wcwidth import wcswidth, wrap

from qilin_lib.errors import visible
from qilin_lib.files import write_text
from qilin_lib.report.cells import Linked, Score
from qilin_lib.report.markup import TEMPLATES, Html, escape, render
from qilin_lib.report.paper import UNKNOWN, Cell

WIDTH = 120  # columns of a terminal
OPEN_NOTES = 4  # under a table; the others are folded
# Texts that say "there is no number here" and are shown in grey.
ABSENT = ("not available", "no items", "not evaluated", "not in this run", "not counted", "-")
_PATH = re.compile(r"\b\d\d_[a-z_]+(?:/[\w.-]+)*/[\w-]+\.jsonl?\b")


@dataclass(frozen=True, repr=False)
class Table:
    """Rows and columns with notes under them; the number is the paper's own where it begins with "1" to "6".

    `content` holds texts, numbers and Scores; `compact` puts interval and n beside a number, for long tables.
    """

    number: str
    title: str
    content: pd.DataFrame
    notes: Sequence[str] = field(default_factory=list)
    compact: bool = False

    @property
    def heading(self) -> str:
        """Number and title."""
        return f"Table {self.number}. {self.title}" if self.number else self.title

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The table with numbers as numbers: of a Score its value, in a row of the paper's the paper's."""
        return self.content.map(_plain).infer_objects()

    @property
    def words(self) -> pd.DataFrame:
        """The table with every cell as its text on one line."""
        return self.content.map(_word)

    @property
    def cells(self) -> pd.DataFrame:
        """One row per Score: the texts of its row, its column, value, low, high, n, the paper's number and origin, the
        difference, whether the paper's number lies inside the interval, protocol, records file, manifest digest."""
        rows = self._rows()
        return pd.DataFrame(rows).astype({"n": "Int64"}) if rows else pd.DataFrame()

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for row in self.content.to_dict("records"):
            texts = {name.lower(): str(cell) for name, cell in row.items() if not isinstance(cell, Score)}
            rows += [
                {"table": self.number, "model": "", **texts, "column": name, **_cell_row(cell)}
                for name, cell in row.items()
                if isinstance(cell, Score)
            ]
        return rows

    @property
    def texts(self) -> list[bool]:
        """Of each column whether it holds words, which read from the left."""
        return [all(isinstance(cell, str) for cell in self.content[name]) for name in self.content.columns]

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        # An executed notebook lies in the run's folder, so that its links start there.
        return self.html("")._repr_html_()

    def html(self, prefix: str | None = None) -> Html:
        """The table in its scrolling box with caption and notes, every cell escaped, without the style."""
        ours = "From" in self.content.columns
        rows = []
        for row in self.content.itertuples(index=False, name=None):
            mine = ours and any(isinstance(cell, Score) and cell.value is not None for cell in row)
            rows.append((" ".join(["ours"] * mine + ["total"] * ("Total" in row)), list(map(_cell, row))))
        pieces = {"link": anchor, "paths": link_paths, "absent": ABSENT, "opened": OPEN_NOTES, "unknown": UNKNOWN}
        pieces["texts"] = self.texts
        return render("table.html.j2", table=self, rows=rows, prefix=prefix, **pieces)

    def markdown(self, prefix: str | None = None) -> str:
        """A pipe table under a heading, the notes as a list below it."""
        rows = [[_markdown_cell(cell, prefix) for cell in row] for row in self.content.itertuples(index=False)]
        sides = [":---" if left else "---:" for left in self.texts]
        heads = list(map(markdown_text, self.content.columns))
        # tabulate pads for wide letters one by one, which files need not.
        lines = [f"### {markdown_text(self.heading)}", "", _pipe(heads), _pipe(sides)]
        notes = [f"- {link_markdown(markdown_text(note), prefix)}" for note in self.notes]
        return "\n".join([*lines, *map(_pipe, rows), *[""] * bool(notes), *notes]) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX float with booktabs rules; its first line says which packages it needs."""
        rows = [[_latex_cell(cell) for cell in row] for row in self.content.itertuples(index=False)]
        sides = ["l" if left else "r" for left in self.texts]
        heads = [
            _stacked([latex_text(line) for line in textwrap.wrap(name, 16) or [""]], side, "b")
            for name, side in zip(self.content.columns, sides, strict=True)
        ]
        whole = _LATEX.get_template("table.tex.j2").render(table=self, heads=heads, rows=rows, sides="".join(sides))
        chinese = any(unicodedata.east_asian_width(c) in "WF" for c in whole)
        engine = r"with pdflatex also \usepackage[T1]{fontenc}"
        engine = "xelatex or lualatex, xeCJK and a Chinese font" if chinese else engine
        return rf"% Needs \usepackage{{booktabs,graphicx}}; {engine}." + f"\n{whole}\n"

    def csv(self) -> str:
        """`cells` as CSV, or the frame of a table without Scores; nothing in it is run by a spreadsheet."""
        rows = self._rows() or self.frame.astype(object).to_dict("records")
        names = dict.fromkeys(name for row in rows for name in row) or self.frame.columns
        lines = io.StringIO()
        writer = csv.DictWriter(lines, list(names), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _csv_text(value) for name, value in row.items()} for row in rows)
        return lines.getvalue()

    def text(self, width: int = WIDTH) -> str:
        """Plain text within `width` columns of a terminal: columns that do not fit stand in blocks below."""
        blocks = list(_blocks(self, width))
        shown, folded = self.notes[:OPEN_NOTES], self.notes[OPEN_NOTES:]
        if folded:
            shown = [*shown, f"{len(folded)} more: `.notes`, or the HTML and Markdown of the table."]
        notes = [textwrap.fill(f"* {note}", width, subsequent_indent="  ") for note in map(visible, shown)]
        heading = textwrap.fill(visible(self.heading), width)
        return "\n".join([heading, *(f"{block}\n" for block in blocks), *notes]).rstrip() + "\n"


def with_notes(parts: Iterable[Any], notes: Sequence[str]) -> tuple[Any, ...]:
    """`parts` of a page with `notes` before those of every table, where they are not folded."""
    return tuple(replace(part, notes=[*notes, *part.notes]) if isinstance(part, Table) else part for part in parts)


def stem_of(table: Table) -> str:
    """The name of a table's files without their ending, e.g. table_5a."""
    return f"table_{re.sub(r'[^0-9A-Za-z]+', '_', table.number).lower()}"


def write_all(tables: Iterable[Table], out_dir: str | Path, prefix: str = "../") -> list[Path]:
    """Write table_<number>.csv, .md and .tex for each table; returns the paths written.

    The last one is tables.txt with the paper's own tables (a bare number), if any: what a terminal shows.
    """
    out, contents, texts = Path(out_dir), {}, []
    for table in tables:
        stem = stem_of(table)
        contents |= {f"{stem}.csv": table.csv(), f"{stem}.md": table.markdown(prefix), f"{stem}.tex": table.latex()}
        texts += [table.text()] if table.number.isdigit() else []
    contents |= {"tables.txt": "\n\n".join(texts)} if texts else {}
    for name, content in contents.items():
        write_text(out / name, content)
    return [out / name for name in contents]


# --- cells ------------------------------------------------------------------------------------------------------------


def _word(cell: Any) -> str:
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "-" if cell is None else str(cell)


def _plain(cell: Any) -> Any:
    if not isinstance(cell, Score):
        return cell
    return cell.paper.value if cell.value is None and not cell.missing and cell.paper else cell.value


def _cell_row(cell: Score) -> dict[str, Any]:
    paper = cell.paper or Cell(None)
    return {
        **({"model": cell.model} if cell.model else {}),
        **{"value": cell.value, "low": cell.low, "high": cell.high, "n": cell.n},
        "reason": "" if cell.value is not None else cell.parts().get("value", ""),
        "paper": paper.value,
        "paper_origin": paper.origin or (UNKNOWN if cell.paper else ""),
        "difference": cell.difference,
        "paper_inside_interval": cell.agrees,
        **{"protocol": cell.protocol, "records": cell.records, "manifest": cell.manifest},
    }


def _cell(cell: Any) -> Any:
    return cell if isinstance(cell, Score | Linked) else _word(cell)


def _csv_text(cell: Any) -> Any:
    """A cell's value; an apostrophe before text that a spreadsheet would run as a formula."""
    if not isinstance(cell, str):
        return "" if cell is None or cell != cell else cell
    text = visible(cell).replace("\u2212", "-")
    return f"'{text}" if re.match(r"[=+@\t\r]|-[^\d.]", text) else text


# --- text -------------------------------------------------------------------------------------------------------------


def _blocks(table: Table, width: int) -> Iterator[str]:
    """The columns in as many blocks as they need, each behind the columns that name the rows."""
    texts, names = table.texts, list(map(str, table.content.columns))
    keys = next((place for place, left in enumerate(texts) if not left), len(names)) or 1
    # Words share the width if there is nothing else, and leave half of it to numbers.
    room = (width - 2 * len(names)) // len(names) if keys == len(names) else max(12, width // 2 // keys)
    columns = []
    for place, (name, left) in enumerate(zip(names, texts, strict=True)):
        cells = [
            _lines(cell, table.compact, room * (1 + (keys == 1)) if left else width // 2)
            for cell in table.content.iloc[:, place]
        ]
        columns.append(["\n".join(textwrap.wrap(name, 18)), *cells])
    # tabulate leaves two columns beside a heading.
    sizes = [
        max(wcswidth(line) + 2 * (cell is column[0]) for cell in column for line in cell.split("\n"))
        for column in columns
    ]
    groups: list[list[int]] = [[]]
    for place in range(keys, len(columns)):
        shown = [*range(keys), *groups[-1], place]
        if groups[-1] and sum(sizes[p] + 2 for p in shown) > width + 2:
            groups.append([])
        groups[-1].append(place)
    for group in groups:
        places = [*range(keys), *group]
        heads, *rows = zip(*(columns[place] for place in places), strict=True)
        sides = ["left" if texts[place] else "right" for place in places] if rows else None
        yield tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=sides)


def _lines(cell: Any, compact: bool, room: int) -> str:
    """A cell in lines: the parts of a Score on their own unless the table is compact, words wrapped to their room."""
    if not isinstance(cell, Score):
        return "\n".join(wrap(visible(_word(cell)).replace("\n", " "), room)) or " "
    told = cell.parts()
    return (" " if compact else "\n").join(part for part in told.values() if part != f"paper {UNKNOWN}")


# --- links, Markdown, LaTeX -------------------------------------------------------------------------------------------


def anchor(content: str, path: str, prefix: str | None, title: str = "") -> Html:
    """`content` (text) as a link to `path` in the run's folder; the text alone without a prefix."""
    if prefix is None:
        return Html(escape(content))
    told = f' title="{escape(title)}"' if title else ""
    return Html(f'<a href="{escape(prefix + quote(path))}"{told}>{escape(content)}</a>')


def link_paths(text: str, prefix: str | None) -> Html:
    """The text escaped, every file of the run that it names a link."""
    return Html(_PATH.sub(lambda found: anchor(found[0], found[0], prefix), escape(text)))


def link_markdown(text: str, prefix: str | None) -> str:
    """Markdown in which every file of the run that it names has become a link."""
    return _PATH.sub(lambda found: _markdown_link(found[0], found[0], prefix), text)


def _markdown_link(text: str, path: str, prefix: str | None) -> str:
    return text if prefix is None else f"[{text}]({prefix}{quote(path)})"


def markdown_text(text: object) -> str:
    """`text` as Markdown shows it word for word."""
    # "](" would make a link of what a data set or a model says.
    escaped = visible(text).replace("\\", "\\\\").replace("|", "\\|").replace("](", "]\\(")
    return re.sub(r"\s*\n\s*", "<br>", escaped.replace("<", "&lt;").replace(">", "&gt;"))


def _pipe(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _markdown_cell(cell: Any, prefix: str | None) -> str:
    if isinstance(cell, Linked):
        return _markdown_link(markdown_text(cell), cell.path, prefix)
    if not isinstance(cell, Score):
        return markdown_text(_word(cell))
    told = cell.parts()
    if cell.records and cell.value is not None:
        told["value"] = _markdown_link(told["value"], cell.records, prefix)
        told["n"] = _markdown_link(told["n"], cell.stage_manifest, prefix) if "n" in told else ""
    number = " ".join(filter(None, (told.get("value"), told.get("interval"))))
    return "<br>".join(filter(None, (number, told.get("n"), told.get("paper"))))


_SPECIAL = {c: f"\\{c}" for c in "{}#$%&_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "\u2212": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "·": r"\textperiodcentered{}",
    "…": r"\ldots{}",
    "\n": " ",
}


class Tex(str):
    """LaTeX whose foreign text has been escaped."""


def latex_text(text: object) -> Tex:
    """`text` with LaTeX's special characters escaped; control characters, which end a run of TeX, become "?"."""
    if isinstance(text, Tex):
        return text
    return Tex("".join(_SPECIAL.get(c) or ("?" if unicodedata.category(c) in "Cc Cf" else c) for c in str(text)))


def _stacked(lines: Sequence[str], side: str = "r", place: str = "t") -> Tex:
    """Lines on top of each other in one cell, set to its left or right; the first (t) or last (b) leads."""
    if len(lines) == 1:
        return Tex(lines[0])
    return Tex(rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}" + r"\\".join(lines) + r"\end{tabular}")


def _latex_cell(cell: Any) -> Tex:
    if not isinstance(cell, Score):
        return latex_text(_word(cell))
    told = {part: latex_text(text) for part, text in cell.parts().items()}
    interval = rf"\,{{\scriptsize{told['interval']}}}" if "interval" in told else ""
    number, below = told.get("value", "") + interval, "; ".join(told[p] for p in ("n", "paper") if p in told)
    if not (number and below):
        return Tex(number or below)
    return _stacked([number, rf"{{\tiny {below}}}"])


def _breakable(note: str) -> Tex:
    # Paths have no blank at which TeX could break the line.
    return Tex(re.sub(r"(?<=\w)/(?=\w|\\)", r"/\\allowbreak{}", latex_text(note)))


def _latex_row(cells: Sequence[Tex]) -> Tex:
    return Tex(" & ".join(cells) + r" \tabularnewline")


_MARKS = {"block_start_string": "<%", "block_end_string": "%>", "variable_start_string": "<<"}
_MARKS |= {"variable_end_string": ">>", "comment_start_string": "<#", "comment_end_string": "#>"}
# `finalize` escapes for LaTeX whatever a template fills in.
_LATEX = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), finalize=latex_text, trim_blocks=True, autoescape=False, **_MARKS
)
_LATEX.filters |= {"tex": Tex, "row": _latex_row, "breakable": _breakable}
