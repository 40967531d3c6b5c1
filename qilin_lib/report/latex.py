"""LaTeX for tables: escaping, and the frame around the rows (booktabs, Chinese text left as it is)."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Sequence

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
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
# Wider than this, a table is shrunk to the width of the text.
_FITTING = 5


def latex_text(text: str) -> str:
    """`text` with LaTeX's special characters escaped; control characters, which end a run of TeX, become "?"."""
    return "".join(_SPECIAL.get(c) or ("?" if unicodedata.category(c) == "Cc" else c) for c in text)


def latex_lines(lines: Sequence[str], side: str = "r", place: str = "t") -> str:
    """Lines of LaTeX on top of each other in one cell, set to its left or right; the first (t) or last (b) leads."""
    if len(lines) == 1:
        return lines[0]
    return rf"\begin{{tabular}}[{place}]{{@{{}}{side}@{{}}}}" + r"\\".join(lines) + r"\end{tabular}"


def latex_heading(text: str, side: str) -> str:
    """A column's heading, in several lines where it would widen the column."""
    return latex_lines([latex_text(line) for line in textwrap.wrap(text, 16) or [""]], side, "b")


def latex_table(
    number: str, title: str, left: Sequence[bool], rows: Sequence[Sequence[str]], notes: Sequence[str]
) -> str:
    """A table environment, to be found under the label tab:qilin-<number>; LaTeX numbers it as it comes.

    `rows` are LaTeX already, the first one the heads; title and notes are plain text.
    """
    columns = "".join("l" if is_left else "r" for is_left in left)
    lines = [" & ".join(row) + r" \tabularnewline" for row in rows]
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    body.append(r"\end{tabular}")
    if len(left) > _FITTING:
        body = [r"\resizebox{\linewidth}{!}{%", *body[:-1], body[-1] + "}"]
    below = [rf"\par {_note(note)}" for note in notes]
    if below:
        body += [r"\par\smallskip", r"\begin{minipage}{\linewidth}\raggedright\scriptsize", *below, r"\end{minipage}"]
    label = rf"\label{{tab:qilin-{number or 'x'}}}"
    head = [r"\begin{table}[tbp]", r"\centering\footnotesize", rf"\caption{{{latex_text(title)}}}{label}"]
    whole = "\n".join([*head, *body, r"\end{table}"])
    return f"{_needs(whole)}\n{whole}\n"


def _note(note: str) -> str:
    # Paths have no blank at which TeX could break the line.
    return re.sub(r"(?<=\w)/(?=\w|\\)", r"/\\allowbreak{}", latex_text(note))


def _needs(text: str) -> str:
    chinese = any(unicodedata.east_asian_width(c) in "WF" for c in text)
    engine = (
        "xelatex or lualatex, xeCJK and a Chinese font" if chinese else r"with pdflatex also \usepackage[T1]{fontenc}"
    )
    return rf"% Needs \usepackage{{booktabs,graphicx}}; {engine}."
