"""What was trained is what is loaded, also after QLoRA (peft#2321, trl#1193); and what an adapter sits on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora, describe, described, load_to_answer, load_trained, weights_sha256
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.merge import merge
from qilin_lib.tokens.template import BAICHUAN
from tests.helpers import families

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


def adapted(base: Path, target: Path, parameters: Any, quantised: bool, dtype: str = "float32") -> Any:
    """A model with an adapter whose weights are far from their start, saved in `target`."""
    import torch

    torch.manual_seed(3)
    model = add_lora(load_model(base, dtype, quantised=quantised), parameters, quantised)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * (0.05 if "lora_" in name else 0.01))
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
    describe(target, base, quantised, dtype, BAICHUAN.sha256)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("quantised", [False, True])
def test_what_is_loaded_is_what_was_trained(
    quantised: bool, saved_whole: list[str], ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    kind = "qlora" if quantised else "lora"
    parameters = training("03_dcpt", finetuning=kind, modules_to_save=saved_whole)
    model = adapted(tiny_model_dir, tmp_path / "adapter", parameters, quantised)
    trained = logits(model, ids)
    whole, off = load_trained(tmp_path / "adapter", "float32")
    again = logits(whole, ids)
    assert len(ids) >= 4
    assert distance(again, trained) <= (TOLERANCE if quantised else 1e-5)
    assert distance(logits(load_to_answer(tmp_path / "adapter", "float32"), ids), trained) <= TOLERANCE
    with off():
        before = logits(whole, ids)
    assert distance(before, logits(load_model(tiny_model_dir, quantised=quantised), ids)) <= TOLERANCE
    assert distance(again, before) > 0.1 and distance(logits(whole, ids), again) == 0


@pytest.mark.parametrize(
    "changed",
    [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"target_modules": ["embed_tokens", "q_proj", "lm_head"]}],
)
def test_a_merged_adapter_is_the_model_that_was_trained(
    changed: dict[str, list[str]], ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    parameters = training("03_dcpt", **changed)
    trained = logits(adapted(tiny_model_dir, tmp_path / "adapter", parameters, False), ids)
    survival = merge(tiny_model_dir, tmp_path / "adapter", tmp_path / "model")
    model = load_model(tmp_path / "model")
    assert distance(logits(model, ids), trained) <= 1e-5 and survival == {"update_kept": 1.0}
    assert model.num_parameters() == load_model(tiny_model_dir).num_parameters()
    merged, base = load_tokenizer(tmp_path / "model"), load_tokenizer(tiny_model_dir)
    assert merged.chat_template == base.chat_template and merged.get_vocab() == base.get_vocab()


@pytest.mark.parametrize("quantised", [False, True])
def test_bfloat16_is_loaded_as_it_was_trained(
    quantised: bool, ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    """Layers round to eight bits; 2^-8 of the largest logit, over a few of them (training keeps norms in float32)."""
    parameters = training("03_dcpt", finetuning="qlora" if quantised else "lora")
    trained = logits(adapted(tiny_model_dir, tmp_path / "adapter", parameters, quantised, "bfloat16"), ids)
    again = logits(load_trained(tmp_path / "adapter", "bfloat16")[0], ids)
    tolerance = 4 * 2**-8 * trained.abs().max().item()
    assert distance(again, trained) <= tolerance
    top = trained.topk(2, -1).values
    clear = (top[..., 0] - top[..., 1]) > 2 * tolerance
    assert clear.float().mean() > 0.3
    assert (again.argmax(-1) == trained.argmax(-1))[clear].all()


def test_a_merged_qlora_adapter_is_another_model_by_the_quantisation_error(
    ids: Any, tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    parameters = training("03_dcpt", finetuning="qlora")
    trained = logits(adapted(tiny_model_dir, tmp_path / "adapter", parameters, True), ids)
    live = distance(logits(load_trained(tmp_path / "adapter", "float32")[0], ids), trained)
    merge(tiny_model_dir, tmp_path / "adapter", tmp_path / "model")
    merged = logits(load_model(tmp_path / "model"), ids)
    unquantised = load_trained(tmp_path / "adapter", "float32", quantised=False)[0]
    assert distance(merged, trained) > 100 * live and distance(merged, logits(unquantised, ids)) <= 1e-5
    assert "quantization_config" not in files.read_json(tmp_path / "model" / "config.json")


@pytest.mark.parametrize("dropout", [0.0, 0.05])
def test_lora_on_stacked_experts_is_refused_before_it_is_trained(
    dropout: float, tiny_tokenizer: Any, training: Callable, tmp_path: Path
) -> None:
    """peft's "all-linear" means the experts of a Qwen3-MoE too, and no merge would find them in its files."""
    import transformers

    sizes = families.COMMON | {"vocab_size": len(tiny_tokenizer), "num_experts": 4, "moe_intermediate_size": 64}
    transformers.AutoModelForCausalLM.from_config(transformers.Qwen3MoeConfig(**sizes)).save_pretrained(tmp_path / "b")
    model, given = load_model(tmp_path / "b"), {"lora_dropout": dropout}
    with pytest.raises(
        QilinError, match=r"target_modules: all-linear .*qwen3_moe.*nearest valid: \['k_proj', 'o_proj'"
    ):
        add_lora(model, training("03_dcpt", **given), False)
    attention = training("03_dcpt", target_modules=["q_proj", "v_proj"], **given)
    tiny_tokenizer.save_pretrained(tmp_path / "b")
    adapted(tmp_path / "b", tmp_path / "adapter", attention, False)
    assert merge(tmp_path / "b", tmp_path / "adapter", tmp_path / "model") == {"update_kept": 1.0}


def test_an_adapter_goes_on_the_weights_it_was_trained_on_and_on_no_others(
    tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    """alignment-handbook#188: a DPO adapter named the pretrained model as its base; the SFT adapter was forgotten."""
    adapted(tiny_model_dir, tmp_path / "sft", training("03_dcpt"), False)
    merge(tiny_model_dir, tmp_path / "sft", tmp_path / "model")
    adapted(tmp_path / "model", tmp_path / "dpo", training("05_dpo"), False)
    shutil.copytree(tmp_path / "model", tmp_path / "moved")
    merge(tmp_path / "moved", tmp_path / "dpo", tmp_path / "right")
    with pytest.raises(QilinError) as refused:
        merge(tiny_model_dir, tmp_path / "dpo", tmp_path / "wrong")
    wanted, found = weights_sha256(tmp_path / "moved"), weights_sha256(tiny_model_dir)
    assert f"sits on weights {wanted[:12]}, but {tiny_model_dir} holds {found[:12]}" in str(refused.value)
    assert wanted != found and (tmp_path / "right").exists() and not (tmp_path / "wrong").exists()
    (tmp_path / "model").rename(tmp_path / "tidied")
    with pytest.raises(QilinError, match=r"dpo/qilin\.json: .*/model, which is no folder here.*link"):
        load_trained(tmp_path / "dpo", "float32")


@pytest.mark.parametrize("changed", ["model.safetensors", "config.json"])
def test_one_changed_byte_is_another_base(changed: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model_dir, base)
    describe(adapter, base, False, "float32", "0" * 64)
    assert described(base, adapter)["dtype"] == "float32"
    content = bytearray((base / changed).read_bytes())
    content[-3] ^= 1
    (base / changed).write_bytes(content)
    with pytest.raises(QilinError, match="the adapter sits on weights"):
        described(base, adapter)
