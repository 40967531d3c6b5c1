"""The case study: picked by rule, shown escaped."""

from __future__ import annotations

import random
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import chains
from qilin_lib.errors import QilinError
from qilin_lib.files import write_json, write_jsonl
from qilin_lib.report.case_study import ask, cases, choose, marked, side_by_side
from qilin_lib.runs import Run


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


def test_k_of_each_rule_are_picked_biggest_first() -> None:
    base = [50.0] * 40
    dpo = [50.0] * 30 + [60, 90, 70, 40, 10, 30, 80, 45, 55, 50]
    cases = choose(records({"base": base, "dpo": dpo}), 2, 7, metric)
    rules = {case.id: case.rule for case in cases}
    assert [rule for rule in rules.values() if "sample" in rule] == ["seeded sample"] * 2
    assert {item: rule for item, rule in rules.items() if "biggest" in rule} == {
        "i31": "biggest gain from base to dpo (no. 1)",
        "i36": "biggest gain from base to dpo (no. 2)",
        "i34": "biggest loss from base to dpo (no. 1)",
        "i35": "biggest loss from base to dpo (no. 2)",
    }
    assert next(case for case in cases if case.id == "i31").scores == {"base": 50, "dpo": 90}


def test_the_draw_depends_on_the_seed_and_not_on_the_order() -> None:
    gains = records({"base": [0.0] * 60, "dpo": [100.0] * 60})
    picked = {tuple(case.id for case in choose(gains, 2, seed, metric)) for seed in range(4)}
    assert len(picked) == 4 and all(len(set(items)) == 4 for items in picked), "equal gains are drawn, too"
    rows = records({"base": [1.0] * 50, "dpo": [1.0] * 50})
    first = [case.id for case in choose(rows, 5, 1, metric)]
    assert {case.rule for case in choose(rows, 5, 1, metric)} == {"seeded sample"}
    turned = {model: list(reversed(column)) for model, column in rows.items()}
    assert [case.id for case in choose(turned, 5, 1, metric)] == first
    assert [case.id for case in choose(rows, 5, 2, metric)] != first
    assert len(set(first)) == 5
    assert "no items in this run" in side_by_side(choose({"base": [], "dpo": []}, 3, 0, metric), "m")
    twice = choose(records({"base": [1.0, 5.0], "dpo": [1.0, 2.0]}), 9, 0, metric)
    assert [case.rule for case in sorted(twice, key=lambda case: case.id)] == [
        "seeded sample",
        "seeded sample, biggest loss from base to dpo (no. 1)",
    ]


def test_models_with_different_items_are_refused() -> None:
    rows = records({"base": [1, 2, 3], "dpo": [1, 2]})
    with pytest.raises(QilinError, match=r"dpo and base differ in 1 item\(s\), e.g. i2"):
        choose(rows, 1, 0, metric)


def test_side_by_side_shows_delta_and_escapes_everything() -> None:
    rows = records({"base": [10.0], "sft": [12.5], "dpo": [9.0]})
    rows["sft"][0] |= {"output": "<img src=x onerror=alert(1)>\x00", "prediction": None}
    rows["base"][0] |= {"prompt": "<b>", "output": "", "gold": "AB"}
    html = side_by_side(choose(rows, 1, 0, metric), "BLEU-1")
    assert "<img" not in html and "<b>" not in html and "\x00" not in html
    assert r"&lt;img src=x onerror=alert(1)&gt;\x00" in html
    assert "BLEU-1 12.5 (+2.5)" in html and "BLEU-1 9.0 (-1.0)" in html and "BLEU-1 10.0<" in html
    assert "Read as: unparsed" in html and "(empty)" in html and "Answer: AB\n参考" in html
    assert html.index('title">base') < html.index('title">sft') < html.index('title">dpo')


def texts_of(html: str) -> tuple[str, str]:
    """(the older text, the newer text) that marks leave when read without their colours."""
    old = re.sub(r"</?del>", "", re.sub(r"<ins>.*?</ins>", "", html, flags=re.DOTALL))
    new = re.sub(r"</?ins>", "", re.sub(r"<del>.*?</del>", "", html, flags=re.DOTALL))
    return unescape(old), unescape(new)


