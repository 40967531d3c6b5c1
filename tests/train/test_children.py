"""What a training's child does when something fails: its cause is named, and nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.train import children, launch

pytestmark = pytest.mark.slow

# A child with a grandchild, as torchrun has workers; both write their numbers down.
FAMILY = """
import os, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(40)"], start_new_session={session})
open({pids!r}, "w").write(f"{{os.getpid()}} {{worker.pid}}")
print('QILIN-PROGRESS {{"step": 1, "steps": 9, "loss": 2.0, "seconds": 1}}', flush=True)
{then}
"""


def child(source: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(source)]


@pytest.fixture
def family(tmp_path: Path) -> Callable[..., list[str]]:
    """`family(then, session)`: the command of a child that starts a sleeping grandchild and then does `then`."""

    def make(then: str = "time.sleep(40)", session: bool = False) -> list[str]:
        return child(FAMILY.format(pids=str(tmp_path / "pids"), then=then, session=session))

    return make


def gone(pids: Path, seconds: float = 5.0) -> bool:
    """Whether all processes that were written down have ended, now or in `seconds`."""
    numbers = [int(number) for number in pids.read_text(encoding="utf-8").split()]
    assert len(numbers) == 2
    deadline = time.time() + seconds
    while alive := [number for number in numbers if is_alive(number)]:
        if time.time() > deadline:
            for number in alive:
                os.kill(number, signal.SIGKILL)
            return False
        time.sleep(0.05)
    return True


def is_alive(number: int) -> bool:
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ('print("step")\nraise ValueError("the loss is no number")', "exit code 1: ValueError: the loss is no number"),
        ('print("今天")\nraise SystemExit(3)', "exit code 3: 今天"),
        ("raise SystemExit(5)", "exit code 5: no output"),
    ],
)
def test_a_failure_is_named_and_an_earlier_attempt_is_not_blamed(tmp_path: Path, source: str, sentence: str) -> None:
    log = tmp_path / "train.log"
    log.write_text("损失\nValueError: yesterday's\n", encoding="utf-8")
    with pytest.raises(QilinError) as failed:
        launch.run(child(source), log, print, gpus=0)
    assert str(failed.value) == f"the process ended with {sentence} (whole log: {log})"


def test_a_killed_child_is_a_failure_and_takes_its_workers_along(tmp_path: Path, family) -> None:
    """As the kernel's out-of-memory killer does; a worker in a session of its own still holds the pipe."""
    started = time.time()
    with pytest.raises(QilinError, match=r"the process ended with signal 9 \(Killed\)"):
        launch.run(family("os.kill(os.getpid(), 9)", session=True), tmp_path / "train.log", print, gpus=0)
    assert time.time() - started < 30, "the notebook must not wait for the orphan"
    assert gone(tmp_path / "pids")


# --- interrupts -------------------------------------------------------------------------------------------------------


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("session", [False, True])
def test_an_interrupt_leaves_nothing_running(tmp_path: Path, family, session: bool) -> None:
    with pytest.raises(KeyboardInterrupt):
        launch.run(family(session=session), tmp_path / "train.log", interrupt, gpus=0)
    assert gone(tmp_path / "pids", seconds=0)


def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path, family, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = psutil.wait_procs
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, timeout: wait(processes, timeout=0.3))

    def stop(text: str) -> None:
        if text == "deaf":
            raise KeyboardInterrupt

    deaf = 'import signal; signal.signal(15, signal.SIG_IGN); print(\'QILIN-PROGRESS {"text": "deaf"}\', flush=True)'
    with pytest.raises(KeyboardInterrupt):
        launch.run(family(f"{deaf}; time.sleep(40)"), tmp_path / "train.log", stop, gpus=0)
    assert gone(tmp_path / "pids")


