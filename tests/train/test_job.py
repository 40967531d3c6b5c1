"""A training's processes: what they are told, what is skipped, what a failure leaves behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.progress import FINISHED
from qilin_lib.runs import Stage
from qilin_lib.train import job as jobs
from qilin_lib.train import launch
from qilin_lib.train.methods import Method

# Stands in for a method's module: it writes what it was told, and fails once where it is asked to.
CHILD = """
import shutil, sys
from qilin_lib import files

def work(job):
    (job.out / "checkpoints" / "checkpoint-2").mkdir(parents=True, exist_ok=True)
    print('QILIN-PROGRESS {"text": "half way"}', flush=True)
    if getattr(job.parameters, "fails", False) and not (job.out / "failed").exists():
        (job.out / "failed").touch()
        sys.exit("no luck")
    shutil.copy(sys.argv[1], job.out / "told.json")
    files.write_json(job.out / "facts.json", {"ran": 1})

def score(job):
    if getattr(job.parameters, "cannot_score", False) and (job.out / "told.json").exists():
        sys.exit("no room")
    files.write_json(job.out / "heldout.json", {})
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`start(module, overrides, **more)`: `jobs.train_step` in tmp/08_rlhf/reward, as for a reward model."""
    (tmp_path / "child_of_steps.py").write_text(CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"template": "plain"})

    def run(module: str = "child_of_steps", overrides: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        stage = Stage(params.load("08_rlhf", {"seed": 5, **(overrides or {})}), tmp_path, "key", {}, False)
        shown: list[str] = []
        inputs = {"weights": tmp_path / "weights"}
        folder = tmp_path / "08_rlhf" / "reward"
        steps, method = stage.parameters.reward, Method(module, "dpo")
        facts = jobs.train_step(stage, method, folder, steps, inputs, shown.append, **more)
        return {"facts": facts, "shown": shown, "folder": folder, "stage": stage.parameters}

    return run


def test_the_child_is_told_the_stage_s_parameters_and_one_training_s_steps(start: Callable) -> None:
    made = start(notebook="08_rlhf", temperature=0.5)
    told = files.read_json(made["folder"] / "told.json")
    given, common = told["parameters"], made["stage"].model_dump(mode="json")
    assert made["facts"] == {"ran": 1} and made["shown"] == ["half way"]
    assert not given.keys() & {"reward", "rejection", "rl"} and given["seed"] == 5
    assert {name: given[name] for name in common["reward"]} == common["reward"]
    assert given["temperature"] == 0.5 and given["lora_r"] == common["lora_r"]
    files.write_json(made["folder"] / "again.json", told)
    job = jobs.read(str(made["folder"] / "again.json"))
    assert (job.template.name, job.out) == ("plain", made["folder"])
    assert job.paths.weights.name == "weights" and job.parameters.max_steps == common["reward"]["max_steps"]


def test_a_finished_folder_is_only_read_and_swept(start: Callable) -> None:
    folder = start()["folder"]
    assert not (folder / "checkpoints").exists() and not (folder / "job.json").exists()
    # As a kill between the facts and the sweeping leaves it.
    (folder / "checkpoints").mkdir()
    files.write_json(folder / "job.json", {})
    again = start("module.that.is.not.there")
    assert again["facts"] == {"ran": 1} and again["shown"] == [FINISHED]
    assert not (folder / "checkpoints").exists() and not (folder / "job.json").exists()


@pytest.mark.parametrize("adapter", [True, False])
def test_an_adapter_is_merged_before_a_training_starts_from_it(
    adapter: bool, start: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapter:
        files.write_json(tmp_path / "weights" / "adapter_config.json", {})
    done: list[str] = []
    monkeypatch.setattr(launch, "run", lambda command, *_: done.extend(command[4:]))
    with pytest.raises(QilinError, match="facts.json"):
        start()
    assert done == [*["open"] * adapter, "train", "score"]


def test_a_failed_child_is_named_keeps_its_checkpoints_and_goes_on(start: Callable, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"exit code 1: no luck \(whole log: .*reward/train\.log\)"):
        start(fails=True)
    folder = tmp_path / "08_rlhf" / "reward"
    assert (folder / "checkpoints" / "checkpoint-2").is_dir() and not (folder / "facts.json").exists()
    assert start(fails=True)["facts"] == {"ran": 1}


def test_scoring_that_fails_is_repeated_and_the_training_is_not(start: Callable, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="exit code 1: no room"):
        start(cannot_score=True)
    folder = tmp_path / "08_rlhf" / "reward"
    (folder / "told.json").unlink()
    assert start()["facts"] == {"ran": 1}
    assert not (folder / "told.json").exists() and (folder / "heldout.json").exists()
