from __future__ import annotations

import json
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from qilin_lib.evaluate.benchmarks.cmexam import split_reply
from qilin_lib.evaluate.extraction import extract_letters

FIXTURE = json.loads(Path(__file__).with_name("extraction_cases.json").read_text(encoding="utf-8"))
SETS, CASES = FIXTURE["sets"], FIXTURE["cases"]


def right(case: dict) -> bool:
    return extract_letters(case["text"], SETS[case["options"]], case["multiple"]) == case["gold"]


def share(cases: list[dict]) -> float:
    return sum(map(right, cases)) / len(cases)


def test_at_least_98_percent_of_the_labelled_outputs_are_read_right():
    wrong = [(case["id"], case["text"], case["gold"]) for case in CASES if not right(case)]
    assert len(CASES) >= 300 and share(CASES) >= 0.98, wrong


def test_the_outputs_never_tuned_on_are_read_right_too():
    held_out = [case for case in CASES if case["held_out"]]
    assert len(held_out) >= 50 and share(held_out) >= 0.93


@pytest.mark.parametrize("note", sorted({case["note"] for case in CASES}))
def test_every_output_that_was_tuned_on_stays_right(note: str):
    tuned = [case for case in CASES if case["note"] == note and not case["held_out"]]
    assert len(tuned) >= 5 and [case["text"] for case in tuned if not right(case)] == []


def test_no_answer_is_guessed_where_there_is_none():
    refused = [case for case in CASES if case["gold"] is None]
    guessed = [case["text"] for case in refused if not right(case)]
    assert len(refused) >= 100 and len(guessed) <= 0.01 * len(refused), guessed


def test_the_labelled_outputs_are_distinct_and_of_every_kind():
    keys = Counter((case["options"], case["multiple"], case["text"]) for case in CASES)
    assert max(keys.values()) == 1 and len({case["id"] for case in CASES}) == len(CASES)
    assert all(set(case["gold"] or "") <= set(SETS[case["options"]]) for case in CASES)
    notes = Counter(case["note"] for case in CASES)
    named = "ct dna b_ultrasound vitamin choose list fullwidth refusal several option_text correction judged"
    assert set(notes) >= {*named.split(), "english", "markup", "next_question", "explained", "echo", "none", "plain"}
    texts = [case["text"] for case in CASES]
    for said in ("CT检查", "DNA", "B超", "维生素A", "选A和C", "答案：A、B、E"):
        assert sum(said in text for text in texts) >= 1, said
    assert sum(bool(re.search("[Ａ-Ｚ]", text)) for text in texts) >= 8
    assert sum(len(case["gold"] or "") > 1 for case in CASES) >= 60


@pytest.mark.parametrize(
    ("text", "expected"),
    [("①A", "A"), ("Ⅱ型糖尿病", None), ("答案：Ｃ\u3000", "C"), ("答案:\u200bC", "C"), ("\ufeffＡ", "A")],
)
def test_characters_that_look_otherwise_or_are_not_seen(text: str, expected: str | None):
    assert extract_letters(text, SETS["chest"], False) == expected


@pytest.mark.parametrize(
    "text", ["选" * 20_000, "答案：" * 5_000, "A、" * 10_000, "(" * 50_000, "A对" * 5_000, "\n1." * 5_000]
)
def test_a_reply_that_repeats_itself_is_read_in_a_moment(text: str):
    start = time.perf_counter()
    extract_letters(text, SETS["chest"], True)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("reply", "answer", "explanation"),
    [
        ("C。\n解释：肺实变时叩诊浊音。", "C。", "肺实变时叩诊浊音。"),
        ("C。\n 解释: 略", "C。", "略"),
        ("C\n因为语颤增强。", "C\n因为语颤增强。", "因为语颤增强。"),
        ("C。因为语颤增强。", "C。因为语颤增强。", "因为语颤增强。"),
        ("C\n\n题目：下列哪项\n答案：D", "C", ""),
        ("C\nHuman: 下一题", "C", ""),
        ("C", "C", ""),
        ("", "", ""),
    ],
)
def test_split_reply(reply: str, answer: str, explanation: str):
    assert split_reply(reply, forced=True) == (answer, explanation)
