from __future__ import annotations

import numpy as np
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks import ceval, cmexam, huatuo
from qilin_lib.evaluate.intervals import mean_of, proportion
from qilin_lib.evaluate.replies import FAILURES, Reply
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
    assert set(scores) == {
        "average",
        "average_hard",
        "clinical_medicine",
        "physician",
        "basic_medicine",
        "subjects",
        "categories",
        "chimed_gpt",
        "unparsed",
        "cut",
        "error",
    }
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
    assert set(scores) == {
        "accuracy",
        "f1_weighted",
        "unparsed",
        "cut",
        "error",
        "bleu_1",
        "bleu_4",
        "rouge_1",
        "rouge_2",
        "rouge_l",
        "parsed_only",
        "groups",
    }
    assert scores["accuracy"]["value"] == 50.0 and scores["unparsed"]["value"] == 25.0
    assert scores["accuracy"]["n"] == 4 and scores["rouge_l"]["n"] == scores["bleu_4"]["n"] == 3
    assert scores["parsed_only"]["accuracy"] == pytest.approx(summarise({"a": proportion([1, 1, 0])}, 9, 0)["a"])
    perfect = summarise(cmexam.statistics([cmexam_record("E", "E", "解释一致吗", "解释一致吗")]), 20, 0)
    columns = [entry for name, entry in perfect.items() if name not in FAILURES and "value" in entry]
    assert len(columns) == 7 and all(entry["value"] == pytest.approx(100) for entry in columns)


def test_cmexam_reads_the_answer_before_the_explanation():
    options = {"A": "肺不张", "B": "肺实变", "C": "胸腔积液", "D": "肺气肿"}
    assert cmexam.read_reply(Reply("ABC。\n解释：D错，故选D以外者。", forced=True), options) == (
        "ABC",
        "D错，故选D以外者。",
    )
    assert cmexam.read_reply(Reply("见下\n解释：综上答案为B。", forced=True), options) == ("B", "综上答案为B。")
    assert cmexam.read_reply(Reply("C\n\n题目：下列\n答案：D", forced=True), options) == ("C", "")
    assert cmexam.read_reply(Reply("CT检查", forced=True), options) == (None, "")


def test_huatuo_columns():
    records = [{"output": "多喝水", "reference": "多喝水"}, {"output": "", "reference": "休息"}]
    scores = summarise(huatuo.statistics(records), 30, 0)
    assert set(scores) == {
        "bleu_1",
        "bleu_2",
        "bleu_3",
        "bleu_4",
        "gleu",
        "rouge_1",
        "rouge_2",
        "rouge_l",
        "distinct_1",
        "distinct_2",
        "unparsed",
        "cut",
        "error",
        "variants",
    }
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


def test_nested_tables_are_not_compared():
    def table(k: int) -> dict:
        right = [n % 5 < k for n in range(40)]
        return {"accuracy": proportion(right), "groups": {"科室": {"内科": proportion(right)}}, "variants": {}}

    rows = compare("cmexam", {"base": table(1), "dcpt": table(3)}, 50, 0)
    assert [(r["metric"], r["model_a"], r["model_b"]) for r in rows] == [("accuracy", "base", "dcpt")]


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


def test_metrics_without_items_are_not_compared():
    tables = {name: {"physician": proportion([])} for name in ("base", "dcpt")}
    assert compare("ceval", tables, 50, 0) == []


def test_different_items_cannot_be_paired():
    with pytest.raises(QilinError, match="'sft' and 'base' answered different items"):
        same_items("huatuo", {"base": [{"id": "1"}], "sft": [{"id": "2"}]})


def test_summarise_goes_into_nested_tables():
    found = summarise({"a": mean_of([1, 3]), "deep": {"b": proportion([True])}}, 20, 0)
    assert found["a"]["value"] == 2 and found["deep"]["b"]["value"] == 100


def test_a_metric_that_is_not_a_number_names_the_item_of_the_record() -> None:
    table = {"rouge_l": mean_of([1.0, float("nan"), 2.0])}
    with pytest.raises(QilinError, match="rouge_l: item h-7 .*nan"):
        summarise(table, 50, 0, ["h-3", "h-7", "h-9"])


def test_comparisons_without_p_are_not_corrected() -> None:
    rows = adjust([{"p": 0.03}, {"p": None}, {"p": 0.01}])
    assert [row["p_adjusted"] for row in rows] == [0.03, None, 0.02]
