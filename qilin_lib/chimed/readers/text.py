"""Running text: textbooks and ancient books (txt), guidelines ({"entries": […]}), general-domain prose.

One record a passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.decode import Reject, attempted, field_text, rows, shown
from qilin_lib.chimed.readers.json_text import holds_rows
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.readers.turns import instruction_row
from qilin_lib.chimed.records import Passage, Record, Rejection, excerpt

Lines = Iterable[tuple[int, str | Reject]]
# About one DCPT block of 1,024 tokens (paper §4.2), so that a duplicate or a benchmark hit costs a passage and not a
# book.
PASSAGE_CHARS = 1500
# Text without sentence ends (lists, tables) is cut here, so that a passage does not grow with its file.
OPEN_CHARS = 64 * PASSAGE_CHARS
_HEADING = re.compile(r"<篇名>(.*)")
_FURNITURE = re.compile(
    r"<目录>.*|(?:书名|作者|朝代|年份)：.*|[-－—]\s*\d+\s*[-－—]|第\s*\d+\s*页(?:\s*共\s*\d+\s*页)?"
    r"|Page \d+(?: of \d+)?"
)
_FURNITURE_STARTS = "<-－—第P书作朝年"
_NO_BEGINNING = frozenset("，。、；：！？）」』”～~℃％%.")
_TITLE = re.compile(r"\s*[一二三四五六七八九十]{1,3}、[^。，；]{1,20}")
_LEADERS = ("......", "………", "······")
_NUMBER = re.compile(r"\s{0,9}[-－—·]?\s{0,9}(\d{1,4})\s{0,9}[-－—·]?\s{0,9}")
# Marks of the collection of ancient books: \x around what stands out, \r around a picture, its caption first.
_PICTURE = re.compile(r"\\r(?:图(?=\\p)|(?![A-Za-z]))|\\p[\w-]{1,24}\.bmp|\\x(?![A-Za-z])")
_LABELS = ("内容：", "属性：")
_ENDS = tuple("。！？：；…」』”）!?:;)")


def textbook(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """Passages of a .txt book, or of every entry of a file of rows (one Rejection for an entry without content)."""
    path = PurePosixPath(plain_name(file))
    if path.suffix.lower() != ".txt" or holds_rows(stream):
        yield from _entries(source, file, stream)
    else:
        yield from _book(source, file, path.stem, stream)


def _entries(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    for line, row in rows(file, stream):
        if isinstance(row, Reject):
            yield Rejection(source, file, line, row.reason, excerpt(row.detail))
            continue
        if isinstance(row, list):
            yield attempted(instruction_row, source, file, line, row)
            continue
        body = field_text(row.get("content", row.get("text"))) if isinstance(row, dict) else ""
        if not body:
            yield Rejection(source, file, line, "empty field", "content", excerpt(shown(row)))
            continue
        lines = list(enumerate(body.split("\n")))
        pages = page_numbers(lines)
        for _, passage in passages(field_text(row.get("title")), [line for line in lines if line[0] not in pages]):
            yield Record(source, file, line, passage)


def _book(source: str, file: str, title: str, stream: Stream) -> Iterator[Record | Rejection]:
    pages = page_numbers(stream.lines())
    lines = ((number, _unmarked(line)) for number, line in stream.lines() if number not in pages)
    return _running(source, file, title, lines)


def _running(source: str, file: str, title: str, lines: Lines) -> Iterator[Record | Rejection]:
    for line, passage in passages(title, lines):
        if isinstance(passage, Reject):
            yield Rejection(source, file, line, passage.reason, passage.detail)
        else:
            yield Record(source, file, line, passage)


def page_numbers(lines: Lines) -> set[int]:
    """The numbers of the lines that hold nothing but a page's number: 1, 2, 4, 5 … through a text made from a PDF.

    It is the longest row of numbers alone on their lines that go up by 1 to 3. None in a text whose numbers mostly
    stand in no such row, where less than two other lines stand between two of them, or whose lines are `_broken`.
    """
    rows: dict[int, tuple[int, int, Any]] = {}
    longest, count, filled, odd = None, 0, 0, 0
    for number, line in lines:
        if isinstance(line, Reject) or not (text := line.lstrip()):
            continue
        filled, odd = filled + 1, odd + (text[0] in _NO_BEGINNING)
        if len(line) > 24 or not (alone := _NUMBER.fullmatch(line)):
            continue
        page = int(alone[1])
        before = max((rows[n] for n in range(page - 1, page - 4, -1) if n in rows), key=itemgetter(0), default=None)
        row = (before[0] + 1 if before else 1, number, before)
        if page not in rows or row[0] >= rows[page][0]:
            rows[page] = row
        longest, count = max(longest or row, row, key=itemgetter(0)), count + 1
    found, row = [], longest
    while row:
        found.append(row[1])
        row = row[2]
    much = len(found) >= 3 and 2 * len(found) >= count and found[0] - found[-1] >= 3 * (len(found) - 1)
    return set(found) if much and not _broken(odd, filled) else set()


def _broken(odd: int, lines: int) -> bool:
    """Did a web page break the lines anywhere? `odd` of them begin with what no typesetter begins a line with."""
    return odd >= 3 and 20 * odd >= lines


def _unmarked(line: str | Reject) -> str | Reject:
    return _PICTURE.sub("", line) if isinstance(line, str) and "\\" in line else line


def passages(title: str, lines: Lines) -> Iterator[tuple[int, Passage | Reject]]:
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
        elif text := _text(line):
            start = start if held else number
            held.append(text)
            size += len(text)
    yield from _passage(heading, start, held)


def _text(line: str) -> str:
    """What a line holds for the reader: "" for a heading of the collection, a page's foot or a line of contents."""
    text = line[3:] if line.startswith(_LABELS) else line
    bare = text.strip()
    if not bare or bare[0] in _FURNITURE_STARTS and _FURNITURE.fullmatch(bare):
        return ""
    return "" if bare[-1].isdigit() and bare.rstrip("0123456789 ").endswith(_LEADERS) else text


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

    A long line that ends inside a sentence was wrapped by a printer and goes on in the next. Where a page's lines are
    `_broken`, every line goes on up to the end of its sentence.
    """
    parts: list[str] = []
    anywhere = _broken(sum(line.lstrip()[:1] in _NO_BEGINNING for line in lines), len(lines))
    wrapped = False
    for line in lines:
        said = line.rstrip()
        if anywhere:
            wrapped = not said.endswith(("。", "！", "？")) and not _TITLE.fullmatch(said)
        else:
            # Inside a wrapped sentence a short line is a fragment of it, where the printer broke twice.
            wrapped = not said.endswith(_ENDS) and (len(said) >= 24 or wrapped and line.endswith(" "))
        if anywhere and parts and parts[-1] == "\n" and said.lstrip()[:1] in _NO_BEGINNING:
            parts.pop()
        parts += said.lstrip(), "" if wrapped else "\n"
    return "".join(parts[:-1])


def prose(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """General-domain plain text: passages without a title."""
    yield from _running(source, file, "", stream.lines())


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
