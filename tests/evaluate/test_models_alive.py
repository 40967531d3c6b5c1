"""06 and 08 answer with one model after the other: how many are in memory at each load. Nobody waits for Python's
garbage collection, because a device does not."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.evaluate import policies, worker
from qilin_lib.models import adapters, load
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import reward

pytestmark = pytest.mark.slow


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For every model that is loaded to answer: how many are alive then, with itself."""
    usual, seen, models = load.load_model, [], []

    def recorded(*given: Any, **more: Any) -> Any:
        seen.append(1 + sum(model() is not None for model in models))
        model = usual(*given, **more)
        models.append(weakref.ref(model))
        return model

    monkeypatch.setattr(adapters, "load_model", recorded)
    return seen


def test_the_models_of_06_answer_one_after_the_other(
    tiny_model_dir: Path, raw_dir: Path, tmp_path: Path, alive: list[int]
) -> None:
    tokenized = tmp_path / "02_tokenize"
    described = {"path": os.path.relpath(tiny_model_dir, tokenized), "name": "tiny", "parameters": 100_000}
    files.write_json(tokenized / "base.json", described)
    chosen = {"models": ["base"], "shots": 2, "max_items_ceval_per_subject": 1, "max_items_cmexam": 2, "gpus": 0}
    chosen |= {"max_items_huatuo": 2, "max_new_tokens_cmexam": 2, "max_new_tokens_huatuo": 2, "dtype": "float32"}
    baselines = {name: {"model": str(tiny_model_dir), "template": "plain"} for name in ("one", "other")}
    parameters = params.load("06_eval", {**chosen, "baselines": baselines})
    job = {"parameters": parameters.model_dump(mode="json"), "run_dir": str(tmp_path), "raw_dir": str(raw_dir)}
    files.write_json(tmp_path / "job.json", job)
    worker.work(tmp_path / "job.json")
    assert alive == [1, 1, 1]


def test_the_comparison_of_08_holds_a_policy_its_reference_and_the_judge(
    tiny_model_dir: Path, sentences: Callable, tmp_path: Path, alive: list[int]
) -> None:
    small = {"gpus": 0, "finetuning": "full", "dtype": "float32", "max_source_length": 60, "max_target_length": 8}
    parameters = params.load("08_rlhf", {**small, "batch_size": 2, "max_items": 2})
    judge, tokenizer = reward.prepare_model(SimpleNamespace(**parameters.model_dump()), tiny_model_dir)
    for part in (judge, tokenizer):
        part.save_pretrained(tmp_path / "reward")
    texts = sentences(4, 31)
    turn = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    row = {"source": "a", "split": "heldout"}
    rows = [
        row | {"id": str(i), "prompt": turn("user", texts[i]), "chosen": turn("assistant", texts[2 + i])}
        for i in range(2)
    ]
    files.write_jsonl(tmp_path / "dpo.jsonl", rows)
    job = {
        "parameters": parameters.model_dump(mode="json"),
        "out": str(tmp_path),
        "template": BAICHUAN.name,
        "data": str(tmp_path / "dpo.jsonl"),
        "reward": str(tmp_path / "reward"),
        "policies": dict.fromkeys(("sft", "dpo", "rl"), str(tiny_model_dir)),
    }
    files.write_json(tmp_path / "job.json", job)
    policies.work(tmp_path / "job.json")
    # SFT is its own reference.
    assert alive == [1, 2, 1, 2, 3, 1, 2, 3]
