"""A small LLaMA (hidden 64, two layers) with its tokenizer, made once a session for every package's tests."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import params
from qilin_lib.schema import Tiny

PHRASES = (
    "患者咳嗽发热三天 头痛伴恶心 建议多喝水休息 血压偏高需要复查 糖尿病饮食控制 肺炎应当使用抗生素 "
    "下列选项中正确的是 答案：A 答案：B 答案：C 答案：D 请问医生这是什么病 您好 胃痛两周 可以服用奥美拉唑 12岁 CT检查"
).split()


@pytest.fixture
def one_thread() -> Any:
    """One torch thread: a model this small is slower on two, much slower when the cores are busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sentences() -> Callable[[int, int], list[str]]:
    """`sentences(count, seed)`: made-up medical texts of three to twelve phrases."""

    def make(count: int, seed: int) -> list[str]:
        draw = random.Random(seed)
        return ["，".join(draw.choices(PHRASES, k=draw.randint(3, 12))) + "。" for _ in range(count)]

    return make


@pytest.fixture(scope="session")
def tiny_shape() -> Tiny:
    """Sizes are multiples of 64, so that NF4 works on a CPU."""
    return Tiny(
        vocab_size=700,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=512,
        block_size=64,
        per_device_train_batch_size=8,
        max_steps=30,
        learning_rate=0.01,
    )


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_shape: Tiny, sentences: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, tokenizer and chat template of a base model trained long enough to depend on its context."""
    from qilin_lib.models.tiny import tiny_base

    return tiny_base(sentences(150, 1), sentences(150, 2), tiny_shape, 17, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_model_dir: Path) -> Any:
    from qilin_lib.models.load import load_tokenizer

    return load_tokenizer(tiny_model_dir)


@pytest.fixture(scope="session")
def training() -> Callable[..., SimpleNamespace]:
    """`training(notebook, **overrides)`: parameters as a child process gets them, small and on the CPU."""
    small = {
        "gpus": 0,
        "finetuning": "lora",
        "dtype": "float32",
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_steps": 6,
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.0,
        "target_modules": "all-linear",
        "modules_to_save": [],
        "logging_steps": 1,
        "max_heldout": 4,
    }

    def make(notebook: str, **overrides: Any) -> SimpleNamespace:
        return SimpleNamespace(**params.load(notebook, {**small, **overrides}).model_dump(mode="json"))

    return make
