"""From ChiMed's files to what DCPT reads: packed blocks, held-out documents, token counts."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.tokens.pack import Blocks, load_blocks, pack
from qilin_lib.tokens.statistics import count_tokens
from qilin_lib.tokens.template import text_ids

SETS = ("cpt", "sft", "dpo", "general")


def tokenise(chimed: Path, out: Path, tokenizer: Any, parameters: Any) -> Blocks:
    """Write cpt_train.npy, cpt_heldout.jsonl, general_heldout.jsonl, token_counts.json and packing.json into `out`.

    With `max_cpt_tokens`, whole documents are drawn with `seed` until the next would exceed it; packing.json says how
    many were left out.
    """
    rows = list(files.read_jsonl(chimed / "cpt.jsonl"))
    for name, source in (("cpt", rows), ("general", files.read_jsonl(chimed / "general.jsonl"))):
        files.write_jsonl(out / f"{name}_heldout.jsonl", (row for row in source if row["split"] == "heldout"))
    training = [row["text"] for row in rows if row["split"] == "train"]
    encoded = tokenizer(training, add_special_tokens=False, split_special_tokens=True)["input_ids"] if training else []
    drawn = draw(encoded, parameters.max_cpt_tokens, parameters.seed)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    blocks = pack(drawn, parameters.block_size, eos, eos if pad is None else pad, parameters.packing)
    blocks.save(out / "cpt_train.npy")
    counts = {name: count_tokens(files.read_jsonl(chimed / f"{name}.jsonl"), tokenizer) for name in SETS}
    files.write_json(out / "token_counts.json", {**counts, "tokenizer": tokenizer_name(tokenizer, parameters.base)})
    files.write_json(out / "packing.json", {
        "packing": parameters.packing, "block_size": parameters.block_size, "blocks": len(blocks.ids),
        "documents": len(drawn), "documents_left_out": len(encoded) - len(drawn), "tokens": sum(map(len, drawn)),
        "tokens_left_out": sum(map(len, encoded)) - sum(map(len, drawn)), "tokens_with_loss": blocks.useful_tokens,
    })  # fmt: skip
    return blocks


def load_tokens(out: Path) -> Blocks:
    """The packed blocks that `tokenise` wrote."""
    return load_blocks(out / "cpt_train.npy")


def draw(documents: list[list[int]], limit: int | None, seed: int) -> list[list[int]]:
    """Documents in a seeded order, until the next would take the sum of tokens above `limit` (None = all)."""
    order = random.Random(f"{seed} documents").sample(range(len(documents)), len(documents))
    kept, total = [], 0
    for index in order:
        total += len(documents[index]) + 1
        if limit is not None and total > limit:
            break
        kept.append(documents[index])
    return kept


def lengths(rows: Iterable[dict[str, Any]], tokenizer: Any) -> dict[str, list[int]]:
    """{source: tokens of each row}, for a histogram against block_size."""
    result: dict[str, list[int]] = {}
    for row in rows:
        result.setdefault(row["source"], []).append(len(text_ids(tokenizer, row["text"])))
    return result


def tokenizer_name(tokenizer: Any, base: str) -> str:
    """How a tokenizer is named under Tables 1-3."""
    return f"{base} ({len(tokenizer):,} tokens)"
