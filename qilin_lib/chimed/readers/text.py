"""Running text: textbooks and ancient books (txt), guidelines ({"entries": […]}), general-domain prose.

One record a passage.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.decode import FIELDS, Found, Reject, field_text, parsed, required, rows
from qilin_lib.chimed.readers.json_text import holds_rows
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.readers.turns import instruction_row, text_of
from qilin_lib.chimed.records import Passage

Lines = Iterable[tuple[int, str | Reject]]
# About one DCPT block of 1,024 tokens (paper §4.2), so that a duplicate or a benchmark hit costs a passage and not a
# book.
PASSAGE_CHARS = 1500
# Text without sentence ends (lists, tables) is cut here, so that a passage does not grow with its file.
OPEN_CHARS = 64 * PASSAGE_CHARS
# A line of so many characters is taken for several, which end at sentences where it has any.
_LONG = 4 * PASSAGE_CHARS
_PART = re.compile(
    rf".{{{PASSAGE_CHARS}}}.{{0,{_LONG}}}?(?:[。！？；!?][”」』）]{{0,3}}|[A-Za-z)%]\.(?=\s))|.{{1,{_LONG}}}", re.DOTALL
)
_HEADING = re.compile(r"<篇名>(.*)")
_FURNITURE = re.compile(
    r"<目录>.*|(?:书名|作者|朝代|年份)：[^。]{0,40}|[-－—]\s*\d+\s*[-－—]|第\s*\d+\s*页(?:\s*共\s*\d+\s*页)?"
    r"|Page \d+(?: of \d+)?"
)
_FURNITURE_STARTS = "<-－—第P书作朝年"
_NO_BEGINNING = frozenset("，。、；：！？）」』”～~℃％%.")
_LONGEST_PAGE = 60
_TITLE = re.compile(r"\s*[一二三四五六七八九十]{1,3}、[^。，；]{1,20}")
_LEADERS = ("......", "………", "······")
# A page's number, alone on its line or before the number of pages.
_PAGE = re.compile(r"\s{0,9}[-－—·]?\s{0,9}(\d{1,4})\s{0,9}(?:[-－—·]|[/／]\s{0,9}\d{1,4})?\s{0,9}")
# Marks of the collection of ancient books: \x around what stands out, \r around a picture, its caption first.
_PICTURE = re.compile(r"\\r(?:图(?=\\p)|(?![A-Za-z]))|\\p[\w-]{1,24}\.bmp|\\x(?![A-Za-z])")
_LABELS = ("内容：", "属性：")
_ENDS = tuple("。！？：；…」』”）!?:;)")
_END = re.compile(rf"(?:[{''.join(_ENDS)}]|[A-Za-z)%]\.)\s*$")
# Where a wrapped line was parted at a blank; a number may be one with what was parted from it.
_BLANK = re.compile(r"\0(?:(?<=[A-Za-z0-9,.;:)%]\0)(?=[A-Za-z(])|(?<=[a-z]{3}\0)(?=[0-9]))")


def textbook(file: str, stream: Stream) -> Found:
    """Passages of a .txt book, or of every entry of a file of rows (one Reject for an entry without content)."""
    path = PurePosixPath(plain_name(file))
    if path.suffix.lower() != ".txt" or holds_rows(stream):
        return _entries(file, stream)
    pages = page_numbers(stream.lines())
    lines = ((number, line) for number, line in stream.lines() if number not in pages)
    pictured = ((n, _PICTURE.sub("", line) if isinstance(line, str) and "\\" in line else line) for n, line in lines)
    return passages(path.stem, pictured)


def medqa_textbook(file: str, stream: Stream) -> Found:
    """A book of MedQA's textbooks/zh_paragraph (Jin et al. 2020); a note for a file that repeats them."""
    parts = PurePosixPath(plain_name(file)).parts
    copies = [f"{part}: {why}" for part, why in FIELDS["medqa_copies"].items() if part in parts]
    if copies:
        return iter([(0, Reject("not one of the books", copies[0], note=True))])
    return textbook(file, stream)


def prose(file: str, stream: Stream) -> Found:
    """General-domain plain text: passages without a title."""
    return passages("", stream.lines())


def documents(file: str, stream: Stream) -> Found:
    """One document a line, as the authors' pre-training code reads cpt.txt; blank lines hold none."""
    for number, line in stream.lines():
        if isinstance(line, Reject) or line.strip():
            yield number, line if isinstance(line, Reject) else Passage("", line.strip())


def _entries(file: str, stream: Stream) -> Found:
    for line, row in rows(file, stream):
        if isinstance(row, Reject | list):
            yield line, parsed(instruction_row, row)
            continue
        entry = parsed(_entry, row)
        if isinstance(entry, Reject):
            yield line, entry
            continue
        lines = list(enumerate(entry.body.split("\n")))
        pages = page_numbers(lines)
        for _, passage in passages(entry.title, [line for line in lines if line[0] not in pages]):
            yield line, passage


