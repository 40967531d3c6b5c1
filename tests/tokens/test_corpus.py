"""From ChiMed's files to blocks: what is drawn, what is left out, and that both are counted."""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.vocabularies import beginning

from qilin_lib import files
from qilin_lib.tokens.corpus import SETS, draw, lengths, mixed, replay, replayable, tokenise
from qilin_lib.tokens.pack import load_blocks, pack
from qilin_lib.tokens.store import Store, write

LENGTHS = np.array([i % 7 + 1 for i in range(40)])


def settings(**changes: Any) -> SimpleNamespace:
    values = {"max_cpt_tokens": None, "seed": 5, "block_size": 32, "packing": "isolated", "base": "tiny"}
    return SimpleNamespace(**{**values, "replay_share": 0.0, **changes})


@pytest.fixture
def chimed(tmp_path: Path, sentences: Callable) -> Path:
    def rows(count: int, sources: int, seed: int) -> list[dict[str, Any]]:
        return [
            {"id": f"{seed}-{i}", "source": f"s{i % sources}", "text": text, "split": ["train", "heldout"][i % 5 == 0]}
            for i, text in enumerate(sentences(count, seed))
        ]

    for name in SETS:
        some = rows(10, 1, 7) if name == "general" else rows(30, 2, 6)[: 30 if name == "cpt" else 10]
        files.write_jsonl(tmp_path / "chimed" / f"{name}.jsonl", some)
    (tmp_path / "out").mkdir()
    return tmp_path / "chimed"


@pytest.mark.parametrize("limit", [1, 2, 10, 57, 100, 10_000])
def test_draw_stops_before_the_limit(limit: int) -> None:
    """Ends count as tokens; the document that was not drawn would have gone beyond the limit."""
    drawn, everything = draw(LENGTHS, limit, 1).tolist(), draw(LENGTHS, None, 1).tolist()
    assert sorted(everything) == list(range(40)) != everything != draw(LENGTHS, None, 2).tolist()
    assert drawn == everything[: len(drawn)]
    assert sum(LENGTHS[drawn] + 1) <= limit
    if len(drawn) < len(everything):
        assert sum(LENGTHS[everything[: len(drawn) + 1]] + 1) > limit


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


@pytest.mark.parametrize("packing", ["isolated", "naive"])
def test_a_document_begins_as_the_tokenizer_begins_a_text(packing: str, chimed: Path, tiny_tokenizer: Any) -> None:
    """Llama 3, Mistral and Gemma never saw a text without their first token; after it a text's own first is learned."""
    out, tokenizer = chimed.parent / "out", beginning(tiny_tokenizer)
    blocks = tokenise(chimed, out, tokenizer, settings(packing=packing))
    note, bos, eos = files.read_json(out / "packing.json"), tokenizer.bos_token_id, tokenizer.eos_token_id
    stream = blocks.ids.ravel()[: note["tokens"] + 2 * note["documents"]]
    ends = np.flatnonzero(stream == eos)
    assert stream[0] == bos and stream[-1] == eos and (stream[ends[:-1] + 1] == bos).all()
    assert len(ends) == (blocks.ids == bos).sum() == note["documents"] == 24
    rows, columns = np.nonzero((blocks.ids == bos)[:, :-1])
    assert (blocks.labels[rows, columns + 1] == blocks.ids[rows, columns + 1]).all()
    assert note["tokens_with_loss"] == blocks.useful_tokens


def test_tokenise_writes_heldout_rows_counts_and_the_same_blocks_again(chimed: Path, tiny_tokenizer: Any) -> None:
    out = chimed.parent / "out"
    first = tokenise(chimed, out, tiny_tokenizer, settings())
    held = list(files.read_jsonl(out / "cpt_heldout.jsonl"))
    assert len(held) == 6 and {row["split"] for row in held} == {"heldout"}
    assert len(list(files.read_jsonl(out / "general_heldout.jsonl"))) == 2
    counts = files.read_json(out / "token_counts.json")
    assert counts["tokenizer"] == f"tiny ({len(tiny_tokenizer)} tokens)"
    assert sum(entry["samples"] for entry in counts["cpt"].values()) == 30
    assert {source: len(values) for source, values in lengths(out).items()} == {"s0": 15, "s1": 15}
    assert (load_blocks(out / "cpt_train.npy").ids == first.ids).all()
    before = files.sha256_file(out / "cpt_train.npy")
    tokenise(chimed, out, tiny_tokenizer, settings())
    assert files.sha256_file(out / "cpt_train.npy") == before
    tokenise(chimed, out, tiny_tokenizer, settings(seed=6))
    assert files.sha256_file(out / "cpt_train.npy") != before


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(chimed: Path, tiny_tokenizer: Any, sentences: Callable) -> None:
    """A third of what the text takes as Python strings, and of its ids in four bytes each."""
    texts = ["".join(sentences(400, seed)) for seed in range(250)]
    rows = [{"id": f"s-{i}", "source": "s", "text": text, "split": "train"} for i, text in enumerate(texts)]
    files.write_jsonl(chimed / "cpt.jsonl", rows)
    size = sum(map(sys.getsizeof, texts))
    del texts, rows
    tracemalloc.start()
    tokenise(chimed, chimed.parent / "out", tiny_tokenizer, settings(block_size=1024))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 10_000_000 and peak < size


# --- replay of general text -------------------------------------------------------------------------------------------


def packed_documents(blocks: Any, eos: int) -> list[list[int]]:
    """The documents in packed blocks, in their order; what follows the last end is padding."""
    documents: list[list[int]] = [[]]
    for token in blocks.ids.ravel().tolist():
        if token == eos:
            documents.append([])
        else:
            documents[-1].append(token)
    return documents[:-1]


