"""EleutherAI's lm-evaluation-harness as oracle: it assembles the few-shot prompts, scores the letters and chooses."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval_tasks
import pytest
from lm_eval_tasks import LETTERS, Exam, ask_lm_eval, assert_agreement

from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import answers, ceval
from qilin_lib.evaluate.benchmarks.ceval import ceval_dev, ceval_items, ceval_names
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import CEVAL_HEADER, REPLY_PREFIX, ceval_messages, fit
from qilin_lib.sample import raw_dir


def ceval_exam(raw: Path, subject: str, backend: Any, questions: int, shots: int = 5) -> Exam:
    dev, names = ceval_dev(raw), ceval_names(raw)
    items = ceval_items(raw, "val", [subject])[0][:questions]
    task = ceval.CEval("ceval", "fixed", "val", None, items, [], {}, dev, names)
    asked = task.prompts(items, backend, shots)
    return Exam(f"ceval_{subject}", CEVAL_HEADER.format(name=names[subject]), dev[subject][:shots], items, asked)


def cmmlu_exam(raw: Path, subject: str, name: str, backend: Any, questions: int, shots: int = 5) -> Exam:
    """CMMLU (Li et al. 2023, arXiv 2306.09212): an unnamed first column, then Question, A-D and Answer."""

    def read(split: str) -> list[Item]:
        with open(raw / "cmmlu" / split / f"{subject}.csv", encoding="utf-8-sig", newline="") as handle:
            rows = list(csv.DictReader(handle))
        options = [{letter: row[letter].strip() for letter in LETTERS} for row in rows]
        return [
            Item("cmmlu", f"{subject}-{n}", split, subject, row["Question"].strip(), options[n], row["Answer"], "")
            for n, row in enumerate(rows)
        ]

    def build(item: Item, question: str, left: Sequence[Item]) -> list[dict[str, str]]:
        return ceval_messages(question, item, left, name)

    examples, items = read("dev")[:shots], read("test")[:questions]
    asked = [fit(partial(build, item), item, examples, REPLY_PREFIX, backend, 0) for item in items]
    return Exam(f"cmmlu_{subject}", CEVAL_HEADER.format(name=name), examples, items, asked)


def write_cmmlu(ceval: Path, subject: str, raw: Path) -> None:
    """The same questions in CMMLU's files."""
    for split, theirs in (("dev", "dev"), ("val", "test")):
        target = raw / "cmmlu" / theirs / f"{subject}.csv"
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "w", encoding="utf-8", newline="") as handle:
            rows = [
                [n, item.question, *item.options.values(), item.gold]
                for n, item in enumerate(ceval_items(ceval, split, [subject])[0])
            ]
            csv.writer(handle).writerows([["", "Question", *LETTERS, "Answer"], *rows])


@pytest.mark.slow
def test_letters_of_the_sample_agree_item_by_item(backend: TransformersBackend, tmp_path: Path):
    subjects = sorted({path.name.removesuffix("_val.csv") for path in (raw_dir() / "ceval/val").iterdir()})[:2]
    write_cmmlu(raw_dir(), subjects[0], tmp_path)
    exams = [ceval_exam(raw_dir(), subject, backend, 12) for subject in subjects]
    exams.append(cmmlu_exam(tmp_path, subjects[0], "自拟", backend, 12))
    assert_agreement(exams, backend, tmp_path / "tasks")
    assert sum(len(exam.items) for exam in exams) >= 20


@pytest.mark.extended
@pytest.mark.skipif(not os.environ.get("QILIN_RAW_DIR"), reason="QILIN_RAW_DIR names no folder of real data")
def test_letters_of_real_items_agree_item_by_item(backend: TransformersBackend, tmp_path: Path):
    raw = Path(os.environ["QILIN_RAW_DIR"])
    exams = [
        ceval_exam(raw, subject, backend, 10, 3) for subject in ("basic_medicine", "chinese_language_and_literature")
    ]
    exams += [cmmlu_exam(raw, subject, "医学", backend, 10, 3) for subject in ("anatomy", "clinical_knowledge")]
    assert_agreement(exams, backend, tmp_path / "tasks")
    assert sum(len(exam.items) for exam in exams) == 40


@pytest.mark.extended
def test_lm_evals_own_delimiter_asks_for_another_token(backend: TransformersBackend, tmp_path: Path):
    """What its C-Eval task really scores is " A" (lm-evaluation-harness#2346): not the letter that training taught."""
    subject = min(path.name.removesuffix("_val.csv") for path in (raw_dir() / "ceval/val").iterdir())
    exam = ceval_exam(raw_dir(), subject, backend, 3, 1)
    (tmp_path / "tasks").mkdir()
    samples = ask_lm_eval([exam], backend, tmp_path / "tasks", " ")[exam.name]
    assert all(sample["arguments"][0][1] == " A" for sample in samples)
    ours = [row["scores"]["A"] for row in answers.answer(exam.items, exam.asked, backend)]
    theirs = [lm_eval_tasks.loglikelihoods(sample)[0] for sample in samples]
    assert all(abs(a - b) > 0.1 for a, b in zip(ours, theirs, strict=True))
