"""The loss of every step of a two-layer model in DCPT, SFT and DPO, kept in golden.json, and the shape of a step.

When a difference is wanted, write the file anew with

    OMP_NUM_THREADS=1 PYTHONPATH=tests python tests/train/test_golden.py --write

and say in the commit message why the losses changed.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.golden import (
    ASSISTANT,
    EOS,
    MODULES,
    SETTINGS,
    USER,
    ids_of,
    make_data,
    make_weights,
    parameters_of,
    run,
)
from helpers.trainings import token_logprobs

from qilin_lib import files
from qilin_lib.tokens.template import IGNORE

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).with_name("golden.json")
CASES = [(stage, kind) for stage in MODULES for kind in ("full", "lora")]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    return make_data(tmp_path_factory.mktemp("data"), random.Random(6))


@pytest.fixture(scope="module")
def losses(weights: Path, data: dict, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[float]]:
    """`losses(stage, kind)`: the loss of every step, trained once."""

    @cache
    def make(stage: str, kind: str) -> list[float]:
        out = tmp_path_factory.mktemp(f"{stage}-{kind}")
        return run(stage, {"weights": weights, **data[stage]}, out, parameters_of(stage, finetuning=kind))

    return make


@pytest.mark.parametrize("stage, kind", CASES)
def test_losses_are_the_golden_ones(stage: str, kind: str, losses: Callable) -> None:
    expected = files.read_json(GOLDEN)[f"{stage} {kind}"]
    found = losses(stage, kind)
    assert len(found) == SETTINGS["max_steps"] and found == pytest.approx(expected, rel=1e-5, abs=0)


def first_batch(rows: list[Any], size: int = 4) -> list[Any]:
    """The rows that accelerate's seeded sampler takes first: a permutation of torch's from the trainer's seed."""
    import torch

    generator = torch.Generator().manual_seed(SETTINGS["seed"])
    return [rows[i] for i in torch.randperm(len(rows), generator=generator)[:size]]


def token_losses(model: Any, ids: list[int], learn: list[bool]) -> list[float]:
    """-log p of each token that is learned, one sequence at a time."""
    found = token_logprobs(model, ids).tolist() if len(ids) > 1 else []
    return [-value for value, learned in zip(found, learn[1:], strict=True) if learned]


def chat(messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    learn: list[bool] = []
    for message in messages:
        content = ids_of(message["content"])
        if message["role"] == "user":
            ids, learn = [*ids, USER, *content], learn + [False] * (len(content) + 1)
        else:
            ids, learn = [*ids, ASSISTANT, *content, EOS], learn + [False] + [True] * (len(content) + 1)
    return ids, learn


def by_hand(stage: str, model: Any, data: dict[str, Path]) -> float:
    """The first loss from the paper's formulas: mean over the batch's learned tokens; DPO at its reference: ln 2."""
    if stage == "05_dpo":
        return math.log(2)
    found: list[float] = []
    if stage == "04_sft":
        rows = [row for row in files.read_jsonl(data["data"]) if row["split"] == "train"]
        for row in first_batch(rows):
            found += token_losses(model, *chat(row["messages"]))
    else:
        ids, positions, labels = np.load(data["blocks"])
        for b in first_batch(list(range(len(ids)))):
            starts = [i for i in range(ids.shape[1]) if positions[b, i] == 0] + [ids.shape[1]]
            for start, end in zip(starts, starts[1:], strict=False):
                learn = [label != IGNORE for label in labels[b, start:end]]
                found += token_losses(model, ids[b, start:end].tolist(), learn)
    return sum(found) / len(found)


@pytest.mark.parametrize("stage", list(MODULES))
def test_first_loss_is_the_one_by_hand(stage: str, losses: Callable, weights: Path, data: dict) -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM.from_pretrained(weights, attn_implementation="eager").eval()
    expected = by_hand(stage, model, data[stage])
    assert losses(stage, "lora")[0] == pytest.approx(expected, rel=1e-5)
    assert losses(stage, "full")[0] == pytest.approx(expected, rel=1e-5)


# --- the shape of a step ----------------------------------------------------------------------------------------------
# Four sequences a step train the same model whether they come as 4 x 1, 2 x 2 or 1 x 4 (transformers#34191). DCPT and
# SFT: the loss is the mean over all learned tokens of a step; DPO: over the step's pairs. (The SFT term of `rpo_alpha`
# is a mean over a micro-batch's chosen tokens by TRL's definition: it does depend on the shape.)

SHAPES = [(4, 1), (2, 2), (1, 4)]
SHAPED = [
    ("03_dcpt", {"finetuning": "full"}),
    ("03_dcpt", {"finetuning": "lora"}),
    ("04_sft", {"finetuning": "full"}),
    ("04_sft", {"finetuning": "lora"}),
    ("04_sft", {"finetuning": "lora", "packing": True}),
    ("05_dpo", {"finetuning": "full"}),
    ("05_dpo", {"finetuning": "lora"}),
]


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """11 training rows a stage: steps of 4, 4 and 3."""
    folder = tmp_path_factory.mktemp("data")
    made = make_data(folder, random.Random(8))
    for name in ("sft", "dpo"):
        rows = list(files.read_jsonl(folder / f"{name}.jsonl"))
        files.write_jsonl(folder / f"{name}.jsonl", rows[:11] + [row for row in rows if row["split"] == "heldout"])
    np.save(folder / "blocks.npy", np.load(folder / "blocks.npy")[:, :11])
    return made


@pytest.fixture
def ends(weights: Path, few: dict, tmp_path: Path) -> Callable[..., list[tuple[list[float], dict[str, Any]]]]:
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
            losses = run(stage, {"weights": weights, **few[stage]}, out, parameters)
            found.append((losses, load_file(next(out.glob("*/*model.safetensors")))))
        return found

    return make


@pytest.mark.parametrize("stage, overrides", SHAPED, ids=lambda value: str(value).replace(" ", ""))
def test_the_shape_of_a_step_does_not_matter(stage: str, overrides: dict[str, Any], ends: Callable) -> None:
    (losses, weights), *others = ends(stage, overrides)
    assert len(losses) == 6 and losses[0] != pytest.approx(losses[-1], rel=1e-3)
    for other_losses, other_weights in others:
        assert other_losses == pytest.approx(losses, rel=1e-5, abs=0)
        for name, tensor in weights.items():
            assert (tensor - other_weights[name]).abs().max().item() <= 1e-5, name


def write() -> None:
    """Train all cases and replace golden.json."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        base, inputs = make_weights(root / "weights"), make_data(root / "data", random.Random(6))
        found = {}
        for stage, kind in CASES:
            out = root / f"{stage}-{kind}"
            out.mkdir()
            paths = {"weights": base, **inputs[stage]}
            found[f"{stage} {kind}"] = run(stage, paths, out, parameters_of(stage, finetuning=kind))
            print(stage, kind, found[f"{stage} {kind}"])
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        raise SystemExit(__doc__)
    write()
