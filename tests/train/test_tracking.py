"""Trackers: a missing one is said before training, and TensorBoard gets what log.jsonl gets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.trainings import job as job_of

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.tokens.pack import pack
from qilin_lib.train import tracking
from qilin_lib.train.methods import dcpt


@pytest.mark.parametrize("tracker", ["none", "tensorboard"])
def test_what_is_installed_passes(tracker: str, training: Callable) -> None:
    assert tracking.check(training("03_dcpt", report_to=tracker)) is None


def test_a_missing_tracker_is_one_sentence(training: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QilinError, match="03_dcpt: report_to = 'wandb', but .* not installed; .* pip install wandb"):
        tracking.check(training("03_dcpt", report_to="wandb"))


def test_places_that_the_user_chose_stay(training: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "/elsewhere")
    given = tracking.arguments(training("04_sft", run="r1", report_to="wandb"), Path("/runs/r1/04_sft"))
    assert given == {"report_to": "wandb", "run_name": "r1-04_sft", "project": "qilin-med"}
    assert os.environ["WANDB_PROJECT"] == "mine" and os.environ["TENSORBOARD_LOGGING_DIR"] == "/elsewhere"


def test_tensorboard_gets_the_losses(
    training: Callable, tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # setenv and delenv, so that what tracking.arguments sets is taken back after the test
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR")
    out = tmp_path / "run" / "03_dcpt"
    pack(tiny_tokenizer(sentences(30, 3))["input_ids"], 64, 3, 0).save(tmp_path / "blocks.npy")
    files.write_jsonl(tmp_path / "held.jsonl", [{"text": text} for text in sentences(2, 4)])
    paths = {"blocks": tmp_path / "blocks.npy", "medical": tmp_path / "held.jsonl", "general": tmp_path / "held.jsonl"}
    dcpt.work(job_of(training("03_dcpt", report_to="tensorboard", max_steps=3), out, tiny_model_dir, **paths))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "03_dcpt")).Reload()
    losses = {row["step"]: row["loss"] for row in files.read_jsonl(out / "log.jsonl") if "loss" in row}
    assert {event.step: pytest.approx(event.value) for event in events.Scalars("train/loss")} == losses
