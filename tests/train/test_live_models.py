"""How many models are in memory at once: never more than a method needs, on a device that does not hold two.

Every load is recorded on a pretended GPU (`loads`). Nobody waits for Python's garbage collection, because a device does
not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import trainings

from qilin_lib import files
from qilin_lib.train import rejection
from qilin_lib.train.methods import dcpt, dpo, reward, sft

pytestmark = pytest.mark.slow

SCORES = {"03_dcpt": dcpt.score, "04_sft": sft.score, "05_dpo": dpo.score, "08_rlhf": reward.score}


@pytest.fixture
def place(tiny_model_dir: Path, sentences: Callable, training: Callable, tmp_path: Path) -> Callable:
    """`place(notebook, finetuning)`: a job whose training has ended, on one pretended GPU."""

    def make(notebook: str, finetuning: str) -> SimpleNamespace:
        files.write_jsonl(tmp_path / "data.jsonl", trainings.triplets(sentences(18, 71), 6, held=6))
        files.write_jsonl(tmp_path / "held.jsonl", [{"text": text} for text in sentences(3, 72)])
        files.write_jsonl(tmp_path / "log.jsonl", [{"step": 1, "loss": 1.0}])
        files.write_json(tmp_path / "facts.json", {"steps_planned": 1, "alarms": []})
        rewards = notebook == "08_rlhf"
        parameters = training("04_sft" if rewards else notebook, finetuning=finetuning)
        parameters.batch_size, parameters.sampled_prompts = 4, 2
        trainings.left(parameters, tiny_model_dir, tmp_path, rewards)
        parameters.gpus = 1
        held = tmp_path / "held.jsonl"
        paths = {"data": tmp_path / "data.jsonl", "medical": held, "general": held}
        return trainings.job(parameters, tmp_path, tiny_model_dir, **paths)

    return make


@pytest.mark.parametrize("finetuning", ["lora", "qlora", "full"])
@pytest.mark.parametrize("notebook", SCORES)
def test_scoring_holds_one_model_at_a_time(notebook: str, finetuning: str, place: Callable, loads: list) -> None:
    job = place(notebook, finetuning)
    loads.clear()
    SCORES[notebook](job)
    assert loads and {one["device"] for one in loads} == {"cuda:0"}
    assert max(one["alive"] for one in loads) == 1
    assert any(one["quantised"] for one in loads) == (finetuning == "qlora")


@pytest.mark.parametrize("finetuning", ["lora", "qlora", "full"])
def test_rejection_sampling_lets_the_policy_go_before_the_judge_comes(
    finetuning: str, place: Callable, loads: list, tmp_path: Path, tiny_model_dir: Path
) -> None:
    job = place("04_sft", finetuning)
    judge = SimpleNamespace(**vars(job.parameters) | {"gpus": 0})
    policy = tmp_path / ("model" if finetuning == "full" else "adapter")
    job.paths = SimpleNamespace(
        policy=policy,
        reward=trainings.left(judge, tiny_model_dir, tmp_path / "judge", rewards=True),
        questions=tmp_path / "data.jsonl",
    )
    drawn = {
        "num_samples": 2,
        "keep": 1,
        "temperature": 1.0,
        "top_p": 0.9,
        "round": 1,
        "questions": {},
        "vllm_python": None,
    }
    job.parameters.__dict__.update(drawn | {"max_target_length": 8})
    job.out = tmp_path / "round1" / "sampling"
    job.out.mkdir(parents=True)
    loads.clear()
    rejection.work(job)
    assert [one["alive"] for one in loads] == [1, 1]
    assert {one["device"] for one in loads} == {"cuda:0"}
    assert {one["quantised"] for one in loads} == {finetuning == "qlora"}
