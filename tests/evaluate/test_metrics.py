"""Tokens, BLEU and F1 against sacrebleu and scikit-learn; ROUGE and GLEU: test_variants.py."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import POSITIVE, Statistic, paired, ratio, summary
from qilin_lib.evaluate.metrics import bleu, distinct, f1_rows, f1_weighted, overlaps, perplexity, tokenize

REFERENCES = [
    "口服阿莫西林0.5g，每日3次。注意休息，多饮水。",
    "建议到正规医院做CT检查，明确诊断后再治疗。",
    "高血压患者应低盐饮食，规律服药，定期复查血压。",
    "本题考查胸腔积液的体征，患侧叩诊浊音，呼吸音减弱。",
    "糖尿病足要注意清洁，控制血糖，避免外伤。",
    "小儿发热 38.5℃ 以上可用布洛芬混悬液。",
]


def corrupt(text: str, rng: random.Random) -> str:
    kept = "".join(c for c in text if rng.random() > 0.25)
    return kept[len(kept) // 2 :] + kept[: len(kept) // 2]


RNG = random.Random(0)
PREDICTIONS = [corrupt(text, RNG) for text in REFERENCES[:-1]] + [""]


def tokens(texts: list[str], how: str = "char") -> list[list[str]]:
    return [tokenize(text, how) for text in texts]


def test_char_tokens_are_sacrebleus():
    from sacrebleu.tokenizers.tokenizer_char import TokenizerChar

    for text in REFERENCES:
        assert tokenize(text, "char") == TokenizerChar()(text).split()
    assert tokenize("HbA1c 6.5 %\u3000高", "char") == ["H", "b", "A", "1", "c", "6", ".", "5", "%", "高"]


def test_jieba_tokens_are_words_without_blanks():
    words = tokenize("口服阿莫西林 0.5g", "jieba")
    assert "".join(words) == "口服阿莫西林0.5g" and "口服" in words and "" not in words
    with pytest.raises(QilinError, match="choose one of char, jieba"):
        tokenize("文", "zh")


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("smooth", ["none", "exp"])
@pytest.mark.parametrize("how", ["char", "jieba"])
@pytest.mark.parametrize("take", [slice(0, 6), slice(1, 2), slice(5, 6)])
def test_bleu_is_sacrebleus(order: int, smooth: str, how: str, take: slice):
    from sacrebleu.metrics import BLEU

    ours, theirs = tokens(PREDICTIONS[take], how), tokens(REFERENCES[take], how)
    scorer = BLEU(tokenize="none", max_ngram_order=order, smooth_method=smooth, force=True)
    expected = scorer.corpus_score([" ".join(t) for t in ours], [[" ".join(t) for t in theirs]]).score
    assert bleu(overlaps(ours, theirs).sum(axis=0), order, smooth) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("how", "option"), [("char", "char"), ("jieba", "none")])
def test_bleu_is_what_sacrebleus_command_prints(tmp_path: Path, how: str, option: str):
    # "none" reads our words as they stand; "char" gets the raw text and cuts it itself.
    lines = [text if option == "char" else " ".join(tokenize(text, how)) for text in PREDICTIONS + REFERENCES]
    for name, part in (("ours", lines[: len(PREDICTIONS)]), ("theirs", lines[len(PREDICTIONS) :])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in part), encoding="utf-8")
    command = [sys.executable, "-m", "sacrebleu", tmp_path / "theirs", "-i", tmp_path / "ours", "-b", "-w", "8"]
    command += ["--tokenize", option, "--force"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = bleu(overlaps(tokens(PREDICTIONS, how), tokens(REFERENCES, how)).sum(axis=0), 4)
    assert found == pytest.approx(float(printed), abs=1e-8) and 10 < found < 90


def test_bleu_of_many_sums_at_once_and_an_unknown_smoothing():
    rows = overlaps(tokens(PREDICTIONS), tokens(REFERENCES))
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 3]])
    sums = np.tensordot(weights, rows, axes=1)
    assert bleu(sums, 4) == pytest.approx([float(bleu(one, 4)) for one in sums])
    with pytest.raises(QilinError, match="'exp' or 'none'"):
        bleu(rows[0], 4, "floor")


def test_distinct_by_hand():
    assert distinct(tokens(["好好好好", "一二三"]), 1) == pytest.approx([25, 100])
    assert distinct(tokens(["好好好好", "一"]), 2) == pytest.approx([100 / 3, 0])


@pytest.mark.parametrize("share_unparsed", [0.0, 0.3, 1.0])
def test_weighted_f1_is_scikit_learns_with_unparsed_as_a_class(share_unparsed: float):
    from sklearn.metrics import f1_score

    rng = random.Random(1)
    gold = [rng.choice(["A", "B", "C", "D", "E", "AB", "ABDE"]) for _ in range(300)]
    guess = [None if rng.random() < share_unparsed else rng.choice([g, "A", "CD"]) for g in gold]
    expected = 100 * f1_score(gold, [g or "unparsed" for g in guess], average="weighted", zero_division=0)
    assert f1_weighted(f1_rows(gold, guess).sum(axis=0)) == pytest.approx(expected)


def test_perplexity_is_that_of_all_characters_together() -> None:
    assert summary(perplexity([-2.0, -9.0], [4, 6]), 10, 0)["value"] == pytest.approx(math.exp(11 / 10))


def test_the_interval_of_a_perplexity_is_that_of_its_logarithm() -> None:
    losses, sizes = [310.0, 21.0, 64.0], [50, 6, 10]
    found = summary(perplexity([-loss for loss in losses], sizes), 199, 0)
    per_character = Statistic(np.array([losses, sizes]).T, ratio, bounds=POSITIVE)
    expected = summary(per_character, 199, 0)
    assert found == expected | {end: pytest.approx(math.exp(expected[end])) for end in ("value", "low", "high")}


def test_the_difference_of_two_perplexities_lies_within_its_interval() -> None:
    sizes = [10] * 20
    base, trained = (perplexity([-place * (1 + item % 3 / 10) for item in range(20)], sizes) for place in (60, 20))
    row = paired(base, trained, 199, 0)
    assert row["difference"] < -400 and row["low"] < row["difference"] < row["high"] < 0
