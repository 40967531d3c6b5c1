"""Worker processes that give results in the order of the questions, and never outlive the notebook that asked."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import wait
from typing import Any


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """`workers` processes (None = one a core; 1 = no process, the work is done here). Use as a context manager.

    Functions and their arguments must be picklable. An exception in a worker is raised where its result is due.
    """

    def __init__(self, workers: int | None = None) -> None:
        self.workers = cores() if workers is None else workers
        # "spawn": a notebook's kernel has threads, which a forked child would find in an undefined state.
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(self.workers, context, _follow_parent) if self.workers > 1 else None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def map(self, function: Callable[..., Any], arguments: Iterable[tuple]) -> Iterator[Any]:
        """`function(*argument)` for each argument, in order. Only a few are in flight, so memory stays flat."""
        if self._executor is None:
            yield from (function(*argument) for argument in arguments)
            return
        waiting: deque = deque()
        for argument in arguments:
            waiting.append(self._executor.submit(function, *argument))
            if len(waiting) > 2 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _follow_parent() -> None:
    # An interrupt is the parent's to handle; and when the parent is killed, its workers must not stay behind.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def leave() -> None:
        wait([multiprocessing.parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
