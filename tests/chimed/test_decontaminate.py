"""What counts as a benchmark item inside a training record."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from opencc import OpenCC

from qilin_lib.chimed.compose import general_text
from qilin_lib.chimed.decontaminate import Hit, Index
from qilin_lib.chimed.items import Item, item_of
from qilin_lib.chimed.letters import folded
from qilin_lib.chimed.records import Dialogue, Passage, Payload, Record

SHARE = 0.6


def hits(found: Index, payloads: list[Payload], share: float) -> list[Hit | None]:
    return found.hits([[general_text(payload)] for payload in payloads], share)


def test_what_regions_simplify_in_other_ways_is_folded_together():
    han = [chr(code) for code in range(0x4E00, 0xA000)]
    regional = OpenCC("hk2s").convert(OpenCC("tw2s").convert("\n".join(han))).split("\n")
    assert folded(han) == folded(regional)


def test_a_dialogue_is_held_by_all_that_is_said_and_not_by_how_it_begins():
    said = (
        "医生您好",
        "您好，请说说哪里不舒服，有多久了？",
        "头顶胀痛三天，熬夜以后加重，量过血压不高。",
        "先休息两天，少看屏幕，仍痛再来面诊。",
    )
    short = ("谢谢医生", "不客气，祝您早日康复，按时复诊就好。")
    items = [item_of(Record("cmtmedqa", "a_test.json", n, Dialogue(turns))) for n, turns in enumerate((said, short))]
    records = [
        Dialogue(said),
        Passage("", "患者：" + "".join(said)),
        Dialogue(("医生您好", "您好，我是外科的，请把片子发来看看。")),
        Dialogue(("谢谢医生", "注意休息，下周来拆线。")),
    ]
    assert [one and one.item[-1] for one in hits(Index(items), records, SHARE)] == ["0", "0", None, None]


@pytest.mark.parametrize("every", [1, 2, 6, 11, 12, 13, 40, 80])
@pytest.mark.parametrize("number", ["3", "十", "2019"])
def test_an_answer_is_found_whatever_numbers_stand_in_it(every: int, number: str):
    """Also where each of its 13-grams is broken by exactly one of them."""
    answer = "".join(chr(0x4E00 + 37 * place) for place in range(3, 63))
    items = [item_of(Record("huatuo26m_test", "a.jsonl", 1, Dialogue(("夜里总是惊醒怎么办", answer))))]
    numbered = number.join(answer[at : at + every] for at in range(0, len(answer), every))
    found = hits(Index(items), [Dialogue(("别的问题要问一下", numbered)), Passage("", numbered[:20])], SHARE)
    assert [one and one.how for one in found] == ["answer", None]


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
        whole = draw.choice(["", said(0, 30)]) + part * draw.choice([1, 1, 4]) + said(0, 30)
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
    assert isinstance(loaded.keys.base, np.memmap)
    batches = [payloads[at : at + size] for at in range(0, len(payloads), size)]
    assert [h for batch in batches for h in hits(loaded, batch, 0.3)] == hits(Index(items), payloads, 0.3)
