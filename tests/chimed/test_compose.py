"""Payloads as lines of the four sets, and disease entities as text and questions."""

from __future__ import annotations

import pytest

from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage

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
        ("sft", Passage("", "文"), None),
        ("dpo", Dialogue(FOUR[:2]), None),
    ],
)
def test_a_line(name, payload, line):
    key = {"sft": "messages"}.get(name, "text")
    assert compose(name, payload) == (None if line is None else {key: line})


@pytest.mark.parametrize(
    "features, text, questions",
    [
        ((("常用药物", ("甲片", "乙片")), ("推荐药物", ("乙片", "丙片", "甲片"))), "哮喘",
         [("哮喘一般用什么药？", "甲片、乙片、丙片。")]),
        ((("简介", ("气道有炎症。", "反复发作。")), ("病因", ("过敏引起。", "敏；", "尘螨"))),
         "哮喘\n简介：气道有炎症。反复发作。", [("哮喘的病因是什么？", "过敏引起。敏；尘螨。")]),
    ],
)  # fmt: skip
def test_sentences_are_joined_as_sentences_and_nothing_stands_twice(features, text, questions):
    entity = Disease("哮喘", features)
    assert (compose("cpt", entity)["text"]) == "\n".join([text, *map("".join, questions)])
