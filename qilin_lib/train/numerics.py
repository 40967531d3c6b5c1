"""A training whose numbers are dead ends at once: no loss, gradient or weight may be NaN or infinite.

transformers logs a loss of NaN as the mean of the losses before it (`logging_nan_inf_filter`), and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.models.load import weight_files

SHOWN = 3


def full_precision(model: Any, parameters: Any) -> None:
    """Make float32 of every weight that learns, unless DeepSpeed does: it keeps a float32 copy of its own.

    AdamW loses an update below 1/256 of a bfloat16 weight to rounding; peft leaves `modules_to_save` in bfloat16, and
    TRL's trainers cast the adapter of a quantised model to it when they are made. The frozen originals of
    `modules_to_save`, DPO's reference, get the same precision: before step 1 both must compute the same.
    """
    for name, weight in model.named_parameters():
        if not parameters.deepspeed and (weight.requires_grad or ".original_module." in name):
            weight.data = weight.data.float()


def guard(trainer: Any, weights: Path) -> None:
    """Make `trainer` look at its gradients before each update, at what it logs, and at its weights before a checkpoint
    and at the end.

    From then on it raises QilinError naming step, quantity and the first weights concerned; if the `weights` that it
    started from are the cause, it names those. Nothing is saved then: what the last checkpoint holds is finite.
    """
    import torch
    from transformers import TrainerCallback

    def trained() -> dict[str, Any]:
        return {name: weight for name, weight in trainer.model.named_parameters() if weight.requires_grad}

    def stop(step: int, what: str, where: list[str]) -> None:
        raise QilinError(f"step {step}: {what}, so training stops: {_cause(weights, where)}")

    class Finite(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            gradients = {name: weight.grad for name, weight in trained().items() if weight.grad is not None}
            norm = torch.nn.utils.get_total_norm(list(gradients.values()))
            if not torch.isfinite(norm):
                stop(state.global_step + 1, f"the gradient norm is {norm.item()}", _broken(gradients.items()))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            # DeepSpeed keeps its gradients to itself, but it tells their norm.
            for name in {"loss", "grad_norm"} & (logs or {}).keys():
                if not math.isfinite(logs[name]):
                    stop(state.global_step, f"{name} is {logs[name]}", _broken(trained().items()))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if found := _broken(trained().items()):
                stop(state.global_step, "a weight is no finite number after the update", found)

        on_train_end = on_save

    trainer.add_callback(Finite())


def check_finite(value: float, what: str, weights: Path) -> None:
    """QilinError saying that `what` is no finite number, and whether the model folder `weights` is the cause."""
    if not math.isfinite(value):
        raise QilinError(f"{what} is {value}: {_cause(weights, [])}")


def _cause(weights: Path, where: list[str]) -> str:
    from safetensors import safe_open

    started: list[str] = []
    for path in weight_files(weights):
        with safe_open(path, "pt") as file:
            started += _broken((f"{name} ({path.name})", file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
    if started:
        first = ", ".join(started[:SHOWN])
        return f"{weights}, which it starts from, holds weights that are no finite numbers: {first}"
    first = f"first in {', '.join(where)}; " if where else ""
    cure = "a lower learning_rate or a longer warmup_ratio"
    return f"{first}the weights that it starts from are finite; nearest valid: {cure}"


def _broken(tensors: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of the first few tensors with a number that is not finite; packed integers (NF4) hold none."""
    import torch

    bad = (name for name, one in tensors if one.is_floating_point() and not torch.isfinite(one.float()).all())
    return list(islice(bad, SHOWN))
