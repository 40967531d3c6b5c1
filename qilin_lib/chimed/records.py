"""What a reader hands on: a record with its place and one of five payloads, or a rejection with place and reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class Passage(NamedTuple):
    """A piece of running text: a section of a textbook or guideline, or general-domain prose. `title` may be empty."""

    title: str
    body: str


class Dialogue(NamedTuple):
    """Turns that alternate user, assistant, user, … beginning with the user, and the system's text before them, or "".

    `wordings`: what else the first question may say, where a benchmark's row has it in several wordings; never written.
    """

    turns: tuple[str, ...]
    system: str = ""
    wordings: tuple[str, ...] = ()


class Exam(NamedTuple):
    """A multiple-choice question. `options` are (letter, text), `answer` sorted letters, "" where it is hidden."""

    question: str
    options: tuple[tuple[str, str], ...]
    answer: str
    explanation: str


class Disease(NamedTuple):
    """One disease entity of a knowledge graph: (heading, values) in the graph's order (paper §3.1.1).

    origins: for each feature, in the same order, the graphs that state it; () when the record's own source states all.
    """

    name: str
    features: tuple[tuple[str, tuple[str, ...]], ...]
    origins: tuple[tuple[str, ...], ...] = ()


class Preference(NamedTuple):
    """A triplet for DPO: the prompt's turns (user first, user last), the preferred and the rejected response (paper
    §3.3.1), and the system's text before the prompt, or "". `others`: further answers of a ranked list, the best first;
    the sources' `units` makes pairs of them, so that no record that is built has any. `place`: the number of such a
    pair in its list, where equal ones have one number; 0 for a pair that was found as one.
    """

    prompt: tuple[str, ...]
    chosen: str
    rejected: str
    system: str = ""
    others: tuple[str, ...] = ()
    place: int = 0


Payload = Passage | Dialogue | Exam | Disease | Preference
# How a set lost a unit: column of the ledger, reason (a short fixed phrase), detail.
Lost = tuple[str, str, str]


class Record(NamedTuple):
    """One usable unit of a source. `file` is relative to the source's folder, `line` counts from 1."""

    source: str
    file: str
    line: int
    payload: Payload


class Rejection(NamedTuple):
    """One unusable unit of a source; `reason` is a short fixed phrase (a ledger column), `detail` what was seen.

    `note`: it says something of a whole file ("empty file", "fields not used"), and counts as no row.
    """

    source: str
    file: str
    line: int
    reason: str
    detail: str = ""
    excerpt: str = ""
    note: bool = False


def strings(payload: Payload) -> list[str]:
    """Every string of a payload's text, in order. Names of graphs (`origins`) say where text is from and are none."""
    return leaves(_texts(payload).values())


def mapped(payload: Payload, change: Callable[[list[str]], list[str]]) -> Payload:
    """The same payload with its text changed: `change` gets all its `strings` and returns as many in their order."""
    old = strings(payload)
    new = change(old)
    if new == old:
        return payload
    texts, left = _texts(payload), iter(new)
    return payload._replace(**{name: rebuilt(value, left) for name, value in texts.items()})


def _texts(payload: Payload) -> dict[str, Any]:
    """The fields that hold a payload's text, in its order, without a system text that is empty."""
    values = payload._asdict()
    system = values.pop("system", "")
    for name in ("wordings", "origins", "place"):
        values.pop(name, None)
    return {"system": system} | values if system else values


def leaves(value: Any) -> list[str]:
    """The strings in nested sequences, in order."""
    return [value] if isinstance(value, str) else [text for one in value for text in leaves(one)]


def rebuilt(value: Any, left: Iterator[str]) -> Any:
    """Nested sequences as tuples, with the next one of `left` in the place of each string."""
    return next(left) if isinstance(value, str) else tuple([rebuilt(one, left) for one in value])


def content(payload: Payload) -> str:
    """All text of a payload, one string a line: what a record is to deduplication and the held-out split."""
    return "\n".join(strings(payload))


# What stands where a character was lost: a lone surrogate (an undecodable byte, see readers.decode, or a broken \uXXXX
# escape; UTF-8 cannot write it), U+FFFD of somebody else's decoder, or a private-use character, which means nothing
# without its font. Those of a PDF's symbol fonts are cleaned (clean.py).
lost_character = re.compile("[\ud800-\udfff\ufffd\ue000-\uefff\uf100-\uf8ff\U000f0000-\U0010ffff]").search


def excerpt(text: str) -> str:
    """At most 80 characters of `text` on one line, safe to write."""
    return " ".join(text[:240].split())[:80].encode("utf-8", "replace").decode("utf-8")
