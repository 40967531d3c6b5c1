"""The estimate, exact or a bound, against real models and the allocator; the meter against counts by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers.trainings import triplets

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.shapes import sizes
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit, gpu_check, methods, preflight, probe, speed
from qilin_lib.train.methods import dpo
from qilin_lib.train.preflight import GIB, Preflight

pytestmark = pytest.mark.slow


@pytest.fixture
def terms(training: Callable, tiny_model_dir: Path) -> Callable[..., dict[str, float]]:
    """`terms(notebook, rows, length, **overrides)`: bytes by term of the tiny model; "host memory …" too."""

    def make(notebook: str = "03_dcpt", rows: int = 4, length: int = 64, **overrides: object) -> dict[str, float]:
        p = training(notebook, **overrides)
        table = preflight.training(sizes(tiny_model_dir), p, rows, length)
        return {what if where == "training" else f"{where} {what}": size for where, what, size in table}

    return make


def prepared(parameters: SimpleNamespace, path: Path) -> Any:
    """The model that is trained, with gradient checkpointing as the trainer switches it on."""
    model, _ = fit.prepare_model(parameters, path)
    if parameters.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    return model.train()


def autocast(parameters: SimpleNamespace) -> Any:
    import torch

    return torch.autocast("cpu", torch.bfloat16) if parameters.dtype == "bfloat16" else nullcontext()


def allocated(step: Callable[[], None]) -> float:
    """Largest number of bytes that `step` has allocated at any moment, from the profiler's record of the allocator."""
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = top = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        top = max(top, now)
    return top


# --- arithmetic -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_weights_gradients_and_optimizer_are_the_real_bytes(
    kind: str, dtype: str, saved_whole: list[str], terms: Callable, training: Callable, tiny_model_dir: Path
) -> None:
    import torch

    chosen = {"finetuning": kind, "dtype": dtype, "modules_to_save": saved_whole}
    model = prepared(training("03_dcpt", **chosen), tiny_model_dir)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(0, 200, (1, 8))
    with autocast(training("03_dcpt", **chosen)):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    frozen = sum(p.nbytes for p in model.parameters() if not p.requires_grad)
    found = terms(**chosen)
    if kind == "full":
        # Autocast's copies of the matrices come on top under bfloat16.
        matrices = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
        assert found["weights"] == sum(p.nbytes for p in trained) + 2 * matrices * (dtype == "bfloat16")
    else:
        assert found["weights"] == frozen and found["adapter"] == sum(p.nbytes for p in trained)
    assert found["gradients"] == sum(p.grad.nbytes for p in trained)
    assert found["optimizer"] == sum(value.nbytes for value in states)


def test_zero_shards_what_it_says(terms: Callable) -> None:
    """fp32 copy and two moments: 12 bytes a trained weight, over all processes; ZeRO-2 gradients, ZeRO-3 weights."""
    chosen = {"finetuning": "full", "gpus": 4, "dtype": "bfloat16"}
    zero2, zero3 = (terms(**chosen, deepspeed=kind) for kind in ("zero2", "zero3"))
    count = terms(**{**chosen, "gpus": 1}, deepspeed="zero2")["weights"] / 2
    assert zero2["weights"] == 2 * count and zero2["optimizer"] == 12 * count / 4 == zero3["optimizer"]
    assert zero2["gradients"] == 2 * count / 4 + 2 * count, "a bucket larger than the model holds all of its gradients"
    assert zero3["weights"] == 2 * count / 4 + 2 * count, "what is gathered at a time is bounded by the model here"


def test_offloading_moves_to_the_host(terms: Callable) -> None:
    chosen = {"finetuning": "full", "gpus": 2, "dtype": "bfloat16"}
    plain, second, third = (terms(**chosen, deepspeed=kind) for kind in ("zero2", "zero2_offload", "zero3_offload"))
    assert "host memory optimizer" not in plain and second["optimizer"] == third["optimizer"] == 0
    # On the host gradients are kept in fp32 as well: 16 bytes a weight instead of 12.
    assert second["host memory optimizer"] == plain["optimizer"] * 16 / 12
    assert third["host memory weights"] == plain["weights"] / 2


def test_full_dpo_keeps_a_second_model_unless_it_is_precomputed(terms: Callable) -> None:
    live = terms("05_dpo", finetuning="full", precompute_ref_log_probs=False)
    assert live["reference"] == live["weights"]
    assert terms("05_dpo", finetuning="full", precompute_ref_log_probs=True)["reference"] == 0
    assert terms("05_dpo", finetuning="lora", precompute_ref_log_probs=False)["reference"] == 0


