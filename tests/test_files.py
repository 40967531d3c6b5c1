"""Atomic writing, and sentences for broken files."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError


def test_round_trip_keeps_chinese_and_makes_parents(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "rows.jsonl"
    rows = [{"text": "咳嗽\n发热"}, {"text": "“引号”"}]
    assert files.write_jsonl(path, rows) == 2
    assert list(files.read_jsonl(path)) == rows
    assert "咳嗽" in path.read_text(encoding="utf-8"), "Chinese must stay readable in the file"
    files.write_json(path.with_suffix(".json"), {"病": [1, None]})
    assert files.read_json(path.with_suffix(".json")) == {"病": [1, None]}


def test_failure_inside_the_block_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    files.write_text(path, "old")
    with pytest.raises(RuntimeError), files.atomic(path) as handle:
        handle.write("half of the new")
        handle.flush()
        raise RuntimeError("power cut")
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_generator_that_fails_half_way_writes_no_rows(tmp_path: Path) -> None:
    def rows():
        yield {"id": 1}
        raise ValueError("bad record")

    with pytest.raises(ValueError, match="bad record"):
        files.write_jsonl(tmp_path / "rows.jsonl", rows())
    assert list(tmp_path.iterdir()) == []


def test_broken_json_line_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": 1}\n{"id": 2\n{"id": 3}\n', encoding="utf-8")
    with pytest.raises(QilinError, match=r"rows\.jsonl, line 2: not valid JSON"):
        list(files.read_jsonl(path))


def test_broken_json_file_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    path.write_text('{"a": 1,\n "b": }\n', encoding="utf-8")
    with pytest.raises(QilinError, match=r"value\.json is not valid JSON: .*line 2"):
        files.read_json(path)


@pytest.mark.parametrize("read", [files.read_json, lambda path: list(files.read_jsonl(path))])
def test_missing_file_is_a_sentence(read, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"gone\.json does not exist"):
        read(tmp_path / "gone.json")
