"""What every test stands under, and a small LLaMA (hidden 64, two layers) made once per session for all of them.

One thread per process: a model this small is slower on two, and much slower when the cores are busy. No network. Both
hold in this process and, through the environment, in every child of a test.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from qilin_lib import params
from qilin_lib.schema_data import Tiny

GUARD = Path(__file__).with_name("guard")
sys.path.insert(0, str(GUARD))

import no_network  # noqa: E402

# What `launch.run` gives to a training, for the trainings that tests run in their own process.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}
PHRASES = (
    "患者咳嗽发热三天 头痛伴恶心 建议多喝水休息 血压偏高需要复查 糖尿病饮食控制 肺炎应当使用抗生素 "
    "下列选项中正确的是 答案：A 答案：B 答案：C 答案：D 请问医生这是什么病 您好 胃痛两周 可以服用奥美拉唑 12岁 CT检查"
).split()


def isolate() -> None:
    """One thread and no other machine for this process and those below it; no cache of downloads, no offline switch."""
    os.environ |= ENVIRONMENT
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), os.environ.get("PYTHONPATH")]))
    # The kit is to ask for nothing by itself, not because a variable forbids it.
    for name in [name for name in os.environ if name.endswith("_OFFLINE")]:
        del os.environ[name]
    folder = tempfile.mkdtemp(prefix="qilin-tests-")
    os.environ |= {"HF_HOME": folder, no_network.LOG: str(Path(folder) / "network.log")}
    no_network.install()


# Before anything imports torch or the hub's client, which read the environment once.
isolate()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, the smoke run before all: two workers then end at about the same time."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_smoke.py", item.path not in slow))


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_other_machine_is_asked() -> Iterator[None]:
    """A test during which this process or one below it asked another machine for anything fails."""
    yield
    assert no_network.attempts() == []


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
def shared_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session that all of pytest-xdist's workers see."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny_model_dir(tiny_shape: Tiny, sentences: Callable, shared_dir: Path) -> Path:
    """Weights, tokenizer and chat template of a base model trained long enough to depend on its context."""
    from qilin_lib.models.tiny import tiny_base

    # One worker trains, the others wait and find it.
    with FileLock(shared_dir / "tiny.lock"):
        return tiny_base(sentences(150, 1), sentences(150, 2), tiny_shape, 17, shared_dir)


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


@pytest.fixture
def empty_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty runs folder, for stages that hold no model to look at."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("QILIN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("qilin_lib.train.checks.check", lambda stage: None)
    return tmp_path / "runs"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """One entry per loaded model: device, whether NF4, how many are alive with it. All are loaded on the CPU, whatever
    device is named."""
    from qilin_lib.models import adapters, load
    from qilin_lib.train import fit
    from qilin_lib.train.methods import dcpt, dpo

    usual, seen, models = load.load_model, [], []

    def recorded(path: Any, dtype: str = "float32", quantised: bool = False, device: str = "cpu", *a: Any, **k: Any):
        alive = sum(model() is not None for model in models) + 1
        model = usual(path, dtype, quantised, "cpu", *a, **k)
        models.append(weakref.ref(model))
        seen.append({"device": device, "quantised": quantised, "alive": alive})
        return model

    for module in (adapters, fit, dpo, dcpt):
        monkeypatch.setattr(module, "load_model", recorded)
    return seen
