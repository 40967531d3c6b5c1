"""CMMLU's medical subjects (Li et al. 2023, arXiv 2306.09212) and MedQA of mainland China (Jin et al. 2020, arXiv
2009.13081): the likeliest letter, as in C-Eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.exam import LETTERS, exam_row, medqa_row
from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.records import Exam
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmark_files import Unreadable, files_of
from qilin_lib.evaluate.benchmarks import ceval
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item, Reading, cap, questions
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, cmmlu_messages, fit, medqa_messages
from qilin_lib.evaluate.replies import failures, unread
from qilin_lib.evaluate.scores import Table

CMMLU_SUBJECTS = {
    "anatomy": "解剖学",
    "clinical_knowledge": "临床知识",
    "college_medical_statistics": "大学医学统计",
    "genetics": "遗传学",
    "nutrition": "营养学",
    "traditional_chinese_medicine": "中医中药",
    "virology": "病毒学",
}
"""The subjects of ChiMed-GPT's evaluation code (IDEA-CCNL/Fengshenbang-LM, branch dev_bio), with the names that
lm-evaluation-harness's cmmlu tasks give them.
"""
MEDQA_FILES = (
    "**/Mainland/test.jsonl",
    "**/test.jsonl",
    "**/*test.jsonl",
    "**/*test.json",
    "**/*mcmle.jsonl",
    "**/zh.json",
)
"""MedQA's test set in its original form, as an instruction, in Apollo's two forms; the first that is there counts."""


@dataclass(frozen=True)
class Exams(Task):
    """`dev`: CMMLU's examples of each subject, {} for MedQA, which has an instruction instead."""

    dev: dict[str, list[Item]]
    likelihood = True

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        return [prompt(item, backend, self.dev.get(item.subject or "", [])[:shots]) for item in items]

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        return answer(items, asked, backend)

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """ "cmmlu": the seven subjects that are there, with dev examples; "medqa": test.jsonl without examples.

    At most `params.max_items_further` items, of each subject in CMMLU. Notebook 01 takes what holds an item of either
    out of the training data (chimed.decontaminate). Unreadable when no file is there, one has no usable question, or a
    dev example is missing or incomplete.
    """
    limit, dev = params.max_items_further, {}
    items, invalid = medqa_items(folder) if name == "medqa" else cmmlu_items(folder)
    if name == "cmmlu":
        wanted = max([params.shots, *(line.shots or 0 for line in params.baselines.values())])
        dev = cmmlu_dev(folder, sorted({item.subject or "" for item in items}), wanted)
    return [Exams(name, FIXED, "test", limit, cap(items, limit, params.seed), invalid, {}, dev)]


def cmmlu_items(folder: Path, split: str = "test") -> Reading:
    """Questions of CMMLU's medical subjects of one split (dev or test), subjects in alphabetical order.

    Unusable: what the reader of notebook 01 rejects, not exactly the options A-D, no answer. Unreadable when no subject
    has a file, or one has no usable row.
    """
    items, invalid = [], []
    wanted = ", ".join(f"{subject}.csv" for subject in CMMLU_SUBJECTS)
    advice = f"put one of {wanted} there, or leave 'cmmlu' out of eval.further_benchmarks"
    with files_of(folder, f"{split}/*.csv", advice=advice) as files:
        there = {subject: file for file in reversed(files) if (subject := _stem(file)) in CMMLU_SUBJECTS}
        if not there:
            raise Unreadable(folder, f"has no medical subject; {advice}")
        for subject in sorted(there):
            kept, bad = _items(folder, there[subject], exam_row, "cmmlu", subject, split)
            items += kept
            invalid += bad
    return items, invalid


def _stem(file: Found) -> str:
    return PurePosixPath(file.place).name.split(".")[0].lower()


