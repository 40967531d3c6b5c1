"""What a model wrote, how it came to its end, and what of it is its answer: thoughts and invented next turns are not.

Every score of a written text begins here, so that letters, BLEU, ROUGE and entities are read from the same words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from qilin_lib.evaluate.extraction import extract_letters
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Prompt

STOP, LENGTH, ERROR = "stop", "length", "error"
"""A reply came to its end, was cut at the limit of new tokens, or was kept back by a server's filter."""
FAILURES = ("unparsed", "cut", "error")
"""Why a record has no answer: it cannot be read, it was cut before it gave one, there was none."""

# How models mark a thought: DeepSeek-R1, Qwen 3, Seed-OSS, Mistral, Kimi, Command A, channels of gpt-oss, Gemma.
_TAG = "(?:seed:)?(?:think|thinking|thought|reasoning)"
OPENS = (
    rf"<{_TAG}>|\[THINK\]|◁think▷|<\|START_THINKING\|>|<\|channel>thought\b"
    r"|<\|channel\|>(?:analysis|commentary)<\|message\|>"
)
CLOSES = (
    rf"</{_TAG}>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>(?:<\|START_RESPONSE\|>)?|<channel\|>"
    r"|<\|channel\|>final<\|message\|>"
)
# HuatuoGPT-o1 heads its thought "## Thinking" and what it says "## Final Response". Of gpt-oss's channels the names are
# left where special tokens are not written.
_THOUGHT = re.compile(
    rf"(?P<close>{CLOSES}|assistantfinal|^#+[ \t]*Final Response\b[^\n]*)"
    rf"|{OPENS}|\Aanalysis(?=\w)|^#+[ \t]*Thinking\b",
    re.MULTILINE | re.IGNORECASE,
)
_OPEN_THOUGHT = re.compile(rf"(?:{OPENS})\s*\Z")
# Tokens of a conversation that a server or another tokenizer writes out as text: the model's turn is over.
_CONTROL = re.compile(r"<\|[^\s|<>]{1,30}\|>|<｜[^｜<>]{1,30}｜>|</?s>|\[/?INST\]")
_ANSWER, _ANSWERED = (re.compile(tag, re.IGNORECASE) for tag in ("<answer>", "</answer>"))


class Reply(NamedTuple):
    """A backend's reply. `forced`: whether the prompt really held the reply's first words (`Prompt.reply_prefix`);
    `error`: why a server gave none."""

    text: str
    finish: str = STOP
    forced: bool = False
    error: str = ""

    @property
    def ending(self) -> dict[str, str]:
        """How it ended, as a record keeps it."""
        return {"finish": self.finish} | ({"error": self.error} if self.error else {})


def replied(
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finishes: Sequence[str],
    forces: bool = True,
    ends: Sequence[str] = (),
    errors: Sequence[str] = (),
) -> list[Reply]:
    """The replies to `prompts`, each ended before the first of the texts `ends`, and where the model begins a next turn
    in its own template (`Prompt.stop`).

    `forces`: the backend puts `reply_prefix` before the reply. A thought that the template opens in the prompt is
    opened in the text. `errors`: why there is none, "" for the others.
    """
    replies = []
    for prompt, text, finish, error in zip(prompts, texts, finishes, errors or [""] * len(prompts), strict=True):
        if found := [at for end in ends if (at := text.find(end)) >= 0]:
            text, finish = text[: min(found)], STOP
        # "请问：" asks on within a sentence; a tag in brackets cannot.
        tags = [rf"^[ \t]*{re.escape(tag)}" if re.match(r"\w", tag) else re.escape(tag) for tag in prompt.stop]
        if tags and (turn := re.search("|".join(tags), text, re.MULTILINE)):
            text, finish = text[: turn.start()].rstrip(), STOP
        opened = None if error else _OPEN_THOUGHT.search(prompt.text, max(0, len(prompt.text) - 20))
        replies.append(Reply((opened[0] if opened else "") + text, finish, forces and bool(prompt.reply_prefix), error))
    return replies


def spoken(text: str) -> str:
    """The text without thoughts and without what follows a token that ends a turn; "" for a thought that never ends."""
    kept, begin = [], 0
    for mark in _THOUGHT.finditer(text):
        # A bare end: the thought began in the prompt.
        kept = [] if mark["close"] else kept
        if not mark["close"] and begin >= 0:
            kept.append(text[begin : mark.start()])
        begin = mark.end() if mark["close"] else -1
    if begin >= 0:
        kept.append(text[begin:])
    return next((part.strip() for part in _CONTROL.split("".join(kept)) if part.strip()), "")


def letters(reply: Reply, options: dict[str, str], multiple: bool, question: str = "") -> str | None:
    """The answer letters of a reply, or None (`extraction.extract_letters`); of <answer>…</answer> the last counts."""
    answer = _ANSWERED.split(_ANSWER.split(spoken(reply.text))[-1])[0]
    cut = reply.finish == LENGTH and not reply.forced
    if cut:
        # What was being said when it was cut may have gone on to the opposite.
        answer = answer[: max(answer.rfind(mark) for mark in "。！？；，\n") + 1] or answer
    return extract_letters((REPLY_PREFIX if reply.forced else "") + answer, options, multiple, cut, question)


def failures(records: Sequence[dict], failed: Callable[[dict], bool]) -> dict[str, Statistic]:
    """The share of records that `failed`, by FAILURES; a record without `finish` was not written but scored."""
    kinds = {LENGTH: "cut", ERROR: "error"}
    found = [kinds.get(record.get("finish", STOP), "unparsed") if failed(record) else "" for record in records]
    return {kind: proportion([one == kind for one in found]) for kind in FAILURES}


def unread(record: dict[str, Any]) -> bool:
    """Whether no letter was read."""
    return record["prediction"] is None


def unsaid(record: dict[str, Any]) -> bool:
    """Whether a free answer is cut or empty."""
    return record.get("finish", STOP) != STOP or not spoken(record["output"])
