"""Each variant against the code it stands for: libraries here, the authors' scripts by numbers they gave elsewhere."""

from __future__ import annotations

import json
import math
import random
import time
import warnings
from pathlib import Path

import jieba
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu, sentence_bleu
from nltk.translate.gleu_score import corpus_gleu, sentence_gleu
from rouge_chinese import Rouge
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU

from qilin_lib.evaluate.benchmarks.huatuo import statistics
from qilin_lib.evaluate.scores import summarise
from qilin_lib.evaluate.variants import cmexam_texts, variants

CASES = json.loads((Path(__file__).parent / "variants_cases.json").read_text(encoding="utf-8"))
PAIRS = [(case["prediction"], case["reference"]) for case in CASES["pairs"]]
SPACED = [(case["prediction"], case["reference"]) for case in CASES["spaced"]]
PREDICTIONS, REFERENCES = [list(column) for column in zip(*PAIRS, strict=True)]
each_how = pytest.mark.parametrize("how", ["char", "jieba"])
each_order = pytest.mark.parametrize("order", [1, 2, 3, 4])


def value(table: dict, name: str) -> float:
    return float(table[name].value(table[name].rows.sum(axis=0)))


def cut(text: str, how: str) -> list[str]:
    """Tokens without the code under test."""
    return [token for token in (text if how == "char" else jieba.lcut(text)) if token.strip()]


def noisy(seed: int, n: int = 60) -> tuple[list[str], list[str]]:
    """References glued from the fixture's clauses and copies with tokens lost: some empty, some very short."""
    dice = random.Random(seed)
    clauses = [clause for text in REFERENCES + PREDICTIONS for clause in text.replace("。", "，").split("，") if clause]
    references = ["，".join(dice.choices(clauses, k=dice.randint(1, 5))) + dice.choice("。！？") for _ in range(n)]
    references[:4] = ["是", "不是", "多喝水", "头痛……"]
    predictions = ["".join(c for c in text if dice.random() > dice.choice([0, 0.3, 0.9])) for text in references]
    predictions[4:6] = ["", "  "]
    return predictions, references


@pytest.fixture(scope="module", params=["fixture", 1, 2])
def texts(request: pytest.FixtureRequest) -> tuple[list[str], list[str]]:
    return (PREDICTIONS, REFERENCES) if request.param == "fixture" else noisy(request.param)


@pytest.fixture(scope="module")
def table(texts: tuple[list[str], list[str]]) -> dict:
    return variants(*texts)


@pytest.fixture
def quiet() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nltk warns of every order without a match
        yield


@each_how
@each_order
def test_sacrebleu(texts: tuple, table: dict, how: str, order: int):
    ours, theirs = ([" ".join(cut(text, how)) for text in column] for column in texts)
    scorer = BLEU(tokenize="none", max_ngram_order=order, force=True)
    assert value(table, f"bleu_{order} · sacrebleu, {how}") == pytest.approx(scorer.corpus_score(ours, [theirs]).score)


@each_how
@each_order
def test_nltk_bleu(texts: tuple, table: dict, how: str, order: int, quiet: None):
    ours, theirs = ([cut(text, how) for text in column] for column in texts)
    weights, method3 = (1 / order,) * order, SmoothingFunction().method3
    corpus = 100 * corpus_bleu([[text] for text in theirs], ours, weights)
    assert value(table, f"bleu_{order} · nltk corpus, {how}") == pytest.approx(corpus, abs=1e-9)
    sentences = [sentence_bleu([b], a, weights, method3) for a, b in zip(ours, theirs, strict=True)]
    found = value(table, f"bleu_{order} · nltk sentence method3, {how}")
    assert found == pytest.approx(100 * math.fsum(sentences) / len(sentences), abs=1e-9)


@each_how
def test_nltk_gleu(texts: tuple, table: dict, how: str):
    ours, theirs = ([cut(text, how) for text in column] for column in texts)
    sentences = [sentence_gleu([b], a) for a, b in zip(ours, theirs, strict=True)]
    assert value(table, f"gleu · nltk mean, {how}") == pytest.approx(100 * math.fsum(sentences) / len(sentences))
    assert value(table, f"gleu · nltk corpus, {how}") == pytest.approx(100 * corpus_gleu([[b] for b in theirs], ours))


class Ours:
    """rouge-score takes any object with `tokenize`."""

    def __init__(self, how: str):
        self.how = how

    def tokenize(self, text: str) -> list[str]:
        return cut(text, self.how)


