from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Item, cap, ceval_dev, ceval_items, ceval_names, cmexam_items, huatuo_items
from qilin_lib.evaluate.subjects import HARD, MEDICAL, NAMES


def test_ceval_reads_every_subject_in_order(raw_dir: Path):
    items, invalid = ceval_items(raw_dir, "val")
    assert not invalid and len(items) == 21
    assert [i.subject for i in items] == sorted(i.subject for i in items)
    first = items[0]
    assert (first.id, first.split, first.gold) == ("advanced_mathematics-0", "val", "A")
    assert first.options == {"A": "甲", "B": "乙", "C": "丙", "D": "丁"}


def test_ceval_without_an_answer_column_has_no_gold_and_a_wrong_answer_is_listed(raw_dir: Path):
    folder = raw_dir / "ceval" / "test"
    folder.mkdir()
    (folder / "law_test.csv").write_text("id,question,A,B,C,D\n0,问,甲,乙,丙,丁\n", encoding="utf-8")
    rows = "0,问,甲,乙,丙,丁,E\n1,问,甲,乙,丙,丁,\n"
    (folder / "logic_test.csv").write_text("id,question,A,B,C,D,answer\n" + rows, encoding="utf-8")
    items, invalid = ceval_items(raw_dir, "test")
    assert [(i.id, i.gold) for i in items] == [("law-0", None), ("logic-1", None)]
    assert [(bad["file"], bad["line"]) for bad in invalid] == [("logic_test.csv", 2)]


def test_ceval_names_a_subject_or_split_that_is_not_there(raw_dir: Path):
    with pytest.raises(QilinError, match="did you mean 'physician'"):
        ceval_items(raw_dir, "val", ["physicain"])
    with pytest.raises(QilinError, match="dev, val and test"):
        ceval_items(raw_dir, "train")


def test_ceval_dev_gives_five_answered_shots(raw_dir: Path):
    dev = ceval_dev(raw_dir)
    assert {subject: len(shots) for subject, shots in dev.items()}["physician"] == 5
    assert all(shot.gold for shots in dev.values() for shot in shots)


def test_subject_groups_are_official_subjects(raw_dir: Path):
    assert len(NAMES) == 52 and len(HARD) == 8 and HARD < set(NAMES) and set(MEDICAL) < set(NAMES)
    mapping = {"tcm": {"name": "中医学", "category": "Other"}}
    (raw_dir / "ceval" / "mapping.json").write_text(json.dumps(mapping), encoding="utf-8")
    assert ceval_names(raw_dir)["tcm"] == "中医学" and ceval_names(raw_dir)["law"] == "法学"


def test_cmexam_reads_both_kinds_of_line_end_and_lists_what_it_cannot_use(raw_dir: Path):
    items, invalid = cmexam_items(raw_dir)
    assert [i.gold for i in items] == ["ABC", "B", "D"]
    assert [len(i.options) for i in items] == [5, 5, 4]
    assert items[1].options["B"] == "CT检查" and items[1].options["C"] == "B超"
    assert items[2].reference == "" and items[2].id == "test-00003"
    # Records span several lines: the place is the line where the record begins.
    assert [(bad["file"], bad["line"]) for bad in invalid] == [("test.csv", 8), ("test.csv", 17)]
    assert "'nan'" in invalid[0]["detail"] and "'E'" in invalid[1]["detail"]


def test_cmexam_takes_the_annotated_file_when_there_is_no_other(raw_dir: Path):
    folder = raw_dir / "cmexam"
    (folder / "test.csv").rename(folder / "test_with_annotations.csv")
    assert len(cmexam_items(raw_dir)[0]) == 3
    with pytest.raises(QilinError, match="val.csv"):
        cmexam_items(raw_dir, "val")


def test_a_literal_backslash_n_inside_an_option_stays(raw_dir: Path):
    path = raw_dir / "cmexam" / "val.csv"
    path.write_text("Question,Options,Answer,Explanation\n问,A \\nu 频率\\nB 波长\\nC 能量,Ａ,\n", encoding="utf-8")
    items, _ = cmexam_items(raw_dir, "val")
    assert items[0].options == {"A": "\\nu 频率", "B": "波长", "C": "能量"} and items[0].gold == "A"


def test_huatuo_reads_both_forms(raw_dir: Path):
    items, invalid = huatuo_items(raw_dir)
    assert len(items) == 4 and not invalid
    folder = raw_dir / "huatuo26m_test"
    (folder / "test_datasets.jsonl").unlink()
    listed = [{"id": "", "instruction": [i.question], "input": "", "output": [i.reference]} for i in items]
    listed.append({"id": "", "instruction": ["问"], "input": "", "output": []})
    (folder / "huatuo26M_test.json").write_text(json.dumps(listed, ensure_ascii=False), encoding="utf-8")
    again, invalid = huatuo_items(raw_dir)
    assert again == items and [bad["line"] for bad in invalid] == [5]


def test_cap_is_per_subject_seeded_nested_and_keeps_order(raw_dir: Path):
    items, _ = ceval_items(raw_dir, "val")
    two, four = cap(items, 2, seed=3), cap(items, 4, seed=3)
    assert len(two) == 6 and set(two_ids := [i.id for i in two]) < {i.id for i in four}
    assert two_ids == [i.id for i in items if i.id in set(two_ids)]
    assert cap(items, 4, seed=3) == four and cap(items, 4, seed=4) != four
    one = [i for i in items if i.subject == "physician"]
    assert cap(one, 2, seed=3) == [i for i in two if i.subject == "physician"]
    assert cap(items, None, seed=0) == items


def test_cap_samples_evenly():
    items = [Item("huatuo", f"test-{n}", "test", None, "问", None, None, "答") for n in range(40)]
    seeds = random.Random(0).sample(range(10_000), 400)
    drawn = [item.id for seed in seeds for item in cap(items, 10, seed)]
    assert all(60 <= drawn.count(item.id) <= 145 for item in items)


def test_the_real_files():
    root = os.environ.get("QILIN_RAW_DIR")
    if not root:
        pytest.skip("QILIN_RAW_DIR is not set")
    assert set(ceval_dev(root)) == set(NAMES)
    items, invalid = cmexam_items(root)
    assert len(items) > 500 and len(invalid) <= 2 and len(huatuo_items(root)[0]) > 1000
