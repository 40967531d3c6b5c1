"""03: domain continued pre-training, next-token prediction on packed blocks (paper §3.1.2, §4.2).

With `instructions_as_text` some of SFT's conversations stand among the documents as running text: PediatricsGPT's
hybrid instruction pre-training (arXiv 2405.19266; its code for it is not public, so the form is ours: as 01 writes a
conversation that feeds CPT).
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.progress import live_line
from qilin_lib.runs import Stage
from qilin_lib.tokens import corpus, pack, store
from qilin_lib.tokens.pack import Blocks, load_blocks
from qilin_lib.tokens.template import IGNORE, text_begin
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train.heldout import documents, label_count, measured
from qilin_lib.train.methods import METHODS
from qilin_lib.train.one_stage import spellings

# Tokens of a held-out document that are scored, where the model's context is longer.
CONTEXT = 2048


def train(stage: Stage) -> dict[str, Any]:
    """Pre-train what the stage starts from on ChiMed-CPT in a child process; returns its facts."""
    tokens, weights = stage.parent("02_tokenize"), shared.start_of(stage)
    paths = {"weights": weights, "blocks": tokens / "cpt_train.npy"}
    paths |= {"medical": tokens / "cpt_heldout.jsonl", "general": tokens / "general_heldout.jsonl"}
    if stage.parameters.instructions_as_text:
        stage.begin(live_line())
        paths["instructions"] = prepare(stage, weights)
    return jobs.train_stage(stage, METHODS["dcpt"], paths)


def make_trainer(job: SimpleNamespace, model: Any, *parts: Blocks) -> Any:
    """transformers' Trainer on packed blocks (`fit.causal_trainer`), those of all parts shuffled together."""
    # Naive blocks are one text each.
    packed = any((positions[1:] == 0).any() for blocks in parts for positions in blocks.positions)
    collate = lambda numbers: stack(numbers, *parts)  # noqa: E731
    return shared.causal_trainer(job, model, learnable(*parts), collate, packed)


def work(job: SimpleNamespace) -> None:
    """The child's part: train; facts.json last. Where no source feeds CPT the base model is left as it is, for SFT to
    start from."""
    job.turns = False
    parts, facts = [load_blocks(job.paths.blocks)], {}
    if more := getattr(job.paths, "instructions", None):
        parts.append(load_blocks(more))
        facts["instructions"] = files.read_json(more.with_suffix(".json"))
    if learnable(*parts):
        model, _ = shared.prepare_model(job.parameters, job.paths.weights)
        shared.fit(make_trainer(job, model, *parts), job, facts)
    elif os.environ.get("RANK", "0") == "0":
        load_model(job.paths.weights, job.parameters.dtype).save_pretrained(job.out / "model")
        shared.save_tokenizer(job, job.out / "model")
        files.write_text(job.out / "log.jsonl", "")
        unchanged = {
            "note": "no document to learn from: the base model, unchanged",
            "steps_planned": 0,
            "steps_done": 0,
            "train_loss": None,
            "finetuning": "none",
            **job.template.described,
        }
        files.write_json(job.out / "facts.json", unchanged | facts)


def score(job: SimpleNamespace) -> None:
    """heldout.json: per-document log-likelihoods, {"medical"|"general": {tokens, chars, before, after, ...}}.

    `tokens` are the scored ones (no first token; the end counts), `chars` the characters that they complete, so that
    likelihoods per character compare between tokenizers. Documents are cut at the context's length.
    """
    tokenizer = load_tokenizer(job.paths.weights)
    limit = min(shared.reads(job.paths.weights), CONTEXT)
    result: dict[str, Any] = {}
    sequences = {}
    for kind in ("medical", "general"):
        rows = files.read_jsonl(getattr(job.paths, kind))
        texts = [row["text"] for row in rows][: job.parameters.max_heldout]
        sequences[kind] = documents(texts, tokenizer, limit)
        result[kind] = {
            "tokens": [label_count(labels) for _, labels in sequences[kind]],
            "chars": scored_characters(texts, tokenizer, limit),
        }
    files.write_json(job.out / "heldout.json", measured(job, sequences, result))


