"""EleutherAI's lm-evaluation-harness as oracle: it assembles the few-shot prompts, scores the letters and chooses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from lm_eval_tasks import Exam, assert_agreement

from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import ceval
from qilin_lib.evaluate.benchmarks.ceval import ceval_dev, ceval_items, ceval_names
from qilin_lib.evaluate.prompts import CEVAL_HEADER
from qilin_lib.sample import raw_dir


def ceval_exam(raw: Path, subject: str, backend: Any, questions: int, shots: int = 5) -> Exam:
    dev, names = ceval_dev(raw), ceval_names(raw)
    items = ceval_items(raw, "val", [subject])[0][:questions]
    task = ceval.CEval("ceval", "fixed", "val", None, items, [], {}, dev, names)
    asked = task.prompts(items, backend, shots)
    return Exam(f"ceval_{subject}", CEVAL_HEADER.format(name=names[subject]), dev[subject][:shots], items, asked)


@pytest.mark.slow
def test_letters_of_the_sample_agree_item_by_item(backend: TransformersBackend, tmp_path: Path):
    subjects = sorted({path.name.removesuffix("_val.csv") for path in (raw_dir() / "ceval/val").iterdir()})[:2]
    exams = [ceval_exam(raw_dir(), subject, backend, 12) for subject in subjects]
    assert_agreement(exams, backend, tmp_path / "tasks")
    assert sum(len(exam.items) for exam in exams) >= 20


@pytest.mark.extended
@pytest.mark.skipif(not os.environ.get("QILIN_RAW_DIR"), reason="QILIN_RAW_DIR names no folder of real data")
def test_letters_of_real_items_agree_item_by_item(backend: TransformersBackend, tmp_path: Path):
    raw = Path(os.environ["QILIN_RAW_DIR"])
    exams = [
        ceval_exam(raw, subject, backend, 10, 3) for subject in ("basic_medicine", "chinese_language_and_literature")
    ]
    assert_agreement(exams, backend, tmp_path / "tasks")
    assert sum(len(exam.items) for exam in exams) == 20
