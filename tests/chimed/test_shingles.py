"""Skeletons and grams."""

from __future__ import annotations

import random

import pytest

from qilin_lib.chimed.shingles import gram_hashes_many, skeleton


def gram_hashes(bones, size):
    return gram_hashes_many([bones], size)[0]


def test_skeleton_folds_width_case_and_punctuation():
    assert skeleton("Ｂ超  检查，____（HBsAg）。\n") == "b超检查hbsag" == skeleton("b超检查 hbsag")
    assert skeleton("…… !?") == ""


@pytest.mark.parametrize("size", [1, 2, 5, 30])
def test_hashes_of_many_are_those_of_each(size):
    dice = random.Random(2)
    texts = ["".join(dice.choice("甲乙丙ab𠮷") for _ in range(length)) for length in (0, 7, 1, 0, 4, 5, 6, 80, 0)]
    hashes, offsets = gram_hashes_many(texts, size)
    assert len(offsets) == len(texts) + 1 and offsets[-1] == len(hashes)
    for number, text in enumerate(texts):
        assert hashes[offsets[number] : offsets[number + 1]].tolist() == gram_hashes(text, size).tolist()
    assert [len(part) for part in gram_hashes_many([], size)] == [0, 1]
    assert [len(part) for part in gram_hashes_many(["", ""], size)] == [0, 3]
