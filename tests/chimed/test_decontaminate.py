"""What counts as a benchmark item inside a training record."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from qilin_lib.chimed import sources
from qilin_lib.chimed.compose import general_text
from qilin_lib.chimed.decontaminate import Hit, Index
from qilin_lib.chimed.items import BENCHMARKS, Item, item_of
from qilin_lib.chimed.records import Dialogue, Exam, Passage, Payload, Preference, Record
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.errors import QilinError

LONG = "男，48岁，十二指肠溃疡病史20年，近感头痛、眩晕，血压160/100mmHg，下列降压药应慎用的是"
SHORT = "中医四诊包括"
OPTIONS = (("A", "利舍平"), ("B", "硝苯地平"), ("C", "卡托普利"), ("D", "氢氯噻嗪"))
SIGNS = (("A", "问诊问病情"), ("B", "闻诊听声音"), ("C", "切诊按脉象"), ("D", "化验血常规"))


def index() -> Index:
    exam = [Exam(LONG, OPTIONS, "A", ""), Exam(SHORT, SIGNS, "ABC", "")]
    records = [Record("cmexam", "val.csv", n + 2, payload) for n, payload in enumerate(exam)]
    records += [Record("huatuo26m_test", "t.jsonl", 1, Dialogue(("孩子三岁，半夜总是咳嗽怎么办呢", "多喝水")))]
    records += [Record("huatuo26m_test", "t.jsonl", 2, Dialogue(("痛风吃什么", "少吃海鲜")))]
    return Index(item for item in map(item_of, records) if item)


def hits(found: Index, payloads: list[Payload], share: float) -> list[Hit | None]:
    return found.hits([[general_text(payload)] for payload in payloads], share)


def hit(payload: Payload, share: float = 0.6) -> Hit | None:
    return hits(index(), [payload], share)[0]


def test_equal_stems_whatever_the_punctuation():
    found = hit(Dialogue((LONG.replace("，", ", ") + "（　）", "利舍平")))
    assert (found.benchmark, found.item, found.how) == ("cmexam", "cmexam/val.csv:2", "question")
    assert hit(Exam(LONG, (("A", "别的"), ("B", "选项")), "A", "")).how == "question"
    assert hit(Preference(("孩子三岁，半夜总是咳嗽怎么办呢？",), "好", "坏")).benchmark == "huatuo"
    assert hit(Dialogue(("先问一句", "好的", "痛风吃什么？", "少吃"))).item == "huatuo26m_test/t.jsonl:2"


def test_a_stem_with_its_options_on_further_lines():
    assert hit(Dialogue((LONG + "\nA. 利舍平\nB. 硝苯地平", "选A"))).how == "question"
    assert hit(Dialogue((SHORT + "\n" + "\n".join(f"{a}. {b}" for a, b in SIGNS), "选ABC"))).item == "cmexam/val.csv:3"


def test_item_inside_a_passage():
    found = hit(Passage("", "今天讲一道题。" + LONG + "。答案是利舍平。"))
    assert found.how == "question" and found.share == 1.0


def test_share_is_a_threshold():
    half = skeleton(LONG)[: len(skeleton(LONG)) // 2]
    grams = len(skeleton(LONG)) - 12
    share = (len(half) - 12) / grams
    assert hit(Passage("", half), share - 0.01) and hit(Passage("", half), share - 0.01).share == round(share, 3)
    assert hit(Passage("", half), share + 0.01) is None


def test_a_part_that_is_repeated_counts_once():
    other = "女，31岁，妊娠35周，头痛伴视物模糊三天，血压170/110mmHg，尿蛋白阳性，首选的处理是"
    items = [
        item_of(Record("cmexam", "val.csv", line, Exam(asked, OPTIONS, "A", "")))
        for line, asked in ((2, LONG), (3, other))
    ]
    whole, part = skeleton(other)[:-2], skeleton(LONG)[:26]
    found = hits(Index(items), [Passage("", "。".join([part] * 9 + [whole])), Passage("", part * 9)], 0.3)
    assert [one.item for one in found] == ["cmexam/val.csv:3", "cmexam/val.csv:2"]
    assert found[1].share == round(14 / (len(skeleton(LONG)) - 12), 3)


def test_short_stems_and_shared_options_do_not_hit():
    assert hit(Exam(SHORT, OPTIONS, "A", "")) is None
    assert hit(Exam("下面哪些属于望闻问切", SIGNS, "A", "")) is None
    assert hit(Passage("", "中医四诊包括望闻问切，痛风吃什么好，见下一章。")) is None


def test_empty_index_and_empty_batch_hit_nothing():
    assert hits(Index([]), [Dialogue(("问", "答" * 40)), Passage("", "")], 0.6) == [None, None]
    assert hits(index(), [], 0.6) == []


def test_every_source_that_feeds_the_evaluation_is_a_benchmark():
    feeding = {source.name for source in sources.REGISTRY if any("eval" in feed.rows for feed in source.feeds)}
    assert feeding == BENCHMARKS.keys()
    assert set(BENCHMARKS.values()) >= {"ceval", "cmexam", "huatuo", "cmmlu", "medqa", "cmtmedqa"}
    for name, benchmark in BENCHMARKS.items():
        assert item_of(Record(name, "x.csv", 2, Exam(LONG, OPTIONS, "A", ""))).benchmark == benchmark


def test_a_dialogue_is_held_by_all_that_is_said_and_not_by_how_it_begins():
    said = (
        "医生您好",
        "您好，请说说哪里不舒服，有多久了？",
        "头顶胀痛三天，熬夜以后加重，量过血压不高。",
        "先休息两天，少看屏幕，仍痛再来面诊。",
    )
    short = ("谢谢医生", "不客气，祝您早日康复，按时复诊就好。")
    asked = ("孕妇感冒两天可以喝板蓝根吗", "先多饮水，用药前到产科面诊。")
    items = [
        item_of(Record("cmtmedqa", "a_test.json", n, Dialogue(turns))) for n, turns in enumerate((said, short, asked))
    ]
    records = [
        Dialogue(said),
        Passage("", "患者：" + "".join(said)),
        Dialogue(("医生您好", "您好，我是外科的，请把片子发来看看。")),
        Dialogue(("谢谢医生", "注意休息，下周来拆线。")),
        Dialogue((asked[0] + "？", "可以问问药师。")),
    ]
    found = hits(Index(items), records, 0.6)
    assert [one and one.item[-1] for one in found] == ["0", "0", None, None, "2"]


# --- against an independent definition: every pair of record and question, compared as Python sets and lists ---------


def words(text: str) -> list[str]:
    """What stands between blanks and punctuation."""
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).lower())


def oracle(items: list[Item], payload: Payload, share: float) -> tuple[str, float, str] | None:
    """(rule, share, place) of the item of `items`, all of them patients' questions, that the payload holds."""
    parts = words(general_text(payload))
    bones = "".join(parts)
    runs = {"".join(parts[a:b]) for a in range(len(parts)) for b in range(a + 1, len(parts) + 1)}
    found = []
    for item in items:
        asked = "".join(words(item.question))
        if len(asked) < 13:
            held = float(len(asked) >= 5 and asked in runs)
        else:
            wanted = {asked[at : at + 13] for at in range(len(asked) - 12)}
            held = sum(gram in bones for gram in wanted) / len(wanted)
        if held >= (share if len(asked) >= 13 else 1):
            found.append((asked not in bones, -held, items.index(item), item.place))
    if not found:
        return None
    part, held, _, place = min(found)
    return "13-gram" if part else "question", round(-held, 3), place


