"""A training's processes: what they are told and skip, their command line, progress and environment."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.progress import FINISHED
from qilin_lib.runs import Stage
from qilin_lib.train import job as jobs
from qilin_lib.train import launch
from qilin_lib.train.methods import Method

# Stands in for a method's module: it writes what it was told, and fails once where it is asked to.
CHILD = """
import os, shutil, sys
from qilin_lib import files

def work(job):
    (job.out / "checkpoints" / "checkpoint-2").mkdir(parents=True, exist_ok=True)
    print('QILIN-PROGRESS {"text": "half way"}', flush=True)
    if getattr(job.parameters, "killed", False):
        os.kill(os.getpid(), 9)
    if getattr(job.parameters, "fails", False) and not (job.out / "failed").exists():
        (job.out / "failed").touch()
        sys.exit("no luck")
    shutil.copy(sys.argv[1], job.out / "told.json")
    files.write_json(job.out / "facts.json", {"ran": 1})

def score(job):
    if getattr(job.parameters, "cannot_score", False) and (job.out / "told.json").exists():
        sys.exit("no room")
    files.write_json(job.out / "heldout.json", {})
"""


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """`start(module, overrides, **more)`: `jobs.train_step` in tmp/08_rlhf/reward, as for a reward model."""
    (tmp_path / "child_of_steps.py").write_text(CHILD, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"template": "plain"})

    def run(
        module: str = "child_of_steps", overrides: dict[str, Any] | None = None, apart: bool = False, **more: Any
    ) -> dict[str, Any]:
        stage = Stage(params.load("08_rlhf", {"seed": 5, **(overrides or {})}), tmp_path, "key", {}, False)
        shown: list[str] = []
        inputs = {"weights": tmp_path / "weights"}
        folder = tmp_path / "08_rlhf" / "reward"
        steps, method = stage.parameters.reward, Method(module, "dpo", apart=apart)
        facts = jobs.train_step(stage, method, folder, steps, inputs, shown.append, **more)
        return {"facts": facts, "shown": shown, "folder": folder, "stage": stage.parameters}

    return run


def test_the_child_is_told_the_stage_s_parameters_and_one_training_s_steps(start: Callable) -> None:
    made = start(notebook="08_rlhf", temperature=0.5)
    told = files.read_json(made["folder"] / "told.json")
    given, common = told["parameters"], made["stage"].model_dump(mode="json")
    assert made["facts"] == {"ran": 1} and made["shown"] == ["half way"]
    assert not given.keys() & {"reward", "rejection", "rl"} and given["seed"] == 5
    assert {name: given[name] for name in common["reward"]} == common["reward"]
    assert given["temperature"] == 0.5 and given["lora_r"] == common["lora_r"]
    files.write_json(made["folder"] / "again.json", told)
    job = jobs.read(str(made["folder"] / "again.json"))
    assert (job.template.name, job.out) == ("plain", made["folder"])
    assert job.paths.weights.name == "weights" and job.parameters.max_steps == common["reward"]["max_steps"]


def test_a_finished_folder_is_only_read_and_swept(start: Callable) -> None:
    folder = start()["folder"]
    assert not (folder / "checkpoints").exists() and not (folder / "job.json").exists()
    # As a kill between the facts and the sweeping leaves it.
    (folder / "checkpoints").mkdir()
    files.write_json(folder / "job.json", {})
    again = start("module.that.is.not.there")
    assert again["facts"] == {"ran": 1} and again["shown"] == [FINISHED]
    assert not (folder / "checkpoints").exists() and not (folder / "job.json").exists()


@pytest.mark.parametrize("adapter", [True, False])
def test_an_adapter_is_merged_before_a_training_starts_from_it(
    adapter: bool, start: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if adapter:
        files.write_json(tmp_path / "weights" / "adapter_config.json", {})
    done: list[str] = []
    monkeypatch.setattr(launch, "run", lambda command, *_: done.extend(command[4:]))
    with pytest.raises(QilinError, match="facts.json"):
        start()
    assert done == [*["open"] * adapter, "train", "score"]


def test_one_process_merges_what_many_that_never_talk_then_read(
    start: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them at once would write and remove each other's files."""
    files.write_json(tmp_path / "weights" / "adapter_config.json", {})
    done: list[Any] = []
    monkeypatch.setattr(launch, "run", lambda command, log, show, gpus, workers=1: done.append((command[4:], workers)))
    monkeypatch.setattr(launch, "processes", lambda _: 3)
    with pytest.raises(QilinError, match="facts.json"):
        start(apart=True)
    assert [one for one in done if "open" in one[0]] == [(["open"], 1)]
    assert [workers for phases, workers in done if "train" in phases] == [3]