def scored_characters(texts: list[str], tokenizer: Any, max_length: int) -> list[int]:
    """Characters of each text that tokens 2 to `max_length` of `heldout.documents` complete: those of the first token
    are never predicted. A character spelled in several byte tokens counts with the last of them."""
    if not texts:
        return []

    def completed(text: str, spans: list[tuple[int, int]], count: int) -> int:
        # The next token starts inside the last one's span if both spell a part of the same character.
        return len(text) if count >= len(spans) else min(spans[count][0], spans[count - 1][1])

    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    pairs = zip(texts, encoded["offset_mapping"], strict=True)
    begun = len(text_begin(tokenizer))
    return [completed(text, spans, max_length - begun) - completed(text, spans, 1 - begun) for text, spans in pairs]


def learnable(*parts: Blocks) -> list[int]:
    """Numbers of the packed blocks that have a loss: the mean over no token at all is NaN."""
    found: list[bool] = []
    for blocks in parts:
        # Some rows at a time: a comparison of all takes a byte a token.
        for start in range(0, len(blocks.labels), 1024):
            found += (blocks.labels[start : start + 1024, 1:] != IGNORE).any(axis=1).tolist()
    return np.flatnonzero(found).tolist()


def stack(numbers: Iterable[int], *parts: Blocks) -> dict[str, Any]:
    """Batch of the blocks of these numbers, which go on from part to part; positions that restart keep attention inside
    a document."""
    import torch

    ends = np.cumsum([len(blocks.ids) for blocks in parts])
    batch: dict[str, list[Any]] = {"input_ids": [], "position_ids": [], "labels": []}
    for number in numbers:
        part = int(np.searchsorted(ends, number, "right"))
        for rows, own in zip(batch.values(), vars(parts[part]).values(), strict=True):
            # Counted from the part's end.
            rows.append(own[number - ends[part]])
    return {name: torch.from_numpy(np.array(rows, dtype=np.int64)) for name, rows in batch.items()}


# --- conversations as running text ------------------------------------------------------------------------------------


def drawn(rows: list[dict[str, Any]], held: set[str], share: float, seed: int) -> list[dict[str, str]]:
    """{id, text} of a seeded `share` of the training conversations, in their order, without the ids in `held`."""
    usable = [row for row in rows if row["split"] == "train" and row["id"] not in held]
    numbers = random.Random(f"{seed} instructions").sample(range(len(usable)), round(share * len(usable)))
    some = [usable[number] for number in sorted(numbers)]
    # Of two turns plainly, of more with the speakers' names.
    return [{"id": row["id"], "text": spellings(row["messages"])[len(row["messages"]) > 2]} for row in some]


def prepare(stage: Stage, weights: Path) -> Path:
    """The packed blocks of the stage's conversations, in its own folder; what they are stands beside them."""
    tokens, target = stage.parent("02_tokenize"), stage.dir / "instructions.npy"
    # Written last.
    if target.with_suffix(".json").exists():
        return target
    held = {row["id"] for name in corpus.PACKED for row in files.read_jsonl(tokens / f"{name}_heldout.jsonl")}
    # DCPT alone reads no conversation, so the set is reached through what 02 stands on.
    rows = list(files.read_jsonl(stage.run.folder("01_build_chimed") / "sft.jsonl"))
    chosen = drawn(rows, held, stage.parameters.instructions_as_text, stage.parameters.seed)
    if not chosen:
        raise QilinError(
            f"instructions_as_text = {stage.parameters.instructions_as_text}: none of the {len(rows)} conversations of "
            "sft.jsonl is drawn; nearest valid: 0.0"
        )
    tokenizer, how = load_tokenizer(weights), files.read_json(tokens / "packing.json")
    own = store.temporary(chosen, tokenizer)
    eos, pad, begin = tokenizer.eos_token_id, tokenizer.pad_token_id, text_begin(tokenizer)
    length = corpus.stream_length(own.lengths(), begin)
    form = (how["block_size"], eos, eos if pad is None else pad, how["packing"], begin)
    useful = pack.write(target, (row["text"] for row in own), length, *form)
    said = {
        "conversations": len(chosen),
        "of": len(rows),
        "tokens": int(own.lengths().sum()),
        "tokens_with_loss": useful,
    }
    files.write_json(target.with_suffix(".json"), said)
    return target
