"""Preference pairs as 05 and 08 learn from them: which held-out ones are apart from training, and what is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib.runs import Stage
from qilin_lib.tokens import corpus, store
from qilin_lib.tokens.store import Store
from qilin_lib.tokens.template import Message, Template
from qilin_lib.train import fit

SIDES = ("chosen", "rejected")


def inputs(stage: Stage) -> dict[str, Path]:
    """What a training on ChiMed-DPO reads: the weights that it starts from, the pairs, and their tokens from 02."""
    data, tokens = stage.parent("01_build_chimed") / "dpo.jsonl", corpus.folder(stage.parent("02_tokenize"), "dpo")
    return {"weights": fit.start_of(stage), "data": data, "store": tokens}


def encoded(
    messages: list[Message], template: Template, tokenizer: Any, parameters: Any, opened: bool = False
) -> list[int]:
    """Token ids of a conversation, long turns cut inside; up to the opening of an answer if `opened`."""
    limits = (parameters.max_source_length, parameters.max_target_length)
    return template.encode_with_labels(messages, tokenizer, *limits, add_generation_prompt=opened)[0]


def heldout(paths: Any, tokenizer: Any) -> tuple[Store, int]:
    """(the held-out rows whose rejected answer is that of no training pair, how many others there are): one canned
    sentence stands under several questions, and to rank an answer last that was trained down is no merit."""
    rejected = lambda row: row["rejected"][-1]["content"].tobytes()  # noqa: E731
    trained = {rejected(row) for row in store.rows(paths, tokenizer, split="train")}
    held = store.rows(paths, tokenizer, split="heldout")
    apart = np.array([rejected(row) in trained for row in held], dtype=bool)
    held.numbers = held.numbers[~apart]
    return held, int(apart.sum())


def training(
    job: Any, tokenizer: Any, pair: Callable[..., dict[str, Sequence[int]]]
) -> tuple[list[Any], dict[str, int]]:
    """(each training row as `pair` tokenises it, {pairs, answers_cut, pairs_alike}: answers of more than
    `max_target_length` tokens, and pairs that are equal where they were cut)."""
    rows, parameters = store.rows(job.paths, tokenizer, split="train"), job.parameters
    made = []
    for row in rows:
        own = pair(row, job.template, tokenizer, parameters)
        # Four bytes a token, a tenth of what a list takes.
        made.append({name: np.array(ids, dtype=np.int32) for name, ids in own.items()})
    answers = (turn["content"] for row in rows for side in SIDES for turn in row[side])
    return made, {
        "pairs": len(made),
        "answers_cut": sum(len(content) > parameters.max_target_length for content in answers),
        "pairs_alike": sum(np.array_equal(one["chosen_ids"], one["rejected_ids"]) for one in made),
    }
