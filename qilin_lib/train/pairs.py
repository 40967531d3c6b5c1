"""Preference pairs as 05 and 08 learn from them: which held-out ones are apart from training, and what is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from qilin_lib.tokens import store
from qilin_lib.tokens.store import Store

SIDES = ("chosen", "rejected")


def heldout(paths: Any, tokenizer: Any) -> tuple[Store, int]:
    """(the held-out rows whose rejected answer is that of no training pair, how many others there are).

    Rejected answers repeat: many are one canned sentence under several questions. 01 holds a pair out by its own text
    alone, so that it does not change when others come or go; to rank an answer last that was trained down is no merit,
    so such pairs are set apart here, where pairs are read.
    """
    trained = {_rejected(row) for row in store.rows(paths, tokenizer, split="train")}
    held = store.rows(paths, tokenizer, split="heldout")
    apart = np.array([_rejected(row) in trained for row in held], dtype=bool)
    held.numbers = held.numbers[~apart]
    return held, int(apart.sum())


def _rejected(row: Mapping[str, Any]) -> bytes:
    return row["rejected"][-1]["content"].tobytes()


def compact(pair: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """The same pair in four bytes a token, a tenth of what a list takes."""
    return {name: np.array(ids, dtype=np.int32) for name, ids in pair.items()}


def facts(rows: Iterable[Mapping[str, Any]], pairs: Sequence[Mapping[str, Any]], limit: int) -> dict[str, int]:
    """{pairs, answers_cut, pairs_alike} of training rows and their tokenised pairs: answers of more than `limit`
    tokens, and pairs that are equal where they were cut. Those teach nothing, but they count, as everywhere in TRL."""
    answers = (turn["content"] for row in rows for side in SIDES for turn in row[side])
    return {
        "pairs": len(pairs),
        "answers_cut": sum(len(content) > limit for content in answers),
        "pairs_alike": sum(np.array_equal(one["chosen_ids"], one["rejected_ids"]) for one in pairs),
    }
