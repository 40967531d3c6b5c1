"""SFT's conversations as running text among DCPT's documents: PediatricsGPT's hybrid instruction pre-training
(arXiv 2405.19266; its code for it is not public, so the form is ours: as 01 writes a conversation that feeds CPT)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens import corpus, pack, store
from qilin_lib.tokens.pack import Blocks
from qilin_lib.train.one_stage import spellings

NAME = "instructions"


def drawn(rows: list[dict[str, Any]], held: set[str], share: float, seed: int) -> list[dict[str, str]]:
    """{id, text} of a seeded `share` of the training conversations, in their order, without the ids in `held`."""
    usable = [row for row in rows if row["split"] == "train" and row["id"] not in held]
    numbers = random.Random(f"{seed} {NAME}").sample(range(len(usable)), round(share * len(usable)))
    made = []
    for row in (usable[number] for number in sorted(numbers)):
        plain, named = spellings(row["messages"])
        made.append({"id": row["id"], "text": plain if len(row["messages"]) < 3 else named})
    return made


def prepare(stage: Stage, weights: Path) -> Path:
    """The packed blocks of the stage's conversations, in its own folder; what they are stands beside them."""
    tokens, target = stage.parent("02_tokenize"), stage.dir / f"{NAME}.npy"
    if target.exists():
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
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    length = corpus.stream_length(own.lengths())
    form = (how["block_size"], eos, eos if pad is None else pad, how["packing"])
    useful = pack.write(target, (row["text"] for row in own), length, *form)
    said = {"conversations": len(chosen), "of": len(rows), "tokens": length - len(chosen), "tokens_with_loss": useful}
    files.write_json(target.with_suffix(".json"), said)
    return target


@dataclass(frozen=True)
class Both:
    """The rows of two arrays, one after the other, read where they lie."""

    first: np.ndarray
    second: np.ndarray

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self.first
        yield from self.second

    def __getitem__(self, which: Any) -> np.ndarray:
        which, columns = which if isinstance(which, tuple) else (which, slice(None))
        numbers = np.arange(len(self))[which]
        rows = [self.first[n] if n < len(self.first) else self.second[n - len(self.first)] for n in numbers]
        return np.array(rows).reshape(len(numbers), self.first.shape[1])[:, columns]


def joined(blocks: Blocks, more: Blocks) -> Blocks:
    """The blocks of both; they share no block, and the trainer shuffles them all."""
    pairs = zip(vars(blocks).values(), vars(more).values(), strict=True)
    return Blocks(*(Both(*pair) for pair in pairs))
