"""What notebook 06 shows of items and records."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.report import judged, records


def write(stage: Path, model: str, predictions: list[str | None], protocol: str = "fixed", **more: Any) -> None:
    rows = [
        {"id": str(n), "prompt": "问<b>", "output": "答", "reference": "", "gold": "AC", "prediction": letters, **more}
        for n, letters in enumerate(predictions)
    ]
    files.write_jsonl(stage / "predictions" / protocol / "cmexam" / f"{model}.jsonl", rows)
    files.write_json(stage / "scores.json", {"run": {"names": {"dpo": "tiny 2.3M + DPO"}}})


def task(name: str, protocol: str, cap: int | None, items: int, invalid: int) -> SimpleNamespace:
    return SimpleNamespace(
        name=name, protocol=protocol, split="test", cap=cap, items=[None] * items, invalid=[None] * invalid
    )


def test_a_benchmark_is_one_row_whatever_its_protocols() -> None:
    made = [
        task("cmexam", "fixed", 60, 43, 2),
        task("cmexam", "released", 60, 43, 2),
        task("huatuo", "fixed", None, 9, 0),
    ]
    rows = records.items_table(made).words.to_numpy().tolist()
    assert rows == [
        ["cmexam", "fixed, released", "test", "43", "60", "2"],
        ["huatuo", "fixed", "test", "9", "none", "0"],
    ]


def test_letters_of_all_models_baselines_behind_the_stages(tmp_path: Path) -> None:
    write(tmp_path, "GPT-4-0314", ["A", None])
    write(tmp_path, "dpo", ["AC", "B"])
    write(tmp_path, "base", ["B", "B"])
    write(tmp_path, "base", [None, None], "released")
    frame = records.letters_table(tmp_path).words.set_index("Model")
    assert list(frame.index) == ["gold", "base", "tiny 2.3M + DPO", "GPT-4-0314 (ours)"]
    assert list(frame.loc["gold"]) == ["0", "0", "0", "0", "0", "2", "0"]
    assert list(frame.loc["tiny 2.3M + DPO"]) == ["0", "1", "0", "0", "0", "1", "0"]
    assert list(frame.loc["GPT-4-0314 (ours)"]) == ["1", "0", "0", "0", "0", "0", "1"]
    write(tmp_path / "other", "base", ["C"], "released")
    assert records.letters_table(tmp_path / "other").words.set_index("Model").loc["base", "C"] == "1"
    table = records.letters_table(tmp_path / "nothing")
    assert table.notes == ["No model answered cmexam under protocol fixed."] and table.words.empty


def test_an_example_shows_prompt_and_reading_escaped(tmp_path: Path) -> None:
    write(tmp_path, "my model", ["AC"], scoring="likelihood", scores={"A": -0.5})
    page = records.example(tmp_path, "cmexam", "my model")
    assert "问&lt;b&gt;" in page and "prediction AC" in page and "likelihood" in page
    assert "-0.5" in page


def test_an_empty_or_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "sft", [])
    with pytest.raises(QilinError, match=r"fixed/cmexam/sft\.jsonl holds no record; run notebooks/06_eval"):
        records.example(tmp_path, "cmexam", "sft")
    with pytest.raises(QilinError, match=r"fixed/cmexam/sft\.jsonl holds no record"):
        records.letters_table(tmp_path)
    with pytest.raises(QilinError, match="released"):
        records.example(tmp_path, "cmexam", "sft", "released")


def test_what_passages_change_stands_with_a_p_that_can_be_read(tmp_path: Path, scores: Any) -> None:
    facts = {"passages": 9, "left_out": {}, "recall": {"cmexam": {"n": 43, "retrieval": 4, "random": 0}}}
    files.write_json(tmp_path / "evidence" / "index.json", facts)
    row = scores["paired"][0] | {"model_a": "dpo", "model_b": "dpo + retrieval", "p": 0.00031234567}
    (table,) = judged.retrieval_tables(tmp_path, scores | {"paired": [row]})
    assert table.words["p"].tolist() == ["0.000312"] and table.frame["p"].tolist() == [0.00031234567]
