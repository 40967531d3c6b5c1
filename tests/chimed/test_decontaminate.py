"""What counts as a benchmark item inside a training record."""

from __future__ import annotations

from qilin_lib.chimed.decontaminate import Index, item_of
from qilin_lib.chimed.records import Dialogue, Exam, Passage, Preference, Record, content
from qilin_lib.chimed.shingles import skeleton

LONG = "男，48岁，十二指肠溃疡病史20年，近感头痛、眩晕，血压160/100mmHg，下列降压药应慎用的是"
SHORT = "中医四诊包括"
OPTIONS = (("A", "利舍平"), ("B", "硝苯地平"), ("C", "卡托普利"), ("D", "氢氯噻嗪"))
SIGNS = (("A", "问诊问病情"), ("B", "闻诊听声音"), ("C", "切诊按脉象"), ("D", "化验血常规"))


def index():
    exam = [Exam(LONG, OPTIONS, "A", ""), Exam(SHORT, SIGNS, "ABC", "")]
    records = [Record("cmexam", "val.csv", n + 2, payload) for n, payload in enumerate(exam)]
    records += [Record("huatuo26m_test", "t.jsonl", 1, Dialogue(("孩子三岁，半夜总是咳嗽怎么办呢", "多喝水")))]
    records += [Record("huatuo26m_test", "t.jsonl", 2, Dialogue(("痛风吃什么", "少吃海鲜")))]
    return Index(item for item in map(item_of, records) if item)


def hit(payload, share=0.6):
    return index().hit(payload, skeleton(content(payload)), share)


def test_equal_stems_whatever_the_punctuation():
    found = hit(Dialogue((LONG.replace("，", ", ") + "（　）", "利舍平")))
    assert (found.benchmark, found.item, found.how) == ("cmexam", "cmexam/val.csv:2", "stem")
    assert hit(Exam(LONG, (("A", "别的"), ("B", "选项")), "A", "")).how == "stem"
    assert hit(Preference(("孩子三岁，半夜总是咳嗽怎么办呢？",), "好", "坏")).benchmark == "huatuo"
    assert hit(Dialogue(("先问一句", "好的", "痛风吃什么？", "少吃"))).item == "huatuo26m_test/t.jsonl:2"


def test_a_stem_with_its_options_on_further_lines():
    assert hit(Dialogue((LONG + "\nA. 利舍平\nB. 硝苯地平", "选A"))).how == "stem"
    assert hit(Dialogue((SHORT + "\n" + "\n".join(f"{a}. {b}" for a, b in SIGNS), "选ABC"))).item == "cmexam/val.csv:3"


def test_item_inside_a_passage():
    found = hit(Passage("", "今天讲一道题。" + LONG + "。答案是利舍平。"))
    assert found.how == "13-gram" and found.share == 1.0


def test_share_is_a_threshold():
    half = skeleton(LONG)[: len(skeleton(LONG)) // 2]
    grams = len(skeleton(LONG)) - 12
    share = (len(half) - 12) / grams
    assert hit(Passage("", half), share - 0.01) and hit(Passage("", half), share - 0.01).share == round(share, 3)
    assert hit(Passage("", half), share + 0.01) is None


def test_short_stems_and_shared_options_do_not_hit():
    assert hit(Exam(SHORT, OPTIONS, "A", "")) is None
    assert hit(Exam("下面哪些属于望闻问切", SIGNS, "A", "")) is None
    assert hit(Passage("", "中医四诊包括望闻问切，痛风吃什么好，见下一章。")) is None


def test_empty_index_hits_nothing():
    assert Index([]).hit(Dialogue(("问", "答")), "问答" * 20, 0.6) is None
