"""How items are answered: in words that are written, or by the letter that is likeliest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.items import Item, Unreadable
from qilin_lib.evaluate.plan import Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Prompt, asking, fit
from qilin_lib.evaluate.replies import Reply, letters

FORCED_TOKENS, FREE_TOKENS = 10, 512


@dataclass(frozen=True)
class Written(Task):
    """A task whose answers are written. A benchmark's own kind of it says what is read of a reply, and has

    messages(item, question, shots)   the conversation that asks an item, with so much of its question
    """

    forced: ClassVar[str] = ""

    def new_tokens(self, backend: Any) -> int:
        """How much a backend may write."""
        return self.settings["max_new_tokens"]

    def read(self, item: Item, reply: Reply) -> dict[str, Any]:
        """What a record keeps beside the reply."""
        return {}

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        new = self.new_tokens(backend)
        return [fit(partial(self.messages, item), item, (), self.forced, backend, new) for item in items]

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        replies = backend.generate(asked, self.new_tokens(backend))
        rows = [
            {"output": reply.text, **reply.ending, **self.read(item, reply)}
            for item, reply in zip(items, replies, strict=True)
        ]
        if self.settings.get("perplexity") and (measure := getattr(backend, "reference_logprobs", None)):
            likely = measure(asked, [item.reference for item in items])
            names = ("reference_logprob", "reference_characters")
            rows = [row | dict(zip(names, own, strict=True)) for row, own in zip(rows, likely, strict=True)]
        return rows


def open_settings(max_new_tokens: int, params: Any) -> dict[str, Any]:
    """Settings of an open benchmark; `perplexity` is one only where it is asked for, lest it move older keys."""
    return {"max_new_tokens": max_new_tokens} | ({"perplexity": True} if params.perplexity else {})


def answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
    """Records of the likeliest letter of each item (the first of equals), with all its letters' log-probabilities.

    A backend that gives no probabilities (an endpoint, an encoder-decoder) writes instead, and the letter is read.
    """
    if backend.likelihood:
        scored = likeliest(items, asked, backend)
    else:
        scored = backend.generate(asked, written_tokens(backend))
    rows = []
    for item, found in zip(items, scored, strict=True):
        if isinstance(found, Reply):
            letter = letters(found, item.options or {}, False, item.question)
            rows.append({"output": found.text, **marked(item, letter), **found.ending})
        else:
            rows.append({"output": "", **marked(item, best(found)), "scores": found})
    return rows


@dataclass(frozen=True)
class Choices(Task):
    """Questions with one right letter; `dev`: the examples of each subject. `messages` as in `Written`, but after these
    examples."""

    dev: dict[str, list[Item]]
    likelihood = True

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        """Fewer examples than `shots` where the context is too short."""
        new = 0 if backend.likelihood else written_tokens(backend)
        asked = []
        for item in items:
            examples = self.dev.get(item.subject or "", [])[:shots]
            asked.append(fit(partial(self.messages, item), item, examples, REPLY_PREFIX, backend, new))
        return asked

    answer = staticmethod(answer)


def likeliest(items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict[str, float] | Reply]:
    """{letter: log-probability} of each item, or the reply that says why a server refuses its prompt.

    Items with the same letters are scored together.
    """
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, item in enumerate(items):
        groups.setdefault(tuple(item.options or ()), []).append(place)
    found: dict[int, dict[str, float] | Reply] = {}
    for choices, places in groups.items():
        scores = backend.choice_logprobs([asked[place] for place in places], list(choices))
        found |= zip(places, scores, strict=True)
    return [found[place] for place in range(len(items))]


def best(scores: dict[str, float]) -> str | None:
    """The letter of the largest number; None where one is NaN, since max() would take the first for the answer."""
    whole = all(value == value for value in scores.values())
    return max(scores, key=scores.get) if whole else None


def written_tokens(backend: Any) -> int:
    """What a backend that writes its letters may write: they stand behind the forced words, or it comes to them."""
    if backend.tokenizer is None:
        return FREE_TOKENS
    return min(FREE_TOKENS, backend.context // 2) if asking(backend).thinks else FORCED_TOKENS


def marked(item: Item, letter: str | None) -> dict[str, Any]:
    """What a record says of the letters chosen; `correct` is None where the right ones are not public."""
    return {"prediction": letter, "correct": None if item.gold is None else letter == item.gold}


def examples(items: Sequence[Item], invalid: Sequence[dict], shots: int, file: Path) -> list[Item]:
    """The first `shots` items of a file of examples. Unreadable: one is unusable; QilinError: there are fewer."""
    for bad in invalid:
        raise Unreadable(file, f"line {bad['line']}: {bad['detail']}; a dev example must be complete")
    if any(item.gold is None for item in items):
        raise QilinError(f"{file} has an example without an answer; a shot needs one")
    if len(items) < shots:
        raise QilinError(
            f"{file} has {len(items)} rows, fewer than shots = {shots}; set eval.shots to {len(items)} at most"
        )
    return list(items[:shots])
