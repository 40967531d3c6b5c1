"""ChiMed-GPT's own metrics: BLEU against nltk, ROUGE against numbers of the package rouge, C-Eval against counting."""

from __future__ import annotations

import csv
import json
import os
import warnings
from itertools import product
from pathlib import Path

import pytest
from nltk.translate.bleu_score import corpus_bleu

from qilin_lib.evaluate.benchmarks import ceval
from qilin_lib.evaluate.intervals import Statistic
from qilin_lib.evaluate.scores import compare, summarise
from qilin_lib.evaluate.variants import README_METRICS, TRUE_BLEU, spaced, variants

CASES = json.loads((Path(__file__).parent / "chimed_gpt_cases.json").read_text(encoding="utf-8"))
ROWS = CASES["pairs"]
READABLE = [row for row in ROWS if row["rouge_1_2_l"] is not None]
ROUGE = [README_METRICS[name] for name in ("R-1", "R-2", "R-L")]
WEIGHTS = {
    TRUE_BLEU["BLEU-1, spaced string"]: (1.0,),
    README_METRICS["B-1"]: (0.5, 0.5),
    README_METRICS["B-2"]: (0.333, 0.333, 0.334),
}


def value(table: dict[str, Statistic], name: str) -> float:
    return float(table[name].value(table[name].rows.sum(axis=0)))


def measured(rows: list[dict]) -> dict[str, Statistic]:
    return variants([row["prediction"] for row in rows], [row["reference"] for row in rows])


def nltk(ours: list[str], theirs: list[str], weights: tuple[float, ...]) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of every order without a match
        return 100 * corpus_bleu([[text] for text in theirs], ours, weights)


def test_every_string_is_spaced_as_chimed_gpt_spaces_it() -> None:
    for row in ROWS:
        assert [spaced(row["prediction"]), spaced(row["reference"])] == row["spaced"]
    assert spaced(" CT示血压120mmHg。\n") == "CT 示  血  压 120mmHg 。 "
    # Its ranges take a dash and a quote for Chinese, but not a character beyond the basic plane.
    assert spaced("“a”—b·c𠀀") == " “ a ”  — b·c𠀀"


@pytest.mark.parametrize("name", WEIGHTS)
def test_bleu_is_nltks_on_the_raw_strings(name: str) -> None:
    ours, theirs = zip(*(row["spaced"] for row in ROWS), strict=True)
    assert value(measured(ROWS), name) == pytest.approx(nltk(list(ours), list(theirs), WEIGHTS[name]), abs=1e-9)
    for row in ROWS:
        a, b = row["spaced"]
        assert value(measured([row]), name) == pytest.approx(nltk([a], [b], WEIGHTS[name]), abs=1e-9)


def test_what_the_readme_calls_bleu_1_is_no_bleu_1() -> None:
    table = measured(ROWS)
    ours, theirs = ([text for text in column] for column in zip(*(row["spaced"] for row in ROWS), strict=True))
    readme, true = value(table, README_METRICS["B-1"]), value(table, TRUE_BLEU["BLEU-1, spaced string"])
    assert readme == pytest.approx(nltk(ours, theirs, (0.5, 0.5))) and true - readme > 1
    assert value(table, README_METRICS["B-2"]) == pytest.approx(nltk(ours, theirs, (1 / 3,) * 3), abs=0.05)
    for order in (1, 2):
        tokens = [[[c for c in row[side] if c.strip()] for row in ROWS] for side in ("prediction", "reference")]
        expected = nltk(*tokens, (1 / order,) * order)
        assert value(table, TRUE_BLEU[f"BLEU-{order}, characters"]) == pytest.approx(expected)


def test_every_name_says_the_true_order() -> None:
    assert [name.split(" · ")[0] for name in README_METRICS.values()] == [
        *("bleu_2", "bleu_3", "rouge_1", "rouge_2", "rouge_l")
    ]
    assert [name.split(" · ")[0] for name in TRUE_BLEU.values()] == ["bleu_1", "bleu_1", "bleu_2"]
    assert not set(README_METRICS.values()) & set(TRUE_BLEU.values())


def test_rouge_is_the_package_rouges() -> None:
    for row in READABLE:
        assert [value(measured([row]), name) for name in ROUGE] == pytest.approx(row["rouge_1_2_l"], abs=1e-9)
    found = [value(measured(READABLE), name) for name in ROUGE]
    assert found == pytest.approx(CASES["average_rouge_1_2_l_without_null"], abs=1e-9)


