"""A process of notebook 06 or 09: `python -m qilin_lib.evaluate.worker job.json`, alone or one of many.

They never talk to each other. Each computes with one thread on the CPU: sums in another order give other last digits,
and a record must not depend on how many processes there were. More cores are used by more processes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from qilin_lib import files
from qilin_lib.evaluate import evidence, plan
from qilin_lib.evaluate.answering import Share, answer_all
from qilin_lib.evaluate.benchmarks import KINDS
from qilin_lib.evaluate.models import loaders, shots
from qilin_lib.runs import Stage
from qilin_lib.schema import SECTIONS
from qilin_lib.train.launch import report


def work(job: str | Path) -> None:
    """Answer this process's share; `job` is what `asking.ask` writes."""
    import torch

    said = files.read_json(job)
    parameters = SECTIONS[said["parameters"]["notebook"]][1].model_validate(said["parameters"])
    stage = Stage(parameters, Path(said["run_dir"]), "", {}, False)
    # A single process takes no rank from around it: a pod of a training operator says one to all that runs there.
    rank = int(os.environ["RANK"]) if said["workers"] > 1 else 0
    if not parameters.gpus:
        torch.set_num_threads(1)
    first_card = rank * parameters.vllm.get("tensor_parallel_size", 1)
    load = loaders(stage, f"cuda:{first_card}" if parameters.gpus else "cpu")
    load = {name: how for name, how in load.items() if name not in said["failed"]}
    load |= evidence.loaders(stage, load)
    load = {name: how for name, how in load.items() if said["only"] in ([], [name])}

    def tell(model: str, task: str, done: int, total: int, left: float) -> None:
        report(text=f"{model}: {task} {done}/{total}, {left:.0f} s left")

    answer_all(
        plan.read(stage.dir / said["items"], KINDS),
        load,
        {name: shots(stage, name) for name in load},
        stage.dir,
        Share(rank, said["workers"], tell if rank == 0 else None, getattr(parameters, "ask_errors_again", False)),
        evidence.benchmarks(parameters),
        {name for name in load if evidence.parts(name)[0] in parameters.baselines},
    )


if __name__ == "__main__":
    work(sys.argv[1])
