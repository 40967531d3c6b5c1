from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks.ceval import ceval_items
from qilin_lib.evaluate.subjects import TEST_QUESTIONS
from qilin_lib.evaluate.submission import submission, write


@pytest.fixture
def records() -> list[dict]:
    """An answer to every test question, in an order that is not the file's; every 50th could not be read."""
    made = [
        {"id": f"{subject}-{n}", "subject": subject, "split": "test", "prediction": "ABCD"[n % 4] if n % 50 else None}
        for subject, size in TEST_QUESTIONS.items()
        for n in range(size)
    ]
    return made[::-1]


def test_the_file_has_the_official_form(records: list[dict], tmp_path: Path):
    path = tmp_path / "deep" / "submission.json"
    write(records, path)
    written = json.loads(path.read_text(encoding="utf-8"))
    assert len(written) == 52 and sum(map(len, written.values())) == 12342
    assert list(written["law"])[:3] == ["0", "1", "2"] and len(written["law"]) == 221
    assert [written["law"][key] for key in ("0", "1", "2", "3", "4")] == ["-", "B", "C", "D", "A"]
    assert {letter for given in written.values() for letter in given.values()} == {"A", "B", "C", "D", "-"}


def test_missing_subjects_are_named_and_nothing_is_written(records: list[dict], tmp_path: Path):
    left = [record for record in records if record["subject"] not in ("law", "physician")]
    with pytest.raises(QilinError, match="all 52 subjects, but no test record is of law, physician; set eval.ceval"):
        write(left, tmp_path / "submission.json")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_question_is_named(records: list[dict]):
    left = [record for record in records if record["id"] not in ("law-7", "law-220", "logic-0")]
    with pytest.raises(QilinError, match=r"law 2 \(the first: 7\), logic 1 \(the first: 0\); set eval.max_items"):
        submission(left)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "law-3"}, "law-3 comes twice"),
        ({"id": "law-221"}, "law-221 is not a question"),
        ({"id": "law-07"}, "law-07 is not a question"),
        ({"subject": "tcm", "id": "tcm-0"}, "tcm-0 is not a question"),
        ({"split": "val"}, "of split 'val'; set eval.ceval_split to 'test'"),
    ],
)
def test_a_strange_record_is_named(records: list[dict], change: dict, expected: str):
    index = next(i for i, record in enumerate(records) if record["id"] == "law-9")
    records[index] |= change
    with pytest.raises(QilinError, match=expected):
        submission(records)


def test_the_real_test_split_makes_a_submission():
    root = os.environ.get("QILIN_RAW_DIR")
    if not root:
        pytest.skip("QILIN_RAW_DIR is not set")
    items, invalid = ceval_items(root, "test")
    records = [{"id": i.id, "subject": i.subject, "split": i.split, "prediction": "C"} for i in items]
    assert not invalid and {s: len(given) for s, given in submission(records).items()} == TEST_QUESTIONS
