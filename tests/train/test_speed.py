"""The meter counts what a count by hand finds, for each trainer; operations against torch's own counter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.trainings import job as job_of
from helpers.trainings import triplets

from qilin_lib import files, params
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.shapes import sizes
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit as shared
from qilin_lib.train import gpu_check, speed
from qilin_lib.train.methods import dpo

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tiny_model_dir: Path, training: Callable, tmp_path: Path) -> Callable[..., SimpleNamespace]:
    def make(notebook: str, **overrides: Any) -> SimpleNamespace:
        sizes = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 2, **overrides}
        return job_of(training(notebook, **sizes), tmp_path, tiny_model_dir)

    return make


def metered(trainer: Any, seconds: float, work: SimpleNamespace) -> dict[str, Any]:
    meter = speed.Meter(trainer)
    trainer.train()
    return meter.facts(seconds, work.parameters, sizes(work.paths.weights))


def test_dpo_counts_equal_a_count_by_hand(job: Callable, sentences: Callable, tiny_tokenizer: Any) -> None:
    work = job("05_dpo", max_steps=1)
    rows = triplets(sentences(12, 4), 4)
    model, tokenizer = shared.prepare_model(work.parameters, work.paths.weights)
    pairs = [dpo.pair(row, BAICHUAN, tokenizer, work.parameters) for row in rows]
    facts = metered(dpo.make_trainer(work, model, tokenizer, pairs, []), 1.0, work)
    answers = sum(len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
    assert facts["tokens_input"] == answers + 2 * sum(len(p["prompt_ids"]) for p in pairs)


def test_rates_follow_from_tokens_and_seconds(job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same counts: 200 tokens in rows of 50, in two seconds."""
    work = job("03_dcpt", max_steps=1)
    accelerator = SimpleNamespace(
        device="cpu", num_processes=2, reduce=lambda value, reduction: 2 * value, gather=lambda value: value
    )
    model = sizes(work.paths.weights)
    for best in (5e11, None):
        monkeypatch.setattr(speed, "peak", lambda *_, best=best: best)
        meter = speed.Meter(SimpleNamespace(accelerator=accelerator, training_step=None))
        meter.counts = np.array([100, 2])
        facts = meter.facts(2.0, work.parameters, model)
        assert (facts["tokens_input"], facts["input_tokens_per_second"]) == (200, 100)
        needed = speed.operations(model, 50, work.parameters)[0]
        assert facts["mfu"] == (round(needed * 50 / best, 4) if best else None)


@pytest.mark.parametrize(("kind", "checkpointing"), [("full", False), ("lora", True)])
def test_operations_are_those_torch_counts(
    kind: str, checkpointing: bool, training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """torch.utils.flop_counter counts every matrix product of a real step; eager attention, so that none hides."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(tiny_model_dir)
    config.num_hidden_layers = 8
    config._attn_implementation = "eager"
    parameters = training("03_dcpt", finetuning=kind, gradient_checkpointing=checkpointing, lora_r=1)
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    model = model if kind == "full" else add_lora(model, parameters, False)
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    ids = torch.randint(0, 200, (2, 96))
    with FlopCounterMode(display=False) as counter:
        model.train()(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    needed, run = speed.operations(sizes(tmp_path), 96, parameters)
    # LoRA's own products are left out (rank 1: little), and what checkpointing does not compute again is in.
    assert run == pytest.approx(counter.get_total_flops() / ids.numel(), rel=0.06)
    assert (run > 1.2 * needed) == checkpointing


def test_operations_of_seven_billion_weights_follow_the_usual_rules(training: Callable) -> None:
    """6 N in full training, 4 N under LoRA, 2 N more for DPO's live reference; N without the embeddings."""
    model = sizes("baichuan-inc/Baichuan-7B")
    count = 7_000_559_616 - 64000 * 4096 - 65 * 4096
    full = training("05_dpo", finetuning="full", precompute_ref_log_probs=False)
    assert speed.operations(model, 0, full)[0] == 8 * count
    full.precompute_ref_log_probs = True
    assert speed.operations(model, 0, full)[0] == 6 * count
    assert speed.operations(model, 0, training("04_sft"))[0] == 4 * count
    # PaLM's Appendix B: 12 x layers x width x length.
    assert speed.operations(model, 1024, full)[0] == 6 * count + 12 * 32 * 4096 * 1024


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA A100-SXM4-80GB", 312), ("NVIDIA H100 PCIe", 756), ("Some Other GPU", None), (None, None)],
)
def test_a_known_gpu_has_its_data_sheet_s_peak(name: str | None, tflops: float | None) -> None:
    assert speed.peak("bfloat16", name) == (tflops and tflops * 1e12)
    assert speed.peak("float32", name) is None


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "qilin_lib.gpu_check", *arguments],
        capture_output=True, text=True, check=True, cwd=params.ROOT, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


def test_every_case_runs_at_a_small_shape(tmp_path: Path) -> None:
    shown = run("--tiny", "--out", str(tmp_path / "table.json"))
    found = files.read_json(tmp_path / "table.json")
    rows = found["rows"]
    assert found["device"] == "CPU" and not [row["note"] for row in rows.values() if "note" in row]
    for name in gpu_check.CASES:
        assert rows[name]["tokens/s"] > 0 and rows[name]["at least"] <= rows[name]["at most"] and name in shown
    assert rows["LoRA SFT"]["batch"] == "8 x 64" and rows["LoRA DPO, live reference"]["batch"] == "16 x 48"
    assert rows["generation"]["tokens/s"] > 0
    small, large = rows["update of 0.05%"], rows["update of 1.00%"]
    # To nearest a small update is mostly lost; stochastic rounding keeps it in the mean.
    assert small["nearest bf16"] < 0.5 and abs(small["stochastic bf16"] - 1) < 0.2
    assert abs(large["nearest bf16"] - 1) < 0.05 and abs(large["stochastic bf16"] - 1) < 0.05


def test_without_a_gpu_it_is_one_sentence() -> None:
    shown = run(CUDA_VISIBLE_DEVICES="")
    assert shown == "gpu_check: skipped, because torch sees no GPU here; --tiny runs the same code on the CPU.\n"


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """Also one that the kit itself cannot be imported without."""
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError(name='pydantic')")
    shown = run("--tiny", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"], str(params.ROOT)]))
    assert shown == "gpu_check: skipped, because the Python package pydantic is not installed.\n"


def test_a_case_that_fails_or_lasts_too_long_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def fail() -> dict[str, Any]:
        raise MemoryError("CUDA out of memory")

    now = time.monotonic()
    assert gpu_check.row(fail, now + 100) == {"note": "MemoryError: CUDA out of memory"}
    assert gpu_check.row(fail, now + 5) == {"note": "skipped: no time left"}
