"""ROUGE-L and GLEU of 300 answer pairs: our per-item arithmetic against rouge-score and nltk, same tokens, same run.

Run by hand or by `make bench`. Prints seconds, and the ratio, which is what carries over to another machine.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from nltk.translate.gleu_score import sentence_gleu
from rouge_score import rouge_scorer, tokenizers

from qilin_lib.evaluate import metrics
from qilin_lib.evaluate.items import huatuo_items
from qilin_lib.sample.render import raw_dir


class Given(tokenizers.Tokenizer):
    """Tokens as they are: blank-separated."""

    def tokenize(self, text: str) -> list[str]:
        return text.split()


def pairs() -> tuple[list[list[str]], list[list[str]]]:
    """References of the sample's Huatuo-like test set, three times, and copies with a fifth of the tokens dropped."""
    with tempfile.TemporaryDirectory() as folder:
        items, _ = huatuo_items(raw_dir(Path(folder)))
    dice = random.Random(17)
    references = [metrics.tokenize(item.reference, "char") for item in items] * 3
    return [[t for t in tokens if dice.random() > 0.2] for tokens in references], references


def timed(name: str, work: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    value = work()
    seconds = time.perf_counter() - started
    print(f"{name:<28} {seconds:7.2f} s")
    return seconds, value


def main() -> None:
    ours, theirs = pairs()
    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Given())
    texts = [(" ".join(b), " ".join(a)) for a, b in zip(ours, theirs, strict=True)]
    slow, expected = timed("rouge-score, ROUGE-L", lambda: [100 * scorer.score(*t)["rougeL"].fmeasure for t in texts])
    fast, found = timed("ours, ROUGE-L", lambda: metrics.rouge_l(ours, theirs))
    assert np.allclose(expected, found), "the two must agree before their times mean anything"
    print(f"ratio {slow / fast:.1f}\n")
    slow, expected = timed(
        "nltk, GLEU", lambda: [100 * sentence_gleu([b], a) for a, b in zip(ours, theirs, strict=True)]
    )
    fast, found = timed("ours, GLEU", lambda: metrics.gleu(metrics.overlaps(ours, theirs)))
    assert np.allclose(expected, found), "the two must agree before their times mean anything"
    print(f"ratio {slow / fast:.1f}")


if __name__ == "__main__":
    main()
