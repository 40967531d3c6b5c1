"""DCPT from packed blocks to a model that loads: full, LoRA and QLoRA; what is held out is scored to the character."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.trainings import job as job_of
from helpers.trainings import token_logprobs
from helpers.vocabularies import beginning

from qilin_lib import files
from qilin_lib.models.adapters import load_trained, trained
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.tokens.pack import pack
from qilin_lib.train import fit
from qilin_lib.train.heldout import documents
from qilin_lib.train.methods import dcpt

pytestmark = pytest.mark.slow

RATES = {"full": 0.003, "lora": 0.02, "qlora": 0.02}


@pytest.fixture(scope="module")
def inputs(sentences: Callable, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Packed blocks that `tiny_model_dir` has not seen, and held-out documents of both kinds."""
    folder = tmp_path_factory.mktemp("tokens")
    encoded = tiny_tokenizer(sentences(60, 21), add_special_tokens=False)["input_ids"]
    # Each phrase backwards: something new to learn, in known tokens.
    backwards = [ids[::-1] for ids in encoded]
    pack(backwards, 64, tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id).save(folder / "cpt_train.npy")
    for kind, seed in (("medical", 22), ("general", 23)):
        rows = [{"text": text, "split": "heldout"} for text in sentences(3, seed)]
        files.write_jsonl(folder / f"{kind}.jsonl", rows)
    return SimpleNamespace(
        blocks=folder / "cpt_train.npy", medical=folder / "medical.jsonl", general=folder / "general.jsonl"
    )


