"""Which checkpoints count, what becomes of the others, and when a training refuses to start over."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.runs import Stage
from qilin_lib.train import checkpoints


def checkpoint(folder: Path, step: int, sealed: bool = True) -> Path:
    """A checkpoint as far as its files go; some are empty, some lie deeper."""
    path = folder / f"checkpoint-{step}"
    (path / "deeper").mkdir(parents=True)
    for name, size in (("model.safetensors", 100), ("optimizer.pt", 200), ("deeper/shard.pt", 50), ("empty", 0)):
        (path / name).write_bytes(b"x" * size)
    if sealed:
        checkpoints.seal(path)
    return path


# --- which checkpoint counts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1] or b"x")])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "deeper/shard.pt", "empty"])
def test_a_checkpoint_counts_no_more_when_any_file_is_missing_or_of_another_size(
    name: str, spoil: Callable[[Path], Any], tmp_path: Path
) -> None:
    whole, newest = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    assert checkpoints.last(tmp_path) == newest
    spoil(newest / name)
    assert checkpoints.last(tmp_path) == whole


def test_newest_is_by_number_and_other_folders_do_not_count(tmp_path: Path) -> None:
    assert checkpoints.last(tmp_path / "nowhere") is None
    nine, ten = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    checkpoint(tmp_path, 11, sealed=False)
    (tmp_path / "checkpoint-99.tmp").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    assert checkpoints.last(tmp_path) == ten
    shutil.rmtree(ten)
    assert checkpoints.last(tmp_path) == nine


# --- the callback -----------------------------------------------------------------------------------------------------


def called(event: str, folder: Path, step: int = 0, first: bool = True) -> None:
    state = SimpleNamespace(global_step=step, is_world_process_zero=first)
    args = SimpleNamespace(output_dir=str(folder), seed=17, process_index=0 if first else 1)
    getattr(checkpoints.sealing(), event)(args, state, None)


def test_a_process_that_goes_on_without_a_random_state_of_its_own_is_seeded(tmp_path: Path) -> None:
    """By step and rank; the state of a process that has its file is read after that. A fresh start is left alone."""
    import torch

    def drawn(step: int, first: bool = True) -> float:
        torch.rand(torch.randint(1, 9, (1,)).item())
        called("on_train_begin", tmp_path / "checkpoints", step, first)
        return torch.rand(1).item()

    assert drawn(4) == drawn(4) and drawn(4, first=False) == drawn(4, first=False)
    assert len({drawn(4), drawn(6), drawn(4, first=False), drawn(0), drawn(0)}) == 5


def test_a_seal_removes_all_other_checkpoints_after_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(tmp_path, 2), checkpoint(tmp_path, 3, sealed=False), checkpoint(tmp_path, 4, sealed=False)
    seen = []
    remove = shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path: (seen.append(checkpoints.last(tmp_path)), remove(path)))
    called("on_save", tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]
    assert seen == [tmp_path / "checkpoint-4"] * 2


def test_a_training_that_begins_removes_broken_checkpoints_and_mends_the_log(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    checkpoint(folder, 2), checkpoint(folder, 4, sealed=False), checkpoint(folder, 6)
    (folder / "checkpoint-6" / "empty").unlink()
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3, "lo', encoding="utf-8")
    called("on_train_begin", folder)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    assert list(files.read_jsonl(tmp_path / "log.jsonl")) == [{"step": 1}, {"step": 2}]


# --- failed writes ----------------------------------------------------------------------------------------------------


def test_a_full_device_is_named_with_file_and_what_to_do(tmp_path: Path) -> None:
    import torch

    broken = checkpoint(tmp_path, 4, sealed=False)
    (broken / "scheduler.pt").symlink_to("/dev/full")
    with pytest.raises(RuntimeError, match="^CUDA out of memory$"), checkpoints.naming_failed_writes(tmp_path):
        raise RuntimeError("CUDA out of memory")
    with (
        pytest.raises(QilinError, match=r"checkpoint-4 could not be written .* GB are free.* starts at step 0"),
        checkpoints.naming_failed_writes(tmp_path),
    ):
        torch.save({"a": torch.zeros(10_000)}, broken / "scheduler.pt")


# --- going on with other devices --------------------------------------------------------------------------------------


@pytest.fixture
def stage(tmp_path: Path) -> Callable[..., Stage]:
    """`stage(key, **overrides)`: 04_sft of run `mine`."""

    def make(key: str, **overrides: Any) -> Stage:
        parameters = params.load("04_sft", {"run": "mine", **overrides})
        return Stage(parameters, tmp_path / "runs" / "mine", key, {"03_dcpt": "a1"}, False)

    return make


def interrupted(stage: Stage) -> Path:
    """The stage folder as it is after a kill: a note of what is made, and a checkpoint."""
    note = {"key": stage.key, "parameters": stage.parameters.model_dump(mode="json"), "inputs": stage.inputs}
    files.write_json(stage.dir / "in_progress.json", note)
    return checkpoint(stage.dir / "checkpoints", 1500)


def refusal(stage: Stage) -> str | None:
    """What `refuse_other_layout` says of going on with `stage`."""
    try:
        return checkpoints.refuse_other_layout(stage)
    except QilinError as error:
        return str(error)


HALVES = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}


@pytest.mark.parametrize("other", [HALVES, {"per_device_train_batch_size": 4, "nproc_per_node": 2}, {"gpus": 1}])
def test_another_cut_of_the_same_batch_goes_on(stage: Callable, other: dict[str, Any]) -> None:
    interrupted(stage("k1"))
    assert refusal(stage("k1", **other)) is None


def test_shards_of_an_optimizer_go_on_with_as_many_processes_alone(stage: Callable) -> None:
    shards = {"deepspeed": "zero2", "nproc_per_node": 2}
    interrupted(stage("k1", **shards, gradient_accumulation_steps=2))
    assert refusal(stage("k1", **shards, **HALVES)) is None, "the same processes share the same batch otherwise"
    assert refusal(stage("k1", deepspeed="zero2", nproc_per_node=1, gradient_accumulation_steps=4)) == (
        "04_sft: was interrupted at step 1500 on 2 processes and would go on with deepspeed = zero2 on 1, but under "
        "DeepSpeed each keeps its own part of the optimizer; nearest valid: set nproc_per_node = 2 again, or start "
        "over with --force --only 04"
    )
    assert "set deepspeed = zero2, nproc_per_node = 2 again" in refusal(stage("k1", gradient_accumulation_steps=2))


def test_nothing_is_refused_where_nothing_would_be_lost(stage: Callable) -> None:
    old = stage("k1")
    other = stage("k1", deepspeed="zero2", nproc_per_node=1)
    assert refusal(other) is None, "nothing there"
    path = interrupted(old)
    assert refusal(stage("k2", deepspeed="zero2", nproc_per_node=1)) is None, "another key moves aside"
    (path / "sealed.json").unlink()
    assert refusal(other) is None, "no sealed checkpoint"
