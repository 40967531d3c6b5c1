"""Skeletons, grams, and signs, decimals and groupings of numbers, which belong to a record's identity."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import jsonl, put

from qilin_lib.chimed.shingles import differ_in_signs, gram_hashes_many, identity, skeleton


def test_skeleton_folds_width_case_and_punctuation():
    assert skeleton("Ｂ超  检查，____（HBsAg）。\n") == "b超检查hbsag" == skeleton("b超检查 hbsag")
    assert skeleton("…… !?") == ""


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_hashes_of_many_are_those_of_each(size):
    dice = random.Random(2)
    texts = ["".join(dice.choice("甲乙丙ab𠮷") for _ in range(length)) for length in (0, 7, 1, 0, 4, 5, 6, 80, 0)]
    hashes, offsets = gram_hashes_many(texts, size)
    for number, text in enumerate(texts):
        assert hashes[offsets[number] : offsets[number + 1]].tolist() == gram_hashes_many([text], size)[0].tolist()
    assert [len(part) for part in gram_hashes_many(["", ""], size)] == [0, 3]


AROUND = (
    "复诊时家属带来了外院的检查单，医生逐项看过以后作了说明，并嘱咐下次空腹抽血，",
    "其余各项与三个月前相比没有变化，饮食和睡眠都好，因此暂不调整方案，半年以后再到门诊复查一次。",
)
# Two texts that differ in nothing but a sign, a point or the grouping of a number.
PAIRS = [
    ("乙肝表面抗原(+)，核心抗体", "乙肝表面抗原(-)，核心抗体"), ("HBsAg(+)、HBeAg(-)", "HBsAg(-)、HBeAg(+)"),
    ("HBsAg（＋）", "HBsAg（－）"), ("尿蛋白(+)", "尿蛋白(−)"), ("尿蛋白+，潜血", "尿蛋白，潜血"),
    ("尿糖++", "尿糖+++"), ("两组比较P<0.05", "两组比较P>0.05"), ("血小板≤50", "血小板≥50"),
    ("收缩压＜140", "收缩压＞140"), ("每次服2.5mg", "每次服25mg"), ("肌酐1.23", "肌酐12.3"),
    ("疗程10-15天", "疗程1015天"), ("每隔1、2小时", "每隔12小时"), ("白细胞12,000", "白细胞12000"),
    ("球镜 -2.00", "球镜 2.00"), ("误差±5", "误差5"), ("右眼-3.00D", "右眼3.00D"), ("碱剩余-8", "碱剩余8"),
    ("白细胞↑", "白细胞↓"), ("含量5%", "含量5‰"), ("A=B", "A≠B"), ("阳性√", "阳性×"), ("患者♂", "患者♀"),
    ("血糖<5", "血糖<=5"),
]  # fmt: skip
# Two texts that differ in punctuation which says nothing.
ALIKE = [
    ("复诊，检查单。", "复诊： 检查单！"), ("体温３７．５℃，Ｐ＜0.05", "体温37.5℃，P<0.05"), ("血糖≤5", "血糖＜＝5"),
    ("白细胞12，000", "白细胞12,000"), ("COVID-19、β-受体", "COVID19、β受体"), ("检查单——正常", "检查单，正常"),
    ("抗原(HBsAg)", "抗原HBsAg"), ("乙肝抗原（－）", "乙肝抗原(-)"), ("疗程3～5天", "疗程3-5天"),
]  # fmt: skip


@pytest.mark.parametrize("one, other", PAIRS)
def test_a_sign_or_a_point_makes_another_record(one, other):
    assert identity(one) != identity(other)
    assert differ_in_signs(*(identity(text.join(AROUND)) for text in (one, other)))


@pytest.mark.parametrize("one, other", ALIKE)
def test_punctuation_makes_none(one, other):
    assert identity(one) == identity(other)


def forms(text):
    """{8 letters in a row: how they stand, with the signs between them}, by looking at every place."""
    places = [at for at, sign in enumerate(text) if sign not in "+-."]
    found = {}
    for at in range(len(places) - 7):
        letters = "".join(text[place] for place in places[at : at + 8])
        found.setdefault(letters, set()).add(text[places[at] : places[at + 7] + 1])
    return found


SIGNS = st.lists(st.sampled_from(["", "", "", "", "", "+", "-."]), min_size=14, max_size=14)


@given(st.text("甲乙2", min_size=8, max_size=14), SIGNS, SIGNS, st.integers(0, 2))
@settings(max_examples=400, deadline=None)
def test_texts_differ_where_the_same_letters_never_stand_alike(letters, signs, others, gone):
    one, other = ("".join(map("".join, zip(letters, some, strict=False))) for some in (signs, others))
    mine, theirs = forms(f"\n{one}\n"), forms(f"\n{other[gone:]}\n")
    found = any(mine[key].isdisjoint(theirs[key]) for key in mine.keys() & theirs.keys())
    assert differ_in_signs(one, other[gone:]) == found


@pytest.mark.parametrize(
    "threshold, texts, records",
    [
        (0.3, PAIRS[0], 2),
        (1.0, PAIRS[9], 2),
        (0.5, [f"昨日查{PAIRS[0][0]}已阴转", f"今日查{PAIRS[0][1]}未阴转"], 2),
        (0.5, ["体温37.5℃", "体温37.5℃，随访2.5年，血压-"], 1),
        (0.5, [f"表面抗原{('(+)', '(-)')[n % 2]}{'，' * (n // 2 + 1)}" for n in range(200)], 2),
    ],
)
def test_what_differs_in_a_sign_is_kept_twice(build_of, tmp_path, threshold, texts, records):
    rows = [{"questions": [[f"检查单{text}怎么看"]], "answers": [text.join(AROUND)]} for text in texts]
    raw = put(tmp_path / "raw", {"huatuo_encyclopedia_qa/train_datasets.jsonl": jsonl(rows)})
    assert len(build_of(raw, tmp_path / "out", near_dup_threshold=threshold, exact_substrings=None).cpt) == records
