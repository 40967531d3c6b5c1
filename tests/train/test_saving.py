"""What a finished training leaves: whole weights in the asked-for dtype, one adapter, no pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings

from qilin_lib import files
from qilin_lib.models.adapters import trained, weights_sha256
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.tiny import new_model
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import BAICHUAN, Template
from qilin_lib.train import fit
from tests.helpers.chat import published, speaking_model


@pytest.fixture
def saved(tiny_model_dir: Path, training: Callable, tmp_path: Path) -> Callable[..., tuple[Any, Path]]:
    """`saved(**parameters)`: a trainer of the tiny model, its weights moved as by training, and what was saved."""

    def make(template: Template = BAICHUAN, **overrides: Any) -> tuple[Any, Path]:
        import torch
        from transformers import Trainer, TrainingArguments

        parameters = training("04_sft", **overrides)
        model, _ = fit.prepare_model(parameters, tiny_model_dir)
        if parameters.finetuning != "full":
            model.add_adapter("ref", model.peft_config["default"])
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(4)
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.02)
        trainer = Trainer(model=model, args=TrainingArguments(**fit.arguments(parameters, tmp_path)))
        job = trainings.job(parameters, tmp_path, tiny_model_dir, template)
        fit.save(trainer, job)
        return trainer, tmp_path

    return make


def assert_plain(folder: Path, base: Path) -> None:
    """Nothing that would have to be unpickled; tokenizer and template as in `base`."""
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert kinds <= {".json", ".safetensors", ".jinja", ".md", ".model"}, kinds
    found, expected = load_tokenizer(trained(folder)), load_tokenizer(base)
    assert found.chat_template == expected.chat_template and found.get_vocab() == expected.get_vocab()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_training_is_saved_in_the_asked_for_dtype(dtype: str, saved: Callable, tiny_model_dir: Path) -> None:
    import torch
    from safetensors.torch import load_file

    trainer, out = saved(finetuning="full", dtype=dtype)
    found, state = load_file(out / "model" / "model.safetensors"), trainer.model.state_dict()
    assert found.keys() == state.keys() and {t.dtype for t in state.values()} == {torch.float32}
    for name, weight in state.items():
        # Stochastic rounding takes one of the two neighbours; bfloat16 has eight bits.
        assert found[name].dtype == getattr(torch, dtype)
        limit = 2**-7 * weight.abs() if dtype == "bfloat16" else torch.zeros(())
        assert ((found[name].float() - weight).abs() <= limit).all()
    assert files.read_json(out / "model" / "config.json")["dtype"] == dtype
    assert_plain(out, tiny_model_dir)
    assert not (out / "adapter").exists()


@pytest.mark.parametrize(("kind", "dtype"), [("lora", "float32"), ("qlora", "float32"), ("lora", "bfloat16")])
def test_an_adapter_is_saved_alone_and_says_what_it_sits_on(
    kind: str, dtype: str, saved: Callable, tiny_model_dir: Path
) -> None:
    """In float32, whatever the weights below it are. DPO's frozen reference adapter is no part of the result."""
    from safetensors.torch import load_file

    trainer, out = saved(finetuning=kind, dtype=dtype)
    assert [path.name for path in (out / "adapter").iterdir() if path.is_dir()] == []
    found = load_file(out / "adapter" / "adapter_model.safetensors")
    state = {n: w for n, w in trainer.model.named_parameters() if ".default." in n}
    assert len(found) == len(state) > 0
    assert {str(weight.dtype) for weight in found.values()} == {"torch.float32"}
    assert all((found[name.replace(".default.", ".")] == weight).all() for name, weight in state.items())
    assert files.read_json(out / "adapter" / "qilin.json") == {
        "base": str(tiny_model_dir.resolve()),
        "base_sha256": weights_sha256(tiny_model_dir),
        "quantised": kind == "qlora",
        "dtype": dtype,
        "template_sha256": BAICHUAN.sha256,
    }
    assert_plain(out, tiny_model_dir)
    assert not (out / "model").exists()


def test_tied_weights_stay_tied(tiny_model_dir: Path, tiny_shape: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = new_model(tiny_shape, tiny_tokenizer, 1)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    fit.save_full(model, fit.trained_state(model, "bfloat16", "seed"), "bfloat16", tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    again = load_model(tmp_path, "bfloat16")
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
    assert (again.lm_head.weight.float() - model.lm_head.weight).abs().max() < 2**-7 * model.lm_head.weight.abs().max()


@pytest.mark.parametrize(
    ("name", "kept", "end"),
    [("qwen2_5", True, "<|im_end|>"), ("qwen2_5_training", True, "<|im_end|>"), ("qwen3", False, "<|im_end|>")],
)
def test_a_model_is_saved_with_the_template_that_it_learned(
    name: str, kept: bool, end: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """The tokenizer's own where it was trained in it; Qwen3's, which opens an answer in two ways, becomes the kit's."""
    weights = speaking_model(tiny_model_dir, tmp_path / "base", published(name))
    template = choose("auto", load_tokenizer(weights))
    paths = SimpleNamespace(weights=weights)
    fit.save_tokenizer(SimpleNamespace(template=template, paths=paths), tmp_path / "model")
    found = load_tokenizer(tmp_path / "model")
    turns = [{"role": role, "content": text} for role, text in [("user", "痛"), ("assistant", "休息"), ("user", "好")]]
    rendered = found.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert rendered == template.encode(turns, found, add_generation_prompt=True)
    assert "generation" not in found.chat_template.replace("add_generation_prompt", "")
    assert ("tools" in found.chat_template) is kept
    assert found.eos_token == end, "a reply ends where generation stops"


def test_a_training_on_documents_leaves_the_token_that_ends_them(tiny_model_dir: Path, tmp_path: Path) -> None:
    weights = speaking_model(tiny_model_dir, tmp_path / "base", published("qwen2_5"))
    paths, template = SimpleNamespace(weights=weights), choose("auto", load_tokenizer(weights))
    fit.save_tokenizer(SimpleNamespace(template=template, paths=paths, turns=False), tmp_path / "model")
    found = load_tokenizer(tmp_path / "model")
    assert (found.eos_token, found.chat_template) == ("<eos>", published("qwen2_5"))
