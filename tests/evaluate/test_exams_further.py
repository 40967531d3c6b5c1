"""CMMLU's medical subjects and MedQA: what is read, asked and counted; lm-eval as oracle of the letters."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lm_eval_tasks import Exam, assert_agreement

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import answers, exams
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.prompts import CMMLU_HEADER
from qilin_lib.evaluate.scores import summarise
from qilin_lib.sample import raw_dir

HEADER = ["", "Question", "A", "B", "C", "D", "Answer"]
ROWS = [[str(n), f"第{n}题，下列正确的是", "甲", "乙", "丙", "丁", "ABCD"[n % 4]] for n in range(6)]


def put_csv(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO(newline="")
    csv.writer(text).writerows([HEADER, *rows])
    path.write_bytes(text.getvalue().encode(encoding))


def medqa_row(question: str, letters: str, answer: str) -> dict[str, Any]:
    options = {letter: f"{question}之{letter}" for letter in letters}
    return {"question": question, "options": options, "answer": options.get(answer, ""), "answer_idx": answer}


def put_medqa(folder: Path, rows: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "test.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return folder


@pytest.fixture
def cmmlu(tmp_path: Path) -> Path:
    folder = tmp_path / "cmmlu"
    for subject, encoding in (("virology", "gb18030"), ("anatomy", "utf-8-sig"), ("world_history", "utf-8")):
        put_csv(folder / "dev" / f"{subject}.csv", ROWS[:5], encoding)
        put_csv(folder / "test" / f"{subject}.csv", ROWS, encoding)
    return folder


def settings(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"shots": 5, "baselines": {}, "max_items_further": None, "seed": 1, **changes})


def test_medical_subjects_in_any_encoding_and_no_other(cmmlu: Path):
    items, invalid = exams.cmmlu_items(cmmlu)
    assert [(item.subject, item.id, item.gold) for item in items] == [
        (subject, f"{subject}-{n:05d}", "ABCD"[n % 4]) for subject in ("anatomy", "virology") for n in range(6)
    ]
    assert invalid == [] and items[7].options == dict(zip("ABCD", "甲乙丙丁", strict=True))
    assert items[7].question == "第1题，下列正确的是"


def test_unusable_rows_are_listed_with_their_line(cmmlu: Path):
    flawed = [
        ROWS[0],
        [*ROWS[1][:6], ""],
        [*ROWS[2][:6], "E"],
        [*ROWS[3][:5], "", "A"],
        ROWS[4][:5],
        ["5", "", "甲", "乙", "丙", "丁", "A"],
    ]
    put_csv(cmmlu / "test" / "genetics.csv", flawed)
    items, invalid = exams.cmmlu_items(cmmlu)
    mine = [row for row in invalid if row["file"] == "genetics.csv"]
    assert [(row["line"], row["detail"]) for row in mine] == [
        (3, "no answer"),
        (4, "answer is no option: E"),
        (5, "options ABC, expected ABCD"),
        (6, "wrong number of columns: 5 instead of 7"),
        (7, "empty field: question"),
    ]
    assert len(mine) + sum(item.subject == "genetics" for item in items) == len(flawed)
    assert {(row["source"], row["set"], row["reason"]) for row in mine} == {("cmmlu", "eval", "unusable benchmark row")}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, r"has no dev/genetics\.csv.*; CMMLU's dev split has it, or set eval\.shots to 0"),
        (ROWS[:2], r"has 2 rows, fewer than shots = 5; set eval\.shots to 2 at most"),
        (
            [*ROWS[:4], [*ROWS[4][:6], "E"]],
            r"genetics\.csv, line 6: answer is no option: E; a dev example must be comp",
        ),
    ],
)
def test_examples_that_are_not_there_are_told(cmmlu: Path, rows: list | None, message: str):
    if rows is not None:
        put_csv(cmmlu / "dev" / "genetics.csv", rows)
    with pytest.raises(QilinError, match=message):
        exams.cmmlu_dev(cmmlu, ["genetics"], 5)


def test_medqa_keeps_four_and_five_options_and_lists_the_rest(tmp_path: Path):
    kinds = [("甲题", "ABCDE", "E"), ("乙题", "ABCD", "B"), ("丙题", "ABCD", "E"), ("丁题", "ABDE", "A")]
    rows = [*(medqa_row(*kind) for kind in kinds), '{"question": "断了']
    items, invalid = exams.medqa_items(put_medqa(tmp_path / "medqa", rows))
    assert [(item.id, "".join(item.options), item.gold, item.subject) for item in items] == [
        ("test-00000", "ABCDE", "E", None),
        ("test-00001", "ABCD", "B", None),
    ]
    details = [row["detail"].split(": ")[0] for row in invalid]
    assert details == ["answer is no option", "options ABDE, expected ABCD", "broken JSON"]
    assert len(items) + len(invalid) == len(rows)


def test_prompts_in_the_forms_of_c_eval_and_of_cmexam(cmmlu: Path, tmp_path: Path, tokenizer: Any, template: Any):
    asked = SimpleNamespace(context=4096, likelihood=True, tokenizer=tokenizer, template=template)
    (made,) = exams.read("cmmlu", cmmlu, settings(shots=2), Lineage(None, []))
    prompt = made.prompts(made.items[:1], asked, 2)[0]
    options = "\nA. 甲\nB. 乙\nC. 丙\nD. 丁"
    assert [message["content"] for message in prompt.messages] == [
        "以下是关于解剖学的单项选择题，请直接给出正确答案的选项。\n\n" + ROWS[0][1] + options,
        "答案：A",
        ROWS[1][1] + options,
        "答案：B",
        ROWS[0][1] + options,
    ]
    assert prompt.reply_prefix == "答案：" and prompt.shots == 2
    assert made.prompts(made.items[:1], asked, 0)[0].shots == 0
    folder = put_medqa(tmp_path / "medqa", [medqa_row("问", "AB", "A")])
    (medqa,) = exams.read("medqa", folder, settings(), Lineage(None, []))
    bare = medqa.prompts(medqa.items, asked, 5)[0]
    instruction = "以下是一道医学考试的单项选择题，请选出正确答案的选项。\n\n"
    assert bare.messages == [{"role": "user", "content": f"{instruction}问\nA 问之A\nB 问之B"}] and bare.shots == 0


class Letters:
    """Gives each item the log-probabilities that its question names; remembers what it was asked together."""

    likelihood = True

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], int]] = []

    def choice_logprobs(self, prompts: list[Any], letters: list[str]) -> list[dict[str, float]]:
        self.calls.append((tuple(letters), len(prompts)))
        return [{letter: -1.0 if letter == prompt.wanted else -2.0 for letter in letters} for prompt in prompts]


def test_items_are_scored_over_their_own_letters_and_keep_their_order():
    asked: Any = [SimpleNamespace(wanted=wanted) for wanted in "EDEB"]
    items = [
        Item("medqa", f"test-{number}", "test", None, "问", dict.fromkeys(letters, "项"), gold, "")
        for number, (letters, gold) in enumerate([("ABCDE", "E"), ("ABCD", "D"), ("ABCDE", "A"), ("AB", "B")])
    ]
    model = Letters()
    found = answers.answer(items, asked, model)
    assert [row["prediction"] for row in found] == list("EDEB")
    assert [row["correct"] for row in found] == [True, True, False, True]
    assert [list(row["scores"]) for row in found] == [list(item.options) for item in items]
    assert model.calls == [(tuple("ABCDE"), 2), (tuple("ABCD"), 1), (tuple("AB"), 1)]


def test_pooled_accuracy_and_the_average_of_subjects():
    rights = {"anatomy": [True, True, True, False], "virology": [False]}
    records = [
        {"subject": subject, "correct": right, "prediction": "A" if right else None, "n_options": 4}
        for subject, members in rights.items()
        for right in members
    ]
    table = summarise(exams.statistics(records), 100, 1)
    assert (table["accuracy"]["value"], table["average"]["value"], table["unparsed"]["value"]) == (60.0, 37.5, 40.0)
    assert {name: (row["value"], row["n"]) for name, row in table["subjects"].items()} == {
        "anatomy": (75.0, 4),
        "virology": (0.0, 1),
    }


@pytest.mark.extended
def test_lm_eval_gives_the_same_log_likelihoods(backend: TransformersBackend, tmp_path: Path):
    """CMMLU's own header is lm-eval's description; its examples and letters are put together by lm-eval."""
    (made,) = exams.read("cmmlu", raw_dir() / "cmmlu", settings(), Lineage(None, []))
    dev = exams.cmmlu_dev(raw_dir() / "cmmlu", list(exams.CMMLU_SUBJECTS), 5)
    chosen = []
    for subject in ("nutrition", "genetics", "anatomy"):
        items = [item for item in made.items if item.subject == subject][:6]
        header = CMMLU_HEADER.format(name=exams.CMMLU_SUBJECTS[subject])
        prompts = made.prompts(items, backend, len(dev[subject]))
        chosen.append(Exam(f"cmmlu_{subject}", header, dev[subject], items, prompts))
    assert_agreement(chosen, backend, tmp_path / "tasks")
    assert sum(len(exam.items) for exam in chosen) == 17
