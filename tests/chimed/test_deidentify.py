"""What must go, what must stay. Identity numbers here have a valid check digit and an area code that does not exist.

In deid.txt stands a sentence a line; what goes is written {type value}, and everything else stays.
"""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from pathlib import Path
from unicodedata import normalize

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from raw_files import jsonl, put

from qilin_lib.chimed.deid_numbers import valid_identity_number
from qilin_lib.chimed.deid_score import labelled_cases
from qilin_lib.chimed.deidentify import GROUPS, deidentify, deidentify_all, find
from tests.helpers.personal import MAKERS, check_digit, invented

LINES = Path(__file__).with_name("deid.txt").read_text(encoding="utf-8").splitlines()
MARKED = [line.replace("\\n", "\n").replace("\\t", "\t") for line in LINES if line[:1] != "#"]
UNMARKED = [re.sub(r"\{\w+ (.+?)\}", r"\1", line, flags=re.DOTALL) for line in MARKED]
TUNE = labelled_cases("tune")


@pytest.mark.parametrize("raw, marked", zip(UNMARKED, MARKED, strict=True))
def test_what_is_marked_goes_and_all_else_stays(raw, marked):
    text, counts = deidentify(raw)
    assert text == re.sub(r"\{(\w+) .+?\}", r"[\1]", marked, flags=re.DOTALL)
    assert counts == Counter(re.findall(r"\{(\w+) ", marked))


@pytest.mark.parametrize("text", [case.text for case in TUNE if not case.spans])
def test_hard_negatives_stay(text):
    assert deidentify(text) == (text, {})


# Rare surnames, given names of small words, three and four syllables, names of minorities, spaced and Latin ones.
NAMES = "张和平 安晓红 庞建国 莫晓红 柴玉兰 尚文杰 卓玛 阿依古丽 李来福 王有才 陈同生 赵其昌 李是 王由之 褚清和"
NAMES = [*NAMES.split(), "买买提·吐尔逊", "李 明", "王 小 明", "Zhang Wei", "ZHANG WEI", "Anna Maria Rossi", "欧阳娜娜"]
LABELS = "姓名 患者姓名 姓_名 联系人 紧急联系人 收件人 家属姓名 医师签名 记录者 主治医师 责任护士 术者 家属签字 委托人"
LABELS = [label.replace("_", " ") for label in LABELS.split()]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", LABELS)
def test_a_name_beside_its_label_goes_whatever_it_is(label, name):
    for end in ("。", "，男，45岁", " 性别：女", "\n", "（签字）"):
        assert deidentify(f"{label}：{name}{end}")[0] == f"{label}：[姓名]{end}"


@pytest.mark.parametrize(
    "value", "不详 无 未知 性别：男 年龄：45岁 暂无 未填 保密 ______ /".split() + ["", "\n性别：女"]
)
@pytest.mark.parametrize("label", LABELS[:5])
def test_a_label_without_a_value_keeps_what_follows(label, value):
    text = f"入院登记。{label}：{value}\n主诉：胸痛2小时。"
    assert deidentify(text) == (text, {})


TURNS = [
    ("患者姓名？", "王丽娟", "[姓名]"),
    ("请问怎么称呼，姓名和年龄是多少？", "阿依古丽，35岁", "[姓名]，35岁"),
    ("身份证号发一下", "110105491231002", "[身份证号]"),
    ("怎么联系您？", "5550123，白天都在", "[电话]，白天都在"),
    ("方便留个微信号吗？", "好的，abc12345", "好的，[账号]"),
    ("住院号是多少？", "166302", "[病历号]"),
    ("孩子的出生日期？", "2015年6月1日", "[出生日期]"),
    ("家庭住址写一下", "青河市样本区白杨街", "[地址]"),
    ("患者姓名？", "不详", "不详"),
    ("患者姓名？", "好的，稍等", "好的，稍等"),
]


@pytest.mark.parametrize("asked, answer, wanted", TURNS)
def test_a_cue_in_one_turn_covers_the_next(asked, answer, wanted):
    said = ["医生您好，想咨询一下胃胀的问题。", asked, answer, "好，我记下了，\n请继续说您的情况。"]
    assert deidentify_all(said)[0] == [said[0], asked, wanted, said[3]]


