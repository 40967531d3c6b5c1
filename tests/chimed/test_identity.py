"""Signs, decimals and the grouping of numbers belong to a record's identity: what differs in one is no duplicate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from raw_files import jsonl, put

AROUND = (
    "复诊时家属带来了外院的检查单，医生逐项看过以后作了说明，并嘱咐下次空腹抽血，",
    "其余各项与三个月前相比没有变化，饮食和睡眠都好，因此暂不调整方案，半年以后再到门诊复查一次。",
)
# Two texts that differ in nothing but a sign, a point or the grouping of a number.
PAIRS = {
    "bracketed sign": ("乙肝表面抗原(+)，核心抗体", "乙肝表面抗原(-)，核心抗体"),
    "bracketed sign, other forms": ("HBsAg（＋）", "HBsAg（－）"),
    "bracketed sign, typographic minus": ("尿蛋白(+)", "尿蛋白(−)"),
    "a sign and none": ("尿蛋白+，潜血", "尿蛋白，潜血"),
    "number of signs": ("尿糖++", "尿糖+++"),
    "swapped signs": ("HBsAg(+)、HBeAg(-)", "HBsAg(-)、HBeAg(+)"),
    "less and greater": ("两组比较P<0.05", "两组比较P>0.05"),
    "at most and at least": ("血小板≤50", "血小板≥50"),
    "full-width comparison": ("收缩压＜140", "收缩压＞140"),
    "decimal point": ("每次服2.5mg", "每次服25mg"),
    "another decimal point": ("肌酐1.23", "肌酐12.3"),
    "range": ("疗程10-15天", "疗程1015天"),
    "list of numbers": ("每隔1、2小时", "每隔12小时"),
    "thousands": ("白细胞12,000", "白细胞12000"),
    "negative number": ("球镜 -2.00", "球镜 2.00"),
    "plus or minus": ("误差±5", "误差5"),
}
# Two texts that differ in punctuation which says nothing.
ALIKE = {
    "punctuation": ("复诊，检查单。", "复诊： 检查单！"),
    "width": ("体温３７．５℃，Ｐ＜0.05", "体温37.5℃，P<0.05"),
    "comma of another width": ("白细胞12，000", "白细胞12,000"),
    "hyphen in a word": ("COVID-19、β-受体", "COVID19、β受体"),
    "dash": ("检查单——正常", "检查单，正常"),
    "brackets": ("抗原(HBsAg)", "抗原HBsAg"),
    "forms of a minus": ("乙肝抗原（－）", "乙肝抗原(-)"),
    "forms of a range": ("疗程3～5天", "疗程3-5天"),
}


def kept(build_of: Callable, folder: Path, texts: tuple[str, ...], threshold: float) -> list[str]:
    rows = [{"questions": [[f"检查单{text}怎么看"]], "answers": [AROUND[0] + text + AROUND[1]]} for text in texts]
    raw = put(folder / "raw", {"huatuo_encyclopedia_qa/train_datasets.jsonl": jsonl(rows)})
    built = build_of(raw, folder / "out", near_dup_threshold=threshold, exact_substrings=None, heldout_share_cpt=0.0)
    return [record["text"] for record in built.cpt]


@pytest.mark.parametrize("threshold", [0.3, 1.0])
@pytest.mark.parametrize("kind", PAIRS)
def test_a_sign_or_a_point_makes_another_record(build_of: Callable, tmp_path: Path, kind: str, threshold: float):
    assert len(kept(build_of, tmp_path, PAIRS[kind], threshold)) == 2


@pytest.mark.parametrize("kind", ALIKE)
def test_punctuation_makes_none(build_of: Callable, tmp_path: Path, kind: str):
    assert len(kept(build_of, tmp_path, ALIKE[kind], 1.0)) == 1


def test_a_sign_counts_where_the_rest_differs_too(build_of: Callable, tmp_path: Path):
    one, other = PAIRS["bracketed sign"]
    texts = (f"昨日查{one}已阴转", f"今日查{other}未阴转")
    assert len(kept(build_of, tmp_path, texts, 0.5)) == 2


def test_numbers_that_one_record_says_besides_do_not_part_them(build_of: Callable, tmp_path: Path):
    texts = ("体温37.5℃", "体温37.5℃，随访2.5年，血压-")
    assert len(kept(build_of, tmp_path, texts, 0.5)) == 1


def test_many_copies_with_either_sign_are_two_records(build_of: Callable, tmp_path: Path):
    signs = ("(+)", "(-)")
    texts = tuple(f"表面抗原{signs[n % 2]}{'，' * (n // 2 + 1)}" for n in range(200))
    assert len(kept(build_of, tmp_path, texts, 0.5)) == 2
