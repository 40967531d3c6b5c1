"""Preference pairs as 05 and 08 learn from them: which held-out ones are apart from training, and what is cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError
from qilin_lib.runs import Stage
from qilin_lib.tokens import corpus, store
from qilin_lib.tokens.store import Store
from qilin_lib.tokens.template import Message, Template
from qilin_lib.train import fit

SIDES = ("chosen", "rejected")
Pair = dict[str, Sequence[int]]
# row, template, tokenizer, parameters
Tokenise = Callable[..., Pair]


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


def too_long(made: Pair, limit: float) -> bool:
    """Whether a prompt with the longer of its answers has more than `limit` tokens: turns are cut, not counted."""
    return len(made.get("prompt_ids", ())) + max(len(made[f"{side}_ids"]) for side in SIDES) > limit


def heldout(job: Any, tokenizer: Any, pair: Tokenise) -> tuple[Store, dict[str, int]]:
    """(held-out rows, {pairs_heldout, ..._apart, ..._too_long}) without the rows whose rejected answer is that of a
    training pair (one canned sentence stands under several questions, and to rank an answer last that was trained down
    is no merit), and without those that the model cannot read whole."""
    rejected = lambda row: row["rejected"][-1]["content"].tobytes()  # noqa: E731
    trained = {rejected(row) for row in store.rows(job.paths, tokenizer, split="train")}
    held, limit = store.rows(job.paths, tokenizer, split="heldout"), fit.reads(job.paths.weights)
    apart = np.array([rejected(row) in trained for row in held], dtype=bool)
    held.numbers = held.numbers[~apart]
    long = np.array([too_long(pair(row, job.template, tokenizer, job.parameters), limit) for row in held], dtype=bool)
    held.numbers = held.numbers[~long]
    counts = {"pairs_heldout_apart": int(apart.sum()), "pairs_heldout_too_long": int(long.sum())}
    return held, {"pairs_heldout": len(held)} | counts


def training(job: Any, tokenizer: Any, pair: Tokenise) -> tuple[list[Pair], dict[str, int]]:
    """(each training row as `pair` tokenises it, {pairs, pairs_too_long, answers_cut, pairs_alike}: rows that the model
    cannot read whole, answers of more than `max_target_length` tokens, and pairs that are equal where they were cut).
    QilinError if none is left."""
    rows, parameters = store.rows(job.paths, tokenizer, split="train"), job.parameters
    limit = fit.reads(job.paths.weights)
    made, answers_cut = [], 0
    for row in rows:
        own = pair(row, job.template, tokenizer, parameters)
        if too_long(own, limit):
            continue
        answers = (turn["content"] for side in SIDES for turn in row[side])
        answers_cut += sum(len(content) > parameters.max_target_length for content in answers)
        # Four bytes a token, a tenth of what a list takes.
        made.append({name: np.array(ids, dtype=np.int32) for name, ids in own.items()})
    counts = {
        "pairs": len(made),
        "pairs_too_long": len(rows) - len(made),
        "answers_cut": answers_cut,
        "pairs_alike": sum(np.array_equal(one["chosen_ids"], one["rejected_ids"]) for one in made),
    }
    if not made:
        raise QilinError(f"{job.paths.data}: no pair to train on that a context of {limit} tokens holds; {counts}")
    return made, counts