@pytest.mark.parametrize("seed", range(8))
def test_marks_hold_both_texts_whole_and_no_markup_of_theirs(seed: int) -> None:
    draw = random.Random(seed)
    pieces = ["头痛", "建议休息", "<b>", "&amp;", "CT", " 3.5 ", "\n", "</ins>", '"', "，", "多喝水", "x"]
    before = "".join(draw.choices(pieces, k=30))
    after = "".join(piece for piece in re.split("(，)", before) if draw.random() > 0.3) + "复查"
    html, _ = marked(before, after, "sft")
    assert not re.search(r"<(?!/?(?:ins|del)>)", html)
    if "<del>" in html:
        assert texts_of(html) == (before, after)
    else:
        assert texts_of(html)[1] == after


@pytest.mark.parametrize(
    ("before", "after", "shown", "note"),
    [
        (
            "请多喝水，做CT检查。",
            "请多喝水，做MRI检查。",
            "请多喝水，做<del>CT</del><ins>MRI</ins>检查。",
            "compared with sft",
        ),
        # The lone 的 between two changes is chance: one change, not two around it.
        (
            "头痛请休息，甲的乙。",
            "头痛请休息，丙的丁。",
            "头痛请休息，<del>甲的乙</del><ins>丙的丁</ins>。",
            "compared with sft",
        ),
        ("甲乙丙丁戊己庚辛", "子丑寅卯辰巳午未", "子丑寅卯辰巳午未", "0% in common with sft: not marked"),
        ("休息", "休息", "休息", "same as sft"),
        ("", "休息", "休息", ""),
    ],
)
def test_marks_show_the_change_and_not_chance_matches(before: str, after: str, shown: str, note: str) -> None:
    assert marked(before, after, "sft") == (shown, note)
    html, _ = marked("痛" * 5000, "痛" * 4000 + "不", "sft")
    assert len(html) < 2200 and "2,001 more characters" in html


def test_a_stage_is_marked_against_the_one_before_it_and_a_baseline_against_the_reference() -> None:
    rows = records({"base": [1.0], "sft": [2.0], "dpo": [3.0], "ChatGLM": [9.0]})
    for model, output in (
        ("base", "多喝水多休息"),
        ("sft", "多喝水，休息"),
        ("dpo", "多喝水，休息"),
        ("ChatGLM", "多喝茶"),
    ):
        rows[model][0] |= {"output": output, "reference": "多喝水"}
    html = side_by_side(choose(rows, 1, 0, metric), "ROUGE-L")
    notes = re.findall(r'<div class="title">(\w+)<span>ROUGE.*?<div class="note">(.*?)</div>', html, re.DOTALL)
    assert notes == [
        ("base", "compared with the reference"),
        ("sft", "compared with base"),
        ("dpo", "same as sft"),
        ("ChatGLM", "compared with the reference"),
    ]
    assert "<ins>茶</ins>" in html and "<del>水</del>" in html and "ROUGE-L 9.0 (+8.0)" in html


def test_cases_of_a_run_come_from_the_fixed_protocol_with_baselines_and_k_from_the_profile(tmp_path: Path) -> None:
    rows = records({"base": [1.0] * 9, "dpo": [1.0] * 9, "GPT-4 (0314)": [1.0] * 9, "released": [1.0]})
    folder = tmp_path / "06_eval" / "predictions"
    for model in ("base", "dpo", "GPT-4 (0314)"):
        write_jsonl(folder / "fixed" / "huatuo" / f"{model}.jsonl", rows[model])
    write_jsonl(folder / "released" / "huatuo" / "base.jsonl", rows["released"])
    write_json(tmp_path / "06_eval" / "scores.json", {"run": {"names": {}}})
    stage = SimpleNamespace(
        parent=lambda name: tmp_path / name, parameters=SimpleNamespace(cases=2, seed=3, chain=chains.DEFAULT)
    )
    html = cases(stage, "huatuo")
    assert html.count("<article") == 2 and html.count('title">GPT-4 (0314)') == 2
    assert "answered by 0 stage(s)" in cases(stage, "cmexam")


def test_a_question_to_a_model_that_the_run_does_not_have_is_refused(tmp_path: Path, scores: Any) -> None:
    write_json(tmp_path / "02_tokenize" / "base.json", {"name": "tiny", "parameters": 2_263_296})
    stage = SimpleNamespace(
        parent=lambda name: tmp_path / name, run=Run(tmp_path), parameters=SimpleNamespace(chain=chains.DEFAULT)
    )
    with pytest.raises(QilinError, match=r"'sftt'.*did you mean 'sft'.*'rl'"):
        ask(stage, "头痛", ["sftt"])