def ids_of(chimed: Path, name: str, split: str, tokenizer: Any) -> list[list[int]]:
    rows = [row for row in files.read_jsonl(chimed / f"{name}.jsonl") if row["split"] == split]
    return [tokenizer.encode(row["text"], add_special_tokens=False) for row in rows]


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5])
@pytest.mark.parametrize("medical", [1, 40, 90])
def test_replay_takes_whole_documents_until_the_share_is_reached(share: float, medical: int) -> None:
    kept, everything = (replay(LENGTHS, tokens, share, 1).tolist() for tokens in (medical, 10**6))
    assert kept == everything[: len(kept)] and sorted(everything) == list(range(40))
    tokens = LENGTHS[kept] + 1
    assert sum(tokens) >= share * (medical + sum(tokens)) - 1e-9
    assert sum(tokens[:-1]) < share * (medical + sum(tokens[:-1]))


def test_mixed_keeps_all_and_spreads_the_general_ones(sentences: Callable, tiny_tokenizer: Any, tmp_path: Path) -> None:
    for n in (100, 20):
        files.write_jsonl(tmp_path / f"{n}.jsonl", [{"text": text} for text in sentences(n, n)])
        write(tmp_path / f"{n}.jsonl", tmp_path / str(n), tiny_tokenizer)
    stores = [Store(tmp_path / "100"), Store(tmp_path / "20")]
    rows = (np.arange(100), np.arange(20)[::-1])
    known = {row["text"].tobytes(): (own, place) for own in (0, 1) for place, row in enumerate(stores[own])}
    both, again, other = ([known[ids.tobytes()] for ids in mixed(stores, rows, seed)] for seed in (3, 3, 4))
    assert len(known) == 120 and sorted(both) == sorted(known.values()) and both == again != other
    places = [place for place, (own, _) in enumerate(both) if own]
    assert min(places) < 40 and max(places) > 80
    alone = [known[ids.tobytes()] for ids in mixed(stores, (rows[0], rows[1][:0]), 3)]
    assert alone == [(0, place) for place in range(100)]


def test_without_replay_the_blocks_are_those_of_the_medical_documents(chimed: Path, tiny_tokenizer: Any) -> None:
    out = chimed.parent / "out"
    tokenise(chimed, out, tiny_tokenizer, settings())
    training = ids_of(chimed, "cpt", "train", tiny_tokenizer)
    documents = [training[place] for place in draw(np.array(list(map(len, training))), None, 5)]
    pack(documents, 32, tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id).save(out / "expected.npy")
    assert (out / "cpt_train.npy").read_bytes() == (out / "expected.npy").read_bytes()
    note = files.read_json(out / "packing.json")
    assert note["general_documents"] == note["general_tokens"] == note["replay_share_reached"] == 0


@pytest.mark.parametrize("share, limit", [(0.1, None), (0.4, 300)])
def test_replay_goes_into_the_blocks_and_is_counted(
    share: float, limit: int | None, chimed: Path, tiny_tokenizer: Any
) -> None:
    out = chimed.parent / "out"
    blocks = tokenise(chimed, out, tiny_tokenizer, settings(replay_share=share, max_cpt_tokens=limit))
    note = files.read_json(out / "packing.json")
    medical, general = (ids_of(chimed, name, "train", tiny_tokenizer) for name in ("cpt", "general"))
    packed = packed_documents(blocks, tiny_tokenizer.eos_token_id)
    of_general = [document for document in packed if document in general]
    drawn = draw(np.array(list(map(len, medical))), limit, 5)
    assert sorted(d for d in packed if d not in general) == sorted(medical[place] for place in drawn)
    assert 0 < len(of_general) < 8 and len({tuple(d) for d in of_general}) == len(of_general)
    assert (note["medical_documents"], note["general_documents"]) == (len(packed) - len(of_general), len(of_general))
    assert note["documents"] == len(packed) and note["tokens"] == note["medical_tokens"] + note["general_tokens"]
    assert note["general_tokens"] == sum(map(len, of_general))
    reached = (note["general_tokens"] + len(of_general)) / (note["tokens"] + len(packed))
    assert note["replay_share"] == share <= reached == pytest.approx(note["replay_share_reached"], abs=1e-4)
    assert note["documents"] - note["general_documents"] + note["documents_left_out"] == 24


def test_nothing_that_any_set_holds_out_is_replayed(chimed: Path, tiny_tokenizer: Any) -> None:
    """Shares of the sets differ: 7-1 is held out of SFT by its id, 7-2 out of DPO by its text."""
    general = list(files.read_jsonl(chimed / "general.jsonl"))
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    held = {"source": "g", "split": "heldout"}
    files.write_jsonl(chimed / "sft.jsonl", [{"id": "7-1", **held, "messages": turns}])
    files.write_jsonl(chimed / "dpo.jsonl", [{"id": "x", **held, "text": general[2]["text"]}])
    blocks = tokenise(chimed, chimed.parent / "out", tiny_tokenizer, settings(replay_share=0.9))
    assert replayable(chimed, chimed.parent / "out").tolist() == [3, 4, 6, 7, 8, 9]
    packed = packed_documents(blocks, tiny_tokenizer.eos_token_id)
    texts = [general[i]["text"] for i in (0, 1, 2, 5)]
    texts += [row["text"] for row in files.read_jsonl(chimed / "cpt.jsonl") if row["split"] == "heldout"]
    assert not [text for text in texts if tiny_tokenizer.encode(text, add_special_tokens=False) in packed]
