from __future__ import annotations

import random

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks import ceval, cmexam, huatuo
from qilin_lib.evaluate.intervals import mean_of, proportion, summary
from qilin_lib.evaluate.replies import FAILURES
from qilin_lib.evaluate.scores import adjust, compare, same_items, summarise


def ceval_record(subject: str, gold: str | None, prediction: str | None) -> dict:
    correct = None if gold is None else gold == prediction
    return {"subject": subject, "gold": gold, "prediction": prediction, "correct": correct}


def test_ceval_columns():
    records = [
        ceval_record("physician", "A", "A"),
        ceval_record("physician", "B", "A"),
        ceval_record("advanced_mathematics", "C", "C"),
        ceval_record("law", None, "D"),
        ceval_record("law", None, None),
    ]
    scores = summarise(ceval.statistics(records), 50, 0)
    assert (scores["average"]["value"], scores["average"]["n"]) == (75.0, 3)
    assert scores["average_hard"]["value"] == 100.0 and scores["physician"]["value"] == 50.0
    assert scores["clinical_medicine"] == {"value": None, "n": 0, "low": None, "high": None}
    assert set(scores["subjects"]) == {"physician", "advanced_mathematics", "law"}
    assert scores["subjects"]["law"]["n"] == 0
    assert (scores["unparsed"]["value"], scores["unparsed"]["n"]) == (20.0, 5)


def cmexam_record(gold: str, prediction: str | None, explanation: str, reference: str) -> dict:
    return {
        "gold": gold,
        "prediction": prediction,
        "correct": gold == prediction,
        "explanation": explanation,
        "reference": reference,
        "groups": {},
    }


def test_cmexam_counts_unparsed_as_wrong_and_reasoning_over_explained_rows():
    records = [
        cmexam_record("A", "A", "浊音见于积液。", "浊音见于积液。"),
        cmexam_record("B", None, "", "略去不谈"),
        cmexam_record("ABD", "ABD", "有解释", ""),
        cmexam_record("C", "A", "因为", "因为所以"),
    ]
    scores = summarise(cmexam.statistics(records), 50, 0)
    assert scores["accuracy"]["value"] == 50.0 and scores["unparsed"]["value"] == 25.0
    assert scores["accuracy"]["n"] == 4 and scores["rouge_l"]["n"] == scores["bleu_4"]["n"] == 3
    assert scores["parsed_only"]["accuracy"] == pytest.approx(summarise({"a": proportion([1, 1, 0])}, 9, 0)["a"])
    perfect = summarise(cmexam.statistics([cmexam_record("E", "E", "解释一致吗", "解释一致吗")]), 20, 0)
    columns = [entry for name, entry in perfect.items() if name not in FAILURES and "value" in entry]
    assert len(columns) == 7 and all(entry["value"] == pytest.approx(100) for entry in columns)


def test_huatuo_columns():
    records = [{"output": "多喝水", "reference": "多喝水"}, {"output": "", "reference": "休息"}]
    scores = summarise(huatuo.statistics(records), 30, 0)
    assert scores["rouge_l"]["value"] == 50.0 and scores["rouge_l"]["n"] == 2
    records = [{"output": "多喝热水", "reference": "多喝开水"}]
    words, characters = (summarise(huatuo.statistics(records, how), 30, 0) for how in ("jieba", "char"))
    assert words["rouge_1"]["value"] < characters["rouge_1"]["value"] == 75.0


def test_compared_are_stages_the_whole_chain_and_every_baseline_with_its_end():
    tables = {
        name: {"accuracy": proportion([n > k for n in range(9)]), "unparsed": proportion([])}
        for k, name in enumerate(["dpo", "base", "sft", "other"])
    }
    rows = compare("cmexam", tables, 50, 0)
    pairs = [(r["model_a"], r["model_b"], r["metric"]) for r in rows]
    wanted = [("base", "sft"), ("sft", "dpo"), ("base", "dpo"), ("other", "dpo")]
    assert pairs == [(*pair, "accuracy") for pair in wanted]
    assert set(rows[0]) == {"benchmark", "metric", "model_a", "model_b", "n", "difference", "low", "high", "p"}
    assert rows[0]["difference"] < 0 < rows[1]["difference"]


def test_scores_depend_on_the_seed_alone_and_not_on_the_order_of_models():
    rng = np.random.default_rng(0)
    names, values = ["base", "dcpt", "sft"], rng.exponential(20, (3, 60))

    def tables(order: list[str]) -> dict:
        return {
            name: {"rouge_l": mean_of(values[names.index(name)]), "accuracy": proportion(values[0] > 9)}
            for name in order
        }

    forth, back = tables(names), tables(names[::-1])
    # Other sizes in between: what the draw keeps must not leak from one to the next.
    first = {name: summarise(forth[name], 200, 3) for name in forth}
    rows = compare("huatuo", forth, 200, 3)
    summarise({"a": mean_of(values[0, :17])}, 200, 3)
    assert compare("huatuo", back, 200, 3) == rows
    assert {name: summarise(back[name], 200, 3) for name in back} == first
    assert compare("huatuo", forth, 200, 4) != rows


