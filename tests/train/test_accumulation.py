"""Four sequences a step train the same model whether they come as 4 × 1, 2 × 2 or 1 × 4 (transformers#34191).

DCPT and SFT: the loss is the mean over all learned tokens of a step, not the mean of the micro-batches' means; texts
differ in length, so the two differ. DPO: the mean over the step's pairs. The last step of an epoch is short. (The SFT
term of `rpo_alpha` is a mean over a micro-batch's chosen tokens by TRL's definition: it does depend on the shape.)
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.golden import make_data, make_weights, parameters_of, run

from qilin_lib import files

pytestmark = pytest.mark.slow
SHAPES = [(4, 1), (2, 2), (1, 4)]
CASES = [
    ("03_dcpt", {"finetuning": "full"}),
    ("03_dcpt", {"finetuning": "lora"}),
    ("04_sft", {"finetuning": "full"}),
    ("04_sft", {"finetuning": "lora"}),
    ("04_sft", {"finetuning": "lora", "packing": True}),
    ("05_dpo", {"finetuning": "full"}),
    ("05_dpo", {"finetuning": "lora"}),
]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """11 training rows a stage: steps of 4, 4 and 3."""
    folder = tmp_path_factory.mktemp("data")
    made = make_data(folder, random.Random(8))
    for name in ("sft", "dpo"):
        rows = list(files.read_jsonl(folder / f"{name}.jsonl"))
        files.write_jsonl(folder / f"{name}.jsonl", rows[:11] + [row for row in rows if row["split"] == "heldout"])
    np.save(folder / "blocks.npy", np.load(folder / "blocks.npy")[:, :11])
    return made


@pytest.fixture
def ends(weights: Path, data: dict, tmp_path: Path) -> Callable[..., list[tuple[list[float], dict[str, Any]]]]:
    """`ends(stage, overrides)`: for each shape the losses of all steps and the final weights."""
    from safetensors.torch import load_file

    def make(stage: str, overrides: dict[str, Any]) -> list[tuple[list[float], dict[str, Any]]]:
        found = []
        for size, accumulated in SHAPES:
            out = tmp_path / f"{size}x{accumulated}"
            out.mkdir()
            parameters = parameters_of(
                stage, **overrides, per_device_train_batch_size=size, gradient_accumulation_steps=accumulated,
                learning_rate=0.001,
            )  # fmt: skip
            losses = run(stage, {"weights": weights, **data[stage]}, out, parameters)
            found.append((losses, load_file(next(out.glob("*/*model.safetensors")))))
        return found

    return make


@pytest.mark.parametrize("stage, overrides", CASES, ids=lambda value: str(value).replace(" ", ""))
def test_the_shape_of_a_step_does_not_matter(stage: str, overrides: dict[str, Any], ends: Callable) -> None:
    (losses, weights), *others = ends(stage, overrides)
    assert len(losses) == 6 and losses[0] != pytest.approx(losses[-1], rel=1e-3)
    for other_losses, other_weights in others:
        assert other_losses == pytest.approx(losses, rel=1e-5, abs=0)
        for name, tensor in weights.items():
            assert (tensor - other_weights[name]).abs().max().item() <= 1e-5, name
