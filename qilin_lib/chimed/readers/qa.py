"""Huatuo-26M question-answer files.

The folders huatuo_encyclopedia_qa, huatuo_knowledge_graph_qa, and the test set in its two layouts.
"""

from __future__ import annotations

from typing import Any

from qilin_lib.chimed.readers.decode import json_reader, required
from qilin_lib.chimed.readers.turns import question_and_answer
from qilin_lib.chimed.records import Dialogue


def huatuo_pair(row: Any) -> Dialogue:
    """{"questions": [[q, q', …]] | [q] | q, "answers": [a] | a} or {instruction: [q], output: [a]}.

    The first wording counts.
    """
    return question_and_answer(required(row, "questions", "instruction"), required(row, "answers", "output"))


huatuo = json_reader(huatuo_pair)
