"""The records of a JSON text as a stream, whatever its layout: in bounded memory, and in time linear in its size."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from qilin_lib.chimed.readers import stream as streams
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.records import excerpt

Rows = Iterator[tuple[int, Any]]
_DECODER = json.JSONDecoder(strict=False)
# A first object that ends within so many characters is looked at as a whole before anything is read.
_HEAD = 1 << 22
# Commas too many, and byte-order marks of files put together.
_GAP = re.compile(r"[\s,\ufeff]*")
_COLON = re.compile(r"[\s:]*")
_LIST = re.compile(r"\[\s*(.?)", re.DOTALL)
_STRING_OR_COMMA = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|,(?=\s*[}\]])', re.DOTALL)
# Levels of nesting are limited; where the limit was met is not known.
_DEEP = 1000


def json_items(stream: Stream, fits: Callable[[Any], bool] | None = None) -> Rows:
    """(line, value) of each record of a JSON text; a broken one comes as (line, Reject).

    Records are lines, values one after another over lines or without a gap, the elements of arrays, or what an object
    holds that is no record itself: the elements of its lists ({"data": […]}), or its members ({"id": {…}, …}). `fits`
    says of a value whether it has a record's form. Commas too many or too few do not matter. Behind a broken record
    reading goes on at the next line that begins one; of a text without lines the rest is lost.
    """
    window = _Window(stream.pieces())
    opening = window.skip(_GAP)
    holds = _layout(window, fits) if opening == "{" else "values" if opening == "[" else "lines"
    yield from _line_items(stream) if holds == "lines" else _values(window, holds)


def _values(window: _Window, holds: str) -> Rows:
    """Values one after another; of lists of records the elements, of a first object what it `holds` (`_layout`)."""
    inside, begun, closing = [], window.line(), {"[": "]", "{": "}"}
    if holds != "values":
        inside.append("{")
        window.at += 1
    while char := window.skip(_GAP):
        if inside and char == closing[inside[-1]]:
            window.at += 1
            del inside[-1]
            continue
        of_object = inside[-1:] == ["{"]
        if of_object:
            line, key = window.record()
            if isinstance(key, Reject):
                yield line, key
                continue
            char = window.skip(_COLON)
            holds = holds or ("{" if char == "{" else "[" if window.opens() else "")
        if inside[-1:] != ["["] and (not of_object or holds == "[") and window.opens():
            window.at += 1
            inside.append("[")
            continue
        line, value = window.record()
        if not of_object or isinstance(value, Reject) or holds == "{" and isinstance(value, dict):
            yield line, value
    if inside and not window.lost:
        where = "array" if inside[-1] == "[" else "object"
        yield window.line() if holds else begun, Reject("broken JSON", f"the file ends inside the {where}")


def holds_rows(stream: Stream) -> bool:
    """Whether a text is JSON with records, whatever its file is called."""
    _, value = next(json_items(stream), (0, None))
    # A book may begin with the number of a note, "[1]".
    return isinstance(value, dict) or isinstance(value, list) and not any(isinstance(one, int) for one in value)


def _line_items(stream: Stream) -> Rows:
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line
            continue
        at, mended = _GAP.match(line).end(), False
        while at < len(line):
            value, end = _decoded(line, at)
            if isinstance(value, Reject) and not mended:
                line, mended = _without_trailing_commas(line), True
                continue
            yield number, value
            at = len(line) if isinstance(value, Reject) else _GAP.match(line, end).end()


def _decoded(text: str, at: int = 0) -> tuple[Any, int]:
    """(value, its end), or (Reject, where its fault lies)."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as reason:
        said, fault = f"{reason.msg.removesuffix(' starting at')} at character {reason.pos - at + 1}", reason.pos
    except (ValueError, RecursionError) as reason:  # a number of thousands of digits; nested too deep
        said, fault = re.split("; *| while", str(reason))[0], min(at + _DEEP, len(text))
    return Reject("broken JSON", f"{said}: {excerpt(text[at : at + 240])}"), fault


def _without_trailing_commas(text: str) -> str:
    """`text` with a blank for each comma before a closing bracket; nothing moves."""
    return _STRING_OR_COMMA.sub(lambda found: " " if found[0] == "," else found[0], text)


