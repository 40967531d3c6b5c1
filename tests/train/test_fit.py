"""What the three stages share: arguments by name, whole checkpoints only, one row a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.trainings import job as job_of

from qilin_lib import files
from qilin_lib.tokens.pack import pack
from qilin_lib.train.fit import log_callback, prepare_model, read_log
from qilin_lib.train.methods import dcpt


def test_later_row_of_a_step_counts(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 9.0},
        {"step": 3, "loss": 1.5},
        {"step": 2, "loss": 2.1},
        {"step": 3, "loss": 1.4},
    ]
    files.write_jsonl(tmp_path / "log.jsonl", rows)
    assert read_log(tmp_path) == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 2.1, "eval_loss": 9.0},
        {"step": 3, "loss": 1.4},
    ]


def test_log_callback_appends_rows_and_tells_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from transformers import TrainerState

    state = TrainerState(global_step=4, max_steps=10, is_world_process_zero=True)
    for _ in range(2):
        log_callback(tmp_path).on_log(None, state, None, logs={"loss": 1.25})
    log_callback(tmp_path).on_log(None, state, None, logs={"train_runtime": 3.0})
    assert list(files.read_jsonl(tmp_path / "log.jsonl")) == [{"step": 4, "loss": 1.25}] * 2
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 2 and told[0].startswith("QILIN-PROGRESS ")
    shown = json.loads(told[0].removeprefix("QILIN-PROGRESS "))
    assert {key: shown[key] for key in ("step", "steps", "loss")} == {"step": 4, "steps": 10, "loss": 1.25}


@pytest.mark.parametrize("notebook", ["03_dcpt", "04_sft", "05_dpo"])
def test_a_tokenizer_without_a_padding_token_pads_with_its_end_token(
    notebook: str, training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """LLaMA's has none."""
    shutil.copytree(tiny_model_dir, tmp_path / "base")
    settings = tmp_path / "base" / "tokenizer_config.json"
    files.write_json(settings, {k: v for k, v in files.read_json(settings).items() if k != "pad_token"})
    tokenizer = prepare_model(training(notebook), tmp_path / "base")[1]
    assert tokenizer.pad_token_id is not None
    assert tokenizer.pad_token_id == tokenizer.eos_token_id


def test_tensorboard_gets_the_losses(
    training: Callable, tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # setenv and delenv, so that what fit.arguments sets is taken back after the test
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
