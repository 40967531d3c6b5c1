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
  ChiMed-GPT       generate.py of IDEA-CCNL/Fengshenbang-LM, branch dev_bio: a space on both sides of every character it
                   takes for Chinese. BLEU is nltk's corpus_bleu on that STRING, so that its tokens are characters and
                   spaces, with weights (.5, .5) and (.333, .333, .334): BLEU-2 and BLEU-3, where its README has BLEU-1
                   and BLEU-2 (README_METRICS). ROUGE is the package rouge 1.0.1's average over the words of the string:
                   sets of n-grams, sentences cut at every ".", ROUGE-L the union of the words of one longest common
                   subsequence for each pair of sentences. Which one, where there are several, moves the number.
An empty answer scores 0 under each of them, where the library raises too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from rouge_chinese import Rouge

from qilin_lib.evaluate.intervals import Statistic, mean_of
from qilin_lib.evaluate.metrics import (
    ORDERS,
    TOKENISATIONS,
    bleu,
    longest,
    ngrams,
    overlaps,
    segment,
    subsequences,
    text_statistics,
    tokenize,
)

Tokens = Sequence[Sequence[str]]
OURS = {"bleu": "sacrebleu", "gleu": "nltk mean", "rouge": "rouge-score", "distinct": "mean of items"}
"""Whose metrics `text_statistics` are."""

README_METRICS = {
    "B-1": "bleu_2 · ChiMed-GPT (README: BLEU-1), spaced char",
    "B-2": "bleu_3 · ChiMed-GPT (README: BLEU-2), spaced char",
    "R-1": "rouge_1 · ChiMed-GPT, spaced char",
    "R-2": "rouge_2 · ChiMed-GPT, spaced char",
    "R-L": "rouge_l · ChiMed-GPT, spaced char",
}
"""ChiMed-GPT's README's name of a metric -> the variant that its code computes (FACTS 5.3)."""
TRUE_BLEU = {
    "BLEU-1, spaced string": "bleu_1 · ChiMed-GPT (not in its README), spaced char",
    "BLEU-1, characters": "bleu_1 · nltk corpus, char",
    "BLEU-2, characters": "bleu_2 · nltk corpus, char",
}
"""What those names ought to be: BLEU-1 of the same string, BLEU-1 and BLEU-2 of its characters without the spaces.
BLEU-2 of the same string is the README's B-1."""
# What ChiMed-GPT's chinese_char_tokenize takes for Chinese. Its ranges beyond the basic plane are written as \u, which
# reads four digits, so they cover U+2001-2A6D: dashes, typographic quotes, units and arrows are spaced as well.
_CHINESE = re.compile(
    "[\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31ef\u3200-\u4db5\u4e00-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef]"
)


