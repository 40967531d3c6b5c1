"""From ChiMed's files to what is trained on: token stores of all sets, DCPT's packed blocks, token counts."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.runs import Stage
from qilin_lib.tokens import pack, store
from qilin_lib.tokens.pack import Blocks, load_blocks
from qilin_lib.tokens.store import Store
from qilin_lib.tokens.template import text_begin

SETS = ("cpt", "sft", "dpo", "general")
# The sets that DCPT packs documents of.
PACKED = ("cpt", "general")
BLOCKS = "cpt_train.npy"


def tokenise(chimed: Path, out: Path, tokenizer: Any, parameters: Any) -> Blocks:
    """Tokenise ChiMed's sets, each text once, and pack the documents of DCPT; memory does not grow with the sets.

    Writes into `out`: tokens/<set>/ (`store`), cpt_train.npy, cpt_documents.npy and general_documents.npy (`drawn`),
    cpt_heldout.jsonl, general_heldout.jsonl, token_counts.json and packing.json, which says what was packed, what was
    left out and which share was reached.
    """
    counts = {name: store.write(chimed / f"{name}.jsonl", folder(out, name), tokenizer) for name in SETS}
    named = {"tokenizer": f"{parameters.base} ({len(tokenizer):,} tokens)"}
    files.write_json(out / "token_counts.json", counts | named)
    stores, rows = [Store(folder(out, name)) for name in PACKED], drawn(chimed, out, parameters)
    for name, numbers in zip(PACKED, rows, strict=True):
        held = Store(folder(out, name), split="heldout").numbers
        files.write_jsonl(out / f"{name}_heldout.jsonl", store.lines(chimed / f"{name}.jsonl", held))
        with files.atomic(out / f"{name}_documents.npy", binary=True) as handle:
            np.save(handle, numbers)
    sizes = [own.lengths()[numbers] for own, numbers in zip(stores, rows, strict=True)]
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    begin = text_begin(tokenizer)
    how = (parameters.block_size, eos, eos if pad is None else pad, parameters.packing, begin)
    length = sum(stream_length(some, begin) for some in sizes)
    useful = pack.write(out / BLOCKS, mixed(stores, rows, parameters.seed), length, *how)
    training, (medical, general) = Store(stores[0].folder, split="train").lengths(), sizes
    note = {
        "packing": parameters.packing,
        "block_size": parameters.block_size,
        "blocks": -(-length // parameters.block_size),
        "documents": len(medical) + len(general),
        "documents_left_out": len(training) - len(medical),
        "tokens": int(medical.sum() + general.sum()),
        "tokens_left_out": int(training.sum() - medical.sum()),
        "tokens_with_loss": useful,
        "medical_documents": len(medical),
        "medical_tokens": int(medical.sum()),
        "general_documents": len(general),
        "general_tokens": int(general.sum()),
        "replay_share": parameters.replay_share,
        "replay_share_reached": round(stream_length(general, begin) / max(1, length), 4),
    } | ({"begin": begin} if begin else {})
    files.write_json(out / "packing.json", note)
    return load_blocks(out / BLOCKS)


def prepare(stage: Stage, tokenizer: Any) -> Blocks:
    """The packed blocks of a run: tokenised from 01's sets unless they are there."""
    stage.begin()
    if not stage.up_to_date:
        return tokenise(stage.parent("01_build_chimed"), stage.dir, tokenizer, stage.parameters)
    return load_blocks(stage.dir / BLOCKS)


def folder(out: Path, name: str) -> Path:
    """The token store of a set below 02's folder `out`."""
    return out / "tokens" / name


def drawn(chimed: Path, out: Path, parameters: Any) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows of cpt.jsonl and of general.jsonl that are packed, each in the order of its draw.

    With `max_cpt_tokens`, whole medical documents are drawn with `seed` until the next would exceed it. `replay_share`
    (against forgetting: 01-ai/Yi#406, hiyouga/LlamaFactory#2526) adds general documents on top, so it does not count
    against `max_cpt_tokens`.
    """
    cpt = Store(folder(out, "cpt"), split="train")
    taken = draw(cpt.lengths(), parameters.max_cpt_tokens, parameters.seed)
    general = np.empty(0, np.int64)
    if parameters.replay_share:
        usable, tokens = replayable(chimed, out), stream_length(cpt.lengths()[taken])
        sizes = Store(folder(out, "general")).lengths()[usable]
        general = usable[replay(sizes, tokens, parameters.replay_share, parameters.seed)]
    return cpt.numbers[taken], general


def draw(lengths: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Places of documents of so many tokens in a seeded order, until the next would take the sum above `limit` (None =
    all). An end counts as a token."""
    order = _shuffled(len(lengths), f"{seed} documents")
    return order if limit is None else order[: np.searchsorted(np.cumsum(lengths[order] + 1), limit, side="right")]


def replayable(chimed: Path, out: Path) -> np.ndarray:
    """Numbers of the rows of general.jsonl for training; what any set holds out, by id or by text, is none of them.

    The sets have held-out shares of their own, so a general record may be training text here and held out of SFT.
    """
    held: set[bytes] = set()
    for name in SETS:
        for row in store.lines(chimed / f"{name}.jsonl", Store(folder(out, name), split="heldout").numbers):
            held |= _marks(row)
    numbers = Store(folder(out, "general"), split="train").numbers
    rows = store.lines(chimed / "general.jsonl", numbers)
    return numbers[[held.isdisjoint(_marks(row)) for row in rows]]


def _marks(row: dict[str, Any]) -> set[bytes]:
    """Digests of a row's id and of its text, all turns of it."""
    text = "\n".join(text for *_, text in store.contents(row))
    marks = (f"id {row['id']}", f"text {text}")
    return {hashlib.blake2b(mark.encode(), digest_size=16).digest() for mark in marks}


def replay(lengths: np.ndarray, medical_tokens: int, share: float, seed: int) -> np.ndarray:
    """Places of documents in a seeded order, whole, until they are `share` (0 <= share < 1) of all tokens, ends
    included.

    The last one may go beyond; if all together are too few, all are taken, and none twice.
    """
    order = _shuffled(len(lengths), f"{seed} replay")
    before = np.cumsum(lengths[order] + 1) - (lengths[order] + 1)
    return order[: np.searchsorted(before, medical_tokens * share / (1 - share), side="left")]


def mixed(stores: list[Store], rows: tuple[np.ndarray, np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """The documents of both sets in one seeded order; without general ones that of the medical ones stays as it is."""
    medical, general = rows
    count = len(medical) + len(general)
    order = _shuffled(count, f"{seed} mix") if len(general) else np.arange(count)
    second = order >= len(medical)
    numbers = medical[order[~second]], general[order[second] - len(medical)]
    sets = [own.documents(some) for own, some in zip(stores, numbers, strict=True)]
    return (next(sets[which]) for which in map(int, second))


def _shuffled(count: int, seed: str) -> np.ndarray:
    return np.array(random.Random(seed).sample(range(count), count), dtype=np.int64)


def stream_length(lengths: np.ndarray, begin: Sequence[int] = ()) -> int:
    """Tokens that documents take in the packed stream: their own, `begin` and one end each."""
    return int(lengths.sum()) + len(lengths) * (len(begin) + 1)


def lengths(out: Path) -> dict[str, np.ndarray]:
    """{source: tokens of each document of ChiMed-CPT}, for a histogram against block_size; `out` is 02's folder."""
    own = Store(folder(out, "cpt"))
    sources, sizes = own.sources(), own.lengths()
    return {source: sizes[sources == source] for source in own.names["source"]}
