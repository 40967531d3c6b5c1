"""What a model wrote, how it came to its end, and what of it is its answer: thoughts and invented next turns are not.

Every score of a written text begins here, so that letters, BLEU, ROUGE and entities are read from the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from qilin_lib.evaluate.extraction import extract_letters
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Prompt

STOP, LENGTH, ERROR = "stop", "length", "error"
"""A reply came to its end, was cut at the limit of new tokens, or the server kept it back."""


class Reply(NamedTuple):
    """A backend's reply. `forced`: whether the prompt really held the reply's first words (`Prompt.reply_prefix`)."""

    text: str
    finish: str = STOP
    forced: bool = False


def replied(prompts: Sequence[Prompt], texts: Sequence[str], cut: Sequence[bool]) -> list[Reply]:
    """The replies of a local model, whose prompts hold the forced words; `cut`: no end token came before the limit."""
    rows = zip(prompts, texts, cut, strict=True)
    return [Reply(text, LENGTH if at_limit else STOP, bool(prompt.reply_prefix)) for prompt, text, at_limit in rows]


def letters(reply: Reply, options: dict[str, str], multiple: bool) -> str | None:
    """The answer letters of a reply, or None: see `extraction.extract_letters`."""
    return extract_letters(REPLY_PREFIX + reply.text, options, multiple)
