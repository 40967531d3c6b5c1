"""What ChiMed-GPT is evaluated on beside C-Eval (arXiv 2311.06025), and public sets of the same kind.

They are asked under the `fixed` protocol alone: the authors' scripts sample at temperature 1 and differ from task to
task (DEVIATIONS.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import dialogue, exams, ner
from qilin_lib.evaluate.benchmark_files import Unreadable
from qilin_lib.evaluate.task import FIXED, Task

Maker = Callable[[str, Path, Any, Path | None], Task]
"""maker(benchmark, its folder, parameters of 06, folder of notebook 01 or None)."""
MAKERS: dict[str, tuple[str, Maker]] = {
    "cmeee": ("cmeee_v2", ner.task),
    "ccks2019": ("ccks2019", ner.task),
    "chimst": ("chimst", ner.task),
    "cmmlu": ("cmmlu", exams.task),
    "medqa": ("medqa", exams.task),
    "cmtmedqa": ("cmtmedqa", dialogue.task),
    "meddialog": ("meddialog_cn", dialogue.task),
    "mc": ("mc", dialogue.task),
}
"""Benchmark -> its folder among the raw data, and who makes its task."""


def prepare(raw_dir: str | Path, params: Any, built: Path | None) -> list[Task]:
    """The tasks of `params.further_benchmarks`; null means every one whose folder is there. One may have no items left:
    its `invalid` says why.

    Raises QilinError for one that is asked for by name and has no folder.
    """
    if FIXED not in params.protocols:
        return []
    tasks = []
    for name, (folder, maker) in MAKERS.items():
        path = Path(raw_dir) / folder
        if params.further_benchmarks is not None and name in params.further_benchmarks and not path.is_dir():
            there = [other for other, (place, _) in MAKERS.items() if (Path(raw_dir) / place).is_dir()]
            raise QilinError(
                f"eval.further_benchmarks names '{name}', but {path} is not a folder; nearest valid: "
                f"{there or 'null'} (those that are there), or null for all of them"
            )
        if path.is_dir() and (params.further_benchmarks is None or name in params.further_benchmarks):
            try:
                tasks.append(maker(name, path, params, built))
            except Unreadable as reason:
                tasks.append(Task.unread(name, reason))
    return tasks
