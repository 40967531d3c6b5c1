"""Checkpoints that a killed training can trust: only one that was written to its end counts.

`sealed.json`, written last, lists a checkpoint's files and sizes. transformers 5.23 removes older checkpoints before it
tells that the newer one is written (`Trainer._save_checkpoint`), so its limit stays unset and they are removed here,
once the newer one is sealed: at no moment is there no checkpoint to go on from. Nor is one of dead weights kept:
transformers logs a loss of NaN as the mean of the losses before it (`logging_nan_inf_filter`), and goes on.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import weight_files
from qilin_lib.runs import Stage
from qilin_lib.train import launch

SEAL = "sealed.json"
# Weights that are named where some are no finite numbers.
SHOWN = 3


def last(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is sealed and whose files have the sealed sizes; None if there is none."""
    return next((path for path in reversed(_all(folder)) if whole(path)), None)


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and nothing of it was lost since."""
    try:
        sealed = files.read_json(checkpoint / SEAL)["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sealed.items())
    except (QilinError, OSError):
        return False


def seal(checkpoint: Path) -> None:
    """Force a checkpoint's files to the disk, then write its `sealed.json`: {"files": {relative path: bytes}}.

    Sizes, not hashes: after fsync a file of the right size has the right bytes, and a full 7B's are 112 GB.
    """
    paths = [path for path in sorted(checkpoint.rglob("*")) if path.name != SEAL]
    _to_disk(*paths)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths if path.is_file()}
    files.write_json(checkpoint / SEAL, {"files": sizes})
    _to_disk(checkpoint, checkpoint.parent)


def sealing(keep: int = 1, minutes: float | None = None) -> Any:
    """A trainer callback that seals each checkpoint and then removes all but the newest `keep`; broken ones go at the
    start. With `minutes` a checkpoint is also written when so many have passed since the one before.

    The first process seals when all have written their random states and optimizer shards; the others meanwhile wait
    in their next collective call, for which `fit.arguments` gives them time enough.
    """
    import torch
    from accelerate.utils import broadcast
    from transformers import TrainerCallback, set_seed

    class Sealing(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.saved = time.monotonic()
            if state.global_step:
                # For a process of which the checkpoint holds no random state (there were fewer); one that has its own
                # loads it after this (`Trainer._load_rng_state`).
                set_seed((args.seed + 7919 * state.global_step + args.process_index) % 2**32)
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                if (log := folder.parent / "log.jsonl").exists():
                    # A full disk or a loss of power tore the last line off; the step it belongs to is logged again.
                    os.truncate(log, log.read_bytes().rfind(b"\n") + 1)
                _remove([path for path in _all(folder) if not whole(path)])

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if minutes is not None:
                # All save at the same step, by the first one's clock.
                due = torch.tensor([int(time.monotonic() - self.saved >= 60 * minutes)], device=args.device)
                control.should_save |= bool(broadcast(due).item())

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                seal(folder / f"checkpoint-{state.global_step}")
                _remove(_all(folder)[:-keep])
            self.saved = time.monotonic()

    return Sealing()


@contextmanager
def naming_failed_writes(folder: Path) -> Iterator[None]:
    """Around training: QilinError that names the checkpoint in `folder` that could not be written, or the stage behind
    its last one, and the room there.

    When a disk is full torch.save says "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534".
    """
    try:
        yield
    except Exception as error:
        broken = next((path for path in reversed(_all(folder)) if not whole(path)), None)
        failed = isinstance(error, OSError) and (broken or error.errno in files.REFUSALS)
        if not (failed or "os error" in str(error) or "inline_container.cc" in str(error)):
            raise
        earlier = last(folder)
        begin = f"goes on from {earlier.name}" if earlier else "starts at step 0, for there is no earlier checkpoint"
        room = shutil.disk_usage(folder.parent).free / 1e9
        raise QilinError(
            f"{broken or folder.parent} could not be written ({error}); {room:.1f} GB are free there; make room and "
            f"run this notebook again, it {begin}"
        ) from error


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


def refuse_other_layout(stage: Stage) -> None:
    """QilinError if `stage` would go on from a checkpoint of another DeepSpeed, or under DeepSpeed with another number
    of processes: each has a shard of the optimizer. Without it any cut of the same global batch goes on."""
    # 08 trains in folders of its own below the stage's.
    sealed = [checkpoint for folder in sorted(stage.dir.rglob("checkpoints")) if (checkpoint := last(folder))]
    note = stage.dir / "in_progress.json"
    # A stage with another key is moved aside with its checkpoints.
    if not sealed or not note.exists() or (begun := files.read_json(note))["key"] != stage.key:
        return
    now = stage.parameters.model_dump(mode="json")
    before = now | begun["parameters"]
    many = [launch.processes(SimpleNamespace(**values)) for values in (before, now)]
    if before["deepspeed"] == now["deepspeed"] and (now["deepspeed"] is None or many[0] == many[1]):
        return
    names = [name for name in ("deepspeed", "gpus", "nodes", "nproc_per_node") if before[name] != now[name]]
    restored = ", ".join(f"{name} = {'null' if before[name] is None else before[name]}" for name in names)
    raise QilinError(
        f"{stage.name}: was interrupted at step {_step(sealed[-1])} on {many[0]} processes and would go on with "
        f"deepspeed = {now['deepspeed'] or 'null'} on {many[1]}, but under DeepSpeed each keeps its own part of the "
        f"optimizer; nearest valid: set {restored} again, or start over with --force --only {stage.name[:2]}"
    )


def _all(folder: Path) -> list[Path]:
    """Checkpoints, whole or not, by step."""
    return sorted((path for path in folder.glob("checkpoint-*") if path.name[11:].isdecimal()), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _remove(checkpoints: list[Path]) -> None:
    """The seal goes first: what is left when the process dies here is no checkpoint."""
    for path in checkpoints:
        (path / SEAL).unlink(missing_ok=True)
        shutil.rmtree(path)


def _to_disk(*paths: Path) -> None:
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
