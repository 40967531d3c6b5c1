"""CMMLU's medical subjects (Li et al. 2023, arXiv 2306.09212) and MedQA of mainland China (Jin et al. 2020, arXiv
2009.13081): the likeliest letter, as in C-Eval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.decode import string
from qilin_lib.chimed.readers.exam import LETTERS, exam_row, medqa_row
from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.records import Exam
from qilin_lib.evaluate.benchmarks.answers import Choices, examples
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item, Reading, Unreadable, cap, files_of, questions, reference_of
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import CMMLU_HEADER, MEDQA_HEADER, Messages, ceval_messages, cmexam_messages
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


@dataclass(frozen=True)
class Exams(Choices):
    """CMMLU, under its header as C-Eval; MedQA, which has no examples, after an instruction, laid out as CMExam."""

    statistics = staticmethod(statistics)

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        if item.subject is None:
            return cmexam_messages(question, item, MEDQA_HEADER)
        return ceval_messages(question, item, shots, CMMLU_SUBJECTS[item.subject], CMMLU_HEADER)


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


def cmmlu_items(folder: Path) -> Reading:
    """Test questions of CMMLU's medical subjects, subjects in alphabetical order.

    Unusable: what the reader of notebook 01 rejects, not exactly the options A-D, no answer. Unreadable when no subject
    has a file, or one has no usable row.
    """
    items, invalid = [], []
    advice = f"put one of {', '.join(f'{subject}.csv' for subject in CMMLU_SUBJECTS)} there, or leave 'cmmlu' out of "
    advice += "eval.further_benchmarks"
    with files_of(folder, "test/*.csv", advice=advice) as files:
        subjects = {PurePosixPath(file.place).name.split(".")[0].lower(): file for file in reversed(files)}
        known = sorted(subjects.keys() & CMMLU_SUBJECTS)
        if not known:
            raise Unreadable(folder, f"has no medical subject; {advice}")
        for subject in known:
            kept, bad = file_items(folder, subjects[subject], exam_row, "cmmlu", subject, "test")
            items += kept
            invalid += bad
    return items, invalid


def cmmlu_dev(folder: Path, subjects: Sequence[str], shots: int) -> dict[str, list[Item]]:
    """The first `shots` dev examples of each subject; {} for no shots. Raises what `examples` does."""
    dev: dict[str, list[Item]] = {}
    for subject in subjects if shots else ():
        name = f"dev/{subject}.csv"
        with files_of(folder, name, advice="CMMLU's dev split has it, or set eval.shots to 0") as (file, *_):
            items, invalid = file_items(folder, file, exam_row, "cmmlu", subject, "dev")
        dev[subject] = examples(items, invalid, shots, folder / name)
    return dev


def medqa_items(folder: Path) -> Reading:
    """Questions of MedQA's test set, with four options or five, of the first file that is there among MEDQA_FILES.

    Unusable: what the reader of notebook 01 rejects, letters that do not begin at A or leave one out, no answer.
    Unreadable when there is no such file, or no usable row in it.
    """
    advice = "MedQA's questions/Mainland has test.jsonl; or leave 'medqa' out of eval.further_benchmarks"
    with files_of(folder, *MEDQA_FILES, advice=advice) as (file, *_):
        return file_items(folder, file, medqa_row, "medqa", None, "test")


def file_items(
    folder: Path, file: Found, row: Callable[[Any], Exam], benchmark: str, subject: str | None, split: str
) -> Reading:
    """The questions of one file, in the form of 01's `row`; Unreadable when none is usable."""

    def item(number: int, known: Exam, raw: Any) -> tuple[str, Item]:
        options, number = dict(known.options), f"{number:05d}"
        wanted = CEVAL_LETTERS if subject else LETTERS[: len(options)]
        own = string(raw.get("id", number)) if benchmark == "ceval" else number
        reference = reference_of(known.explanation) if benchmark == "ceval" else ""
        gold = known.answer or None
        made = Item(benchmark, f"{subject or split}-{own}", split, subject, known.question, options, gold, reference)
        if "".join(options) != wanted:
            return f"options {''.join(options)}, expected {wanted}", made
        if gold and len(gold) > 1:
            return f"answer {gold}, expected one letter", made
        return "" if gold or benchmark == "ceval" else "no answer", made

    return questions(benchmark, folder, file, row, item, tabular=subject is not None)
