"""06 and 08 answer with one model after the other: how many are in memory at each load. Nobody waits for Python's
garbage collection, because a device does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.evaluate import asking, plan, policies
from qilin_lib.evaluate.benchmarks import prepare
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train.methods import reward

pytestmark = pytest.mark.slow


def test_the_models_of_06_answer_one_after_the_other(
    tiny_model_dir: Path, raw_dir: Path, tmp_path: Path, loads: list[dict[str, Any]]
) -> None:
    tokenized = tmp_path / "02_tokenize"
    described = {"path": os.path.relpath(tiny_model_dir, tokenized), "name": "tiny", "parameters": 100_000}
    files.write_json(tokenized / "base.json", described)
    chosen = {"models": ["base"], "shots": 2, "max_items_ceval_per_subject": 1, "max_items_cmexam": 2, "gpus": 0}
    chosen |= {"max_items_huatuo": 2, "max_new_tokens_cmexam": 2, "max_new_tokens_huatuo": 2, "dtype": "float32"}
    chosen |= {"retrieval": "null", "judge": "null"}
    baselines = {name: {"model": str(tiny_model_dir), "template": "plain"} for name in ("one", "other")}
    parameters = params.load("06_eval", {**chosen, "baselines": baselines})
    plan.write(prepare(raw_dir, parameters), tmp_path / "06_eval" / asking.ITEMS)
    job = {"parameters": parameters.model_dump(mode="json"), "run_dir": str(tmp_path)}
    files.write_json(tmp_path / "job.json", job | {"workers": 1, "items": asking.ITEMS, "failed": [], "only": []})
    asking.work(tmp_path / "job.json")
    assert [one["alive"] for one in loads] == [1, 1, 1]


def test_the_comparison_of_08_holds_a_policy_its_reference_and_the_judge(
    tiny_model_dir: Path, sentences: Callable, tmp_path: Path, loads: list[dict[str, Any]]
) -> None:
    small = {"gpus": 0, "finetuning": "full", "dtype": "float32", "max_source_length": 60, "max_target_length": 8}
    parameters = params.load("08_rlhf", {**small, "batch_size": 2, "max_items": 2})
    judge, tokenizer = reward.prepare_model(SimpleNamespace(**parameters.model_dump()), tiny_model_dir)
    for part in (judge, tokenizer):
        part.save_pretrained(tmp_path / "reward")
    del judge, part
    loads.clear()
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
    assert [one["alive"] for one in loads] == [1, 2, 1, 2, 3, 1, 2, 3]
