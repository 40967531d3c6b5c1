"""Payloads as lines of the four sets, and disease entities as text and questions."""

from __future__ import annotations

from qilin_lib.chimed import aggregate
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Preference

ASTHMA = Disease("哮喘", (("病因", ("过敏。",)), ("症状", ("喘", "咳")), ("检查", ("肺功能",))))


def test_exam_prompt_is_the_evaluation_prompt():
    exam = Exam("题", (("A", "甲"), ("B", "乙")), "AB", "因为")
    assert compose("sft", exam) == {
        "messages": [
            {"role": "user", "content": "题\nA 甲\nB 乙"},
            {"role": "assistant", "content": "答案：AB。\n解释：因为"},
        ]
    }
    assert compose("cpt", exam) == {"text": "题\nA 甲\nB 乙\n答案：AB。\n解释：因为"}
    assert compose("sft", Exam("题", exam.options, "A", ""))["messages"][1]["content"] == "答案：A。"


def test_conversations_end_with_the_assistant():
    roles = [message["role"] for message in compose("sft", Dialogue(("问", "答", "再问")))["messages"]]
    assert roles == ["user", "assistant"]


def test_dialogue_as_text_names_speakers_only_when_there_are_many_turns():
    assert compose("cpt", Dialogue(("问", "答"))) == {"text": "问\n答"}
    assert (
        compose("cpt", Dialogue(("问", "答", "再问", "再答")))["text"] == "患者：问\n医生：答\n患者：再问\n医生：再答"
    )
    assert compose("general", Dialogue(("问", "答", "再问", "再答")))["text"] == "问\n答\n再问\n再答"


def test_triplet():
    line = compose("dpo", Preference(("问",), "好", "坏"))
    assert line == {
        "prompt": [{"role": "user", "content": "问"}],
        "chosen": [{"role": "assistant", "content": "好"}],
        "rejected": [{"role": "assistant", "content": "坏"}],
    }


def test_what_a_payload_cannot_be_is_none():
    assert compose("sft", Passage("", "文")) is None and compose("dpo", Dialogue(("问", "答"))) is None


def test_disease_text_and_questions():
    assert aggregate.text(ASTHMA) == "哮喘\n检查：肺功能"
    assert aggregate.questions(ASTHMA) == [("哮喘的病因是什么？", "过敏。"), ("哮喘有哪些症状？", "喘、咳。")]
    text = compose("cpt", ASTHMA)["text"]
    assert text.startswith(aggregate.text(ASTHMA)) and text.endswith("哮喘有哪些症状？喘、咳。")
    assert text.count("过敏") == 1, "a feature is said once: as a line, or as an answer"


def test_no_drug_stands_twice_in_an_answer():
    both = Disease("哮喘", (("常用药物", ("甲片", "乙片")), ("推荐药物", ("乙片", "丙片", "甲片"))))
    assert aggregate.questions(both) == [("哮喘一般用什么药？", "甲片、乙片、丙片。")]


def test_sentences_are_joined_as_sentences():
    both = Disease("哮喘", (("简介", ("气道有炎症。", "反复发作。")), ("病因", ("过敏引起。", "敏；", "尘螨"))))
    assert aggregate.text(both) == "哮喘\n简介：气道有炎症。反复发作。"
    assert aggregate.questions(both) == [("哮喘的病因是什么？", "过敏引起。敏；尘螨。")]


def test_triples_per_disease_in_order():
    triples = [("哮喘", "症状", "喘"), ("痛风", "病因", "尿酸"), ("哮喘", "检查", "肺功能"), ("哮喘", "症状", "喘")]
    assert list(aggregate.from_triples(triples).values()) == [
        Disease("哮喘", (("症状", ("喘",)), ("检查", ("肺功能",)))),
        Disease("痛风", (("病因", ("尿酸",)),)),
    ]
