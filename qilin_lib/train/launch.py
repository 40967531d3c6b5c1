"""Training runs in a child process: one directly, several through torchrun. Log to a file, steps to the notebook.

A kernel that touched CUDA cannot fork, `!torchrun` in a cell hides a failure, and `notebook_launcher` refuses once
bitsandbytes is imported (accelerate#940); so: a subprocess that dies with its parent, and an error when it fails.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from qilin_lib import runs
from qilin_lib.errors import QilinError
from qilin_lib.progress import Show
from qilin_lib.runs import locks
from qilin_lib.schema import Trained, Training
from qilin_lib.train import children, one_node

PROGRESS = "QILIN-PROGRESS "
# What trains: `python -m` this, a job, and what is to be done of it.
TRAINS = "qilin_lib.train.job"
# In a dry run's command: the shell that it is pasted into knows the first node.
UNSET = "$MASTER_ADDR"


def device(parameters: Any) -> str:
    """Where this process computes: the GPU of its number on the node, the first if it is alone, or the CPU."""
    return f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if parameters.gpus else "cpu"


def check_gpus(parameters: Any) -> None:
    """QilinError with one sentence when more GPUs are asked for than this machine has; no CUDA context is made."""
    if not parameters.gpus:
        return
    import torch

    if parameters.gpus > (found := torch.cuda.device_count()):
        raise QilinError(
            f"{parameters.notebook}: gpus = {parameters.gpus}, but this machine has {found} CUDA "
            f"device{'s' * (found != 1)}; nearest valid: gpus = {found}{' (the CPU)' * (found == 0)}"
        )


def check_compiler(parameters: Trained) -> None:
    """QilinError when DeepSpeed has no C++ compiler for what it compiles when it starts: its collectives on a CPU
    (op_builder/cpu/comm.py), the optimizer that it moves off the GPUs (DeepSpeedCPUAdam)."""
    offloads = (parameters.deepspeed or "").endswith("_offload")
    # torch's builder takes CXX, or c++.
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) or not parameters.deepspeed or (parameters.gpus and not offloads):
        return
    what = "on the CPU compiles its collectives" if parameters.gpus == 0 else "compiles its optimizer for the CPU"
    other = "null" if parameters.gpus == 0 else parameters.deepspeed.removesuffix("_offload")
    raise QilinError(
        f"{parameters.notebook}: deepspeed = {parameters.deepspeed} {what} when it starts, but there is no C++ "
        f"compiler ('{compiler}') on PATH; nearest valid: deepspeed = {other}, or install g++"
    )


def processes(parameters: Any) -> int:
    """How many training processes there are in all: one a GPU, or as many as `nproc_per_node` says."""
    return (parameters.nproc_per_node or max(1, parameters.gpus)) * parameters.nodes


def command(parameters: Any, module: str, job: Path) -> list[str]:
    """The command line that trains: `python -m module job`, under torchrun for more than one process.

    Several nodes: inside a Slurm allocation its first node starts one torchrun per node through srun; elsewhere
    MASTER_ADDR names the first node, and the same notebook is started on every node. `job` must lie on a disk that all
    share. QilinError if the nodes are not those of the allocation, or if nobody says where they meet.
    """
    # DeepSpeed finds its only process through torchrun too; without, it looks for MPI.
    if processes(parameters) == 1 and not parameters.deepspeed:
        return plain(module, job)
    each, task = f"--nproc_per_node={processes(parameters) // parameters.nodes}", ["-m", module, str(job)]
    if parameters.nodes == 1:
        return [sys.executable, "-m", one_node.__name__, each, *task]
    srun: list[str] = []
    if {"SLURM_JOB_ID", "SLURM_JOB_NUM_NODES"} <= os.environ.keys():
        slurm, given = os.environ["SLURM_JOB_ID"], int(os.environ["SLURM_JOB_NUM_NODES"])
        if parameters.nodes != given:
            raise QilinError(
                f"{parameters.notebook}: nodes = {parameters.nodes}, but Slurm job {slurm} was given {given}; nearest "
                f"valid: nodes = {given}"
            )
        srun = ["srun", f"--nodes={given}", f"--ntasks={given}", "--ntasks-per-node=1", "--kill-on-bad-exit=1"]
        host = socket.gethostname()
        # Below 32768, where Linux takes the ports of outgoing connections from.
        usual = str(10000 + int(slurm) % 20000)
    else:
        # 29500 is torchrun's default.
        host, usual = os.environ.get("MASTER_ADDR", UNSET if parameters.dry_run else None), "29500"
        if host is None:
            raise QilinError(
                f"{parameters.notebook}: nodes = {parameters.nodes} needs MASTER_ADDR, the name of the first node, in "
                "the environment; nearest valid: nodes = 1"
            )
    meeting = f"--rdzv_endpoint={host}:{os.environ.get('MASTER_PORT', usual)}"
    torchrun = [sys.executable, "-m", "torch.distributed.run", each, f"--nnodes={parameters.nodes}"]
    return [*srun, *torchrun, "--rdzv_backend=c10d", meeting, *task]


def plain(module: str, job: Path) -> list[str]:
    """The command line of one process, or of each of several that never talk to each other."""
    return [sys.executable, "-m", module, str(job)]


def dry_run(parameters: Training) -> None:
    """With `dry_run: true` print the command that this notebook would train with, and end the notebook without an error
    (papermill takes SystemExit(0) for success). No device is asked."""
    if not parameters.dry_run:
        return
    job = runs.runs_dir() / parameters.run / parameters.folder / "job.json"
    if job.is_relative_to(Path.cwd()):
        job = job.relative_to(Path.cwd())
    words = [*command(parameters, TRAINS, job), "train"]
    print(f"dry_run: {parameters.folder} would write {job} and train with")
    print(" ".join(f'"{word}"' if UNSET in word else shlex.quote(word) for word in words))
    if any(UNSET in word for word in words):
        print("on every node; MASTER_ADDR, the name of the first one, must be set in the environment of each.")
    raise SystemExit(0)


def run(arguments: list[str], log: Path, show: Show, gpus: int, workers: int = 1) -> None:
    """Run a child process; `show` gets one short line now and then. If it fails, QilinError names cause and log.

    With `workers` so many of them, which find RANK, LOCAL_RANK and WORLD_SIZE in their environment and never talk to
    each other. Nothing is left running, however this ends.
    """
    environments = [environment := _environment(gpus)]
    if workers > 1:
        # On the CPU a core each, as torchrun has it.
        common = {"OMP_NUM_THREADS": "1", **environment, "WORLD_SIZE": str(workers)}
        environments = [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(workers)]
    earlier = log.stat().st_size if log.exists() else 0
    reading, writing = os.pipe()
    with (
        open(log, "a", encoding="utf-8") as handle,
        children.running(arguments, environments, writing) as started,
        open(reading, encoding="utf-8", errors="replace") as output,
    ):
        os.close(writing)
        for line in output:
            if not line.startswith(PROGRESS):
                handle.write(line)
                handle.flush()
                continue
            state = json.loads(line.removeprefix(PROGRESS))
            if (text := state.get("text")) is None:
                loss = "" if state.get("loss") is None else f", loss {state['loss']:.4f}"
                text = f"step {state['step']}/{state['steps']}{loss}, {state['seconds']:.0f} s"
            show(text)
            locks.report(text)
        codes = [process.wait() for process in started]
    if any(codes):
        # Those that it took down were ended by SIGTERM.
        rank = next((rank for rank, code in enumerate(codes) if code not in (0, -signal.SIGTERM)), 0)
        code = codes[rank] or -signal.SIGTERM
        how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.strsignal(-code)})"
        why = children.cause(log, earlier).replace(f"{QilinError.__module__}.{QilinError.__name__}: ", "")
        which = f"[rank{rank}]: " if workers > 1 else ""
        raise QilinError(f"the process ended with {how}: {which}{why} (whole log: {log})")


def report(**state: Any) -> None:
    """Tell the notebook how far a child is: a `text`, or step, steps, loss and seconds."""
    # One write: what another rank prints cannot come in between.
    sys.stdout.write(f"{PROGRESS}{json.dumps(state)}\n")
    sys.stdout.flush()


def _environment(gpus: int) -> dict[str, str]:
    """The environment of a child that computes on the first `gpus` of the visible GPUs, or on the CPU."""
    user, visible = dict(os.environ), os.environ.get("CUDA_VISIBLE_DEVICES")
    quiet = {
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        # TRL's trainers look up the hub's address to report their use.
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if not gpus:
        return {
            # bitsandbytes decorates with torch.compile, which imports the compiler: seconds of each start. A user's own
            # value stays.
            "TORCHDYNAMO_DISABLE": "1",
            **user,
            **quiet,
            "CUDA_VISIBLE_DEVICES": "",
            # glibc gives freed pages back and faults them in again every step; keeping them is a third faster on a CPU.
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": "100000000000",
        }
    # torchrun says 1: an optimizer that DeepSpeed moved to the CPU would run on one thread.
    usual = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // gpus))}
    # Batches differ in length: blocks of fixed sizes would leave gaps that nothing fits into. Both names count.
    if "PYTORCH_ALLOC_CONF" not in user:
        usual["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    # A process that sees more GPUs than its own would split every batch over them (nn.DataParallel).
    first = [str(number) for number in range(gpus)] if visible is None else visible.split(",")[:gpus]
    return usual | user | quiet | {"CUDA_VISIBLE_DEVICES": ",".join(name.strip() for name in first)}
