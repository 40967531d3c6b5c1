"""What a profile says is what its trainer does: every trainer of every profile, built on tiny weights, up to its start.

Each `work` runs as in its child process until transformers enters its training loop. Pretended are the GPUs: models are
loaded on the CPU whatever device is named, and a process group of torch's own "fake" kind stands for the other ranks.
What then would exchange numbers (DPO's reference before step 1) or need notebook 02's output (one_stage) is left out.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings

from qilin_lib import files, params
from qilin_lib.evaluate import sequence
from qilin_lib.evaluate.models import STAND_IN
from qilin_lib.models import load
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import baseline, fit, launch
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dpo, sft

pytestmark = pytest.mark.slow

# trainer: (notebook, module whose `work` trains, part of 08's parameters)
TRAINERS = {
    "dcpt": ("03_dcpt", "dcpt", None),
    "sft": ("04_sft", "sft", None),
    "dpo": ("05_dpo", "dpo", None),
    "reward": ("08_rlhf", "reward", "reward"),
    "rejection": ("08_rlhf", "sft", "rejection"),
    "rl": ("08_rlhf", "rl", "rl"),
}
LONG = 700


class Entered(Exception):
    """The training loop was entered; holds the trainer."""


@pytest.fixture(scope="module")
def place(tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path_factory: Any) -> SimpleNamespace:
    """Data for every trainer, and the models that it starts from; some turns are longer than every limit."""
    folder = tmp_path_factory.mktemp("construction")
    rows = trainings.triplets(sentences(192, 61), 64)
    for row in rows[::2]:
        row["source"] = "cmexam"
    for turn in rows[0]["messages"]:
        turn["content"] = "".join(sentences(LONG // 10, 62))
    files.write_jsonl(folder / "sft.jsonl", rows)
    files.write_jsonl(folder / "held.jsonl", [])
    encoded = tiny_tokenizer(sentences(60, 63), add_special_tokens=False)["input_ids"]
    pack(encoded, 64, tiny_tokenizer.eos_token_id, tiny_tokenizer.pad_token_id).save(folder / "blocks.npy")
    return SimpleNamespace(folder=folder, paths={
        "weights": tiny_model_dir, "cache": folder / "cache",
        "data": folder / "sft.jsonl", "blocks": folder / "blocks.npy",
        "medical": folder / "held.jsonl", "general": folder / "held.jsonl",
    })  # fmt: skip


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """`ranks(count)`: this process is the first of `count`; the others answer at once and say nothing."""
    import torch.distributed
    from accelerate.state import AcceleratorState
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    def pretend(count: int) -> None:
        for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}.items():
            monkeypatch.setenv(name, str(value))
        torch.distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=count)

    # transformers hands DeepSpeed's settings to accelerate through the environment.
    before = set(os.environ)
    yield pretend
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    unset_hf_deepspeed_config()
    for name in os.environ.keys() - before:
        del os.environ[name]


@pytest.fixture
def built(place: SimpleNamespace, ranks: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable:
    """`built(parameters, module)`: (the trainer as it enters its loop, what `load_model` was called with)."""
    from transformers import Trainer
    from trl import DPOTrainer

    loads: list[dict[str, Any]] = []
    usual, arguments = load.load_model, fit.arguments

    def on_cpu(path: Any, dtype: str = "float32", quantised: bool = False, device: str = "cpu", *a: Any, **k: Any):
        loads.append({"path": Path(path), "quantised": quantised, "device": device, "dtype": dtype})
        return usual(path, dtype, quantised, "cpu", *a, **k)

    def entered(self: Any, *_: Any, **__: Any) -> None:
        raise Entered(self)

    def without_gpu(parameters: Any, out: Path) -> dict[str, Any]:
        made = arguments(parameters, out)
        assert made["use_cpu"] == (parameters.gpus == 0)
        return made | {"use_cpu": True, "dataloader_pin_memory": False}

    def no_columns(trainer: Any, dataset: Any, name: str, batch_size: int) -> Any:
        for column in ("ref_chosen_logps", "ref_rejected_logps"):
            dataset = dataset.add_column(column, [0.0] * len(dataset))
        return dataset

    for name in ("models.adapters", "train.fit", "train.methods.dpo", "train.methods.dcpt"):
        module = importlib.import_module(f"qilin_lib.{name}")
        if hasattr(module, "load_model"):
            monkeypatch.setattr(module, "load_model", on_cpu)
    monkeypatch.setattr(Trainer, "_inner_training_loop", entered)
    monkeypatch.setattr(fit, "arguments", without_gpu)
    monkeypatch.setattr(DPOTrainer, "_precompute_ref_logps", no_columns)
    monkeypatch.setattr(dpo, "step_zero", lambda *_: {})
    # The profiles' lengths are for longer contexts than these weights have.
    monkeypatch.setattr(fit, "reads", lambda _: 10**6)
    monkeypatch.setattr(sft, "with_passages", lambda job, tokenizer, training: (training, {}))

    def build(parameters: SimpleNamespace, module: Any, **paths: Path) -> tuple[Any, list[dict[str, Any]]]:
        loads.clear()
        if launch.processes(parameters) > 1 or parameters.deepspeed:
            ranks(launch.processes(parameters))
        everything = SimpleNamespace(**place.paths | paths)
        job = SimpleNamespace(parameters=parameters, out=tmp_path, template=BAICHUAN, paths=everything)
        files.write_json(tmp_path / "constructed" / "facts.json", {})
        with pytest.raises(Entered) as caught:
            module.work(job)
        return caught.value.args[0], list(loads)

    return build


def parameters_of(profile: str, trainer: str) -> SimpleNamespace:
    """Parameters as the child process of a trainer gets them."""
    notebook, _, part = TRAINERS[trainer]
    whole = params.load(notebook, {"profile": profile}).model_dump(mode="json")
    if part:
        whole |= {"dry_run": False, **whole[part]}
    if trainer == "sft":
        # They name sources, and want questions, that the sentences learned here do not have.
        whole |= dict.fromkeys(("source_weights", "question_share"))
    if trainer == "rejection":
        length = whole["max_source_length"] + whole["max_target_length"] + 32
        whole |= {
            "max_length": length,
            "packing": False,
            "source_weights": None,
            "question_share": None,
            "one_stage": None,
        }
    return SimpleNamespace(**whole)


def check(trainer: Any, parameters: SimpleNamespace) -> None:
    """What holds for the trainer of any method."""
    import torch
    from transformers.modeling_layers import GradientCheckpointingLayer

    args, accelerator = trainer.args, trainer.accelerator
    layers = [module for module in trainer.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    checkpointed = {layer.gradient_checkpointing for layer in layers}
    assert checkpointed == {parameters.gradient_checkpointing}, "layers that compute their activations twice"

    trained = {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}
    if parameters.deepspeed:
        # DeepSpeed makes all weights bfloat16 and keeps a float32 copy of those that learn.
        config = args.hf_deepspeed_config.config
        assert config["bf16"]["enabled"] == (parameters.dtype == "bfloat16")
        assert Path(args.deepspeed).stem == parameters.deepspeed
        assert config["zero_optimization"]["stage"] == int(parameters.deepspeed[4])
        assert accelerator.distributed_type == "DEEPSPEED"
    else:
        assert {name for name, weight in trained.items() if weight.dtype != torch.float32} == set()
        assert args.deepspeed is None
    assert args.bf16 == (parameters.dtype == "bfloat16")

    rewards = hasattr(trainer.model, "score")
    whole = [name for name in parameters.modules_to_save if not (rewards and name == "lm_head")]
    kinds = {"lora" if "lora_" in name else "whole" for name in trained}
    if parameters.finetuning == "full":
        assert len(trained) == len(list(trainer.model.parameters()))
    else:
        assert "lora" in kinds and all(
            any(f".{name}." in one for one in trained) for name in whole if name != "lm_head"
        )

    optimizer = trainer.create_optimizer()
    assert type(optimizer).__name__ == "AdamW"
    assert {group["lr"] for group in optimizer.param_groups} == {parameters.learning_rate}
    assert {group["weight_decay"] for group in optimizer.param_groups} <= {parameters.weight_decay, 0.0}
    decayed = {id(w) for group in optimizer.param_groups if group["weight_decay"] for w in group["params"]}
    matrices = {id(weight) for weight in trained.values() if weight.ndim == 2}
    assert decayed == (matrices if parameters.weight_decay else set()), "embeddings too, norms and biases not"
    for name in ("max_steps", "num_train_epochs", "max_grad_norm", "lr_scheduler_type", "seed"):
        assert getattr(args, name) == getattr(parameters, name)
    assert args.warmup_steps == parameters.warmup_ratio

    assert accelerator.num_processes == launch.processes(parameters) and args.n_gpu <= 1
    batch = args.train_batch_size * args.gradient_accumulation_steps * accelerator.num_processes
    asked = parameters.per_device_train_batch_size * parameters.gradient_accumulation_steps
    assert batch == asked * max(1, parameters.gpus) * parameters.nodes


def longest(rows: Any, *names: str) -> int:
    return max(sum(len(row[name]) for name in names) for row in rows)


def check_lengths(trainer: Any, parameters: SimpleNamespace, method: str) -> None:
    """One question and one answer of the data are longer than any limit: they are cut to it, and nothing else cuts."""
    rows, target = trainer.train_dataset, parameters.max_target_length
    both = parameters.max_source_length + target
    if method in ("sft", "rejection"):
        batch = trainer.data_collator([rows[i] for i in range(8)])
        assert (batch["position_ids"][:, 1:-1] == 0).any() == (parameters.packing is True) or batch["input_ids"].shape[
            0
        ] == 8
        assert batch["input_ids"].numel() <= 8 * parameters.max_length
        assert batch.get("fused_lm_head", False) == (parameters.gpus > 0), "no full logits on a GPU"
        assert both <= max(ids.shape[1] for ids in rows) <= min(both + 32, parameters.max_length)
    elif method == "dpo":
        assert trainer.args.max_length is None
        assert target <= longest(rows, "chosen_ids") <= target + 1
        assert both <= longest(rows, "prompt_ids", "chosen_ids") <= both + 32
    elif method == "reward":
        assert trainer.args.max_length is None and both <= longest(rows, "chosen_ids") <= both + 32
    else:
        assert trainer.args.max_completion_length == target
        assert trainer.args.num_generations == parameters.num_generations


def distinct() -> list[Any]:
    """(profile, trainer) with parameters that no profile before it has."""
    seen, cases = [], []
    for profile in sorted(params.profiles(), key=lambda name: (name != "smoke", name)):
        for trainer in TRAINERS:
            values = vars(parameters_of(profile, trainer)) | {"profile": None, "run": None, "chain": None}
            if values not in seen and not (trainer == "rl" and values["method"] == "none"):
                seen.append(values)
                cases.append(pytest.param(profile, trainer, id=f"{profile}-{trainer}"))
    return cases


@pytest.mark.parametrize(("profile", "method"), distinct())
def test_the_trainer_does_what_the_profile_says(
    profile: str, method: str, built: Callable, place: SimpleNamespace, tmp_path: Path
) -> None:
    parameters = parameters_of(profile, method)
    module = importlib.import_module(f"qilin_lib.train.methods.{TRAINERS[method][1]}")
    paths = {}
    if method == "rl":
        judged = SimpleNamespace(**vars(parameters_of(profile, "reward")) | {"gpus": 0})
        paths = {"reward": trainings.left(judged, place.paths["weights"], tmp_path / "judge", rewards=True)}
    trainer, loads = built(parameters, module, **paths)
    check(trainer, parameters)
    if method != "dcpt":
        check_lengths(trainer, parameters, method)

    names = [type(one).__name__ for one in trainer.model.modules()]
    assert ("Linear4bit" in names) == (parameters.finetuning == "qlora")
    device = "cuda:0" if parameters.gpus else "cpu"
    assert loads[0]["quantised"] == (parameters.finetuning == "qlora")
    assert {one["device"] for one in loads} <= {device, "cpu"} and loads[0]["device"] == device
    if method == "rl":
        assert len(loads) == 2 and loads[1]["quantised"] == loads[0]["quantised"], "the judge is as the policy"
    packed = method == "dcpt" or (method == "sft" and parameters.packing is True)
    assert trainer.model.config._attn_implementation == ("documents" if packed else "sdpa")
    heads = [name for name, weight in trainer.model.named_parameters() if weight.requires_grad and ".score." in name]
    assert len(heads) == (method == "reward"), "a reward is learned by a head of its own"
    if method == "reward":
        assert trainer.model.get_parameter(heads[0]).shape[0] == 1


BF16 = {"gpus": 1, "dtype": "bfloat16", "deepspeed": None}
WHOLE = ["embed_tokens", "lm_head"]


@pytest.mark.parametrize("method", ["dcpt", "dpo", "reward"])
@pytest.mark.parametrize("finetuning", ["lora", "qlora", "full"])
def test_what_learns_is_float32_also_after_a_resume(
    method: str, finetuning: str, built: Callable, tmp_path: Path
) -> None:
    """bfloat16 has eight bits: an update below 1/256 of a weight is lost. peft leaves `modules_to_save` in it, and TRL
    makes a quantised model's adapter of it."""
    import torch

    parameters = parameters_of("smoke", method)
    parameters.__dict__.update(BF16 | {"finetuning": finetuning, "modules_to_save": WHOLE})
    trainer, _ = built(parameters, importlib.import_module(f"qilin_lib.train.methods.{TRAINERS[method][1]}"))
    check(trainer, parameters)
    trainer.save_model(str(tmp_path / "checkpoint-1"))
    trainer._load_from_checkpoint(str(tmp_path / "checkpoint-1"))
    kinds = {weight.dtype for weight in trainer.model.parameters() if weight.requires_grad}
    assert kinds == {torch.float32}


