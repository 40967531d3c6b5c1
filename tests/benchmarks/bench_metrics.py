"""All text metrics of 6,000 answer pairs with their intervals, one thread; the plain library loops on 300 of them.

Run by hand or by `make bench`. First what the evaluation of Huatuo-26M pays: main metrics, the variants under
other people's code, 1,000 resamples. The second sets our arithmetic beside the libraries' on the same tokens: the two
must agree, and their ratio is what carries over to another machine.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy: one thread is what a process of the evaluation has

import random
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from nltk.translate.gleu_score import sentence_gleu
from rouge_chinese import Rouge
from rouge_score import rouge_scorer, tokenizers
from sacrebleu.metrics import BLEU

from qilin_lib.evaluate import metrics
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items, statistics
from qilin_lib.evaluate.intervals import summary
from qilin_lib.evaluate.metrics import text_statistics
from qilin_lib.evaluate.scores import summarise
from qilin_lib.evaluate.variants import variants
from qilin_lib.sample import raw_dir

PAIRS, CHARACTERS, LIBRARY_PAIRS, RESAMPLES = 6000, 119, 300, 1000


class Given(tokenizers.Tokenizer):
    """Tokens as they are: blank-separated."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def pairs() -> tuple[list[str], list[str]]:
    """Different references of 119 characters in the mean, glued from the sample's, and copies with a fifth dropped."""
    items, _ = huatuo_items(raw_dir())
    dice = random.Random(17)
    clauses = [clause for item in items for clause in item.reference.replace("。", "，").split("，") if clause]
    references = []
    for _ in range(PAIRS):
        wanted, text = dice.expovariate(1 / (CHARACTERS - 10)) + 5, ""
        while len(text) < wanted:
            text += dice.choice(clauses) + "，"
        references.append(text[:-1] + "。")
    return ["".join(c for c in text if dice.random() > 0.2) for text in references], references


def timed(name: str, work: Callable[[], object]) -> tuple[float, object]:
    """CPU seconds, printed beside the wall's: the first are less moved by what else runs on the machine."""
    cpu, wall = time.process_time(), time.perf_counter()
    value = work()
    seconds = time.process_time() - cpu
    print(f"{name:<44} {seconds:7.2f} s CPU {time.perf_counter() - wall:7.2f} s wall")
    return seconds, value


def everything(ours: list[str], theirs: list[str]) -> float:
    """Seconds of all that one model's answers cost, with the parts."""
    mean = np.mean([len(text) for text in theirs])
    print(f"{len(ours):,} pairs, references of {mean:.0f} characters in the mean, {RESAMPLES:,} resamples")
    timed("load jieba", lambda: metrics.tokenize("高血压", "jieba"))
    parts = [timed("jieba, each text once", lambda: [metrics.segment(text) for text in ours + theirs])[0]]
    parts.append(timed("rows of the main metrics, char", lambda: text_statistics(ours, theirs, "char"))[0])
    seconds, table = timed("rows of the 58 variants", lambda: variants(ours, theirs))
    parts.append(seconds)
    first = next(iter(table.values()))
    parts.append(timed("draw of the resamples", lambda: summary(first, RESAMPLES, 0))[0])
    for name in ("bleu_4 · sacrebleu, char", "gleu · nltk mean, char", "rouge_l · rouge-score, char"):
        timed(f"  interval of {name}", partial(summary, table[name], RESAMPLES, 0))
    parts.append(timed("intervals of the variants", lambda: summarise(table, RESAMPLES, 0))[0])
    print(f"{'sum':<44} {sum(parts):7.2f} s CPU\n")
    records = [{"output": a, "reference": b} for a, b in zip(ours, theirs, strict=True)]
    metrics.segment.cache_clear()
    return timed("Huatuo-26M as evaluated, from texts", lambda: summarise(statistics(records), RESAMPLES, 0))[0]


def beside(name: str, library: Callable[[], object], own: Callable[[], object]) -> None:
    slow, expected = timed(name, library)
    fast, found = timed("ours", own)
    assert np.allclose(expected, found), "the two must agree before their times mean anything"
    print(f"ratio {slow / fast:.1f}\n")


def libraries(ours: list[list[str]], theirs: list[list[str]]) -> None:
    """Values alone, without intervals, on the same tokens."""
    texts = [(" ".join(a), " ".join(b)) for a, b in zip(ours, theirs, strict=True)]
    scorer, method3 = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Given()), SmoothingFunction().method3
    columns = [[a for a, _ in texts], [[b for _, b in texts]]]

    def bleu(smooth: str) -> float:
        return float(metrics.bleu(metrics.overlaps(ours, theirs).sum(axis=0), 4, smooth))

    sacre = BLEU(tokenize="none", force=True)
    beside("sacrebleu, BLEU-4", lambda: sacre.corpus_score(*columns).score, partial(bleu, "exp"))
    beside("nltk, corpus BLEU-4", lambda: 100 * corpus_bleu([[b] for b in theirs], ours), partial(bleu, "none"))
    beside(
        "nltk, GLEU",
        lambda: [100 * sentence_gleu([b], a) for a, b in zip(ours, theirs, strict=True)],
        lambda: metrics.gleu(metrics.overlaps(ours, theirs)),
    )
    beside(
        "rouge-score, ROUGE-L",
        lambda: [100 * scorer.score(b, a)["rougeL"].fmeasure for a, b in texts],
        lambda: metrics.rouge_l(metrics.longest(ours, theirs)),
    )
    beside(
        "rouge-chinese, ROUGE-L",
        lambda: [100 * Rouge(["rouge-l"]).get_scores(a, b)[0]["rouge-l"]["f"] for a, b in texts],
        lambda: metrics.rouge_l(metrics.longest(ours, theirs)),
    )
    beside(
        "nltk, mean of sentence BLEU-4, method3",
        lambda: [100 * sentence_bleu([b], a, smoothing_function=method3) for a, b in zip(ours, theirs, strict=True)],
        lambda: metrics.bleu(metrics.overlaps(ours, theirs), 4),
    )


def main() -> None:
    warnings.simplefilter("ignore")
    ours, theirs = pairs()
    seconds = everything(ours, theirs)
    print(f"{'within 60 s' if seconds <= 60 else 'NOT within 60 s'}\n\n{LIBRARY_PAIRS} pairs, characters")
    libraries(*([metrics.tokenize(text, "char") for text in texts[:LIBRARY_PAIRS]] for texts in (ours, theirs)))


if __name__ == "__main__":
    main()
