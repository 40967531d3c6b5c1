"""All benchmarks, and nowhere else: a further one is a file in this folder and a line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.benchmarks import (
    attitudes,
    ceval,
    cmb,
    cmexam,
    dialogue,
    exams,
    huatuo,
    medalign,
    ner,
    patients,
    rubrics,
)
from qilin_lib.evaluate.items import Unreadable, unusable
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task

Read = Callable[[str, Path, Any, Lineage], list[Task]]
"""read(benchmark, its folder, parameters, what was trained on) -> its tasks, one a protocol."""


@dataclass(frozen=True)
class Benchmark:
    """`folder`: where its data lie among the raw ones; `kinds`: the classes of its tasks.

    For a table of its own: `label`, and `columns` {path of a score in a model's entry: heading}.
    """

    folder: str
    read: Read
    kinds: tuple[type[Task], ...]
    label: str = ""
    columns: Mapping[tuple[str, ...], str] = field(default_factory=dict)


PAPER = {
    "ceval": Benchmark("ceval", ceval.read, (ceval.CEval, ceval.ReleasedCEval)),
    "cmexam": Benchmark("cmexam", cmexam.read, (cmexam.CMExam, cmexam.ReleasedCMExam)),
    "huatuo": Benchmark("huatuo26m_test", huatuo.read, (huatuo.Huatuo,)),
}
"""Tables 4-6."""
FURTHER = {
    "cmeee": Benchmark("cmeee_v2", ner.read, (ner.Entities,)),
    "ccks2019": Benchmark("ccks2019", ner.read, (ner.Entities,)),
    "chimst": Benchmark("chimst", ner.read, (ner.Entities,)),
    "cmmlu": Benchmark("cmmlu", exams.read, (exams.Exams,)),
    "medqa": Benchmark("medqa", exams.read, (exams.Exams,)),
    "cmtmedqa": Benchmark("cmtmedqa", dialogue.read, (dialogue.Dialogues,)),
    "meddialog": Benchmark("meddialog_cn", dialogue.read, (dialogue.Dialogues,)),
    "mc": Benchmark("mc", dialogue.read, (dialogue.Dialogues,)),
    "cmb": Benchmark("cmb", cmb.read, (cmb.Cmb,), "CMB-Exam", cmb.COLUMNS),
    "rubrics": Benchmark("rubrics", rubrics.read, (rubrics.Rubrics,)),
    "patients": Benchmark("patients", patients.read, (patients.Patients,), "Simulated patients", patients.COLUMNS),
    "medalign": Benchmark("medalign", medalign.read, (medalign.MedAlign,), "MedAlign", medalign.COLUMNS),
}
"""What ChiMed-GPT is evaluated on beside C-Eval (arXiv 2311.06025), and public sets of the same kind. They are asked
under the `fixed` protocol alone: the authors' scripts sample, and differ from task to task (DEVIATIONS.md)."""
WITH_CRITERIA = tuple(name for name, row in FURTHER.items() if issubclass(row.kinds[0], rubrics.Rubrics))
"""Whose items have criteria of their own, by which a judge can score the answers."""
KINDS = {kind.__name__: kind for row in (*PAPER.values(), *FURTHER.values()) for kind in row.kinds}
KINDS |= {"Attitudes": attitudes.Attitudes}
"""Classes of tasks by name, that of 09 among them."""


def prepare(raw_dir: str | Path, params: Any, built: Path | None = None) -> list[Task]:
    """The tasks of a run, benchmarks in the order of `params.benchmarks`, `fixed` before `released`, then the further
    ones. `built` is the folder of notebook 01, which says what a model was trained on (None: nothing).

    One whose files cannot be read is a task without items, whose `invalid` names file and reason. Raises QilinError for
    an unknown benchmark or subject, one without a folder, or when nothing is left of all of them.
    """
    raw = Path(raw_dir)
    for name in params.benchmarks:
        if name not in PAPER:
            raise QilinError(f"benchmark '{name}' is not known{nearest(name, PAPER)}; choose from {', '.join(PAPER)}")
    chosen = {name: PAPER[name] for name in params.benchmarks} | _further(raw, params)
    lineage = Lineage(built, [raw / row.folder for row in chosen.values() if row.read is dialogue.read])
    tasks: list[Task] = []
    for name, row in chosen.items():
        try:
            tasks += [
                task for task in row.read(name, raw / row.folder, params, lineage) if task.protocol in params.protocols
            ]
        except Unreadable as reason:
            why = unusable(name, reason.file, 0, str(reason), "", reason="unreadable benchmark")
            tasks.append(Task(name, FIXED, "-", None, [], [why], {}))
    if tasks and not any(task.items for task in tasks):
        why = "; ".join(f"{task.name}: {task.invalid[0]['detail']}" for task in tasks if task.invalid)
        raise QilinError(f"no benchmark in {raw_dir} has an item to ask: {why}")
    if not tasks:
        raise QilinError(
            f"eval.protocols = {params.protocols} leaves nothing of eval.benchmarks = {params.benchmarks}: Huatuo-26M "
            "has no released evaluator; nearest valid: protocols = ['fixed']"
        )
    return tasks


def _further(raw: Path, params: Any) -> dict[str, Benchmark]:
    """Those of `params.further_benchmarks`; null means every one whose folder is there."""
    if FIXED not in params.protocols:
        return {}
    asked, there = params.further_benchmarks, [name for name, row in FURTHER.items() if (raw / row.folder).is_dir()]
    for name in asked or ():
        if name not in there:
            raise QilinError(
                f"eval.further_benchmarks names '{name}', but {raw / FURTHER[name].folder} is not a folder; nearest "
                f"valid: {there or 'null'} (those that are there), or null for all of them"
            )
    return {name: FURTHER[name] for name in there if asked is None or name in asked}
