"""One output file as records in memory, and its exact bytes on disk."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RawLine:
    """A line that is written as it stands: how a truncated JSON line gets into a JSON-lines file."""

    text: str


@dataclass
class Sheet:
    """`path` below the raw folder; `kind` is jsonl, json, csv or lines; `wrap` holds the object around a json list."""

    source: str
    path: str
    kind: str
    records: list[Any]
    header: list[str] = field(default_factory=list)
    encoding: str = "utf-8"
    newline: str = "\n"
    spaced: bool = False
    wrap: dict[str, Any] = field(default_factory=dict)


def to_bytes(sheet: Sheet) -> bytes:
    """The file's bytes; the same on every machine."""
    text = {"jsonl": _jsonl, "json": _json, "csv": _csv, "lines": _lines}[sheet.kind](sheet)
    return text.encode(sheet.encoding)


def write(sheet: Sheet, folder: Path) -> int:
    """Write the sheet below `folder`; returns the number of its records."""
    target = folder / sheet.path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(to_bytes(sheet))
    return len(sheet.records)


def json_line(record: Any, spaced: bool = False) -> str:
    """One JSON line; `spaced` imitates the mongoexport layout of medical.json ('{ "name" : "x" }')."""
    if isinstance(record, RawLine):
        return record.text
    return _spaced(record) if spaced else json.dumps(record, ensure_ascii=False)


def _spaced(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_spaced(k)} : {_spaced(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[ " + ", ".join(_spaced(v) for v in value) + " ]" if value else "[]"
    return json.dumps(value, ensure_ascii=False)


def _jsonl(sheet: Sheet) -> str:
    return "".join(json_line(record, sheet.spaced) + sheet.newline for record in sheet.records)


def _json(sheet: Sheet) -> str:
    value = {**sheet.wrap, "entries": sheet.records} if sheet.wrap else sheet.records
    return json.dumps(value, ensure_ascii=False, indent=1) + sheet.newline


def _csv(sheet: Sheet) -> str:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=sheet.newline)
    writer.writerow(sheet.header)
    writer.writerows(sheet.records)
    return text.getvalue()


def _lines(sheet: Sheet) -> str:
    return "".join(str(record) + sheet.newline for record in sheet.records)