class _Window:
    """The part of a text that one value may lie in: grows at the end, forgets what is behind `at`."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self.text, self.at, self.end, self.ended, self.lost = "", 0, 0, False, False
        self._line, self._counted, self._size = 1, 0, 64
        # Of values that begin no line, nothing is known.
        self._indent = r"[ \t]?"

    def more(self) -> bool:
        """Grow to twice what lies ahead, or by a piece; False at the end of the text."""
        self.line()
        parts, size = [self.text[self.at :]], 0
        for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if size >= len(parts[0]):
                break
        else:
            self.ended = True
        self.text, self.end, self.at, self._counted = "".join(parts), self.end - self.at, 0, 0
        return len(parts) > 1

    def line(self) -> int:
        """Number of the line at `at`."""
        self._line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def skip(self, gap: re.Pattern[str]) -> str:
        """Go to the end of `gap`; returns the character there, "" at the end of the text."""
        skipped = ""
        while True:
            start, self.at = self.at, gap.match(self.text, self.at).end()
            skipped += self.text[start : self.at]
            if self.at < len(self.text) or not self.more():
                break
        if "\n" in skipped:
            self._indent = re.escape(skipped.rpartition("\n")[2].rstrip(","))
        return self.text[self.at : self.at + 1]

    def opens(self) -> bool:
        """Whether a list of records begins at `at`: of lists or objects, or an empty one."""
        while (found := _LIST.match(self.text, self.at)) and not found[1] and self.more():
            pass
        return bool(found) and found[1] in ("{", "[", "]")

    def value(self, limit: int = 0) -> Any:
        """The value at `at`, `end` behind it; a Reject where there is none, `end` at its fault.

        What is parsed is a copy of about the last value's size: a parser that fails looks at all it was given.
        """
        size, limit = self._size, limit or streams.MAX_LINE
        while True:
            part = self.text[self.at : self.at + size]
            value, end = _decoded(part)
            if broken := isinstance(value, Reject):
                cut = value.detail.startswith("Unterminated") or not part[end + 16 :].strip()
            else:
                cut = end == len(part)
            last = self.at + size >= len(self.text)
            if not cut or last and self.ended or len(part) > limit:
                break
            if not last or self.more():
                size = min(4 * size, limit + 1)
        if broken and part[end : end + 1] in ("}", "]") and part[:end].rstrip().endswith(","):
            value, end = _decoded(_without_trailing_commas(part))
        if end > limit or broken and cut and len(part) > limit:
            value = Reject("element too long", f"more than {limit} characters")
        self._size, self.end = max(64, 2 * end), self.at + end
        return value

    def record(self) -> tuple[int, Any]:
        """(line, value) at `at`, which moves behind it; of a broken one to the next line that begins a value.

        That may be the line of the fault itself: every line is looked at twice at most.
        """
        line, value = self.line(), self.value()
        if isinstance(value, Reject):
            self._resume()
            where = "nothing behind it is read" if self.lost else f"reading goes on at line {self.line()}"
            return line, Reject(value.reason, f"{value.detail} ({where})")
        self.at = self.end
        return line, value

    def _resume(self) -> None:
        pattern = re.compile(rf'\n{self._indent},?(?=["{{\[])')
        begun = self.text.rfind("\n", self.at, self.end)
        self.at = self.end if begun < 0 else begun
        while not (found := pattern.search(self.text, self.at)):
            last = self.text.rfind("\n", self.at)
            self.at = len(self.text) if last < 0 else last
            if not self.more():
                self.at, self.lost = len(self.text), True
                return
        self.at = found.end()


def _layout(window: _Window, fits: Callable[[Any], bool] | None) -> str:
    """How a text holds records whose first value is the object at `at`.

    "lines", "values" one after another, or as an object's members: in lists "[", themselves "{", "" for not known.
    """
    while "\n" not in window.text[window.at : window.at + _HEAD] and len(window.text) - window.at < _HEAD:
        if not window.more():
            break
    value = window.value(_HEAD)
    in_first = window.end <= window.text.find("\n", window.at)
    if isinstance(value, Reject):
        return "lines" if in_first or _lines_follow(window.text[window.at :]) else ""
    while _GAP.match(window.text, window.end).end() == len(window.text) and window.more():
        pass
    if _GAP.match(window.text, window.end).end() < len(window.text):
        return "lines" if in_first else "values"
    firsts = [next(iter(member), None) for member in value.values() if isinstance(member, list)]
    listed = [first for first in firsts if isinstance(first, list | dict)]
    objects = [member for member in value.values() if isinstance(member, dict)]
    if fits and fits(value):
        return "values"
    if any(map(fits, listed)) if fits else listed:
        return "["
    return "{" if objects and (len(objects) == len(value) or fits and any(map(fits, objects))) else "values"


def _lines_follow(text: str) -> bool:
    """Whether a first line that is cut is followed by a whole object that is no part of what that line opened."""
    first, _, rest = text.partition("\n")
    second, _, _ = rest.partition("\n")
    value, end = _decoded(second)
    if not isinstance(value, dict):
        return False
    behind = second[end:].strip()
    opened = first.rstrip().endswith(("[", "{", ":"))
    return not behind or behind == "," and not opened
