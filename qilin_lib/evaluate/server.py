"""Requests to an OpenAI-compatible server, and its answers kept on disk: what was paid for once is not asked again.

The openai client carries and repeats the requests. Here stands what a failure means: a prompt that the server refuses
is one item's error, anything else (key, quota, network, the server's own trouble) stops the model, and a rerun goes on.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from qilin_lib import files
from qilin_lib.errors import QilinError

TRIES = 6
COUNTS = ("prompt_tokens", "completion_tokens")
PLACEHOLDER = "no-key-needed"
CHAT, TEXT = "/chat/completions", "/completions"
# OpenAI's reasoning models know the limit by another name and say so.
LIMIT, NEW_LIMIT = "max_tokens", "max_completion_tokens"
UNSUPPORTED = ("unsupported parameter", "unsupported value", "unrecognized request argument", "extra inputs")

Answer = dict[str, Any]
"""What a request gave: what `read` made of its body, prompt_tokens, completion_tokens (None: not counted); or {"error":
the server's reason}."""
Read = Callable[[dict[str, Any]], dict[str, Any]]
"""read(body): what is wanted of a completion. LookupError, TypeError or ValueError for a body that is none, and
`Refused` for one that answers nothing."""


class Refused(Exception):
    """The server does not answer this prompt: a filter, a context that is too short."""


class Server:
    """The base URL `url` ("/v1" is added to a URL without a path) and the model that is asked there.

    The key is read from the environment variable `key_env` (a server on this machine may do without) and goes nowhere
    else. `threads` requests run at a time, `requests_per_minute` of them start; `timeout` is in seconds a try. Answers
    are kept in `cache_dir`. Raises QilinError for a URL or a key that cannot be used.
    """

    def __init__(
        self,
        model: str,
        url: str,
        threads: int,
        cache_dir: str | Path,
        key_env: str,
        requests_per_minute: float | None,
        timeout: float,
    ) -> None:
        self.model, self.threads, self.timeout, self.cache = model, threads, timeout, Path(cache_dir)
        self.url, self._local = _base_url(url)
        self._key_env, self._key = key_env, _read_key(key_env, self.url, self._local)
        self._gap, self._next = 60 / requests_per_minute if requests_per_minute else 0.0, 0.0
        self._counted = dict.fromkeys(("requests", "cached", *COUNTS, "unmetered", "refused"), 0)
        self._client, self._renamed = None, False
        self._lock, self._pace = threading.Lock(), threading.Lock()

    def open(self) -> Any:
        """A client of the server; ImportError or ValueError for a proxy in the environment that it cannot use."""
        import openai

        # A server on this machine is not reached through the proxy of HTTP_PROXY.
        transport = openai.DefaultHttpxClient(trust_env=not self._local)
        how = {"max_retries": TRIES - 1, "timeout": self.timeout, "http_client": transport}
        return openai.OpenAI(api_key=self._key, base_url=self.url, **how)

    def ask(self, path: str, bodies: Sequence[dict[str, Any]], read: Read) -> list[Answer]:
        """The answers to requests at `path` (CHAT, TEXT), in their order; equal ones are asked once.

        Raises QilinError, one sentence, when a request stays without an answer for a reason other than its prompt;
        answers that arrived are on disk by then.
        """
        self._client = self._client or self.open()
        names = [json.dumps(body, sort_keys=True) for body in bodies]
        pool, asked = ThreadPoolExecutor(self.threads), {}
        try:
            for name, body in zip(names, bodies, strict=True):
                if name not in asked:
                    asked[name] = pool.submit(self._answer, path, body, read)
            done = wait(asked.values(), return_when=FIRST_EXCEPTION).done
        finally:
            # Requests under way are paid for: they end and are kept. No new one starts.
            pool.shutdown(cancel_futures=True)
        for future in done:
            future.result()
        self._count(cached=len(names) - len(asked))
        return [asked[name].result() for name in names]

    def usage(self) -> dict[str, int]:
        """What was asked since this object was made: requests, answers from the cache, prompts refused, tokens;
        `unmetered` answers came without token counts."""
        with self._lock:
            return dict(self._counted)

    def _answer(self, path: str, body: dict[str, Any], read: Read) -> Answer:
        """The answer from the cache, else from the server; a refusal is not kept: another day it may answer."""
        request = {"url": self.url, "endpoint": path, "body": body}
        kept = self.cache / f"{files.sha256_text(json.dumps(request, ensure_ascii=False, sort_keys=True))}.json"
        if (answer := _kept(kept)) is not None:
            self._count(cached=1)
            return answer
        try:
            answer = self._asked(path, body, read)
        except Refused as reason:
            self._count(refused=1)
            return {"error": str(reason)}
        try:
            files.write_json(kept, {"request": request, "answer": answer})
        except OSError as reason:
            raise QilinError(
                f"{kept} cannot be written ({reason.strerror}); answers are asked for to be kept"
            ) from None
        return answer

    def _asked(self, path: str, body: dict[str, Any], read: Read) -> Answer:
        import openai

        sent = {NEW_LIMIT if self._renamed and name == LIMIT else name: value for name, value in body.items()}
        self._wait_for_turn()
        self._count(requests=1)
        try:
            whole = self._client.post(path, cast_to=object, body=sent)
            answer = {**read(whole), **_counts(whole)}
        except openai.APIStatusError as error:
            said = self._excerpt(_message(error.body, error.response.text))
            if LIMIT in sent and NEW_LIMIT in said:
                self._renamed = True
                return self._asked(path, body, read)
            raise self._judged(error.status_code, said, sent) from None
        except openai.APITimeoutError:
            raise self._error(f"no answer within {self.timeout:g} s, {TRIES} times", body) from None
        except openai.APIConnectionError as error:
            raise self._error(f"no connection ({self._excerpt(str(error.__cause__ or error))})", body) from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise self._error("a body that is no completion", body) from None
        if self._key != PLACEHOLDER and self._key in json.dumps(answer):
            raise self._error(f"its answer holds the key of {self._key_env}, so it is not kept", body)
        self._count(unmetered=int(answer["prompt_tokens"] is None), **{name: answer[name] or 0 for name in COUNTS})
        return answer

    def _judged(self, status: int, said: str, sent: dict[str, Any]) -> Exception:
        """What an HTTP status means; `said`: the server's reason, `sent`: the request."""
        if status == 401:
            # Not the server's words: they tend to repeat parts of the key.
            return self._error(f"status 401, the server refuses the key of {self._key_env}", sent)
        if "logprobs" in sent and "logprobs" in said:
            return Refused(f"status {status} ({said})")
        if any(word in said.lower() for word in UNSUPPORTED):
            return self._error(f"status {status} ({said}); nearest valid: request: {{its name: null}}", sent)
        if status not in (400, 413, 422) or self.model in said:
            return self._error(f"status {status} ({said})", sent)
        advice = "; take fewer shots or a model with a longer context" if "context" in said.lower() else ""
        return Refused(
            f"status {status} with {sent.get(LIMIT, sent.get(NEW_LIMIT))} new tokens asked for ({said}){advice}"
        )

    def _error(self, reason: str, body: dict[str, Any]) -> QilinError:
        prompt = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        return QilinError(
            f"endpoint {self.url}, model '{self.model}': {reason}; the prompt ends '{self._excerpt(prompt[-80:])}'; "
            f"finished answers are kept in {self.cache} and a rerun goes on from there"
        )

    def _excerpt(self, text: str) -> str:
        """One line of at most 200 characters without the key; cut last, lest a part of the key stay."""
        line = " ".join(text.replace(self._key, "[key]").split())
        return line if len(line) <= 200 else line[:200] + "…"

    def _wait_for_turn(self) -> None:
        """Let threads pass one by one, so far apart as the limit of requests a minute wants."""
        with self._pace:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._gap

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self._counted[name] += number


def _kept(path: Path) -> Answer | None:
    """The answer in a file, None where there is none or a full disk tore it. QilinError when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["answer"]
    except (FileNotFoundError, ValueError, LookupError, TypeError):
        return None
    except OSError as reason:
        raise QilinError(f"{path} cannot be read: {reason.strerror}; mend its rights or delete it") from None


def _counts(body: dict[str, Any]) -> dict[str, int | None]:
    """The tokens that the server counted; None where it did not count."""
    counts = {name: (body.get("usage") or {}).get(name) for name in COUNTS}
    return counts if all(type(count) is int and count >= 0 for count in counts.values()) else dict.fromkeys(COUNTS)


def _message(body: Any, text: str) -> str:
    """The server's own sentence: `error.message` or `detail` of its JSON, else the whole text."""
    found = [body[name] for name in ("message", "detail", "error") if isinstance(body, dict) and body.get(name)]
    return str(found[0]) if found else text


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
    local = parts.hostname in ("localhost", "::1") or parts.hostname.startswith("127.")
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
