"""What a stage learned reaches the next one, at the size of real updates: a small share of the weights' deviation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.models.adapters import add_lora, describe
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.merge import merge
from qilin_lib.models.tiny import new_model
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit
from qilin_lib.train.heldout import sequence_logprobs

DEVIATION = 0.02
# Of the weights' deviation; a 7B model after some thousand steps at 2e-5 has moved by about one hundredth of it.
SHARES = (0.0005, 0.0025, 0.01)
WIDE = {"hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8, "num_key_value_heads": 8}


@pytest.fixture(scope="module")
def base(tiny_shape: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handover") / "base"
    normal_model(tiny_shape, tiny_tokenizer, 5, folder, hidden_size=512, intermediate_size=1024)
    return folder


def normal_model(shape: Any, tokenizer: Any, seed: int, folder: Path, **changes: int) -> None:
    """A bfloat16 checkpoint whose matrices are normal with deviation 0.02, as those of a trained LLaMA about are."""
    import torch

    model = new_model(shape.model_copy(update=changes), tokenizer, seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.normal_(0, DEVIATION)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def adapter(base: Path, target: Path, parameters: Any, share: float) -> None:
    """An adapter in `target` whose product has `share` of the weights' deviation in every matrix."""
    import torch

    quantised = parameters.finetuning == "qlora"
    model = add_lora(load_model(base, "bfloat16", quantised), parameters, quantised)
    draw = torch.Generator().manual_seed(8)
    layers = [one for one in model.modules() if hasattr(one, "lora_B")]
    with torch.no_grad():
        for layer in layers:
            first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            second.data = torch.randn(second.shape, generator=draw, dtype=torch.float32)
            size = (layer.scaling["default"] * second @ first.float()).square().mean().sqrt()
            second.data *= share * DEVIATION / size
    assert layers
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
    describe(target, base, quantised, "bfloat16", BAICHUAN.sha256)


def tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def nf4(weight: Any) -> Any:
    """What a QLoRA stage sees of a matrix."""
    import bitsandbytes as bnb
    import torch

    params = bnb.nn.Params4bit(weight.to(torch.bfloat16), requires_grad=False, quant_type="nf4").to("cpu")
    return bnb.functional.dequantize_4bit(params.data, params.quant_state).float()


def updates(folder: Path) -> Iterator[tuple[str, Any]]:
    """(name of a matrix, the update that the adapter in `folder` stands for)."""
    from peft import LoraConfig
    from safetensors.torch import load_file

    config, stored = LoraConfig.from_pretrained(folder), load_file(folder / "adapter_model.safetensors")
    for name, first in stored.items():
        if "lora_A" in name:
            second = stored[name.replace("lora_A", "lora_B")]
            plain = name.removeprefix("base_model.model.").replace(".lora_A", "")
            yield plain, config.lora_alpha / config.r * second.float() @ first.float()


def kept(moved: dict[str, Any], update: dict[str, Any]) -> float:
    """The share of `update` in what `moved`: its projection, over all matrices."""
    along = sum((moved[name] * one).sum().item() for name, one in update.items())
    return along / sum(one.square().sum().item() for one in update.values())


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_an_adapter_survives_the_step_to_the_next_stage(
    kind: str, share: float, base: Path, training: Callable, tmp_path: Path
) -> None:
    adapter(base, tmp_path / "adapter", training("03_dcpt", finetuning=kind), share)
    survival = merge(base, tmp_path / "adapter", tmp_path / "start")
    before, after, update = tensors(base), tensors(tmp_path / "start"), dict(updates(tmp_path / "adapter"))
    seen = nf4 if kind == "qlora" else lambda weight: weight.float()
    moved = {name: seen(after[name]) - seen(before[name]) for name in update}
    # Quantising adds noise, which over five million weights is about one percent of the smallest update.
    assert 0.95 < kept(moved, update) < 1.05
    found = survival["update_kept_nf4" if kind == "qlora" else "update_kept"]
    assert found == pytest.approx(kept(moved, update), abs=0.01)


@pytest.mark.parametrize("share", SHARES)
def test_full_training_survives_being_stored_in_bfloat16(share: float, base: Path, tmp_path: Path) -> None:
    import torch

    model = load_model(base, "float32")
    draw = torch.Generator().manual_seed(9)
    before, update = tensors(base), {}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                update[name] = share * DEVIATION * torch.randn(weight.shape, generator=draw)
                weight += update[name]
    fit.save_full(model, fit.trained_state(model, "bfloat16", "seed"), "bfloat16", tmp_path)
    after = tensors(tmp_path)
    assert {one.dtype for one in after.values()} == {torch.bfloat16}
    assert 0.95 < kept({name: after[name].float() - before[name].float() for name in update}, update) < 1.05


@pytest.mark.extended
def test_the_held_out_gain_of_qlora_reaches_the_next_stage(
    tiny_shape: Any, tiny_tokenizer: Any, sentences: Callable, training: Callable, tmp_path: Path
) -> None:
    """At width 1,024 and an update of about one percent: what a stage gained is there once the next one quantised."""
    from statistics import median

    texts = [(ids, list(ids)) for ids in tiny_tokenizer(sentences(80, 31), add_special_tokens=False)["input_ids"]]
    parameters, shares, sizes = training("04_sft", finetuning="qlora"), [], []
    for seed in range(5):
        base, stage = tmp_path / f"base{seed}", tmp_path / f"stage{seed}"
        normal_model(tiny_shape, tiny_tokenizer, seed, base, **WIDE)
        model = add_lora(load_model(base, "bfloat16", True), parameters, True)
        before = sequence_logprobs(model, texts[60:]).sum()
        learn(model, texts[:60], 25, 2e-4)
        after = sequence_logprobs(model, texts[60:]).sum()
        model.save_pretrained(stage)
        tiny_tokenizer.save_pretrained(stage)
        describe(stage, base, True, "bfloat16", BAICHUAN.sha256)
        merge(base, stage, tmp_path / f"start{seed}")
        start = sequence_logprobs(load_model(tmp_path / f"start{seed}", "bfloat16", True), texts[60:]).sum()
        shares.append((start - before) / (after - before))
        one = [update.square().mean().sqrt().item() / DEVIATION for _, update in updates(stage)]
        sizes.append(median(one))
        assert after - before > 100
    assert 0.001 < median(sizes) < 0.03
    assert 0.95 < median(shares) < 1.05, shares


def learn(model: Any, texts: list[tuple[list[int], list[int]]], steps: int, rate: float) -> None:
    """AdamW on a few texts a step."""
    import torch

    weights = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate)
    model.train()
    for step in range(steps):
        for ids, _ in texts[step % 6 :: 6]:
            row = torch.tensor([ids])
            model(input_ids=row, labels=row).loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
