"""Statistics of generated text against references, as CMExam's reasoning and Huatuo-26M's answers need them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from qilin_lib.evaluate.intervals import Statistic, mean_of
from qilin_lib.evaluate.metrics import ORDERS, bleu, distinct, gleu, longest, overlaps, rouge_l, rouge_n, tokenize


def text_statistics(predictions: Sequence[str], references: Sequence[str], tokenisation: str) -> dict[str, Statistic]:
    """bleu_1…4, gleu, rouge_1, rouge_2, rouge_l, distinct_1, distinct_2 of N texts; tokenisation "char" or "jieba"."""
    ours = [tokenize(text, tokenisation) for text in predictions]
    theirs = [tokenize(text, tokenisation) for text in references]
    rows = overlaps(ours, theirs)
    table = {f"bleu_{order}": Statistic(rows, partial(bleu, order=order)) for order in range(1, ORDERS + 1)}
    means = {"gleu": gleu(rows)} | {f"rouge_{order}": rouge_n(rows, order) for order in (1, 2)}
    means["rouge_l"] = rouge_l(longest(ours, theirs))
    means |= {f"distinct_{order}": distinct(ours, order) for order in (1, 2)}
    return table | {name: mean_of(values) for name, values in means.items()}
