"""No test talks to another machine: an audit hook refuses look-ups and connections, and writes down each attempt.

Whatever library asks, and in whichever process below a test: a library that goes on without the network would hide
the refusal, the file does not forget it.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

LOG = "QILIN_TESTS_NETWORK_LOG"
LOOK_UPS = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
CONNECTIONS = ("socket.connect", "socket.sendto")


def install() -> None:
    """Refuse every other machine from now on in this process; attempts go to the file that $LOG names."""
    here = {"localhost", "::1", "0.0.0.0", "::", "", os.uname().nodename}

    def guard(event: str, what: tuple[Any, ...]) -> None:
        if event in LOOK_UPS:
            host = what[0]
        elif event in CONNECTIONS and isinstance(what[1], tuple):
            host = what[1][0]
        else:
            return
        host = host.decode() if isinstance(host, bytes) else host
        if isinstance(host, str) and host not in here and not host.startswith("127."):
            record(f"{event} {host}")
            raise OSError(f"tests use no network: {event} {host}")

    sys.addaudithook(guard)


def record(attempt: str) -> None:
    """One line for the attempt, after the lines of its stack."""
    if path := os.environ.get(LOG):
        with open(path, "a", encoding="utf-8") as handle:
            handle.write("".join([*traceback.format_stack(limit=12), attempt, "\n"]))


def attempts() -> list[str]:
    """`event host` of every attempt since the last call, in any process below this one; the file is emptied."""
    path = os.environ[LOG]
    with open(path, "a+", encoding="utf-8") as handle:
        handle.seek(0)
        lines = handle.read().splitlines()
        handle.truncate(0)
    seen = [line for line in lines if line.startswith("socket.")]
    if seen:
        print("\n".join(lines))
    return seen
