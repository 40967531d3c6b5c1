"""Near-duplicates on disk against the definition by brute force."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from qilin_lib.chimed import neardup, sources
from qilin_lib.chimed.neardup import PERMUTATIONS, band_rows, least_agreement, near_duplicates, write_sketch
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.records import Record, content
from qilin_lib.chimed.shingles import gram_set, skeleton


def components(size, pairs):
    """The smallest member of each number's connected component, by relabelling until nothing changes."""
    label = list(range(size))
    for one, other in pairs:
        low, high = sorted((label[one], label[other]))
        if low != high:
            label = [low if old == high else old for old in label]
    return label


def brute_force(texts, threshold, ngram):
    """Components of {equal, not empty} and {Jaccard of n-gram sets >= threshold}, by comparing all pairs."""
    sets = [gram_set(text, ngram) for text in texts]
    alike = []
    for one in range(len(texts)):
        for other in range(one):
            shared = len(sets[one] & sets[other])
            if shared and shared / len(sets[one] | sets[other]) >= threshold:
                alike.append((one, other))
    return components(len(texts), alike)


def corpus(seed, size):
    """Random texts of which many are edited copies of earlier ones, lightly or heavily; some empty."""
    dice = random.Random(seed)
    texts = []
    for _ in range(size):
        if dice.random() < 0.02:
            chars = []
        elif texts and dice.random() < 0.5:
            chars = list(dice.choice(texts))
            for _ in range(dice.choice((0, 1, 2, 4, 8, 20)) if chars else 0):
                chars[dice.randrange(len(chars))] = dice.choice("头痛发热咳嗽")
        else:
            chars = [chr(0x4E00 + dice.randrange(3000)) for _ in range(dice.randint(1, 120))]
        texts.append("".join(chars))
    return texts


def found(folder, texts, threshold=0.7, ngram=5, shard=40, pool=None):
    """What near_duplicates says of `texts`, cut into shards of `shard` records."""
    stems = []
    for start in range(0, len(texts), shard):
        stems.append(folder / f"{len(stems):05d}")
        write_sketch(stems[-1], texts[start : start + shard], ngram)
    said = near_duplicates(folder, stems, threshold, ngram, pool or Pool(1), lambda line: None)
    assert said.dtype == np.int64
    return said.tolist()


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("threshold, ngram", [(0.5, 5), (0.7, 5), (0.8, 5), (1.0, 5), (0.7, 1), (0.7, 3), (0.7, 8)])
@pytest.mark.parametrize("seed", range(2))
def test_equals_brute_force(tmp_path, monkeypatch, seed, threshold, ngram, large):
    """Also in the chunks and blocks of large corpora, at limits so low that a small one needs many."""
    for name, value in {"CHUNK": 30, "COMPARED": 3, "GRAMS": 3000}.items() if large else ():
        monkeypatch.setattr(neardup, f"_{name}", value)
    texts = corpus(seed, 150)
    assert found(tmp_path, texts, threshold, ngram) == brute_force(texts, threshold, ngram)


def test_texts_around_one_template_equal_brute_force(tmp_path):
    """Similarities on both sides of the threshold, in buckets of many members."""
    dice = random.Random(4)
    template = "".join(chr(0x4E00 + number) for number in range(120))
    texts = [
        template + "".join(chr(0x5E00 + dice.randrange(9000)) for _ in range(dice.choice((22, 26, 30))))
        for _ in range(300)
    ]
    truth = brute_force(texts, 0.7, 5)
    assert 20 < len(set(truth)) < 280
    assert found(tmp_path, texts) == truth


def test_beyond_its_reach_a_bucket_joins_the_first_and_neighbours_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(neardup, "REACH", 3)
    copies = ["".join(chr(0x4E00 + 7 * at % 997 + (at == edited)) for at in range(90)) for edited in range(60)]
    assert found(tmp_path, copies) == [0] * 60
    texts = corpus(2, 300)
    truth = brute_force(texts, 0.5, 5)
    said = found(tmp_path, texts, 0.5)
    assert all(truth[number] == truth[first] for number, first in enumerate(said))
    assert len(set(said)) <= 1.1 * len(set(truth))


