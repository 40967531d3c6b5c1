"""The `fixed` protocol's prompts: messages in the training template, then the first words of the reply, forced.

The reply taught in training reads "答案：C。\\n解释：…", so a multiple-choice reply is begun for it with "答案："
and the next token is the letter itself, no space between (EleutherAI/lm-evaluation-harness#2346: what a space costs).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Item

REPLY_PREFIX = "答案："
CEVAL_HEADER = "以下是中国关于{name}考试的单项选择题，请选出其中的正确答案。\n\n"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Prompt:
    """What the model is shown: token ids, their text, how many shots are left in it, whether the question was cut."""

    ids: list[int]
    text: str
    shots: int
    truncated: bool


def ceval_messages(question: str, item: Item, shots: Sequence[Item], name: str) -> Messages:
    """Each shot is a turn of the user and one of the assistant; the header (`name`: Chinese subject) comes first."""
    asked = [_ceval_question(shot.question, shot.options) for shot in shots]
    asked.append(_ceval_question(question, item.options))
    asked[0] = CEVAL_HEADER.format(name=name) + asked[0]
    messages = []
    for text, shot in zip(asked, shots, strict=False):
        messages += [_turn("user", text), _turn("assistant", f"{REPLY_PREFIX}{shot.gold}")]
    return [*messages, _turn("user", asked[-1])]


def cmexam_messages(question: str, item: Item) -> Messages:
    """Question, then the options as lines "A text": the layout of CMExam's own file and of the training data."""
    lines = [f"{letter} {text}" for letter, text in (item.options or {}).items()]
    return [_turn("user", "\n".join([question, *lines]))]


def huatuo_messages(question: str) -> Messages:
    """The patient's question as it is."""
    return [_turn("user", question)]


def fit(
    build: Callable[[str, Sequence[Item]], Messages],
    item: Item,
    shots: Sequence[Item],
    reply_prefix: str,
    backend: Any,
    new_tokens: int,
) -> Prompt:
    """The prompt that leaves room for `new_tokens` in the model's context.

    What is too long loses whole shots first, from the front, then the question's beginning (its end holds the query).
    `build(question, shots)` gives the messages; `backend` lends tokenizer, template and context.
    Raises QilinError when not even an empty question fits.
    """
    room = backend.context - new_tokens

    def ids(question: str, left: Sequence[Item]) -> list[int]:
        prefix = backend.tokenizer.encode(reply_prefix, add_special_tokens=False) if reply_prefix else []
        rendered = backend.template.encode(build(question, left), backend.tokenizer, add_generation_prompt=True)
        return [*rendered, *prefix]

    for first in range(len(shots) + 1):
        encoded = ids(item.question, shots[first:])
        if len(encoded) <= room:
            return _prompt(encoded, backend.tokenizer, len(shots) - first, truncated=False)
    encoded = ids(_longest_ending(item.question, lambda end: len(ids(end, ())) <= room), ())
    if len(encoded) > room:
        raise QilinError(
            f"{item.benchmark} item {item.id} needs {len(encoded)} tokens without its question, but a context of "
            f"{backend.context} leaves {room} beside {new_tokens} new ones; take a model with a longer context"
        )
    return _prompt(encoded, backend.tokenizer, 0, truncated=True)


def _prompt(ids: list[int], tokenizer: Any, shots: int, truncated: bool) -> Prompt:
    return Prompt(ids, tokenizer.decode(ids, skip_special_tokens=False), shots, truncated)


def _longest_ending(text: str, fits: Callable[[str], bool]) -> str:
    """The longest ending of `text` that fits ("" when none does); a cut can add a token, hence the last steps."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(text[middle:]) else (middle + 1, high)
    while low < len(text) and not fits(text[low:]):
        low += 1
    return text[low:]


def _ceval_question(question: str, options: dict[str, str] | None) -> str:
    return "\n".join([question, *(f"{letter}. {text}" for letter, text in (options or {}).items())])


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
