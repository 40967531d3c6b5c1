from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_lib.evaluate.extraction import extract_letters, split_reply

FIXTURE = json.loads(Path(__file__).with_name("extraction_cases.json").read_text(encoding="utf-8"))
SETS, CASES = FIXTURE["sets"], [tuple(case) for case in FIXTURE["cases"]]


@pytest.mark.parametrize(("options", "multiple", "text", "expected"), CASES)
def test_labelled_outputs(options: str, multiple: bool, text: str, expected: str | None):
    assert extract_letters(text, SETS[options], multiple) == expected


def test_the_fixture_set_is_large_and_mixed():
    assert len(CASES) >= 80 and len(set(CASES)) == len(CASES)
    assert sum(expected is None for *_, expected in CASES) >= 25
    assert sum(len(expected or "") > 1 for *_, expected in CASES) >= 20


@pytest.mark.parametrize(
    ("reply", "answer", "explanation"),
    [
        ("C。\n解释：肺实变时叩诊浊音。", "C。", "肺实变时叩诊浊音。"),
        ("C。\n 解释: 略", "C。", "略"),
        ("C\n因为语颤增强。", "C\n因为语颤增强。", "因为语颤增强。"),
        ("C。因为语颤增强。", "C。因为语颤增强。", "因为语颤增强。"),
        ("C\n\n题目：下列哪项\n答案：D", "C", ""),
        ("C", "C", ""),
        ("", "", ""),
    ],
)
def test_split_reply(reply: str, answer: str, explanation: str):
    assert split_reply(reply) == (answer, explanation)
