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

from qilin_lib import files
from qilin_lib.errors import QilinError

# Handles of this process by path: opening the same stage again in one kernel is no second writer.
_HELD: dict[Path, IO[str]] = {}


def acquire(path: Path, note: dict[str, Any], follow: Callable[[str], None] | None = None) -> bool:
    """Hold the lock at `path`; QilinError names host, process and time of whoever holds it already.

    With `follow`, and an equal `note["key"]`, its progress is shown until it lets go. Always True in the end. A child
    that was given `descriptors()` holds the lock too, so a killed notebook does not free a stage whose training is
    still ending.
    """
    if path in _HELD:
        return True
    with files.naming(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path, "a+", encoding="utf-8")  # noqa: SIM115
    patience = time.monotonic() + 15
    while not _try(handle):
        holder = _read(handle)
        same = follow is not None and holder.get("key") == note.get("key")
        if not same and (_alive(holder) or time.monotonic() > patience):
            handle.close()
            raise QilinError(
                f"{path.name.strip('.').removesuffix('.lock')} of run '{path.parent.name}' is being made by process "
                f"{holder.get('pid')} on {holder.get('host')} since {holder.get('since')}: wait for it, or end it, or "
                "take another run name"
            )
        if same:
            follow(f"process {holder.get('pid')} is at it: {holder.get('progress', 'starting')}")
        time.sleep(1)
    _HELD[path] = handle
    _write(handle, {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%F %T"), **note})
    return True


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


def _try(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the process that took the lock lives; on another host it is taken to."""
    if holder.get("host") != socket.gethostname():
        return True
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError):
        return False
    except PermissionError:
        return True
    return True


def _read(handle: IO[str]) -> dict[str, Any]:
    handle.seek(0)
    try:
        note = json.loads(handle.read())
    except ValueError:
        return {}
    return note if isinstance(note, dict) else {}


def _write(handle: IO[str], note: dict[str, Any]) -> None:
    handle.seek(0)
    handle.truncate()
    handle.write(json.dumps(note))
    handle.flush()
