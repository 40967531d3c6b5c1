"""The memory estimate: every term, what shrinks it, and that weights and adapter agree with the real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model
from qilin_lib.train.preflight import GIB, Preflight, preflight


@pytest.fixture
def terms(training: Callable, tiny_model_dir: Path) -> Callable[..., dict[str, float]]:
    def make(notebook: str = "03_dcpt", length: int = 64, **overrides: object) -> dict[str, float]:
        return preflight(training(notebook, **overrides), tiny_model_dir, length).terms

    return make


def test_terms_are_positive(terms: Callable) -> None:
    for kind in ("lora", "qlora"):
        found = terms(finetuning=kind)
        assert list(found) == ["weights", "adapter", "gradients", "optimizer", "logits", "activations"]
        assert all(value > 0 for value in found.values())
    assert terms(finetuning="full")["adapter"] == 0


def test_qlora_stores_less_than_lora_and_both_train_less_than_full(terms: Callable) -> None:
    lora, qlora, full = (terms(finetuning=kind) for kind in ("lora", "qlora", "full"))
    assert qlora["weights"] < lora["weights"] == full["weights"]
    assert lora["optimizer"] == qlora["optimizer"] < full["optimizer"]
    assert lora["gradients"] < full["gradients"]


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"]])
def test_weights_and_adapter_are_the_real_bytes(
    saved_whole: list[str], terms: Callable, training: Callable, tiny_model_dir: Path
) -> None:
    parameters = training("03_dcpt", modules_to_save=saved_whole)
    model = add_lora(load_model(tiny_model_dir), parameters, False)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(p.numel() for p in load_model(tiny_model_dir).parameters()) * 4
    found = terms(modules_to_save=saved_whole)
    assert found["weights"] * GIB == pytest.approx(stored)
    assert found["adapter"] * GIB == pytest.approx(trainable * 4)
    assert found["optimizer"] * GIB == pytest.approx(trainable * 8)


def test_nf4_weights_are_near_the_real_bytes(terms: Callable, tiny_model_dir: Path) -> None:
    """Small layers pay more for their constants than the formula says, hence the margin."""
    import bitsandbytes as bnb

    real = 0
    for module in load_model(tiny_model_dir, quantised=True).modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            real += module.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        elif not list(module.children()):
            real += sum(p.nbytes for p in module.parameters())
    assert terms(finetuning="qlora")["weights"] * GIB == pytest.approx(real, rel=0.05)


def test_zero_shards_what_it_says(terms: Callable) -> None:
    plain, zero2, zero3 = (terms(finetuning="full", gpus=4, deepspeed=kind) for kind in (None, "zero2", "zero3"))
    assert zero2["weights"] == plain["weights"] and zero3["weights"] == plain["weights"] / 4
    for sharded in (zero2, zero3):
        assert sharded["gradients"] == plain["gradients"] / 4 and sharded["optimizer"] == plain["optimizer"] / 4
        assert sharded["activations"] == plain["activations"] and sharded["logits"] == plain["logits"]


def test_what_grows_and_what_saves(terms: Callable) -> None:
    usual = terms()
    assert terms(length=128)["logits"] == 2 * usual["logits"]
    assert terms(per_device_train_batch_size=8)["activations"] == 2 * usual["activations"]
    assert terms("05_dpo")["logits"] == 2 * usual["logits"]
    assert terms(gradient_checkpointing=True)["activations"] < usual["activations"] / 10
    assert terms(dtype="bfloat16")["weights"] == usual["weights"] / 2


def test_the_verdict_is_shown() -> None:
    small, large = (Preflight({"weights": size, "logits": 0.5}, 2.0, "this machine") for size in (1.0, 2.0))
    assert small.total == 1.5 and "2.0 GiB: it fits" in small._repr_html_()
    assert "does NOT fit" in large._repr_html_()


def test_room_of_this_machine(training: Callable, tiny_model_dir: Path) -> None:
    found = preflight(training("03_dcpt"), tiny_model_dir, 64)
    assert found.place == "this machine" and 0.5 < found.available < 100_000
