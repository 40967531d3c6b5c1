"""Requests to an OpenAI-compatible server: tries, waits, what a status means, and the answers kept on disk.

httpx2 carries the requests. The openai client (3.54) follows redirects with the prompt, reads a body of any length, and
its retries pass a rate limit, pause one request where a 429 means all, and have no bound on the sum of their waits. All
requests of a process are tasks of one loop, so that nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from contextlib import suppress
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qilin_lib import files
from qilin_lib.errors import QilinError, sentence
from qilin_lib.schema import Baseline

# Tries of one request, and the seconds that it may spend waiting between them.
TRIES, MAX_WAIT = 6, 300.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# So many prompts refused, and none answered before: it is not the prompts.
ALL_REFUSED = 20
# 408, 409, 425: asked at a bad moment. 429: too fast. From 500 on: the server's own trouble.
BAD_MOMENT = frozenset({408, 409, 425, 429})
# 401: not the server's words, which tend to repeat parts of the key. 30x: no other host shall see a prompt.
FINAL = {
    401: "the server refuses the key of {key}",
    402: "the account's quota is used up ({said})",
    403: "the key of {key} may not use this model ({said})",
    404: "the server knows no model of this name or no such path ({said})",
    **dict.fromkeys((301, 302, 303, 307, 308), "the server points to {place}"),
}
# Statuses with which servers refuse a prompt; another one would be refused by others.
OF_THE_PROMPT = frozenset({400, 413, 422, 451})
MODERATED = ("moderation", "flagged")
COUNTS = ("prompt_tokens", "completion_tokens")
PLACEHOLDER = "no-key-needed"
# Bytes of an answer: thousands of times what the longest reply has.
LARGEST = 2**26
CHAT, TEXT = "chat/completions", "completions"

Answer = dict[str, Any]
"""What a request gave: what `read` made of its body, prompt_tokens, completion_tokens (None: not counted), model
(what the server calls it); or {"error": the server's reason}."""
Read = Callable[[dict[str, Any]], dict[str, Any]]
"""read(body): what is wanted of a 200's body. LookupError, TypeError or ValueError for one that is no completion, and
`Refused` for one that answers nothing."""


class Refused(Exception):
    """The server does not answer this prompt: a filter, a context that is too short."""


class Server:
    """The `endpoint` of a baseline's line ("/v1" is added to a URL without a path) and the `model` that is asked there.

    The key is read from the environment variable `api_key_env` (a server on this machine may do without) and goes
    nowhere else. `at_once` requests run at a time, `requests_per_minute` of them start; `timeout` is in seconds a try.
    Answers are kept in `cache_dir`. Raises QilinError for a URL or a key that cannot be used.
    """

    def __init__(self, line: Baseline, at_once: int, cache_dir: str | Path) -> None:
        self.model, self.timeout, self._seats = line.model, line.timeout, asyncio.Semaphore(at_once)
        self.url, self._local = _base_url(line.endpoint)
        self._key_env, self._key = line.api_key_env, _read_key(line.api_key_env, self.url, self._local)
        self.cache, self._pace = Path(cache_dir), _Pace(line.requests_per_minute)
        self._client: Any = None
        self._counted = dict.fromkeys(("requests", "retries", "cached", *COUNTS, "unmetered", "refused"), 0)
        self._answered, self._renamed, self._others = False, False, set()

    def ask(self, path: str, bodies: Sequence[dict[str, Any]], read: Read) -> list[Answer]:
        """The answers to requests at `path` (CHAT, TEXT), in their order; equal ones are asked once.

        Raises QilinError, one sentence, when a request stays without an answer for a reason other than its prompt, or
        when the server refuses all of them; answers that arrived are on disk by then.
        """
        stop = asyncio.Event()
        asked = asyncio.run_coroutine_threadsafe(self._all(path, bodies, read, stop), _loop())
        try:
            return asked.result()
        finally:
            # An interrupt: requests under way are paid for, so they end and are kept. No new one starts.
            _loop().call_soon_threadsafe(stop.set)
            wait([asked])

    def usage(self) -> dict[str, int]:
        """What was asked since this object was made: requests (retries among them), answers from the cache, prompts
        refused, tokens; `unmetered` answers came without token counts."""
        return dict(self._counted)

    async def _all(self, path: str, bodies: Sequence[dict[str, Any]], read: Read, stop: asyncio.Event) -> list[Answer]:
        if self._client is None:
            import httpx2

            self._client = httpx2.AsyncClient(
                headers={"authorization": f"Bearer {self._key}", "content-type": "application/json"},
                # The libraries bound each read. `_post` bounds all of them.
                timeout=None,
                # A server on this machine is not reached through the proxy of HTTP_PROXY.
                trust_env=not self._local,
                limits=httpx2.Limits(max_connections=None),
            )
        names = [json.dumps(body, sort_keys=True) for body in bodies]
        once = dict(zip(names, bodies, strict=True))
        asked = {name: asyncio.create_task(self._answer(path, body, read, stop)) for name, body in once.items()}
        await asyncio.gather(*asked.values(), return_exceptions=True)
        # The error of the first prompt that has one; those that were stopped because of it say nothing.
        for task in asked.values():
            if not task.cancelled() and (error := task.exception()):
                raise error
        self._count(cached=len(names) - len(asked))
        return [asked[name].result() for name in names]

    async def _answer(self, path: str, body: dict[str, Any], read: Read, stop: asyncio.Event) -> Answer:
        """The answer from the cache, else from the server; kept before it is returned. One that says why there is none
        is not kept: another day the server may answer."""
        request = {"url": self.url, "endpoint": path, "body": body}
        async with self._seats:
            if stop.is_set():
                raise asyncio.CancelledError
            try:
                if (answer := kept(self.cache, request)) is not None:
                    self._count(cached=1)
                    return answer
                answer = await self._tried(path, body, read, stop)
                keep(self.cache, request, answer)
                self._answered = True
                return answer
            except Refused as reason:
                self._count(refused=1)
                if self._answered or self._counted["refused"] < ALL_REFUSED:
                    return {"error": str(reason)}
                stop.set()
                raise self._error(f"each of {ALL_REFUSED} prompts is refused: {reason}", body, 1) from None
            except BaseException:
                stop.set()
                raise

    async def _tried(self, path: str, body: dict[str, Any], read: Read, stop: asyncio.Event) -> Answer:
        """The answer of the server after as many tries as it takes, at most TRIES."""
        tries, waited = 0, 0.0
        while True:
            await self._pace.wait(stop)
            if stop.is_set():
                raise asyncio.CancelledError
            self._count(requests=1, retries=int(tries > 0))
            tries += 1
            try:
                return await self._once(path, body, read)
            except _Final as reason:
                raise self._error(str(reason), body, tries) from None
            except _Again as reason:
                pause = reason.wait
                if pause is None:
                    # Doubled each time, and spread so that requests do not come back together.
                    pause = min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * random.uniform(0.5, 1)
                if tries == TRIES:
                    raise self._error(str(reason), body, tries) from None
                if waited + pause > MAX_WAIT:
                    bound = f"{reason}; a wait of {pause:.0f} s more passes the {MAX_WAIT:.0f} s that one prompt gets"
                    raise self._error(bound, body, tries) from None
                waited += pause
                if reason.for_all:
                    self._pace.hold(pause)
                else:
                    await _pause(pause, stop)

    async def _once(self, path: str, body: dict[str, Any], read: Read) -> Answer:
        """One try, counted; Refused, _Again or _Final when it gives no answer."""
        sent = {RENAMED.get(name, name) if self._renamed else name: value for name, value in body.items()}
        status, headers, raw = await self._post(path, sent)
        text = raw.decode("utf-8", "replace")
        try:
            whole = json.loads(raw)
        except (ValueError, RecursionError):
            whole = {}
        fault = whole.get("error") if isinstance(whole, dict) else None
        # A host behind the server failed after the server had begun a 200.
        code = fault.get("code") if isinstance(fault, dict) else None
        if status == 200 and type(code) is int and code >= 400:
            status = code
        if status != 200:
            raise self._judged(status, headers, whole, text, sent)
        try:
            answer = {**read(whole), **_counts(whole.get("usage")), "model": whole.get("model")}
        except (ValueError, LookupError, TypeError, AttributeError):
            raise _Again(f"a body that is no completion ({self._excerpt(text)})") from None
        if self._key != PLACEHOLDER and len(self._key) >= 8 and self._key in json.dumps(answer):
            raise _Final(f"the server's answer holds the key of {self._key_env}, so it is not kept")
        self._count(unmetered=int(answer["prompt_tokens"] is None), **{name: answer[name] or 0 for name in COUNTS})
        if answer["model"] not in (None, self.model, *self._others):
            self._others.add(answer["model"])
            print(f"endpoint {self.url}: {self.model} is answered by '{self._excerpt(str(answer['model']))}'")
        return answer

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[int, Any, bytes]:
        """(status, headers, body) within `timeout` seconds and LARGEST bytes in all, however slowly it drips."""
        import httpx2

        got = bytearray()
        sent = self._client.stream("POST", f"{self.url}/{path}", content=json.dumps(body))
        try:
            async with asyncio.timeout(self.timeout), sent as response:
                async for part in response.aiter_bytes():
                    got += part
                    if len(got) > LARGEST:
                        raise _Again(f"an answer of more than {LARGEST} bytes")
                return response.status_code, response.headers, bytes(got)
        except TimeoutError:
            raise _Again(f"no whole answer within the timeout of {self.timeout:g} s") from None
        except httpx2.RequestError as error:
            why = sentence(_innermost(error) if isinstance(error, httpx2.ConnectError) else error)
            raise _Again(f"no connection ({self._excerpt(why)})") from None

    def _judged(self, status: int, headers: Any, whole: Any, text: str, sent: dict[str, Any]) -> Exception:
        """What an HTTP status means; `whole`: the JSON of the answer's `text`, `sent`: the request."""
        told = whole if isinstance(whole, dict) else {}
        told = told["error"] if isinstance(told.get("error"), dict) else told
        # The server's own sentence: `error.message` or `detail` of its JSON, else the whole text.
        said = self._excerpt(str(next((told[name] for name in ("message", "detail", "error") if told.get(name)), text)))
        if "logprobs" in sent and "logprobs" in said:
            return Refused(f"status {status} ({said})")
        # OpenRouter's status for a prompt that a model's moderation flags.
        flagged = status == 403 and any(word in said.lower() for word in MODERATED)
        meant = None if flagged else FINAL.get(402 if told.get("code") == "insufficient_quota" else status)
        if meant:
            place = self._excerpt(headers.get("location", "nowhere"))
            return _Final(f"status {status}, {meant.format(key=self._key_env, said=said, place=place)}")
        if status in BAD_MOMENT or status >= 500:
            return _Again(f"status {status} ({said})", _retry_after(headers), for_all=status == 429)
        if any(old in sent and new in said for old, new in RENAMED.items()):
            self._renamed = True
            return _Again(f"status {status} ({said})", wait=0.0)
        if any(word in said.lower() for word in UNSUPPORTED):
            return _Final(f"status {status} ({said}); nearest valid: request: {{its name: null}} leaves it out")
        if status not in OF_THE_PROMPT and not flagged:
            return _Final(f"status {status} ({said})")
        advice = "; take fewer shots or a model with a longer context" if "context" in said.lower() else ""
        limit = sent.get("max_tokens")
        return Refused(f"status {status} with {limit} new tokens asked for ({said}){advice}")

    def _error(self, reason: str, body: dict[str, Any], tries: int) -> QilinError:
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return QilinError(
            f"endpoint {self.url}, model '{self.model}': {reason}; tried {tries} time{'s' * (tries > 1)} for the "
            f"prompt that ends '{self._excerpt(prompt[-80:])}'; finished answers are kept in {self.cache} and a rerun "
            "goes on from there"
        )

    def _excerpt(self, text: str) -> str:
        """One line of at most 200 characters without the key; cut last, lest a part of the key stay."""
        hidden = text if self._key == PLACEHOLDER else text.replace(self._key, "[key]")
        # Half of a surrogate pair is valid JSON, but no text that a file could hold.
        line = " ".join(hidden.encode("utf-8", "replace").decode("utf-8").split())
        return line if len(line) <= 200 else line[:200] + "…"

    def _count(self, **more: int) -> None:
        for name, number in more.items():
            self._counted[name] += number


# OpenAI's reasoning models know the limit by another name and say so.
RENAMED = {"max_tokens": "max_completion_tokens"}
UNSUPPORTED = ("unsupported parameter", "unsupported value", "unrecognized request argument", "extra inputs")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own: a notebook's own thread has one already, which runs no other."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def _innermost(error: Exception) -> Any:
    """What an error came from in the end: "all attempts failed" says nothing of why."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error.exceptions[0] if isinstance(error, ExceptionGroup) else error


class _Again(Exception):
    """A failure worth another try, after `wait` seconds if the server said so; `for_all`: every request shall wait."""

    def __init__(self, reason: str, wait: float | None = None, for_all: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.for_all = wait, for_all


class _Final(Exception):
    """A failure that another try would repeat, and another prompt too: key, quota, name of the model."""


async def _pause(seconds: float, stop: asyncio.Event) -> None:
    """Wait so long, or until `stop` is set."""
    with suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)


class _Pace:
    """Lets requests pass one by one, 60 / `per_minute` seconds apart."""

    def __init__(self, per_minute: float | None) -> None:
        self._gap, self._next = 60 / per_minute if per_minute else 0.0, 0.0

    async def wait(self, stop: asyncio.Event) -> None:
        """Return when it is this request's turn, or when `stop` is set."""
        while not stop.is_set() and (left := self._next - time.monotonic()) > 0:
            await _pause(left, stop)
        self._next = max(self._next, time.monotonic() + self._gap)

    def hold(self, seconds: float) -> None:
        """Nobody passes for so long."""
        self._next = max(self._next, time.monotonic() + seconds)


def _counts(usage: Any) -> dict[str, int | None]:
    """The tokens that a server says it counted; None for both where one is missing or no such number."""
    counts = {name: usage.get(name) if isinstance(usage, dict) else None for name in COUNTS}
    sound = all(type(count) is int and 0 <= count < 10**12 for count in counts.values())
    return counts if sound else dict.fromkeys(COUNTS)


def _retry_after(headers: Any) -> float | None:
    """Seconds that a server asks to wait; None when it does not."""
    try:
        seconds = float(headers.get("retry-after", "nan"))
    except ValueError:
        return None
    return seconds if 0 < seconds < math.inf else None


def _base_url(url: str) -> tuple[str, bool]:
    """(URL without a last slash, whether it is this machine). QilinError for a URL without a host or a usable port."""
    parts = urlsplit(url)
    try:
        usable = parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise QilinError(f"endpoint '{url}' is no URL of a server; give one like http://localhost:8000/v1")
    try:
        local = ip_address(parts.hostname).is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
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


def kept(folder: Path, request: dict[str, Any]) -> Answer | None:
    """The answer to a request that is in the folder, where a torn file is none. QilinError for an unreadable one."""
    path = _file(folder, request)
    try:
        return json.loads(path.read_text(encoding="utf-8"))["answer"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    except OSError as reason:
        raise QilinError(f"{path} cannot be read: {reason.strerror}; mend its rights or delete it") from None


def keep(folder: Path, request: dict[str, Any], answer: Answer) -> None:
    """Keep an answer: what was paid for is not asked again. QilinError when the folder cannot be written.

    A file is renamed into place whole, so processes may share the folder.
    """
    path = _file(folder, request)
    try:
        files.write_json(path, {"request": request, "answer": answer})
    except OSError as reason:
        raise QilinError(
            f"{path} cannot be written ({reason.strerror}), and answers are asked for only where they can be kept"
        ) from None


def _file(folder: Path, request: dict[str, Any]) -> Path:
    return folder / f"{files.sha256_text(json.dumps(request, ensure_ascii=False, sort_keys=True))}.json"
