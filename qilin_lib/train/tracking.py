"""Where a training reports beside its own log.jsonl: TensorBoard, Weights & Biases, MLflow or trackio."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.schema import Trained

PROJECT = "qilin-med"


def check(parameters: Trained) -> None:
    """QilinError if `report_to` names a tracker whose package is not installed."""
    tracker = parameters.report_to
    if tracker != "none" and importlib.util.find_spec(tracker) is None:
        raise QilinError(
            f"{parameters.notebook}: report_to = '{tracker}', but the package {tracker} is not installed; nearest "
            f"valid: report_to = 'none', or pip install {tracker}"
        )


def arguments(parameters: Any, out: Path) -> dict[str, Any]:
    """`TrainingArguments` that send every logged row to the tracker as well, under the run's and the stage's name.

    TensorBoard and MLflow take their place from the environment alone; what the user has set there is left as it is.
    TensorBoard's files lie beside the stage folders: they hold times of day, and a stage is known by its bytes.
    """
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out.parent / "tensorboard" / out.name))
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    return {
        "report_to": parameters.report_to,
        "run_name": f"{parameters.run}-{getattr(parameters, 'stage', None) or parameters.notebook}",
        "project": PROJECT,
    }
