"""Raw files for tests: JSON lines, folders written at one stroke, and what the readers make of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from qilin_lib import params
from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Payload, Record, Rejection, content
from qilin_lib.schema import Build

# A question of the tiny raw folder's benchmark.
LEAK = "患儿咳嗽三天伴发热，听诊双肺有湿啰音，最可能的诊断是"


def settings(**changed: Any) -> Build:
    """Parameters of a build in this process, without a limit of records."""
    own = {"workers": 1, "max_records_per_source": None, "near_dup_threshold": 0.7}
    return Build.model_validate(vars(params.load("01_build_chimed")) | own | changed)


def jsonl(rows: list) -> str:
    """JSON lines of `rows`; a `str` row stands as it is."""
    return "".join((row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)) + "\n" for row in rows)


def talk(question: str, answer: str, **more: Any) -> dict[str, Any]:
    """A chat of one question and its answer."""
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} | more


def put(folder: Path, files: dict[str, str | bytes]) -> Path:
    """Write {relative path: text or bytes} below `folder`."""
    for name, raw in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8"))
    return folder


def units_of(raw: Path, name: str, **how: Any) -> list[Record | Rejection]:
    """What `units` yields of a source."""
    return [unit.read for unit in sources.units(sources.BY_NAME[name], raw, **how)]


def payloads(raw: Path, name: str, **how: Any) -> list[Payload | str]:
    """The payload of each record of a source, the reason of each rejection."""
    return [one.payload if isinstance(one, Record) else one.reason for one in units_of(raw, name, **how)]


def reads(raw: Path, name: str) -> tuple[list[str], Counter[str]]:
    """([the first line of each record], {reason: how many rejections}) of a source."""
    units = units_of(raw, name)
    asked = [content(unit.payload).split("\n")[0] for unit in units if isinstance(unit, Record)]
    return asked, Counter(unit.reason for unit in units if not isinstance(unit, Record))


def read(raw: Path, file: str, text: str | bytes, name: str) -> tuple[list[str], Counter[str]]:
    """`reads` of a source with one file more."""
    return reads(put(raw / name, {file: text}).parent, name)
