"""What is asked: tasks as values. The plan writes them once; the processes that answer read them and no benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from qilin_lib.evaluate.items import Item
from qilin_lib.files import read_json, read_jsonl, write_json, write_jsonl

FIXED, RELEASED = "fixed", "released"


@dataclass(frozen=True)
class Task:
    """One benchmark under one protocol: what is asked. How stands in the benchmark's own kind of task, which has

      prompts(items, backend, shots)   one Prompt an item
      answer(items, prompts, backend)  each record's own part: what was written or scored, and what was read of it
      statistics(records)              the metrics of one model's records

    and, as fields plain enough for JSON, what these need beside the items. `settings` belong to the records' key, other
    fields do not; `likelihood`: choices are scored, by a backend that can.
    """

    name: str
    protocol: str
    split: str
    cap: int | None
    items: list[Item]
    invalid: list[dict]
    settings: dict[str, Any]
    likelihood: ClassVar[bool] = False


def write(tasks: Sequence[Task], folder: Path) -> None:
    """`folder`/<benchmark>.jsonl, an item a line for all of its protocols, and tasks.json: how they are asked."""
    for task in {task.name: task for task in tasks}.values():
        write_jsonl(folder / f"{task.name}.jsonl", map(asdict, task.items))
    described = []
    for task in tasks:
        own = {one.name: getattr(task, one.name) for one in fields(task) if one.name not in ("items", "invalid")}
        described.append({"kind": type(task).__name__} | TypeAdapter(dict[str, Any]).dump_python(own, mode="json"))
    write_json(folder / "tasks.json", described)


def read(folder: Path, kinds: Mapping[str, type[Task]]) -> list[Task]:
    """The tasks that `write` wrote, without the rows that could not be used; `kinds`: the classes by their names."""
    items, tasks = {}, []
    for entry in read_json(folder / "tasks.json"):
        kind, name = kinds[entry.pop("kind")], entry["name"]
        if name not in items:
            items[name] = TypeAdapter(list[Item]).validate_python(list(read_jsonl(folder / f"{name}.jsonl")))
        tasks.append(TypeAdapter(kind).validate_python(entry | {"items": items[name], "invalid": []}))
    return tasks
