"""The estimate of memory and time: every term against a real model, and what the table says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.load import load_model
from qilin_lib.models.shapes import Census, census, shape
from qilin_lib.train import memory, preflight
from qilin_lib.train.memory import Batch
from qilin_lib.train.preflight import GIB, Preflight, Time

pytestmark = pytest.mark.slow


@pytest.fixture
def weights(tiny_model_dir: Path) -> Callable[[Any], Census]:
    return lambda parameters: census(shape(tiny_model_dir), parameters)


@pytest.fixture
def terms(training: Callable, weights: Callable) -> Callable[..., dict[str, float]]:
    """`terms(notebook, batch, **overrides)`: bytes by term for the tiny model."""

    def make(notebook: str = "03_dcpt", batch: Batch = Batch(4, 64), **overrides: object) -> dict[str, float]:  # noqa: B008
        parameters = training(notebook, **overrides)
        return preflight.needed(weights(parameters), parameters, batch)[0]

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


@pytest.mark.parametrize("saved_whole", [[], ["embed_tokens", "lm_head"]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_weights_gradients_and_optimizer_are_the_real_bytes(
    kind: str, dtype: str, saved_whole: list[str], terms: Callable, training: Callable, tiny_model_dir: Path
) -> None:
    import torch

    chosen = {"finetuning": kind, "dtype": dtype, "modules_to_save": saved_whole}
    parameters = training("03_dcpt", **chosen)
    model = prepared(parameters, tiny_model_dir)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained)
    ids = torch.randint(0, 200, (1, 8))
    model(input_ids=ids, labels=ids).loss.backward()
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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_nf4_weights_are_near_the_real_bytes(
    dtype: str, terms: Callable, training: Callable, tiny_model_dir: Path
) -> None:
    """Small layers pay more for their constants than the formula says, hence the margin."""
    import bitsandbytes as bnb

    real = 0
    model = prepared(training("03_dcpt", finetuning="qlora", dtype=dtype), tiny_model_dir)
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            state = module.weight.quant_state
            real += module.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
        elif not list(module.children()) and "lora_" not in name:
            real += sum(p.nbytes for p in module.parameters())
    assert terms(finetuning="qlora", dtype=dtype)["weights"] == pytest.approx(real, rel=0.05)


SETTINGS = [
    {"finetuning": "full"},
    {"finetuning": "full", "dtype": "bfloat16"},
    {"finetuning": "lora"},
    {"finetuning": "lora", "dtype": "bfloat16"},
    {"finetuning": "lora", "lora_dropout": 0.05},
    {"finetuning": "lora", "lora_dropout": 0.05, "dtype": "bfloat16"},
    {"finetuning": "lora", "target_modules": ["q_proj", "v_proj"]},
    {"finetuning": "qlora", "dtype": "bfloat16"},
]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chosen", SETTINGS, ids=str)
def test_activations_are_near_what_autograd_saves(
    chosen: dict[str, Any], checkpointing: bool, training: Callable, weights: Callable, tiny_model_dir: Path
) -> None:
    """Distinct storages that saved_tensors_hooks see in a forward pass over packed rows, without the weights."""
    import torch

    parameters = training("03_dcpt", **chosen, gradient_checkpointing=checkpointing)
    model = prepared(parameters, tiny_model_dir)
    body = model.model if parameters.finetuning == "full" else model.get_base_model().model
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            found[place] = tensor
        return tensor

    rows, length = 8, 128
    ids, positions = torch.randint(0, 200, (rows, length)), torch.arange(length // 2).repeat(rows, 2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(parameters):
        body(input_ids=ids, position_ids=positions)
    real = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    assert memory.saved(weights(parameters), parameters, Batch(rows, length)) == pytest.approx(real, rel=0.12)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chosen", SETTINGS[2:5] + SETTINGS[7:], ids=str)
def test_activations_and_logits_are_near_the_allocator_s_peak(
    chosen: dict[str, Any], checkpointing: bool, training: Callable, weights: Callable, tiny_model_dir: Path
) -> None:
    """Forward and backward of a real step. With checkpointing the peaks of head and layers do not coincide."""
    import torch

    parameters = training("03_dcpt", **chosen, gradient_checkpointing=checkpointing)
    model = prepared(parameters, tiny_model_dir)
    rows, length = 8, 128
    ids, positions = torch.randint(0, 200, (rows, length)), torch.arange(length // 2).repeat(rows, 2)

    def step() -> None:
        with autocast(parameters):
            loss = model(input_ids=ids, position_ids=positions, labels=ids).loss
        loss.backward()

    step()
    model.zero_grad(set_to_none=True)
    real = allocated(step)
    counted, batch = weights(parameters), Batch(rows, length)
    layers, head = memory.activations(counted, parameters, batch), memory.logits(counted, parameters, batch)
    if checkpointing:
        assert max(layers, head) * 0.85 < real < (layers + head) * 1.1
    else:
        assert layers + head == pytest.approx(real, rel=0.15)


@pytest.mark.parametrize("words", [3000, 40000])
def test_dpo_s_fused_head_is_near_the_allocator_s_peak(words: int, training: Callable) -> None:
    import torch
    from trl.kernels import ChunkedLogProbFunction

    hidden, tokens = 64, 256
    head = torch.randn(words, hidden)
    states, targets = torch.randn(tokens, hidden, requires_grad=True), torch.randint(0, words, (tokens,))

    def step() -> None:
        wanted = ("entropy", "mean_logits", "is_top1")
        ChunkedLogProbFunction.apply(states, head, None, targets, 1.0, 32768, None, 1.0, wanted)[0].sum().backward()

    frozen = SimpleNamespace(trained=False)
    counted = SimpleNamespace(config=SimpleNamespace(vocab_size=words, hidden_size=hidden), head=frozen)
    found = memory.logits(counted, training("05_dpo"), Batch(2, tokens // 2))
    assert found == pytest.approx(allocated(step), rel=0.1)


def test_zero_shards_what_it_says(terms: Callable) -> None:
    """fp32 copy and two moments: 12 bytes a trained weight, over all processes; ZeRO-2 gradients, ZeRO-3 weights."""
    chosen = {"finetuning": "full", "gpus": 4, "dtype": "bfloat16"}
    zero2, zero3 = (terms(**chosen, deepspeed=kind) for kind in ("zero2", "zero3"))
    one = terms(**{**chosen, "gpus": 1}, deepspeed="zero2")
    count = one["weights"] / 2
    assert zero2["weights"] == 2 * count and zero2["optimizer"] == 12 * count / 4 == zero3["optimizer"]
    assert zero2["gradients"] == 2 * count / 4 + 2 * count, "a bucket larger than the model holds all of its gradients"
    assert zero3["weights"] == 2 * count / 4 + 2 * count, "what is gathered at a time is bounded by the model here"
    assert zero2["activations"] == zero3["activations"] == one["activations"]


def test_offloading_moves_to_the_host(training: Callable, weights: Callable) -> None:
    chosen = {"finetuning": "full", "gpus": 2, "dtype": "bfloat16"}

    def both(kind: str) -> tuple[dict[str, float], dict[str, float]]:
        parameters = training("03_dcpt", **chosen, deepspeed=kind)
        return preflight.needed(weights(parameters), parameters, Batch(1, 64))

    (plain, nothing), (second, host2), (third, host3) = map(both, ("zero2", "zero2_offload", "zero3_offload"))
    assert nothing == {} and second["optimizer"] == third["optimizer"] == 0
    # On the host gradients are kept in fp32 as well: 16 bytes a weight instead of 12.
    assert host2 == {"optimizer": plain["optimizer"] * 16 / 12}
    assert host3["weights"] == plain["weights"] / 2


def test_full_dpo_keeps_a_second_model_unless_it_is_precomputed(terms: Callable) -> None:
    live = terms("05_dpo", finetuning="full", precompute_ref_log_probs=False)
    assert live["reference"] == live["weights"]
    assert terms("05_dpo", finetuning="full", precompute_ref_log_probs=True)["reference"] == 0
    assert terms("05_dpo", finetuning="lora", precompute_ref_log_probs=False)["reference"] == 0


def test_what_grows_and_what_saves(terms: Callable) -> None:
    usual = terms()
    assert terms(batch=Batch(8, 64))["logits"] == 2 * usual["logits"]
    assert terms(batch=Batch(4, 64, 0.5))["logits"] == usual["logits"] / 2
    assert terms(batch=Batch(4, 128))["activations"] > 2 * usual["activations"], "the mask grows with the square"
    assert terms(gradient_checkpointing=True)["activations"] < usual["activations"]
    assert terms(nproc_per_node=2)["gradients"] == 2 * usual["gradients"], "DDP copies gradients into buckets"


@pytest.mark.parametrize(
    ("notebook", "batch"),
    [("03_dcpt", Batch(1, 1024)), ("04_sft", Batch(64, 1024, 0.5)), ("05_dpo", Batch(16, 512, 0.5))],
)
def test_a_dry_run_needs_nothing_but_the_profile(
    notebook: str, batch: Batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    parameters = params.load(notebook, {"profile": "full_a100", "gpus": 8})
    found = preflight.estimate(parameters)
    counted = census(shape("baichuan-inc/Baichuan-7B"), parameters)
    assert found.terms["activations"] * GIB == pytest.approx(memory.activations(counted, parameters, batch))
    assert found.terms["weights"] * GIB == pytest.approx(2 * 7_000_559_616)
    assert found.available is None and "no GPU; needs" in repr(found) and "does NOT fit" not in repr(found)
    assert "8 x A100: about" in repr(found) and "per million tokens" in repr(found)
    assert not list(tmp_path.iterdir())


def test_a_finished_02_gives_shape_and_tokens(
    tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    stage = tmp_path / "r" / "02_tokenize"
    files.write_json(stage / "base.json", {"path": str(tiny_model_dir)})
    files.write_json(stage / "packing.json", {"block_size": 64, "tokens": 10_000})
    entry = {"samples": 10, "tokens": 900}
    files.write_json(stage / "token_counts.json", {"sft": {"a": entry, "b": entry}, "dpo": {}})
    chosen = {"run": "r", "num_train_epochs": 2.0, "max_steps": -1, "finetuning": "lora", "modules_to_save": []}
    parameters = params.load("03_dcpt", chosen)
    found = preflight.estimate(parameters)
    assert found.times[0].tokens == 20_000 and found.times[0].hours > 0
    assert found.terms["logits"] * GIB == 4 * 64 * (shape(tiny_model_dir).vocab_size * 12 + 64 * 4)
    assert found.place == "this machine" and 0.5 < found.available < 100_000
    assert preflight.estimate(params.load("04_sft", chosen)).times[0].tokens == 3600
    few = params.load("04_sft", {**chosen, "max_steps": 5})
    assert preflight.estimate(few).times[0].tokens == 5 * few.per_device_train_batch_size * 90


def test_an_unknown_base_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    profile = tmp_path / "params"
    profile.mkdir()
    text = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    (profile / "other.yaml").write_text(text.replace("base: tiny", "base: nobody/nothing-70b"), encoding="utf-8")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(profile))
    with pytest.raises(QilinError, match="nobody/nothing-70b"):
        preflight.estimate(params.load("03_dcpt", {"profile": "other"}))


def made(size: float, available: float | None = 2.0) -> Preflight:
    terms = {"weights": size, "logits": 0.5, "CUDA context": 0.25}
    return Preflight(
        terms, {"optimizer": 3.0}, available, "this machine", (Time("one GPU", 1000.0, 7_200_000),), ("N",)
    )


def test_the_verdict_is_shown() -> None:
    assert made(1.0).total == 1.75 and "2.0 GiB a process; 1.8 GiB: it fits" in made(1.0)._repr_html_()
    assert "does NOT fit" in made(2.0)._repr_html_() and "does NOT fit" in repr(made(2.0))
    for text in (repr(made(1.0)), made(1.0)._repr_html_()):
        assert "one GPU: about 1,000 tokens/s, 2.0 h for 7,200,000 tokens" in text
        assert "host memory: optimizer" in text and "3.00" in text
    assert "needs 1.8 GiB per GPU" in repr(made(1.0, None))


def test_the_error_is_of_the_measured_value() -> None:
    facts = {"peak_memory_gib": 1.25, "input_tokens_per_second": 800}
    found = preflight.error(made(1.0), facts)
    assert found.facts() == {
        # CUDA's allocator does not see the context.
        "peak_memory_gib": {"predicted": 1.5, "measured": 1.25, "error_percent": 20.0},
        "input_tokens_per_second": {"predicted": 1000.0, "measured": 800, "error_percent": 25.0},
    }
    for text in (repr(found), found._repr_html_()):
        assert "+20.0 %" in text and "+25.0 %" in text
    unknown = preflight.error(made(1.0, None), {"peak_memory_gib": None}).facts()
    assert unknown["input_tokens_per_second"] == {"predicted": None, "measured": None, "error_percent": None}
    assert unknown["peak_memory_gib"]["error_percent"] is None
