"""Text to rows: JSON in three layouts, CSV with broken quotes, both as streams. Shared by all readers.

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
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.records import Payload, Record, Rejection, excerpt

Reader = Callable[[str, str, Stream], Iterator[Record | Rejection]]

_DECODER = json.JSONDecoder(strict=False)
_ROW_LINES = 400
_HEAD = 1 << 20
# What programs write for a missing cell, and what people write. Only the first is nothing as a turn of a dialogue:
# "有过敏史吗？" "无".
_NULL = re.compile(r"nan|none|null|nil|n/a|#n/a|<na>", re.IGNORECASE)
_NOTHING = re.compile(r"[暂尚]?无(?:相关)?(?:资料|数据|信息|内容|记录|解析|解释)?[。.]?|[-–—/…]+|\.{3,}")
_LONGEST_NOTHING = 10
csv.field_size_limit(streams.MAX_LINE)


def json_items(stream: Stream, key: str = "") -> Iterator[tuple[int, Any]]:
    """(line, value) of each element of a JSON array, of the array under `key` in a JSON object, or of JSON lines.

    A broken element comes as (line, Reject); reading goes on at the next place that looks like the start of an element:
    on a line of its own with the indentation of the others, or behind a comma with the same first key. `key` is looked
    for in the first _HEAD characters.
    """
    window = _Window(stream.pieces())
    window.skip(_SPACE)
    while key and len(window.text) < _HEAD and window.more():
        pass
    if window.text.startswith("[", window.at):
        window.at += 1
        yield from _array_items(window, alone=True)
    elif found := _under(window, key):
        window.at = found
        yield from _array_items(window, alone=False)
    else:
        yield from _line_items(stream)


def _under(window: _Window, key: str) -> int:
    """Where the array under `key` begins, when the text's first value is an object that holds it; else 0."""
    found = re.compile(rf'"{key}"\s*:\s*\[').search(window.text, window.at, _HEAD) if key else None
    if not (found and window.text[window.at] == "{"):
        return 0
    try:
        _DECODER.raw_decode(window.text[: found.start()], window.at)
    except (ValueError, RecursionError):
        return found.end()
    return 0  # The first object ends before the key: these are JSON lines.


def _line_items(stream: Stream) -> Iterator[tuple[int, Any]]:
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line
            continue
        try:
            value, end = _DECODER.raw_decode(line)
        except (ValueError, RecursionError):
            end = -1
        if end == len(line):
            yield number, value
        elif line.strip():
            yield number, _spaced(line)


def _spaced(line: str) -> Any:
    """The value of a line with blanks around it, or what is wrong with the line."""
    try:
        return _DECODER.decode(line)
    except (ValueError, RecursionError) as reason:
        return Reject("broken JSON", f"{reason}: {excerpt(line)}")


_SPACE = re.compile(r"\s*")
_GAP = re.compile(r"[\s,]*")
_OPENING = re.compile(r'\{\s*("(?:[^"\\]|\\.)*")|\[')
_OVERLAP = 4096


