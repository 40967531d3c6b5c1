"""Shapes without weights: published sizes, folders, the hub's cache, no network; and what peft makes of them."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from qilin_lib import params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model, parameter_count
from qilin_lib.models.shapes import census, linears, shape
from qilin_lib.schema import Tiny

FULL = SimpleNamespace(finetuning="full")


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
        ("baichuan-inc/baichuan-7b", 7_000_559_616, 4096),
        ("baichuan-inc/Baichuan2-13B-Chat", 13_896_668_160, 4096),
        ("huggyllama/llama-7b", 6_738_415_616, 2048),
        ("smollm2", 134_515_008, 8192),
    ],
)
def test_known_shapes_have_the_published_number_of_weights(base: str, parameters: int, context: int) -> None:
    config = shape(base)
    assert census(config, FULL).total == parameters and config.max_position_embeddings == context


def test_a_folder_says_its_own_shape(tiny_model_dir: Path) -> None:
    config = shape(tiny_model_dir)
    written = json.loads((tiny_model_dir / "config.json").read_text())
    assert (config.hidden_size, config.vocab_size) == (written["hidden_size"], written["vocab_size"])
    assert census(config, FULL).total == parameter_count(tiny_model_dir)


def test_baichuan_s_own_layout_is_read_without_its_code(tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    content = {**sizes, "vocab_size": 500, "model_type": "baichuan", "auto_map": {"AutoConfig": "configuration.Evil"}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    # Embeddings, head, last norm; per layer W_pack, o_proj, three of the feed-forward, two norms.
    expected = 2 * 500 * 64 + 64 + 3 * (4 * 64 * 64 + 3 * 64 * 96 + 2 * 64)
    assert census(shape(tmp_path), FULL).total == expected


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
    with pytest.raises(QilinError, match="holds no config.json"):
        shape(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unheard_of"}))
    with pytest.raises(QilinError, match="'unheard_of' without remote code.*nearest valid: a folder in LLaMA layout"):
        shape(tmp_path)


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ["down_proj"], r".*\.1\.self_attn\..*_proj"])
def test_trained_weights_are_those_of_the_real_model(
    targets: str | list[str], saved_whole: list[str], training: Callable, tiny_model_dir: Path
) -> None:
    parameters = training("03_dcpt", target_modules=targets, modules_to_save=saved_whole)
    model = add_lora(load_model(tiny_model_dir), parameters, False)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    found = census(shape(tiny_model_dir), parameters)
    assert found.trained == sum(trained.values())
    assert found.lora == sum(count for name, count in trained.items() if "lora_A" in name or "lora_B" in name)
    assert [*found.layers, found.head] == linears(model)


def test_linear_layers_of_a_small_model_by_hand(training: Callable, tiny_model_dir: Path) -> None:
    found = census(shape(tiny_model_dir), training("03_dcpt", target_modules=["q_proj"], modules_to_save=["lm_head"]))
    assert found.inner == 2 * (4 * 64 * 64 + 3 * 64 * 128)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert [layer.name for layer in found.layers] == names * 2
    assert [layer.rank for layer in found.layers] == [8, 0, 0, 0, 0, 0, 0] * 2
    assert not any(layer.trained for layer in found.layers) and found.head.trained
    assert {layer.name: (layer.inputs, layer.outputs) for layer in found.layers}["down_proj"] == (128, 64)


def test_a_quantised_model_has_the_same_linear_layers(training: Callable, tiny_model_dir: Path) -> None:
    parameters = training("03_dcpt", finetuning="qlora")
    model = add_lora(load_model(tiny_model_dir, quantised=True), parameters, True)
    found = census(shape(tiny_model_dir), parameters)
    assert [*found.layers, found.head] == linears(model)


@pytest.mark.parametrize("profile", ["full_a100", "qlora_24gb", "released_code", "chat_24gb"])
def test_a_dry_run_of_a_large_profile_knows_the_shape_of_its_base_before_it_is_there(profile: str) -> None:
    base = params.load("02_tokenize", {"profile": profile}).base
    assert 6.5e9 < census(shape(base), FULL).total < 8e9


# --- names of modules -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target_modules": ["q_proj", "gate_porj"]}, "target_modules: 'gate_porj' .*did you mean 'gate_proj'"),
        ({"target_modules": ["W_pack"]}, "target_modules: 'W_pack' .*q_proj"),
        ({"target_modules": ["norm"]}, "target_modules: 'norm' "),
        ({"target_modules": "all_linear"}, "target_modules: 'all_linear' .*did you mean 'all-linear'"),
        ({"modules_to_save": ["embed_tokenz", "lm_head"]}, "'embed_tokenz' .*did you mean 'embed_tokens'"),
        ({"modules_to_save": [""]}, "modules_to_save: '' "),
    ],
)  # fmt: skip
def test_a_name_that_no_module_has_is_refused_with_the_nearest(
    given: dict, message: str, tiny_model_dir: Path, training: Callable
) -> None:
    """Before anything is loaded (the estimate counts on such a shape), and in the child."""
    parameters = training("03_dcpt", **given)
    for wrap in (
        lambda: census(shape(tiny_model_dir), parameters),
        lambda: add_lora(load_model(tiny_model_dir), parameters, False),
    ):
        try:
            wrap()
            said = "accepted"
        except (QilinError, ValueError) as reason:
            said = f"{type(reason).__name__} {reason}"
        assert re.search("^QilinError .*" + message, said), said


@pytest.mark.parametrize(
    "targets", ["all-linear", ["q_proj", "layers.1.mlp.down_proj"], r".*layers\.0\..*_proj", ["lm_head"]]
)
def test_names_that_modules_have_are_taken(targets: str | list[str], tiny_model_dir: Path, training: Callable) -> None:
    parameters = training("03_dcpt", target_modules=targets, modules_to_save=["embed_tokens"])
    assert census(shape(tiny_model_dir), parameters).lora > 0


def test_the_reward_model_s_wrap_needs_no_lm_head(tiny_model_dir: Path, training: Callable) -> None:
    parameters = training("03_dcpt", modules_to_save=["lm_head"])
    assert add_lora(load_model(tiny_model_dir, rewards=True), parameters, False, rewards=True)
    parameters.target_modules = ["q_porj", "v_proj"]
    with pytest.raises(QilinError, match="'q_porj'"):
        add_lora(load_model(tiny_model_dir, rewards=True), parameters, False, rewards=True)


def test_a_revision_does_not_hide_a_known_shape() -> None:
    try:
        found = shape("huggyllama/llama-7b@main").hidden_size
    except QilinError as reason:
        found = str(reason)
    assert found == 4096
