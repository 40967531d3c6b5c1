"""Prefix tuning: what is trained, stored, loaded and asked is one model, in batches and with shared prompts too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.models import merge
from qilin_lib.models.adapters import describe, load_to_answer, load_trained, weights_sha256
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit
from qilin_lib.train.methods import sft

pytestmark = pytest.mark.slow
TOKENS = 6


@pytest.fixture(scope="module")
def examples(tiny_tokenizer: Any, sentences: Callable) -> list[Any]:
    texts = sentences(24, 9)
    pairs = [
        [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        for a, b in zip(texts[:12], texts[12:], strict=True)
    ]
    limits = SimpleNamespace(max_source_length=64, max_target_length=64, max_length=160)
    return [sft.encode(pair, BAICHUAN, tiny_tokenizer, limits) for pair in pairs]


@pytest.fixture
def tuned(training: Callable, tiny_model_dir: Path, examples: list, tmp_path: Path) -> tuple[Any, Path, list[float]]:
    """(the model as it was trained, its folder, losses of the training)."""
    parameters = training("04_sft", packing=False, max_steps=30, learning_rate=5e-2, lr_scheduler_type="constant")
    vars(parameters).update(finetuning="prefix", prefix_tokens=TOKENS)
    job = SimpleNamespace(parameters=parameters, out=tmp_path, template=BAICHUAN)
    model, tokenizer = fit.prepare_model(parameters, tiny_model_dir)
    trainer = sft.make_trainer(job, model, tokenizer, examples)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    model.save_pretrained(tmp_path / "adapter")
    tokenizer.save_pretrained(tmp_path / "adapter")
    describe(tmp_path / "adapter", tiny_model_dir, False, "float32", BAICHUAN.sha256)
    return model.eval(), tmp_path / "adapter", losses


def test_the_prefix_alone_learns(tuned: tuple, tiny_model_dir: Path) -> None:
    model, _, losses = tuned
    learned = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("prompt_encoder" in name for name in learned) and learned
    # An epoch has three steps.
    first, last = (sum(part) / 3 for part in (losses[:3], losses[-3:]))
    assert last < first - 0.05, (first, last)
    before = dict(load_model(tiny_model_dir).named_parameters())
    for name, weight in model.get_base_model().named_parameters():
        assert (weight == before[name]).all()


@pytest.mark.parametrize(
    "load", [lambda folder: load_trained(folder, "float32")[0], lambda f: load_to_answer(f, "float32")]
)
def test_what_is_loaded_is_what_was_trained(load: Callable, tuned: tuple, examples: list, tiny_model_dir: Path) -> None:
    import torch

    model, folder, _ = tuned
    loaded = load(folder)
    ids = torch.tensor([examples[0][0]])
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        places = torch.arange(ids.shape[1])[None]
        assert (loaded(input_ids=ids, use_cache=False).logits - expected).abs().max() < 1e-4
        assert (loaded(input_ids=ids, position_ids=places, use_cache=False).logits - expected).abs().max() < 1e-4
        mask = torch.ones_like(ids)
        assert (loaded(input_ids=ids, attention_mask=mask, use_cache=False).logits - expected).abs().max() < 1e-4
        assert (load_model(tiny_model_dir)(input_ids=ids).logits - expected).abs().max() > 0.1


def test_a_shared_beginning_is_read_once(tuned: tuple, examples: list, tiny_tokenizer: Any) -> None:
    """06 keeps the keys and values of few-shot examples: they stand behind the prefix."""
    import torch
    from transformers import DynamicCache

    model, folder, _ = tuned
    loaded, ids = load_to_answer(folder, "float32"), examples[0][0]
    cache = DynamicCache()
    with torch.no_grad():
        loaded(input_ids=torch.tensor([ids[:5]]), past_key_values=cache, use_cache=True)
        assert cache.get_seq_length() == TOKENS + 5
        rest = loaded(input_ids=torch.tensor([ids[5:]]), past_key_values=cache, use_cache=True).logits
        assert (rest[0, -1] - model(input_ids=torch.tensor([ids])).logits[0, -1]).abs().max() < 1e-4


def test_a_prefix_is_no_start_of_a_stage(tuned: tuple, tmp_path: Path) -> None:
    _, folder, _ = tuned
    assert len(weights_sha256(folder)) == 64
    with pytest.raises(QilinError, match="prefix.*nearest valid"):
        merge.start(folder, tmp_path / "start", False, [])
