"""Two processes train what one trains: DDP (also of NF4), ZeRO-2 (also in bfloat16 with checkpointing, and after an
interruption); by hand also ZeRO-3.

The global batch is 4 conversations, blocks or pairs: 1 x 4 or 2 x 2. Every training of two ranks runs below the command
that a notebook uses. One launch takes many jobs, since importing the libraries costs more than training.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import trainings

from qilin_lib import files
from qilin_lib.train import fit, launch
from qilin_lib.train import job as jobs
from qilin_lib.train.methods import dcpt, dpo, sft

pytestmark = pytest.mark.slow
STAGES = {"03_dcpt": dcpt, "04_sft": sft, "05_dpo": dpo}
# Rank 0 and rank 1 run one job after the other; a job with `stop` is left before step 3, as by an interrupt.
WORKER = """
import importlib, os, sys
from pathlib import Path
from accelerate.state import AcceleratorState
from qilin_lib import files
from qilin_lib.train import fit
from qilin_lib.train import job as jobs

made = fit.log_callback

def impatient(out):
    callback = made(out)
    def on_step_begin(args, state, control, **_):
        if state.global_step == 2:
            raise KeyboardInterrupt
    callback.on_step_begin = on_step_begin
    return callback

for module, job, stop in files.read_json(sys.argv[1]):
    fit.log_callback = impatient if stop else made
    try:
        importlib.import_module(module).work(jobs.read(job))
        assert not stop
    except KeyboardInterrupt:
        assert stop
    seen = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE")}
    files.write_json(Path(job).with_name("rank" + seen["RANK"] + ".json"), seen)
    # Each job has its own DeepSpeed, or none; a notebook's child trains once.
    AcceleratorState._reset_state()
"""
FULL = {"finetuning": "full"}
# r = 16: adapters above ZeRO-3's threshold for small tensors are really split. lm_head is trained whole beside them.
ADAPTER = {"finetuning": "lora", "lora_r": 16, "modules_to_save": ["lm_head"]}
JOBS = {
    "sft": ("04_sft", ADAPTER),
    "bf16": ("04_sft", ADAPTER | {"dtype": "bfloat16", "gradient_checkpointing": True}),
    "dcpt": ("03_dcpt", FULL),
    "dpo": ("05_dpo", {"finetuning": "qlora"}),
    "dpo_lora": ("05_dpo", {"finetuning": "lora"}),
}
DDP = {"per_device_train_batch_size": 2, "nproc_per_node": 2}
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
zero = pytest.mark.skipif(not COMPILER, reason="DeepSpeed on the CPU compiles its collectives: no C++ compiler here")


class Place:
    """Data, and the folders of jobs by name."""

    def __init__(self, folder: Path, base: Path, data: dict[str, dict[str, Path]], training: Callable) -> None:
        self.folder, self.base, self.data, self.training = folder, base, data, training

    def job(self, name: str, what: str, **others: Any) -> Path:
        """job.json in folder `name` for one of JOBS: four steps of four, a checkpoint every other step."""
        notebook, overrides = JOBS[what]
        parameters = self.training(notebook, max_steps=4, save_steps=2, **overrides, **others)
        out = self.folder / name
        out.mkdir(exist_ok=True)
        return trainings.write_job(out, parameters, self.data[notebook] | {"cache": self.folder / f"cache_{what}"})

    def alone(self, what: str) -> None:
        """One process, this one."""
        STAGES[JOBS[what][0]].work(jobs.read(str(self.job(f"one_{what}", what))))

    def together(self, trainings: list[tuple[str, str, dict[str, Any], bool]]) -> None:
        """Two ranks run jobs of (folder, what, overrides, whether to stop it)."""
        todo = [
            (STAGES[JOBS[what][0]].__name__, str(self.job(name, what, **more)), stop)
            for name, what, more, stop in trainings
        ]
        files.write_json(self.folder / "todo.json", todo)
        (self.folder / "ranks_at_work.py").write_text(WORKER, encoding="utf-8")
        parameters = jobs.read(todo[0][1]).parameters
        command = launch.command(parameters, "ranks_at_work", self.folder / "todo.json")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join([str(self.folder), os.environ["PYTHONPATH"]]))
            launch.run(command, self.folder / "train.log", lambda _: None, gpus=0)


@pytest.fixture(scope="module")
def place(
    tiny_model_dir: Path, tiny_tokenizer: Any, sentences: Callable, training: Callable, tmp_path_factory: Any
) -> Place:
    """Conversations, pairs and blocks, and what one process makes of them."""
    folder = tmp_path_factory.mktemp("processes")
    data = trainings.write_data(folder, tiny_model_dir, tiny_tokenizer, sentences)
    made = Place(folder, tiny_model_dir, data, training)
    for what in ("bf16", "dcpt", "dpo"):
        made.alone(what)
    return made


@pytest.fixture(scope="module")
def on_one_node(place: Place) -> None:
    """Every training of two ranks that the regular run has."""
    jobs = [("ddp_dcpt", "dcpt", DDP, False), ("ddp_dpo", "dpo", DDP, False)]
    jobs += [(name, "dpo", {**DDP, "precompute_ref_log_probs": True}, False) for name in ("cached_dpo", "reused_dpo")]
    if COMPILER:
        jobs += [(f"zero2_{what}", what, {**DDP, "deepspeed": "zero2"}, False) for what in ("dcpt", "bf16")]
        jobs += [("zero2_stopped", "dcpt", {**DDP, "deepspeed": "zero2"}, stop) for stop in (True, False)]
    place.together(jobs)


@pytest.fixture(scope="module")
def under_zero3(place: Place) -> None:
    for what in ("sft", "dpo_lora"):
        place.alone(what)
    zero3 = {**DDP, "deepspeed": "zero3", "gradient_checkpointing": True}
    jobs = [(f"zero3_{what}", what, zero3, False) for what in ("dcpt", "sft")]
    place.together([*jobs, ("zero3_dpo_lora", "dpo_lora", {**zero3, "precompute_ref_log_probs": True}, False)])


def assert_same(place: Place, one: str, other: str, tolerance: float) -> None:
    """Folders `one` and `other` hold the same losses and weights within `tolerance`."""
    import torch
    from safetensors.torch import load_file

    rows, others = ([lasting(row) for row in fit.read_log(place.folder / name)] for name in (one, other))
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert rows == [pytest.approx(row, abs=tolerance, rel=tolerance) for row in others]
    expected, found = (learned(place.folder / name) for name in (one, other))
    assert {name: t.shape for name, t in found.items()} == {name: t.shape for name, t in expected.items()}
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=f"{other}: {name}")
    base = load_file(place.base / "model.safetensors")
    # LoRA's second matrix begins at zero.
    moved = [t - base.get(name, 0) for name, t in found.items() if name in base or "lora_B" in name]
    assert max(change.abs().max().item() for change in moved) > 50 * tolerance


def learned(folder: Path) -> dict[str, Any]:
    """What a training left: full weights, or an adapter."""
    from safetensors.torch import load_file

    (path,) = [*folder.glob("model/model.safetensors"), *folder.glob("adapter/adapter_model.safetensors")]
    return load_file(path)


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on speed or on how many processes count."""
    return {key: row[key] for key in ("step", "loss", "eval_loss", "grad_norm", "learning_rate", "epoch") if key in row}


