"""Training's child process: its command line, its progress, its failures, and that nothing of it is left behind."""

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
from qilin_lib.train import launch

JOB = Path("run/job.json")

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


def wanted(gpus: int, nodes: int = 1) -> SimpleNamespace:
    return SimpleNamespace(notebook="05_dpo", nproc_per_node=None, gpus=gpus, nodes=nodes)


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_process_is_a_plain_child(gpus: int) -> None:
    assert launch.command(wanted(gpus), "qilin_lib.train.dpo", JOB) == [
        *(sys.executable, "-m", "qilin_lib.train.dpo", "run/job.json")
    ]


def test_eight_gpus_are_torchrun_on_one_machine() -> None:
    assert launch.command(wanted(8), "qilin_lib.train.dpo", JOB) == [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=8", "--standalone"),
        *("-m", "qilin_lib.train.dpo", "run/job.json"),
    ]


def test_two_nodes_need_the_first_one_s_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(QilinError, match="nodes = 2 needs MASTER_ADDR"):
        launch.command(wanted(8, nodes=2), "qilin_lib.train.dcpt", Path("job.json"))


@pytest.mark.parametrize("gpus", [1, 8])
def test_two_nodes_meet_at_the_master_s_address(monkeypatch: pytest.MonkeyPatch, gpus: int) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node7")
    monkeypatch.setenv("MASTER_PORT", "4321")
    command = launch.command(wanted(gpus, 2), "qilin_lib.train.dpo", JOB)
    assert command[:4] == [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={gpus}"]
    assert command[4:7] == ["--nnodes=2", "--rdzv_backend=c10d", "--rdzv_endpoint=node7:4321"]
    assert "--standalone" not in command
    assert command[7:] == ["-m", "qilin_lib.train.dpo", "run/job.json"]


# --- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (0, "05_dpo: gpus = 4, but this machine has 0 CUDA devices; nearest valid: gpus = 0 (the CPU)"),
        (1, "05_dpo: gpus = 4, but this machine has 1 CUDA device; nearest valid: gpus = 1"),
        (2, "05_dpo: gpus = 4, but this machine has 2 CUDA devices; nearest valid: gpus = 2"),
    ],
)
def test_too_many_gpus_is_one_sentence(monkeypatch: pytest.MonkeyPatch, found: int, sentence: str) -> None:
    monkeypatch.setattr(launch, "available_gpus", lambda: found)
    with pytest.raises(QilinError) as refused:
        launch.check_gpus(wanted(4))
    assert str(refused.value) == sentence


def test_as_many_gpus_as_there_are_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "available_gpus", lambda: 4)
    launch.check_gpus(wanted(4))


def test_the_cpu_asks_no_gpu_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "available_gpus", lambda: pytest.fail("torch was asked"))
    launch.check_gpus(wanted(0))


def test_this_machine_has_no_thousand_gpus() -> None:
    with pytest.raises(QilinError, match=r"gpus = 1000, but this machine has \d+ CUDA device"):
        launch.check_gpus(wanted(1000))


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
    launch.run(child(source), tmp_path / "train.log", shown.append, gpus=0)
    assert shown == ["step 1/9, loss 2.3457, 3 s", "step 9/9, 30 s"]
    assert (tmp_path / "train.log").read_text(encoding="utf-8").splitlines() == ["loading", "损失"]


def test_progress_arrives_while_the_child_is_working(tmp_path: Path) -> None:
    """The child goes on only when its first line has been shown."""
    flag = tmp_path / "flag"
    source = f"""
    import os, sys, time
    print('QILIN-PROGRESS {{"step": 1, "steps": 2, "seconds": 0}}')
    deadline = time.time() + 20
    while not os.path.exists({str(flag)!r}):
        if time.time() > deadline:
            sys.exit("nobody saw step 1")
        time.sleep(0.02)
    """
    launch.run(child(source), tmp_path / "train.log", lambda text: flag.write_text(text, encoding="utf-8"), gpus=0)
    assert flag.read_text(encoding="utf-8") == "step 1/2, 0 s"


def test_the_log_can_be_read_while_the_child_is_working(tmp_path: Path) -> None:
    log, seen = tmp_path / "train.log", []
    source = """print("loading")\nprint('QILIN-PROGRESS {"step": 1, "steps": 2, "seconds": 0}')"""
    launch.run(child(source), log, lambda _: seen.append(log.read_text(encoding="utf-8")), gpus=0)
    assert seen == ["loading\n"]


def test_the_log_of_an_earlier_attempt_is_kept(tmp_path: Path) -> None:
    for word in ("first", "second"):
        launch.run(child(f"print({word!r})"), tmp_path / "train.log", print, gpus=0)
    assert (tmp_path / "train.log").read_text(encoding="utf-8") == "first\nsecond\n"


