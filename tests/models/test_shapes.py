"""Shapes without weights: published sizes, folders, the hub's cache, no network; and what peft makes of them."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from qilin_lib import params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model, skeleton
from qilin_lib.models.shapes import shape, sizes
from qilin_lib.schema_data import Tiny


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a shape was asked of the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    ("base", "parameters", "context"),
    [
        # Totals as the hub shows them for each model's safetensors.
        ("baichuan-inc/Baichuan-7B", 7_000_559_616, 4096),
        ("baichuan-inc/baichuan2-13b-chat", 13_896_668_160, 4096),
        ("huggyllama/llama-7b@main", 6_738_415_616, 2048),
        ("smollm2", 134_515_008, 8192),
    ],
)
def test_known_shapes_have_the_published_number_of_weights(base: str, parameters: int, context: int) -> None:
    config = shape(base)
    assert sizes(base).total == parameters == sum(p.numel() for p in skeleton(config).parameters())
    assert config.max_position_embeddings == context


def test_baichuan_s_own_layout_is_read_without_its_code(tmp_path: Path) -> None:
    given = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    content = {**given, "vocab_size": 500, "model_type": "baichuan", "auto_map": {"AutoConfig": "configuration.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    # Embeddings, head, last norm; per layer W_pack, o_proj, three of the feed-forward, two norms.
    expected = 2 * 500 * 64 + 64 + 3 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64)
    assert sizes(tmp_path).total == expected == sum(p.numel() for p in skeleton(shape(tmp_path)).parameters())


def test_tiny_takes_the_profile_s_shape(tiny_shape: Tiny) -> None:
    config = shape("tiny", tiny_shape)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (64, 2, 700)
    with pytest.raises(QilinError, match="tokenize.tiny"):
        shape("tiny")


def test_the_hub_s_cache_is_read_before_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    entry = tmp_path / "models--huggyllama--llama-7b"
    snapshot = entry / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text("a" * 40)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama", "hidden_size": 320, "vocab_size": 11}))
    assert shape("huggyllama/llama-7b").hidden_size == 320
    assert shape("baichuan-inc/Baichuan-7B").hidden_size == 4096


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("baichuan-inc/Baichuan-7", r"base = 'baichuan-inc/Baichuan-7': .*did you mean 'baichuan-inc/Baichuan-7B'"),
        ("nobody/nothing-70b", "base = 'nobody/nothing-70b': neither a folder, nor in the local hub cache"),
        ("smolm2", "did you mean 'smollm2'"),
    ],
)
def test_an_unknown_base_is_refused_with_the_nearest(base: str, sentence: str) -> None:
    with pytest.raises(QilinError, match=sentence):
        shape(base)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="has no config.json"):
        shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(QilinError, match="'unheard_of' without code from the folder.*nearest valid: a folder with"):
        shape(tmp_path)
    with pytest.raises(QilinError, match="names no hidden_size"):
        sizes(tmp_path)
    many = {"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9, "text_config": {"num_hidden_layers": 5000}}
    (tmp_path / "config.json").write_text(json.dumps({**many, **many["text_config"]}))
    with pytest.raises(QilinError, match="num_hidden_layers is 5,000"):
        sizes(tmp_path)


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "layers.1.mlp.down_proj"], r".*\.1\.self_attn\..*_proj"])
def test_trained_weights_are_those_of_the_real_model(
    targets: str | list[str], saved_whole: list[str], training: Callable, tiny_model_dir: Path
) -> None:
    parameters = training("03_dcpt", target_modules=targets, modules_to_save=saved_whole)
    model = add_lora(load_model(tiny_model_dir), parameters, False)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    found = sizes(tiny_model_dir)
    lora = sum(count for name, count in trained.items() if "lora_A" in name or "lora_B" in name)
    assert (found.lora(parameters), found.copies(parameters)) == (lora, sum(trained.values()) - lora)


def test_a_configuration_alone_gives_what_the_weights_would(
    tiny_model_dir: Path, training: Callable, tmp_path: Path
) -> None:
    """LLaMA's layers: LoRA on all of them is the same count, on fewer no more than that. Nor does a cut file count: the
    sizes of the files that are whole would be those of another model."""
    (tmp_path / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    alone, whole = sizes(tmp_path), sizes(tiny_model_dir)
    every = training("03_dcpt", modules_to_save=["embed_tokens", "lm_head"])
    assert (alone.total, alone.largest, alone.matrices) == (whole.total, whole.largest, whole.matrices)
    assert alone.lora(every) == whole.lora(every) and alone.copies(every) == whole.copies(every)
    assert alone.lora(training("03_dcpt", target_modules=["q_proj"])) == whole.lora(every)
    save_file({"lm_head.weight": np.zeros((2, 2))}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes((tiny_model_dir / "model.safetensors").read_bytes()[:-9])
    index = {"weight_map": {"lm_head.weight": "a.safetensors", "model.norm.weight": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert sizes(tmp_path).total == whole.total


# What the authors publish as config.json, and the number of weights that the hub shows.
PUBLISHED = {
    "gpt2": ({"vocab_size": 50257, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": None}, None),
    "qwen3_moe": (
        {"vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48, "num_attention_heads": 32}
        | {"num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8}
        | {"intermediate_size": 6144, "moe_intermediate_size": 768},
        30_532_122_624,
    ),
    "glm4": (
        {"vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40}
        | {"num_attention_heads": 32, "num_key_value_heads": 2, "head_dim": 128, "attention_bias": True},
        9_400_279_040,
    ),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_a_configuration_of_another_make_is_near(kind: str, tmp_path: Path) -> None:
    config, published = PUBLISHED[kind]
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **config}))
    found = sizes(tmp_path)
    assert found.total == pytest.approx(published or found.total, rel=0.001) and found.layers and found.inner


@pytest.mark.parametrize("profile", ["full_a100", "qlora_24gb", "released_code", "chat_24gb"])
def test_a_dry_run_of_a_large_profile_knows_the_shape_of_its_base_before_it_is_there(profile: str) -> None:
    base = params.load("02_tokenize", {"profile": profile}).base
    assert 6.5e9 < sizes(base).total < 8e9


# --- names of modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_modules": ["q_proj", "gate_porj"]}, "target_modules: 'gate_porj' .*did you mean 'gate_proj'"),
        ({"target_modules": ["W_pack"]}, "target_modules: 'W_pack' .*q_proj"),
        ({"target_modules": ["norm"]}, "target_modules: 'norm' "),
        ({"target_modules": "q_proj"}, r"target_modules: 'q_proj' .*nearest valid: \['q_proj'\]"),
        ({"target_modules": "q_proj, v_proj"}, r"'q_proj, v_proj' .*nearest valid: \['q_proj', 'v_proj'\]"),
        ({"target_modules": "all_linear"}, "target_modules: 'all_linear' .*did you mean 'all-linear'"),
        ({"modules_to_save": ["embed_tokenz", "lm_head"]}, "'embed_tokenz' .*did you mean 'embed_tokens'"),
        ({"modules_to_save": [""]}, "modules_to_save: '' "),
    ],
)
def test_a_name_that_no_module_has_is_refused_with_the_nearest(
    given: dict, message: str, tiny_model_dir: Path, training: Callable
) -> None:
    with pytest.raises(QilinError, match=message):
        add_lora(load_model(tiny_model_dir), training("03_dcpt", **given), False)
