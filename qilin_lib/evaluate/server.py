"""Requests to an OpenAI-compatible server: tries, waits, what a status means, and the answers kept on disk.

The openai client carries the requests; tries, waits and the reading of bodies are here. Its own retries (3.54) do not
count against a rate limit, pause one thread where a 429 means all, wait up to two minutes each without a bound on the
sum, end at a body that is no JSON, and its timeout starts anew with every byte (openai/openai-python `_base_client`).
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.schema import Baseline

# Tries of one request, and the seconds that it may spend waiting between them.
TRIES, MAX_WAIT = 6, 300.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# So many prompts refused, and none answered before: it is not the prompts.
ALL_REFUSED = 20
# 408, 409, 425: asked at a bad moment. 429: too fast. From 500 on: the server's own trouble.
BAD_MOMENT = frozenset({408, 409, 425, 429})
# Bytes of an answer, unpacked.
MAX_BODY = 1 << 23
COUNTS = ("prompt_tokens", "completion_tokens")
PLACEHOLDER = "no-key-needed"
CHAT, TEXT = "chat/completions", "completions"

Answer = dict[str, Any]
"""What a request gave: what `read` made of its body, prompt_tokens, completion_tokens (None: not counted),
`answered_by` (the server's name of the model); or {"error": the server's reason}."""
Read = Callable[[dict[str, Any]], dict[str, Any]]
"""read(body): what is wanted of a 200's body. LookupError, TypeError or ValueError for one that is no completion, and
`Refused` for one that answers nothing."""


class Refused(Exception):
    """The server does not answer this prompt: a filter, a context that is too short."""


class Server:
    """The `endpoint` of a baseline's line ("/v1" is added to a URL without a path) and the `model` that is asked there.

    The key is read from the environment variable `api_key_env` (a server on this machine may do without) and goes
    nowhere else. `threads` requests run at a time, `requests_per_minute` of them start; `timeout` is in seconds a try.
    Answers are kept in `cache_dir`. Raises QilinError for a URL or a key that cannot be used.
    """

    def __init__(self, line: Baseline, threads: int, cache_dir: str | Path) -> None:
        self.model, self.threads, self.timeout = line.model, threads, line.timeout
        self.url, self._local = _base_url(line.endpoint)
        self._key_env, self._key = line.api_key_env, _read_key(line.api_key_env, self.url, self._local)
        self.responses, self._pace = Responses(cache_dir), _Pace(line.requests_per_minute)
        self._client: Any = None
        self._counted = dict.fromkeys(("requests", "retries", "cached", *COUNTS, "unmetered", "refused"), 0)
        self._answered, self._renamed = False, False
        self._lock, self._random = threading.Lock(), random.Random()

    def ask(self, path: str, bodies: Sequence[dict[str, Any]], read: Read) -> list[Answer]:
        """The answers to requests at `path` (CHAT, TEXT), in their order; equal ones are asked once.

        Raises QilinError, one sentence, when a request stays without an answer for a reason other than its prompt, or
        when the server refuses all of them; answers that arrived are on disk by then.
        """
        if self._client is None:
            from qilin_lib.evaluate.client import opened

            self._client = opened(self.url, self._key, self.timeout, self._local)
        names = [json.dumps(body, sort_keys=True) for body in bodies]
        stop, pool = threading.Event(), ThreadPoolExecutor(self.threads)
        asked: dict[str, Future] = {}
        try:
            for name, body in zip(names, bodies, strict=True):
                if name not in asked:
                    asked[name] = pool.submit(self._answer, path, body, read, stop)
            wait(asked.values(), return_when=FIRST_EXCEPTION)
        finally:
            # Requests under way are paid for: they end and are kept. No new one starts.
            stop.set()
            pool.shutdown(cancel_futures=True)
        # The error of the first prompt that has one; those that were stopped because of it say nothing.
        for future in asked.values():
            error = None if future.cancelled() else future.exception()
            if error is not None and not isinstance(error, CancelledError):
                raise error
        self._count(cached=len(names) - len(asked))
        return [asked[name].result() for name in names]

    def usage(self) -> dict[str, int]:
        """What was asked since this object was made: requests (retries among them), answers from the cache, prompts
        refused, tokens; `unmetered` answers came without token counts, `damaged` files of the cache were asked again.
        """
        with self._lock:
            return {**self._counted, "damaged": len(self.responses.damaged)}

    def _answer(self, path: str, body: dict[str, Any], read: Read, stop: threading.Event) -> Answer:
        """The answer from the cache, else from the server; kept before it is returned. One that says why there is none
        is not kept: another day the server may answer."""
        request = {"url": self.url, "endpoint": path, "body": body}
        kept = self.responses.get(request)
        if kept is not None:
            self._count(cached=1)
            return kept
        started = time.monotonic()
        try:
            answer = self._tried(path, body, read, stop)
            self.responses.put(request, answer)
            self._answered = True
            return answer
        except Refused as reason:
            self._count(refused=1)
            with self._lock:
                hopeless = not self._answered and self._counted["refused"] >= ALL_REFUSED
            if not hopeless:
                return {"error": str(reason)}
            stop.set()
            raise self._error(f"each of {ALL_REFUSED} prompts is refused: {reason}", body, 1, started) from None
        except BaseException:
            # Here and not in the waiting thread: this one would take the next prompt before that one wakes.
            stop.set()
            raise

    def _tried(self, path: str, body: dict[str, Any], read: Read, stop: threading.Event) -> Answer:
        """The answer of the server after as many tries as it takes, at most TRIES."""
        tries, waited, started = 0, 0.0, time.monotonic()
        while True:
            self._pace.wait(stop)
            if stop.is_set():
                raise CancelledError
            self._count(requests=1, retries=int(tries > 0))
            tries += 1
            try:
                return self._once(path, body, read)
            except _Final as reason:
                raise self._error(str(reason), body, tries, started) from None
            except _Again as reason:
                pause = reason.wait
                if pause is None:
                    # Doubled each time, and spread so that threads do not come back together.
                    pause = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * self._random.uniform(0.5, 1)
                if tries == TRIES:
                    raise self._error(str(reason), body, tries, started) from None
                if waited + pause > MAX_WAIT:
                    bound = f"{reason}; a wait of {pause:.0f} s more passes the {MAX_WAIT:.0f} s that one prompt gets"
                    raise self._error(bound, body, tries, started) from None
                waited += pause
                self._pace.hold(pause) if reason.for_all else stop.wait(pause)

    def _once(self, path: str, body: dict[str, Any], read: Read) -> Answer:
        """One try, counted; Refused, _Again or _Final when it gives no answer."""
        raw = self._post(path, body)
        try:
            whole = json.loads(raw)
            spent = whole.get("usage")
            counts = {name: spent.get(name) if isinstance(spent, dict) else None for name in COUNTS}
            if not all(type(count) is int and count >= 0 for count in counts.values()):
                counts = dict.fromkeys(COUNTS)
            answer = {**read(whole), **counts, "answered_by": str(whole.get("model", ""))}
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Again(f"a body that is no completion ({self._excerpt(raw.decode('utf-8', 'replace'))})") from None
        if self._key != PLACEHOLDER and len(self._key) >= 8 and self._key in json.dumps(answer):
            raise _Final(f"the server's answer holds the key of {self._key_env}, so it is not kept")
        self._count(unmetered=int(answer["prompt_tokens"] is None), **{name: answer[name] or 0 for name in COUNTS})
        return answer

    def _post(self, path: str, body: dict[str, Any]) -> bytes:
        """The body of a 200 within `timeout` seconds in all, however slowly it drips; another error otherwise."""
        import httpx2
        import openai

        calls = self._client.chat.completions if path == CHAT else self._client.completions
        said = {name: body[name] for name in ("model", "messages", "prompt") if name in body}
        more = {RENAMED.get(name, name) if self._renamed else name: body[name] for name in body if name not in said}
        deadline, parts, size = time.monotonic() + self.timeout, [], 0
        try:
            with calls.with_streaming_response.create(**said, extra_body=more) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    size += len(part)
                    if size > MAX_BODY:
                        raise _Final(f"a body of more than {MAX_BODY:,} bytes")
                    if time.monotonic() > deadline:
                        raise TimeoutError
        except openai.APIStatusError as error:
            if error.status_code < 400:
                place = self._excerpt(error.response.headers.get("location", "elsewhere"))
                raise _Final(
                    f"status {error.status_code}, requests are sent on to {place}; give that as endpoint"
                ) from None
            raise self._judged(error, more) from None
        except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError):
            raise _Again(f"no whole answer within the timeout of {self.timeout:g} s") from None
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            cause = error.__cause__ or error
            raise _Again(f"no connection ({self._excerpt(str(cause)) or type(cause).__name__})") from None
        return b"".join(parts)

    def _judged(self, error: Any, sent: dict[str, Any]) -> Exception:
        """What an HTTP status means. `error` is an openai.APIStatusError, `sent` the settings of the request."""
        told, status = error.body if isinstance(error.body, dict) else {}, error.status_code
        # The server's own sentence: `error.message` or `detail` of its JSON, else the whole text.
        sentences = [told[name] for name in ("message", "detail", "error") if told.get(name)]
        said = self._excerpt(str(sentences[0]) if sentences else error.response.text)
        if status == 401:
            # Not the server's words: they tend to repeat parts of the key.
            return _Final(f"status 401, the server refuses the key of {self._key_env}")
        if "logprobs" in sent and "logprobs" in said:
            return Refused(f"status {status} ({said})")
        if status == 403:
            return _Final(f"status 403, the key of {self._key_env} may not use this model ({said})")
        if status == 404:
            return _Final(f"status 404, the server knows no model of this name or no such path ({said})")
        if status == 402 or (status == 429 and told.get("code") == "insufficient_quota"):
            return _Final(f"status {status}, the account's quota is used up ({said})")
        if status in BAD_MOMENT or status >= 500:
            return _Again(f"status {status} ({said})", _retry_after(error.response.headers), for_all=status == 429)
        if any(old in sent and new in said for old, new in RENAMED.items()):
            self._renamed = True
            return _Again(f"status {status} ({said})", wait=0.0)
        if any(word in said.lower() for word in UNSUPPORTED):
            return _Final(f"status {status} ({said}); nearest valid: request: {{its name: null}} leaves it out")
        if self.model in said:
            return _Final(f"status {status} ({said})")
        advice = "; take fewer shots or a model with a longer context" if "context" in said.lower() else ""
        limit = sent.get("max_tokens")
        return Refused(f"status {status} with {limit} new tokens asked for ({said}){advice}")

    def _error(self, reason: str, body: dict[str, Any], tries: int, started: float) -> QilinError:
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return QilinError(
            f"endpoint {self.url}, model '{self.model}': {reason}; tried {tries} time{'s' * (tries > 1)} in "
            f"{time.monotonic() - started:.0f} s for the prompt of {len(prompt)} characters that ends "
            f"'{self._excerpt(prompt[-80:])}'; finished answers are kept in {self.responses.folder} and a rerun goes "
            "on from there"
        )

    def _excerpt(self, text: str) -> str:
        """One line of at most 200 characters without the key; cut last, lest a part of the key stay."""
        hidden = text if self._key == PLACEHOLDER else text.replace(self._key, "[key]")
        line = " ".join(hidden.split())
        return line if len(line) <= 200 else line[:200] + "…"

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self._counted[name] += number


# OpenAI's reasoning models know the limit by another name and say so.
RENAMED = {"max_tokens": "max_completion_tokens"}
UNSUPPORTED = ("unsupported parameter", "unsupported value", "unrecognized request argument", "extra inputs")


class _Again(Exception):
    """A failure worth another try, after `wait` seconds if the server said so; `for_all`: every thread shall wait."""

    def __init__(self, reason: str, wait: float | None = None, for_all: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.for_all = wait, for_all


class _Final(Exception):
    """A failure that another try would repeat, and another prompt too: key, quota, name of the model."""


class _Pace:
    """Lets threads pass one by one, 60 / `per_minute` seconds apart."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._next, self._lock = 0.0, threading.Lock()

    def wait(self, stop: threading.Event) -> None:
        """Return when it is this thread's turn, or when `stop` is set."""
        while not stop.is_set():
            with self._lock:
                left = self._next - time.monotonic()
                if left <= 0:
                    self._next = time.monotonic() + self._gap
                    return
            stop.wait(left)

    def hold(self, seconds: float) -> None:
        """Nobody passes for so long."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)


def _retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait, as a number or as a date; None when it does not."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except ValueError:
            return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _base_url(url: str) -> tuple[str, bool]:
    """(URL without a last slash, whether it is this machine). QilinError for a URL that holds a secret or no host."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it checks it
    except ValueError as reason:
        raise QilinError(f"endpoint '{url}' is no URL ({reason}); give one like http://localhost:8000/v1") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: it may hold a password.
        raise QilinError(
            f"the endpoint at {parts.hostname} has a user, a query or a fragment in its URL, which would be stored in "
            "the run; give the plain base URL and the key in an environment variable"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise QilinError(f"endpoint '{url}' is no URL of a server; give one like http://localhost:8000/v1")
    local = parts.hostname in ("localhost", "::1") or bool(re.fullmatch(r"127(\.\d{1,3}){3}", parts.hostname))
    return url.rstrip("/") + ("" if parts.path.strip("/") else "/v1"), local


def _read_key(name: str, url: str, local: bool) -> str:
    key = os.environ.get(name, "").strip()
    if not key and local:
        return PLACEHOLDER
    if not key:
        raise QilinError(f"endpoint {url} wants a key: set the environment variable {name} before the run")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise QilinError(f"the environment variable {name} holds no key: it has a space or a character outside ASCII")
    return key


class Responses:
    """Answers kept on disk, one JSON file a request: what was paid for once is not asked again.

    A file is renamed into place whole, so processes may share the folder; one that is torn all the same (a full disk,
    an edit) fails its checksum and is asked again. `damaged` names the files that could not be used.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.damaged: list[str] = []

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The answer to a request, or None. Raises QilinError when its file cannot be read at all."""
        path = self._path(request)
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            if kept["request"] == request and kept["sha256"] == _digest(kept["answer"]):
                return kept["answer"]
        except FileNotFoundError:
            return None
        except OSError as reason:
            raise QilinError(f"{path} cannot be read: {reason.strerror}; mend its rights or delete it") from None
        except (ValueError, KeyError, TypeError):
            pass
        self.damaged.append(path.name)
        return None

    def put(self, request: dict[str, Any], answer: dict[str, Any]) -> None:
        """Keep an answer. Raises QilinError when the folder cannot be written."""
        path = self._path(request)
        try:
            files.write_json(path, {"request": request, "answer": answer, "sha256": _digest(answer)})
        except OSError as reason:
            raise QilinError(
                f"{path} cannot be written ({reason.strerror}), and answers are asked for only where they can be kept"
            ) from None

    def _path(self, request: dict[str, Any]) -> Path:
        return self.folder / f"{_digest(request)}.json"


def _digest(value: dict[str, Any]) -> str:
    return files.sha256_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
