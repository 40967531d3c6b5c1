"""Who answers: a model behind an OpenAI-compatible server (OpenAI, vLLM, SGLang, llama.cpp, `transformers serve`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.prompts import SEED, Messages, Prompt, as_text, asked_as
from qilin_lib.evaluate.replies import ERROR, LENGTH, STOP, Reply, replied
from qilin_lib.evaluate.server import CHAT, COUNTS, TEXT, Answer, Refused, Server
from qilin_lib.evaluate.templates import AUTO, presets, written
from qilin_lib.schema import Baseline
from qilin_lib.tokens.template import PLAIN

# Requests of a chunk: so many times those that run at a time, lest all wait for a chunk's slowest.
ROUNDS = 8
TOP = 20
"""Likeliest tokens that a server names, the most that OpenAI's does."""
# Servers call a regular end "stop", "eos", "end_turn", or nothing.
ENDINGS = dict.fromkeys(("length", "max_tokens", "model_length", "model_context_window_exceeded"), LENGTH)
ENDINGS |= dict.fromkeys(("content_filter", "sensitive"), ERROR)
FAULTS = (ERROR, "network_error")


def connected(line: Baseline, threads: int) -> EndpointBackend:
    """The model at a line's endpoint, `threads` requests at a time unless the line says how many; answers are kept in
    the cache of all runs."""
    return EndpointBackend(line, line.concurrency or threads, runs.cache_dir() / "responses")


