"""Running text: textbooks and ancient books (txt), guidelines ({"entries": […]}), general-domain prose.

One record a passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from qilin_lib.chimed.readers.decode import Reject, rows, shown, string
from qilin_lib.chimed.readers.json_text import holds_rows
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.records import Passage, Record, Rejection, excerpt

# About one DCPT block of 1,024 tokens (paper §4.2), so that a duplicate or a benchmark hit costs a passage and not a
# book.
PASSAGE_CHARS = 1500
# Text without sentence ends (lists, tables) is cut here, so that a passage does not grow with its file.
OPEN_CHARS = 64 * PASSAGE_CHARS
_HEADING = re.compile(r"<篇名>(.*)")
_FURNITURE = re.compile(r"\s*(<目录>.*|[-－—]\s*\d+\s*[-－—]|(书名|作者|朝代|年份)：.*)")
_FURNITURE_STARTS = "<-－—书作朝年"
_LABELS = ("内容：", "属性：")
_ENDS = tuple("。！？：；…」』”）!?:;)")


def textbook(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """Passages of a .txt book, or of every entry of a file of rows (one Rejection for an entry without content)."""
    path = PurePosixPath(plain_name(file))
    if path.suffix.lower() != ".txt" or holds_rows(stream):
        yield from _entries(source, file, stream)
    else:
        yield from _running(source, file, path.stem, stream)


def _entries(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    for line, row in rows(file, stream):
        if isinstance(row, Reject):
            yield Rejection(source, file, line, row.reason, excerpt(row.detail))
            continue
        body = string(row.get("content", row.get("text"))) if isinstance(row, dict) else ""
        if not body:
            yield Rejection(source, file, line, "empty field", "content", excerpt(shown(row)))
            continue
        for _, passage in passages(string(row.get("title")), enumerate(body.split("\n"))):
            yield Record(source, file, line, passage)


def _running(source: str, file: str, title: str, stream: Stream) -> Iterator[Record | Rejection]:
    for line, passage in passages(title, stream.lines()):
        if isinstance(passage, Reject):
            yield Rejection(source, file, line, passage.reason, passage.detail)
        else:
            yield Record(source, file, line, passage)


def passages(title: str, lines: Iterable[tuple[int, str | Reject]]) -> Iterator[tuple[int, Passage | Reject]]:
    """(number of the first line, Passage) of numbered lines; a line that is a Reject stays one, between passages.

    Sections between <篇名> headings, cut at paragraph ends near PASSAGE_CHARS characters, anywhere at OPEN_CHARS.
    """
    heading, start, held = title, 0, []
    size = 0
    for number, line in lines:
        if isinstance(line, Reject):
            yield from _passage(heading, start, held)
            yield number, line
            held, size = [], 0
            continue
        found = line.startswith("<") and _HEADING.match(line)
        if found or size >= PASSAGE_CHARS and (size >= OPEN_CHARS or _closed(held[-1])):
            yield from _passage(heading, start, held)
            held, size = [], 0
        if found:
            heading = _joined_title(title, found[1].strip())
        elif (said := line.strip()) and not (said[0] in _FURNITURE_STARTS and _FURNITURE.fullmatch(line)):
            start = start if held else number
            held.append(line[3:] if line.startswith(_LABELS) else line)
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
    for line in lines:
        said = line.rstrip()
        # Inside a wrapped sentence a short line is a fragment of it, where the printer broke twice.
        wrapped = not said.endswith(_ENDS) and (len(said) >= 24 or wrapped and line.endswith(" "))
        parts += said.lstrip(), "" if wrapped else "\n"
    return "".join(parts[:-1])


def prose(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """General-domain plain text: passages without a title."""
    yield from _running(source, file, "", stream)


def documents(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """One document a line, as the authors' pre-training code reads cpt.txt; blank lines hold none."""
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield Rejection(source, file, number, line.reason, line.detail)
        elif line.strip():
            yield Record(source, file, number, Passage("", line.strip()))


# What else the authors' archive holds beside zh_paragraph/*.txt.
_COPIES = {
    "all_books.txt": "the other books one after the other",
    "zh_sentence": "the books of zh_paragraph, cut into sentences",
    "en": "the English books",
}


def medqa_textbook(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """A book of MedQA's textbooks/zh_paragraph (Jin et al. 2020); one Rejection for a file that holds none of its own.

    all_books.txt and zh_sentence repeat the books, and would only be found out as thousands of duplicates.
    """
    for part, why in _COPIES.items():
        if part in PurePosixPath(plain_name(file)).parts:
            yield Rejection(source, file, 0, "not one of the books", f"{part}: {why}")
            return
    yield from textbook(source, file, stream)
