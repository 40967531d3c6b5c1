"""A training that is dead numerically stops at once, says where, and leaves nothing that looks finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model
from qilin_lib.train import checkpoints, fit
from qilin_lib.train.methods import dcpt, dpo, reward, sft

pytestmark = pytest.mark.slow

BROKEN = "model.layers.1.mlp.down_proj.weight"
MODULES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo, "reward": reward}


@pytest.fixture(scope="module")
def nan_model(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with one weight that is no number."""
    import torch

    folder = tmp_path_factory.mktemp("nan") / "model"
    shutil.copytree(tiny_model_dir, folder)
    model = load_model(folder)
    with torch.no_grad():
        model.get_parameter(BROKEN)[0, 0] = float("nan")
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def job(tiny_model_dir: Path, tiny_tokenizer: Any, training: Callable, sentences: Callable, tmp_path: Path) -> Any:
    """`job(stage, weights, **parameters)`: what the child of a stage is given."""

    def make(stage: str, weights: Path = tiny_model_dir, **overrides: Any) -> SimpleNamespace:
        data = trainings.write_data(tmp_path, weights, tiny_tokenizer, sentences)
        parameters = training("04_sft" if stage == "reward" else stage, **{"max_heldout": 2, **overrides})
        if stage == "reward":
            parameters.batch_size, parameters.notebook = 4, "08_rlhf"
        if stage == "05_dpo":
            parameters.sampled_prompts = 0
        paths = data["03_dcpt"] | data["05_dpo"]
        return trainings.job(parameters, tmp_path, **paths)

    return make


def outcome(stage: str, job: SimpleNamespace) -> str:
    """The sentence that a training stops with, "finished" if it does not."""
    try:
        MODULES[stage].work(job)
    except (QilinError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "finished"


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
@pytest.mark.parametrize("stage", ["03_dcpt", "04_sft", "05_dpo", "reward"])
def test_a_weight_that_is_no_number_stops_every_training(
    stage: str, kind: str, job: Callable, nan_model: Path, tmp_path: Path
) -> None:
    """Also between two logged steps: logging_steps is larger than the training."""
    said = outcome(stage, job(stage, nan_model, finetuning=kind, logging_steps=50))
    assert said.startswith("QilinError: ") and "step 1" in said and BROKEN in said and "model.safetensors" in said
    assert "reference is not" not in said
    assert not (tmp_path / "facts.json").exists() and not (tmp_path / "model").exists()
    assert checkpoints.last(tmp_path / "checkpoints") is None


def test_a_loss_that_dies_on_the_way_names_step_and_cause(
    job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A weight becomes infinite after step 3, as an update too large for its type leaves it."""
    made = fit.log_callback

    def breaking(out: Path) -> Any:
        callback = made(out)
        usual = callback.on_step_end

        def strike(args: Any, state: Any, control: Any, **others: Any) -> Any:
            if state.global_step == 3:
                name, weight = [pair for pair in others["model"].named_parameters() if pair[1].requires_grad][-1]
                weight.data[0] = float("inf")
            return usual(args, state, control, **others)

        callback.on_step_end = strike
        return callback

    monkeypatch.setattr(fit, "log_callback", breaking)
    said = outcome("03_dcpt", job("03_dcpt", save_steps=1, learning_rate=0.01))
    assert said.startswith("QilinError: ") and "step 3" in said.replace("step 4", "step 3") and "lora_" in said
    assert "learning_rate" in said, "the base is whole: what to try is said"
    # The checkpoint that a rerun goes on from is one of finite weights.
    assert checkpoints.last(tmp_path / "checkpoints").name == "checkpoint-2"
    monkeypatch.undo()
    assert outcome("03_dcpt", job("03_dcpt", save_steps=1, learning_rate=0.01)) == "finished"


def test_gradients_that_are_no_numbers_stop_before_the_update(
    job: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss that is a number can have gradients that are none."""
    import torch
    from transformers import Trainer

    usual = Trainer.compute_loss

    def broken(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        loss = usual(self, model, inputs, *args, **more)
        if self.state.global_step == 1:
            weight = next(p for p in model.parameters() if p.requires_grad)
            # The slope of a root at zero is infinite, and 0 times infinity is NaN.
            return loss + 0 * torch.sqrt((weight - weight.detach()).abs()).sum()
        return loss

    monkeypatch.setattr(Trainer, "compute_loss", broken)
    said = outcome("04_sft", job("04_sft", logging_steps=50))
    assert said.startswith("QilinError: ") and "step 2" in said and "gradient" in said and "lora_" in said
    assert not (tmp_path / "facts.json").exists()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_spike_is_an_alarm_that_names_its_step(what: str, job: Callable, tmp_path: Path, monkeypatch: Any) -> None:
    """A loss, or a gradient alone, that jumps to many times its usual size; the training goes on and says so."""
    from transformers import Trainer

    usual = Trainer.compute_loss

    def jumping(self: Any, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
        loss = usual(self, model, inputs, *args, **more)
        if self.state.global_step == 9:
            return loss * 50 if what == "loss" else loss.detach() + 50 * (loss - loss.detach())
        return loss

    assert outcome("04_sft", job("04_sft", max_steps=12)) == "finished"
    assert files.read_json(tmp_path / "facts.json").get("alarms") == []
    monkeypatch.setattr(Trainer, "compute_loss", jumping)
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    (tmp_path / "log.jsonl").unlink()
    assert outcome("04_sft", job("04_sft", max_steps=12)) == "finished"
    raised = files.read_json(tmp_path / "facts.json").get("alarms", [])
    assert any(sentence.startswith(f"Step 10: the {what}") for sentence in raised), raised
    assert all("Step 10: " in sentence for sentence in raised)
