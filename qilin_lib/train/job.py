"""A training in processes of its own, one after the other: open, train, score.

"open" merges what the stage before trained into the weights that this one starts from, "train" writes facts.json last,
"score" reads weights from disk alone and writes heldout.json last. So no two of them share memory. On the CPU they are
forked from one process, which imports the libraries once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models import merge
from qilin_lib.models.adapters import is_adapter
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.schema import Steps
from qilin_lib.tokens.template import Template, template_of
from qilin_lib.train import children, launch
from qilin_lib.train.methods import Method


def train_stage(stage: Stage, method: Method, paths: dict[str, Path]) -> dict[str, Any]:
    """Train and score stage `stage` (03-05) in its folder from the inputs in `paths`; returns its facts, which are only
    read if up to date. Where another process trains this stage, its progress is shown until it ends."""
    if not stage.up_to_date:
        show = live_line()
        stage.begin(show)
    if not stage.up_to_date:
        run(stage, method, stage.dir, stage.parameters.model_dump(mode="json"), paths, show)
    return files.read_json(stage.dir / "facts.json")


def train_step(
    stage: Stage, method: Method, folder: Path, steps: Steps, paths: dict[str, Path], show: Show | None = None,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train in `folder`, one of several trainings of stage 08, with the stage's parameters, `steps` in place of those
    of its trainings, and `more`; returns its facts. A finished folder is only read; its checkpoints are removed."""
    show = show or live_line()
    stage.begin()
    # launch asks whether it only prints the command: 08 has no dry run.
    common = stage.parameters.model_dump(mode="json", exclude={"reward", "rejection", "rl"})
    parameters = {**common, "dry_run": False, **steps.model_dump(mode="json"), **more}
    if not run(stage, method, folder, parameters, paths, show):
        show(FINISHED)
    if not stage.up_to_date:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return files.read_json(folder / "facts.json")


def run(
    stage: Stage, method: Method, folder: Path, parameters: dict[str, Any], paths: dict[str, Path], show: Show,
    template: Template | None = None,
) -> list[str]:  # fmt: skip
    """Do what `folder` lacks, each phase in a process; returns the phases. QilinError names the cause if one fails.
    `template`: another one than the run's."""
    phases = [] if (folder / "facts.json").exists() else ["train"]
    if phases and "weights" in paths and is_adapter(paths["weights"]):
        phases = ["open", "train"]
    if method.scored and not (folder / "heldout.json").exists():
        phases.append("score")
    path = folder / "job.json"
    if phases:
        # What a training that has ended started from stands there.
        earlier = {} if "train" in phases or not path.exists() else files.read_json(path)
        described = {
            "module": method.module,
            "parameters": parameters,
            "out": str(folder),
            "start": str(stage.dir / "start"),
            **(template or template_of(files.read_json(stage.parent("02_tokenize") / "base.json"))).described,
            "paths": {name: str(path) for name, path in paths.items()},
            "opened": earlier.get("opened", {}),
        }
        files.write_json(path, described)
        given, log = SimpleNamespace(**parameters), folder / "train.log"
        alone = launch.plain(launch.TRAINS, path)
        apart = method.apart and given.nodes == 1
        training = alone if apart else launch.command(given, launch.TRAINS, path)
        workers = launch.processes(given) if apart else 1
        # One process for all phases where a single one trains on the CPU.
        together = training == alone and workers == 1 and not given.gpus
        for part in [phases] if together else [[phase] for phase in phases]:
            trains = part == ["train"]
            launch.run([*(training if trains else alone), *part], log, show, given.gpus, workers if trains else 1)
    path.unlink(missing_ok=True)
    return phases


def main(path: str, *phases: str) -> None:
    """`python -m qilin_lib.train.job job.json PHASE ...`: what a child does. Several are forked one after the other."""
    if len(phases) == 1:
        run_phase(phases[0], path)
        return
    # What every phase needs: seconds, once. No thread of torch's runs before a fork.
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

    importlib.import_module(files.read_json(path)["module"])
    for phase in phases:
        process = multiprocessing.get_context("fork").Process(target=run_phase, args=(phase, path))
        process.start()
        process.join()
        if process.exitcode < 0:
            # A signal (memory, a kill) ends this process too: the notebook names it.
            os.kill(os.getpid(), -process.exitcode)
        if process.exitcode:
            sys.exit(process.exitcode)


def run_phase(phase: str, path: str) -> None:
    """One phase of the job in `path`, in this process: its module's `work` trains, its `score` scores; "open" merges
    the adapter that it starts from into its start folder, and notes in the job where, and what was kept."""
    if multiprocessing.parent_process():
        children.die_with_parent()
    job = files.read_json(path)
    if phase != "open":
        module = importlib.import_module(job["module"])
        (module.work if phase == "train" else module.score)(read(path))
        return
    folder, quantised = Path(job["start"]), job["parameters"]["finetuning"] == "qlora"
    siblings = sorted(folder.parent.parent.glob("*/start"))
    weights, kept = merge.start(Path(job["paths"]["weights"]), folder, quantised, siblings)
    files.write_json(path, job | {"opened": {"weights": str(weights), **kept}})


def read(path: str | Path) -> SimpleNamespace:
    """What `run` wrote: parameters, out (folder), template, paths; `opened`: facts of the hand-over."""
    job = files.read_json(path)
    opened = dict(job.get("opened", {}))
    paths = {name: Path(given) for name, given in job["paths"].items()}
    if "weights" in opened:
        paths["weights"] = Path(opened.pop("weights"))
    return SimpleNamespace(
        parameters=SimpleNamespace(**job["parameters"]),
        out=Path(job["out"]),
        template=template_of(job),
        paths=SimpleNamespace(**paths),
        opened=opened,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
