from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.sample.knowledge import DATA, load


def changed(folder: Path, name: str, line: int, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the data files in which one record is changed."""
    shutil.copytree(DATA, folder)
    rows = (folder / name).read_text("utf-8").splitlines()
    row = json.loads(rows[line - 1])
    change(row)
    rows[line - 1] = json.dumps(row, ensure_ascii=False)
    (folder / name).write_text("\n".join(rows) + "\n", "utf-8")
    return folder


def test_the_data_files_are_sound() -> None:
    known = load()
    assert len(known.diseases) >= 60 and len(known.exams) >= 160
    assert sum(len(item["answer"]) > 1 for item in known.exams) >= 25


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("diseases_1.jsonl", lambda row: row.update(cause=""), "'cause' must be a non-empty text"),
        ("diseases_1.jsonl", lambda row: row.update(drugs="阿司匹林"), "'drugs' must be a list"),
        ("diseases_2.jsonl", lambda row: row["dialogues"][0].pop(), "even number"),
        ("exams.jsonl", lambda row: row.update(answer="G"), "answer 'G'"),
        ("exams.jsonl", lambda row: row.update(answer="BA"), "answer 'BA'"),
        ("ceval_general.jsonl", lambda row: row.update(split="trial"), "unknown split 'trial'"),
        ("general_chat.jsonl", lambda row: row["turns"].pop(), "end with the assistant"),
    ],
)
def test_a_malformed_record_is_named(
    tmp_path: Path, name: str, change: Callable[[dict[str, Any]], None], reason: str
) -> None:
    with pytest.raises(QilinError, match=f"{name}, line 2: .*{reason}"):
        load(changed(tmp_path / "data", name, 2, change))


def test_a_disease_given_twice_is_named(tmp_path: Path) -> None:
    first = load().diseases[0]["name"]
    with pytest.raises(QilinError, match="diseases_2.jsonl, line 3: .*already in diseases_1.jsonl, line 1"):
        load(changed(tmp_path / "data", "diseases_2.jsonl", 3, lambda row: row.update(name=first)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="diseases_1.jsonl does not exist"):
        load(tmp_path)
