"""From ChiMed's files to what DCPT reads: packed blocks, held-out documents, token counts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from itertools import tee
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.runs import Stage
from qilin_lib.tokens.pack import Blocks, load_blocks, pack
from qilin_lib.tokens.statistics import count_tokens, encoded, text_of

Ids = Sequence[int]
SETS = ("cpt", "sft", "dpo", "general")


def tokenise(chimed: Path, out: Path, tokenizer: Any, parameters: Any) -> Blocks:
    """Write cpt_train.npy, cpt_heldout.jsonl, general_heldout.jsonl, token_counts.json and packing.json into `out`.

    With `max_cpt_tokens`, whole medical documents are drawn with `seed` until the next would exceed it. `replay_share`
    (against forgetting: 01-ai/Yi#406, hiyouga/LlamaFactory#2526) adds general documents on top, so it does not count
    against `max_cpt_tokens`. packing.json says what was packed, what was left out and which share was reached.
    """
    rows = list(files.read_jsonl(chimed / "cpt.jsonl"))
    for name, source in (("cpt", rows), ("general", files.read_jsonl(chimed / "general.jsonl"))):
        files.write_jsonl(out / f"{name}_heldout.jsonl", (row for row in source if row["split"] == "heldout"))
    training = list(encoded((row["text"] for row in rows if row["split"] == "train"), tokenizer))
    medical, general = draw(training, parameters.max_cpt_tokens, parameters.seed), []
    if parameters.replay_share:
        texts = list(encoded(replayable(chimed), tokenizer))
        general = replay(texts, stream_length(medical), parameters.replay_share, parameters.seed)
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    documents = mix(medical, general, parameters.seed)
    blocks = pack(documents, parameters.block_size, eos, eos if pad is None else pad, parameters.packing)
    blocks.save(out / "cpt_train.npy")
    counts = {name: count_tokens(files.read_jsonl(chimed / f"{name}.jsonl"), tokenizer) for name in SETS}
    files.write_json(out / "token_counts.json", {**counts, "tokenizer": tokenizer_name(tokenizer, parameters.base)})
    files.write_json(out / "packing.json", {
        "packing": parameters.packing, "block_size": parameters.block_size, "blocks": len(blocks.ids),
        "documents": len(documents), "documents_left_out": len(training) - len(medical),
        "tokens": sum(map(len, documents)), "tokens_left_out": sum(map(len, training)) - sum(map(len, medical)),
        "tokens_with_loss": blocks.useful_tokens,
        "medical_documents": len(medical), "medical_tokens": sum(map(len, medical)),
        "general_documents": len(general), "general_tokens": sum(map(len, general)),
        "replay_share": parameters.replay_share,
        "replay_share_reached": round(stream_length(general) / max(1, stream_length(documents)), 4),
    })  # fmt: skip
    return blocks


def prepare(stage: Stage, tokenizer: Any) -> Blocks:
    """The packed blocks of a run: tokenised from 01's sets unless they are there."""
    stage.begin()
    if not stage.up_to_date:
        return tokenise(stage.parent("01_build_chimed"), stage.dir, tokenizer, stage.parameters)
    return load_tokens(stage.dir)


def load_tokens(out: Path) -> Blocks:
    """The packed blocks that `tokenise` wrote."""
    return load_blocks(out / "cpt_train.npy")


def draw(documents: list[Ids], limit: int | None, seed: int) -> list[Ids]:
    """Documents in a seeded order, until the next would take the sum of tokens above `limit` (None = all)."""
    order = random.Random(f"{seed} documents").sample(range(len(documents)), len(documents))
    kept, total = [], 0
    for index in order:
        total += len(documents[index]) + 1
        if limit is not None and total > limit:
            break
        kept.append(documents[index])
    return kept


def replayable(chimed: Path) -> list[str]:
    """Texts of general.jsonl for training; what any set holds out, by id or by text, is none of them.

    The sets have held-out shares of their own, so a general record may be training text here and held out of SFT.
    """
    ids, texts = set(), set()
    for name in SETS:
        held = [row for row in files.read_jsonl(chimed / f"{name}.jsonl") if row["split"] == "heldout"]
        ids |= {row["id"] for row in held}
        texts |= {text_of(row) for row in held}
    rows = (row for row in files.read_jsonl(chimed / "general.jsonl") if row["split"] == "train")
    return [row["text"] for row in rows if row["id"] not in ids and row["text"] not in texts]


def replay(documents: list[Ids], medical_tokens: int, share: float, seed: int) -> list[Ids]:
    """Documents in a seeded order, whole, until they are `share` (0 <= share < 1) of all tokens, ends included.

    The last one may go beyond; if all together are too few, all are taken, and none twice.
    """
    wanted = medical_tokens * share / (1 - share)
    kept: list[Ids] = []
    total = 0
    for index in random.Random(f"{seed} replay").sample(range(len(documents)), len(documents)):
        if total >= wanted:
            break
        kept.append(documents[index])
        total += len(documents[index]) + 1
    return kept


def mix(medical: list[Ids], general: list[Ids], seed: int) -> list[Ids]:
    """Both in one seeded order; without general documents the order of the medical ones stays as it is."""
    if not general:
        return medical
    both = medical + general
    return random.Random(f"{seed} mix").sample(both, len(both))


def stream_length(documents: list[Ids]) -> int:
    """Tokens that documents take in the packed stream: their own and one end each."""
    return sum(map(len, documents)) + len(documents)


def lengths(rows: Iterable[dict[str, Any]], tokenizer: Any) -> dict[str, list[int]]:
    """{source: tokens of each row}, for a histogram against block_size."""
    result: dict[str, list[int]] = {}
    first, second = tee(rows)
    for row, ids in zip(first, encoded((row["text"] for row in second), tokenizer), strict=True):
        result.setdefault(row["source"], []).append(len(ids))
    return result


def tokenizer_name(tokenizer: Any, base: str) -> str:
    """How a tokenizer is named under Tables 1-3."""
    return f"{base} ({len(tokenizer):,} tokens)"
