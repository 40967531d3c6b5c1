from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks.ceval import TEST_QUESTIONS, ceval_items
from qilin_lib.evaluate.benchmarks.ceval import write_submission as write


@pytest.fixture
def records() -> list[dict]:
    """An answer to every test question, in an order that is not the file's; every 50th could not be read."""
    made = [
        {"id": f"{subject}-{n}", "split": "test", "prediction": "ABCD"[n % 4] if n % 50 else None}
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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": "law-221"}, "12342 questions .* 1 have no test record, e.g. law-9; set eval.ceval_split"),
        ({"split": "val"}, "1 have no test record, e.g. law-9"),
        (None, "1 are no questions of it, e.g. tcm-0"),
    ],
)
def test_other_records_make_no_file(records: list[dict], change: dict | None, expected: str, tmp_path: Path):
    if change is None:
        records.append({"id": "tcm-0", "split": "test", "prediction": "A"})
    else:
        next(record for record in records if record["id"] == "law-9").update(change)
    with pytest.raises(QilinError, match=expected):
        write(records, tmp_path / "submission.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif("QILIN_RAW_DIR" not in os.environ, reason="QILIN_RAW_DIR is not set")
def test_the_real_test_split_makes_a_submission(tmp_path: Path):
    items, invalid = ceval_items(os.environ["QILIN_RAW_DIR"], "test")
    write([{"id": i.id, "split": i.split, "prediction": "C"} for i in items], tmp_path / "submission.json")
    assert not invalid
