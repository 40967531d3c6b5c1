"""Pieces of pages from the templates beside this file, and Html, the type of what has been escaped.

Everything that goes into a template is escaped unless it is Html; control and bidi characters are spelled out.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from qilin_lib.errors import visible

TEMPLATES = Path(__file__).parent / "templates"
STYLE = (TEMPLATES / "style.css").read_text(encoding="utf-8")


class Html(str):
    """Markup whose foreign text has been escaped. A notebook cell shows it with its style, a page has that once.

    `scripts`: the content of its own script elements, for the page's policy.
    """

    scripts: tuple[str, ...] = ()

    def __html__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<style>{STYLE}</style>\n{self}"


ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    finalize=lambda value: value if hasattr(value, "__html__") else visible(value),
)


def escape(text: object) -> str:
    """`text` with &, <, > and both quotes escaped, control and bidi characters as `visible` spells them."""
    return html.escape(visible(text), quote=True)


def render(template: str, **values: Any) -> Html:
    """A file of templates/ filled in."""
    return Html(ENVIRONMENT.get_template(template).render(values))


def macro(name: str, *values: Any) -> Html:
    """A macro of macros.j2 called with `values`."""
    return Html(getattr(ENVIRONMENT.get_template("macros.j2").module, name)(*values))


@dataclass(frozen=True)
class Box:
    """A titled box of a card. A text that is Html stands as it is; any other, and all else, is escaped."""

    title: str
    text: str
    aside: str = ""
    note: str = ""


def card(title: str, asked: Iterable[Box], answers: Iterable[Box] = (), aside: str = "") -> Html:
    """A card: head, what was asked box below box, then the answers side by side."""
    return macro("card", title, list(asked), list(answers), aside)


def conversation_card(
    title: str, turns: Iterable[Mapping[str, str]], aside: str = "", answers: Iterable[Box] = ()
) -> Html:
    """The turns of a conversation below each other, then answers side by side."""
    return card(title, [Box(turn["role"], turn["content"]) for turn in turns], answers, aside)


def joined(parts: Iterable[str]) -> Html:
    """Html after Html."""
    return Html("".join(parts))
