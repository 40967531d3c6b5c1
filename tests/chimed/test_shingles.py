"""Skeletons and grams."""

from __future__ import annotations

import random

import numpy as np

from qilin_lib.chimed.shingles import gram_hashes, gram_set, skeleton


def test_skeleton_folds_width_case_and_punctuation():
    assert skeleton("Ｂ超  检查，____（HBsAg）。\n") == "b超检查hbsag" == skeleton("b超检查 hbsag")
    assert skeleton("…… !?") == ""


def test_hashes_are_as_distinct_as_the_grams():
    dice = random.Random(1)
    for length in (0, 1, 4, 5, 6, 500):
        bones = "".join(dice.choice("甲乙丙ab𠮷") for _ in range(length))
        grams = gram_set(bones, 5)
        assert len(np.unique(gram_hashes(bones, 5))) == len(grams)
        assert all(len(gram) == 5 for gram in grams) or length < 5


def test_hashes_do_not_depend_on_where_the_gram_stands():
    one, other = gram_hashes("甲乙丙丁戊己", 3), gram_hashes("xyz乙丙丁", 3)
    assert one[1] == other[3]