def test_a_build_covers_a_turn_by_the_one_before(build_of, tmp_path):
    said = ["胃胀怎么办？", *TURNS[1][:2], "少吃生冷。"]
    rows = [{"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}]
    built = build_of(put(tmp_path / "raw", {"medicalgpt_sft/a.jsonl": jsonl(rows)}), tmp_path / "out")
    assert built.sft[0]["messages"][2]["content"] == TURNS[1][2]


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (
            ["电话：647-717-5780，下午在。", "请通过647-717-5780联系。"],
            ["电话：[电话]，下午在。", "请通过[电话]联系。"],
        ),
        (["姓名：褚清和", "后来褚清和又来问过一次剂量。"], ["姓名：[姓名]", "后来[姓名]又来问过一次剂量。"]),
        (["微信：lm_1985a", "上次那个lm_1985a没有通过。"], ["微信：[账号]", "上次那个[账号]没有通过。"]),
        # A short name that is a word stays a word elsewhere.
        (["姓名：高兴", "家属对疗效很高兴。"], ["姓名：[姓名]", "家属对疗效很高兴。"]),
    ],
)
def test_a_value_goes_wherever_it_stands_in_its_record(texts, wanted):
    assert deidentify_all(texts)[0] == wanted


def test_no_invented_value_survives():
    made = [invented(kind, random.Random(seed)) for seed in range(300) for kind in MAKERS]
    assert not [sentence for value, sentence in made if value in deidentify(sentence)[0]]


def test_a_number_without_cue_needs_its_check_digit():
    assert valid_identity_number("570307200501252416") and not valid_identity_number("570307200501252417")
    assert not valid_identity_number("570307200513252416")
    seventeen = ("97030720050125241", "07030720050125241")
    assert [valid_identity_number(digits + check_digit(digits)) for digits in seventeen] == [True, False]
    assert deidentify("编号570307200501252417")[1] == {}


def test_general_text_keeps_public_people():
    text = "出生于1926年6月1日的演员，地址：北京市东城区景山前街4号，杨教授"
    assert deidentify(text, medical=False) == (text, {})
    assert deidentify("写信到a@example.com", medical=False)[0] == "写信到[邮箱]"


# --- what holds for every text ----------------------------------------------------------------------------------------

# Cue words, identifiers, placeholders and small words, to be strung together at random.
PIECES = [
    *(raw for raw, marked in zip(UNMARKED, MARKED, strict=True) if raw != marked),
    *"电话 手机 微信 QQ 身份证 住院号 床号 出生 生日 地址： 家住 姓名： 患者 我叫 医生 大夫 主任 王 李小明".split(),
    *"13912345678 5550123 010-55501234 12床 8号 1985-03-04 [电话] [姓名] [地址] [床号] 谢谢 请 的".split(),
    *"[ 。 ， / 、 1 86 女 ，男 岁 a@b.cc".split(),
    *"云山省 青河市 示例区 白杨街 1号 2栋 杨家村 3组 曰 先生 100200300 abc_1 \n".split(" "),
    "\ue000",
]


@example("王电话证件570307200501252416。王电话王", True)
# The first call reads the words.
@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
def test_twice_changes_nothing(raw, medical):
    text, _ = deidentify(raw, medical)
    assert deidentify(text, medical) == (text, {})


@settings(deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join), st.booleans())
def test_the_text_is_what_find_finds(raw, medical):
    spans = find(raw, medical)
    text, counts = deidentify(raw, medical)
    borders = [place for start, end, _ in spans for place in (start, end)]
    assert borders == sorted(borders) and all(start < end <= len(raw) for start, end, _ in spans)
    assert not any("\n" in raw[start:end] for start, end, _ in spans)
    for start, end, kind in reversed(spans):
        raw = f"{raw[:start]}[{kind}]{raw[end:]}"
    assert text == raw and counts == Counter(kind for *_, kind in spans)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.rules[0].kind)
def test_a_text_without_a_hint_has_no_match(group):
    # The rules see full-width digits and letters as plain ones.
    texts = (normalize("NFKC", text) for text in (*UNMARKED, *(case.text for case in TUNE)))
    unhinted = [text for text in texts if not group.search(text)]
    assert not [text for text in unhinted if any(list(rule.spans(text)) for rule in group.rules)]


REPEATED = (
    "姓名： 姓名\n 身份证\n 1- http:// www. 粤B 一三 ，男， （妻） 微信a QQ1 医保号1- 出生 王·王 "
    "Zhang_ 病人： [姓名]、王明 "
    "，王明[电话] 镇村 名下 住址： 陈述者 "
    "市区县镇 "
    "区 村 路1号 区路1号 1床 王 13 0 地址：区 a@a. 患者王 号1 王医生 姓名王明 /5550123 电话5550123/5550124".split()
)


@pytest.mark.parametrize("bit", REPEATED)
def test_long_repetitions_take_no_long_time(bit):
    start = time.process_time()
    deidentify(bit * (40_000 // len(bit)))
    assert time.process_time() - start < 5
