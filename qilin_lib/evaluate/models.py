"""The run's four models, each with the template it was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.models.base import base_path
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import PLAIN, Template, as_trained

STAGES = {"base": "02_tokenize", "dcpt": "03_dcpt", "sft": "04_sft", "dpo": "05_dpo"}


def loaders(stage: Stage) -> dict[str, Callable[[], TransformersBackend]]:
    """{model name: callable that loads it}, for the models named in the stage's parameters."""
    return {name: _loader(stage, name) for name in stage.parameters.models}


def weights(stage: Stage, name: str) -> Path:
    """Folder of a model's full weights."""
    parent = stage.parent(STAGES[name])
    return base_path(parent) if name == "base" else parent / "model"


def template(stage: Stage, name: str) -> Template:
    """The form in which a model is asked: the one it was trained with; plain text for base and DCPT, which saw no chat.

    Raises QilinError when the template in the code is no longer the one that the model was trained with.
    """
    if name in ("base", "dcpt"):
        return PLAIN
    facts = files.read_json(stage.parent(STAGES[name]) / "facts.json")
    return as_trained(facts, f"model '{name}'", STAGES[name])


def _loader(stage: Stage, name: str) -> Callable[[], Any]:
    def load() -> TransformersBackend:
        parameters = stage.parameters
        device = "cuda:0" if parameters.gpus else "cpu"
        folder = weights(stage, name)
        model = load_model(folder, parameters.dtype, device=device)
        return TransformersBackend(model, load_tokenizer(folder), template(stage, name), parameters.batch_size, device)

    return load
