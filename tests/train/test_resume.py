"""A training that was killed, at any step or while it wrote a checkpoint, ends where the uninterrupted one ends.

The regular run kills each trainer once and tears a checkpoint at each of its states; more moments, kinds of training
and faults stand under `extended`. The trainers of notebook 08 are killed in test_reward.py and test_rl.py.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.trainings import STAGES, differences, output, saved, train, write_data, write_job

from qilin_lib import files
from qilin_lib.train import checkpoints
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
    done: dict[tuple[str, str], Path] = {}

    def run(notebook: str, kind: str) -> Path:
        if (notebook, kind) not in done:
            path = done[notebook, kind] = job(notebook, kind)
            assert train(path, STAGES[notebook]) == 0, output(path)
        return done[notebook, kind].parent

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
