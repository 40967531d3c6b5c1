from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks import prepare
from qilin_lib.evaluate.benchmarks.ceval import (
    CATEGORIES,
    HARD,
    MEDICAL,
    NAMES,
    TEST_QUESTIONS,
    ceval_dev,
    ceval_items,
    ceval_names,
)
from qilin_lib.evaluate.benchmarks.cmexam import cmexam_items
from qilin_lib.evaluate.benchmarks.exams import medqa_items
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items
from qilin_lib.evaluate.items import GROUPS, cap

HEADER = "Question,Options,Answer,Explanation\n"
GOOD = '问,"A 甲\nB 乙",A,略\n'


def cmexam(raw_dir: Path, content: str | bytes, name: str = "val.csv") -> Path:
    path = raw_dir / "cmexam" / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def test_ceval_reads_the_answers_of_a_test_split_that_publishes_them(raw_dir: Path):
    folder = raw_dir / "ceval" / "test"
    folder.mkdir()
    rows = "0,问,甲,乙,丙,丁,C,因为\n1,问,甲,乙,丙,丁,a,\n2,问,甲,乙,丙,丁,Ｄ,\n3,问,甲,乙,丙,丁,E,\n"
    (folder / "law_test.csv").write_text("id,question,A,B,C,D,answer,explanation\n" + rows, encoding="utf-8-sig")
    items, invalid = ceval_items(raw_dir, "test", ["law"])
    assert [(i.split, i.gold, i.reference) for i in items] == [
        ("test", "C", "因为"),
        ("test", "A", ""),
        ("test", "D", ""),
    ]
    assert [bad["detail"] for bad in invalid] == ["answer is no option: E"]


def test_ceval_lists_an_id_that_comes_twice(raw_dir: Path):
    path = raw_dir / "ceval" / "val" / "law_val.csv"
    path.write_text("id,question,A,B,C,D,answer\n7,甲问,1,2,3,4,A\n7,乙问,1,2,3,4,B\n", encoding="utf-8")
    items, invalid = ceval_items(raw_dir, "val", ["law"])
    assert [i.question for i in items] == ["甲问"]
    assert [(bad["line"], bad["detail"]) for bad in invalid] == [(3, "id law-7 came before")]


def test_ceval_names_a_subject_or_split_that_is_not_there(raw_dir: Path):
    with pytest.raises(QilinError, match="did you mean 'physician'"):
        ceval_items(raw_dir, "val", ["physicain"])
    with pytest.raises(QilinError, match="'zz' has no file zz_val.csv in .*advanced_mathematics, clinical_medicine"):
        ceval_items(raw_dir, "val", ["zz"])
    with pytest.raises(QilinError, match="dev, val and test"):
        ceval_items(raw_dir, "train")


def test_ceval_dev_with_fewer_examples_than_shots_names_the_file(raw_dir: Path):
    path = raw_dir / "ceval" / "dev" / "physician_dev.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:4]), encoding="utf-8")
    with pytest.raises(QilinError, match=r"physician_dev.csv has 3 rows, fewer than shots = 5; set eval.shots to 3 at"):
        ceval_dev(raw_dir)
    assert len(ceval_dev(raw_dir, shots=3)["physician"]) == 3
    assert set(ceval_dev(raw_dir, 5, ["clinical_medicine"])) == {"clinical_medicine"}
    shutil.rmtree(path.parent)
    assert ceval_dev(raw_dir, shots=0) == {}


def test_a_subject_without_examples_is_told_and_not_asked_without_shots(raw_dir: Path, params: SimpleNamespace):
    (raw_dir / "ceval" / "dev" / "physician_dev.csv").unlink()
    with pytest.raises(QilinError, match=r"physician.*no file physician_dev.csv"):
        prepare(raw_dir, params)
    shutil.rmtree(raw_dir / "ceval" / "dev")
    (invalid,) = next(task for task in prepare(raw_dir, params) if task.name == "ceval").invalid
    assert "eval.shots" in invalid["detail"]


def test_two_right_answers_are_none_that_one_letter_could_give(raw_dir: Path):
    row = {"question": "问", "options": {"A": "甲", "B": "乙", "C": "丙", "D": "丁"}}
    rows = [json.dumps(row | {"answer_idx": letters}) for letters in ("AB", "B")]
    (raw_dir / "medqa").mkdir()
    (raw_dir / "medqa" / "test.jsonl").write_text("\n".join(rows), encoding="utf-8")
    items, invalid = medqa_items(raw_dir / "medqa")
    assert [item.gold for item in items] == ["B"] and "AB" in invalid[0]["detail"]


