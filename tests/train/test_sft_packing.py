"""Packing changes nothing but the time: each conversation's logits, each step's loss, the weights after training."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN, IGNORE
from qilin_lib.train import fit
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.methods import sft


@pytest.fixture(scope="module")
def conversations(sentences: Callable, tiny_tokenizer: Any) -> list[sft.Example]:
    """Twenty-four conversations of one to three turns and very different lengths, the longest 300 tokens at most."""
    texts, draw = iter(sentences(400, 21)), random.Random(3)
    made = []
    for _ in range(24):
        messages = [
            {"role": role, "content": next(texts)} for _ in range(draw.choice([1, 1, 1, 2, 3])) for role in ROLES
        ]
        made.append(BAICHUAN.encode_with_labels(messages, tiny_tokenizer, 40, 40))
    assert max(len(ids) for ids, _ in made) > 3 * min(len(ids) for ids, _ in made)
    return made


ROLES = ("user", "assistant")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir).eval()


def batch(examples: list[sft.Example], packing: bool = True, max_length: int = 300) -> dict[str, Any]:
    return sft.collate(examples, pad_id=0, max_length=max_length, packing=packing)


def test_liger_gets_all_positions_and_the_same_loss(
    model: Any, conversations: list[sft.Example], training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Its forward pass indexes states by the second dimension alone: a choice of positions per row would not fit."""
    import torch
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments.use_liger_kernel = True
    rows = fit.headed(model, training("04_sft"), arguments, batch)
    given, usual = rows(conversations[:5]), batch(conversations[:5])
    assert given.keys() == {"input_ids", "position_ids", "labels"}
    with torch.no_grad():
        assert model(**given).loss.item() == pytest.approx(model(**usual).loss.item(), abs=1e-5)


def test_naive_rows_are_as_they_come_and_let_conversations_see_each_other(
    model: Any, conversations: list[sft.Example]
) -> None:
    import torch

    some = conversations[:7]
    naive = sft.collate(some, pad_id=0, max_length=300, packing="naive")
    first = naive["input_ids"][0].tolist()
    joined = [token for ids, _ in some for token in ids]
    filled = len(list(naive["input_ids"][0].nonzero()))
    assert first[: filled // 2] == joined[: filled // 2], "in their order"
    assert naive["position_ids"][0].tolist() == list(range(len(first)))
    rows = sft.bins.in_order([len(ids) for ids, _ in some], 300)
    assert [i for row in rows for i in row] == list(range(7))
    with torch.no_grad():
        logits = model(input_ids=naive["input_ids"], position_ids=naive["position_ids"]).logits
        start, end = len(some[0][0]), len(some[0][0]) + len(some[1][0])
        alone = model(input_ids=torch.tensor([some[1][0]])).logits
    assert not torch.allclose(logits[0, start:end], alone[0], atol=1e-3)
    apart = sft.collate(some, pad_id=0, max_length=300, packing=True)
    assert (naive["labels"] != IGNORE).sum() == (apart["labels"] != IGNORE).sum()


def trained(
    packing: bool, examples: list[sft.Example], parameters: SimpleNamespace, weights: Path, out: Path
) -> tuple[list[float], list[Any], list[int]]:
    """Loss and gradient norm of every step, weights after the last, and the rows of each micro-batch."""
    parameters.packing = packing
    job = SimpleNamespace(parameters=parameters, out=out)
    model, tokenizer = prepare_model(parameters, weights)
    trainer = sft.make_trainer(job, model, tokenizer, examples)
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: rows.append(len(given["input_ids"])) or None, with_kwargs=True)
    trainer.train()
    steps = [row[name] for row in trainer.state.log_history if "loss" in row for name in ("loss", "grad_norm")]
    return steps, [weight.detach() for weight in model.parameters() if weight.requires_grad], rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"finetuning": "full", "learning_rate": 1e-4},
        {"finetuning": "full", "learning_rate": 1e-4, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=["lora", "lora-accumulated", "full", "full-accumulated", "lora-checkpointing-head"],
)
def test_packed_training_is_unpacked_training(
    changed: dict[str, Any], conversations: list[sft.Example], training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    runs = []
    for packing in (False, True):
        parameters = training(
            "04_sft", **{"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant"} | changed
        )
        parameters.max_length = 300
        runs.append(trained(packing, conversations, parameters, tiny_model_dir, tmp_path))
    (steps, weights, rows), (packed_steps, packed_weights, packed_rows) = runs
    assert len(steps) == 8 and packed_steps == pytest.approx(steps, rel=1e-4, abs=1e-5)
    assert max((a - b).abs().max().item() for a, b in zip(weights, packed_weights, strict=True)) < 2e-5
    micro = 4 * changed.get("gradient_accumulation_steps", 1)
    assert rows == [4] * micro and len(packed_rows) == micro and sum(packed_rows) < 3 * micro
