"""Who answers: a model behind an OpenAI-compatible server (OpenAI, vLLM, SGLang, llama.cpp, `transformers serve`).

The openai client carries the requests; tries, waits and the reading of bodies are here. Its own retries (3.54) do not
count against a rate limit, pause one thread where a 429 means all, wait up to two minutes each without a bound on the
sum, end at a body that is no JSON, and its timeout starts anew with every byte (openai/openai-python `_base_client`).
"""

from __future__ import annotations

import json
import math
import os
import random
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, CancelledError, Future, ThreadPoolExecutor, wait
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.prompts import Messages, Prompt, as_text
from qilin_lib.evaluate.replies import ERROR, LENGTH, STOP, Reply, replied
from qilin_lib.evaluate.responses import Responses
from qilin_lib.tokens.template import PLAIN

SEED = 1
# Tries of one request, and the seconds that it may spend waiting between them.
TRIES, MAX_WAIT = 6, 300.0
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0
# So many prompts refused, and none answered before: it is not the prompts.
ALL_REFUSED = 20
# 408, 409, 425: asked at a bad moment. 429: too fast. From 500 on: the server's own trouble.
BAD_MOMENT = frozenset({408, 409, 425, 429})
COUNTS = ("prompt_tokens", "completion_tokens")
PLACEHOLDER = "no-key-needed"
TEMPLATES = {"chat": SimpleNamespace(name="chat"), "plain": PLAIN}


