"""Huatuo-26M's test questions (Li et al. 2023, arXiv 2305.01526): a patient asks, the model answers (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import Prompt, fit, huatuo_messages
from qilin_lib.evaluate.replies import failures, spoken, unsaid
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.texts import text_statistics
from qilin_lib.evaluate.variants import variants


def prompts(items: Sequence[Item], backend: Any, max_new_tokens: int) -> list[Prompt]:
    """The question as the user's message, nothing forced."""
    return [fit(lambda question, _: huatuo_messages(question), item, (), "", backend, max_new_tokens) for item in items]


def answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any, max_new_tokens: int) -> list[dict]:
    """`output` is the answer; `items` are not looked at, every answer is measured against its reference later."""
    return [{"output": reply.text, **reply.ending} for reply in backend.generate(asked, max_new_tokens)]


def statistics(records: Sequence[dict], how: str = "char") -> Table:
    """BLEU-1…4, GLEU, ROUGE-1/2/L and distinct-1/2 over all records, and FAILURES; `how`: the tokens, "char" or
    "jieba". Thoughts are left out.

    Under "variants" the same answers measured by other people's metric code.
    """
    written, wanted = [spoken(record["output"]) for record in records], [record["reference"] for record in records]
    return text_statistics(written, wanted, how) | failures(records, unsaid) | {"variants": variants(written, wanted)}
