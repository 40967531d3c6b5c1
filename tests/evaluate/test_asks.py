"""Who asks when the doctor asked: precision, recall and F1 counted by hand, and the command that shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.evaluate import asks, store

ASKS, ADVISES = "多久了？", "多休息。"


def record(doctor: str, model: str) -> dict[str, str]:
    return {"reference": doctor, "output": model}


ROWS = [record(ASKS, ASKS)] * 3 + [record(ASKS, ADVISES)] + [record(ADVISES, ASKS)] * 2 + [record(ADVISES, ADVISES)] * 4


def test_precision_recall_and_f1_by_hand() -> None:
    found = asks.scores(ROWS)
    assert (found["n"], found["doctor"], found["model"]) == (10, 4, 5)
    assert [found[name][0] for name in ("precision", "recall", "f1")] == pytest.approx([60, 75, 100 * 6 / 9])
    for name in ("precision", "recall", "f1"):
        value, low, high = found[name]
        assert 0 <= low < value < high <= 100
    assert found == asks.scores(ROWS)


def test_a_thought_asks_nobody() -> None:
    thought = f"<think>{ADVISES}患者多久了？</think>{ADVISES}", f"<think>{ADVISES}</think>{ASKS}", "<think>多久了？"
    found = asks.scores([record(ASKS, output) for output in thought])
    assert found["model"] == 1 and found["recall"][0] == pytest.approx(100 / 3)


def test_where_nobody_asks_there_is_no_number() -> None:
    silent = asks.scores([record(ASKS, ADVISES)] * 3)
    assert silent["precision"] is None and silent["recall"][0] == silent["f1"][0] == 0
    assert silent["recall"][2] > 50 and silent["f1"][2] > 50, "three turns show little"
    assert asks.scores([])["f1"] is None


def test_the_command_reads_a_run_s_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    assert asks.main(["mine"]) == 2 and "run 'mine': no such run" in capsys.readouterr().err
    files.write_jsonl(store.predictions(tmp_path / "mine" / "06_eval", "fixed", "huatuo", "sft"), ROWS)
    assert asks.main(["mine"]) == 2 and "no answers to cmtmedqa, meddialog, mc" in capsys.readouterr().err
    files.write_jsonl(store.predictions(tmp_path / "mine" / "06_eval", "fixed", "meddialog", "sft2"), ROWS)
    assert asks.main(["mine"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.split()[:5] == ["meddialog", "sft2", "10", "4", "5"] and "60.0 [" in line
