"""Servers of this process, for as long as a test needs them; one answers as a completions server with faults."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[ThreadingHTTPServer]:
    """The server, answering in a thread until the block ends."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


USAGE = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}


def completion(text: str | None, **more: Any) -> dict:
    """A body that suits both kinds of request."""
    choice = {"index": 0, "text": text, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"choices": [choice], "usage": USAGE, **more}


def said(request: dict) -> str:
    """The last thing that a request says."""
    return request["body"]["prompt"] if "prompt" in request["body"] else request["body"]["messages"][-1]["content"]


class Faulty(ThreadingHTTPServer):
    """Answers by `reply(request, number)`: (status, body), (status, body, headers), or None to close the connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply: Callable[[dict, int], Any] = lambda request, number: (200, completion(f"Re: {said(request)}"))
        self.requests: list[dict] = []
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is part of the play."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        seen = {"path": self.path, "body": body, "headers": self.headers, "at": time.monotonic()}
        with self.server.lock:
            self.server.requests.append(seen)
            number = len(self.server.requests)
            self.server.running += 1
            self.server.most = max(self.server.most, self.server.running)
        try:
            self._reply(self.server.reply(seen, number))
        finally:
            with self.server.lock:
                self.server.running -= 1

    def _reply(self, reply: Any) -> None:
        if reply is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, body, headers = (*reply, {})[:3]
        body = body if isinstance(body, bytes | list) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **headers}.items():
            self.send_header(name, value)
        pieces = body if isinstance(body, list) else [body]
        self.send_header("content-length", str(sum(map(len, pieces))))
        self.end_headers()
        for n, piece in enumerate(pieces):
            time.sleep(0.1 * (n > 0))
            self.wfile.write(piece)
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        """Quiet."""
