"""One writer per stage: a lock that ends with the processes that hold it, and that says who they are."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import psutil

from qilin_lib import files
from qilin_lib.errors import QilinError

# Handles of this process by path: opening the same stage again in one kernel is no second writer.
_HELD: dict[Path, IO[str]] = {}
# Seconds that the children of a killed notebook have to end.
PATIENCE = 15


def acquire(path: Path, key: str, follow: Callable[[str], None] | None = None) -> None:
    """Hold the lock at `path`; QilinError names host, process and time of whoever holds it already.

    With `follow`, and an equal key, the holder's progress is shown until it lets go. Children that inherit
    `descriptors()` hold the lock too: a killed notebook does not free a stage whose training is still ending.
    """
    if path in _HELD:
        return
    with files.naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    last = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = _read(handle)
        except OSError as reason:
            handle.close()
            raise QilinError(
                f"{path}: its file system has no locks ({reason.strerror}); nearest valid: QILIN_RUNS_DIR on another "
                "one, or Lustre mounted with flock"
            ) from None
        who = f"process {holder.get('pid')} on {holder.get('host')} since {holder.get('since')}"
        # On another host the process that took the lock is taken to live.
        alive = holder.get("host") != socket.gethostname() or psutil.pid_exists(holder.get("pid", 0))
        if follow is not None and holder.get("key") == key:
            follow(f"made by {who}: {holder.get('progress', 'starting')}")
        elif alive or time.monotonic() > last:
            handle.close()
            stage = path.name.strip(".").removesuffix(".lock")
            raise QilinError(
                f"{stage} of run '{path.parent.name}' is being made by {who}: wait for it, or end it, or take another "
                "run name"
            )
        time.sleep(1)
    _HELD[path] = handle
    _write(handle, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), "key": key})


def release(path: Path) -> None:
    """Let go of a lock; nothing happens if this process does not hold it."""
    if handle := _HELD.pop(path, None):
        handle.close()


def report(text: str) -> None:
    """Tell whoever follows where this process is."""
    for handle in _HELD.values():
        _write(handle, _read(handle) | {"progress": text})


def descriptors() -> tuple[int, ...]:
    """What a child process must inherit to hold the locks too."""
    return tuple(handle.fileno() for handle in _HELD.values())


def _read(handle: IO[str]) -> dict[str, Any]:
    handle.seek(0)
    try:
        return dict(json.loads(handle.read()))
    except (ValueError, TypeError):
        return {}


def _write(handle: IO[str], note: dict[str, Any]) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(json.dumps(note))
    handle.flush()
