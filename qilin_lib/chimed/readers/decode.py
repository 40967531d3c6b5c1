"""Text to rows: JSON of any layout, CSV with broken quotes, both as streams. Shared by all readers, and by notebook 06.

A function "row -> payload" says no by raising `Reject(reason, detail)`; a reader is `partial(parsed_rows, function)`:
of file name and stream it gives (line, payload or Reject).
"""

from __future__ import annotations

import ast
import contextlib
import csv
import json
import math
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from qilin_lib.chimed.readers import stream as streams
from qilin_lib.chimed.readers.json_text import Rows, json_items
from qilin_lib.chimed.readers.stream import Reject, Stream, plain_name
from qilin_lib.chimed.records import Payload, excerpt

Numbered = tuple[int, str | Reject]
Found = Iterator[tuple[int, Payload | Reject]]
# The reasons of a `Reject` that say that a value is no record of this kind, rather than a bad one.
_NO_FORM = ("missing field", "unknown form")
# An unclosed quote is looked for so many lines ahead.
_ROW_LINES = 400
# What programs write for a missing cell, and what people write. Only the first is nothing as a turn of a dialogue:
# "有过敏史吗？" "无".
_NULL = re.compile(r"nan|none|null|nil|n/a|#n/a|<na>", re.IGNORECASE)
_NOTHING = re.compile(r"[暂尚]?无(?:相关)?(?:资料|数据|信息|内容|记录|解析|解释)?[。.]?|[-–—/…]+|\.{3,}")
_LONGEST_NOTHING = 10
# How the text of a list begins: JSON's, Python's, or NumPy's.
_LIST = re.compile(r"""\[\s*(?:[\[\]{'"]|array\()""")
FIELDS = yaml.safe_load((Path(__file__).parents[1] / "data/fields.yaml").read_text(encoding="utf-8"))
csv.field_size_limit(streams.MAX_LINE)


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
    """The text of the first of `names` that has one in `row`, of nested lists the first; Reject where none has."""
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    there = [name for name in names if name in row]
    for name in there:
        value = row[name]
        while isinstance(value, list):
            value = value[0] if value else ""
        if text := field_text(value):
            return text
    for name in there:
        if isinstance(row[name], dict | bool):
            advice = "; write a table as one object a row" if str(row[name]).startswith("{'0'") else ""
            raise Reject("content that is not text", f"{name} is a {type(row[name]).__name__}{advice}")
    if there:
        raise Reject("empty field", there[0])
    raise Reject("missing field", f"{' or '.join(names[:3])}; found {', '.join(map(str, list(row)[:8]))}")


def field(row: Any, names: Iterable[str], default: Any = None) -> Any:
    """The value of the first of `names` that a row has."""
    for name in names:
        if name in row:
            return row[name]
    return default


def leaves(value: Any) -> list[Any]:
    """All leaves of nested lists, in order; the value itself when it is no list."""
    found, left = [], [value]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += reversed(value)
        else:
            found.append(value)
    return found