def test_a_failed_child_is_named_keeps_its_checkpoints_and_goes_on(start: Callable, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"exit code 1: no luck \(whole log: .*reward/train\.log\)"):
        start(fails=True)
    folder = tmp_path / "08_rlhf" / "reward"
    assert (folder / "checkpoints" / "checkpoint-2").is_dir() and not (folder / "facts.json").exists()
    assert start(fails=True)["facts"] == {"ran": 1}


def test_a_phase_that_a_signal_ends_is_named_by_it(start: Callable) -> None:
    """Phases on the CPU are forked from one process, which takes the same end."""
    with pytest.raises(QilinError, match=r"the process ended with signal 9 \(Killed\)"):
        start(killed=True)


def test_scoring_that_fails_is_repeated_and_the_training_is_not(start: Callable, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="exit code 1: no room"):
        start(cannot_score=True)
    folder = tmp_path / "08_rlhf" / "reward"
    (folder / "told.json").unlink()
    assert start()["facts"] == {"ran": 1}
    assert not (folder / "told.json").exists() and (folder / "heldout.json").exists()


JOB = Path("run/job.json")


def child(source: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(source)]


def wanted(gpus: int, nodes: int = 1, **others: Any) -> SimpleNamespace:
    made = {"notebook": "05_dpo", "folder": "05_dpo", "method": "dpo", "run": "r"}
    made |= {"nproc_per_node": None, "deepspeed": None, "dry_run": False}
    return SimpleNamespace(**{**made, **others}, gpus=gpus, nodes=nodes)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NUM_NODES", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


# --- the command line -------------------------------------------------------------------------------------------------


HERE, TAIL = [sys.executable, "-m"], ["-m", "m", "run/job.json"]
ONE_NODE, TORCHRUN = [*HERE, "qilin_lib.train.one_node"], [*HERE, "torch.distributed.run"]
MASTER = {"MASTER_ADDR": "node7", "MASTER_PORT": "4321"}
SLURM = {"SLURM_JOB_ID": "1234567", "SLURM_JOB_NUM_NODES": "2"}
SRUN = ["srun", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]


def meeting(place: str) -> list[str]:
    return ["--nnodes=2", "--rdzv_backend=c10d", f"--rdzv_endpoint={place}", *TAIL]


@pytest.mark.parametrize(
    ("asked", "environment", "expected"),
    [
        ({"gpus": 0}, {}, [*HERE[:1], *TAIL]),
        ({"gpus": 1}, SLURM, [*HERE[:1], *TAIL]),
        # DeepSpeed's only process: a bare child ends in "No module named 'mpi4py'".
        ({"gpus": 1, "deepspeed": "zero2_offload"}, {}, [*ONE_NODE, "--nproc_per_node=1", *TAIL]),
        ({"gpus": 8}, {}, [*ONE_NODE, "--nproc_per_node=8", *TAIL]),
        ({"gpus": 8}, SLURM, [*ONE_NODE, "--nproc_per_node=8", *TAIL]),
        ({"gpus": 1, "nodes": 2}, MASTER, [*TORCHRUN, "--nproc_per_node=1", *meeting("node7:4321")]),
        # The port is 10000 + job number mod 20000: two jobs on one machine do not meet by mistake.
        (
            {"gpus": 8, "nodes": 2},
            SLURM | {"MASTER_ADDR": "elsewhere"},
            [*SRUN, *TORCHRUN, "--nproc_per_node=8", *meeting(f"{socket.gethostname()}:24567")],
        ),
        (
            {"gpus": 8, "nodes": 2},
            SLURM | MASTER,
            [*SRUN, *TORCHRUN, "--nproc_per_node=8", *meeting(f"{socket.gethostname()}:4321")],
        ),
    ],
)
def test_the_command_that_trains(
    asked: dict[str, Any], environment: dict[str, str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain child, torchrun on one node, torchruns that meet, or one a node through srun in a Slurm job."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.command(wanted(**asked), "m", JOB) == expected


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "nodes = 3 needs MASTER_ADDR"),
        (SLURM, "05_dpo: nodes = 3, but Slurm job 1234567 was given 2; nearest valid: nodes = 2"),
    ],
)
def test_nodes_that_are_not_there_are_refused(
    environment: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(QilinError, match=sentence):
        launch.command(wanted(8, nodes=3), "m", JOB)


# --- dry run ----------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_what_a_shell_would_run_and_ends(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """For eight GPUs, on a machine that need not have one; a folder's name with a space is quoted."""
    folder = tmp_path / "my runs"
    monkeypatch.setenv("QILIN_RUNS_DIR", str(folder))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: pytest.fail("torch was asked"))
    with pytest.raises(SystemExit) as ended:
        launch.dry_run(wanted(8, dry_run=True))
    assert ended.value.code == 0 and not folder.exists()
    line = capsys.readouterr().out.splitlines()[1]
    job = Path("my runs/r/05_dpo/job.json")
    assert shlex.split(line) == [*launch.command(wanted(8), launch.TRAINS, job), "train"]
    launch.dry_run(wanted(8))
    assert capsys.readouterr().out == ""


