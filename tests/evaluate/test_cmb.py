"""CMB-Exam: one answer or several, the validation split with its answers, the test split with those that came later."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from helpers.writer import Writer

from qilin_lib import report
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.answering import answer_all
from qilin_lib.evaluate.benchmarks import FURTHER, PAPER, prepare
from qilin_lib.evaluate.benchmarks.answers import marked
from qilin_lib.evaluate.benchmarks.dialogue import Dialogues
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.run import score
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_jsonl
from qilin_lib.report import chimed_gpt
from qilin_lib.schema import FurtherBenchmark, JudgedBenchmark, PaperBenchmark

ONE, SEVERAL = "单项选择题", "多项选择题"


def question(number: int, kind: str, answer: str, **more: Any) -> dict[str, Any]:
    options = {letter: f"第{number}题的{letter}" for letter in "ABCDE"} | {"F": ""}
    about = {"exam_type": "医师考试", "exam_class": "执业医师", "exam_subject": "口腔", "question_type": kind}
    return about | {"question": f"第{number}题，正确的是", "option": options, "answer": answer} | more


def put(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    rows = [question(1, ONE, "C"), question(2, SEVERAL, "ABD"), question(3, ONE, "Z"), question(4, ONE, "A")]
    put(tmp_path / "raw" / "cmb" / "CMB-Exam" / "CMB-val" / "CMB-val-merge.json", rows)
    return tmp_path / "raw"


@pytest.fixture
def asked(params: SimpleNamespace) -> SimpleNamespace:
    params.benchmarks, params.further_benchmarks, params.protocols = [], ["cmb"], ["fixed"]
    params.max_items_further = None
    return params


def candidate(tokenizer: Any, template: Any) -> Writer:
    """Says the same to everything, though it could score letters."""
    made = Writer(lambda messages: "ABD。", tokenizer, template, 10_000)
    made.likelihood = True
    return made


def test_single_and_multiple_answers_are_written_and_counted_apart(
    raw: Path, asked: SimpleNamespace, tokenizer: Any, template: Any, tmp_path: Path
) -> None:
    (task,) = prepare(raw, asked)
    assert (task.name, task.split, [item.gold for item in task.items]) == ("cmb", "val", ["C", "ABD", "A"])
    assert [(row["line"], row["detail"]) for row in task.invalid] == [
        (task.invalid[0]["line"], "answer is no option: Z")
    ]
    model = candidate(tokenizer, template)
    answer_all([task], {"base": lambda: model}, {"base": 0}, tmp_path)
    scores = score([task], {"cmb": ["base"]}, tmp_path, asked)["cmb"]["base"]
    assert scores["accuracy"]["value"] == pytest.approx(100 / 3)
    assert scores["kinds"][SEVERAL]["value"] == 100 and scores["kinds"][ONE] | {"low": 0, "high": 0} == {
        "value": 0, "n": 2, "low": 0, "high": 0
    }  # fmt: skip
    records = list(read_jsonl(predictions(tmp_path, "fixed", "cmb", "base")))
    # Several letters answer no question that has one answer.
    assert [record["prediction"] for record in records] == [None, "ABD", None] and records[1]["correct"]
    assert records[0]["groups"] == {"exam_type": "医师考试", "exam_class": "执业医师", "question_type": ONE}
    first = model.asked[0][-1]["content"].split("\n")
    assert first[0] == "以下是中国医师考试中执业医师考试的一道单项选择题，不需要做任何分析和解释，直接输出答案选项。"
    assert first[1:4] == ["第1题，正确的是", "A. 第1题的A", "B. 第1题的B"] and first[-1] == "E. 第1题的E"


def test_the_test_split_takes_its_answers_from_the_file_beside_it(raw: Path, asked: SimpleNamespace) -> None:
    rows = [question(n, ONE, "", id=n) for n in (1, 2, 3)]
    put(raw / "cmb" / "CMB-test" / "CMB-test-choice-question-merge.json", rows)
    (task,) = prepare(raw, asked)
    assert task.split == "val"  # without answers nothing can be counted
    answers = [{"id": n, "answer": letter, "question_type": ONE} for n, letter in ((2, "B"), (1, "A"), (3, "Z"))]
    put(raw / "cmb" / "CMB-test" / "CMB-test-choice-answer.json", answers)
    (task,) = prepare(raw, asked)
    assert (task.split, [item.gold for item in task.items]) == ("test", ["A", "B"])
    assert [row["detail"] for row in task.invalid] == ["answer 'Z' is not among the options ABCDE"]


def test_a_damaged_file_of_answers_is_told_and_not_passed_over(raw: Path, asked: SimpleNamespace) -> None:
    put(raw / "cmb" / "CMB-test-choice-question-merge.json", [question(1, ONE, "", id=1)])
    (raw / "cmb" / "CMB-test-choice-answer.json").write_text('[{"id": 1, "answ', encoding="utf-8")
    with pytest.raises(QilinError, match="CMB-test-choice-answer.json"):
        prepare(raw, asked)


def test_its_scores_stand_in_a_table_of_its_own(
    raw: Path, asked: SimpleNamespace, tokenizer: Any, template: Any, tmp_path: Path
) -> None:
    """No module of the report names the benchmark: its line in the registry says label and columns."""
    tasks = prepare(raw, asked)
    answer_all(tasks, {"base": lambda: candidate(tokenizer, template)}, {"base": 0}, tmp_path)
    about = {"names": {"base": "tiny"}, "base": {"name": "tiny", "parameters": 9}, "as_paper": []}
    scores = score(tasks, {"cmb": ["base"]}, tmp_path, asked) | {"run": about}
    *_, table = chimed_gpt.tables(scores)
    notes = " ".join(table.notes)
    assert table.title == "CMB-Exam" and "split val" in notes and "unusable rows of the benchmark 1" in notes
    assert list(table.frame.columns[:4]) == ["Model", "accuracy", "one answer", "several answers"]
    assert "100.0" in str(table.frame["several answers"][0])
    named = [
        path.name for path in Path(report.__file__).parent.rglob("*.py") if "cmb" in path.read_text("utf-8").lower()
    ]
    assert named == []


def test_the_schema_knows_every_benchmark_of_the_registry() -> None:
    """A misspelt name is refused before any notebook runs, so the names stand among the parameters too."""
    assert get_args(FurtherBenchmark) == tuple(FURTHER) and get_args(PaperBenchmark) == tuple(PAPER)
    open_ones = [name for name, row in (PAPER | FURTHER).items() if issubclass(row.kinds[0], (Huatuo, Dialogues))]
    assert get_args(JudgedBenchmark) == tuple(open_ones)


@pytest.mark.parametrize(
    ("letters", "right"), [("ABD", True), ("AB", False), ("ABCD", False), ("B", False), (None, False)]
)
def test_a_part_of_a_right_answer_of_several_letters_is_wrong(letters: str | None, right: bool) -> None:
    item = Item("cmb", "1", "val", None, "问", dict.fromkeys("ABCD", "项"), "ABD", "")
    assert marked(item, letters)["correct"] is right