@each_how
def test_rouge_score(texts: tuple, table: dict, how: str):
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=Ours(how))
    scores = [scorer.score(reference, prediction) for prediction, reference in zip(*texts, strict=True)]
    for kind, name in (("rouge1", "rouge_1"), ("rouge2", "rouge_2"), ("rougeL", "rouge_l")):
        expected = 100 * math.fsum(score[kind].fmeasure for score in scores) / len(scores)
        assert value(table, f"{name} · rouge-score, {how}") == pytest.approx(expected)


def test_rouge_chinese(texts: tuple, table: dict):
    words = [[" ".join(cut(text, "jieba")) for text in pair] for pair in zip(*texts, strict=True)]
    # The library raises where a text is empty; such an answer scores 0 here.
    scores = [Rouge().get_scores(*pair)[0] if all(pair) else None for pair in words]
    for kind, name in (("rouge-1", "rouge_1"), ("rouge-2", "rouge_2"), ("rouge-l", "rouge_l")):
        expected = 100 * math.fsum(score[kind]["f"] for score in scores if score) / len(scores)
        assert value(table, f"{name} · rouge-chinese, jieba") == pytest.approx(expected, abs=1e-9)
    with pytest.raises(ValueError, match="Hypothesis is empty"):
        Rouge().get_scores("", "高 血压")


def test_nmt_and_cmexam_are_the_authors_numbers():
    table = variants(PREDICTIONS, REFERENCES)
    for how in ("char", "jieba"):
        for name, expected in CASES["corpus"][how].items():
            assert value(table, f"{name} · nmt, {how}") == pytest.approx(expected, abs=1e-6)
    for name, expected in CASES["corpus"]["rouge"].items():
        assert value(table, f"{name} · CMExam, char") == pytest.approx(expected, abs=1e-6)
    for case in CASES["pairs"]:
        one = variants([case["prediction"]], [case["reference"]])
        found = [value(one, f"rouge_{kind} · CMExam, char") for kind in "12l"]
        assert found == pytest.approx(case["rouge_1_2_l"], abs=1e-6)
        found = [value(one, f"bleu_4 · nmt, {how}") for how in ("char", "jieba")]
        # The authors' code divides by zero (null) where an answer is empty; ours gives 0.
        assert found == pytest.approx([number or 0 for number in case["nmt_4_char_jieba"]], abs=1e-6)
    # One order without a match makes it 0: this is not sacrebleu's smoothed BLEU.
    assert value(variants(["天气好热"], ["天气不热"]), "bleu_4 · nmt, char") == 0
    assert value(variants(["天气好热"], ["天气不热"]), "bleu_4 · sacrebleu, char") > 20


@each_how
def test_cmexam_texts_keep_the_authors_blanks_and_empty_tokens(how: str):
    ours, theirs = [list(column) for column in zip(*(PAIRS + SPACED), strict=True)]
    table = cmexam_texts(ours, theirs, how)
    expected = CASES["corpus_with_spaced"][how] | CASES["corpus_with_spaced"]["rouge"]
    assert {name: value(table, name) for name in table} == pytest.approx({n: expected[n] for n in table}, abs=1e-6)
    assert list(table) == ["bleu_1", "bleu_2", "bleu_4", "rouge_1", "rouge_2", "rouge_l"]
    for case in CASES["spaced"]:
        one = cmexam_texts([case["prediction"]], [case["reference"]], how)
        assert [value(one, f"rouge_{k}") for k in "12l"] == pytest.approx(case["rouge_1_2_l"], abs=1e-6)


def test_identical_chinese_text_is_100_under_every_variant():
    same = [text for text in REFERENCES if len(cut(text, "jieba")) >= 4]
    found = {name: value(table, name) for table in [variants(same, same)] for name in table if "distinct" not in name}
    assert len(found) == 54 and len(same) >= 8
    # 1e-8 in the denominators of rouge-chinese and CMExam
    assert found == pytest.approx(dict.fromkeys(found, 100.0), abs=1e-6)


def test_an_empty_answer_is_0_under_every_variant():
    for empty in ("", " \n"):
        table = variants([empty], ["患者应卧床休息。"])
        assert {value(table, name) for name in table} == {0.0}


def test_variants_have_intervals_and_stand_in_huatuos_scores():
    records = [{"output": a, "reference": b} for a, b in PAIRS * 4]
    found = summarise(statistics(records), 100, 0)["variants"]
    assert len(found) == 58 and list(found) == sorted(found)
    assert all(entry["low"] < entry["value"] < entry["high"] and entry["n"] == 48 for entry in found.values())


def test_reading_is_linear_in_the_full_stops_of_both_texts():
    one, other = ("".join(f"{n}.{word}" for n in range(1500)) for word in "甲乙")
    started = time.perf_counter()
    variants([one], [other])
    assert time.perf_counter() - started < 4