def variants(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
    """{"bleu_4 · nltk corpus, jieba": Statistic, …} of N texts, sorted by name: metric, code, tokens."""
    table: dict[str, Statistic] = {}
    for how in TOKENISATIONS:
        own = text_statistics(predictions, references, how)
        table |= {f"{name} · {OURS[name.split('_')[0]]}, {how}": statistic for name, statistic in own.items()}
        table |= _bleus(own["bleu_1"].rows, how)
        ours, theirs = ([tokenize(text, how) for text in texts] for texts in (predictions, references))
        if how == "char":
            means = {f"{name} · CMExam, char": values for name, values in _cmexam_rouge(ours, theirs).items()}
        else:
            cut = Rouge().cut_sent  # the library's way into sentences, which cuts a row of seven dots in two
            ours, theirs = ([" ".join(cut(" ".join(one))).split() for one in texts] for texts in (ours, theirs))
            means = {f"rouge_{order} · rouge-chinese, jieba": _f1(_sets(ours, theirs, order)) for order in (1, 2)}
            means["rouge_l · rouge-chinese, jieba"] = _f1(longest(ours, theirs))
        table |= {name: mean_of(values) for name, values in means.items()}
    return dict(sorted((table | _chimed_gpt(predictions, references)).items()))


def spaced(text: str) -> str:
    """A text as ChiMed-GPT's metrics see it: stripped, a space on both sides of what they take for Chinese."""
    return _CHINESE.sub(r" \g<0> ", text.strip())


def cmexam_texts(predictions: Sequence[str], references: Sequence[str], tokenisation: str) -> dict[str, Statistic]:
    """bleu_1, bleu_2, bleu_4, rouge_1, rouge_2, rouge_l of N texts as CMExam's and Qilin-Med's scripts compute them.

    Their tokens are kept too: for BLEU jieba's words with blanks ("jieba") or non-space characters ("char"), for ROUGE
    the characters joined and split at spaces, which makes two empty tokens of a space and one of an empty text.
    """
    cut = segment if tokenisation == "jieba" else partial(tokenize, how=tokenisation)
    ours, theirs = ([cut(text) for text in texts] for texts in (predictions, references))
    rows = overlaps(ours, theirs)
    table = {f"bleu_{order}": Statistic(rows, partial(bleu, order=order, smooth="none")) for order in (1, 2, 4)}
    ours, theirs = ([" ".join(text).split(" ") for text in texts] for texts in (predictions, references))
    return table | {name: mean_of(values) for name, values in _cmexam_rouge(ours, theirs).items()}


def _chimed_gpt(predictions: Sequence[str], references: Sequence[str]) -> dict[str, Statistic]:
    ours, theirs = ([spaced(text) for text in texts] for texts in (predictions, references))
    rows = overlaps(ours, theirs)
    counted = np.concatenate([rows, np.maximum(1, rows[:, 1:2])], axis=1)
    one, two, three = ((1.0,), (0.5, 0.5), (0.333, 0.333, 0.334))
    names = {TRUE_BLEU["BLEU-1, spaced string"]: one, README_METRICS["B-1"]: two, README_METRICS["B-2"]: three}
    table = {name: Statistic(counted, partial(_weighted_bleu, weights=weights)) for name, weights in names.items()}
    ours, theirs = ([_sentences(text) for text in texts] for texts in (ours, theirs))
    words, wanted = ([sum(sentences, []) for sentences in texts] for texts in (ours, theirs))
    # Words in a common subsequence, different words of the prediction, of the reference.
    united = np.zeros((len(ours), 3))
    for row, said, known in zip(united, ours, theirs, strict=True):
        row[:] = len(_united(known, said)), len(set().union(*said)), len(set().union(*known))
    rouge = {f"R-{order}": _sets(words, wanted, order) for order in (1, 2)} | {"R-L": united}
    return table | {README_METRICS[name]: mean_of(_f1(found)) for name, found in rouge.items()}


def _weighted_bleu(sums: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """nltk's BLEU in percent with a weight for each order, of sums [..., 4, 4] -> [...]; 0 if an order has no match."""
    matches, counted = sums[..., 0, : len(weights)], sums[..., 3, : len(weights)]
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp((np.log(matches / counted) * np.asarray(weights)).sum(axis=-1))
        brevity = np.exp(np.minimum(0.0, 1 - sums[..., 2, 0] / sums[..., 1, 0]))
        return np.where((matches > 0).all(axis=-1), 100 * precision * brevity, 0.0)


def _sentences(text: str) -> list[list[str]]:
    """Sentences of words as the package rouge cuts them; one of blanks alone holds one empty word."""
    return [" ".join(part.split()).split(" ") for part in text.split(".") if part]


def _united(known: Tokens, said: Tokens) -> set[str]:
    """Words of one longest common subsequence of every two sentences; two without a word to add are not compared."""
    holding: dict[str, list[Sequence[str]]] = {}
    for sentence in said:
        for word in set(sentence):
            holding.setdefault(word, []).append(sentence)
    union: set[str] = set()
    for sentence in known:
        for word in sentence:
            for other in holding.get(word, ()):
                if word in union:
                    break
                union.update(_subsequence(sentence, other))
    return union


def _subsequence(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    """Words of that longest common subsequence of two sentences which the package rouge picks, the last one first."""
    rows = list(subsequences(a, b))
    i, j = len(a), len(b)
    while i and j:
        low = (1 << i) - 1
        if a[i - 1] == b[j - 1]:
            yield a[i - 1]
            i, j = i - 1, j - 1
        # Of two ways of the same length the package drops a word of `b`. Lengths are i less the ones of a row.
        elif (rows[j - 1] & low).bit_count() > (rows[j] & low >> 1).bit_count() + 1:
            i -= 1
        else:
            j -= 1


def _bleus(rows: np.ndarray, how: str) -> dict[str, Statistic]:
    # nltk counts an n-gram of each order for a text that is too short to have one; lengths stay what they are.
    counted = np.concatenate([rows, np.maximum(1, rows[:, 1:2])], axis=1)
    table: dict[str, Statistic] = {}
    for order in range(1, ORDERS + 1):
        table[f"bleu_{order} · nmt, {how}"] = Statistic(rows, partial(bleu, order=order, smooth="none"))
        corpus = partial(bleu, order=order, smooth="none", counted=3)
        table[f"bleu_{order} · nltk corpus, {how}"] = Statistic(counted, corpus)
        sentences = mean_of(bleu(counted, order, counted=3))
        table[f"bleu_{order} · nltk sentence method3, {how}"] = sentences
    sums = rows.sum(axis=-1)
    pooled = np.stack([sums[:, 0], np.maximum(sums[:, 1], sums[:, 2])], axis=-1)
    return table | {
        f"gleu · nltk corpus, {how}": Statistic(pooled, lambda sums: 100 * sums[..., 0] / np.maximum(1, sums[..., 1]))
    }


def _cmexam_rouge(ours: Tokens, theirs: Tokens) -> dict[str, np.ndarray]:
    """rouge_1, rouge_2, rouge_l of each item in percent -> [N]."""
    precision, recall = _precision_recall(longest(ours, theirs))
    beta = precision / (recall + 1e-12)
    weighted = (1 + beta**2) * recall * precision / (recall + beta**2 * precision + 1e-12)
    return {f"rouge_{order}": _f1(_sets(ours, theirs, order)) for order in (1, 2)} | {"rouge_l": 100 * weighted}


def _sets(ours: Tokens, theirs: Tokens, order: int) -> np.ndarray:
    """Different n-grams of each item: shared, in the prediction, in the reference -> [N, 3]."""
    pairs = [(ngrams(a, order).keys(), ngrams(b, order).keys()) for a, b in zip(ours, theirs, strict=True)]
    return np.array([(len(a & b), len(a), len(b)) for a, b in pairs], dtype=float).reshape(-1, 3)


def _precision_recall(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return rows[:, 0] / np.maximum(1, rows[:, 1]), rows[:, 0] / np.maximum(1, rows[:, 2])


def _f1(rows: np.ndarray) -> np.ndarray:
    precision, recall = _precision_recall(rows)
    return 100 * 2 * precision * recall / (precision + recall + 1e-8)