def test_where_the_package_raises_the_answer_is_worth_nothing() -> None:
    silent = [row for row in ROWS if row["rouge_1_2_l"] is None]
    assert [row["prediction"].strip() for row in silent] == ["", "", "..."]
    for row in silent:
        assert [value(measured([row]), name) for name in ROUGE] == [0, 0, 0]


def table_of_lengths(a: list[str], b: list[str]) -> list[list[int]]:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, j in product(range(1, len(a) + 1), range(1, len(b) + 1)):
        same = a[i - 1] == b[j - 1]
        table[i][j] = table[i - 1][j - 1] + 1 if same else max(table[i - 1][j], table[i][j - 1])
    return table


def words_in_common(a: list[str], b: list[str], table: list[list[int]], tie_to_a: bool) -> set[str]:
    """The textbook's way back through the table; `tie_to_a`: of two ways of the same length drop a word of `a`."""
    i, j, taken = len(a), len(b), set()
    while i and j:
        up, left = table[i - 1][j], table[i][j - 1]
        if a[i - 1] == b[j - 1]:
            taken.add(a[i - 1])
            i, j = i - 1, j - 1
        elif up > left or (tie_to_a and up == left):
            i -= 1
        else:
            j -= 1
    return taken


def test_rouge_l_rests_on_the_package_s_choice_among_longest_subsequences() -> None:
    """The other choice gives other numbers on some of these pairs, so that the fixture can tell them apart."""
    differing = 0
    for row in (row for row in READABLE if "." not in row["prediction"] + row["reference"]):
        said, wanted = (text.split() for text in row["spaced"])
        sizes, table = len(set(said)) + len(set(wanted)), table_of_lengths(wanted, said)
        its, other = (len(words_in_common(wanted, said, table, tie)) for tie in (False, True))
        assert 200 * its / sizes == pytest.approx(row["rouge_1_2_l"][2], abs=1e-5)
        differing += its != other
    assert differing >= 1


def test_long_answers_are_measured_too() -> None:
    """The package's own search is recursive and gives up on texts of a few hundred characters."""
    text = "患者应卧床休息，多饮水，按时服药。" * 60
    table = variants([text], [text])
    assert value(table, README_METRICS["R-L"]) == pytest.approx(100, abs=1e-5)
    assert value(table, README_METRICS["B-2"]) == pytest.approx(100)


# --- C-Eval as ChiMed-GPT counts it -----------------------------------------------------------------------------------


def exam(subject: str, right: int, wrong: int, unread: int = 0) -> list[dict]:
    answers = ["A"] * right + ["B"] * wrong + [None] * unread
    return [{"subject": subject, "gold": "A", "prediction": p, "correct": p == "A"} for p in answers]


def test_ceval_of_chimed_gpt_pools_the_items_of_two_subjects() -> None:
    records = exam("clinical_medicine", 3, 7) + exam("basic_medicine", 1, 0, 1) + exam("physician", 20, 0)
    scores = summarise(ceval.statistics(records), 50, 0)["chimed_gpt"]
    assert set(scores) == {"accuracy", "unparsed", "cut", "error"}
    assert (scores["accuracy"]["value"], scores["accuracy"]["n"]) == (pytest.approx(100 * 4 / 12), 12)
    assert (scores["unparsed"]["value"], scores["unparsed"]["n"]) == (pytest.approx(100 / 12), 12)


def test_hidden_answers_and_other_subjects_leave_it_empty() -> None:
    hidden = [row | {"gold": None, "correct": None} for row in exam("clinical_medicine", 2, 1)]
    scores = summarise(ceval.statistics(hidden + exam("law", 2, 2)), 50, 0)["chimed_gpt"]
    assert scores["accuracy"] == {"value": None, "n": 0, "low": None, "high": None}
    assert scores["unparsed"]["n"] == 3


def test_it_adds_no_paired_test() -> None:
    tables = {name: ceval.statistics(exam("clinical_medicine", 6, 4)) for name in ("base", "dcpt")}
    assert "chimed_gpt" not in {row["metric"] for row in compare("ceval", tables, 50, 0)}


@pytest.mark.skipif(not os.environ.get("QILIN_RAW_DIR"), reason="QILIN_RAW_DIR names no folder of real data")
def test_the_real_validation_split_has_41_such_items() -> None:
    folder = Path(os.environ["QILIN_RAW_DIR"]) / "ceval" / "val"
    counts = {}
    for subject in ceval.CHIMED_GPT:
        with (folder / f"{subject}_val.csv").open(encoding="utf-8-sig", newline="") as file:
            counts[subject] = sum(1 for _ in csv.DictReader(file))
    assert counts == {"basic_medicine": 19, "clinical_medicine": 22}