def test_the_policy_of_a_quantised_model_starts_from_its_weights_as_they_are(
    built: Callable, place: SimpleNamespace
) -> None:
    """TRL rounds what learns to bfloat16: with whole modules the policy was not its reference before step 1."""
    parameters = parameters_of("smoke", "dpo")
    parameters.__dict__.update({"finetuning": "qlora", "modules_to_save": WHOLE})
    trainer, _ = built(parameters, dpo)
    (found,) = (one for name, one in trainer.model.named_parameters() if "embed_tokens.modules_to_save" in name)
    assert found.equal(load.load_model(place.paths["weights"]).get_input_embeddings().weight)


FINETUNED = [
    pytest.param(profile, name, id=f"{profile}-{name}")
    for profile in params.profiles()
    for name, one in params.load("06_eval", {"profile": profile}).baselines.items()
    if one.finetune
]


@pytest.fixture
def finetuned(
    built: Callable, place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[Any, SimpleNamespace]]:
    """`finetuned(06's parameters, baseline, weights)`: (trainer, parameters) of the job that would be started."""

    def make(evaluate: Any, name: str, weights: Path) -> tuple[Any, SimpleNamespace]:
        def started(*_: Any) -> None:
            raise Entered

        stage = SimpleNamespace(
            name="06_eval", parameters=evaluate, dir=tmp_path, run_dir=tmp_path,
            run=SimpleNamespace(old=lambda _: []), parent=lambda _: place.folder,
        )  # fmt: skip
        spec = evaluate.baselines[name].finetune
        monkeypatch.setattr(launch, "run", started)
        with pytest.raises(Entered):
            baseline.finetune(stage, name, spec, BAICHUAN, weights, lambda _: None)
        parameters = jobs.read(baseline.folder(stage, name) / "job.json").parameters
        return built(parameters, baseline, weights=weights)[0], parameters

    return make


