"""Loading: safetensors only, the precision asked for, NF4 where asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from qilin_lib.models.load import load_model


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_precision_is_the_one_asked_for(dtype: str, tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, dtype)
    assert {str(p.dtype) for p in model.parameters()} == {f"torch.{dtype}"}
    assert model.config.use_cache is False


def test_quantised_linear_layers_are_nf4_with_double_quantisation(tiny_model_dir: Path) -> None:
    import bitsandbytes as bnb

    model = load_model(tiny_model_dir, quantised=True)
    layers = {name: m for name, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)}
    assert len(layers) == 2 * 7 and "lm_head" not in layers
    states = [layer.weight.quant_state for layer in layers.values()]
    assert all(state.quant_type == "nf4" and state.nested for state in states)


def test_an_evaluation_does_not_change_quantised_weights(tiny_model_dir: Path) -> None:
    """bitsandbytes would round the scales for its own CPU kernel, and DPO evaluates before it trains."""
    import torch

    model, ids = load_model(tiny_model_dir, quantised=True), torch.arange(40)[None]
    before = model.train()(input_ids=ids).logits.detach()
    with torch.no_grad():
        evaluated = model.eval()(input_ids=ids).logits
    assert torch.equal(evaluated, before)
    assert torch.equal(model.train()(input_ids=ids).logits.detach(), before)
