"""Loading: safetensors only, the precision asked for, NF4 where asked for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model


def test_precision_is_the_one_asked_for(tiny_model_dir: Path) -> None:
    """bfloat16, or NF4 with double quantisation for all linear layers but the head."""
    plain = load_model(tiny_model_dir, "bfloat16")
    assert {str(p.dtype) for p in plain.parameters()} == {"torch.bfloat16"} and plain.config.use_cache is False
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


@pytest.mark.parametrize("quantised", [False, True])
def test_a_weight_that_the_files_lack_is_an_error_and_not_drawn_by_chance(
    quantised: bool, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(QilinError, match=r"model: .*lack.* 1 .*model\.layers\.1\.mlp\.down_proj\.weight"):
        load_model(folder, quantised=quantised)
    with pytest.raises(QilinError, match="down_proj"):
        load_model(folder, rewards=True)


def test_the_head_of_a_reward_model_may_be_drawn(tiny_model_dir: Path) -> None:
    assert load_model(tiny_model_dir, rewards=True).score.out_features == 1
