"""Huatuo-26M question-answer files.

The folders huatuo_encyclopedia_qa, huatuo_knowledge_graph_qa, and the test set in its two layouts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qilin_lib.chimed.readers.decode import field_text, json_reader, leaves, required
from qilin_lib.chimed.readers.turns import question_and_answer
from qilin_lib.chimed.records import Dialogue


def huatuo_pair(row: Any) -> Dialogue:
    """{"questions": [[q, q', …]] | [q] | q, "answers": [a] | a} or {instruction: [q], output: [a]}.

    The first wording is the question, further ones are its `wordings`.
    """
    names = ("questions", "instruction")
    first, *others = next((leaves(row[name]) for name in names if isinstance(row, dict) and name in row), []) or [""]
    asked = required({names[0]: first} if others else row, *names)
    pair = question_and_answer(asked, required(row, "answers", "output"))
    return replace(pair, wordings=tuple(filter(None, map(field_text, others))))


huatuo = json_reader(huatuo_pair)
