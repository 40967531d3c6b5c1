"""C-Eval (Huang et al. 2023, arXiv 2305.08322): 52 subjects, five dev shots, the likeliest of A-D (Table 4)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.backends import Progress
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, ceval_messages, fit
from qilin_lib.evaluate.scores import Table, summarise
from qilin_lib.evaluate.subjects import HARD, MEDICAL


def prompts(
    items: Sequence[Item], backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int
) -> list[Prompt]:
    """One prompt an item, with the first `shots` dev examples of its subject, fewer where the context is too short.

    Raises QilinError when a subject has fewer dev examples than `shots`, or no Chinese name.
    """
    return [_prompt(item, backend, dev, names, shots) for item in items]


def run(
    items: Sequence[Item], asked: Sequence[Prompt], backend: Any, model_name: str, progress: Progress | None = None
) -> Iterator[dict]:
    """Records of the `fixed` protocol: the log-probabilities of A-D and the likeliest one (the first of equals)."""
    scores = backend.choice_logprobs([prompt.ids for prompt in asked], list(CEVAL_LETTERS), REPLY_PREFIX, progress)
    for item, prompt, logprobs in zip(items, asked, scores, strict=True):
        prediction = max(logprobs, key=logprobs.get) if all(value == value for value in logprobs.values()) else None
        yield {
            "id": item.id,
            "benchmark": "ceval",
            "model": model_name,
            "split": item.split,
            "protocol": "fixed",
            "template": backend.template.name,
            "subject": item.subject,
            "prompt": prompt.text,
            "output": "",
            "reference": item.reference,
            "gold": item.gold,
            "prediction": prediction,
            "correct": None if item.gold is None else prediction == item.gold,
            "scores": logprobs,
            "shots": prompt.shots,
            "truncated": prompt.truncated,
        }


def statistics(records: Sequence[dict]) -> Table:
    """The columns of Table 4 and each subject over the records with a gold answer; `unparsed` over all records.

    Averages weigh every subject alike, as C-Eval's own do. A column without such records is an empty Statistic.
    """
    known = [record for record in records if record["gold"] is not None]
    table: Table = {
        "average": _average(known),
        "average_hard": _average([r for r in known if r["subject"] in HARD]),
    }
    table |= {subject: _accuracy(known, subject) for subject in MEDICAL}
    subjects = sorted({record["subject"] for record in records})
    table["subjects"] = {subject: _accuracy(known, subject) for subject in subjects}
    return table | {"unparsed": proportion([record["prediction"] is None for record in records])}


def score(records: Sequence[dict], resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """One model's entry of scores.json."""
    return summarise(statistics(records), resamples, seed)


def _prompt(item: Item, backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int) -> Prompt:
    subject = item.subject or ""
    if subject not in names:
        near = nearest(subject, names)
        raise QilinError(f"C-Eval subject '{subject}' has no Chinese name{near}; add it to mapping.json")
    examples = dev.get(subject, [])[:shots]
    if len(examples) < shots:
        raise QilinError(f"C-Eval subject '{subject}' has {len(examples)} dev examples, fewer than shots = {shots}")

    def build(question: str, left: Sequence[Item]) -> Messages:
        return ceval_messages(question, item, left, names[subject])

    return fit(build, item, examples, REPLY_PREFIX, backend, new_tokens=0)


def _average(records: Sequence[dict]) -> Statistic:
    return proportion([record["correct"] for record in records], [record["subject"] for record in records])


def _accuracy(records: Sequence[dict], subject: str) -> Statistic:
    return proportion([record["correct"] for record in records if record["subject"] == subject])
