"""How often a training is saved and what is kept, and that it goes on with another number of processes.

26 blocks, four a step: what is compared ends before the epoch's last, smaller batch, which several processes fill up
with blocks of the epoch's beginning.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.trainings import saved, write_data, write_job

from qilin_lib import files
from qilin_lib.train import fit, launch
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt

pytestmark = pytest.mark.slow
Start = Callable[..., Path]


@pytest.fixture(scope="module")
def start(
    tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, training: Callable, tmp_path_factory: Any
) -> Start:
    """`start(**overrides)`: a fresh folder with DCPT's job.json: six steps of four blocks, fp32, no dropout."""
    data = write_data(tmp_path_factory.mktemp("data"), tiny_model_dir, tiny_tokenizer, sentences)["03_dcpt"]

    def make(**overrides: Any) -> Path:
        parameters = training("03_dcpt", finetuning="lora", max_heldout=1)
        parameters = SimpleNamespace(**{**vars(parameters), **overrides})
        return write_job(tmp_path_factory.mktemp("dcpt"), parameters, data).parent

    return make


def change(folder: Path, **overrides: Any) -> None:
    job = files.read_json(folder / "job.json")
    job["parameters"] |= overrides
    files.write_json(folder / "job.json", job)


def train(folder: Path) -> None:
    """As the notebook does, in processes of their own."""
    job = jobs.read(str(folder / "job.json"))
    command = launch.command(job.parameters, launch.TRAINS, folder / "job.json")
    launch.run([*command, "train"], folder / "train.log", lambda _: None, gpus=0)


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in fit.read_log(folder) if "loss" in row}


def test_checkpoints_come_by_minutes_as_well_as_by_steps(start: Start) -> None:
    folder = start(save_steps=100, save_minutes=1e-9, save_total_limit=3)
    dcpt.work(jobs.read(str(folder / "job.json")))
    assert saved(folder) == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes(start: Start, before: int, after: int) -> None:
    """Stopped after step 3 by `max_steps`, its rate constant. float32: sums in another order differ at 1e-6.

    All processes save by the first one's clock, at every step here.
    """

    def cut(processes: int) -> dict[str, Any]:
        return {"nproc_per_node": processes, "per_device_train_batch_size": 4 // processes}

    same = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "save_minutes": 1e-9}
    straight, changed = start(**same, **cut(before)), start(**same, **cut(before), max_steps=3)
    train(straight)
    train(changed)
    change(changed, **cut(after), max_steps=6)
    (changed / "facts.json").unlink()
    train(changed)
    facts = files.read_json(changed / "facts.json")
    assert (facts["resumed_from"], facts["processes"], facts["global_batch_size"]) == ("checkpoint-3", after, 4)
    expected = losses(straight)
    assert list(expected) == [1, 2, 3, 4, 5, 6] and len(set(expected.values())) == 6
    assert losses(changed) == pytest.approx(expected, rel=1e-5, abs=1e-5)
