"""The case study: picked by rule, shown escaped."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.report.case_study import choose, side_by_side


def records(values: dict[str, list[float | None]]) -> dict[str, list[dict[str, Any]]]:
    return {
        model: [
            {
                "id": f"i{n}",
                "benchmark": "huatuo",
                "model": model,
                "prompt": f"问题{n}",
                "output": f"{model}的回答{n}",
                "reference": "参考",
                "value": value,
            }
            for n, value in enumerate(column)
        ]
        for model, column in values.items()
    }


def metric(record: Any) -> float | None:
    return record["value"]


def test_the_biggest_gain_and_loss_are_always_there() -> None:
    rows = records({"base": [10, 20, 30, 40, 50, 60], "dpo": [11, 90, 31, 41, 2, 61]})
    cases = {case.id: case for case in choose(rows, 0, 7, metric)}
    assert {i: case.rule for i, case in cases.items()} == {
        "i1": "biggest gain from base to dpo",
        "i4": "biggest loss from base to dpo",
    }
    assert cases["i1"].scores == {"base": 20, "dpo": 90}


def test_the_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    rows = records({"base": [1.0] * 50, "dpo": [1.0] * 50})
    first = [case.id for case in choose(rows, 5, 1, metric)]
    turned = {model: list(reversed(column)) for model, column in rows.items()}
    assert [case.id for case in choose(turned, 5, 1, metric)] == first
    assert [case.id for case in choose(rows, 5, 2, metric)] != first
    assert len(set(first)) == 5


def test_an_item_with_two_reasons_is_shown_once_and_no_gain_means_no_case() -> None:
    rows = records({"base": [1.0, 5.0], "dpo": [1.0, 2.0]})
    cases = choose(rows, 9, 0, metric)
    assert {case.id: case.rule for case in cases} == {
        "i0": "seeded sample",
        "i1": "seeded sample, biggest loss from base to dpo",
    }


def test_items_without_a_metric_are_never_the_biggest() -> None:
    rows = records({"base": [None, 1.0], "dpo": [99.0, 2.0]})
    cases = choose(rows, 0, 0, metric)
    assert [case.id for case in cases] == ["i1"]
    assert "not scored" in side_by_side(choose(rows, 2, 0, metric), "BLEU-1")


def test_models_with_different_items_are_refused() -> None:
    rows = records({"base": [1, 2, 3], "dpo": [1, 2]})
    with pytest.raises(QilinError, match=r"dpo and base differ in 1 item\(s\), e.g. i2"):
        choose(rows, 1, 0, metric)
    with pytest.raises(QilinError, match="records only for"):
        choose({"base": []}, 1, 0, metric)


def test_side_by_side_shows_delta_and_escapes_everything() -> None:
    rows = records({"base": [10.0], "sft": [12.5], "dpo": [9.0]})
    rows["sft"][0] |= {"output": "<img src=x onerror=alert(1)>\x00", "prediction": None}
    rows["base"][0] |= {"prompt": "<b>", "output": "", "gold": "AB"}
    html = side_by_side(choose(rows, 1, 0, metric), "BLEU-1")
    assert "<img" not in html and "<b>" not in html and "\x00" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;\ufffd" in html
    assert "BLEU-1 12.5 (+2.5)" in html and "BLEU-1 9.0 (-1.0)" in html and "BLEU-1 10.0<" in html
    assert "Read as: unparsed" in html and "(empty)" in html and "Answer: AB\n参考" in html
    assert html.index("base") < html.index("sft") < html.index("dpo的回答0")


def test_an_explanation_that_is_part_of_the_output_is_shown_once() -> None:
    rows = records({"base": [1.0], "dpo": [1.0]})
    rows["dpo"][0] |= {"output": "A。解释：因为发热", "explanation": "因为发热"}
    assert side_by_side(choose(rows, 1, 0, metric), "m").count("因为发热") == 1


def test_no_cases_is_said() -> None:
    assert "no items in this run" in side_by_side(choose({"base": [], "dpo": []}, 3, 0, metric), "m")