# --- bounds -----------------------------------------------------------------------------------------------------------

SHAPE = {"vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "pad_token_id": 0}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2}
MAKES: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "glm4": {**SHAPE, "head_dim": 16},
    "phi3": SHAPE,
    "qwen3": {**SHAPE, "head_dim": 32},
    "qwen3_moe": {**SHAPE, "head_dim": 16, "moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2},
    "gpt2": {"vocab_size": 1000, "n_embd": 64, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1},
}
SETTINGS = [
    {"finetuning": "full"},
    {"finetuning": "full", "dtype": "bfloat16"},
    {"finetuning": "lora", "lora_dropout": 0.05},
    {"finetuning": "lora", "lora_dropout": 0.05, "dtype": "bfloat16"},
    {"finetuning": "qlora", "dtype": "bfloat16"},
]


@pytest.fixture(scope="module")
def base(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`base(make)`: folder of a random model of that make."""
    from transformers import AutoConfig, AutoModelForCausalLM

    @cache
    def make(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **MAKES[name])).save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        return folder

    return make


# peft wraps no experts with dropout.
CASES = [("llama", chosen) for chosen in SETTINGS] + [
    (make, SETTINGS[0 if make == "qwen3_moe" else 3]) for make in list(MAKES)[1:]
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("make", "chosen"), CASES, ids=str)
def test_a_real_step_stays_below_the_bound(
    make: str, chosen: dict[str, Any], checkpointing: bool, training: Callable, base: Callable
) -> None:
    """Forward and backward of a real step. The bound is no more than so many times too large, or it would be no use."""
    import torch

    p = training("03_dcpt", **chosen, gradient_checkpointing=checkpointing)
    model = prepared(p, base(make))
    rows, length = 8, 128
    ids = torch.randint(2, 200, (rows, length))

    def step() -> None:
        with autocast(p):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

    step()
    model.zero_grad(set_to_none=True)
    real, size = allocated(step), sizes(base(make))
    bound = preflight.activations(size, p, rows, length) + preflight.logits(size, p, rows * length)
    gradients = sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
    assert real < bound + gradients and bound < 4 * real


# --- the table --------------------------------------------------------------------------------------------------------


def test_a_dry_run_needs_nothing_but_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(speed, "card", lambda: None)
    for notebook in ("03_dcpt", "04_sft", "05_dpo", "08_rlhf"):
        found = preflight.estimate(params.load(notebook, {"profile": "full_a100", "gpus": 8}))
        (weights,) = found.frame.query("where == 'training' and what == 'weights'")["GiB"]
        assert weights * GIB == pytest.approx(2 * 7_000_559_616)
        assert found.available is None and "no GPU" in repr(found) and "does NOT fit" not in repr(found)
        assert "8 x A100: about" in repr(found)
    assert not list(tmp_path.iterdir())


def made(size: float, available: float | None = 2.0) -> Preflight:
    rows = [("training", "weights", size, "arithmetic"), ("training", "logits", 0.5, "bound")]
    rows += [("training", "CUDA context", 0.5, "arithmetic"), ("scoring", "weights", 1.0, "arithmetic")]
    frame = pd.DataFrame([*rows, ("disk", "result", 3.0, "arithmetic")], columns=["where", "what", "GiB", "basis"])
    return Preflight(frame, "this machine", available, "one GPU", 1000.0, 7_200_000, "N")


def test_the_verdict_is_shown() -> None:
    for size, available, verdict in (
        (0.9, 2.0, "2.0 GiB per process: at least 1.4 and at most 1.9 GiB are needed, it fits"),
        (1.2, 2.0, "at least 1.7 and at most 2.2 GiB are needed, whether it fits only a probe on the device can say"),
        (2.0, 2.0, "at least 2.5 and at most 3.0 GiB are needed, it does NOT fit"),
        (2.0, None, "at least 2.5 and at most 3.0 GiB are needed, whether it fits only a probe"),
        (0.1, 2.0, "at least 1.0 and at most 1.1 GiB are needed, it fits"),
    ):
        found = made(size, available)
        text = repr(found)
        assert verdict in text and "2.00 h for 7,200,000 tokens" in text and "at most 3.0 GiB of disk" in text


def test_a_finished_02_gives_sizes_and_tokens(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(speed, "card", lambda: ("NVIDIA A100-SXM4-80GB", 79.0))
    stage = tmp_path / "r" / "02_tokenize"
    files.write_json(stage / "base.json", {"path": str(tiny_model_dir)})
    files.write_json(stage / "packing.json", {"block_size": 64, "tokens": 10_000})
    entry = {"samples": 10, "tokens": 900}
    files.write_json(stage / "token_counts.json", {"sft": {"a": entry, "b": entry}, "dpo": {}})
    chosen = {"run": "r", "num_train_epochs": 2.0, "max_steps": -1, "finetuning": "lora", "modules_to_save": []}
    found = preflight.estimate(params.load("03_dcpt", chosen))
    assert found.tokens == 20_000 and found.place == "this machine" and 0.5 < found.available < 100_000
    assert preflight.estimate(params.load("04_sft", chosen)).tokens == 3600
    on_gpu = preflight.estimate(params.load("03_dcpt", {**chosen, "gpus": 1, "dtype": "bfloat16"}))
    assert on_gpu.available == 79.0 and on_gpu.hours == pytest.approx(20_000 / on_gpu.rate / 3600)


SETTINGS = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_source_length": 40}
SETTINGS |= {"max_target_length": 24, "max_length": 96, "finetuning": "lora"}


@pytest.fixture
def job(training: Callable, tiny_model_dir: Path, tmp_path: Path) -> Callable[[str], SimpleNamespace]:
    def make(notebook: str) -> SimpleNamespace:
        chosen = {name: value for name, value in SETTINGS.items() if name in vars(params.load(notebook))}
        return probe.job_of(vars(training(notebook, **chosen)), tiny_model_dir, tmp_path)

    return make


@pytest.mark.parametrize(
    ("notebook", "row", "method"),
    [
        ("03_dcpt", 48, {}),
        ("04_sft", 96, {}),
        ("05_dpo", 64, {}),
        ("05_dpo", 64, {"method": "kto"}),
        ("05_dpo", 64, {"method": "orpo"}),
    ],
)
def test_every_row_is_full_and_the_peak_lies_below_the_bound(
    notebook: str, row: int, method: dict, job: Callable
) -> None:
    work = job(notebook)
    vars(work.parameters).update(method)
    rows, length = methods.batch(work.parameters, 48)
    assert length == row
    facts = probe.measure(work, block_size=48)
    assert facts["tokens_input"] == 2 * 2 * rows * row and facts["peak_memory_gib"] > 0.1
    assert facts["input_tokens_per_second"] > 0 and facts["loss"] == facts["loss"]
    seen = probe.trainer_of(work, 48, 2)
    assert seen.args.max_steps == 2
    batch: dict[str, Any] = next(iter(seen.get_train_dataloader()))
    entering = [batch[name] for name in batch if name.endswith("input_ids") and not name.startswith("KL")]
    assert sum(len(ids) for ids in entering) == rows and {ids.shape[1] for ids in entering} == {row}


def test_a_probe_runs_as_its_training_would(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a child process, from the base that 02 left; nothing is written into the run."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    files.write_json(tmp_path / "smoke" / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    before = sorted(tmp_path.rglob("*"))
    shown = probe.start("05_dpo", "smoke")
    assert shown["peak_memory_gib"] > 0.1 and sorted(tmp_path.rglob("*")) == before


def test_a_probe_without_weights_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    with pytest.raises(QilinError, match="run 02_tokenize of 'smoke' first"):
        probe.start("04_sft", "smoke")


# --- the meter --------------------------------------------------------------------------------------------------------


def test_dpo_counts_equal_a_count_by_hand(job: Callable, sentences: Callable) -> None:
    work = job("05_dpo")
    work.parameters.max_steps = 1
    model, tokenizer = fit.prepare_model(work.parameters, work.paths.weights)
    pairs = [dpo.pair(row, BAICHUAN, tokenizer, work.parameters) for row in triplets(sentences(12, 4), 4)]
    trainer = dpo.make_trainer(work, model, tokenizer, pairs, [])
    meter = speed.Meter(trainer)
    trainer.train()
    facts = meter.facts(1.0, work.parameters, sizes(work.paths.weights))
    answers = sum(len(p["chosen_ids"]) + len(p["rejected_ids"]) for p in pairs)
    assert facts["tokens_input"] == answers + 2 * sum(len(p["prompt_ids"]) for p in pairs)


def test_rates_follow_from_tokens_and_seconds(job: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with the same counts: 200 tokens in rows of 50, in two seconds."""
    work = job("03_dcpt")
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