class _Window:
    """The part of a text that one array element may lie in: grows at the end, forgets what is behind `at`."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.text, self.at, self.ended = "", 0, False
        self._line, self._counted = 1, 0
        self._indent, self._openings = r"\s*", {}

    def more(self) -> bool:
        """Grow to twice what lies ahead, or by a piece; False at the end of the text."""
        self.line()
        parts = [self.text[self.at :]]
        wanted, size = 2 * len(parts[0]), len(parts[0])
        for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if size >= wanted:
                break
        else:
            self.ended = True
        self.text, self.at, self._counted = "".join(parts), 0, 0
        return len(parts) > 1

    def line(self) -> int:
        """Number of the line at `at`."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self, gap: re.Pattern[str]) -> str:
        """Go to the end of `gap`; returns the character there, "" at the end of the text."""
        while True:
            start, self.at = self.at, gap.match(self.text, self.at).end()
            if self.at < len(self.text):
                break
            if not self.more():
                return ""
        skipped = self.text[start : self.at]
        if "\n" in skipped:
            self._indent = re.escape(skipped.rpartition("\n")[2])
        return self.text[self.at]

    def element(self) -> Any:
        """The value at `at`, which moves behind it; a Reject, and `at` stays, where there is none."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text, self.at)
            except (ValueError, RecursionError) as reason:
                if not self._cut(reason):
                    return self._broken(reason)
                if len(self.text) - self.at > streams.MAX_LINE:
                    return _too_long()
                if not self.more():
                    return self._broken(reason)
            else:
                # A number at the window's end may go on behind it.
                if end < len(self.text) or self.ended or not self.more():
                    self._remember_opening()
                    value = value if end - self.at <= streams.MAX_LINE else _too_long()
                    self.at = end
                    return value

    def _remember_opening(self) -> None:
        if len(self._openings) < 16 and (opening := _OPENING.match(self.text, self.at)):
            self._openings[opening[1]] = True

    def _cut(self, reason: Exception) -> bool:
        # Whether the element may be whole when more text is there: the parser failed at the very end of the window.
        if self.ended or not isinstance(reason, json.JSONDecodeError):
            return False
        return reason.msg.startswith("Unterminated string") or not self.text[reason.pos + 16 :].strip()

    def _broken(self, reason: Exception) -> Reject:
        seen = excerpt(self.text[self.at : self.at + 240])
        return Reject("broken JSON", f"{getattr(reason, 'msg', reason)}: {seen}")

    def resume(self) -> bool:
        """Go to the next place behind `at` that looks like the start of an element; False when there is none."""
        self._remember_opening()
        keys = "|".join(re.escape(key) for key in self._openings if key)
        behind_comma = [rf",\s*(?=\{{\s*(?:{keys}))"] if keys else []
        behind_list = [r"(?<=\]),\s*(?=\[)"] if None in self._openings else []
        pattern = re.compile("|".join([rf"\n{self._indent}(?=[{{\[])", *behind_comma, *behind_list]))
        start = self.at
        while True:
            if found := pattern.search(self.text, start):
                self.at = found.end()
                return True
            self.at = start = max(start, len(self.text) - _OVERLAP)
            grown = self.more()
            start = 0
            if not grown:
                return False


def _too_long() -> Reject:
    return Reject("element too long", f"more than {streams.MAX_LINE} characters")


def _array_items(window: _Window, alone: bool) -> Iterator[tuple[int, Any]]:
    """The elements from `at` on. `alone`: the array is the whole text, and other arrays may follow it."""
    while True:
        char, line = window.skip(_GAP), window.line()
        if char == "":
            yield line, Reject("broken JSON", "the file ends inside the array")
            return
        if char == "]":
            window.at += 1
            char, line = (window.skip(_SPACE), window.line()) if alone else ("", line)
            if char == "":
                return
            if char == "[":
                window.at += 1
                continue
            seen = excerpt(window.text[window.at : window.at + 240])
            value = Reject("broken JSON", f"text behind the end of the array: {seen}")
        else:
            value = window.element()
        yield line, value
        if isinstance(value, Reject) and not window.resume():
            return


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


def json_reader(parse: Callable[[Any], Payload], key: str = "") -> Reader:
    """A reader for JSON arrays, objects with an array under `key`, and JSON lines."""

    def read(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
        for line, row in json_items(stream, key):
            yield attempted(parse, source, file, line, row)

    return read


def csv_reader(parse: Callable[[dict[str, str]], Payload]) -> Reader:
    """A reader for CSV with a header row; columns without a name are dropped.

    A header without a column that `parse` requires is one Rejection of its own, beside those of the rows.
    """

    def read(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
        rows = csv_rows(stream)
        top, header = next(rows, (1, []))
        broken = isinstance(header, Reject)
        if broken:
            yield Rejection(source, file, top, "unreadable file", f"no header row: {header.detail}")
        names = [] if broken else [name.strip() for name in header]
        complete = True
        for line, cells in rows:
            unit = attempted(parse, source, file, line, Reject("no header") if broken else _named(names, cells))
            if complete and isinstance(unit, Rejection) and unit.reason == "missing field":
                complete = False
                yield Rejection(source, file, top, "missing column", unit.detail)
            yield unit

    return read


def _named(names: list[str], cells: list[str] | Reject) -> dict[str, str] | Reject:
    return cells if isinstance(cells, Reject) else {n: c for n, c in zip(names, cells, strict=True) if n}