def test_another_job_s_processes_are_left_alone(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    other = subprocess.Popen(sleeper, env={**os.environ, children.MARK: "another job"})
    try:
        launch.run(child("print(1)"), tmp_path / "train.log", print, gpus=0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("workers", [1, 2])
def test_the_child_dies_with_its_notebook(tmp_path: Path, workers: int) -> None:
    """kill -9 of a kernel: no `finally` runs, so Linux must end the child, or every worker."""
    pids = tmp_path / "pids"
    inner = f"import os, time; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} '); time.sleep(40)"
    outer = f"""
    import sys
    from pathlib import Path
    from qilin_lib.train import children, launch
    launch.run([sys.executable, "-c", {inner!r}], Path({str(tmp_path / "train.log")!r}), print, 0, {workers})
    """
    kernel = subprocess.Popen(child(outer))
    deadline = time.time() + 30
    while not pids.exists() or len(numbers := pids.read_text(encoding="utf-8").split()) < workers:
        assert kernel.poll() is None and time.time() < deadline, "the child did not start"
        time.sleep(0.05)
    assert all(is_alive(int(number)) for number in numbers)
    kernel.kill()
    kernel.wait()
    deadline = time.time() + 5
    while any(is_alive(int(number)) for number in numbers) and time.time() < deadline:
        time.sleep(0.05)
    assert not any(is_alive(int(number)) for number in numbers)


# --- workers that never talk to each other ----------------------------------------------------------------------------

# All three write their numbers down; the first one reports when they have, then rank 1 does `then`.
WORKERS = """
import os, time
from pathlib import Path
out, rank = Path({out!r}), os.environ["RANK"]
assert (os.environ["LOCAL_RANK"], os.environ["WORLD_SIZE"]) == (rank, "3")
(out / ("pid" + rank)).write_text(str(os.getpid()))
while len(list(out.glob("pid?"))) < 3 or any(not path.read_text() for path in out.glob("pid?")):
    time.sleep(0.02)
if rank == "0":
    print('QILIN-PROGRESS {{"text": "all are there"}}', flush=True)
if rank == "1":
    {then}
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ('raise ValueError("no such item")', r"exit code 1: \[rank1\]: ValueError: no such item \(whole log: "),
        ("os.kill(os.getpid(), 9)", r"signal 9 \(Killed\): \[rank1\]: "),
    ],
)
def test_a_worker_that_fails_is_named_and_takes_the_others_down(tmp_path: Path, then: str, expected: str) -> None:
    started, shown = time.time(), []
    with pytest.raises(QilinError, match=rf"the process ended with {expected}"):
        launch.run(child(WORKERS.format(out=str(tmp_path), then=then)), tmp_path / "log", shown.append, 0, workers=3)
    assert time.time() - started < 30 and shown == ["all are there"]
    assert not any(is_alive(int(path.read_text(encoding="utf-8"))) for path in tmp_path.glob("pid?"))


# --- two ranks under torchrun -----------------------------------------------------------------------------------------

# Both ranks meet, write their numbers down, and rank 0 reports.
RANKS = """
import os, sys, time
from datetime import timedelta
import torch.distributed as dist
from pathlib import Path

out = Path(sys.argv[1]).parent
dist.init_process_group("gloo", timeout=timedelta(seconds=30))
everybody = [None, None]
dist.all_gather_object(everybody, os.getpid())
if dist.get_rank() == 0:
    (out / "pids").write_text(" ".join(map(str, everybody)))
    print('QILIN-PROGRESS {"step": 1, "steps": 9, "loss": 2.0, "seconds": 1}', flush=True)
time.sleep(60)
"""


def test_a_killed_rank_is_named_and_takes_all_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the command that a notebook uses."""
    (tmp_path / "two_ranks_at_work.py").write_text(RANKS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    two = SimpleNamespace(nproc_per_node=2, gpus=0, nodes=1)
    command = launch.command(two, "two_ranks_at_work", tmp_path / "job.json")

    def kill(text: str) -> None:
        os.kill(int((tmp_path / "pids").read_text(encoding="utf-8").split()[1]), signal.SIGKILL)

    with pytest.raises(QilinError, match=r"code 1: \[rank1\]: Signal 9 \(SIGKILL\) received by PID \d+ \(whole log"):
        launch.run(command, tmp_path / "train.log", kill, gpus=0)
    assert gone(tmp_path / "pids", seconds=0)


# As torchrun prints it when a rank has failed; the root cause comes last.
SUMMARY = """torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
Failures:
[1]:
  time      : 2026-01-01_10:00:01
  rank      : 2 (local_rank: 0)
  exitcode  : -1 (pid: 41)
  traceback : {why}
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_10:00:00
  rank      : 3 (local_rank: 1)
  exitcode  : 1 (pid: 42)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
"""
CLOSED = "[rank3]: RuntimeError: Connection closed by peer"
KILLED = "Signal 9 (SIGKILL) received by PID 41"


@pytest.mark.parametrize(
    ("printed", "why", "expected"),
    [
        ("OSError: no disk", "Signal 15 (SIGTERM) received by PID 41", "OSError: no disk"),
        (CLOSED, KILLED, f"[rank2]: {KILLED}"),
        (f"[rank2]: KeyError: 'a'\n{CLOSED}\n[rank2]: ValueError: b", "", "[rank2]: ValueError: b"),
        # Of objects and threads that go after the exception.
        (
            "KeyError: 'a'\nException ignored in: <function Run.__del__ at 0x7f>\nTraceback (most recent call last):\n"
            '  File "run.py", line 3, in __del__\nAttributeError: no attribute',
            "",
            "KeyError: 'a'",
        ),
        (
            "KeyError: 'a'\nException in thread Thread-3:\nTraceback (most recent call last):\n  File \"b.py\"\n"
            "ValueError: closed",
            "",
            "KeyError: 'a'",
        ),
        # gloo's threads abort a process that leaves with an exception, NCCL's watchdog one that waits for it.
        (f"[rank2]: ValueError: b\n{CLOSED}", "Signal 6 (SIGABRT) received by PID 41", "[rank2]: ValueError: b"),
    ],
)
def test_the_cause_is_found_among_the_consequences(tmp_path: Path, printed: str, why: str, expected: str) -> None:
    log = tmp_path / "train.log"
    log.write_text(printed + "\n" + SUMMARY.format(why=why), encoding="utf-8")
    assert children.cause(log, 0) == expected