@pytest.mark.parametrize("kind", ["full", "lora", "qlora"])
def test_loss_falls_and_the_model_loads(
    kind: str, inputs: SimpleNamespace, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    import torch

    parameters = training("03_dcpt", finetuning=kind, learning_rate=RATES[kind], save_steps=100)
    job = job_of(parameters, tmp_path, tiny_model_dir, **vars(inputs))
    dcpt.work(job)
    dcpt.score(job)
    losses = [row["loss"] for row in fit.read_log(tmp_path) if "loss" in row]
    assert len(losses) == 6 and losses[-1] < losses[0] - 0.2
    facts, held = (files.read_json(tmp_path / name) for name in ("facts.json", "heldout.json"))
    assert facts["finetuning"] == kind and facts["steps_done"] == 6
    assert (tmp_path / "adapter").is_dir() == (kind != "full")
    assert set(held) == {"medical", "general"} and {"before", "after", "tokens", "chars"} <= set(held["medical"])
    assert ("unquantised_after" in held["medical"]) == (kind == "qlora")
    assert held["medical"]["before"] != held["medical"]["after"]
    # The saved model is the trained one: it still has the loss that training ended with.
    model, start = load_trained(trained(tmp_path), "float32")[0], load_model(tiny_model_dir)
    assert load_tokenizer(trained(tmp_path)).get_vocab() == load_tokenizer(tiny_model_dir).get_vocab()
    ids, positions, labels = (torch.from_numpy(part.astype(np.int64)) for part in np.load(inputs.blocks))
    with torch.no_grad():
        after, before = (m(input_ids=ids, position_ids=positions, labels=labels).loss.item() for m in (model, start))
    assert after < before - 0.2 and after == pytest.approx(losses[-1], abs=0.5)


# --- characters of the scored tokens ----------------------------------------------------------------------------------


def test_characters_of_whole_and_cut_documents(tiny_tokenizer: Any) -> None:
    """Counted by decoding: what tokens 2 to n spell; the end token spells nothing, nor does one that begins a text."""
    texts = ["患者咳嗽发热三天，头痛伴恶心。", "建议多喝水休息", "答", ""]
    for length, tokenizer in product((2, 3, 5, 8, 100), (tiny_tokenizer, beginning(tiny_tokenizer))):
        found = dcpt.scored_characters(texts, tokenizer, length)
        sequences = documents(texts, tokenizer, length)
        expected = [len(tokenizer.decode(ids[1:], skip_special_tokens=True)) for ids, _ in sequences]
        assert found == expected, length
        assert [ids[0] for ids, _ in sequences[:3]] == [tokenizer.encode(text)[0] for text in texts[:3]]
    whole = dcpt.scored_characters(texts, tiny_tokenizer, 100)
    assert whole[0] > 5 and whole[2:] == [0, 0]
    assert sum(dcpt.scored_characters(texts, tiny_tokenizer, 3)) < sum(whole)


def test_a_character_of_several_tokens_counts_with_its_last(tiny_tokenizer: Any) -> None:
    """𠮷 and 龘 are not in the vocabulary: four and three byte tokens."""
    text = "水𠮷龘水"
    pieces = tiny_tokenizer.convert_ids_to_tokens(tiny_tokenizer.encode(text, add_special_tokens=False))
    assert [piece.startswith("<0x") for piece in pieces] == [False] + [True] * 7 + [False]
    counts = [dcpt.scored_characters([text], tiny_tokenizer, length)[0] for length in range(1, 11)]
    assert counts == [0, 0, 0, 0, 1, 1, 1, 2, 3, 3]
    # A first token that spells a part of a character leaves that character to the tokens after it.
    assert [dcpt.scored_characters(["𠮷水"], tiny_tokenizer, length)[0] for length in range(1, 7)] == [0, 0, 0, 1, 2, 2]


def test_heldout_counts_what_the_context_lets_through(
    inputs: SimpleNamespace, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    """The model reads 512 tokens; a longer document has the likelihood and the characters of those."""

    text = "患者咳嗽发热三天，头痛伴恶心。" * 200
    files.write_jsonl(tmp_path / "long.jsonl", [{"text": text, "split": "heldout"}])
    load_model(tiny_model_dir).save_pretrained(tmp_path / "model")
    paths = SimpleNamespace(weights=tiny_model_dir, medical=tmp_path / "long.jsonl", general=inputs.general)
    dcpt.score(SimpleNamespace(parameters=training("03_dcpt"), out=tmp_path, paths=paths))
    found = files.read_json(tmp_path / "heldout.json")["medical"]
    tokenizer = load_tokenizer(tiny_model_dir)
    ids = tokenizer.encode(text, add_special_tokens=False)[:512]
    expected = token_logprobs(load_model(tiny_model_dir).eval(), ids).sum().item()
    assert found["tokens"] == [511] and found["chars"] == [len(tokenizer.decode(ids[1:]))]
    assert found["chars"][0] < len(text)
    assert found["before"] == pytest.approx([expected], rel=1e-4) and found["after"] == found["before"]


# --- nothing to learn from, nothing held out --------------------------------------------------------------------------


def test_a_block_without_a_loss_is_no_step(
    inputs: SimpleNamespace, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    """The last block can hold one end token and padding: the mean over no token is NaN, and so are all weights then."""
    import torch

    blocks = pack([[7] * 63, [8] * 63, [9] * 64], 64, 3, 0)
    assert [int((row != -100).sum()) for row in blocks.labels] == [63, 63, 63, 0]
    blocks.save(tmp_path / "blocks.npy")
    none = tmp_path / "none.jsonl"
    files.write_jsonl(none, [])
    parameters = training("03_dcpt", max_steps=-1, per_device_train_batch_size=1)
    job = job_of(parameters, tmp_path, tiny_model_dir, blocks=tmp_path / "blocks.npy", medical=none, general=none)
    dcpt.work(job)
    dcpt.score(job)
    assert [row["step"] for row in fit.read_log(tmp_path) if row.get("loss")] == [1, 2, 3]
    weights = load_trained(tmp_path / "adapter", "float32")[0].state_dict().values()
    assert all(bool(torch.isfinite(weight).all()) for weight in weights)
    held = files.read_json(tmp_path / "heldout.json")
    assert held["medical"] == held["general"] == {"tokens": [], "chars": [], "before": [], "after": []}


@pytest.mark.parametrize(("steps", "logged", "rows"), [(3, 5, [3]), (6, 5, [5, 6]), (6, 3, [3, 6])])
def test_the_last_step_is_always_logged(
    steps: int, logged: int, rows: list[int], inputs: SimpleNamespace, tiny_model_dir: Path, training: Callable,
    tmp_path: Path,
) -> None:  # fmt: skip
    parameters = training("03_dcpt", max_steps=steps, logging_steps=logged)
    job = job_of(parameters, tmp_path, tiny_model_dir, **vars(inputs))
    dcpt.work(job)
    log = fit.read_log(tmp_path)
    assert [row["step"] for row in log] == rows
    spans = np.diff([0, *rows])
    mean = sum(row["loss"] * span for row, span in zip(log, spans, strict=True)) / steps
    assert files.read_json(tmp_path / "facts.json")["train_loss"] == pytest.approx(mean, abs=1e-4)