def _entry(row: Any) -> Passage:
    bodies = (text_of(row[name]) for name in ("content", "text") if isinstance(row, dict) and name in row)
    body = next(filter(field_text, bodies), "") or required(row, "content", "text")
    return Passage(field_text(row.get("title")), body)


def page_numbers(lines: Lines) -> set[int]:
    """The numbers of the lines that hold nothing but a page's number.

    It goes up by 1 to 3 from one such line to the next (1, 2, 4, 5 …); the longest row of such lines is looked for.
    None in a text whose lines are `_broken`, where most numbers stand in no such row, or less than two other lines
    stand between two of them.
    """
    # By a page's number, the longest row of line numbers that ends in it: (length, last line, the row before).
    rows: dict[int, tuple[int, int, Any]] = {}
    filled, odd, count = 0, 0, 0
    for number, line in lines:
        if isinstance(line, Reject) or not (text := line.strip()):
            continue
        filled, odd = filled + 1, odd + (text[0] in _NO_BEGINNING)
        if len(line) <= _LONGEST_PAGE and (page := _PAGE.fullmatch(line)):
            value, count = int(page[1]), count + 1
            nearest = (rows[n] for n in range(value - 1, value - 4, -1) if n in rows)
            before = max(nearest, key=itemgetter(0), default=(0,))
            if value not in rows or before[0] + 1 >= rows[value][0]:
                rows[value] = (before[0] + 1, number, before)
    row, found = max(rows.values(), key=itemgetter(0), default=(0,)), []
    while row[0]:
        _, number, row = row
        found.append(number)
    sure = len(found) >= 3 and 2 * len(found) >= count and found[0] - found[-1] >= 3 * (len(found) - 1)
    return set(found) if sure and not _broken(odd, filled) else set()


def _broken(odd: int, lines: int) -> bool:
    """Did a web page break the lines anywhere? `odd` of them begin with what no typesetter begins a line with."""
    return odd >= 3 and 20 * odd >= lines


def passages(title: str, lines: Lines) -> Iterator[tuple[int, Passage | Reject]]:
    """(number of the first line, Passage) of numbered lines; a line that is a Reject stays one.

    Sections between <篇名> headings, cut at paragraph ends near PASSAGE_CHARS characters, anywhere at OPEN_CHARS.
    """
    heading, start, held, size = title, 0, [], 0
    for number, line in _parted(lines):
        lost = isinstance(line, Reject)
        found = not lost and line.startswith("<") and _HEADING.match(line)
        if lost or found or size >= PASSAGE_CHARS and (size >= OPEN_CHARS or _END.search(held[-1])):
            if held:
                yield start, Passage(heading, unwrapped(held))
            held, size = [], 0
        if lost:
            yield number, line
        elif found:
            book, section = re.sub(r"^\d+[-_ ]", "", title), found[1].strip()
            heading = book if section in ("", book) else f"《{book}》{section}"
        elif text := _text(line):
            start = start if held else number
            held.append(text)
            size += len(text)
    if held:
        yield start, Passage(heading, unwrapped(held))


def _parted(lines: Lines) -> Iterator[tuple[int, str | Reject]]:
    for number, line in lines:
        short = isinstance(line, Reject) or len(line) <= _LONG
        yield from ((number, part) for part in ([line] if short else _PART.findall(line)))


def _text(line: str) -> str:
    """What a line holds for the reader: "" for a heading of the collection, a page's foot or a line of contents."""
    text = line[3:] if line.startswith(_LABELS) else line
    bare = text.strip()
    if not bare or bare[0] in _FURNITURE_STARTS and _FURNITURE.fullmatch(bare):
        return ""
    return "" if bare[-1].isdigit() and bare.rstrip("0123456789 ").endswith(_LEADERS) else text


def unwrapped(lines: list[str]) -> str:
    """Lines joined into paragraphs: a long line that ends inside a sentence was wrapped by a printer and goes on.

    Where a page's lines are `_broken`, every line goes on up to the end of its sentence.
    """
    parts: list[str] = []
    anywhere, wrapped = _broken(sum(line.lstrip()[:1] in _NO_BEGINNING for line in lines), len(lines)), False
    for line in lines:
        said = line.rstrip()
        if anywhere:
            wrapped = not said.endswith(("。", "！", "？")) and not _TITLE.fullmatch(said)
            if parts and parts[-1] == "\n" and said.lstrip()[:1] in _NO_BEGINNING:
                parts.pop()
        else:
            # Inside a wrapped sentence a short line is a fragment of it, where the printer broke twice.
            wrapped = not said.endswith(_ENDS) and (len(said) >= 24 or wrapped and line.endswith(" "))
        parts += said.lstrip(), "\0" if wrapped else "\n"
    return _BLANK.sub(" ", "".join(parts[:-1])).replace("\0", "")
