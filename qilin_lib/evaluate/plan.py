"""What is asked: tasks as values. The plan writes them once; the processes that answer read them and no benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter

from qilin_lib.evaluate.benchmark_files import Unreadable
from qilin_lib.evaluate.items import Item, unusable
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.files import read_json, read_jsonl, write_json, write_jsonl

FIXED, RELEASED = "fixed", "released"
# Items of a subject that share one forward pass. It is no parameter: records must not depend on how they were made.
LIKELIHOOD_CHUNK = 16


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

    @classmethod
    def unread(cls, name: str, why: Unreadable) -> Task:
        """A benchmark that cannot be read: nothing is asked of it, and `invalid` says why."""
        row = unusable(name, why.file, 0, str(why), "", reason="unreadable benchmark")
        return Task(name, FIXED, "-", None, [], [row], {})


def write(tasks: Sequence[Task], folder: Path) -> None:
    """`folder`/<benchmark>.jsonl, an item a line for all of its protocols, and tasks.json: how they are asked."""
    for task in {task.name: task for task in tasks}.values():
        write_jsonl(folder / f"{task.name}.jsonl", map(asdict, task.items))
    write_json(folder / "tasks.json", [_described(task) for task in tasks])


def read(folder: Path, kinds: Mapping[str, type[Task]]) -> list[Task]:
    """The tasks that `write` wrote, without the rows that could not be used; `kinds`: the classes by their names."""
    adapter, items = TypeAdapter(Item), {}
    tasks = []
    for entry in read_json(folder / "tasks.json"):
        kind, name = kinds[entry.pop("kind")], entry["name"]
        if name not in items:
            items[name] = [adapter.validate_python(row) for row in read_jsonl(folder / f"{name}.jsonl")]
        tasks.append(TypeAdapter(kind).validate_python(entry | {"items": items[name], "invalid": []}))
    return tasks


def _described(task: Task) -> dict[str, Any]:
    own = {field.name: getattr(task, field.name) for field in fields(task) if field.name not in ("items", "invalid")}
    return {"kind": type(task).__name__} | TypeAdapter(dict[str, Any]).dump_python(own, mode="json")


def chunks(task: Task, asked: Mapping[int, Prompt], backend: Any) -> list[list[int]]:
    """Indices of the items that are answered together, out of `asked` {index of an item: its prompt}.

    They are cut from all items of the task, so that neither a restart nor the number of processes moves a result.
    Scored choices: a subject's items in their order, 16 at most. Generation: the longest first, `batch_size` at most,
    a subject by itself where its items share their examples.
    """
    if task.likelihood and backend.likelihood:
        return [part for group in _by_subject(task, asked) for part in _cut(group, LIKELIHOOD_CHUNK)]
    longest = sorted(asked, key=lambda i: (-len(asked[i].ids or asked[i].text), i))
    groups = _by_subject(task, longest) if any(prompt.shared for prompt in asked.values()) else [longest]
    return [part for group in groups for part in _cut(group, backend.batch_size)]


def _by_subject(task: Task, indices: Sequence[int] | Mapping[int, Prompt]) -> list[list[int]]:
    groups: dict[str | None, list[int]] = {}
    for index in indices:
        groups.setdefault(task.items[index].subject, []).append(index)
    return list(groups.values())


def _cut(indices: list[int], size: int) -> list[list[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