def facts(place: Place, name: str) -> dict[str, Any]:
    found = files.read_json(place.folder / name / "facts.json")
    return {key: found[key] for key in ("processes", "global_batch_size", "steps_done", "resumed_from")}


@pytest.mark.parametrize("what", ["dcpt", "dpo"])
def test_two_ranks_train_what_one_process_trains(place: Place, on_one_node: None, what: str) -> None:
    assert_same(place, f"one_{what}", f"ddp_{what}", 1e-5)
    assert facts(place, f"ddp_{what}") == facts(place, f"one_{what}") | {"processes": 2}
    assert files.read_json(place.folder / f"ddp_{what}" / "rank1.json")["WORLD_SIZE"] == "2"


@zero
def test_zero2_in_bfloat16_with_checkpointing_trains_what_one_process_trains(place: Place, on_one_node: None) -> None:
    """DeepSpeed computes on bfloat16 copies of its float32 weights, one process on float32 weights under autocast: the
    losses differ by rounding (below 0.2 %), and the updates by at most 2 % of their length."""
    import torch

    rows, others = (fit.read_log(place.folder / name) for name in ("one_bf16", "zero2_bf16"))
    losses, found = ([row["loss"] for row in part if "loss" in row] for part in (rows, others))
    assert len(losses) == 4 and found == pytest.approx(losses, rel=0.002)
    expected, adapter = (learned(place.folder / name) for name in ("one_bf16", "zero2_bf16"))
    # What begins at zero has moved by what it is now.
    moved, away = (
        torch.cat([tensors[name].float().flatten() for name in sorted(expected) if "lora_B" in name])
        for tensors in (expected, adapter)
    )
    assert moved.norm() > 0 and (away - moved).norm() < 0.02 * moved.norm()
    assert files.read_json(place.folder / "zero2_bf16" / "facts.json")["processes"] == 2


@zero
@pytest.mark.extended
@pytest.mark.parametrize("what", ["dcpt", "sft", "dpo_lora"])
def test_zero3_trains_what_one_process_trains_and_saves_it_whole(place: Place, under_zero3: None, what: str) -> None:
    """Each rank holds half of every tensor: full weights, and an adapter, also with a head beside it. Activations are
    checkpointed, which changes no number: TRL's trainers do it the reentrant way under ZeRO-3, transformers' do not."""
    assert_same(place, f"one_{what}", f"zero3_{what}", 1e-5)
    assert facts(place, f"zero3_{what}")["processes"] == 2


def test_two_processes_share_one_cache_of_reference_log_probabilities(place: Place, on_one_node: None) -> None:
    """26 pairs on two processes, two each: the padding of the last batch must not become a further row."""
    from datasets import Dataset

    assert_same(place, "one_dpo", "cached_dpo", 1e-5)
    assert_same(place, "cached_dpo", "reused_dpo", 1e-6)
    rows = sorted(Dataset.from_file(str(path)).shape for path in (place.folder / "cache_dpo").rglob("*.arrow"))
    assert rows == [(4, 2), (26, 2)]


@zero
def test_zero2_goes_on_as_if_never_stopped(place: Place, on_one_node: None) -> None:
    assert_same(place, "zero2_dcpt", "zero2_stopped", 1e-6)
    assert facts(place, "zero2_stopped")["resumed_from"] == "checkpoint-2"


def test_another_number_of_processes_than_asked_for_stops_the_training(place: Place) -> None:
    """This process is one: as when a launcher falls back to one without a word."""
    job = jobs.read(str(place.job("too_few", "dcpt", **DDP)))
    with pytest.raises(RuntimeError, match="2 processes were asked for, 1 take part"):
        dcpt.work(job)
    assert not (place.folder / "too_few" / "model").exists()
