"""03: domain continued pre-training, next-token prediction on packed blocks (paper §3.1.2, §4.2)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.models.examine import context
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.shapes import shape
from qilin_lib.progress import live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens.pack import Blocks, load_blocks
from qilin_lib.tokens.template import IGNORE
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import running_text, saving
from qilin_lib.train.heldout import documents, label_count, measured
from qilin_lib.train.methods import METHODS

# Tokens of a held-out document that are scored, where the model's context is longer.
CONTEXT = 2048


def train(stage: Stage) -> dict[str, Any]:
    """Pre-train what the stage starts from on ChiMed-CPT in a child process; returns its facts."""
    tokens, more = stage.parent("02_tokenize"), {}
    weights = shared.start_of(stage)
    if stage.parameters.instructions_as_text:
        stage.begin(live_line())
        more = {"instructions": running_text.prepare(stage, weights)}
    return jobs.train_stage(
        stage,
        METHODS["dcpt"],
        {
            "weights": weights,
            "blocks": tokens / "cpt_train.npy",
            "medical": tokens / "cpt_heldout.jsonl",
            "general": tokens / "general_heldout.jsonl",
            **more,
        },
    )


def make_trainer(job: SimpleNamespace, model: Any, blocks: Blocks) -> Any:
    """transformers' Trainer on packed blocks (`fit.causal_trainer`)."""
    # Naive blocks are one text each.
    packed = any((positions[1:] == 0).any() for positions in blocks.positions)
    return shared.causal_trainer(job, model, learnable(blocks), partial(stack, blocks=blocks), packed)


def work(job: SimpleNamespace) -> None:
    """The child's part: train; facts.json last."""
    job.turns = False
    blocks, more = load_blocks(job.paths.blocks), getattr(job.paths, "instructions", None)
    if more:
        blocks = running_text.joined(blocks, load_blocks(more))
    # Stops at the first that has a loss; the trainer looks through all of them.
    if any((labels[1:] != IGNORE).any() for labels in blocks.labels):
        model, _ = shared.prepare_model(job.parameters, job.paths.weights)
        trainer = make_trainer(job, model, blocks)
        facts, first = shared.fit(trainer, job, job.paths.weights), trainer.is_world_process_zero()
    else:
        first = os.environ.get("RANK", "0") == "0"
        facts = unchanged(job) if first else {}
    if first:
        said = {"instructions": files.read_json(more.with_suffix(".json"))} if more else {}
        files.write_json(job.out / "facts.json", facts | said)


def unchanged(job: SimpleNamespace) -> dict[str, Any]:
    """What is left where no source feeds CPT: the base model as it is, for SFT to start from; returns the facts."""
    load_model(job.paths.weights, job.parameters.dtype).save_pretrained(job.out / "model")
    saving.save_tokenizer(job, job.paths.weights, job.out / "model")
    files.write_text(job.out / "log.jsonl", "")
    return {
        "note": "no document to learn from: the base model, unchanged",
        "steps_planned": 0,
        "steps_done": 0,
        "train_loss": None,
        "finetuning": "none",
        **job.template.described,
    }


def score(job: SimpleNamespace) -> None:
    """heldout.json: per-document log-likelihoods, {"medical"|"general": {tokens, chars, before, after, ...}}.

    `tokens` are the scored ones (no first token; the end counts), `chars` the characters that they complete, so that
    likelihoods per character compare between tokenizers. Documents are cut at the context's length.
    """
    tokenizer = load_tokenizer(job.paths.weights)
    limit = min(context(shape(job.paths.weights)) or CONTEXT, CONTEXT)
    result: dict[str, Any] = {}
    sequences = {}
    for kind, path in (("medical", job.paths.medical), ("general", job.paths.general)):
        texts = [row["text"] for row in files.read_jsonl(path)][: job.parameters.max_heldout]
        sequences[kind] = documents(texts, tokenizer, limit)
        result[kind] = {
            "tokens": [label_count(labels) for _, labels in sequences[kind]],
            "chars": scored_characters(texts, tokenizer, limit),
        }
    files.write_json(job.out / "heldout.json", measured(job, sequences, result))


def scored_characters(texts: list[str], tokenizer: Any, max_length: int) -> list[int]:
    """Characters of each text that tokens 2 to `max_length` complete: those of the first token are never predicted. A
    character spelled in several byte tokens counts with the last of them."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return [
        _completed(text, spans, max_length) - _completed(text, spans, 1)
        for text, spans in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def _completed(text: str, spans: list[tuple[int, int]], count: int) -> int:
    """Characters that the first `count` tokens spell to their end; `spans` are the (start, end) of all tokens."""
    if count >= len(spans):
        return len(text)
    # The next token starts inside the last one's span if both spell a part of the same character.
    return min(spans[count][0], spans[count - 1][1])


def learnable(blocks: Blocks) -> list[int]:
    """Numbers of the packed blocks that have a loss: the mean over no token at all is NaN."""
    # Some rows at a time: a comparison of all takes a byte a token.
    some = (blocks.labels[start : start + 1024, 1:] for start in range(0, len(blocks.labels), 1024))
    return np.flatnonzero([own for rows in some for own in (rows != IGNORE).any(axis=1)]).tolist()


def stack(numbers: Sequence[int], blocks: Blocks) -> dict[str, Any]:
    """Batch of the blocks of these numbers; positions that restart keep attention inside a document."""
    import torch

    parts = {"input_ids": blocks.ids, "position_ids": blocks.positions, "labels": blocks.labels}
    return {name: torch.from_numpy(part[numbers].astype(np.int64)) for name, part in parts.items()}
