"""A client of an OpenAI-compatible server that follows no redirect and reads no body without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import openai

from qilin_lib.errors import QilinError

# Bytes of an error's body that are looked at.
MAX_ERROR = 1 << 16


class Bounded(httpx2.SyncByteStream):
    """`stream` until `deadline` (TimeoutError), and no more than about `most` bytes of it."""

    def __init__(self, stream: Any, deadline: float, most: float) -> None:
        self.stream, self.deadline, self.most = stream, deadline, most

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for part in self.stream:
            if time.monotonic() > self.deadline:
                raise TimeoutError
            yield part
            size += len(part)
            if size > self.most:
                return

    def close(self) -> None:
        self.stream.close()


def opened(url: str, key: str, seconds: float, local: bool) -> openai.OpenAI:
    """A client of the server at `url`; `local`: it is on this machine. QilinError for a proxy that cannot be used."""

    def bound(response: Any) -> None:
        most = float("inf") if response.is_success else MAX_ERROR
        response.stream = Bounded(response.stream, time.monotonic() + seconds, most)

    # A server on this machine is not reached through the proxy of HTTP_PROXY; a redirect would take the prompts to a
    # machine that nobody named.
    guards = {"trust_env": not local, "follow_redirects": False, "event_hooks": {"response": [bound]}}
    try:
        transport = openai.DefaultHttpxClient(**guards)
    except (ImportError, ValueError) as reason:
        raise QilinError(
            f"endpoint {url}: the proxy of ALL_PROXY, HTTP_PROXY or HTTPS_PROXY cannot be used "
            f"({' '.join(str(reason).split())}); nearest valid: one that begins with http://, or none"
        ) from None
    return openai.OpenAI(max_retries=0, api_key=key, base_url=url, timeout=seconds, http_client=transport)
