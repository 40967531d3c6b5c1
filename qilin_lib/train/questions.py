"""How much a doctor asks: which turns are questions, and conversations drawn to a share of them (BianQue's point).

BianQue's corpus and the definition of its measure of asking (PQA) are not public. A question here, by our definition,
is a turn whose last sentence ends in a question mark or holds an interrogative without an end of its own.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError

WORDS = re.compile("吗|么|呢|什么|怎么|怎样|如何|多久|多少|多大|几[天次个年岁点]|哪|是否|有没有|是不是|会不会|能不能")
MARKED = re.compile(r"[？?]\s*[”）)]?$")


def is_question(text: str) -> bool:
    """Whether a turn ends in a question."""
    text = text.strip()
    if MARKED.search(text):
        return True
    begin = 1 + max(text.rfind(mark) for mark in "。！；，,？?")
    return WORDS.search(text, begin) is not None


def counted(messages: Sequence[dict[str, str]]) -> tuple[int, int]:
    """(questions, turns) of the assistant."""
    turns = [turn["content"] for turn in messages if turn["role"] == "assistant"]
    return sum(map(is_question, turns)), len(turns)


def chosen(counts: np.ndarray, wanted: float, seed: int) -> np.ndarray:
    """Which conversations to keep so that a share `wanted` of their turns are questions, given `counted` of each, shape
    (n, 2); bool, shape (n,). Those that pull the share away are left out in a seeded order until it is reached."""
    kept = np.ones(len(counts), dtype=bool)
    asked, turns = counts.sum(axis=0).tolist()
    above = asked > wanted * turns
    pulls = np.greater if above else np.less
    pulling = np.flatnonzero(pulls(counts[:, 0], wanted * counts[:, 1])).tolist()
    for place in random.Random(f"{seed} questions").sample(pulling, len(pulling)):
        if (asked > wanted * turns) != above or asked == wanted * turns:
            break
        kept[place] = False
        asked, turns = asked - counts[place, 0], turns - counts[place, 1]
    return kept


def drawn(
    conversations: Sequence[Any], often: np.ndarray, wanted: float, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """(`often` with 0 for what is left out, facts: the share before and after) of a training set's conversations."""
    counts = np.array([counted(one) for one in conversations], dtype=int).reshape(-1, 2) * often[:, None]
    kept = chosen(counts, wanted, seed)
    result = often * kept
    sums = [rows.sum(axis=0).tolist() for rows in (counts, counts[kept])]
    if often.any() and not result.any():
        raise QilinError(
            f"question_share = {wanted}: among {sums[0][1]} turns {sums[0][0]} are questions, and no choice of "
            "conversations has that share; nearest valid: null"
        )
    before, after = (asked / turns if turns else None for asked, turns in sums)
    return result, {"wanted": wanted, "before": before, "after": after, "left_out": int((~kept).sum())}