@pytest.mark.parametrize(("gpus", "seen"), [(0, "''"), (1, "'0,1'")])
def test_the_cpu_hides_the_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, seen: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    source = 'import os\nprint(repr(os.environ["CUDA_VISIBLE_DEVICES"]))'
    launch.run(child(source), tmp_path / "train.log", print, gpus=gpus)
    assert (tmp_path / "train.log").read_text(encoding="utf-8").strip() == seen
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_exception_in_the_child_is_named(tmp_path: Path) -> None:
    source = 'print("step")\nraise ValueError("the loss is not a number")'
    with pytest.raises(QilinError) as failed:
        launch.run(child(source), tmp_path / "train.log", print, gpus=0)
    log = tmp_path / "train.log"
    assert str(failed.value) == (
        f"training ended with exit code 1: ValueError: the loss is not a number (whole log: {log})"
    )
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_torchrun_s_own_summary_does_not_hide_the_cause(tmp_path: Path) -> None:
    source = r"""
    print("[rank1]: torch.OutOfMemoryError: CUDA out of memory.")
    print("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
    print("=====")
    raise SystemExit(1)
    """
    with pytest.raises(QilinError, match=r"exit code 1: \[rank1\]: torch\.OutOfMemoryError: CUDA out of memory\. "):
        launch.run(child(source), tmp_path / "train.log", print, gpus=0)


def test_an_earlier_attempt_is_not_blamed(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("损失\nValueError: yesterday's\n", encoding="utf-8")
    with pytest.raises(QilinError, match="exit code 3: 今天"):
        launch.run(child('print("今天")\nraise SystemExit(3)'), tmp_path / "train.log", print, gpus=0)


def test_a_silent_failure_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="exit code 5: no output"):
        launch.run(child("raise SystemExit(5)"), tmp_path / "train.log", print, gpus=0)


def test_a_killed_child_is_a_failure_and_takes_its_workers_along(tmp_path: Path, family) -> None:
    """As the kernel's out-of-memory killer does; a worker in a session of its own still holds the pipe."""
    started = time.time()
    with pytest.raises(QilinError, match=r"training ended with signal 9 \(Killed\)"):
        launch.run(family("os.kill(os.getpid(), 9)", session=True), tmp_path / "train.log", print, gpus=0)
    assert time.time() - started < 30, "the notebook must not wait for the orphan"
    assert gone(tmp_path / "pids")


def test_a_child_that_fails_leaves_no_worker(tmp_path: Path, family) -> None:
    with pytest.raises(QilinError, match="RuntimeError: lost"):
        launch.run(family('raise RuntimeError("lost")'), tmp_path / "train.log", print, gpus=0)
    assert gone(tmp_path / "pids")


# --- interrupts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupt_leaves_nothing_running(tmp_path: Path, family, error: type, session: bool) -> None:
    def stop(text: str) -> None:
        raise error

    with pytest.raises(error):
        launch.run(family(session=session), tmp_path / "train.log", stop, gpus=0)
    assert gone(tmp_path / "pids", seconds=0)


def test_a_child_that_ignores_the_request_is_killed(tmp_path: Path, family, monkeypatch: pytest.MonkeyPatch) -> None:
    wait = psutil.wait_procs
    monkeypatch.setattr(psutil, "wait_procs", lambda processes, timeout: wait(processes, timeout=0.3))

    def stop(text: str) -> None:
        if "step 2" in text:
            raise KeyboardInterrupt

    deaf = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('QILIN-PROGRESS {"step": 2, "steps": 9, "seconds": 1}', flush=True)
time.sleep(40)
"""
    with pytest.raises(KeyboardInterrupt):
        launch.run(family(deaf), tmp_path / "train.log", stop, gpus=0)
    assert gone(tmp_path / "pids")


def test_another_job_s_processes_are_left_alone(tmp_path: Path) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    other = subprocess.Popen(sleeper, env={**os.environ, launch.MARK: "another job"})
    try:
        launch.run(child("print(1)"), tmp_path / "train.log", print, gpus=0)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_child_dies_with_its_notebook(tmp_path: Path) -> None:
    """kill -9 of a kernel: no `finally` runs, so Linux must end the child."""
    pids = tmp_path / "pids"
    inner = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(40)"
    outer = f"""
    import sys
    from pathlib import Path
    from qilin_lib.train import launch
    launch.run([sys.executable, "-c", {inner!r}], Path({str(tmp_path / "train.log")!r}), print, 0)
    """
    kernel = subprocess.Popen(child(outer))
    deadline = time.time() + 30
    while not (pids.exists() and pids.read_text(encoding="utf-8")):
        assert kernel.poll() is None and time.time() < deadline, "the child did not start"
        time.sleep(0.05)
    number = int(pids.read_text(encoding="utf-8"))
    assert is_alive(number)
    kernel.kill()
    kernel.wait()
    deadline = time.time() + 5
    while is_alive(number) and time.time() < deadline:
        time.sleep(0.05)
    assert not is_alive(number)
