"""A table as a value, and how it is shown: text, HTML, Markdown, LaTeX, CSV.

A cell is a text, a number, or a `Score`: a number with interval, n and the paper's number. Paths are relative to the
run's folder; `prefix` is the way from a page to it ("" for an executed notebook, "../" for a page inside a stage), None
where links would lead nowhere.
"""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from tabulate import tabulate
from wcwidth import wcswidth, wrap

from qilin_lib.errors import visible
from qilin_lib.files import write_text
from qilin_lib.report.cells import WORDS, Linked, Score, sentences
from qilin_lib.report.markup import Html, escape, render
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

    @property
    def frame(self) -> pd.DataFrame:
        """The table with numbers as numbers: of a Score its value, in a row of the paper's the paper's."""

        def plain(cell: Any) -> Any:
            if not isinstance(cell, Score):
                return cell
            return cell.paper.value if cell.value is None and not cell.missing and cell.paper else cell.value

        return self.content.map(plain).infer_objects()

    @property
    def words(self) -> pd.DataFrame:
        """The table with every cell as its text on one line."""
        return self.content.map(_word)

    @property
    def cells(self) -> pd.DataFrame:
        """One row per Score: the texts of its row, its column, value, low, high, n, the paper's number and origin, the
        difference, whether the paper's number lies inside the interval, protocol, records file, manifest digest."""
        rows = []
        for row in self.content.to_dict("records"):
            texts = {name.lower(): str(cell) for name, cell in row.items() if not isinstance(cell, Score)}
            for name, cell in row.items():
                if not isinstance(cell, Score):
                    continue
                paper = cell.paper or Cell(None)
                rows.append(
                    {"table": self.number, "model": "", **texts, "column": name}
                    | ({"model": cell.model} if cell.model else {})
                    | {part: getattr(cell, part) for part in ("value", "low", "high", "n")}
                    | {"reason": "" if cell.value is not None else cell.parts().get("value", "")}
                    | {"paper": paper.value, "paper_origin": paper.origin or (UNKNOWN if cell.paper else "")}
                    | {"difference": cell.difference, "paper_inside_interval": cell.agrees}
                    | {part: getattr(cell, part) for part in ("protocol", "records", "manifest")}
                )
        return pd.DataFrame(rows, dtype=object)

    def without(self, column: str) -> Table:
        """The table less one of its columns."""
        return replace(self, content=self.content.drop(columns=column))

    @property
    def texts(self) -> list[bool]:
        """Of each column whether it holds words, which read from the left."""
        return [all(isinstance(cell, str) for cell in column) for _, column in self.content.items()]

    def __repr__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        # An executed notebook lies in the run's folder, so that its links start there.
        return self.html("")._repr_html_()

    def html(self, prefix: str | None = None) -> Html:
        """The table in its scrolling box with caption and notes, every cell escaped, without the style."""
        rows = []
        for row in self.content.itertuples(index=False, name=None):
            ours = "From" in self.content and any(isinstance(cell, Score) and cell.value is not None for cell in row)
            kind = "ours" if ours else "total" if "Total" in row else ""
            rows.append((kind, [cell if isinstance(cell, Score | Linked) else _word(cell) for cell in row]))
        fixed = {"link": anchor, "paths": link_paths, "absent": ABSENT, "opened": OPEN_NOTES, "unknown": UNKNOWN}
        return render("table.html.j2", table=self, rows=rows, prefix=prefix, **fixed)

    def markdown(self, prefix: str | None = None) -> str:
        """A pipe table under a heading, the notes as a list below it."""
        rows = [
            list(map(markdown_text, self.content.columns)),
            [":---" if left else "---:" for left in self.texts],
            *([_markdown_cell(cell, prefix) for cell in row] for row in self.content.itertuples(index=False)),
        ]
        lines = [f"### {markdown_text(self.heading)}", "", *(f"| {' | '.join(row)} |" for row in rows)]
        if self.notes:
            notes = [
                _PATH.sub(lambda path: _link(path[0], path[0], prefix), markdown_text(note)) for note in self.notes
            ]
            lines += ["", *(f"- {note}" for note in notes)]
        return "\n".join(lines) + "\n"

    def latex(self) -> str:
        """The table as a LaTeX float with booktabs rules; its first line says which packages it needs."""
        heads = [_stacked(textwrap.wrap(name, 16), "b") for name in self.content.columns]
        rows = [[_latex_cell(cell) for cell in row] for row in self.content.itertuples(index=False)]
        sides = "".join("l" if left else "r" for left in self.texts)
        lines = [
            r"\begin{table}[tbp]",
            r"\centering\footnotesize",
            rf"\caption{{{latex_text(self.title)}}}\label{{tab:qilin-{latex_text(self.number) or 'x'}}}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{{sides}}}",
            r"\toprule",
            " & ".join(heads) + r" \tabularnewline",
            r"\midrule",
            *(" & ".join(row) + r" \tabularnewline" for row in rows),
            r"\bottomrule",
            r"\end{tabular}}",
            r"\par\smallskip",
            r"\begin{minipage}{\linewidth}\raggedright\scriptsize",
            # Paths have no blank at which TeX could break the line.
            *(rf"\par {latex_text(note)}".replace("/", r"/\allowbreak{}") for note in self.notes),
            r"\end{minipage}",
            r"\end{table}",
        ]
        engine = r"with pdflatex also \usepackage[T1]{fontenc}"
        if any(unicodedata.east_asian_width(c) in "WF" for line in lines for c in line):
            engine = "xelatex or lualatex, xeCJK and a Chinese font"
        return "\n".join([rf"% Needs \usepackage{{booktabs,graphicx}}; {engine}.", *lines]) + "\n"

    def csv(self) -> str:
        """`cells` as CSV, or the frame of a table without Scores; nothing in it is run by a spreadsheet."""

        def safe(cell: Any) -> Any:
            if not isinstance(cell, str):
                return cell
            text = visible(cell).replace("\u2212", "-")
            # An apostrophe before what a spreadsheet would run as a formula; a number, also with its interval, is none.
            return f"'{text}" if re.match(r"[=+@\t\r＝＋＠－]|-(?![\d.,]+(?: [\[(%±]|%|$)|$)", text) else text

        shown = self.cells if len(self.cells) else self.frame.astype(object)
        return shown.map(safe).to_csv(index=False, lineterminator="\n")

    def text(self, width: int = WIDTH) -> str:
        """Plain text within `width` columns of a terminal: columns that do not fit stand in blocks below."""
        notes = list(self.notes[:OPEN_NOTES])
        if self.notes[OPEN_NOTES:]:
            notes.append(f"{len(self.notes) - OPEN_NOTES} more: `.notes`, or the HTML and Markdown of the table.")
        lines = [textwrap.fill(f"* {visible(note)}", width, subsequent_indent="  ") for note in notes]
        blocks = [f"{block}\n" for block in _blocks(self, width)]
        return "\n".join([textwrap.fill(visible(self.heading), width), *blocks, *lines]).rstrip() + "\n"


