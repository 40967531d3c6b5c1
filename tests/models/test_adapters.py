"""Merging: the merged model is the model that was trained, also after QLoRA (peft#2321, trl#1193)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.models.adapters import add_lora, merge, merged_model
from qilin_lib.models.load import load_model, load_tokenizer

# NF4 arithmetic is exact up to float32 rounding: the same dequantised weights, added in another order.
TOLERANCE = 1e-4


def logits(model: Any, ids: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=ids, use_cache=False).logits.float()


def distance(one: Any, other: Any) -> float:
    return (one - other).abs().max().item()


@pytest.fixture(scope="module")
def ids(tiny_tokenizer: Any, sentences: Callable) -> Any:
    import torch

    encoded = tiny_tokenizer(sentences(16, 21), add_special_tokens=False)["input_ids"]
    return torch.tensor([row[:24] for row in encoded if len(row) >= 24])


def adapted(base: Path, target: Path, parameters: Any, quantised: bool) -> Any:
    """A model with an adapter whose weights are far from their start, saved in `target`."""
    import torch

    torch.manual_seed(3)
    model = add_lora(load_model(base, quantised=quantised), parameters, quantised)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.05 if "lora_" in name else 0.01))
    model.save_pretrained(target)
    return model


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("quantised", [False, True])
def test_merged_model_equals_the_adapted_one(
    quantised: bool, saved_whole: list[str], ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    kind = "qlora" if quantised else "lora"
    parameters = training("03_dcpt", finetuning=kind, modules_to_save=saved_whole)
    trained = logits(adapted(tiny_model_dir, tmp_path / "adapter", parameters, quantised), ids)
    merge(tiny_model_dir, tmp_path / "adapter", tmp_path / "model", quantised)
    merged = logits(load_model(tmp_path / "model"), ids)
    assert len(ids) >= 4
    assert distance(merged, trained) <= (TOLERANCE if quantised else 1e-5)
    assert distance(merged, logits(load_model(tiny_model_dir), ids)) > 0.1
    assert (merged.argmax(-1) == trained.argmax(-1)).all()


def test_qlora_merged_into_unquantised_weights_is_another_model(
    ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    parameters = training("03_dcpt", finetuning="qlora")
    trained = logits(adapted(tiny_model_dir, tmp_path / "adapter", parameters, True), ids)
    right = distance(logits(merged_model(tiny_model_dir, tmp_path / "adapter", True), ids), trained)
    wrong = distance(logits(merged_model(tiny_model_dir, tmp_path / "adapter", False), ids), trained)
    assert wrong > 100 * right


@pytest.mark.parametrize("quantised", [False, True])
def test_merged_folder_is_complete_and_plain(
    quantised: bool, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    parameters = training("03_dcpt", finetuning="qlora" if quantised else "lora")
    adapted(tiny_model_dir, tmp_path / "adapter", parameters, quantised)
    merge(tiny_model_dir, tmp_path / "adapter", tmp_path / "model", quantised)
    assert "quantization_config" not in files.read_json(tmp_path / "model" / "config.json")
    merged, base = load_tokenizer(tmp_path / "model"), load_tokenizer(tiny_model_dir)
    assert merged.chat_template == base.chat_template and merged.get_vocab() == base.get_vocab()
    model = load_model(tmp_path / "model")
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert model.num_parameters() == load_model(tiny_model_dir).num_parameters()
    assert {str(p.dtype) for p in model.parameters()} == {"torch.float32"}


def test_a_fresh_adapter_changes_nothing_and_trains_alone(
    ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    model = add_lora(load_model(tiny_model_dir), training("03_dcpt"), False)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    assert distance(logits(model, ids), logits(load_model(tiny_model_dir), ids)) == 0
