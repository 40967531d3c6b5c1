"""Cached reference log-probabilities: the same training as with a live reference, and never stale."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.trainings import job as job_of
from helpers.trainings import triplets

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.tokens.template import BAICHUAN, PLAIN
from qilin_lib.train import fit, reference
from qilin_lib.train.methods import dpo

PAIRS = [
    {"prompt_ids": [1, 2], "chosen_ids": [3, 4], "rejected_ids": [5]},
    {"prompt_ids": [6], "chosen_ids": [7], "rejected_ids": [8, 9]},
]


@pytest.fixture
def job(tiny_model_dir: Path, sentences: Callable, training: Callable, tmp_path: Path) -> Callable[..., Any]:
    """`job(name, **overrides)`: the child's job of a DPO on fourteen pairs, in its own folder, one cache for all."""
    data = tmp_path / "dpo.jsonl"
    files.write_jsonl(data, triplets(sentences(42, 9), 14, held=4))

    def make(name: str, **overrides: Any) -> SimpleNamespace:
        small = {"sampled_prompts": 0, "max_steps": 4, "lora_dropout": 0.1, "max_heldout": 3} | overrides
        made = job_of(training("05_dpo", **small), tmp_path / name, tiny_model_dir, data=data)
        made.paths.cache = tmp_path / "cache"
        return made

    return make


def trained(job: SimpleNamespace) -> tuple[list[dict[str, float]], dict[str, Any], dict[str, Any]]:
    """(log rows, final weights, facts) of a training."""
    from safetensors.torch import load_file

    job.out.mkdir()
    dpo.work(job)
    folder = job.out / ("model" if job.parameters.finetuning == "full" else "adapter")
    weights = load_file(next(folder.glob("*.safetensors")))
    return fit.read_log(job.out), weights, files.read_json(job.out / "facts.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_cached_equals_live_step_by_step(kind: str, job: Callable) -> None:
    """With dropout: computing the cache must not move the random numbers of the training."""
    import torch

    live, weights, facts = trained(job("live", finetuning=kind))
    cached, weights_cached, facts_cached = trained(job("cached", finetuning=kind, precompute_ref_log_probs=True))
    assert [facts["reference"], facts_cached["reference"]] == ["live", "cached, computed"]
    assert len(live) == len(cached) == 4
    for name in ("loss", "grad_norm", "rewards/margins", "rewards/chosen", "logps/rejected"):
        values = [row[name] for row in live]
        assert [row[name] for row in cached] == pytest.approx(values, rel=1e-5, abs=1e-5), name
    # A margin that stays 0 would be equal too.
    assert abs(live[-1]["rewards/margins"]) > 1e-3
    for name, tensor in weights.items():
        torch.testing.assert_close(weights_cached[name], tensor, rtol=0, atol=1e-5, msg=name)


@pytest.mark.slow
def test_other_rates_reuse_and_other_pairs_do_not(job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import DPOTrainer

    first, second = (job(name, precompute_ref_log_probs=True, max_steps=1) for name in ("first", "second"))
    assert trained(first)[2]["reference"] == "cached, computed"
    again = job("again", precompute_ref_log_probs=True, max_steps=1, beta=0.4, learning_rate=1e-4)
    with monkeypatch.context() as patch:
        patch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *_: pytest.fail("computed again"))
        facts = trained(again)[2]
    assert facts["reference"] == "cached, reused" and facts["step_zero_gap"] < dpo.GAP["float32"]
    stored = {path: path.read_bytes() for path in first.paths.cache.rglob("*.arrow")}
    rows = list(files.read_jsonl(first.paths.data))
    rows[0]["chosen"][0]["content"] += "头痛"
    files.write_jsonl(first.paths.data, rows)
    # The held-out pairs are as before, the training pairs are not.
    assert trained(second)[2]["reference"] == "cached, computed"
    after = {path: path.read_bytes() for path in first.paths.cache.rglob("*.arrow")}
    assert len(stored) == 2 and len(after) == 3 and stored.items() <= after.items()


def test_the_key_covers_weights_arithmetic_and_every_token() -> None:
    weights, how = {"model.safetensors": "ab", "config.json": "cd"}, {"dtype": "float32", "quantised": False}
    changed = [{**PAIRS[0], "chosen_ids": [3, 9]}, PAIRS[1]]
    moved = [{**PAIRS[0], "chosen_ids": [3], "rejected_ids": [4, 5]}, PAIRS[1]]
    keys = [
        reference.key(weights, how, PAIRS),
        reference.key({**weights, "model.safetensors": "ac"}, how, PAIRS),
        reference.key(weights, {**how, "dtype": "bfloat16"}, PAIRS),
        reference.key(weights, {**how, "quantised": True}, PAIRS),
        *(reference.key(weights, how, pairs) for pairs in (changed, moved, PAIRS[::-1], PAIRS[:1], [])),
    ]
    assert len(set(keys)) == len(keys)
    reordered = dict(reversed(weights.items()))
    assert reference.key(reordered, how, [dict(reversed(p.items())) for p in PAIRS]) == keys[0]


def test_the_arithmetic_names_template_precision_and_layout(job: Callable) -> None:
    def found(template: Any = BAICHUAN, batch: int = 4, **overrides: Any) -> dict[str, Any]:
        made = job("any", **overrides)
        made.template = template
        config = SimpleNamespace(_attn_implementation="sdpa")
        trainer = SimpleNamespace(
            model=SimpleNamespace(dtype="torch.float32", config=config),
            accelerator=SimpleNamespace(mixed_precision="no", num_processes=1),
            args=SimpleNamespace(per_device_eval_batch_size=batch),
        )
        return reference.arithmetic(trainer, made)

    usual = found()
    assert usual["versions"].keys() == {"torch", "transformers", "trl", "peft", "bitsandbytes"}
    assert found(beta=0.5, learning_rate=1e-6, lora_r=16, label_smoothing=0.1, rpo_alpha=1.0) == usual
    for other in (found(PLAIN), found(batch=2), found(finetuning="qlora")):
        assert other != usual and reference.key({}, other, PAIRS) != reference.key({}, usual, PAIRS)


def test_one_changed_weight_is_another_model(tiny_model_dir: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(tiny_model_dir, copy)
    assert reference.weight_hashes(copy) == reference.weight_hashes(tiny_model_dir)
    tensors = load_file(copy / "model.safetensors")
    tensors["lm_head.weight"][0, 0] += 1e-3
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    before, after = (reference.weight_hashes(folder) for folder in (tiny_model_dir, copy))
    assert before.keys() == after.keys() == {"model.safetensors", "config.json"} and before != after
    assert before["config.json"] == after["config.json"]


@pytest.mark.slow
def test_a_file_that_is_no_cache_is_refused_with_its_name(job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import DPOTrainer

    first, second, third = (job(name, precompute_ref_log_probs=True, max_steps=1) for name in ("a", "b", "c"))
    usual = DPOTrainer.compute_ref_log_probs
    with monkeypatch.context() as patch:
        patch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *a: tuple(x * np.nan for x in usual(*a)))
        with pytest.raises(RuntimeError, match="the reference gives 20 log-probabilities not finite"):
            trained(first)
    assert not list(first.paths.cache.rglob("*.arrow"))
    trained(second)
    for path in first.paths.cache.rglob("*.arrow"):
        path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(QilinError, match=r"[0-9a-f]{32}.arrow: not readable as reference log-probabilities"):
        trained(third)
