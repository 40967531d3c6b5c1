"""Huatuo-26M's test questions (Li et al. 2023, arXiv 2305.01526): a patient asks, the model answers (Table 6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from qilin_lib.evaluate.backends import Progress
from qilin_lib.evaluate.intervals import Statistic
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Prompt, fit, huatuo_messages
from qilin_lib.evaluate.scores import summarise
from qilin_lib.evaluate.texts import text_statistics


def prompts(items: Sequence[Item], backend: Any, max_new_tokens: int) -> list[Prompt]:
    """The question as the user's message, nothing forced."""
    return [fit(lambda question, _: huatuo_messages(question), item, (), "", backend, max_new_tokens) for item in items]


def run(
    items: Sequence[Item],
    asked: Sequence[Prompt],
    backend: Any,
    model_name: str,
    max_new_tokens: int,
    progress: Progress | None = None,
) -> Iterator[dict]:
    """Records of the `fixed` protocol: `output` is the answer, `reference` the gold one."""
    outputs = backend.generate([prompt.ids for prompt in asked], max_new_tokens, progress)
    for item, prompt, output in zip(items, asked, outputs, strict=True):
        yield {
            "id": item.id,
            "benchmark": "huatuo",
            "model": model_name,
            "split": item.split,
            "protocol": "fixed",
            "template": backend.template.name,
            "prompt": prompt.text,
            "output": output,
            "reference": item.reference,
            "truncated": prompt.truncated,
        }


def statistics(records: Sequence[dict], tokenisation: str = "char") -> dict[str, Statistic]:
    """BLEU-1…4, GLEU, ROUGE-1/2/L and distinct-1/2 over all records."""
    return text_statistics([r["output"] for r in records], [r["reference"] for r in records], tokenisation)


def score(records: Sequence[dict], tokenisation: str = "char", resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
    """One model's entry of scores.json."""
    return summarise(statistics(records, tokenisation), resamples, seed)
