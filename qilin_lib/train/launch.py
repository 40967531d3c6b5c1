"""Training runs in a child process: one directly, several through torchrun. Log to a file, steps to the notebook.

A kernel that touched CUDA cannot fork, `!torchrun` in a cell hides a failure, and `notebook_launcher` refuses once
bitsandbytes is imported (accelerate#940); so: a subprocess that dies with its parent, and an error when it fails.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.progress import Show

PROGRESS = "QILIN-PROGRESS "
# In the environment of a training process and of all that it starts: torchrun's workers live in sessions of their own.
MARK = "QILIN_JOB"


def available_gpus() -> int:
    """CUDA devices that torch can see; no CUDA context is made."""
    import torch

    return torch.cuda.device_count()


def check_gpus(parameters: Any) -> None:
    """QilinError with one sentence when more GPUs are asked for than this machine has."""
    if parameters.gpus and parameters.gpus > (found := available_gpus()):
        raise QilinError(
            f"{parameters.notebook}: gpus = {parameters.gpus}, but this machine has {found} CUDA "
            f"device{'s' * (found != 1)}; nearest valid: gpus = {found}{' (the CPU)' * (found == 0)}"
        )


def processes(parameters: Any) -> int:
    """How many training processes there are in all: one a GPU, or as many as `nproc_per_node` says."""
    return (parameters.nproc_per_node or max(1, parameters.gpus)) * parameters.nodes


def command(parameters: Any, module: str, job: Path) -> list[str]:
    """The exact command line that trains: `python -m module job`, under torchrun for more than one process."""
    if processes(parameters) == 1:
        return [sys.executable, "-m", module, str(job)]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc_per_node={processes(parameters) // parameters.nodes}",
    ]
    if parameters.nodes == 1:
        torchrun += ["--standalone"]
    else:
        host = os.environ.get("MASTER_ADDR")
        if host is None:
            raise QilinError(
                f"{parameters.notebook}: nodes = {parameters.nodes} needs MASTER_ADDR, the name of the first node, in "
                "the environment; nearest valid: nodes = 1"
            )
        port = os.environ.get("MASTER_PORT", "29500")
        torchrun += [f"--nnodes={parameters.nodes}", "--rdzv_backend=c10d", f"--rdzv_endpoint={host}:{port}"]
    return [*torchrun, "-m", module, str(job)]


def run(arguments: list[str], log: Path, show: Show, gpus: int) -> None:
    """Run a training command; `show` gets one short line now and then. If it fails, QilinError names cause and log.

    Nothing is left running, however this ends: an interrupt, a failure, or the death of the notebook's kernel.
    """
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        # glibc gives freed pages back and faults them in again every step; keeping them is a third faster on a CPU.
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    }
    if gpus == 0:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    earlier = log.stat().st_size if log.exists() else 0
    with open(log, "a", encoding="utf-8") as handle, _child(arguments, environment) as process:
        for line in process.stdout or ():
            if line.startswith(PROGRESS):
                show(_progress_text(json.loads(line[len(PROGRESS) :])))
            else:
                handle.write(line)
                handle.flush()
        code = process.wait()
    if code:
        how = f"exit code {code}" if code > 0 else f"signal {-code} ({signal.strsignal(-code)})"
        raise QilinError(f"training ended with {how}: {_cause(log, earlier)} (whole log: {log})")


@contextmanager
def _child(arguments: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        arguments,
        env={**environment, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        bufsize=1,
        errors="replace",
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )
    over = threading.Event()
    threading.Thread(target=_watch, args=(process, mark, over), daemon=True).start()
    try:
        yield process
    finally:
        _end_marked(mark)
        process.wait()
        over.set()


def _watch(process: subprocess.Popen, mark: str, over: threading.Event) -> None:
    """What outlives a killed child holds its pipe open: without this the notebook would read from it for ever."""
    process.wait()
    # Again and again: a worker in the middle of its exec has no environment yet.
    while not over.wait(0.2):
        _end_marked(mark)


def _end_marked(mark: str) -> None:
    """Ask every process of a job to end, insist after ten seconds, and look again until there is none."""
    import psutil

    family = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                process.terminate()
                family.append(process)
    for survivor in psutil.wait_procs(family, timeout=10)[1]:
        with suppress(psutil.Error):
            survivor.kill()
    if family:
        _end_marked(mark)


def _die_with_parent() -> None:
    """Ask Linux to end this child when the kernel that started it dies (PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def _progress_text(state: dict[str, Any]) -> str:
    text = f"step {state['step']}/{state['steps']}"
    return (
        text + (f", loss {state['loss']:.4f}" if state.get("loss") is not None else "") + f", {state['seconds']:.0f} s"
    )


def _cause(log: Path, earlier: int) -> str:
    """The last line that looks like an exception: under torchrun the end of the log is only the launcher's summary.

    The first `earlier` bytes belong to a former attempt.
    """
    lines = log.read_bytes()[earlier:].decode("utf-8").splitlines()
    errors = [line for line in lines if re.match(r"^(\[rank\d+\]: )?[A-Za-z_.]*(Error|Exception|Interrupt)\b", line)]
    causes = [line for line in errors if "ChildFailedError" not in line]
    return (causes or lines or ["no output"])[-1]