def cmmlu_dev(folder: Path, subjects: Sequence[str], shots: int) -> dict[str, list[Item]]:
    """The first `shots` dev examples of each subject; {} for no shots.

    Raises Unreadable when one is missing or unusable, QilinError when there are too few for `shots`.
    """
    dev: dict[str, list[Item]] = {}
    for subject in subjects if shots else ():
        name = f"dev/{subject}.csv"
        advice = "CMMLU's dev split has it, or set eval.shots to 0"
        with files_of(folder, name, advice=advice) as (file, *_):
            items, invalid = _items(folder, file, exam_row, "cmmlu", subject, "dev")
        for bad in invalid:
            raise Unreadable(folder / name, f"line {bad['line']}: {bad['detail']}; a dev example must be complete")
        if len(items) < shots:
            raise QilinError(
                f"{folder / name} has {len(items)} rows, fewer than shots = {shots}; set eval.shots to {len(items)} "
                "at most"
            )
        dev[subject] = items[:shots]
    return dev


def medqa_items(folder: Path) -> Reading:
    """Questions of MedQA's test set, with four options or five, of the first file that is there among MEDQA_FILES.

    Unusable: what the reader of notebook 01 rejects, letters that do not begin at A or leave one out, no answer.
    Unreadable when there is no such file, or no usable row in it.
    """
    advice = "MedQA's questions/Mainland has test.jsonl; or leave 'medqa' out of eval.further_benchmarks"
    with files_of(folder, *MEDQA_FILES, advice=advice) as (file, *_):
        return _items(folder, file, medqa_row, "medqa", None, "test")


def prompt(item: Item, backend: Any, shots: Sequence[Item]) -> Prompt:
    """CMMLU: under its header, as C-Eval, examples going first where the context is too short. MedQA: instruction, then
    question and options laid out as CMExam's; no examples."""

    name = CMMLU_SUBJECTS.get(item.subject or "")

    def build(question: str, left: Sequence[Item]) -> Messages:
        return cmmlu_messages(question, item, left, name) if name else medqa_messages(question, item)

    return fit(build, item, shots, REPLY_PREFIX, backend, ceval.new_tokens(backend))


def answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
    """As `ceval.answer`, the letters being the item's own; items with the same letters are scored together."""
    if not backend.likelihood:
        return ceval.answer(items, asked, backend)
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(tuple(item.options or ()), []).append(place)
    answers: dict[int, dict] = {}
    for letters, places in groups.items():
        mine, prompts = [items[place] for place in places], [asked[place] for place in places]
        answers |= zip(places, ceval.answer(mine, prompts, backend, letters), strict=True)
    return [answers[place] for place in range(len(items))]


def statistics(records: Sequence[dict]) -> Table:
    """`accuracy` over all items, FAILURES, and accuracy by number of options (the chance level differs).

    Where items have subjects also `average`, in which every subject weighs alike, and `subjects`.
    """
    correct = [record["correct"] for record in records]
    table: Table = {"accuracy": proportion(correct)}
    if subjects := [record["subject"] for record in records if "subject" in record]:
        table["average"] = proportion(correct, subjects)
        table["subjects"] = by(records, itemgetter("subject"))
    table["options"] = by(records, itemgetter("n_options"))
    return table | failures(records, unread)


def by(records: Sequence[dict], key: Callable[[dict], Any]) -> dict[str, Statistic]:
    """Accuracy of the records of each value of `key`, in the values' order."""
    values = sorted({key(record) for record in records})
    return {str(value): proportion([r["correct"] for r in records if key(r) == value]) for value in values}


def _items(
    folder: Path, file: Found, row: Callable[[Any], Exam], benchmark: str, subject: str | None, split: str
) -> Reading:
    """The questions of one file, in the form of 01's `row`; Unreadable when none is usable."""

    def item(number: int, known: Exam, _: Any) -> tuple[str, Item]:
        identity = f"{subject or split}-{number:05d}"
        options = dict(known.options)
        wanted = CEVAL_LETTERS if benchmark == "cmmlu" else LETTERS[: len(options)]
        wrong = f"options {''.join(options)}, expected {wanted}" if "".join(options) != wanted else ""
        made = Item(benchmark, identity, split, subject, known.question, options, known.answer, "")
        return wrong or ("" if known.answer else "no answer"), made

    return questions(benchmark, folder, file, row, item, tabular=benchmark == "cmmlu")
