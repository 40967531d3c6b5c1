"""Near-duplicates against the definition by brute force."""

from __future__ import annotations

import random

import pytest

from qilin_lib.chimed.dedup import band_rows, duplicates, jaccard, signatures
from qilin_lib.chimed.shingles import gram_set


def brute_force(texts, threshold, ngram):
    """First of each connected component of {pairs with Jaccard >= threshold}, by comparing all pairs."""
    sets = [gram_set(text, ngram) for text in texts]
    group = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            if jaccard(sets[one], sets[other]) >= threshold:
                old, new = sorted((group[one], group[other]), reverse=True)
                group = [new if g == old else g for g in group]
    return [None if g == number else g for number, g in enumerate(group)]


def corpus(seed, size):
    """Random texts of which many are edited copies of earlier ones, lightly or heavily."""
    dice = random.Random(seed)
    texts = []
    for _ in range(size):
        if texts and dice.random() < 0.5:
            chars = list(dice.choice(texts))
            for _ in range(dice.choice((0, 1, 2, 4, 8, 20))):
                chars[dice.randrange(len(chars))] = dice.choice("头痛发热咳嗽")
        else:
            chars = [chr(0x4E00 + dice.randrange(3000)) for _ in range(dice.randint(5, 120))]
        texts.append("".join(chars))
    return texts


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_equals_brute_force(seed, threshold):
    texts = corpus(seed, 150)
    assert duplicates(texts, signatures(texts), threshold) == brute_force(texts, threshold, 5)


def test_other_ngram():
    texts = corpus(9, 120)
    assert duplicates(texts, signatures(texts, 3), 0.7, 3) == brute_force(texts, 0.7, 3)


def test_the_first_is_kept_and_empty_texts_are_not_duplicates():
    texts = ["甲乙丙丁戊己", "", "甲乙丙丁戊己", "", "另外一段文字啊"]
    assert duplicates(texts, signatures(texts)) == [None, None, 0, None, None]
    assert duplicates([], signatures([])) == []


def test_signatures_do_not_depend_on_the_batch():
    texts = corpus(5, 600)
    assert (signatures(texts)[590:] == signatures(texts[590:])).all()


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95])
def test_bands_find_a_pair_at_the_threshold(threshold):
    rows = band_rows(threshold)
    assert 128 % rows == 0 and (rows == 1 or 1 - (1 - threshold**rows) ** (128 // rows) >= 0.999)