@pytest.mark.parametrize(("profile", "name"), FINETUNED)
def test_the_trainer_of_a_baseline_does_what_the_profile_says(
    profile: str, name: str, finetuned: Callable, place: SimpleNamespace, tmp_path: Path
) -> None:
    evaluate, weights = params.load("06_eval", {"profile": profile}), place.paths["weights"]
    if sequential := evaluate.baselines[name].model == STAND_IN:
        weights = sequence.stand_in(weights, tmp_path / "t5", 17)
    trainer, parameters = finetuned(evaluate, name, weights)
    check(trainer, parameters)
    assert trainer.model.config.is_encoder_decoder == sequential
    spec = evaluate.baselines[name].finetune
    assert spec.model_dump(exclude={"on"}).items() <= vars(parameters).items()


def test_a_baseline_of_seven_billion_weights_accumulates_and_checkpoints(
    finetuned: Callable, place: SimpleNamespace
) -> None:
    """CMExam's own script has batches of 128; a GPU holds a few conversations of them."""
    spec = {"on": "cmexam", "finetuning": "lora", "num_train_epochs": 1.0, "max_steps": -1, "learning_rate": 3e-4}
    spec |= {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 16, "gradient_checkpointing": True}
    asked = {"gpus": 1, "dtype": "bfloat16", "baselines": {"LLaMA": {"model": "base", "finetune": spec}}}
    trainer, parameters = finetuned(params.load("06_eval", asked), "LLaMA", place.paths["weights"])
    check(trainer, parameters)
    assert trainer.args.gradient_accumulation_steps == 16 and trainer.args.gradient_checkpointing