def invented(draw: random.Random, count: int) -> tuple[list[Item], list[Payload]]:
    """Questions of which many share passages, and records of which many hold whole questions or parts of them."""

    def said(low: int, high: int) -> str:
        return "".join(draw.choices("心肝脾肺肾胃胆，。 12abＡ", k=draw.randint(low, high)))

    passages = [said(15, 40) for _ in range(12)]
    asked = [draw.choice(["", *passages]) + said(0, 30) for _ in range(count)] + ["痛"]
    records = [
        Record(draw.choice(["huatuo26m_test", "cmtmedqa"]), "f", line, Dialogue((question, "答")))
        for line, question in enumerate(asked)
    ]
    payloads: list[Payload] = []
    for _ in range(count):
        question = draw.choice(asked)
        part = question[draw.choice([0, 0, draw.randrange(len(question) + 1)]) :]
        part = part[: draw.choice([200, draw.randint(1, 60)])]
        whole = draw.choice(["", said(0, 30)]) + part + said(0, 30)
        payloads.append(
            draw.choice([Passage(said(0, 4), whole), Dialogue((whole, said(1, 9))), Dialogue((part, "好"))])
        )
    return [item for item in map(item_of, records) if item], payloads


@pytest.mark.parametrize("seed", range(2))
def test_hits_are_those_of_comparing_every_pair(seed: int):
    items, payloads = invented(random.Random(seed), 250)
    built = Index(items)
    for share in (0.05, 0.6, 1.0):
        wanted = [oracle(items, payload, share) for payload in payloads]
        assert [one and (one.how, one.share, one.item) for one in hits(built, payloads, share)] == wanted
        rules = Counter(found and found[0] for found in wanted)
        rarest = min(rules[rule] for rule in (None, "question", *(["13-gram"] if share < 1 else [])))
        assert rarest > 10, "one of the answers is so rare that the comparison shows little"


@pytest.mark.parametrize("size", [1, 7, 250])
def test_batches_do_not_matter_and_a_loaded_index_finds_the_same(size: int, tmp_path: Path):
    items, payloads = invented(random.Random(99), 250)
    Index(items).save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index")
    assert all(isinstance(keys.rows.base, np.memmap) for keys in loaded._keys)
    batches = [payloads[at : at + size] for at in range(0, len(payloads), size)]
    assert [h for batch in batches for h in hits(loaded, batch, 0.3)] == hits(Index(items), payloads, 0.3)


def test_an_index_that_was_never_saved_is_named(tmp_path: Path):
    with pytest.raises(QilinError, match="index.probes.jsonl does not exist"):
        Index.load(tmp_path / "index")
