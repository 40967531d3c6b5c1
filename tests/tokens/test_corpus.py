"""From ChiMed's files to blocks: what is drawn, what is left out, and that both are counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.tokens.corpus import SETS, draw, lengths, load_tokens, tokenise

DOCUMENTS = [[i] * (i % 7 + 1) for i in range(40)]


def settings(**changes: Any) -> SimpleNamespace:
    values = {"max_cpt_tokens": None, "seed": 5, "block_size": 32, "packing": "isolated", "base": "tiny"}
    return SimpleNamespace(**{**values, **changes})


@pytest.fixture
def chimed(tmp_path: Path, sentences: Callable) -> Path:
    rows = [
        {"source": f"s{i % 2}", "text": text, "split": "heldout" if i % 5 == 0 else "train"}
        for i, text in enumerate(sentences(30, 6))
    ]
    for name in SETS:
        files.write_jsonl(tmp_path / "chimed" / f"{name}.jsonl", rows if name == "cpt" else rows[:10])
    (tmp_path / "out").mkdir()
    return tmp_path / "chimed"


def test_draw_without_limit_is_a_seeded_order_of_everything() -> None:
    drawn = draw(DOCUMENTS, None, 1)
    assert sorted(drawn) == sorted(DOCUMENTS) and drawn != DOCUMENTS
    assert drawn == draw(DOCUMENTS, None, 1) != draw(DOCUMENTS, None, 2)


@pytest.mark.parametrize("limit", [1, 2, 10, 57, 100, 10_000])
def test_draw_stops_before_the_limit(limit: int) -> None:
    """Ends count as tokens; the document that was not drawn would have gone beyond the limit."""
    drawn, everything = draw(DOCUMENTS, limit, 1), draw(DOCUMENTS, None, 1)
    assert drawn == everything[: len(drawn)]
    assert sum(len(document) + 1 for document in drawn) <= limit
    if len(drawn) < len(everything):
        assert sum(len(document) + 1 for document in everything[: len(drawn) + 1]) > limit


@pytest.mark.parametrize("limit, packing", [(None, "isolated"), (None, "naive"), (300, "isolated"), (1, "isolated")])
def test_what_is_packed_and_what_is_left_out_add_up(
    limit: int | None, packing: str, chimed: Path, tiny_tokenizer: Any
) -> None:
    out = chimed.parent / "out"
    blocks = tokenise(chimed, out, tiny_tokenizer, settings(max_cpt_tokens=limit, packing=packing))
    note = files.read_json(out / "packing.json")
    training = [row["text"] for row in files.read_jsonl(chimed / "cpt.jsonl") if row["split"] == "train"]
    total = sum(len(tiny_tokenizer.encode(text, add_special_tokens=False)) for text in training)
    assert note["documents"] + note["documents_left_out"] == len(training) == 24
    assert note["tokens"] + note["tokens_left_out"] == total
    assert note["blocks"] == len(blocks.ids) == -(-(note["tokens"] + note["documents"]) // 32)
    assert (blocks.ids == tiny_tokenizer.eos_token_id).sum() == note["documents"]
    assert note["tokens_with_loss"] == blocks.useful_tokens
    assert (note["documents_left_out"] > 0) == (limit is not None)
    if limit:
        assert note["tokens"] + note["documents"] <= limit


def test_tokenise_writes_heldout_rows_counts_and_the_same_blocks_again(chimed: Path, tiny_tokenizer: Any) -> None:
    out = chimed.parent / "out"
    first = tokenise(chimed, out, tiny_tokenizer, settings())
    held = list(files.read_jsonl(out / "cpt_heldout.jsonl"))
    assert len(held) == 6 and {row["split"] for row in held} == {"heldout"}
    assert len(list(files.read_jsonl(out / "general_heldout.jsonl"))) == 2
    counts = files.read_json(out / "token_counts.json")
    assert counts["tokenizer"] == f"tiny ({len(tiny_tokenizer)} tokens)"
    assert sum(entry["samples"] for entry in counts["cpt"].values()) == 30
    assert (load_tokens(out).ids == first.ids).all()
    before = files.sha256_file(out / "cpt_train.npy")
    tokenise(chimed, out, tiny_tokenizer, settings())
    assert files.sha256_file(out / "cpt_train.npy") == before
    tokenise(chimed, out, tiny_tokenizer, settings(seed=6))
    assert files.sha256_file(out / "cpt_train.npy") != before


def test_documents_that_spell_an_end_token_do_not_end(chimed: Path, tiny_tokenizer: Any) -> None:
    out = chimed.parent / "out"
    files.write_jsonl(chimed / "cpt.jsonl", [{"source": "s", "text": "咳嗽</s>发热<pad>", "split": "train"}])
    blocks = tokenise(chimed, out, tiny_tokenizer, settings(block_size=64))
    assert (blocks.ids == tiny_tokenizer.eos_token_id).sum() == 1
    assert (blocks.labels == tiny_tokenizer.pad_token_id).sum() == 0


def test_lengths_by_source(chimed: Path, tiny_tokenizer: Any) -> None:
    rows = list(files.read_jsonl(chimed / "cpt.jsonl"))
    found = lengths(rows, tiny_tokenizer)
    assert {source: len(values) for source, values in found.items()} == {"s0": 15, "s1": 15}
    assert found["s0"][0] == len(tiny_tokenizer.encode(rows[0]["text"], add_special_tokens=False))