def table(
    title: str,
    rows: Iterable[Sequence[Any]],
    columns: Sequence[str],
    notes: Iterable[str] = (),
    number: str = "",
    compact: bool = False,
) -> Table:
    """A Table of rows of cells of any kind."""
    return Table(number, title, pd.DataFrame(list(rows), columns=list(columns), dtype=object), list(notes), compact)


def view(
    group: str,
    name: str,
    rows: Iterable[Sequence[Any]],
    further: Iterable[str] = (),
    notes: Iterable[str] = (),
    number: str = "",
    after: Iterable[str] = (),
    compact: bool = False,
    instead: str = "",
    **values: Any,
) -> Table:
    """The table that views.yaml names: its title, columns and notes with `values` filled in.

    `further` columns stand behind those of the file, `notes` before and `after` behind its notes; `instead` names other
    notes of the file.
    """
    words = WORDS[group][name]
    title, columns = words["title"].format(**values), [*words.get("columns", ()), *further]
    said = [*notes, *sentences(group, instead or name, **values), *after]
    return table(title, rows, columns, said, number, compact)


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


def _word(cell: Any) -> str:
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return f"{cell:,}"
    return "-" if cell is None else str(cell)


def _blocks(table: Table, width: int) -> Iterator[str]:
    """The columns in as many blocks as they need, each behind the columns that name the rows."""
    texts, names = table.texts, list(table.content.columns)
    keys = next((place for place, left in enumerate(texts) if not left), len(names)) or 1
    # Words leave half of the width to numbers, if there are any.
    room = max(12, (width // 2 if keys < len(names) else width - 2 * keys) // keys)
    columns, sizes = [], []
    for (name, column), left in zip(table.content.items(), texts, strict=True):
        cells = [_lines(cell, table.compact, room if left else width // 2) for cell in column]
        # tabulate leaves two columns beside a heading.
        head = textwrap.wrap(name, 18)
        widths = [wcswidth(line) for cell in cells for line in cell.split("\n")]
        sizes.append(2 + max([*widths, *(wcswidth(line) + 2 for line in head)], default=0))
        columns.append(["\n".join(head), *cells])
    groups: list[list[int]] = [[]]
    for place in range(keys, len(columns)):
        shown = [*range(keys), *groups[-1], place]
        if groups[-1] and sum(sizes[p] for p in shown) > width + 2:
            groups.append([])
        groups[-1].append(place)
    for group in groups if columns else ():
        places = [*range(keys), *group]
        heads, *rows = zip(*(columns[place] for place in places), strict=True)
        sides = ["left" if texts[place] else "right" for place in places] if rows else None
        yield tabulate(rows, heads, tablefmt="simple", disable_numparse=True, colalign=sides)


def _lines(cell: Any, compact: bool, room: int) -> str:
    """A cell in lines: the parts of a Score on their own unless the table is compact, words wrapped to their room."""
    if not isinstance(cell, Score):
        return "\n".join(wrap(visible(_word(cell)).replace("\n", " "), room)) or " "
    return (" " if compact else "\n").join(part for part in cell.parts().values() if part != f"paper {UNKNOWN}")


# --- links, Markdown, LaTeX -------------------------------------------------------------------------------------------


def anchor(content: str, path: str, prefix: str | None, title: str = "") -> Html:
    """`content` (text) as a link to `path` in the run's folder; the text alone without a prefix."""
    if prefix is None:
        return Html(escape(content))
    pointed = f' title="{escape(title)}"' if title else ""
    return Html(f'<a href="{escape(prefix + quote(path))}"{pointed}>{escape(content)}</a>')


def link_paths(text: str, prefix: str | None) -> Html:
    """The text escaped, every file of the run that it names a link."""
    return Html(_PATH.sub(lambda found: anchor(found[0], found[0], prefix), escape(text)))


def _link(text: str, path: str, prefix: str | None) -> str:
    return text if prefix is None else f"[{text}]({prefix}{quote(path)})"


def markdown_text(text: object) -> str:
    """`text` as Markdown shows it word for word."""
    # "](" would make a link of what a data set or a model says, "$" a formula on GitHub; "_" is a mark beside a word.
    escaped = re.sub(r"[\\|`*&$~]|(?<![^\W_])_|_(?![^\W_])|(?<=\])\(", r"\\\g<0>", visible(text))
    return re.sub(r"\s*\n\s*", "<br>", escaped.replace("<", "&lt;").replace(">", "&gt;"))


def _markdown_cell(cell: Any, prefix: str | None) -> str:
    if isinstance(cell, Linked):
        return _link(markdown_text(cell), cell.path, prefix)
    if not isinstance(cell, Score):
        return markdown_text(_word(cell))
    parts = cell.parts()
    if cell.records and cell.value is not None:
        parts["value"] = _link(parts["value"], cell.records, prefix)
        if "n" in parts:
            parts["n"] = _link(parts["n"], cell.stage_manifest, prefix)
    number = " ".join(parts.pop(name) for name in ("value", "interval") if name in parts)
    return "<br>".join(filter(None, (number, *parts.values())))


_SPECIAL = {c: f"\\{c}" for c in "{}#$%&_"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}",
    "σ": r"$\sigma$",
    "\u2212": "$-$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "\n": " ",
}


def latex_text(text: object) -> str:
    """`text` with LaTeX's special characters escaped; control characters, which end a run of TeX, become "?"."""
    return "".join(_SPECIAL.get(c) or ("?" if unicodedata.category(c) in "Cc Cf" else c) for c in str(text))


def _stacked(lines: Sequence[str], place: str = "t") -> str:
    """Lines on top of each other in one cell; the first (t) or last (b) leads."""
    escaped = [latex_text(line) for line in lines]
    if len(escaped) < 2:
        return "".join(escaped)
    return rf"\begin{{tabular}}[{place}]{{@{{}}r@{{}}}}" + r"\\".join(escaped) + r"\end{tabular}"


def _latex_cell(cell: Any) -> str:
    if not isinstance(cell, Score):
        return latex_text(_word(cell))
    parts = cell.parts()
    number = " ".join(parts.pop(name) for name in ("value", "interval") if name in parts)
    return _stacked(list(filter(None, (number, "; ".join(parts.values())))))