class EndpointBackend:
    """The model that a baseline's line names at its `endpoint`.

    `template` "chat" posts the messages to /chat/completions, where the server's own template stands around them. A
    forced beginning of the reply is the last line of the last user message there, as in the released prompts, unless
    the server goes on from it (`prefill`: vLLM, SGLang). "plain", a name of templates.presets() or `prompt` posts text
    to /completions. Decoding is seeded, greedy unless the line has a temperature. With `logprobs` letters are scored by
    the server's log-probabilities, and written where it gives none.

    `batch_size` requests run at a time. QilinError for a template, a URL or a key that cannot be used.
    """

    tokenizer = None
    context = None

    def __init__(self, line: Baseline, batch_size: int, cache_dir: str | Path) -> None:
        texts = {"plain": PLAIN} | {name: written(name, text) for name, text in presets().items()}
        if line.prompt is not None:
            self.template = written("prompt", line.prompt)
        elif line.template in (AUTO, "chat"):
            self.template = SimpleNamespace(name="chat")
        elif line.template in texts:
            self.template = texts[line.template]
        else:
            raise QilinError(
                f"template '{line.template}' of model '{line.model}': an endpoint holds its tokenizer itself; nearest "
                f"valid: 'chat' (the server's template), {', '.join(texts)}"
            )
        self.line, self.asking, self._chat = line, asked_as(line), self.template.name == "chat"
        self._path = CHAT if self._chat else TEXT
        self.prices = (line.price_per_million_input, line.price_per_million_output)
        settings = {"chat_template_kwargs": line.chat_template_kwargs} if line.chat_template_kwargs else {}
        self.request = line.request | settings
        self.server = Server(line, batch_size, cache_dir)
        self.batch_size, self.url = batch_size * ROUNDS, self.server.url

    @cached_property
    def likelihood(self) -> bool:
        """Whether letters are scored. The first to ask sends one request, to see if the server lets them be."""
        if not self.line.logprobs:
            return False
        question = [{"role": "user", "content": "1 + 1 ="}]
        (answer,) = self._first_tokens([Prompt(question, "", [], self.render(question, ""), 0, False)])
        if why := answer.get("error"):
            print(
                f"endpoint {self.url}: {self.server.model} gives no log-probabilities; its letters are written: {why}"
            )
        return not why

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        """The reply to each prompt, in their order.

        A prompt that the server refuses has an empty reply that says why (`Reply.error`). Raises as `Server.ask` does.
        """
        limit = self.asking.max_new_tokens or max_new_tokens
        answers = self.server.ask(self._path, [self._body(prompt, limit) for prompt in prompts], self._text)
        texts = [answer.get("text") or "" for answer in answers]
        finishes = [ERROR if "error" in one else ENDINGS.get(one["finish_reason"], STOP) for one in answers]
        # What follows the last line of a chat's user message is a turn of its own: nothing was forced.
        forces = self.line.prefill or not self._chat
        errors = [answer.get("error", "") for answer in answers]
        return replied(prompts, texts, finishes, forces, self.asking.stop, errors)

    def choice_logprobs(self, prompts: Sequence[Prompt], choices: Sequence[str]) -> list[dict[str, float] | Reply]:
        """Natural log-probability of each choice as the reply's next token, one dict a prompt.

        A choice that is not among the TOP likeliest tokens gets the smallest of theirs, which bounds it. A prompt that
        the server refuses, or after which it names none of the choices, has the Reply that says so.
        """
        results: list[dict[str, float] | Reply] = []
        for answer in self._first_tokens(prompts):
            scores: dict[str, float] = {}
            # Not every server names the likeliest first.
            for token, logprob in sorted(answer.get("top", ()), key=itemgetter(1), reverse=True):
                scores.setdefault(token.strip(), logprob)
            if scores.keys() & set(choices):
                bound = min(scores.values())
                results.append({choice: scores.get(choice, bound) for choice in choices})
                continue
            said = f"({', '.join(list(scores)[:5])}, …); nearest valid: logprobs: false"
            why = f"none of {', '.join(choices)} is among the {TOP} likeliest first tokens {said}"
            results.append(Reply("", ERROR, error=answer.get("error", why)))
        return results

    def _first_tokens(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """{top: [(token, log-probability)]}, the likeliest first tokens of each reply."""
        wanted = {"logprobs": True, "top_logprobs": TOP} if self._chat else {"logprobs": TOP}

        def likeliest(body: dict[str, Any]) -> Answer:
            places = (body["choices"][0].get("logprobs") or {}).get("content" if self._chat else "top_logprobs")
            first = places[0] if places else {}
            if self._chat:
                first = {one["token"]: one["logprob"] for one in first.get("top_logprobs", ())}
            top = [*first.items()]
            if not top or any(logprob is None for _, logprob in top):
                raise Refused("an answer without log-probabilities")
            return {"top": top}

        return self.server.ask(self._path, [self._body(prompt, 1) | wanted for prompt in prompts], likeliest)

    def render(self, messages: Messages, reply_prefix: str) -> str:
        """The text of a conversation: what /completions is sent, or for a chat a reader's view of what is sent."""
        if self._chat:
            return as_text(self._messages(messages, reply_prefix), "")
        own, turns = self.template, []
        for message in messages:
            opened, closed = {
                "system": ("", "\n"),
                "user": (own.user_open, own.user_close),
                # The end token of an assistant's turn is the server's tokenizer's secret; a line end stands for it.
                "assistant": (own.assistant_open, own.assistant_close or "\n"),
            }[message["role"]]
            turns.append(f"{opened}{message['content']}{closed}")
        return "".join([*turns, own.assistant_open, reply_prefix])

    def fingerprint(self) -> str:
        """A hash of URL, model name, template and request: a server shows no weights."""
        parts = [self.url, self.server.model, self.template.name]
        more = [self.request, self.line.prefill] if self.request or self.line.prefill else []
        own = [self.template.user_open, self.template.user_close] if self.template.name == "prompt" else []
        return files.sha256_text(json.dumps([*parts, *more, *own], sort_keys=True))

    def usage(self) -> dict[str, int | float | None]:
        """What `Server.usage` counts, and `cost` in the currency of `prices`, None without them."""
        counted, cost = self.server.usage(), None
        if None not in self.prices:
            cost = sum(counted[name] * price for name, price in zip(COUNTS, self.prices, strict=True)) / 1e6
        return {**counted, "cost": cost}

    def _body(self, prompt: Prompt, max_new_tokens: int) -> dict[str, Any]:
        body = {"model": self.server.model, "max_tokens": max_new_tokens, "temperature": self.asking.temperature}
        body |= {"top_p": 1, "seed": SEED} | ({"stop": list(self.asking.stop)} if self.asking.stop else {})
        if self._chat:
            body["messages"] = self._messages(prompt.messages, prompt.reply_prefix)
        else:
            body["prompt"] = prompt.text
        if self._chat and self.line.prefill and prompt.reply_prefix:
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        return {name: value for name, value in (body | self.request).items() if value is not None}

    def _messages(self, messages: Messages, reply_prefix: str) -> Messages:
        if not reply_prefix:
            return list(messages)
        if self.line.prefill:
            return [*messages, {"role": "assistant", "content": reply_prefix}]
        return [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n{reply_prefix}"}]

    def _text(self, body: dict[str, Any]) -> Answer:
        """{text or None, finish_reason} of a completion's body; `server.Read`."""
        choice = body["choices"][0]
        message = choice["message"] if self._chat else {"content": choice["text"]}
        text = message.get("content")
        if isinstance(text, list):
            text = "".join(part["text"] for part in text if part["type"] == "text")
        if text is None:
            # A refusal is what the model says. A filter and thoughts up to the limit leave nothing, others are faults.
            text = message.get("refusal")
        finish = choice.get("finish_reason")
        if finish in FAULTS:
            raise ValueError("a fault of the host behind the server")
        ended = ENDINGS.get(finish, STOP)
        if ended == ERROR and not text or ended == STOP and text is None:
            raise Refused(f"an answer without text (finish_reason {finish})")
        # Half of a surrogate pair is valid JSON, but no text that a file could hold.
        return {"text": text and text.encode("utf-8", "replace").decode("utf-8"), "finish_reason": finish}