def test_the_first_is_named_and_empty_texts_are_not_duplicates(tmp_path):
    texts = ["甲乙丙丁戊己", "", "甲乙丙丁戊己", "", "另外一段文字啊"]
    assert found(tmp_path, texts, shard=2) == [0, 1, 0, 3, 4]
    assert found(tmp_path, []) == []
    write_sketch(tmp_path / "none", [], 5)
    assert near_duplicates(tmp_path, [tmp_path / "none"], 0.7, 5, Pool(1), print).tolist() == []
    assert found(tmp_path, ["", ""]) == [0, 1]


def test_workers_and_shards_do_not_change_the_result(tmp_path):
    texts = corpus(3, 400)
    alone = found(tmp_path / "alone", texts, 0.7, shard=400)
    with Pool(2) as pool:
        assert found(tmp_path / "shared", texts, 0.7, shard=37, pool=pool) == alone


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_a_pair_at_the_threshold_is_found(threshold):
    """Bands and least agreement together, by simulated signatures."""
    rows, bands = band_rows(threshold), PERMUTATIONS // band_rows(threshold)
    agree = np.random.default_rng(0).random((40_000, PERMUTATIONS)) < threshold
    shared = agree[:, : rows * bands].reshape(-1, bands, rows).all(axis=2).any(axis=1)
    assert (shared & (agree.sum(axis=1) >= least_agreement(threshold))).mean() >= 0.989
    # One row more would be too many.
    assert rows == PERMUTATIONS or (1 - threshold ** (rows + 1)) ** (PERMUTATIONS // (rows + 1)) > 0.009


def test_recall_and_precision_on_real_texts(tmp_path):
    """Real records of all sources, 30 % of them edited copies of others, against all pairs, in other code than ours."""
    raw, dice, count = os.environ.get("QILIN_RAW_DIR"), random.Random(11), 5000
    if not raw:
        pytest.skip("QILIN_RAW_DIR names no raw folder: no real text to compare")
    from sklearn.feature_extraction.text import CountVectorizer

    reads = (unit.read for one in sources.REGISTRY for unit in sources.units(one, Path(raw), sources.TRAINING_SETS))
    texts = [text for read in reads if isinstance(read, Record) if (text := skeleton(content(read.payload)))]
    texts = dice.sample(texts, count)
    letters = "".join(texts)
    for place in dice.sample(range(count), 3 * count // 10):
        chars = list(dice.choice(texts))
        for _ in range(int(len(chars) * dice.uniform(0, 0.06))):
            chars[dice.randrange(len(chars))] = dice.choice(letters)
        texts[place] = "".join(chars)
    grams = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, lowercase=False, dtype=np.int32)
    table = grams.fit_transform(texts)
    sizes = np.asarray(table.sum(axis=1)).ravel()
    shared = (table @ table.T).tocoo()
    similar = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data) >= 0.7
    pairs = [(one, other) for one, other in zip(shared.row[similar], shared.col[similar], strict=True) if one < other]
    truth = np.array(components(len(texts), pairs))
    said = np.array(found(tmp_path, texts, 0.7, 5, shard=1000))

    together, put_together = np.equal.outer(truth, truth), np.equal.outer(said, said)
    removed, taken = truth != np.arange(len(truth)), said != np.arange(len(said))
    assert removed.sum() > 500
    for right, ours in ((np.triu(together, 1), np.triu(put_together, 1)), (removed, taken)):
        hits = (right & ours).sum()
        print(f"recall {hits}/{right.sum()}, precision {hits}/{ours.sum()}")
        assert hits >= 0.98 * right.sum()
        assert hits >= 0.99 * ours.sum()
