"""Cells that are more than text: a score beside the paper's number, a text with a link, and their four dresses.

Paths are relative to the run's folder. `prefix` is the way from the page to that folder ("" for an executed notebook,
"../" for a page inside a stage), None where the page lies elsewhere and links would lead nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from qilin_lib.report.latex import latex_lines, latex_text
from qilin_lib.report.markup import escape
from qilin_lib.report.paper import UNKNOWN
from qilin_lib.report.paper import Cell as PaperCell

_PATH = re.compile(r"\b\d\d_[a-z_]+(?:/[\w.-]+)*/[\w-]+\.jsonl?\b")


@dataclass(frozen=True)
class Source:
    """Where a number of ours comes from: its model and protocol, the file it is made of, the digest of its stage."""

    records: str
    digest: str = ""
    model: str = ""
    protocol: str = ""

    @property
    def manifest(self) -> str:
        """The manifest of the stage that wrote the file."""
        return f"{self.records.partition('/')[0]}/manifest.json"

    @property
    def title(self) -> str:
        """What a reader sees who points at the number."""
        return f"{self.records}; manifest {self.digest[:12] or 'not written yet'}"


@dataclass(frozen=True)
class Linked:
    """A text that leads to the file it was read from."""

    text: str
    source: Source

    def __str__(self) -> str:
        return self.text

    def html(self, prefix: str | None) -> str:
        """The text as a link."""
        return anchor(escape(self.text), self.source.records, prefix, self.source.title)

    def markdown(self, prefix: str | None) -> str:
        """The text as a link."""
        return _markdown_link(self.text, self.source.records, prefix)

    def latex(self) -> str:
        """The text alone: a printed page has no links."""
        return latex_text(self.text)


@dataclass(frozen=True)
class Score:
    """Our number with interval and n, the paper's below it, and the difference where there are both.

    `ours`: a summary of scores.json, None where no model of ours stands in this row; `paper`: None where the paper has
    no such row or column; `missing`: what is said for `ours` when it is None.
    """

    ours: Mapping[str, Any] | None
    paper: PaperCell | None = None
    source: Source | None = None
    decimals: int = 1
    missing: str = ""

    @property
    def known(self) -> bool:
        """Whether there is a number of ours."""
        return bool(self.ours) and self.ours["value"] is not None

    @property
    def difference(self) -> float | None:
        """Ours less the paper's, None unless there are both."""
        if not self.known or self.paper is None or self.paper.value is None:
            return None
        return self.ours["value"] - self.paper.value

    @property
    def agrees(self) -> bool | None:
        """Whether the paper's number lies inside our interval, None unless there are both."""
        if self.difference is None or self.ours.get("low") is None:
            return None
        return self.ours["low"] <= self.paper.value <= self.ours["high"]

    def lines(self) -> dict[str, str]:
        """What the cell says, by part: value, interval, n, paper; a part that does not apply is missing."""
        said: dict[str, str] = {}
        if self.known:
            said["value"] = f"{self.ours['value']:.{self.decimals}f}"
            if self.ours.get("low") is not None:
                said["interval"] = f"[{self.ours['low']:.{self.decimals}f}, {self.ours['high']:.{self.decimals}f}]"
            if self.ours.get("n") is not None:
                said["n"] = f"n={self.ours['n']}"
        elif self.ours is not None or self.missing:
            said["value"] = self.missing if self.ours is None else "no items"
        if self.paper is not None:
            said["paper"] = paper_text(self.paper)
            if said and said["paper"] != UNKNOWN and self.difference is not None:
                said["paper"] += f" ({signed(self.difference, self.decimals)})"
        return said

    def __str__(self) -> str:
        said = self.lines()
        n = f"({said['n']})" if "n" in said else ""
        ours = " ".join(filter(None, (said.get("value"), said.get("interval"), n)))
        # On one line "paper not available" behind every number would hide the numbers; the other dresses have room.
        paper = "" if ours and said.get("paper") == UNKNOWN else _paper_line(said, bool(ours))
        return "; ".join(filter(None, (ours, paper))) or "-"

    def html(self, prefix: str | None) -> str:
        """Our number leads to its records, n to the manifest; interval, n and the paper's number stand below it."""
        said = self.lines()
        if self.known and self.source:
            said["value"] = anchor(said["value"], self.source.records, prefix, self.source.title)
            if "n" in said:
                said["n"] = anchor(said["n"], self.source.manifest, prefix, self.source.title)
        elif "value" in said:
            said["value"] = f'<span class="none">{said["value"]}</span>'
        small = [f"<small>{said[part]}</small>" for part in ("interval", "n") if part in said]
        paper = _paper_line(said, "value" in said)
        kind = "none" if said.get("paper") == UNKNOWN else "paper agrees" if self.agrees else "paper"
        small += [f'<small class="{kind}">{escape(paper)}</small>'] if paper else []
        return " ".join([*filter(None, [said.get("value")]), *small]) or "-"

    def markdown(self, prefix: str | None) -> str:
        """As `html`, the parts on lines of their own."""
        said = self.lines()
        if self.known and self.source:
            said["value"] = _markdown_link(said["value"], self.source.records, prefix)
            said["n"] = _markdown_link(said["n"], self.source.manifest, prefix) if "n" in said else ""
        number = " ".join(filter(None, (said.get("value"), said.get("interval"))))
        return "<br>".join(filter(None, (number, said.get("n"), _paper_line(said, bool(number))))) or "-"

    def latex(self) -> str:
        """The number with its interval, n and the paper's number in a second line."""
        said = {part: latex_text(text) for part, text in self.lines().items()}
        interval = rf"\,{{\scriptsize{said['interval']}}}" if "interval" in said else ""
        number = said.get("value", "") + interval
        below = "; ".join(filter(None, (said.get("n"), _paper_line(said, bool(number)))))
        if not (number and below):
            return number or below or "--"
        return latex_lines([number, rf"{{\tiny {below}}}"])

    def row(self) -> dict[str, Any]:
        """The cell's columns of the long CSV."""
        ours, source = self.ours or {}, self.source or Source("")
        agrees = {None: "", True: "yes", False: "no"}[self.agrees]
        return {
            **({"model": source.model} if source.model else {}),
            "paper": None if self.paper is None else self.paper.value,
            "paper_origin": "" if self.paper is None else self.paper.origin or UNKNOWN,
            "ours": ours.get("value"),
            "low": ours.get("low"),
            "high": ours.get("high"),
            "n": ours.get("n"),
            "difference": self.difference,
            "paper_inside_interval": agrees,
            "protocol": source.protocol,
            "records": source.records,
            "manifest": source.digest,
        }


