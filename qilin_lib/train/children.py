"""Child processes that die with their parent, take their own children along, and whose log says why one failed."""

from __future__ import annotations

import ctypes
import re
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from qilin_lib.runs import locks

# In the environment of a training process and of all that it starts: torchrun's workers live in sessions of their own.
MARK = "QILIN_JOB"
# torch prints "[rank1]: " before a traceback once the ranks have met.
_ERROR = re.compile(r"^(?:\[rank(\d+)\]: )?[A-Za-z_.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
# What objects and threads complain of as the process leaves.
_AFTER = re.compile(r"^Exception (?:ignored in|in thread)\b.*\n(?:Traceback .*\n)?(?: +.*\n)*.*", re.MULTILINE)


@contextmanager
def running(
    arguments: list[str], environments: list[dict[str, str]], output: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, one per environment, outputs and errors of all into the file descriptor `output`; at the end
    nothing of them is left, nor of what they started. One that fails takes the others down.
    """
    mark, over = uuid.uuid4().hex, threading.Event()
    processes: list[subprocess.Popen] = []

    def watch() -> None:
        # What outlives a killed child holds its pipe open: without this the notebook would read from it for ever. Again
        # and again: a worker in the middle of its exec has no environment yet.
        while not over.wait(0.2):
            codes = [process.poll() for process in processes]
            if any(codes) or None not in codes:
                _end_marked(mark)

    # The stage stays locked while any of its processes lives.
    how = {"start_new_session": True, "pass_fds": locks.descriptors(), "preexec_fn": die_with_parent}
    try:
        for environment in environments:
            own = environment | {MARK: mark}
            processes.append(subprocess.Popen(arguments, env=own, stdout=output, stderr=subprocess.STDOUT, **how))
        threading.Thread(target=watch, daemon=True).start()
        yield processes
    finally:
        _end_marked(mark)
        for process in processes:
            process.wait()
        over.set()


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


def die_with_parent() -> None:
    """Ask Linux to end this child when the process that started it dies (PR_SET_PDEATHSIG = 1)."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


def cause(log: Path, earlier: int) -> str:
    """Why a training failed, from what was written to `log` after its first `earlier` bytes: the rank that a signal
    killed (torchrun's summary names it), else the last exception of the rank whose traceback came first (the others
    then report a closed connection), else the last line."""
    text = log.read_bytes()[earlier:].decode("utf-8")
    for entry in text.split("  rank      : ")[1:]:
        # SIGTERM and SIGABRT are what the failure of another rank does.
        if killed := re.search(r"Signal (?!6 |15 )\d+ .*", entry):
            return f"[rank{entry.split()[0]}]: {killed[0]}"
    errors = [error for error in _ERROR.finditer(_AFTER.sub("", text)) if "ChildFailedError" not in error[0]]
    if not errors:
        return (text.splitlines() or ["no output"])[-1]
    rank = next((error[1] for error in errors if error[1]), None)
    return [error[0] for error in errors if error[1] == rank][-1]