def list_of(text: str) -> list[Any]:
    """The list whose text, JSON or Python's, a program has written; Reject for another, such as NumPy's."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(text)
    with contextlib.suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        value = ast.literal_eval(text)
        # Python would join the texts of a list without commas.
        if repr(value) == text:
            return value
    raise Reject("unknown form", f"a list as text that is neither JSON's nor Python's: {excerpt(text)}")


def told(cell: str) -> Any:
    """What a cell holds: the list whose text it is, else its text."""
    return list_of(cell) if _LIST.match(cell) and cell.endswith("]") else cell


def csv_rows(stream: Stream, delimiter: str = ",") -> Iterator[tuple[int, list[str] | Reject]]:
    """(first line, cells) of each CSV row; (line, Reject) for a broken one. Blank lines are no rows.

    A row must have as many cells as the first one. An unclosed quote costs its own line only: parsing restarts on the
    next line, instead of swallowing the rest of the file.
    """
    lines, held, width = stream.lines(), deque(), 0
    while True:
        used, cells, broken = _row(lines, held, delimiter)
        if not used:
            if not held:
                return
            yield held.popleft()
            continue
        number, line = used[0]
        # Cells such as `"你好"医生` are against the rules of quoting yet mean one thing only.
        if broken and line.strip() and (line.count('"') % 2 or len(cells) != width):
            yield number, Reject("broken quotes", f"{broken}: {excerpt(line)}")
        elif any(map(str.strip, cells)):
            width = width or len(cells)
            if not any(map(str.strip, cells[width:])):
                cells = cells[:width]
            fits = len(cells) == width
            yield number, cells if fits else Reject("wrong number of columns", f"{len(cells)} instead of {width}")


def _row(lines: Iterator[Numbered], held: deque[Numbered], delimiter: str) -> tuple[list[Numbered], list[str], str]:
    """(the lines of the next row, its cells, what is wrong with it); no lines at the end, and before one that is none.

    held: lines that were looked at already.
    """
    used: list[Numbered] = []

    def taken(escaped: bool) -> Iterator[str]:
        size = 0
        while len(used) < _ROW_LINES and size <= streams.MAX_LINE:
            item = held.popleft() if held else next(lines, None)
            line = item and item[1]
            if not isinstance(line, str):
                held.extendleft([item] if item else [])
                return
            used.append(item)
            size += len(line)
            yield (line.replace('\\"', '""') if escaped else line) + "\n"

    # Databases write a quote inside quotes as \" and not as "".
    for escaped in (False, True):
        try:
            return used, next(csv.reader(taken(escaped), strict=True, delimiter=delimiter), []), ""
        except csv.Error as error:
            reason = str(error)
        if escaped or not any('\\"' in line for _, line in used):
            break
        held.extendleft(reversed(used))
        used.clear()
    held.extendleft(reversed(used[1:]))
    return used[:1], next(csv.reader([used[0][1]], delimiter=delimiter), []), reason


def csv_records(stream: Stream, delimiter: str = ",") -> Rows:
    """(line, {column: cell}) of each row below a header; columns without a name are dropped.

    A row with text behind the last named column is a Reject. A header that cannot be read, or names a column twice, is
    one Reject, and every row below it another.
    """
    found = csv_rows(stream, delimiter)
    top, header = next(found, (1, []))
    names = [] if isinstance(header, Reject) else [name.strip() for name in header]
    if twice := [name for name in names if name and names.count(name) > 1]:
        header = Reject("", f"column {twice[0]!r} comes {names.count(twice[0])} times; keep one of them")
    if isinstance(header, Reject):
        yield top, Reject("unreadable file", f"no header row: {header.detail}")
    width = max((at for at, name in enumerate(names, start=1) if name), default=0)
    for line, cells in found:
        if isinstance(header, Reject):
            yield line, Reject("no header")
        elif isinstance(cells, Reject):
            yield line, cells
        elif behind := "".join(cells[width:]).strip():
            yield line, Reject("shifted row", f"text behind the last named column: {behind}")
        else:
            yield line, parsed(partial(_record, names), cells)


def _record(names: list[str], cells: list[str]) -> dict[str, Any]:
    return {name: told(cell) for name, cell in zip(names, cells, strict=True) if name}


def rows(file: str, stream: Stream, fits: Callable[[Any], bool] | None = None, tabular: bool = False) -> Rows:
    """(line, record) of a file: JSON of any layout, or the rows of CSV as dicts; a broken one is a Reject.

    What begins with a bracket is JSON whatever its name says; else the name says, and `tabular` where it does not.
    Cells are parted by what parts the names of the columns, whatever the file's name says.
    """
    form = plain_name(file).lower()[-4:]
    if form in (".csv", ".tsv") or tabular:
        head = next((text.split("\n")[0] for piece in stream.pieces() if (text := piece.lstrip())), "")
        if not head.startswith(("[", "{")):
            return csv_records(stream, max(",\t;|", key=head.count))
    return json_items(stream, fits)


def parsed(parse: Callable[[Any], Any], row: Any) -> Any:
    """What `parse` makes of a row, or the Reject that it raised (or that the row already is), with the row as JSON.

    The names of its fields are small letters for `parse`, unless two were one then.
    """
    if isinstance(row, Reject):
        return row
    try:
        return parse(_small(row) if isinstance(row, dict) else row)
    except Reject as no:
        try:
            return Reject(no.reason, no.detail, json.dumps(row, ensure_ascii=False))
        except RecursionError:
            return Reject(no.reason, no.detail, "(nested too deep to show)")


def _small(row: dict[str, Any]) -> dict[str, Any]:
    small = {name.lower(): value for name, value in row.items()}
    return small if len(small) == len(row) else row


def parsed_rows(parse: Callable[[Any], Payload], file: str, stream: Stream, tabular: bool = False) -> Found:
    """(line, what `parse` makes of it) of the `rows` of a file; `tabular`: of what is published as CSV."""

    def fits(value: Any) -> bool:
        found = parsed(parse, value)
        return not isinstance(found, Reject) or found.reason not in _NO_FORM

    return ((line, parsed(parse, row)) for line, row in rows(file, stream, fits, tabular))
