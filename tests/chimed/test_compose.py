"""Payloads as lines of the four sets; the same disease in several graphs as one record that says who said what."""

from __future__ import annotations

import pytest

from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.merge import merged
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Record, Rejection
from qilin_lib.chimed.sources import BY_NAME, Unit

OPTIONS = (("A", "甲"), ("B", "乙"))
FOUR = ("问", "答", "再问", "再答")
ASTHMA = Disease("哮喘", (("病因", ("过敏。",)), ("症状", ("喘", "咳")), ("检查", ("肺功能",))))


def messages(*turns, first=0):
    return [{"role": ("user", "assistant")[(n + first) % 2], "content": turn} for n, turn in enumerate(turns)]


@pytest.mark.parametrize(
    "name, payload, line",
    [
        # The prompt of an exam is the one that evaluation uses.
        ("sft", Exam("题", OPTIONS, "AB", "因为"), messages("题\nA 甲\nB 乙", "答案：AB。\n解释：因为")),
        ("sft", Exam("题", OPTIONS, "A", ""), messages("题\nA 甲\nB 乙", "答案：A。")),
        ("cpt", Exam("题", OPTIONS, "AB", "因为"), "题\nA 甲\nB 乙\n答案：AB。\n解释：因为"),
        ("sft", Dialogue(FOUR[:3]), messages("问", "答")),
        ("sft", Dialogue(FOUR[:2], "你是医生"), [{"role": "system", "content": "你是医生"}, *messages("问", "答")]),
        ("cpt", Dialogue(FOUR[:2]), "问\n答"),
        ("cpt", Dialogue(FOUR), "患者：问\n医生：答\n患者：再问\n医生：再答"),
        ("general", Dialogue(FOUR), "问\n答\n再问\n再答"),
        ("cpt", ASTHMA, "哮喘\n检查：肺功能\n哮喘的病因是什么？过敏。\n哮喘有哪些症状？喘、咳。"),
        ("cpt", Disease("哮喘", (("常用药物", ("甲片", "乙片")), ("推荐药物", ("乙片", "丙片", "甲片")))),
         "哮喘\n哮喘一般用什么药？甲片、乙片、丙片。"),
        ("cpt", Disease("哮喘", (("简介", ("有炎症。", "反复发作。")), ("病因", ("过敏引起。", "敏；", "尘螨")))),
         "哮喘\n简介：有炎症。反复发作。\n哮喘的病因是什么？过敏引起。敏；尘螨。"),
        ("sft", Passage("", "文"), None),
        ("dpo", Dialogue(FOUR[:2]), None),
    ],
)  # fmt: skip
def test_a_line(name, payload, line):
    key = {"sft": "messages"}.get(name, "text")
    assert compose(name, payload) == (None if line is None else {key: line})


GRAPHS = ("kg_cpubmed", "kg_39health", "kg_xywy")


def entity(name, **features):
    return Disease(name, tuple((heading, tuple(values)) for heading, values in features.items()))


def run(*graphs, free=True):
    """What becomes of (line, payload) of each of GRAPHS, all under a licence that allows to combine them if `free`."""
    found = []
    for name, rows in zip(GRAPHS, graphs, strict=False):
        source = BY_NAME[name].model_copy(update={"licence": "MIT"} if free else {})
        reads = [read if isinstance(read, Rejection) else Record(name, "f", line, read) for line, read in rows]
        found.append((source, [Unit(("cpt",), read) for read in reads]))
    return [(unit.read, lost) for _, unit, lost in merged(found)]


def test_first_record_carries_the_union_and_later_ones_name_it():
    first, alone, third, second = run(
        [(3, entity("哮喘", 症状="喘咳", 病因="敏"))],
        [(1, entity("痛风", 症状="痛")), (2, entity("哮喘 ", 检查=["肺功能"]))],
        [(9, entity("哮喘", 症状="咳闷", 检查=["肺功能"]))],
    )
    whole = entity("哮喘", 症状="喘咳闷", 病因="敏", 检查=["肺功能"])
    origins = (("kg_cpubmed", "kg_xywy"), ("kg_cpubmed",), ("kg_39health", "kg_xywy"))
    assert first == (Record("kg_cpubmed", "f", 3, Disease("哮喘", whole.features, origins)), None)
    assert alone == (Record("kg_39health", "f", 1, entity("痛风", 症状="痛")), None)
    lost = ("merged", "merged", "into kg_cpubmed/f:3")
    assert third == (Record("kg_39health", "f", 2, entity("哮喘 ", 检查=["肺功能"])), lost) and second[1] == lost


def test_every_unit_comes_once_and_in_order_whatever_it_is():
    no = Rejection("kg_cpubmed", "f", 2, "not a triple")
    found = run(
        [(1, entity("IgA 肾病", a="1")), (2, no), (3, Passage("IgA 肾病", "文")), (4, entity("ＩｇＡ肾病", b="2"))],
        [(1, entity("？！", a="1")), (2, entity("……", a="2"))],
    )
    assert [read.line for read, _ in found] == [1, 2, 3, 4, 1, 2] and found[1][0] is no
    assert [lost for _, lost in found] == [None] * 3 + [("merged", "repeated", "into kg_cpubmed/f:1")] + [None] * 2
    assert found[0][0].payload == Disease("IgA 肾病", (("a", ("1",)), ("b", ("2",))), (("kg_cpubmed",),) * 2)


def test_what_graphs_state_differently_is_listed_by_graph():
    def stated(rate, infection, symptom):
        return entity("哮喘", 传染性=[infection], 治愈率=[rate], 症状=symptom)

    found = run(
        [],
        [(1, stated("80%；", "有传染性", "喘")), (2, stated("60%", "有传染性", "咳"))],
        [(1, stated("80%", "无传染性", "喘闷")), (2, entity("痛风", 治愈率=["90%"]))],
    )
    assert dict(found[0][0].payload.features) == {
        "传染性": ("有传染性（39Health-KG）", "无传染性（Xywy-KG）"),
        "治愈率": ("80%或60%（39Health-KG）", "80%（Xywy-KG）"),
        "症状": ("喘", "咳", "闷"),
    }
    assert found[3][0].payload == entity("痛风", 治愈率=["90%"])
    alone = run([], [(n, entity("哮喘", 治愈率=[rate])) for n, rate in enumerate(("80%；", "60%", "80%；"))])
    assert dict(alone[0][0].payload.features) == {"治愈率": ("80%或60%",)}


def test_a_graph_that_forbids_derivatives_is_merged_with_none_but_itself():
    cpubmed = [(1, entity("哮喘", 症状="喘")), (2, entity("哮喘", 症状="咳"))]
    found = run(cpubmed, [(1, entity("哮喘", 症状="闷"))], [(1, entity("哮喘", 症状="痰"))], free=False)
    assert [lost and lost[1:] for _, lost in found] == [
        None, ("repeated", "into kg_cpubmed/f:1"), None, ("merged", "into kg_39health/f:1")
    ]  # fmt: skip
    assert found[0][0].payload.features == (("症状", ("喘", "咳")),)
    assert found[2][0].payload.origins == (("kg_39health", "kg_xywy"),)
