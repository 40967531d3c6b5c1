"""A training that was killed, at any step or while it wrote a checkpoint, ends where the uninterrupted one ends.

It goes on with another number of processes, too. The regular run kills each trainer once and tears a checkpoint at each
of its states; more moments, kinds of training and faults stand under `extended`. The trainers of notebook 08 are killed
in test_reward.py and test_rl.py.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.trainings import STAGES, differences, output, saved, train, write_data, write_job

from qilin_lib import files
from qilin_lib.train import checkpoints, fit, launch
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt, sft

pytestmark = pytest.mark.slow
# 26 examples, 8 a step, 6 steps: the second epoch begins after step 4, the fourth ends with a smaller batch.
SHAPE = {"save_steps": 2, "max_steps": 6, "gradient_accumulation_steps": 2, "lora_dropout": 0.1, "max_heldout": 1}
TESTS = Path(__file__).parents[1]
Run = Callable[..., Path]
extended = pytest.mark.extended


@pytest.fixture(scope="module")
def data(tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, tmp_path_factory: Any) -> dict[str, dict]:
    """The paths of each stage's job; weights, documents, conversations and pairs are small."""
    return write_data(tmp_path_factory.mktemp("data"), tiny_model_dir, tiny_tokenizer, sentences)


@pytest.fixture(scope="module")
def job(data: dict[str, dict], training: Callable, tmp_path_factory: Any) -> Run:
    """`job(notebook, finetuning)`: a fresh stage folder with its job.json."""

    def make(notebook: str, kind: str) -> Path:
        kept = ["lm_head"] if kind != "full" and notebook != "05_dpo" else []
        rest = {"sampled_prompts": 0} if notebook == "05_dpo" else {}
        parameters = training(notebook, finetuning=kind, modules_to_save=kept, **SHAPE, **rest)
        return write_job(tmp_path_factory.mktemp(notebook), parameters, data[notebook])

    return make


@pytest.fixture(scope="module")
def straight(job: Run) -> Run:
    """`straight(notebook, finetuning)`: the folder of a training that nobody interrupted."""

    @cache
    def run(notebook: str, kind: str) -> Path:
        path = job(notebook, kind)
        assert train(path, STAGES[notebook]) == 0, output(path)
        return path.parent

    return run


# --- kills at a step --------------------------------------------------------------------------------------------------


KILLS = [
    ("03_dcpt", "qlora", [("on_pre_optimizer_step", 5)]),
    ("04_sft", "lora", [("on_step_begin", 3)]),
    ("05_dpo", "full", [("on_log", 4)]),
    pytest.param("03_dcpt", "full", [("on_step_end", 3)], marks=extended),
    pytest.param("04_sft", "lora", [("on_step_begin", 2), ("on_pre_optimizer_step", 4)], marks=extended),
    pytest.param("04_sft", "qlora", [("on_log", 5)], marks=extended),
    pytest.param("05_dpo", "qlora", [("on_step_end", 1)], marks=extended),
]


@pytest.mark.parametrize(("notebook", "kind", "kills"), KILLS)
def test_killed_at_any_step_and_continued_equals_uninterrupted(
    notebook: str, kind: str, kills: list[tuple[str, int]], job: Run, straight: Run
) -> None:
    """The training that goes on reads its checkpoint, and nothing of it by Python's pickle."""
    broken, module = job(notebook, kind), STAGES[notebook]
    for moment, step in kills:
        assert train(broken, module, moment, step) == -signal.SIGKILL, output(broken)
        assert not (broken.parent / "facts.json").exists()
    before = checkpoints.last(broken.parent / "checkpoints")
    assert train(broken, module, "watch unpickling") == 0, output(broken)
    assert files.read_json(broken.parent / "facts.json")["resumed_from"] == (before.name if before else None)
    assert differences(straight(notebook, kind), broken.parent) == []
    assert saved(broken.parent) == ["checkpoint-6"]
    seen = files.read_json(broken.parent / "unpickling.json")
    read = ("optimizer.pt", "scheduler.pt", "rng_state.pth") if before else ()
    assert seen == {"loaded": dict.fromkeys(read, True), "classes": [], "control": ["fractions.Fraction"]}


