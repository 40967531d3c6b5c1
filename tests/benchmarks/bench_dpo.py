"""DPO steps a second with cached against live reference log-probabilities: same model, pairs and steps, LoRA, fp32.

Run by `make bench-train`, alone on the machine. Rounds alternate, so that a slow minute hits both. Prints the rates,
the ratio of their medians (which is what carries over to another machine) and the one-time cost of the cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from qilin_lib import params
from qilin_lib.models.tiny import new_model
from qilin_lib.tokens.template import PLAIN
from qilin_lib.tokens.tokenizer import train_tokenizer
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.methods import dpo

WARM_UP = 2


def base_model(folder: Path) -> Path:
    """The smoke profile's built-in shape with random weights: speed does not depend on their values."""
    shape = params.load("02_tokenize", {}).tiny
    words = ["".join(map(chr, np.random.default_rng(k).integers(0x4E00, 0x5600, 400))) for k in range(60)]
    tokenizer = train_tokenizer(words, shape.vocab_size, shape.max_position_embeddings)
    new_model(shape, tokenizer, 17).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_pairs(count: int, vocabulary: int, seed: int) -> list[dpo.Pair]:
    """Prompts of 60 to 160 tokens and answers of 40 to 128, as the smoke profile allows."""
    dice = np.random.default_rng(seed)
    limits = {"prompt_ids": (60, 161), "chosen_ids": (40, 129), "rejected_ids": (40, 129)}
    return [
        {name: dice.integers(4, vocabulary, dice.integers(*limit)).tolist() for name, limit in limits.items()}
        for _ in range(count)
    ]


def round_of(weights: Path, work: Path, cached: bool, steps: int) -> tuple[float, float, list[float]]:
    """(steps a second after the warm-up, seconds to make the trainer, losses) of one training."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            marks.append(time.perf_counter())

    values = {"gpus": 0, "finetuning": "lora", "max_steps": steps + WARM_UP, "precompute_ref_log_probs": cached}
    settings = params.load("05_dpo", {**values, "logging_steps": 1, "save_steps": 10_000}).model_dump(mode="json")
    paths = SimpleNamespace(weights=weights, cache=work / "cache")
    job = SimpleNamespace(parameters=SimpleNamespace(**settings), out=work / "out", template=PLAIN, paths=paths)
    model, tokenizer = prepare_model(job.parameters, weights)
    pairs = random_pairs((steps + WARM_UP) * settings["per_device_train_batch_size"], len(tokenizer), 3)
    started = time.perf_counter()
    trainer = dpo.make_trainer(job, model, tokenizer, pairs, [])
    made = time.perf_counter() - started
    trainer.add_callback(Clock())
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    return steps / (marks[-1] - marks[WARM_UP - 1]), made, losses


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--steps", type=int, default=20)
    options.add_argument("--threads", type=int, default=2)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    rates: dict[bool, list[float]] = {True: [], False: []}
    making: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as folder:
        weights = base_model(Path(folder) / "model")
        for number in range(chosen.rounds):
            losses = {}
            for cached in (number % 2 == 0, number % 2 != 0):
                rate, seconds, losses[cached] = round_of(weights, Path(folder), cached, chosen.steps)
                rates[cached].append(rate)
                making[cached].append(seconds)
            assert np.allclose(losses[True], losses[False], atol=1e-5), "the two must agree before their times count"
    for cached, name in ((False, "live"), (True, "cached")):
        print(f"{name:<8} {statistics.median(rates[cached]):6.2f} steps/s   {[round(r, 2) for r in rates[cached]]}")
    print(f"ratio {statistics.median(rates[True]) / statistics.median(rates[False]):.2f} (goal 1.3)")
    later = statistics.median(making[True][1:] or making[True])
    print(f"cache, made once: {making[True][0] - later:.1f} s; opened again: {later:.1f} s with the trainer")


if __name__ == "__main__":
    main()
