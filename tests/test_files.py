"""Atomic writing, and sentences for broken files."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
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


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("gbk.jsonl", '{"id": 1}\n{"id": "病"}\n'.encode("gbk"), r"gbk\.jsonl, line 2: not valid JSON"),
        ("deep.jsonl", b"[" * 100_000, r"deep\.jsonl, line 1: not valid JSON"),
        ("deep.json", b"[" * 100_000, r"deep\.json is not valid JSON"),
        ("rows.jsonl", b'{"id": 1}\n{"id": 2\n{"id": 3}\n', r"rows\.jsonl, line 2: not valid JSON"),
        ("value.json", b'{"a": 1,\n "b": }\n', r"value\.json is not valid JSON: .*line 2"),
        ("gone.json", None, r"gone\.json does not exist"),
        ("gone.jsonl", None, r"gone\.jsonl does not exist"),
    ],
)
def test_a_broken_or_missing_file_is_a_sentence(name: str, data: bytes | None, said: str, tmp_path: Path) -> None:
    if data:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(QilinError, match=said):
        list((files.read_jsonl if name.endswith("l") else files.read_json)(tmp_path / name))


@pytest.mark.parametrize(
    "read", [files.read_json, lambda path: list(files.read_jsonl(path)), lambda path: files.hashes({"unified": path})]
)
def test_a_pipe_is_refused_and_never_waited_for(read: Callable, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    # Whoever opens it all the same meets its end after a second, not never.
    writer = os.open(tmp_path / "pipe.jsonl", os.O_RDWR)
    ends = threading.Timer(1, os.close, [writer])
    ends.start()
    with pytest.raises(QilinError, match=r"pipe\.jsonl is no regular file; nearest valid"):
        read(tmp_path / "pipe.jsonl")
    ends.join()
