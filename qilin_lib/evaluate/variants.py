"""The same answers under other people's metric code: how far a published number depends on it.

Each is our arithmetic on per-item rows, so that its interval costs no second pass over the texts, and is tested against
the code it stands for (tests/evaluate/test_variants.py), whose habits are kept:
  sacrebleu        corpus BLEU, smoothing "exp"; "char" on characters, "jieba" on words with tokenize "none"
  nltk corpus      corpus_bleu without smoothing. A text shorter than the order adds one n-gram that nobody shares, so
                   BLEU-4 of identical texts is below 100 when some have fewer than four tokens.
  nltk sentence    the mean of sentence_bleu with method3 (ChatGLM-6B's ptuning/main.py, LLaMA-Factory's metric.py);
                   the same trap: 84, not 100, for an identical answer of three tokens
  nmt              compute_bleu of tensorflow/nmt's bleu.py, unsmoothed, which CMExam's and Qilin-Med's scripts use
  nltk mean        the mean of sentence_gleu; nltk corpus: corpus_gleu
  rouge-score      Google's, with a tokenizer of ours (its own drops all Chinese and scores the digits that are left)
  rouge-chinese    n-grams as sets on jieba words, 1e-8 in the denominator; raises on an empty text
  CMExam           n-grams as sets on characters, F of ROUGE-L with beta = precision / recall
An empty answer scores 0 under each of them, where the library raises too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from rouge_chinese import Rouge

from qilin_lib.evaluate.intervals import Statistic, mean_of
from qilin_lib.evaluate.metrics import (
    ORDERS,
    TOKENISATIONS,
    bleu,
    bleu_of,
    distinct,
    gleu,
    longest,
    ngrams,
    overlaps,
    rouge_l,
    rouge_n,
    segment,
    tokenize,
)

Tokens = Sequence[Sequence[str]]


def variants(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
    """{"bleu_4 · nltk corpus, jieba": Statistic, …} of N texts, sorted by name: metric, code, tokens."""
    table: dict[str, Statistic] = {}
    for how in TOKENISATIONS:
        ours, theirs = ([tokenize(text, how) for text in texts] for texts in (predictions, references))
        rows, common = overlaps(ours, theirs), longest(ours, theirs)
        means = {f"gleu · nltk mean, {how}": gleu(rows), f"rouge_l · rouge-score, {how}": rouge_l(common)}
        means |= {f"rouge_{order} · rouge-score, {how}": rouge_n(rows, order) for order in (1, 2)}
        means |= {f"distinct_{order} · mean of items, {how}": distinct(ours, order) for order in (1, 2)}
        if how == "char":
            means |= {f"{name} · CMExam, char": values for name, values in _cmexam_rouge(ours, theirs).items()}
        else:
            means |= {f"{name} · rouge-chinese, jieba": values for name, values in _rouge_chinese(ours, theirs).items()}
        table |= {name: mean_of(values) for name, values in means.items()} | _bleus(rows, how)
    return dict(sorted(table.items()))


def cmexam_texts(predictions: Sequence[str], references: Sequence[str], tokenisation: str) -> dict[str, Statistic]:
    """bleu_1, bleu_2, bleu_4, rouge_1, rouge_2, rouge_l of N texts as CMExam's and Qilin-Med's scripts compute them.

    Their tokens are kept too: for BLEU jieba's words with blanks ("jieba") or non-space characters ("char"), for ROUGE
    the characters joined and split at spaces, which makes two empty tokens of a space and one of an empty text.
    """
    ours, theirs = ([_cmexam_tokens(text, tokenisation) for text in texts] for texts in (predictions, references))
    rows = overlaps(ours, theirs)
    table = {f"bleu_{order}": Statistic(rows, partial(bleu, order=order, smooth="none")) for order in (1, 2, 4)}
    ours, theirs = ([" ".join(text).split(" ") for text in texts] for texts in (predictions, references))
    return table | {name: mean_of(values) for name, values in _cmexam_rouge(ours, theirs).items()}


def _cmexam_tokens(text: str, tokenisation: str) -> Sequence[str]:
    return segment(text) if tokenisation == "jieba" else tokenize(text, tokenisation)


def _bleus(rows: np.ndarray, how: str) -> dict[str, Statistic]:
    # nltk counts an n-gram of each order for a text that is too short to have one; lengths stay what they are.
    counted = np.concatenate([rows, np.maximum(1, rows[:, 1:2])], axis=1)
    table: dict[str, Statistic] = {}
    for order in range(1, ORDERS + 1):
        table[f"bleu_{order} · sacrebleu, {how}"] = Statistic(rows, partial(bleu, order=order))
        table[f"bleu_{order} · nmt, {how}"] = Statistic(rows, partial(bleu, order=order, smooth="none"))
        corpus = partial(_nltk_bleu, order=order, smooth="none")
        table[f"bleu_{order} · nltk corpus, {how}"] = Statistic(counted, corpus)
        sentences = mean_of(_nltk_bleu(counted, order, "exp"))
        table[f"bleu_{order} · nltk sentence method3, {how}"] = sentences
    sums = rows.sum(axis=-1)
    pooled = np.stack([sums[:, 0], np.maximum(sums[:, 1], sums[:, 2])], axis=-1)
    return table | {f"gleu · nltk corpus, {how}": Statistic(pooled, _share)}


def _nltk_bleu(sums: np.ndarray, order: int, smooth: str) -> np.ndarray:
    return bleu_of(sums[..., 0, :order], sums[..., 3, :order], sums[..., 1, 0], sums[..., 2, 0], smooth)


def _share(sums: np.ndarray) -> np.ndarray:
    return 100 * sums[..., 0] / np.maximum(1, sums[..., 1])


def _cmexam_rouge(ours: Tokens, theirs: Tokens) -> dict[str, np.ndarray]:
    """rouge_1, rouge_2, rouge_l of each item in percent -> [N]."""
    precision, recall = _precision_recall(longest(ours, theirs))
    beta = precision / (recall + 1e-12)
    weighted = (1 + beta**2) * recall * precision / (recall + beta**2 * precision + 1e-12)
    return {f"rouge_{order}": _f1(_sets(ours, theirs, order)) for order in (1, 2)} | {"rouge_l": 100 * weighted}


def _rouge_chinese(ours: Tokens, theirs: Tokens) -> dict[str, np.ndarray]:
    """rouge_1, rouge_2, rouge_l of each item in percent -> [N]."""
    cut = Rouge().cut_sent  # the library's way into sentences, which cuts a row of seven dots in two
    ours, theirs = ([" ".join(cut(" ".join(tokens))).split() for tokens in texts] for texts in (ours, theirs))
    values = {f"rouge_{order}": _f1(_sets(ours, theirs, order)) for order in (1, 2)}
    return values | {"rouge_l": _f1(longest(ours, theirs))}


def _sets(ours: Tokens, theirs: Tokens, order: int) -> np.ndarray:
    """Different n-grams of each item: shared, in the prediction, in the reference -> [N, 3]."""
    pairs = [(ngrams(a, order).keys(), ngrams(b, order).keys()) for a, b in zip(ours, theirs, strict=True)]
    return np.array([(len(a & b), len(a), len(b)) for a, b in pairs], dtype=float).reshape(-1, 3)


def _precision_recall(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, 0] / np.maximum(1, rows[:, 1]), rows[:, 0] / np.maximum(1, rows[:, 2])


def _f1(rows: np.ndarray) -> np.ndarray:
    precision, recall = _precision_recall(rows)
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)
