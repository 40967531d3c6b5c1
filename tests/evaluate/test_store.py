"""Predictions that grow in parts: torn lines, other keys, several processes, the finished file."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import store


def rows(*ids: str) -> list[dict]:
    return [{"id": name, "output": f"答{name}"} for name in ids]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return store.predictions(tmp_path, "fixed", "cmexam", "GPT-3.5-turbo")


def test_a_torn_last_line_is_thrown_away_and_the_part_goes_on(path: Path) -> None:
    with store.appending(path, 0, "k") as append:
        append(rows("a", "b"))
    part = path.with_name("GPT-3.5-turbo.part0")
    whole = part.read_bytes()
    for cut in (1, 5, len("答b".encode()) + 3):
        part.write_bytes(whole[:-cut])
        assert set(store.kept(path, "k")) == {"a"}
    with store.appending(path, 0, "k") as append:
        append(rows("b"))
    assert part.read_bytes() == whole


def test_records_of_another_key_are_not_taken_for_these(path: Path) -> None:
    with store.appending(path, 0, "old") as append:
        append(rows("a"))
    with store.appending(path, 1, "old") as append:
        append(rows("b"))
    assert store.kept(path, "new") == {}
    with store.appending(path, 0, "new") as append:
        append(rows("a"))
    with pytest.raises(QilinError, match=r"lacks 1 of 2 items, e\.g\. b; run the notebook again"):
        store.finish(path, ["a", "b"])


def test_a_finished_file_of_a_stage_moved_aside_is_taken_also_where_a_disk_knows_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(store.os, "link", unknown)
    earlier = store.predictions(tmp_path / "06_eval.old-1", "fixed", "cmexam", "base")
    with store.appending(earlier, 0, "k") as append:
        append(rows("a"))
    store.finish(earlier, ["a"])
    path = store.predictions(tmp_path / "06_eval", "fixed", "cmexam", "base")
    assert not store.reuse(path, "other") and store.reuse(path, "k")
    assert store.complete(path, "k") and path.read_bytes() == earlier.read_bytes()


def test_a_part_of_another_attempt_does_not_hide_a_finished_file_that_is_back(tmp_path: Path) -> None:
    """A parameter changed, the run stopped, the parameter set back, and something else changed."""
    earlier = store.predictions(tmp_path / "06_eval.old-1", "fixed", "cmexam", "base")
    with store.appending(earlier, 0, "k") as append:
        append(rows("a", "b"))
    store.finish(earlier, ["a", "b"])
    stopped = store.predictions(tmp_path / "06_eval.old-2", "fixed", "cmexam", "base")
    with store.appending(stopped, 0, "other") as append:
        append(rows("a"))
    here = tmp_path / "06_eval"
    store.carry_over(here, [tmp_path / "06_eval.old-1", tmp_path / "06_eval.old-2"])
    path = store.predictions(here, "fixed", "cmexam", "base")
    for _ in range(2):
        # Another stage moved aside; then this one itself, back after it.
        assert store.there(path, "k")
        store.finish(path, ["a", "b"])
        assert store.complete(path, "k") and path.read_bytes() == earlier.read_bytes()
        store.carry_over(here, [tmp_path / "06_eval.old-2"])
