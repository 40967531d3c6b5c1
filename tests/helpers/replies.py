from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from qilin_lib.evaluate.replies import Reply


def texts(replies: Sequence[Reply]) -> list[str]:
    """What was written, without how it ended."""
    return [reply.text for reply in replies]


class StandIn:
    """A backend that writes `reply(prompt)` and keeps what it was `asked`; without a tokenizer it is a server."""

    likelihood, batch_size = False, 2

    def __init__(self, reply: Callable[[Any], Reply], tokenizer: Any = None, template: Any = None) -> None:
        self.reply, self.tokenizer, self.context = reply, tokenizer, 9999
        self.template = template or SimpleNamespace(name="chat")
        self.asked: list[str] = []

    def render(self, messages: list[dict], reply_prefix: str) -> str:
        return messages[-1]["content"] + reply_prefix

    def generate(self, prompts: list, max_new_tokens: int) -> list[Reply]:
        self.asked += [prompt.text for prompt in prompts]
        return [self.reply(prompt) for prompt in prompts]

    def fingerprint(self) -> str:
        return "stand-in"
