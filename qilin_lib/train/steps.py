"""08: one training after the other in a folder of its own, each in a child process like the stages 03-05."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.progress import FINISHED, Show, live_line
from qilin_lib.runs import Stage
from qilin_lib.schema import Steps
from qilin_lib.train import launch

TRAININGS = ("reward", "rejection", "rl")


def run(
    stage: Stage,
    module: str,
    folder: Path,
    steps: Steps,
    paths: dict[str, Path],
    show: Show | None,
    apart: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Train with `module` (its `work`) in a child process that writes into `folder`; returns its facts.json.

    The child's parameters are the stage's, the four of `steps` in place of the three trainings, then `more`, which may
    replace any of them. `paths` are the inputs by name. A folder with facts.json is finished and only read; one without
    goes on from its checkpoints, which are removed at the end. `apart`: the processes never talk to each other, so on
    one node they are plain children. QilinError if the child fails.
    """
    show = show or live_line()
    stage.begin()
    if not (folder / "facts.json").exists():
        parameters = _parameters(stage, steps) | more
        job = folder / "job.json"
        files.write_json(
            job,
            {
                "parameters": parameters,
                "out": str(folder),
                "template": files.read_json(stage.parent("02_tokenize") / "base.json")["template"],
                "paths": {name: str(path) for name, path in paths.items()},
            },
        )
        given, log = SimpleNamespace(**parameters), folder / "train.log"
        if apart and given.nodes == 1:
            launch.run(launch.plain(module, job), log, show, given.gpus, launch.processes(given))
        else:
            launch.run(launch.command(given, module, job), log, show, given.gpus)
    else:
        show(FINISHED)
    if not stage.up_to_date:
        # Also after a kill between the facts and this line.
        (folder / "job.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return files.read_json(folder / "facts.json")


def _parameters(stage: Stage, steps: Steps) -> dict[str, Any]:
    # launch asks whether it only prints the command: 08 has no dry run.
    common = stage.parameters.model_dump(mode="json", exclude=set(TRAININGS))
    return {**common, "dry_run": False, **steps.model_dump(mode="json")}
