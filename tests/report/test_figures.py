"""Figures: what they draw, that they need no Chinese font, and that they leave no global state behind."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib as mpl
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.report import breakdowns, charts, figures
from tests.report.conftest import SFT, words_of


def labels(axes: Any) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def marks(axes: Any) -> int:
    """Scores drawn: each has a marker of its own beside the line of its interval."""
    return sum(line.get_linestyle() == "None" and line.get_marker() != "X" for line in axes.lines)


def test_ledger_bars_fill_one_hundred_percent_with_every_count_beside_them(ledger: Any) -> None:
    ledger["sources"][1] |= {"read": 4_580_058, "kept": 20, "merged": 4_580_028}
    axes, numbers = figures.ledger_bar(ledger).axes
    widths: dict[float, float] = {}
    for bar in axes.patches:
        widths[round(bar.get_y(), 3)] = widths.get(round(bar.get_y(), 3), 0) + bar.get_width()
    assert list(widths.values()) == pytest.approx([100] * len(ledger["sources"]))
    assert labels(axes)[0].startswith("cpt / ") and labels(axes)[-2:] == [
        "dpo / zhongjing_rlhf",
        "general / general_zh",
    ]
    row = labels(axes).index("cpt / kg_cpubmed")
    texts = [(*text.get_position(), text.get_text()) for text in numbers.texts]
    # Columns: read, kept, rejected, duplicate, contaminated, excluded, merged.
    beside = sorted((column, text) for column, height, text in texts if height == row)
    assert beside == [(1, "4,580,058"), (2, "20"), (3, "10"), (7, "4,580,028")]
    with pytest.raises(QilinError, match="no source with records read"):
        figures.ledger_bar({"sources": []})


def test_curves_have_a_panel_a_quantity_and_no_line_that_another_method_has_not() -> None:
    sft = [{"step": 1, "loss": 2.0, "learning_rate": 1e-5}, {"step": 2, "eval_loss": 1.9}]
    dpo = [{"step": step, "loss": 0.69, "learning_rate": 2e-5} for step in range(5)]
    figure = figures.loss_curves({"04_sft2": sft, "05_dpo": dpo})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["SFT2", "DPO"]
    # KTO begins at 0.5, ORPO nowhere.
    assert not [line for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
    held_out = figure.axes[0].lines[1]
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == ([2], [1.9])
    sides = {f"{kind}/{side}": 3.0 for kind in ("rewards", "logps", "lengths") for side in ("chosen", "rejected")}
    row = {"loss": 0.6, "rewards/margins": 0.1, "rewards/accuracies": 0.5, **sides}
    axes = figures.dpo_curves([{"step": step, **row} for step in range(5)]).axes
    assert [sum(len(line.get_xdata()) == 5 for line in one.lines) for one in axes] == [1, 1, 1, 2, 2, 2]
    assert [one.get_title() for one in axes][-1] == "answer length, tokens"
    assert figures.dpo_curves([]).axes


def test_subjects_without_items_are_left_out_and_the_medical_ones_stand_out(scores: Any) -> None:
    figure = figures.subject_accuracy(scores)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Humanities", "Other"]  # law; physician; nothing of art studies, which has no items
    shown = [label for axes in figure.axes for label in axes.get_yticklabels()]
    assert [(label.get_text(), label.get_fontweight()) for label in shown] == [
        ("law (346)", "normal"),
        ("physician (346)", "bold"),
    ]
    assert [marks(axes) for axes in figure.axes] == [4, 4]
    scores["ceval"] = {"dpo": {"subjects": {"law": {"value": 40.0, "n": 20, "low": 21.5, "high": 61.0}}}}
    interval, mark, *_ = figures.subject_accuracy(scores).axes[0].lines
    assert (list(interval.get_xdata()), list(mark.get_xdata())) == ([21.5, 61.0], [40.0])


def test_departments_bear_english_names_or_their_number_in_the_table(
    scores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "chinese_family", lambda: None)
    axes = figures.group_accuracy(scores).axes[0]
    assert labels(axes) == ["no. 3 (20)", "ophthalmology (90)", "internal medicine (150)"] and marks(axes) == 3 * 4
    assert breakdowns.group_tables(scores)[0].frame.iloc[2][["No.", "Group"]].tolist() == ["3", "某新科"]
    monkeypatch.setattr(figures, "MOST", 2)
    axes = figures.group_accuracy(scores).axes[0]
    assert len(labels(axes)) == 2 and axes.get_title(loc="left").endswith("the 2 commonest")


def test_length_histogram_says_what_lies_beyond_the_limit() -> None:
    figure = figures.length_histogram({"sft": [1, 10, 100, 1000], "empty": []}, limit=500)
    assert "sft (n=4, median 55, 25.0 % beyond)" in words_of(figure)
    assert charts.png(figures.length_histogram({"sft": []}, limit=500)), "a set can be empty"


def test_forest_has_a_cross_only_where_the_paper_has_a_number(scores: Any) -> None:
    figure = figures.forest(scores)
    crosses = [[float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "X"] for axes in figure.axes]
    assert crosses == [
        [40.1, 42.8],
        [36.6, 45.1],
        [42.8, 40.0, 38.4, 33.5, 5, 26],
        [16.66, 12.69, 10.63],
        [27.44, 24.21],
    ]
    theirs = ["Qilin-Med-RAG (v2)", "Qilin-Med-7B-SFT", "Qilin-Med-7B-CPT", "Baichuan-7B", "Vicuna-7B", "ChatGLM-6B"]
    assert labels(figure.axes[2]) == [*theirs, f"{SFT} + DPO", SFT, "tiny 2.3M + DCPT", "tiny 2.3M"]
    assert [marks(axes) for axes in figure.axes] == [4] * 5
    scores["cmexam"] |= {name: {"accuracy": scores["cmexam"]["sft"]["accuracy"]} for name in ("Vicuna-7B", "mine")}
    axes = figures.forest(scores).axes[2]
    assert labels(axes)[:3] == ["mine", "Vicuna-7B (ours)", "Qilin-Med-RAG (v2)"] and marks(axes) == 6
    assert "no number" in words_of(figures.forest({"run": scores["run"]}))


@pytest.mark.parametrize("family", [None, "installed"])
def test_labels_are_chinese_where_a_font_is_and_no_glyph_is_ever_missing(
    scores: Any, ledger: Any, monkeypatch: pytest.MonkeyPatch, family: str | None
) -> None:
    if family and not (family := charts.chinese_family()):
        pytest.skip("no Chinese font here")
    monkeypatch.setattr(charts, "chinese_family", lambda: family)
    scores["cmexam"]["华佗 \u202e\x1b"] = scores["cmexam"]["$\\foo$"] = scores["cmexam"]["sft"]
    departments = figures.group_accuracy(scores)
    english = ["no. 3 (20)", "ophthalmology (90)", "internal medicine (150)"]
    assert labels(departments.axes[0]) == (["某新科 (20)", "眼科 (90)", "内科 (150)"] if family else english)
    name = r"华佗 \u202e\x1b" if family else r"\u534e\u4f57 \u202e\x1b"
    assert name in [text.get_text() for text in departments.legends[0].get_texts()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for figure in (departments, figures.ledger_bar(ledger), figures.forest(scores)):
            assert charts.png(figure) and charts.svg(figure)


def test_svg_is_the_same_twice(ledger: Any) -> None:
    assert figures.ledger_bar(ledger)._repr_png_().startswith(b"\x89PNG")
    salt = mpl.rcParams["svg.hashsalt"]
    first, second = (charts.svg(figures.ledger_bar(ledger)) for _ in range(2))
    assert first == second and b"<dc:date>" not in first and mpl.rcParams["svg.hashsalt"] == salt

    def drawn(noise: float) -> bytes:
        chart = charts.Chart()
        chart.add_axes((0.1, 0.1, 0.8, 0.8 + noise)).plot([1, 2])
        return charts.svg(chart)

    assert drawn(0.0) == drawn(1e-13), "constrained layout solves to the last digits only"


def test_judged_pairs_are_bars_of_outcomes_beside_their_win_rates(scores: Any) -> None:
    row = {"model_a": "sft", "model_b": "base", "n": 20, "win": 5, "tie": 3, "loss": 6, "inconsistent": 4, "unread": 2}
    row |= {"win_rate": 47.2, "low": 30.0, "high": 65.0}
    unread = {"model_b": "dpo", "win": 0, "tie": 0, "loss": 0, "inconsistent": 0, "unread": 20}
    pairs = [row, row | unread | dict.fromkeys(("win_rate", "low", "high"))]
    bars, rates = figures.judged_pairs(scores | {"judged": {"comparison": pairs}}).axes
    assert labels(bars)[0].startswith(SFT) and " / " in labels(bars)[0] and labels(bars)[0].endswith("(20)")
    assert [bar.get_width() for bar in bars.patches if round(bar.get_y() + 0.5) == 0] == [25, 15, 30, 20, 10]
    assert [bar.get_width() for bar in bars.patches if round(bar.get_y() + 0.5) == 1] == [0, 0, 0, 0, 100]
    lines = [line.get_xdata().tolist() for line in rates.lines if line.get_linestyle() != "--"]
    assert lines == [[30.0, 65.0], [47.2]], "a pair of which nothing was read has no rate"