def test_p_values_of_a_run_are_adjusted_over_all_its_rows():
    rows = [{"benchmark": "ceval", "p": 0.01}, {"benchmark": "cmexam", "p": 0.2}, {"benchmark": "huatuo", "p": 0.02}]
    found = adjust(rows)
    assert [row["p_adjusted"] for row in found] == pytest.approx([0.03, 0.2, 0.04])
    assert [row["p"] for row in found] == [0.01, 0.2, 0.02] and "p_adjusted" not in rows[0] and adjust([]) == []


def test_different_items_cannot_be_paired():
    with pytest.raises(QilinError, match="'sft' and 'base' answered different items"):
        same_items("huatuo", {"base": [{"id": "1"}], "sft": [{"id": "2"}]})


def test_a_metric_that_is_not_a_number_names_the_item_of_the_record() -> None:
    table = {"rouge_l": mean_of([1.0, float("nan"), 2.0])}
    with pytest.raises(QilinError, match="rouge_l: item h-7 .*nan"):
        summarise(table, 50, 0, ["h-3", "h-7", "h-9"])


# --- break-downs ------------------------------------------------------------------------------------------------------


def annotated(gold: str, prediction: str | None, **columns: str) -> dict:
    return cmexam_record(gold, prediction, "", "") | {"groups": columns}


def value(statistic: object) -> float | None:
    return summary(statistic, 50, 0)["value"]


def test_a_category_weighs_each_subject_alike():
    physics = [ceval_record("college_physics", "A", "AB"[n > 0]) for n in range(10)]
    mathematics = [ceval_record("advanced_mathematics", "A", "AB"[n > 0]) for n in range(2)]
    records = [*physics, *mathematics, ceval_record("physician", "A", "A")]
    table = ceval.statistics(records)["categories"]
    # By hand: 1 of 10 and 1 of 2, subjects alike (10 + 50) / 2 = 30; items alike would give 2 / 12 = 16.7.
    assert value(table["stem"]) == pytest.approx(30) and summary(table["stem"], 50, 0)["n"] == 12
    assert value(table["other"]) == 100 and summary(table["other"], 50, 0)["n"] == 1
    assert list(table) == ["stem", "social_science", "humanities", "other"]
    assert value(table["humanities"]) is None and value(table["social_science"]) is None


def test_every_column_of_groups_adds_up_to_all_records():
    records = [
        annotated("A", "A", department="内科", difficulty="1"),
        annotated("B", "A", department="内科", difficulty="2"),
        annotated("C", "C", department="外科"),
        annotated("AB", None),
        annotated("D", "D"),
    ]
    table = cmexam.groups(records)
    assert list(table) == ["department", "difficulty"]
    assert list(table["department"]) == ["内科", "外科", cmexam.NOT_ANNOTATED]
    found = {name: (value(s), len(s.rows)) for name, s in table["department"].items()}
    assert found == {"内科": (50, 2), "外科": (100, 1), cmexam.NOT_ANNOTATED: (50, 2)}
    assert {name: len(s.rows) for name, s in table["difficulty"].items()} == {"1": 1, "2": 1, cmexam.NOT_ANNOTATED: 3}
    assert cmexam.groups([annotated("A", "A")]) == {}


def test_parsed_only_is_scikit_learns_over_the_parsed_rows():
    draw = random.Random(5)
    answers = ["A", "B", "C", "D", "E", "AB", "ACD"]
    records = [annotated(draw.choice(answers), draw.choice([*answers, None, None])) for _ in range(300)]
    table = cmexam.statistics(records)["parsed_only"]
    parsed = [record for record in records if record["prediction"]]
    gold, predicted = [r["gold"] for r in parsed], [r["prediction"] for r in parsed]
    assert 150 < len(parsed) < 290
    assert value(table["accuracy"]) == pytest.approx(100 * accuracy_score(gold, predicted))
    oracle = f1_score(gold, predicted, average="weighted", zero_division=0)
    assert value(table["f1_weighted"]) == pytest.approx(100 * oracle)
    assert {summary(statistic, 50, 0)["n"] for statistic in table.values()} == {len(parsed)}


def test_a_metric_that_one_model_lacks_is_compared_with_nothing():
    tables = {"base": {"bleu": mean_of([1.0, 2.0, 3.0]), "perplexity": mean_of([2.0, 3.0, 4.0])}}
    tables |= {"sft": {"bleu": mean_of([2.0, 3.0, 5.0])}, "GPT": {"bleu": mean_of([2.0, 2.0, 2.0])}}
    assert {row["metric"] for row in compare("huatuo", tables, 50, 0)} == {"bleu"}
