"""Bytes to text, text to rows: encodings, JSON in three layouts, CSV with broken quotes. Shared by all readers.

The drivers at the end (`json_reader`, `csv_reader`) turn a function "row -> payload" into a reader. Such a function
says no by raising `Reject(reason, detail)`; a driver turns that into a Rejection with file and line.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from qilin_lib.chimed.records import Payload, Record, Rejection, excerpt
from qilin_lib.errors import QilinError

Reader = Callable[[str, str, str], Iterator[Record | Rejection]]

_DECODER = json.JSONDecoder(strict=False)
_ROW_LINES = 400
_MISSING = {"", "nan", "none", "null", "n/a", "暂无", "暂无相关资料"}
csv.field_size_limit(1 << 24)


class Reject(Exception):
    """Raised by a row parser for a row it cannot use."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason, self.detail = reason, detail


def decode(raw: bytes) -> str:
    """Text of a raw file: BOM, UTF-8 or GB18030, newlines as "\\n", NUL removed.

    A byte that fits neither encoding becomes a lone surrogate (`surrogateescape`), so that only the record that holds
    it is lost.
    """
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        text = raw.decode("utf-16", "replace")
    else:
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        text = raw.decode(_encoding(raw), "surrogateescape")
    if "\0" in text:
        text = text.replace("\0", "")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text


def _encoding(raw: bytes) -> str:
    for name in ("utf-8", "gb18030"):
        try:
            raw.decode(name)
            return name
        except UnicodeDecodeError:
            continue
    # Neither fits the whole file: the one with fewer broken places is the file's encoding, and those places are broken.
    lost = {name: raw.decode(name, "replace").count("\ufffd") for name in ("utf-8", "gb18030")}
    return min(lost, key=lost.__getitem__)


def read_file(path: Path) -> str:
    """Decoded text of a raw file; QilinError when it cannot be opened."""
    try:
        return decode(path.read_bytes())
    except OSError as reason:
        raise QilinError(f"{path} cannot be read: {reason.strerror}") from None


def json_items(text: str, key: str = "") -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of a JSON array, of the array under `key` in a JSON object, or of JSON lines.

    A broken element comes as (line, Reject); reading goes on at the next element that starts a line.
    """
    start = text.lstrip()[:1]
    if start == "[":
        yield from _array_items(text, text.index("[") + 1)
    elif key and start == "{" and (found := re.search(rf'"{key}"\s*:\s*\[', text)):
        yield from _array_items(text, found.end())
    else:
        yield from _line_items(text)


def _line_items(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            yield number, _DECODER.decode(line)
        except (ValueError, RecursionError) as reason:
            yield number, Reject("broken JSON", f"{reason}: {excerpt(line)}")


_GAP = re.compile(r"[\s,]*")
_NEXT_ITEM = re.compile(r"\n\s*(?=[{\[])")


def _array_items(text: str, at: int) -> Iterator[tuple[int, Any]]:
    line, seen = 1, 0
    while True:
        at = _GAP.match(text, at).end()
        if text[at : at + 1] in ("]", ""):
            break
        line, seen = line + text.count("\n", seen, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as reason:
            yield line, Reject("broken JSON", f"{reason}: {excerpt(text[at : at + 240])}")
            resumed = _NEXT_ITEM.search(text, at)
            if resumed is None:
                return
            at = resumed.end()
        else:
            yield line, value
    if not text[at : at + 1]:
        yield line + text.count("\n", seen), Reject("broken JSON", "the file ends inside the array")


def csv_rows(text: str, width: int = 0) -> Iterator[tuple[int, list[str] | Reject]]:
    """(first line, cells) of each CSV row; (line, Reject) for a broken one. Blank lines are no rows.

    `width` is the number of cells a row must have (0 = that of the first row). An unclosed quote costs its own line
    only: parsing restarts on the next line, instead of swallowing the rest of the file.
    """
    lines = [line + "\n" for line in text.split("\n")]
    at = 0
    while at < len(lines):
        for first, used, cells in _window(lines, at):
            at = first + used
            if isinstance(cells, csv.Error):
                yield from _lenient(lines[first], first + 1, width, str(cells))
            elif any(cell.strip() for cell in cells):
                width = width or len(cells)
                wrong = Reject("wrong number of columns", f"{len(cells)} instead of {width}")
                yield first + 1, cells if len(cells) == width else wrong


def _window(lines: list[str], start: int) -> Iterator[tuple[int, int, list[str] | csv.Error]]:
    """(index of the first line, lines used, cells) of the rows in the next _ROW_LINES lines; ends at the first error.

    A row that the end of the window cuts is not yielded, unless it is the window's first: such a quote is never closed.
    """
    window = lines[start : start + _ROW_LINES]
    reader, used = csv.reader(iter(window), strict=True), 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as reason:
            cut = reader.line_num == _ROW_LINES and "unexpected end" in str(reason)
            if used == 0 or not cut:
                yield start + used, 1, reason
            return
        yield start + used, reader.line_num - used, cells
        used = reader.line_num


def _lenient(line: str, number: int, width: int, reason: str) -> Iterator[tuple[int, list[str] | Reject]]:
    # Cells such as `"你好"医生` are against the rules of quoting yet mean one thing only; a strict parser refuses them.
    cells = next(csv.reader(io.StringIO(line.rstrip("\n")), strict=False), [])
    if width and len(cells) == width and line.count('"') % 2 == 0:
        yield number, cells
    elif line.strip():
        yield number, Reject("broken quotes", f"{reason}: {excerpt(line)}")


def string(value: Any) -> str:
    """A cell or JSON value as stripped text; "" for what stands for "nothing" in the wild: None, NaN, "nan", "null"."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return ""
    text = value.strip()
    return "" if text.lower() in _MISSING else text


