"""Every test stands under conftest's guard: one thread, no other machine, also in the processes that it starts."""

from __future__ import annotations

import subprocess
import sys

import no_network
import pytest

# A library's way to the network, a bare connection, one to this machine, which may refuse but is not refused by us.
ASKS = """
import contextlib, os, socket, sys
import httpx

with contextlib.suppress(httpx.HTTPError):
    httpx.get("https://huggingface.co")
for address in (("192.0.2.1", 80), ("127.0.0.1", 9)):
    with socket.socket() as plain, contextlib.suppress(OSError):
        plain.settimeout(1)
        plain.connect(address)
sys.exit(int(os.environ["OMP_NUM_THREADS"]))
"""


def test_a_child_s_attempts_are_refused_and_noted_and_it_has_one_thread() -> None:
    child = subprocess.run([sys.executable, "-c", ASKS], check=False)
    assert child.returncode == 1
    seen = no_network.attempts()
    assert set(seen) == {"socket.getaddrinfo huggingface.co", "socket.connect 192.0.2.1"}
    assert no_network.attempts() == [], "each attempt is told once"


def test_this_process_has_one_thread_and_no_network() -> None:
    import socket

    import torch

    assert torch.get_num_threads() == 1
    with pytest.raises(OSError, match="tests use no network: socket.getaddrinfo example.org"):
        socket.create_connection(("example.org", 80), timeout=1)
    assert no_network.attempts() == ["socket.getaddrinfo example.org"]