def test_a_dry_run_for_nodes_leaves_the_master_s_name_to_the_shell(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        launch.dry_run(wanted(8, 2, dry_run=True))
    _, line, remark = capsys.readouterr().out.splitlines()
    pasted = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line}"], env={"MASTER_ADDR": "node7"}, capture_output=True, text=True, check=True
    )
    assert "--rdzv_endpoint=node7:29500" in pasted.stdout.splitlines() and "MASTER_ADDR" in remark


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (0, "05_dpo: gpus = 4, but this machine has 0 CUDA devices; nearest valid: gpus = 0 (the CPU)"),
        (1, "05_dpo: gpus = 4, but this machine has 1 CUDA device; nearest valid: gpus = 1"),
    ],
)
def test_too_many_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch, found: int, sentence: str) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: found)
    with pytest.raises(QilinError) as refused:
        launch.check_gpus(wanted(4))
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("gpus", "deepspeed", "chosen", "sentence"),
    [
        (0, "zero2", None, r"zero2 on the CPU .*no C\+\+ compiler \('c\+\+'\).* = null, or install"),
        (0, "zero2", "clang++", r"zero2 on the CPU .*no C\+\+ compiler \('clang\+\+'"),
        (1, "zero2_offload", None, r"zero2_offload .*\('c\+\+'\).*nearest valid: deepspeed = zero2, or install"),
    ],
)
def test_what_deepspeed_compiles_needs_a_compiler(
    gpus: int, deepspeed: str, chosen: str | None, sentence: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", chosen or "c++")
    for other in (None, "zero2") if gpus else (None,):
        launch.check_compiler(wanted(gpus, deepspeed=other))
    with pytest.raises(QilinError, match=f"05_dpo: deepspeed = {sentence}"):
        launch.check_compiler(wanted(gpus, deepspeed=deepspeed))
    compiler = tmp_path / (chosen or "c++")
    compiler.write_text("#!/bin/sh\n", encoding="utf-8")
    compiler.chmod(0o755)
    launch.check_compiler(wanted(gpus, deepspeed=deepspeed))


# --- what a run shows and keeps ---------------------------------------------------------------------------------------


def test_progress_goes_to_the_notebook_and_the_rest_to_the_log(tmp_path: Path) -> None:
    shown: list[str] = []
    source = """
    import sys
    print("loading")
    print('QILIN-PROGRESS {"step": 1, "steps": 9, "loss": 2.34567, "seconds": 3.2}')
    print("损失", file=sys.stderr)
    print('QILIN-PROGRESS {"step": 9, "steps": 9, "loss": null, "seconds": 30}')
    """
    for _ in range(2):
        launch.run(child(source), tmp_path / "train.log", shown.append, gpus=0)
    assert shown == ["step 1/9, loss 2.3457, 3 s", "step 9/9, 30 s"] * 2
    log = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert log == ["loading", "损失"] * 2, "the log of an earlier attempt is kept"


# --- the environment of a child ---------------------------------------------------------------------------------------

TUNED = ("CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "OMP_NUM_THREADS",
         "TORCHDYNAMO_DISABLE", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")  # fmt: skip


@pytest.fixture
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """`seen(gpus, **set)`: what a child finds of `TUNED` when the user has set only `set`."""

    def run(gpus: int, **chosen: str) -> dict[str, str]:
        for name in TUNED:
            monkeypatch.delenv(name, raising=False)
        for name, value in chosen.items():
            monkeypatch.setenv(name, value)
        source = f"import json, os\nprint(json.dumps({{n: os.environ[n] for n in {TUNED} if n in os.environ}}))"
        launch.run(child(source), tmp_path / "train.log", print, gpus)
        assert {name: os.environ[name] for name in TUNED if name in os.environ} == chosen, "the notebook's own"
        return json.loads((tmp_path / "train.log").read_text(encoding="utf-8").splitlines()[-1])

    return run


@pytest.mark.parametrize(
    ("gpus", "visible", "given"),
    [(1, None, "0"), (3, None, "0,1,2"), (2, "5, 3,1", "5,3"), (1, "GPU-8a56,MIG-77cd", "GPU-8a56")],
)
def test_a_child_sees_the_first_gpus_and_has_its_share_of_the_cores(
    seen: Callable, gpus: int, visible: str | None, given: str
) -> None:
    """One process that sees two GPUs would split every batch over both (nn.DataParallel)."""
    chosen = {"CUDA_VISIBLE_DEVICES": visible} if visible is not None else {}
    assert seen(gpus, **chosen) == {
        "CUDA_VISIBLE_DEVICES": given,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // gpus)),
    }


ON_CPU = {
    "CUDA_VISIBLE_DEVICES": "",
    "TORCHDYNAMO_DISABLE": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
}


def test_on_the_cpu_nothing_compiles_and_what_the_user_has_set_stays(seen: Callable) -> None:
    assert seen(0) == ON_CPU
    own = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64", "OMP_NUM_THREADS": "3", "TORCHDYNAMO_DISABLE": "0"}
    assert seen(1, **own) == own | {"CUDA_VISIBLE_DEVICES": "0"}
    assert seen(0, **own) == ON_CPU | own
    assert "PYTORCH_CUDA_ALLOC_CONF" not in seen(1, PYTORCH_ALLOC_CONF="max_split_size_mb:64"), "it would come first"


@pytest.mark.parametrize("cuda", [False, True])
def test_a_user_s_own_kernel_loses_the_compiler_only_without_a_gpu(monkeypatch: pytest.MonkeyPatch, cuda: bool) -> None:
    import torch

    from qilin_lib.models.load import quiet_libraries

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    monkeypatch.delenv("TORCHDYNAMO_DISABLE")
    quiet_libraries()
    assert os.environ.get("TORCHDYNAMO_DISABLE") == (None if cuda else "1")
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")


# --- what listens -----------------------------------------------------------------------------------------------------

MEET = """
import os, time
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
dist.all_reduce(torch.ones(1))
os.write(1, b"met\\n")
time.sleep(60)
"""


@pytest.mark.slow
def test_two_processes_of_one_node_listen_on_loopback_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's store and the processes' own sockets: whoever reaches them could end the training, or worse."""
    (tmp_path / "meet.py").write_text(MEET, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    command = launch.command(wanted(0, nproc_per_node=2), "meet", JOB)
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        met = 0
        for line in agent.stdout:
            if (met := met + line.count("met")) == 2:
                break
        family = [psutil.Process(agent.pid), *psutil.Process(agent.pid).children(recursive=True)]
        open_ports = [one.laddr.ip for process in family for one in process.net_connections("inet")
                      if one.status == psutil.CONN_LISTEN]  # fmt: skip
    finally:
        agent.terminate()
        agent.wait(30)
    assert met == 2 and len(family) == 3 and len(open_ports) >= 3
    assert {ip.removeprefix("::ffff:") for ip in open_ports} <= {"127.0.0.1", "::1"}
