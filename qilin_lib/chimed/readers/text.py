"""Running text: textbooks and ancient books (txt), guidelines ({"entries": […]}), general-domain prose.

One record a passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from qilin_lib.chimed.readers.decode import Reject, json_items, string
from qilin_lib.chimed.records import Passage, Record, Rejection, excerpt

# About one DCPT block of 1,024 tokens (paper §4.2), so that a duplicate or a benchmark hit costs a passage and not a
# book.
PASSAGE_CHARS = 1500
_HEADING = re.compile(r"<篇名>(.*)")
_FURNITURE = re.compile(r"\s*(<目录>.*|[-－—]\s*\d+\s*[-－—]|(书名|作者|朝代|年份)：.*)")
_LABEL = re.compile(r"(内容|属性)：")
_ENDS = tuple("。！？：；…」』”）!?:;)")


def textbook(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
    """Passages of a .txt book, or of every entry of a .json file (one Rejection for an entry without content)."""
    if file.endswith(".json"):
        yield from _entries(source, file, text)
        return
    title = PurePosixPath(file).stem
    yield from _numbered(source, file, title, text, 1)


def _entries(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
    for line, row in json_items(text, "entries"):
        if isinstance(row, Reject):
            yield Rejection(source, file, line, row.reason, excerpt(row.detail))
            continue
        body = string(row.get("content", row.get("text"))) if isinstance(row, dict) else ""
        if not body:
            yield Rejection(source, file, line, "empty field", "content", excerpt(str(row)))
            continue
        for _, passage in passages(string(row.get("title")), body):
            yield Record(source, file, line, passage)


def _numbered(source: str, file: str, title: str, text: str, base: int) -> Iterator[Record]:
    for line, passage in passages(title, text):
        yield Record(source, file, base + line, passage)


def passages(title: str, text: str) -> Iterator[tuple[int, Passage]]:
    """(line offset from 0, Passage) of a text.

    Sections between <篇名> headings, cut at paragraph ends near PASSAGE_CHARS characters.
    """
    heading, start, held = title, 0, []
    size = 0
    for number, line in enumerate(text.split("\n")):
        found = _HEADING.match(line)
        if found or size >= PASSAGE_CHARS and _closed(held[-1]):
            yield from _passage(heading, start, held)
            held, size = [], 0
        if found:
            heading = _joined_title(title, found[1].strip())
        elif line.strip() and not _FURNITURE.fullmatch(line):
            start = start if held else number
            held.append(_LABEL.sub("", line, count=1) if _LABEL.match(line) else line)
            size += len(line)
    yield from _passage(heading, start, held)


def _closed(line: str) -> bool:
    return line.rstrip().endswith(_ENDS)


def _joined_title(title: str, section: str) -> str:
    book = re.sub(r"^\d+[-_ ]", "", title)
    return book if section in ("", book) else f"《{book}》{section}"


def _passage(heading: str, start: int, lines: list[str]) -> Iterator[tuple[int, Passage]]:
    if lines:
        yield start, Passage(heading, unwrapped(lines))


def unwrapped(lines: list[str]) -> str:
    """Lines joined into paragraphs.

    A long line that ends inside a sentence was wrapped by a printer and goes on in the next.
    """
    parts: list[str] = []
    wrapped = False
    for number, line in enumerate(lines):
        parts.append(line.strip())
        # Inside a wrapped sentence a short line is a fragment of it, where the printer broke twice.
        wrapped = not _closed(line) and (len(line.rstrip()) >= 24 or wrapped and line.endswith(" "))
        if number + 1 < len(lines):
            parts.append("" if wrapped else "\n")
    return "".join(parts)


def prose(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
    """General-domain plain text: passages without a title."""
    yield from _numbered(source, file, "", text, 1)