class EndpointBackend:
    """A model named `model` at the base URL `url` ("/v1" is added to a URL without a path).

    `template` "chat" posts the messages to /chat/completions, where the server's own template stands around them and a
    forced beginning of the reply cannot be forced: it is the last line of the last user message, as in the released
    prompts. "plain" posts `Prompt.text`, as `render` gives it, to /completions. Decoding is greedy and seeded.

    The key is read from the environment variable `key_env` (a server on this machine may do without) and goes nowhere
    else. `batch_size` requests run at a time, `requests_per_minute` of them start; `timeout` is in seconds a try;
    `prices` are for a million tokens of input and output. Answers are kept in `cache_dir`.
    Raises QilinError for a template, a URL or a key that cannot be used.
    """

    tokenizer = None
    context = None
    likelihood = False

    def __init__(
        self,
        model: str,
        url: str,
        template: str,
        batch_size: int,
        cache_dir: str | Path,
        key_env: str = "OPENAI_API_KEY",
        requests_per_minute: float | None = None,
        timeout: float = 60.0,
        prices: tuple[float | None, float | None] = (None, None),
    ) -> None:
        if template not in TEMPLATES:
            raise QilinError(
                f"template '{template}' of model '{model}': an endpoint holds its tokenizer itself; nearest valid: "
                "'chat' (the server's template) or 'plain'"
            )
        self.model, self.template = model, TEMPLATES[template]
        self.url, self._local = _base_url(url)
        self.batch_size, self.timeout, self.prices = batch_size, timeout, prices
        self._key_env, self._key = key_env, _read_key(key_env, self.url, self._local)
        self._responses, self._pace = Responses(cache_dir), _Pace(requests_per_minute)
        self._client: Any = None
        self._counted = dict.fromkeys(("requests", "retries", "cached", *COUNTS, "unmetered", "refused"), 0)
        self._answered = False
        self._lock, self._random = threading.Lock(), random.Random()

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """Greedy reply to each prompt, in their order; a prompt that occurs twice is asked once.

        A prompt that the server refuses has an empty reply that says why (`Reply.error`). Raises QilinError, one
        sentence, when a prompt stays without an answer for another reason, or when all are refused; answers that
        arrived are on disk by then.
        """
        self._client = self._client or self.open()
        bodies = [self._body(prompt, max_new_tokens) for prompt in prompts]
        names = [json.dumps(body, sort_keys=True) for body in bodies]
        stop, pool = threading.Event(), ThreadPoolExecutor(self.batch_size)
        asked: dict[str, Future] = {}
        try:
            for name, body in zip(names, bodies, strict=True):
                if name not in asked:
                    asked[name] = pool.submit(self._answer, body, stop)
            wait(asked.values(), return_when=FIRST_EXCEPTION)
        finally:
            # Requests under way are paid for: they end and are kept. No new one starts.
            stop.set()
            pool.shutdown(cancel_futures=True)
        _raise_first(asked.values())
        self._count(cached=len(names) - len(asked))
        answers = [asked[name].result() for name in names]
        texts, finishes = [answer["text"] or "" for answer in answers], [_finish(answer) for answer in answers]
        # What follows the last line of a chat's user message is a turn of its own: nothing was forced.
        replies = replied(prompts, texts, finishes, forces=not self._chat)
        refused = [answer.get("error", "") for answer in answers]
        return [reply._replace(error=why) for reply, why in zip(replies, refused, strict=True)]

    def render(self, messages: Messages, reply_prefix: str) -> str:
        """The text of a conversation: what /completions is sent, or for a chat a reader's view of what is sent."""
        if self._chat:
            return as_text(_with_prefix(messages, reply_prefix), "")
        # The end token of an assistant's turn is the server's tokenizer's secret; a line end stands for it.
        turns = [
            f"{PLAIN.user_open}{message['content']}{PLAIN.user_close}"
            if message["role"] == "user"
            else f"{PLAIN.assistant_open}{message['content']}\n"
            for message in messages
        ]
        return "".join([*turns, PLAIN.assistant_open, reply_prefix])

    def fingerprint(self) -> str:
        """A hash of URL, model name and template: a server shows no weights."""
        return files.sha256_text(json.dumps([self.url, self.model, self.template.name]))

    def usage(self) -> dict[str, int | float | None]:
        """What was asked since this object was made: requests (retries among them), answers from the cache, tokens.

        `cost` is in the currency of `prices`, None without them; `unmetered` answers came without token counts;
        `damaged` files of the cache were asked again.
        """
        with self._lock:
            counted = dict(self._counted)
        cost = None
        if None not in self.prices:
            cost = sum(counted[name] * price for name, price in zip(COUNTS, self.prices, strict=True)) / 1e6
        return {**counted, "damaged": len(self._responses.damaged), "cost": cost}

    @property
    def _chat(self) -> bool:
        return self.template.name == "chat"

    def open(self) -> Any:
        """A client of the server; ImportError or ValueError for a proxy in the environment that it cannot use."""
        import openai

        # A server on this machine is not reached through the proxy of HTTP_PROXY.
        transport = openai.DefaultHttpxClient(trust_env=not self._local)
        return openai.OpenAI(
            api_key=self._key, base_url=self.url, max_retries=0, timeout=self.timeout, http_client=transport
        )

    def _body(self, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
        sampling = {"model": self.model, "max_tokens": max_new_tokens, "temperature": 0, "top_p": 1, "seed": SEED}
        if self._chat:
            return {**sampling, "messages": _with_prefix(prompt.messages, prompt.reply_prefix)}
        return {**sampling, "prompt": prompt.text}

    def _answer(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """The answer from the cache, else from the server; kept before it is returned."""
        request = {"url": self.url, "endpoint": "chat/completions" if self._chat else "completions", "body": body}
        kept = self._responses.get(request)
        if kept is not None:
            self._count(cached=1)
            return kept
        try:
            answer = self._ask(body, stop)
            self._responses.put(request, answer)
            self._answered = True
        except _Refused as reason:
            # Not kept: another day the server may answer.
            return self._refusal(str(reason), body, stop)
        except BaseException:
            # Here and not in the waiting thread: this one would take the next prompt before that one wakes.
            stop.set()
            raise
        return answer

    def _refusal(self, reason: str, body: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """An answer that says why there is none; QilinError for a server that has refused all of the first prompts."""
        self._count(refused=1)
        with self._lock:
            hopeless = not self._answered and self._counted["refused"] >= ALL_REFUSED
        if hopeless:
            stop.set()
            raise self._error(f"each of {ALL_REFUSED} prompts is refused: {reason}", body, 1, time.monotonic())
        return {"text": None, "finish_reason": ERROR, "error": reason}

    def _ask(self, body: dict[str, Any], stop: threading.Event) -> dict[str, Any]:
        """The answer of the server after as many tries as it takes, at most TRIES."""
        tries, waited, started = 0, 0.0, time.monotonic()
        while True:
            self._pace.wait(stop)
            if stop.is_set():
                raise CancelledError
            self._count(requests=1, retries=int(tries > 0))
            tries += 1
            try:
                return self._once(body)
            except _Final as reason:
                raise self._error(str(reason), body, tries, started) from None
            except _Again as reason:
                pause = reason.wait or self._backoff(tries)
                if tries == TRIES:
                    raise self._error(str(reason), body, tries, started) from None
                if waited + pause > MAX_WAIT:
                    bound = f"{reason}; a wait of {pause:.0f} s more passes the {MAX_WAIT:.0f} s that one prompt gets"
                    raise self._error(bound, body, tries, started) from None
                waited += pause
                self._pace.hold(pause) if reason.for_all else stop.wait(pause)

    def _once(self, body: dict[str, Any]) -> dict[str, Any]:
        """One try: {text, finish_reason, prompt_tokens, completion_tokens}, counted; _Again or _Final otherwise."""
        raw = self._post(body)
        try:
            answer = _read(raw, self._chat)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise _Again(f"a body that is no completion ({self._excerpt(raw.decode('utf-8', 'replace'))})") from None
        if answer["text"] is None and _finish(answer) != LENGTH:
            raise _Refused(f"an answer without text (finish_reason {self._excerpt(str(answer['finish_reason']))})")
        if self._key != PLACEHOLDER and len(self._key) >= 8 and self._key in json.dumps(answer):
            raise _Final(f"the server's answer holds the key of {self._key_env}, so it is not kept")
        self._count(unmetered=int(answer["prompt_tokens"] is None), **{name: answer[name] or 0 for name in COUNTS})
        return answer

    def _post(self, body: dict[str, Any]) -> bytes:
        """The body of a 200 within `timeout` seconds in all, however slowly it drips; _Again or _Final otherwise."""
        import httpx2
        import openai

        calls = self._client.chat.completions if self._chat else self._client.completions
        deadline, parts = time.monotonic() + self.timeout, []
        try:
            with calls.with_streaming_response.create(**body) as response:
                for part in response.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > deadline:
                        raise TimeoutError
        except openai.APIStatusError as error:
            raise self._judged(error, body) from None
        except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError):
            raise _Again(f"no whole answer within the timeout of {self.timeout:g} s") from None
        except (openai.APIConnectionError, httpx2.RequestError) as error:
            cause = error.__cause__ or error
            raise _Again(f"no connection ({self._excerpt(str(cause)) or type(cause).__name__})") from None
        return b"".join(parts)

    def _judged(self, error: Any, body: dict[str, Any]) -> Exception:
        """What an HTTP status means. `error` is an openai.APIStatusError."""
        status, said = error.status_code, self._excerpt(_message(error.body, error.response.text))
        if status == 401:
            # Not the server's words: they tend to repeat parts of the key.
            return _Final(f"status 401, the server refuses the key of {self._key_env}")
        if status == 403:
            return _Final(f"status 403, the key of {self._key_env} may not use this model ({said})")
        if status == 404:
            return _Final(f"status 404, the server knows no model of this name or no such path ({said})")
        if status == 429 and isinstance(error.body, dict) and error.body.get("code") == "insufficient_quota":
            return _Final(f"status 429, the account's quota is used up ({said})")
        if status in BAD_MOMENT or status >= 500:
            return _Again(f"status {status} ({said})", _retry_after(error.response.headers), for_all=status == 429)
        advice = "; take fewer shots or a model with a longer context" if "context" in said.lower() else ""
        return _Refused(f"status {status} with {body['max_tokens']} new tokens asked for ({said}){advice}")

    def _error(self, reason: str, body: dict[str, Any], tries: int, started: float) -> QilinError:
        prompt = body["messages"][-1]["content"] if self._chat else body["prompt"]
        return QilinError(
            f"endpoint {self.url}, model '{self.model}': {reason}; tried {tries} time{'s' * (tries > 1)} in "
            f"{time.monotonic() - started:.0f} s for the prompt of {len(prompt)} characters that ends "
            f"'{self._excerpt(prompt[-80:])}'; finished answers are kept in {self._responses.folder} and a rerun goes "
            "on from there"
        )

    def _excerpt(self, text: str) -> str:
        """One line of at most 200 characters without the key; cut last, lest a part of the key stay."""
        hidden = text if self._key == PLACEHOLDER else text.replace(self._key, "[key]")
        line = " ".join(hidden.split())
        return line if len(line) <= 200 else line[:200] + "…"

    def _backoff(self, tries: int) -> float:
        """Seconds after so many failures: doubled each time, and spread so that threads do not come back together."""
        return min(LONGEST_WAIT, FIRST_WAIT * 2 ** (tries - 1)) * self._random.uniform(0.5, 1)

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                self._counted[name] += number


class _Again(Exception):
    """A failure worth another try, after `wait` seconds if the server said so; `for_all`: every thread shall wait."""

    def __init__(self, reason: str, wait: float | None = None, for_all: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.for_all = wait, for_all


class _Final(Exception):
    """A failure that another try would repeat, and another prompt too: key, quota, name of the model."""


class _Refused(Exception):
    """The server does not answer this prompt: a filter, a context that is too short."""


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


def _read(raw: bytes, chat: bool) -> dict[str, Any]:
    """{text or None, finish_reason, prompt_tokens, completion_tokens} of a response's body; no count: None.

    Any other form than a completion's raises one of the errors of a look-up.
    """
    body = json.loads(raw)
    choice = body["choices"][0]
    message = choice["message"] if chat else {"content": choice["text"]}
    text = message["content"]
    if text is None:
        # A refusal is what the model says. A filter and thoughts up to the limit leave nothing, others are faults.
        text = message.get("refusal")
    if text is not None:
        # Half of a surrogate pair is valid JSON, but no text that a file could hold.
        text = text.encode("utf-8", "replace").decode("utf-8")
    spent = body.get("usage")
    counts = {name: spent.get(name) if isinstance(spent, dict) else None for name in COUNTS}
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        counts = dict.fromkeys(counts)
    return {"text": text, "finish_reason": choice.get("finish_reason"), **counts}


def _finish(answer: dict[str, Any]) -> str:
    """How a reply ended; servers call a regular end "stop", "eos", "end_turn", or nothing."""
    return {"length": LENGTH, "max_tokens": LENGTH, "content_filter": ERROR, ERROR: ERROR}.get(answer["finish_reason"], STOP)


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


def _message(body: Any, text: str) -> str:
    """The server's own sentence: `error.message` or `detail` of its JSON, else the whole text."""
    found = [body[name] for name in ("message", "detail", "error") if isinstance(body, dict) and body.get(name)]
    return str(found[0]) if found else text


def _with_prefix(messages: Messages, reply_prefix: str) -> Messages:
    if not reply_prefix:
        return list(messages)
    return [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n{reply_prefix}"}]


def _raise_first(asked: Iterable[Future]) -> None:
    """The error of the first prompt that has one; those that were stopped because of it say nothing."""
    for future in asked:
        error = None if future.cancelled() else future.exception()
        if error is not None and not isinstance(error, CancelledError):
            raise error


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
