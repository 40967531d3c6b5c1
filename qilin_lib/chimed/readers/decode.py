"""Text to rows: JSON of any layout, CSV with broken quotes, both as streams. Shared by all readers, and by notebook 06.

The drivers at the end (`json_reader`, `csv_reader`) turn a function "row -> payload" into a reader. Such a function
says no by raising `Reject(reason, detail)`; a driver turns that into a Rejection with file and line.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from qilin_lib.chimed.readers import stream as streams
from qilin_lib.chimed.readers.json_text import json_items
from qilin_lib.chimed.readers.stream import Reject, Stream, plain_name
from qilin_lib.chimed.records import Payload, Record, Rejection, excerpt

Reader = Callable[[str, str, Stream], Iterator[Record | Rejection]]
Rows = Iterator[tuple[int, Any]]
# The reasons of a `Reject` that say that a value is no record of this kind, rather than a bad one.
_NO_FORM = ("missing field", "unknown form")

_ROW_LINES = 400
# What programs write for a missing cell, and what people write. Only the first is nothing as a turn of a dialogue:
# "有过敏史吗？" "无".
_NULL = re.compile(r"nan|none|null|nil|n/a|#n/a|<na>", re.IGNORECASE)
_NOTHING = re.compile(r"[暂尚]?无(?:相关)?(?:资料|数据|信息|内容|记录|解析|解释)?[。.]?|[-–—/…]+|\.{3,}")
_LONGEST_NOTHING = 10
csv.field_size_limit(streams.MAX_LINE)


def csv_rows(stream: Stream, width: int = 0) -> Iterator[tuple[int, list[str] | Reject]]:
    """(first line, cells) of each CSV row; (line, Reject) for a broken one. Blank lines are no rows.

    `width` is the number of cells a row must have (0 = that of the first row). An unclosed quote costs its own line
    only: parsing restarts on the next line, instead of swallowing the rest of the file.
    """
    lines = stream.lines()
    held: list[str] = []
    number, barrier, ended = 1, None, False
    while True:
        if not ended and barrier is None:
            barrier, ended = _fill(held, lines)
        if not held and barrier:
            yield barrier
            number, barrier = barrier[0] + 1, None
            continue
        if not held:
            return
        used = 0
        for first, size, cells in _window_rows(held, closed=ended or barrier is not None):
            used, line = first + size, number + first
            if isinstance(cells, csv.Error):
                yield from _lenient(held[first], line, width, str(cells))
            elif any(cell.strip() for cell in cells):
                width = width or len(cells)
                if not any(cell.strip() for cell in cells[width:]):
                    cells = cells[:width]
                wrong = Reject("wrong number of columns", f"{len(cells)} instead of {width}")
                yield line, cells if len(cells) == width else wrong
        del held[:used]
        number += used


def _fill(held: list[str], lines: Iterator[tuple[int, str | Reject]]) -> tuple[tuple[int, Reject] | None, bool]:
    """Fill the window of lines; returns the line without text that stopped it, and whether the file ends here."""
    size, room = sum(map(len, held)), _ROW_LINES - len(held)
    for number, line in itertools.islice(lines, room):
        if isinstance(line, Reject):
            return (number, line), False
        held.append(line + "\n")
        size, room = size + len(line), room - 1
        if size > streams.MAX_LINE:
            return None, False
    return None, room > 0


def _window_rows(lines: list[str], closed: bool) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """(index of the first line, lines used, cells) of the rows in a window of lines; ends at the first error.

    A row that the end of the window cuts is not yielded, unless it is the window's first, or no line follows
    (`closed`): such a quote is never closed.
    """
    reader, used = csv.reader(iter(lines), strict=True), 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as reason:
            cut = not closed and "unexpected end" in str(reason)
            if used == 0 or not cut:
                yield used, 1, reason
            return
        yield used, reader.line_num - used, cells
        used = reader.line_num


def _lenient(line: str, number: int, width: int, reason: str) -> Iterator[tuple[int, list[str] | Reject]]:
    # Cells such as `"你好"医生` are against the rules of quoting yet mean one thing only; a strict parser refuses them.
    cells = next(csv.reader(io.StringIO(line.rstrip("\n")), strict=False), [])
    if width and len(cells) == width and line.count('"') % 2 == 0:
        yield number, cells
    elif line.strip():
        yield number, Reject("broken quotes", f"{reason}: {excerpt(line)}")


def string(value: Any) -> str:
    """A cell or JSON value as stripped text; "" for None, NaN, and what programs write for them ("nan", "null")."""
    if isinstance(value, str):
        text = value.strip()
        return "" if len(text) <= _LONGEST_NOTHING and _NULL.fullmatch(text) else text
    if isinstance(value, float) and math.isnan(value):
        return ""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def field_text(value: Any) -> str:
    """`string` of what is no turn of a dialogue: the words that people write for nothing ("无", "暂无") are "" too."""
    text = string(value)
    return "" if len(text) <= _LONGEST_NOTHING and _NOTHING.fullmatch(text) else text


def required(row: Any, *names: str) -> str:
    """The text of the first of `names` that `row` has; Reject when none is there or it is empty."""
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    for name in names:
        if name in row:
            if text := field_text(first(row[name])):
                return text
            raise Reject("empty field", name)
    raise Reject("missing field", f"{' or '.join(names)}; found {', '.join(map(str, list(row)[:8]))}")


def first(value: Any) -> Any:
    """The first leaf of nested lists: [[q, q']] -> q, as the Huatuo-26M loader takes [0][0]."""
    while isinstance(value, list):
        value = value[0] if value else ""
    return value


def leaves(value: Any) -> list[Any]:
    """All leaves of nested lists, in order."""
    found, left = [], [value]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += reversed(value)
        else:
            found.append(value)
    return found


def attempted(parse: Callable[[Any], Payload], source: str, file: str, line: int, row: Any) -> Record | Rejection:
    """Record of `parse(row)`, or the Rejection that it raised (or that `row` already is)."""
    try:
        if isinstance(row, Reject):
            raise row
        return Record(source, file, line, parse(row))
    except Reject as no:
        return Rejection(source, file, line, no.reason, excerpt(no.detail), excerpt(shown(row)))


def shown(row: Any) -> str:
    """A row as JSON, for the excerpt of a Rejection; "" for what could not be read."""
    try:
        return "" if isinstance(row, Reject) else json.dumps(row, ensure_ascii=False)
    except RecursionError:
        return "(nested too deep to show)"


def rows(file: str, stream: Stream, fits: Callable[[Any], bool] | None = None, tabular: bool = False) -> Rows:
    """(line, record) of a file: JSON of any layout, or the rows of CSV as dicts; a broken one is a Reject.

    What begins with a bracket is JSON whatever its name says; else the name says, and `tabular` where it does not.
    """
    if plain_name(file).lower().endswith(".csv") or tabular:
        begins = next((text[0] for piece in stream.pieces() if (text := piece.lstrip())), "")
        if begins not in ("[", "{"):
            return csv_records(stream)
    return json_items(stream, fits)


def csv_records(stream: Stream) -> Rows:
    """(line, {column: cell}) of each row below a header; columns without a name are dropped.

    A row with text behind the last named column is a Reject. A header that cannot be read, or names a column twice, is
    one Reject, and every row below it another.
    """
    found = csv_rows(stream)
    top, header = next(found, (1, []))
    names = [] if isinstance(header, Reject) else [name.strip() for name in header]
    if twice := [name for name in names if name and names.count(name) > 1]:
        header = Reject("", f"column {twice[0]!r} comes {names.count(twice[0])} times; keep one of them")
    if isinstance(header, Reject):
        yield top, Reject("unreadable file", f"no header row: {header.detail}")
    for line, cells in found:
        if isinstance(header, Reject):
            yield line, Reject("no header")
        else:
            yield line, _named(names, cells)


def json_reader(parse: Callable[[Any], Payload], tabular: bool = False) -> Reader:
    """A reader of the records that `rows` finds."""

    def fits(value: Any) -> bool:
        try:
            parse(value)
        except Reject as no:
            return no.reason not in _NO_FORM
        return True

    def read(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
        for line, row in rows(file, stream, fits, tabular):
            yield attempted(parse, source, file, line, row)

    return read


def csv_reader(parse: Callable[[dict[str, str]], Payload]) -> Reader:
    """A reader of what is published as CSV; of other files the cells are made text."""
    return json_reader(lambda row: parse(text_cells(row)), tabular=True)


def text_cells(row: Any) -> dict[str, str]:
    """A row of a table with every cell as text, lists and objects as JSON. Reject: something else than an object."""
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    if set(map(type, row.values())) <= {str}:
        return row
    return {
        name: shown(cell) if isinstance(cell, list | dict) else cell if isinstance(cell, str) else string(cell)
        for name, cell in row.items()
    }


def _named(names: list[str], cells: list[str] | Reject) -> dict[str, str] | Reject:
    if isinstance(cells, Reject):
        return cells
    width = max((at for at, name in enumerate(names, start=1) if name), default=0)
    if behind := "".join(cells[width:]).strip():
        return Reject("shifted row", f"text behind the last named column: {behind}")
    return {name: cell for name, cell in zip(names, cells, strict=True) if name}