def test_subject_groups_are_official_subjects(raw_dir: Path):
    assert len(NAMES) == 52 and len(HARD) == 8 and HARD < set(NAMES) and set(MEDICAL) < set(NAMES)
    mapping = {"tcm": {"name": "中医学", "category": "Other"}}
    (raw_dir / "ceval" / "mapping.json").write_text(json.dumps(mapping), encoding="utf-8")
    assert ceval_names(raw_dir)["tcm"] == "中医学" and ceval_names(raw_dir)["law"] == "法学"
    parts = [subject for members in CATEGORIES.values() for subject in members]
    assert sorted(parts) == sorted(NAMES) == sorted(TEST_QUESTIONS) and sum(TEST_QUESTIONS.values()) == 12342
    assert {name: len(members) for name, members in CATEGORIES.items()} == {
        "stem": 20,
        "social_science": 10,
        "humanities": 11,
        "other": 11,
    }


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('{"tcm": {"name": "中医"', r"mapping.json is not valid JSON: .*line 1 column"),
        ('["tcm"]', r"mapping.json holds a list, not an object of the form"),
        ('{"tcm": {"category": "Other"}}', r"mapping.json: subject 'tcm' is .*which has no name; write"),
    ],
)
def test_a_broken_mapping_is_one_sentence(raw_dir: Path, content: str, expected: str):
    (raw_dir / "ceval" / "mapping.json").write_text(content, encoding="utf-8")
    with pytest.raises(QilinError, match=expected):
        ceval_names(raw_dir)


def test_cmexam_reads_both_kinds_of_line_end_and_lists_what_it_cannot_use(raw_dir: Path):
    items, invalid = cmexam_items(raw_dir)
    assert [i.gold for i in items] == ["ABC", "B", "D"]
    assert [len(i.options) for i in items] == [5, 5, 4]
    assert items[1].options["B"] == "CT检查" and items[1].options["C"] == "B超"
    assert items[2].reference == "" and items[2].id == "test-00003"
    # Records span several lines: the place is the line where the record begins.
    assert [(bad["file"], bad["line"]) for bad in invalid] == [("test.csv", 8), ("test.csv", 17)]
    assert [bad["detail"] for bad in invalid] == ["no answer: Answer is 'nan'", "answer is no option: E"]


def test_a_word_for_nothing_is_no_reference(raw_dir: Path):
    words = ["nan", "NaN", "None", "null", "N/A", "无", "暂无", ""]
    cmexam(raw_dir, HEADER + "".join(f'问,"A 甲\nB 乙",A,{word}\n' for word in words) + GOOD)
    assert [item.reference for item in cmexam_items(raw_dir, "val")[0]] == [""] * len(words) + ["略"]
    rows = [{"questions": "头痛怎么办", "answers": word} for word in (*words, "休息。")]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (raw_dir / "huatuo26m_test" / "test_datasets.jsonl").write_text(text, encoding="utf-8")
    items, invalid = huatuo_items(raw_dir)
    assert [item.reference for item in items] == ["休息。"] and len(invalid) == len(words)


def test_cmexam_reads_the_annotations_and_prefers_the_file_that_has_them(raw_dir: Path):
    columns = ",".join(GROUPS)
    rows = (
        '问,"A 甲\nB 乙",A,略,循环系统疾病,疾病治疗,内科,临床医学,4\n又问,"A 甲\nB 乙",B,略,,疾病治疗,,临床医学, 1 \n'
    )
    cmexam(raw_dir, f"{HEADER.strip()},{columns}\n{rows}", "test_with_annotations.csv")
    items, invalid = cmexam_items(raw_dir)
    assert not invalid and items[0].groups == {
        "disease_group": "循环系统疾病",
        "competency": "疾病治疗",
        "department": "内科",
        "discipline": "临床医学",
        "difficulty": "4",
    }
    assert items[1].groups == {"competency": "疾病治疗", "discipline": "临床医学", "difficulty": "1"}
    cmexam(raw_dir, HEADER + GOOD)
    assert cmexam_items(raw_dir, "val")[0][0].groups == {}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("cmexam/val.csv", "", r"val.csv has no usable row among 0"),
        (
            "cmexam/val.csv",
            HEADER.replace("Answer", "Answr") + GOOD,
            r"val.csv has no usable row among 1, the first \(line 2\) .*no answer",
        ),
        (
            "cmexam/val.csv",
            HEADER.replace("Answer", "Answer,Answer") + GOOD,
            r"val.csv has no usable row .*column 'Answer' comes 2 times; keep one",
        ),
        ("huatuo26m_test/huatuo26M_test.json", '{"data": []}', r"no usable row among 1, .*questions and answers"),
        ("huatuo26m_test/test_datasets.jsonl", '{"questions": "问"\n', r"no usable row .*line 1. because: broken JSON"),
        ("huatuo26m_test/test_datasets.jsonl", "", r"test_datasets.jsonl has no usable row among 0"),
    ],
)
def test_a_file_of_another_form_is_one_sentence(raw_dir: Path, name: str, content: str, expected: str):
    (raw_dir / "huatuo26m_test" / "test_datasets.jsonl").unlink()
    (raw_dir / name).write_text(content, encoding="utf-8")
    with pytest.raises(QilinError, match=expected) as raised:
        cmexam_items(raw_dir, "val") if "cmexam" in name else huatuo_items(raw_dir)
    assert "\n" not in str(raised.value)


