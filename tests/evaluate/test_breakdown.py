from __future__ import annotations

import random

import pytest
from sklearn.metrics import accuracy_score, f1_score

from qilin_lib.evaluate.benchmarks.ceval import NO_CATEGORY, categories
from qilin_lib.evaluate.benchmarks.cmexam import NOT_ANNOTATED, groups, statistics
from qilin_lib.evaluate.intervals import summary
from qilin_lib.evaluate.subjects import NAMES


def ceval_record(subject: str, correct: bool | None) -> dict:
    return {"subject": subject, "gold": None if correct is None else "A", "correct": correct}


def cmexam_record(gold: str, prediction: str | None, **columns: str) -> dict:
    texts = {"explanation": "", "reference": ""}
    return {"gold": gold, "prediction": prediction, "correct": gold == prediction, "groups": columns, **texts}


def value(statistic: object) -> float | None:
    return summary(statistic, 50, 0)["value"]


def test_a_category_weighs_each_subject_alike():
    physics = [ceval_record("college_physics", n < 1) for n in range(10)]
    mathematics = [ceval_record("advanced_mathematics", n < 1) for n in range(2)]
    table = categories([*physics, *mathematics, ceval_record("physician", True)])
    # By hand: 1 of 10 and 1 of 2, subjects alike (10 + 50) / 2 = 30; items alike would give 2 / 12 = 16.7.
    assert value(table["stem"]) == pytest.approx(30) and summary(table["stem"], 50, 0)["n"] == 12
    assert value(table["other"]) == 100 and summary(table["other"], 50, 0)["n"] == 1
    assert list(table) == ["stem", "social_science", "humanities", "other"]
    assert value(table["humanities"]) is None and value(table["social_science"]) is None


def test_no_subject_is_dropped_from_the_categories():
    records = [ceval_record(subject, True) for subject in [*NAMES, "tcm", "tcm"]]
    table = categories(records)
    sizes = {name: summary(statistic, 50, 0)["n"] for name, statistic in table.items()}
    assert sizes == {"stem": 20, "social_science": 10, "humanities": 11, "other": 11, NO_CATEGORY: 2}
    assert sum(sizes.values()) == len(records)


def test_every_column_of_groups_adds_up_to_all_records():
    records = [
        cmexam_record("A", "A", department="内科", difficulty="1"),
        cmexam_record("B", "A", department="内科", difficulty="2"),
        cmexam_record("C", "C", department="外科"),
        cmexam_record("AB", None),
        cmexam_record("D", "D"),
    ]
    table = groups(records)
    assert list(table) == ["department", "difficulty"]
    assert list(table["department"]) == ["内科", "外科", NOT_ANNOTATED]
    found = {name: (value(s), len(s.rows)) for name, s in table["department"].items()}
    assert found == {"内科": (50, 2), "外科": (100, 1), NOT_ANNOTATED: (50, 2)}
    assert {name: len(s.rows) for name, s in table["difficulty"].items()} == {"1": 1, "2": 1, NOT_ANNOTATED: 3}
    assert groups([cmexam_record("A", "A")]) == {}


def test_groups_of_a_fully_annotated_file_have_no_rest():
    records = [cmexam_record("A", "A", discipline=name) for name in ("中药学", "临床医学", "中药学")]
    assert {name: len(s.rows) for name, s in groups(records)["discipline"].items()} == {"中药学": 2, "临床医学": 1}


def test_parsed_only_is_scikit_learns_over_the_parsed_rows():
    draw = random.Random(5)
    answers = ["A", "B", "C", "D", "E", "AB", "ACD"]
    records = [cmexam_record(draw.choice(answers), draw.choice([*answers, None, None])) for _ in range(300)]
    table = statistics(records)["parsed_only"]
    parsed = [record for record in records if record["prediction"]]
    gold, predicted = [r["gold"] for r in parsed], [r["prediction"] for r in parsed]
    assert 150 < len(parsed) < 290
    assert value(table["accuracy"]) == pytest.approx(100 * accuracy_score(gold, predicted))
    oracle = f1_score(gold, predicted, average="weighted", zero_division=0)
    assert value(table["f1_weighted"]) == pytest.approx(100 * oracle)
    assert {summary(statistic, 50, 0)["n"] for statistic in table.values()} == {len(parsed)}


def test_parsed_only_without_a_parsed_row_has_no_value():
    table = statistics([cmexam_record("A", None), cmexam_record("B", None)])["parsed_only"]
    empty = {"value": None, "n": 0, "low": None, "high": None}
    assert {name: summary(s, 50, 0) for name, s in table.items()} == {"accuracy": empty, "f1_weighted": empty}
