"""Multiple-choice questions in the forms in which they go round, read alike by 01 and by 06."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from raw_files import jsonl, payloads, put, units_of

from qilin_lib.chimed.readers import exam
from qilin_lib.chimed.records import Dialogue, Exam
from qilin_lib.evaluate.benchmarks import exams
from qilin_lib.evaluate.benchmarks.cmexam import cmexam_items
from qilin_lib.evaluate.lineage import Lineage

STEM = "流感的病原体是"
OPTIONS = (("A", "病毒"), ("B", "细菌"), ("C", "真菌"), ("D", "DNA"))
PARAMS = SimpleNamespace(max_items_further=None, seed=1)


@pytest.mark.parametrize(
    "answer, letters", [("A,C", "AC"), ("ＡＢ", "AB"), ("C、A", "AC"), ("b", "B"), ("A;B;D", "ABD"), ("A，B", "AB")]
)
@pytest.mark.parametrize(
    "options",
    [
        "A 病毒\nB 细菌\nC 真菌\nD DNA",
        "A病毒\nB细菌\nC真菌\nD DNA",
        "(A) 病毒\n(B) 细菌\n(C) 真菌\n(D) DNA",
        "（A）病毒\n（B）细菌\n（C）真菌\n（D）DNA",
        "A) 病毒\nB) 细菌\nC) 真菌\nD) DNA",
        "A）病毒\nB）细菌\nC）真菌\nD）DNA",
        "A、病毒\\nB、细菌\\nC、真菌\\nD、DNA",
        "Ａ．病毒\nＢ．细菌\nＣ．真菌\nＤ．DNA",
        "A. 病毒\r\nB. 细菌\r\n\r\nC. 真菌\r\nD. DNA",
    ],
)
def test_cmexam_in_01_and_in_06(tmp_path, answer, letters, options):
    head, row = "\ufeffQuestion,Options,Answer,Explanation\n", f'{STEM},"{options}","{answer}",因为\n'
    annotated = head[:-1] + ",Disease Group,Difficulty level\n" + row[:-1] + ",内科,3\n"
    put(tmp_path / "cmexam", {"train.csv": head + row, "val.csv": annotated})
    wanted = Exam(STEM, OPTIONS, letters, "因为")
    assert payloads(tmp_path, "cmexam") == [wanted, wanted]
    put(tmp_path / "cmexam", {"test.csv": head + row})
    ((item,), _) = cmexam_items(tmp_path)
    assert (item.question, tuple(item.options.items()), item.gold) == (STEM, OPTIONS, letters)


@pytest.mark.parametrize(
    "options, answer, reason",
    [
        ("A 病毒\nA 细菌", "A", "broken options"),
        ("病毒\n细菌", "A", "broken options"),
        ("A 病毒\nB 细菌", "C", "answer is no option"),
        ("A 病毒\nB 细菌", "nan", "no answer"),
        ("A 病毒\nB 细菌", "", "no answer"),
        ("A 病毒\nB 细菌", "甲", "unknown answer"),
    ],
)
def test_cmexam_rows_that_neither_uses(tmp_path, options, answer, reason):
    head, bad = "Question,Options,Answer,Explanation\n", f'题,"{options}",{answer},因\n'
    good = f'{STEM},"A 病毒\nB 细菌",A,因为\n'
    put(tmp_path / "cmexam", {"train.csv": head + bad, "test.csv": head + good + bad})
    assert reason in payloads(tmp_path, "cmexam")
    items, invalid = cmexam_items(tmp_path)
    assert len(items) == 1 and len(invalid) == 1


def test_ceval_with_and_without_answer(tmp_path):
    shown = f"id,question,A,B,C,D,answer\n0,{STEM},1,2,3,4,B\n1,{STEM},1,2,3,4,b\n2,{STEM},1,2,3,4,E\n3,{STEM},1,,,,A\n"
    hidden = f"id,question,A,B,C,D\n0,{STEM},1,2,3,4\n"
    put(tmp_path / "ceval", {"dev/x_dev.csv": shown, "test/x_test.csv": hidden})
    options = tuple(zip("ABCD", "1234", strict=True))
    exams_of = [Exam(STEM, options, letter, "") for letter in ("B", "B", "")]
    assert payloads(tmp_path, "ceval") == [*exams_of[:2], "answer is no option", "broken options", exams_of[2]]


def test_a_letter_directly_before_a_word_is_an_option_s_only_if_it_comes_next():
    assert exam.options_of("A 甲\nC反应蛋白高\nB乙") == (("A", "甲 C反应蛋白高"), ("B", "乙"))


PUBLISHED = {"question": STEM, "options": dict(OPTIONS), "answer": "病毒", "answer_idx": "A", "meta_info": "卫生资格"}
LISTED = "\n".join(f"({letter}) {text}." for letter, text in OPTIONS)
ASKED = f"问题：{STEM}\n选项：\n" + "\n".join(f"\t{text}" for _, text in OPTIONS)
MEDQA = {
    "test.jsonl": jsonl([PUBLISHED]),
    "4_options/phrases_no_exclude_test.jsonl": jsonl([PUBLISHED]),
    "zh.json": json.dumps([{"question": STEM, "options": LISTED + "\n(E) .", "answer": "(A)", "source": "x"}]),
    "medqa-mcmle.jsonl": jsonl([{"question": STEM, "option": LISTED, "anwer": "(A)", "source": "medqa-mcmle"}]),
    "zh_multiple-choice_test.json": json.dumps(
        [{"instruction": "请回答以下选择题。", "input": ASKED, "output": "病毒"}]
    ),
}


@pytest.mark.parametrize("file", MEDQA)
def test_medqa_in_original_apollo_and_alpaca_form(tmp_path, file):
    put(tmp_path / "medqa", {file: MEDQA[file]})
    assert payloads(tmp_path, "medqa") == [Exam(STEM, OPTIONS, "A", "")]
    (task,) = exams.read("medqa", tmp_path / "medqa", PARAMS, Lineage(None, []))
    assert [(item.question, item.options, item.gold) for item in task.items] == [(STEM, dict(OPTIONS), "A")]


@pytest.mark.parametrize(
    "changed, options, answer",
    [
        ({"options": {"A": 0, "B": 1.5, "C": False}, "answer": "A"}, (("A", "0"), ("B", "1.5")), "A"),
        ({"answer": ["A", "C"]}, OPTIONS, "AC"),
        ({"answer_idx": None, "answer": "C"}, OPTIONS, "C"),
        ({"answer_idx": 2, "answer": "C"}, OPTIONS, "C"),
        ({"answer": "细菌"}, OPTIONS, "B"),
        ({"answer": "DNA"}, OPTIONS, "D"),
        ({"options": dict(OPTIONS) | {"C": "A"}, "answer": "A"}, (*OPTIONS[:2], ("C", "A"), OPTIONS[3]), "A"),
        ({"options": {letter.lower(): text for letter, text in OPTIONS}, "answer": "b"}, OPTIONS, "B"),
        ({"options": [text for _, text in OPTIONS], "answer": "真菌"}, OPTIONS, "C"),
        ({"options": [f"({letter}) {text}" for letter, text in OPTIONS], "answer": "C"}, OPTIONS, "C"),
        ({"options": [{"key": letter, "value": text} for letter, text in OPTIONS], "answer": "C"}, OPTIONS, "C"),
        ({"options": ["A型", "B型"], "answer": "B型"}, (("A", "A型"), ("B", "B型")), "B"),
    ],
)
def test_no_option_and_no_answer_is_lost_by_its_form(tmp_path, changed, options, answer):
    row = {"question": STEM, "options": dict(OPTIONS)} | changed
    put(tmp_path / "medqa", {"test.jsonl": jsonl([row])})
    assert payloads(tmp_path, "medqa") == [Exam(STEM, options, answer, "")]
    put(tmp_path / "cmb", {"CMB-val.json": json.dumps([row])})
    assert payloads(tmp_path, "cmb") == [Exam(STEM, options, answer, "")]


def test_a_question_without_options_says_what_it_has_instead(tmp_path):
    rows = [{"question": STEM, "opa": "病毒", "opb": "细菌", "cop": 1}, {"question": STEM, "options": None}]
    rows += [{"question": STEM, "options": {"A": cell, "B": "细菌", "C": "真菌"}, "answer": "B"} for cell in ([1], {})]
    put(tmp_path / "medqa", {"test.jsonl": jsonl(rows)})
    found = units_of(tmp_path, "medqa")
    assert [one.reason for one in found] == ["missing field", *["broken options"] * 3]
    assert found[0].detail == "options or A, B, …; found question, opa, opb, cop"


def test_cmb_exam_and_clinic(tmp_path):
    choice = {"question": STEM, "answer": "AB", "option": dict(OPTIONS) | {"E": ""}, "question_type": "多项选择题"}
    hidden = {"id": 1, "question": STEM, "option": dict(OPTIONS)}
    pairs = [
        {"question": "初步诊断是什么？", "answer": "支气管炎。"},
        {"question": "如何处理？", "solution": "对症。"},
        {"question": "", "answer": "无题"},
    ]
    clinic = {"id": "0", "title": "病例", "description": "男，三岁，咳嗽三天。", "QA_pairs": pairs}
    files = {
        "CMB-Exam/CMB-test/CMB-test-choice-question-merge.json": [hidden, choice],
        "CMB-Clin/CMB-Clin-qa.json": [clinic, {"id": "1"}],
        "CMB-Exam/CMB-train/CMB-train-merge.json": [choice],
    }
    put(tmp_path / "cmb", {file: json.dumps(rows) for file, rows in files.items()})
    assert payloads(tmp_path, "cmb") == [
        Exam(STEM, OPTIONS, "", ""),
        Exam(STEM, OPTIONS, "AB", ""),
        Dialogue(("男，三岁，咳嗽三天。\n初步诊断是什么？", "支气管炎。")),
        Dialogue(("男，三岁，咳嗽三天。\n如何处理？", "对症。")),
        "empty field",
        "missing field",
    ]