def test_ragged_rows_and_unreadable_options_are_listed_with_the_reason(raw_dir: Path):
    rows = [
        '问二,"A 甲\nB 乙", ,略',
        "短行,A 甲",
        "长行,A 甲,A,略,多余",
        "空尾,A 甲\\nB 乙,A,略,,",
        "无选项,甲、乙,A,略",
        "两个A,A 甲\\nA 乙,A,略",
        "",
    ]
    cmexam(raw_dir, "\ufeff" + HEADER + GOOD + "\n".join(rows))
    items, invalid = cmexam_items(raw_dir, "val")
    assert [(item.question, item.id) for item in items] == [("问", "val-00000"), ("空尾", "val-00004")]
    assert [(bad["line"], bad["detail"]) for bad in invalid] == [
        (4, "no answer: Answer is ' '"),
        (6, "wrong number of columns: 2 instead of 4"),
        (7, "wrong number of columns: 5 instead of 4"),
        (9, "broken options: letters none"),
        (10, "broken options: letters AA"),
    ]


def test_huatuo_reads_both_forms(raw_dir: Path):
    items, invalid = huatuo_items(raw_dir)
    assert len(items) == 4 and not invalid
    folder = raw_dir / "huatuo26m_test"
    (folder / "test_datasets.jsonl").unlink()
    listed = [{"id": "", "instruction": [i.question], "input": "", "output": [i.reference]} for i in items]
    listed.append({"id": "", "instruction": ["问"], "input": "", "output": []})
    (folder / "huatuo26M_test.json").write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    again, invalid = huatuo_items(raw_dir)
    assert again == items and [bad["line"] for bad in invalid] == [1]


def test_cap_is_per_subject_seeded_nested_and_keeps_order(raw_dir: Path):
    items, _ = ceval_items(raw_dir, "val")
    two, four = cap(items, 2, seed=3), cap(items, 4, seed=3)
    assert len(two) == 6 and set(two_ids := [i.id for i in two]) < {i.id for i in four}
    assert two_ids == [i.id for i in items if i.id in set(two_ids)]
    assert cap(items, 4, seed=3) == four and cap(items, 4, seed=4) != four
    one = [i for i in items if i.subject == "physician"]
    assert cap(one, 2, seed=3) == [i for i in two if i.subject == "physician"]
    assert cap(items, None, seed=0) == items


@pytest.fixture
def real() -> Path:
    root = os.environ.get("QILIN_RAW_DIR")
    if not root:
        pytest.skip("QILIN_RAW_DIR is not set")
    return Path(root)


def rows_of(path: Path) -> int:
    with open(path, encoding="utf-8-sig", newline="") as handle:
        return sum(1 for _ in csv.DictReader(handle))


def test_every_row_of_the_real_files_is_an_item_or_listed(real: Path):
    for split in ("dev", "val", "test"):
        items, invalid = ceval_items(real, split)
        assert len(items) + len(invalid) == sum(map(rows_of, (real / "ceval" / split).glob("*.csv"))) > 0
    items, invalid = cmexam_items(real)
    assert len(items) + len(invalid) == rows_of(real / "cmexam" / "test.csv") and len(invalid) <= 2
    items, invalid = huatuo_items(real)
    (path,) = (real / "huatuo26m_test").glob("*test*.json*")
    text = path.read_text(encoding="utf-8")
    rows = text.splitlines() if path.suffix == ".jsonl" else json.loads(text)
    assert len(items) + len(invalid) == len(rows) > 1000


def test_the_real_subjects_are_ours(real: Path):
    mapping = json.loads((real / "ceval" / "mapping.json").read_text(encoding="utf-8"))
    labels = {"stem": "STEM", "social_science": "Social Sciences", "humanities": "Humanities", "other": "Other"}
    for category, members in CATEGORIES.items():
        assert members == {key for key, entry in mapping.items() if entry["category"] == labels[category]}
    assert {key: entry["name"] for key, entry in mapping.items()} == NAMES
    sizes = {key: rows_of(real / "ceval" / "test" / f"{key}_test.csv") for key in mapping}
    assert sizes == TEST_QUESTIONS and set(ceval_dev(real)) == set(NAMES)
