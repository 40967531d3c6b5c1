"""Per-item statistics of the metrics. Every corpus figure is a function of sums of these rows, which makes it exact and
lets the bootstrap (intervals.py) resample items without recomputing a text.

Choices that the papers leave open: corpus BLEU on the named tokens, smoothed as sacrebleu does by default ("exp", felt
only when an order has no match at all); ROUGE F1 and GLEU averaged over items; distinct-n within each item, averaged
(over a whole corpus it falls with the number of items, and values near 0.8 as in Huatuo-26M's table could not occur).
"""

from __future__ import annotations

import functools
import logging
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence

import numpy as np

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import POSITIVE, Statistic, mean_of, ratio

ORDERS = 4
TOKENISATIONS = ("char", "jieba")


def tokenize(text: str, how: str) -> list[str]:
    """Tokens of a text.

    "char": every non-space character, Latin letters and digits too (what sacrebleu's `char` does); "jieba": jieba's
    default segmentation without blanks (Latin and digit runs stay whole). Raises QilinError for another name.
    """
    if how == "char":
        return [character for character in text if not character.isspace()]
    if how == "jieba":
        return [word for word in segment(text) if not word.isspace()]
    raise QilinError(f"tokenisation '{how}' is not known; choose one of {', '.join(TOKENISATIONS)}")


@functools.lru_cache(maxsize=1 << 15)
def segment(text: str) -> tuple[str, ...]:
    """jieba's default segmentation, blanks included. Kept for 32,768 texts: the models share their references."""
    return tuple(map(sys.intern, _jieba().cut(text)))


def text_statistics(predictions: Sequence[str], references: Sequence[str], tokenisation: str) -> dict[str, Statistic]:
    """bleu_1…4, gleu, rouge_1, rouge_2, rouge_l, distinct_1, distinct_2 of N texts; tokenisation "char" or "jieba"."""
    ours, theirs = ([tokenize(text, tokenisation) for text in texts] for texts in (predictions, references))
    rows = overlaps(ours, theirs)
    means = {"gleu": gleu(rows)} | {f"rouge_{order}": rouge_n(rows, order) for order in (1, 2)}
    means["rouge_l"] = rouge_l(longest(ours, theirs))
    means |= {f"distinct_{order}": distinct(ours, order) for order in (1, 2)}
    table = {f"bleu_{order}": Statistic(rows, functools.partial(bleu, order=order)) for order in range(1, ORDERS + 1)}
    return table | {name: mean_of(values) for name, values in means.items()}


def perplexity(logprobs: Sequence[float], characters: Sequence[int]) -> Statistic:
    """Perplexity per character of N texts together, given the natural log-probability and length of each.

    Per character, not per token: models with other tokenizers can stand beside each other.
    """
    rows = np.stack([-np.asarray(logprobs, dtype=float), np.asarray(characters, dtype=float)], axis=-1)
    return Statistic(rows, ratio, bounds=POSITIVE, shown=np.exp)


def overlaps(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> np.ndarray:
    """N-gram overlap of each item, orders 1-4: shared (clipped), predicted and reference n-grams -> [N, 3, 4]."""
    rows = np.zeros((len(predictions), 3, ORDERS))
    for row, predicted, reference in zip(rows, predictions, references, strict=True):
        for order in range(1, ORDERS + 1):
            ours, theirs = ngrams(predicted, order), ngrams(reference, order)
            row[:, order - 1] = (ours & theirs).total(), ours.total(), theirs.total()
    return rows


def bleu(sums: np.ndarray, order: int, smooth: str = "exp", counted: int = 1) -> np.ndarray:
    """Corpus BLEU-`order` in percent of summed overlaps [..., 3, 4] -> [...] (Papineni et al. 2002; sacrebleu's).

    `smooth`: "exp" (the k-th order without a match counts 1/2^k matches, NIST) or "none" (such an order makes it 0).
    `counted`: the row that holds the n-grams that a precision is out of; lengths are those of rows 1 and 2.
    """
    matches, totals = sums[..., 0, :order], sums[..., counted, :order]
    if smooth == "exp":
        empty = matches == 0
        matches = np.where(empty, 0.5 ** np.cumsum(empty, axis=-1), matches)
        found = ~empty[..., 0]
    elif smooth == "none":
        found = matches[..., 0] > 0
    else:
        raise QilinError(f"BLEU smoothing '{smooth}' is not known; choose 'exp' or 'none'")
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(matches / totals).mean(axis=-1))
        brevity = np.exp(np.minimum(0.0, 1 - sums[..., 2, 0] / sums[..., 1, 0]))
        return np.where(found & (totals > 0).all(axis=-1), 100 * precision * brevity, 0.0)


