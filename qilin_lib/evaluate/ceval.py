"""C-Eval (Huang et al. 2023, arXiv 2305.08322): 52 subjects, five dev shots, the likeliest of A-D (Table 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.breakdown import categories
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, asking, ceval_messages, fit
from qilin_lib.evaluate.replies import Reply, failures, letters, unread
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.subjects import HARD, MEDICAL

# What a model may write for one letter: it stands behind the forced words, or a chat model comes to it.
FORCED_TOKENS, FREE_TOKENS = 10, 512
# What ChiMed-GPT calls C-Eval: these two, all their items in one pot (41 in the validation split; FACTS 5.3).
CHIMED_GPT = ("basic_medicine", "clinical_medicine")


def prompts(
    items: Sequence[Item], backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int
) -> list[Prompt]:
    """One prompt an item, with the first `shots` dev examples of its subject, fewer where the context is too short.

    Raises QilinError when a subject has no Chinese name.
    """
    return [_prompt(item, backend, dev, names, shots) for item in items]


def answer(
    items: Sequence[Item], asked: Sequence[Prompt], backend: Any, choices: Sequence[str] = tuple(CEVAL_LETTERS)
) -> list[dict]:
    """The likeliest of `choices` (the first of equals) with all their log-probabilities.

    A backend that gives no probabilities (an endpoint, an encoder-decoder) writes instead, and the letter is read.
    """
    if not backend.likelihood:
        replies = backend.generate(asked, new_tokens(backend))
        return [_written(item, reply) for item, reply in zip(items, replies, strict=True)]
    scores = backend.choice_logprobs(asked, list(choices))
    return [_scored(item, row) for item, row in zip(items, scores, strict=True)]


def new_tokens(backend: Any) -> int:
    """How much a backend may write for a letter: nothing where letters are scored."""
    if backend.likelihood:
        return 0
    if backend.tokenizer is None:
        return FREE_TOKENS
    return min(FREE_TOKENS, backend.context // 2) if asking(backend).thinks else FORCED_TOKENS


def _scored(item: Item, row: dict[str, float] | Reply) -> dict:
    # A prompt that a server refuses has no scores, but a reply that says why.
    return _written(item, row) if isinstance(row, Reply) else _answer(item, "", _likeliest(row)) | {"scores": row}


def _written(item: Item, reply: Reply) -> dict:
    letter = letters(reply, item.options or {}, multiple=False)
    return _answer(item, reply.text, letter) | reply.ending


def _answer(item: Item, output: str, letter: str | None) -> dict:
    correct = None if item.gold is None else letter == item.gold
    return {"output": output, "prediction": letter, "correct": correct}


def _likeliest(logprobs: dict[str, float]) -> str | None:
    whole = all(value == value for value in logprobs.values())
    return max(logprobs, key=logprobs.get) if whole else None


def statistics(records: Sequence[dict]) -> Table:
    """The columns of Table 4, categories and subjects over the records with a gold answer; FAILURES over all.

    Averages weigh every subject alike, as C-Eval's own do; under "chimed_gpt" every item of its two subjects weighs
    alike, as ChiMed-GPT counts. A column without such records is an empty Statistic.
    """
    known = [record for record in records if record["gold"] is not None]
    table: Table = {
        "average": _average(known),
        "average_hard": _average([r for r in known if r["subject"] in HARD]),
    }
    table |= {subject: _accuracy(known, subject) for subject in MEDICAL}
    subjects = sorted({record["subject"] for record in records})
    table["subjects"] = {subject: _accuracy(known, subject) for subject in subjects}
    table["categories"] = categories(known)
    table["chimed_gpt"] = _chimed_gpt(records)
    return table | failures(records, unread)


def _chimed_gpt(records: Sequence[dict]) -> Table:
    mine = [record for record in records if record["subject"] in CHIMED_GPT]
    correct = [record["correct"] for record in mine if record["gold"] is not None]
    return {"accuracy": proportion(correct), **failures(mine, unread)}


def _prompt(item: Item, backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int) -> Prompt:
    subject = item.subject or ""
    if subject not in names:
        near = nearest(subject, names)
        raise QilinError(f"C-Eval subject '{subject}' has no Chinese name{near}; add it to mapping.json")
    examples = dev.get(subject, [])[:shots]

    def build(question: str, left: Sequence[Item]) -> Messages:
        return ceval_messages(question, item, left, names[subject])

    return fit(build, item, examples, REPLY_PREFIX, backend, new_tokens(backend))


def _average(records: Sequence[dict]) -> Statistic:
    return proportion([record["correct"] for record in records], [record["subject"] for record in records])


def _accuracy(records: Sequence[dict], subject: str) -> Statistic:
    return proportion([record["correct"] for record in records if record["subject"] == subject])
