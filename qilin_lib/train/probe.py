"""Two optimizer steps at the largest batch that can come up, by the real trainer on the real device: what they take.

`python -m qilin_lib.train.probe 04_sft qlora_24gb` needs the base's weights and no data: its rows are full of made-up
tokens that all carry loss. For where an estimate only says "at most".
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import chains, files, params, runs
from qilin_lib.errors import QilinError, as_command
from qilin_lib.models.base import base_path, local
from qilin_lib.models.shapes import sizes
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit, launch, methods, speed
from qilin_lib.train.methods import dcpt, sft


def trainer_of(job: SimpleNamespace, block_size: int, steps: int) -> Any:
    """The trainer of a stage (03-05) on made-up rows, each as long as any may be."""
    p, vocabulary = job.parameters, sizes(job.paths.weights).vocabulary
    p.max_steps, p.report_to, p.save_steps, p.logging_steps = steps, "none", 10**6, 10**6
    model, tokenizer = fit.prepare_model(p, job.paths.weights)
    count = p.per_device_train_batch_size * p.gradient_accumulation_steps * launch.processes(p) * steps
    method, (_, length) = methods.of(p), methods.batch(p, block_size)
    rows = np.random.default_rng(p.seed).integers(0, vocabulary, (count, length))
    if method.data == "cpt":
        return dcpt.make_trainer(job, model, pack([row[:-1].tolist() for row in rows], length, 0, 0))
    if method.data == "sft":
        return sft.make_trainer(job, model, tokenizer, [np.stack([row, row]).astype(np.int32) for row in rows])
    parts = np.split(rows, [p.max_source_length], axis=1)
    sides = {"prompt_ids": parts[0], "chosen_ids": parts[1], "rejected_ids": np.flip(parts[1], axis=1)}
    pairs = [{name: ids[i].tolist() for name, ids in sides.items()} for i in range(count)]
    return method.load().make_trainer(job, model, tokenizer, pairs, [])


def measure(job: SimpleNamespace, block_size: int, steps: int = 2) -> dict[str, Any]:
    """`speed.Meter`'s facts of so many steps, and the last loss; the rate is that of all steps but the first."""
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    trainer = trainer_of(job, block_size, steps)
    trainer.add_callback(Clock())
    fit.full_precision(trainer.model, job.parameters)
    meter = speed.Meter(trainer)
    loss = trainer.train().training_loss
    seconds = (ends[-1] - ends[0]) * steps / (steps - 1)
    return meter.facts(seconds, job.parameters, sizes(job.paths.weights)) | {"loss": loss}


def job_of(parameters: dict[str, Any], weights: Path, out: Path) -> SimpleNamespace:
    """What `job.read` gives to a stage, as far as a trainer needs it."""
    paths = SimpleNamespace(weights=weights, cache=out / "cache")
    return SimpleNamespace(parameters=SimpleNamespace(**parameters), out=out, template=BAICHUAN, paths=paths)


def start(notebook: str, profile: str) -> dict[str, Any]:
    """`measure` a stage of a profile in a child process, with as many processes as its training would have."""
    trained = list(chains.NOTEBOOKS.values())
    if notebook in params.NOTEBOOKS and notebook not in trained:
        raise QilinError(f"notebook '{notebook}': no training of a chain; nearest valid: {', '.join(trained)}")
    p, tokenize = params.load(notebook, {"profile": profile}), params.load("02_tokenize", {"profile": profile})
    prepared = runs.runs_dir() / p.run / "02_tokenize"
    weights = base_path(prepared) if (prepared / "base.json").exists() else local(tokenize.base)
    if not weights.is_dir():
        raise QilinError(f"base = '{tokenize.base}': not here yet; nearest valid: run 02_tokenize of '{p.run}' first")
    with tempfile.TemporaryDirectory() as out:
        job = Path(out) / "job.json"
        values = {"module": "qilin_lib.train.probe", "out": out, "paths": {"weights": str(weights), "cache": out}}
        parameters = p.model_dump(mode="json") | {"block_size": tokenize.block_size}
        files.write_json(job, values | {"parameters": parameters} | BAICHUAN.described)
        command = [*launch.command(p, launch.TRAINS, job), "train"]
        launch.run(command, job.with_suffix(".log"), print, p.gpus)
        return files.read_json(job.with_name("facts.json"))


def work(job: SimpleNamespace) -> None:
    """The child's part. Every process has the same facts."""
    files.write_json(job.out / "facts.json", measure(job, job.parameters.block_size))


@as_command
def main(arguments: list[str]) -> int:
    """Print the facts of NOTEBOOK and PROFILE; returns the exit code."""
    if len(arguments) != 2:
        print("usage: python -m qilin_lib.train.probe NOTEBOOK PROFILE, e.g. 05_dpo full_a100", file=sys.stderr)
        return 2
    print(*(f"{name}: {value}" for name, value in start(*arguments).items()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