def gleu(rows: np.ndarray) -> np.ndarray:
    """GLEU of each item in percent: overlaps [N, 3, 4] -> [N] (Wu et al. 2016; NLTK's, as Huatuo-26M used)."""
    shared, predicted, reference = np.moveaxis(rows.sum(axis=-1), -1, 0)
    return 100 * shared / np.maximum(1, np.maximum(predicted, reference))


def rouge_n(rows: np.ndarray, order: int) -> np.ndarray:
    """F1 of ROUGE-`order` of each item in percent: overlaps [N, 3, 4] -> [N] (Lin 2004; Google's rouge_score)."""
    shared, predicted, reference = np.moveaxis(rows[..., order - 1], -1, 0)
    return 100 * 2 * shared / np.maximum(1, predicted + reference)


def longest(predictions: Sequence[Sequence[str]], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Length in tokens of each item's longest common subsequence, of its prediction and its reference -> [N, 3]."""
    rows = []
    for ours, theirs in zip(predictions, references, strict=True):
        (last,) = deque(subsequences(ours, theirs), maxlen=1)
        rows.append((len(ours) - last.bit_count(), len(ours), len(theirs)))
    return np.array(rows, dtype=float).reshape(-1, 3)


def rouge_l(rows: np.ndarray) -> np.ndarray:
    """F1 of ROUGE-L of each item in percent: `longest` [N, 3] -> [N] (Lin 2004; Google's rouge_score, only faster)."""
    return 100 * 2 * rows[:, 0] / np.maximum(1, rows[:, 1] + rows[:, 2])


def distinct(predictions: Sequence[Sequence[str]], order: int) -> np.ndarray:
    """Different n-grams per n-gram of each item in percent -> [N] (Li et al. 2016); 0 for an item without n-grams."""
    counts = [ngrams(predicted, order) for predicted in predictions]
    return np.array([100 * len(count) / max(1, count.total()) for count in counts])


def ngrams(tokens: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """How often each n-gram of `order` tokens occurs."""
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def f1_rows(gold: Sequence[str], predicted: Sequence[str | None]) -> np.ndarray:
    """Sufficient statistics of weighted F1: for each class hits, gold and predicted counts -> [N, 3 C].

    All rows count; an unparsed prediction (None) is a class of its own that no gold answer belongs to.
    """
    classes = {name: index for index, name in enumerate(sorted(set(gold) | {name or "" for name in predicted}))}
    rows = np.zeros((len(gold), 3, len(classes)))
    for row, truth, guess in zip(rows, gold, predicted, strict=True):
        row[0, classes[truth]] = truth == guess
        row[1, classes[truth]] = 1
        row[2, classes[guess or ""]] = 1
    return rows.reshape(len(gold), 3 * len(classes))


def f1_weighted(sums: np.ndarray) -> np.ndarray:
    """Weighted F1 in percent from summed rows [..., 3 C] -> [...] (scikit-learn's average="weighted")."""
    hits, truth, guess = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
    f1 = 2 * hits / np.maximum(1, truth + guess)
    return 100 * (f1 * truth).sum(axis=-1) / truth.sum(axis=-1)


def subsequences(a: Sequence[str], b: Sequence[str]) -> Iterator[int]:
    """Rows of the table of lengths of the longest common subsequence, each a big integer (Hyyro 2004): bit i of row j
    is 0 where the i + 1 first tokens of `a` share one more with the j first of `b` than the i first do."""
    places: dict[str, int] = {}
    for index, token in enumerate(a):
        places[token] = places.get(token, 0) | 1 << index
    full = row = (1 << len(a)) - 1
    yield row
    for token in b:
        hit = row & places.get(token, 0)
        row = (row + hit | row - hit) & full
        yield row


@functools.cache
def _jieba():  # noqa: ANN202 - a module
    import jieba

    jieba.setLogLevel(logging.WARNING)
    return jieba