def score_text(score: Mapping[str, Any] | None, decimals: int = 1) -> str:
    """A score record as "40.0 [35.1, 45.2] (n=346)"; "no items" for n = 0, "not evaluated" for None."""
    return str(Score(score, decimals=decimals, missing="not evaluated"))


def signed(value: float, decimals: int) -> str:
    """A difference with its sign, the minus a real one: a hyphen is easily overlooked."""
    return f"{value:+,.{decimals}f}".replace("-", "\u2212")


def paper_text(cell: PaperCell) -> str:
    """A number of the paper as it words it, "not available" where it is not known."""
    if cell.value is None:
        return UNKNOWN
    return cell.wording or f"{cell.value:,}"


def anchor(content: str, path: str, prefix: str | None, title: str = "") -> str:
    """`content` (markup) as a link to `path` in the run's folder; unchanged without a prefix."""
    if prefix is None:
        return content
    told = f' title="{escape(title)}"' if title else ""
    return f'<a href="{escape(prefix + quote(path))}"{told}>{content}</a>'


def link_paths(text: str, prefix: str | None) -> str:
    """Escaped text in which every file of the run that it names has become a link."""
    return _PATH.sub(lambda found: anchor(found[0], found[0], prefix), escape(text))


def link_markdown(text: str, prefix: str | None) -> str:
    """Markdown in which every file of the run that it names has become a link."""
    return _PATH.sub(lambda found: _markdown_link(found[0], found[0], prefix), text)


def _markdown_link(text: str, path: str, prefix: str | None) -> str:
    return text if prefix is None else f"[{text}]({prefix}{quote(path)})"


def _paper_line(said: Mapping[str, str], ours: bool) -> str:
    """The paper's part of a cell; "not available" needs no "paper" before it where nothing of ours stands above."""
    paper = said.get("paper", "")
    return f"paper {paper}" if paper and (ours or paper != UNKNOWN) else paper