def required(row: Any, *names: str) -> str:
    """The text of the first of `names` that `row` has; Reject when none is there or it is empty."""
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    for name in names:
        if name in row:
            if text := string(first(row[name])):
                return text
            raise Reject("empty field", name)
    raise Reject("missing field", f"{' or '.join(names)}; found {', '.join(map(str, list(row)[:8]))}")


def first(value: Any) -> Any:
    """The first leaf of nested lists: [[q, q']] -> q, as the Huatuo-26M loader takes [0][0]."""
    while isinstance(value, list):
        value = value[0] if value else ""
    return value


def attempted(parse: Callable[[Any], Payload], source: str, file: str, line: int, row: Any) -> Record | Rejection:
    """Record of `parse(row)`, or the Rejection that it raised (or that `row` already is)."""
    try:
        if isinstance(row, Reject):
            raise row
        return Record(source, file, line, parse(row))
    except Reject as no:
        return Rejection(source, file, line, no.reason, excerpt(no.detail), excerpt(_shown(row)))


def _shown(row: Any) -> str:
    return "" if isinstance(row, Reject) else json.dumps(row, ensure_ascii=False)


def json_reader(parse: Callable[[Any], Payload], key: str = "") -> Reader:
    """A reader for JSON arrays, objects with an array under `key`, and JSON lines."""

    def read(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
        for line, row in json_items(text, key):
            yield attempted(parse, source, file, line, row)

    return read


def csv_reader(parse: Callable[[dict[str, str]], Payload]) -> Reader:
    """A reader for CSV with a header row; columns without a name are dropped."""

    def read(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
        rows = csv_rows(text)
        line, header = next(rows, (1, []))
        if isinstance(header, Reject):
            yield Rejection(source, file, line, "unreadable file", f"no header row: {header.detail}")
            return
        names = [name.strip() for name in header]
        for line, cells in rows:
            row = cells if isinstance(cells, Reject) else {n: c for n, c in zip(names, cells, strict=True) if n}
            yield attempted(parse, source, file, line, row)

    return read
