"""The estimate: what is exact against real models, what is a bound against the allocator, and what the table says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model
from qilin_lib.models.shapes import sizes
from qilin_lib.train import fit, methods, preflight, probe, speed
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
    """The model as `fit.prepare_model` makes it, with gradient checkpointing as the trainer switches it on."""
    quantised = parameters.finetuning == "qlora"
    kind = "float32" if parameters.finetuning == "full" else parameters.dtype
    model = load_model(path, kind, quantised)
    if parameters.finetuning != "full":
        model = add_lora(model, parameters, quantised)
    if parameters.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    fit.full_precision(model, parameters)
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
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`base(make)`: folder of a random model of that make."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        from transformers import AutoConfig, AutoModelForCausalLM

        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **MAKES[name])).save_pretrained(made[name])
        return made[name]

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
    return Preflight(frame, "this <machine>", available, "one GPU", 1000.0, 7_200_000, "N")


def test_the_verdict_is_shown() -> None:
    for size, available, verdict in (
        (0.9, 2.0, "2.0 GiB per process: at least 1.4 and at most 1.9 GiB are needed, it fits"),
        (1.2, 2.0, "at least 1.7 and at most 2.2 GiB are needed, whether it fits only a probe on the device can say"),
        (2.0, 2.0, "at least 2.5 and at most 3.0 GiB are needed, it does NOT fit"),
        (2.0, None, "at least 2.5 and at most 3.0 GiB are needed, whether it fits only a probe"),
        (0.1, 2.0, "at least 1.0 and at most 1.1 GiB are needed, it fits"),
    ):
        found = made(size, available)
        for text in (repr(found), found._repr_html_()):
            assert verdict in text and "2.00 h for 7,200,000 tokens" in text and "at most 3.0 GiB of disk" in text
    assert "<machine>" not in made(1.0)._repr_html_()


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