# --- kills inside a checkpoint ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "step", "counts", "left"),
    [
        ("inside the optimizer", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("inside the seal", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"]),
        ("inside the seal", 2, None, ["checkpoint-2"]),
        ("while removing", 4, "checkpoint-4", ["checkpoint-2", "checkpoint-4"]),
        ("while saving the model", 6, "checkpoint-6", ["checkpoint-6"]),
        pytest.param("inside the weights", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"], marks=extended),
        pytest.param("before the optimizer", 4, "checkpoint-2", ["checkpoint-2", "checkpoint-4"], marks=extended),
    ],
)
def test_killed_in_the_middle_of_a_checkpoint(
    fault: str, step: int, counts: str | None, left: list[str], job: Run, straight: Run
) -> None:
    broken = job("03_dcpt", "lora")
    # The kernel ends a process that writes past its limit with SIGXFSZ, in the middle of the file.
    assert train(broken, dcpt, fault, step) in (-signal.SIGKILL, -signal.SIGXFSZ), output(broken)
    folder = broken.parent / "checkpoints"
    found = checkpoints.last(folder)
    assert (found and found.name, saved(broken.parent)) == (counts, left)
    if fault == "inside the optimizer":
        sizes = {path.parent.name: path.stat().st_size for path in folder.glob("*/optimizer.pt")}
        assert 0 < sizes["checkpoint-4"] < sizes["checkpoint-2"]
    assert train(broken, dcpt) == 0, output(broken)
    assert files.read_json(broken.parent / "facts.json")["resumed_from"] == counts
    assert differences(straight("03_dcpt", "lora"), broken.parent) == []
    assert saved(broken.parent) == ["checkpoint-6"]


def test_ended_behind_its_last_step_it_takes_no_step_more(job: Run, straight: Run) -> None:
    """transformers goes on where the last checkpoint lies in the middle of an epoch: the stage could never end."""
    broken = job("04_sft", "lora")
    assert train(broken, sft, "no room for the model", 6) == 1, output(broken)
    sentence = rf"QilinError: {broken.parent} could not be written .* GB are free there.* from checkpoint-6$"
    assert re.search(sentence, output(broken), re.MULTILINE | re.DOTALL), output(broken)
    assert train(broken, sft) == 0, output(broken)
    assert differences(straight("04_sft", "lora"), broken.parent) == []


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_named_and_costs_only_the_checkpoint_that_found_no_room(job: Run, straight: Run) -> None:
    broken = job("04_sft", "lora")
    for fault in ("no room for the weights", "no room for the optimizer", "full device"):
        assert train(broken, sft, fault, 4) == 1, output(broken)
        sentence = r"QilinError: \S+/checkpoint-4 could not be written .* GB are free there.* from checkpoint-2$"
        assert re.search(sentence, output(broken), re.MULTILINE | re.DOTALL), output(broken)
        assert checkpoints.last(broken.parent / "checkpoints").name == "checkpoint-2"
    assert train(broken, sft) == 0, output(broken)
    assert differences(straight("04_sft", "lora"), broken.parent) == []


# --- how often it is saved, and other processes -----------------------------------------------------------------------


@pytest.fixture
def start(data: dict[str, dict], training: Callable, tmp_path: Path) -> Run:
    """`start(name, **overrides)`: a fresh folder with DCPT's job.json: six steps of four blocks, fp32, no dropout. What
    is compared ends before the epoch's last, smaller batch, which several processes fill up with earlier blocks."""

    def make(name: str, **overrides: Any) -> Path:
        parameters = vars(training("03_dcpt", finetuning="lora", max_heldout=1)) | overrides
        (tmp_path / name).mkdir()
        return write_job(tmp_path / name, SimpleNamespace(**parameters), data["03_dcpt"]).parent

    return make


def train_as_asked(folder: Path) -> None:
    """As the notebook does, in processes of their own."""
    job = jobs.read(str(folder / "job.json"))
    command = launch.command(job.parameters, launch.TRAINS, folder / "job.json")
    launch.run([*command, "train"], folder / "train.log", lambda _: None, gpus=0)


def losses(folder: Path) -> dict[int, float]:
    return {row["step"]: row["loss"] for row in fit.read_log(folder) if "loss" in row}


def test_checkpoints_come_by_minutes_as_well_as_by_steps(start: Run) -> None:
    folder = start("often", save_steps=100, save_minutes=1e-9, save_total_limit=3)
    dcpt.work(jobs.read(str(folder / "job.json")))
    assert saved(folder) == ["checkpoint-4", "checkpoint-5", "checkpoint-6"]


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_another_number_of_processes(start: Run, before: int, after: int) -> None:
    """Stopped after step 3 by `max_steps`, its rate constant. float32: sums in another order differ at 1e-6.

    All processes save by the first one's clock, at every step here.
    """

    def cut(processes: int) -> dict[str, Any]:
        return {"nproc_per_node": processes, "per_device_train_batch_size": 4 // processes}

    same = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "save_minutes": 1e-9}
    straight = start("straight", **same, **cut(before))
    changed = start("changed", **same, **cut(before), max_steps=3)
    train_as_asked(straight)
    train_as_asked(changed)
    job = files.read_json(changed / "job.json")
    job["parameters"] |= {**cut(after), "max_steps": 6}
    files.write_json(changed / "job.json", job)
    (changed / "facts.json").unlink()
    train_as_asked(changed)
    facts = files.read_json(changed / "facts.json")
    assert (facts["resumed_from"], facts["processes"], facts["global_batch_size"]) == ("checkpoint-3", after, 4)
    expected = losses(straight)
    assert list(expected) == [1, 2, 3, 4, 5, 6] and len(set(expected.values())) == 6
    assert losses(changed) == pytest.approx(expected, rel=1e-5, abs=1e-5)
