"""Checkpoints that a killed training can trust: only one that was written to its end counts.

`sealed.json`, written last, lists a checkpoint's files and sizes. transformers 5.23 writes into the final folder and
removes older checkpoints before `on_save` (`Trainer._save_checkpoint`), so `save_total_limit` stays unset and the older
ones are removed here, once the newer one is sealed: at no moment is there no checkpoint to go on from.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.runs import Stage

SEAL = "sealed.json"
LAYOUT = ("gpus", "nodes", "nproc_per_node", "deepspeed", "per_device_train_batch_size", "gradient_accumulation_steps")


def last(folder: Path) -> Path | None:
    """The newest checkpoint in `folder` that is sealed and whose files have the sealed sizes; None if there is none."""
    return max((path for path in _all(folder) if whole(path)), key=_step, default=None)


def whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end and nothing of it was lost since."""
    try:
        sealed = files.read_json(checkpoint / SEAL)["files"]
        return all((checkpoint / name).stat().st_size == size for name, size in sealed.items())
    except (QilinError, OSError):
        return False


def seal(checkpoint: Path) -> None:
    """Force a checkpoint's files to the disk, then write its `sealed.json`: {"files": {relative path: bytes}}.

    Sizes, not hashes: after fsync a file of the right size has the right bytes, whatever ends the process or the power.
    A hash would read everything again: sha256 of the 84 GB of a full 7B checkpoint takes a minute or more each time.
    """
    paths = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != SEAL)
    for path in [*paths, *{path.parent for path in paths}]:
        _to_disk(path)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in paths}
    files.write_json(checkpoint / SEAL, {"files": sizes})
    _to_disk(checkpoint)
    _to_disk(checkpoint.parent)


def sealing() -> Any:
    """A trainer callback that seals each checkpoint and then removes the others; at the start it removes broken ones.

    Every process takes part: the first one seals when all have written their random states and optimizer shards.
    """
    import torch
    from transformers import TrainerCallback

    class Sealing(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                _mend_log(folder.parent / "log.jsonl")
                _remove(path for path in _all(folder) if not whole(path))

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.distributed.is_initialized():
                torch.distributed.barrier()
            if state.is_world_process_zero:
                folder = Path(args.output_dir)
                newest = folder / f"checkpoint-{state.global_step}"
                seal(newest)
                _remove(path for path in _all(folder) if path != newest)

    return Sealing()


@contextmanager
def naming_failed_writes(folder: Path) -> Iterator[None]:
    """Around training: QilinError with file and cause if a checkpoint in `folder` could not be written.

    torch.save says "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534" when the disk is full, and
    safetensors does not name the file. The file they gave up on is still there: writing on to it tells why.
    """
    try:
        yield
    except Exception as error:
        if (failed := _failed_write(folder, error)) is None:
            raise
        path, reason = failed
        earlier = last(folder)
        begin = f"goes on from {earlier.name}" if earlier else "starts at step 0, for there is no earlier checkpoint"
        raise QilinError(
            f"a checkpoint could not be written: {reason}: {_shown(path)}; make room and run this notebook again, it "
            f"{begin}"
        ) from error


def refuse_other_layout(stage: Stage) -> None:
    """QilinError if `stage` would go on from a checkpoint of other devices or another cut of the same global batch.

    A checkpoint holds a random state, and under DeepSpeed an optimizer shard, per process. A stage with another key is
    moved aside with its checkpoints, so nothing is lost there.
    """
    # 08 trains in folders of its own below the stage's.
    sealed = [checkpoint for folder in sorted(stage.dir.rglob("checkpoints")) if (checkpoint := last(folder))]
    note = stage.dir / "in_progress.json"
    if not sealed or not note.exists() or (begun := files.read_json(note))["key"] != stage.key:
        return
    before, now = begun.get("parameters", {}), stage.parameters.model_dump(mode="json")
    changed = {name: (before[name], now[name]) for name in LAYOUT if name in now and before.get(name) != now[name]}
    if changed:
        told = ", ".join(f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changed.items())
        restored = ", ".join(f"{name} = {old!r}" for name, (old, _) in changed.items())
        raise QilinError(
            f"{stage.name}: {told} since this training was interrupted at step {_step(sealed[-1])}; nearest valid: set "
            f"{restored} again, or start over with --force --only {stage.name[:2]}"
        )


def _all(folder: Path) -> list[Path]:
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _remove(checkpoints: Iterator[Path]) -> None:
    """The seal goes first: what is left when the process dies here is no checkpoint."""
    for path in list(checkpoints):
        (path / SEAL).unlink(missing_ok=True)
        shutil.rmtree(path)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _mend_log(log: Path) -> None:
    """Cut a last line that a full disk or a loss of power tore off; the step it belongs to is logged again."""
    if not log.exists():
        return
    text = log.read_bytes()
    if (end := text.rfind(b"\n") + 1) < len(text):
        os.truncate(log, end)


def _failed_write(folder: Path, error: Exception) -> tuple[Path, str] | None:
    """(file, reason) if `error` ended the writing of a checkpoint, None if it came from anywhere else."""
    broken = max((path for path in _all(folder) if not whole(path)), key=_step, default=None)
    if broken is None:
        return None
    # safetensors removes the file it could not write, and says why.
    if said := re.search(r"\(os error (\d+)\)", str(error)):
        return broken / "*.safetensors", os.strerror(int(said[1]))
    if isinstance(error, OSError):
        return Path(error.filename or broken), str(error.strerror)
    left = [path for path in broken.rglob("*") if not path.is_dir()]
    # Two files of the same tick of the clock: the larger one hit the limit.
    for path in sorted(left, key=lambda path: (path.lstat().st_mtime_ns, path.lstat().st_size), reverse=True):
        if reason := _refusal(path):
            return path, reason
    return None


def _refusal(path: Path) -> str | None:
    """Why a file takes no more bytes, None if it does; what is added to a broken checkpoint is removed with it."""
    try:
        with open(path, "ab") as handle:
            handle.write(bytes(2**16))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as reason:
        return str(reason.strerror)
    return None


def _shown(path: Path) -> str:
    """Relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
