"""The training methods, by name: what shared code must know of each. A further one is a module and a line here.

A module has `work(job)` for the child, and `score(job)` if it is scored; where it sets more of its library's
configuration than `fit.arguments` does, `arguments(parameters, out)` is all of it.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Method:
    """What a training does with its examples, which are rows of the set `data` of ChiMed.

    `config`: the class of its arguments; `sides`: the sequences of an example in a batch; `start`: the loss before step
    1, if it compares with the model that it starts from; `fused`: where its head never makes all logits ("gpu",
    "everywhere", or ""); `apart`: its processes never talk to each other.
    """

    module: str
    data: str
    config: str = "transformers.TrainingArguments"
    sides: int = 1
    start: float | None = None
    fused: str = ""
    scored: bool = True
    apart: bool = False

    def load(self) -> ModuleType:
        """Its module."""
        return importlib.import_module(self.module)


HERE, LN2 = "qilin_lib.train.methods", math.log(2)
METHODS = {
    "dcpt": Method(f"{HERE}.dcpt", "cpt", fused="gpu"),
    "sft": Method(f"{HERE}.sft", "sft", fused="gpu"),
    "dpo": Method(f"{HERE}.dpo", "dpo", "trl.DPOConfig", sides=2, start=LN2, fused="everywhere"),
    "kto": Method(f"{HERE}.kto", "dpo", "trl.KTOConfig", sides=2, start=0.5, fused="everywhere"),
    "orpo": Method(f"{HERE}.orpo", "dpo", "trl.experimental.orpo.ORPOConfig", sides=2),
    "reward": Method(f"{HERE}.reward", "dpo", sides=2),
    "rejection": Method("qilin_lib.train.rejection", "sft", scored=False, apart=True),
    "rl": Method(f"{HERE}.rl", "dpo", scored=False),
    "construction": Method("qilin_lib.train.construction", "sft", scored=False),
    "baseline": Method("qilin_lib.train.baseline", "sft", scored=False),
}
# What a notebook trains by; 05 names its method itself.
OF = {"03_dcpt": "dcpt", "04_sft": "sft", "08_rlhf": "reward"}


def of(parameters: Any) -> Method:
    """The method that a stage with these parameters trains by; of 08, its first."""
    return METHODS[OF.get(parameters.notebook) or parameters.method]


def batch(parameters: Any, block_size: int) -> tuple[int, int]:
    """(rows, tokens of a row) of the largest batch that can come up; of 08 without what RL draws."""
    p, method = parameters, of(parameters)
    if hasattr(p, "rejection"):
        rows = max(method.sides * p.reward.per_device_train_batch_size, p.rejection.per_device_train_batch_size)
    else:
        rows = method.sides * p.per_device_train_batch_size
    if method.data == "cpt":
        return rows, block_size
    return rows, p.max_length if method.data == "sft" else p.max_source_length + p.max_target_length
