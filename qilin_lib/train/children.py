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
# torch prints "[rank1]: " before a traceback once the ranks have met; before that a traceback stands bare.
_ERROR = re.compile(r"^(?:\[rank(\d+)\]: )?[A-Za-z_.]*(?:Error|Exception|Interrupt)\b.*", re.MULTILINE)
# One entry of the summary that torchrun prints when a rank has failed; the root cause comes last.
_FAILED = re.compile(
    r"^ *rank +: (?P<rank>\d+) \(.*\n.*?exitcode +: (?P<code>-?\d+) \(.*\n(?:.*\n)?.*?traceback : (?P<why>.*)", re.M
)


@contextmanager
def running(
    arguments: list[str], environments: list[dict[str, str]], output: int
) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes, one per environment, outputs and errors of all into the file descriptor `output`; at the end
    nothing of them is left, nor of what they started. One that fails takes the others down.
    """
    mark, over = uuid.uuid4().hex, threading.Event()
    processes: list[subprocess.Popen] = []
    try:
        for environment in environments:
            process = subprocess.Popen(
                arguments,
                env={**environment, MARK: mark},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # The stage stays locked while any of its processes lives.
                pass_fds=locks.descriptors(),
                preexec_fn=die_with_parent,
            )
            processes.append(process)
        threading.Thread(target=_watch, args=(processes, mark, over), daemon=True).start()
        yield processes
    finally:
        _end_marked(mark)
        for process in processes:
            process.wait()
        over.set()


def _watch(processes: list[subprocess.Popen], mark: str, over: threading.Event) -> None:
    """What outlives a killed child holds its pipe open: without this the notebook would read from it for ever."""
    # Again and again: a worker in the middle of its exec has no environment yet.
    while not over.wait(0.2):
        codes = [process.poll() for process in processes]
        if any(codes) or None not in codes:
            _end_marked(mark)


def first_failure(codes: list[int]) -> tuple[int, int] | None:
    """(rank, exit code) of the process that failed by itself; those that it took down were ended by SIGTERM."""
    failed = [(rank, code) for rank, code in enumerate(codes) if code]
    return next((one for one in failed if one[1] != -signal.SIGTERM), failed[0] if failed else None)


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
    """Why a training failed, with the rank that failed first if there are several: "[rank1]: ValueError: …".

    A rank that fails takes the others down: they report a closed connection, and torchrun ends with a summary of its
    own. So a rank that a signal killed comes first, then the rank whose traceback was printed first; of that rank the
    last exception (of a chain the last is the one that was not caught). The first `earlier` bytes of `log` belong to a
    former attempt.
    """
    text = log.read_bytes()[earlier:].decode("utf-8")
    failed = list(_FAILED.finditer(text))
    errors = [error for error in _ERROR.finditer(text) if "ChildFailedError" not in error[0]]
    # torchrun ends the ranks that are left with SIGTERM. SIGABRT is what threads of gloo or NCCL do to a process that
    # leaves with an exception, or that waits for one: the exception says more.
    consequences = {-signal.SIGTERM} | ({-signal.SIGABRT} if errors else set())
    for one in failed:
        if int(one["code"]) < 0 and int(one["code"]) not in consequences:
            return f"[rank{one['rank']}]: {one['why']}"
    if not errors:
        return (text.splitlines() or ["no output"])[-1]
    rank = next((error[1] for error in errors if error[1]), None)
    last = [error[0] for error in errors if error[1] == rank][-1]
    return last if rank or not failed else f"[rank{failed[-1]['rank']}]: {last}"
