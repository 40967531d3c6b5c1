"""A stand-in for a backend whose every word is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from qilin_lib.evaluate.prompts import Prompt, as_text
from qilin_lib.evaluate.replies import Reply


class Writer:
    """Writes what `says` makes of a prompt's conversation, a text or a Reply; `asked`: the conversations so far.

    Without a tokenizer it is as a server: its prompts are texts.
    """

    likelihood, batch_size = False, 4

    def __init__(
        self,
        says: Callable[[list[dict[str, str]]], str | Reply],
        tokenizer: Any = None,
        template: Any = SimpleNamespace(name="chat"),  # noqa: B008
        context: int | None = None,
    ) -> None:
        self.says, self.tokenizer, self.template, self.context = says, tokenizer, template, context
        self.asked: list[list[dict[str, str]]] = []

    def render(self, messages: list[dict[str, str]], reply_prefix: str) -> str:
        return as_text(messages, reply_prefix)

    def generate(self, prompts: Sequence[Prompt], max_new_tokens: int) -> list[Reply]:
        replies = []
        for prompt in prompts:
            self.asked.append(prompt.messages)
            said = self.says(prompt.messages)
            replies.append(said if isinstance(said, Reply) else Reply(said, forced=bool(prompt.reply_prefix)))
        return replies

    def fingerprint(self) -> str:
        return "stand-in"
