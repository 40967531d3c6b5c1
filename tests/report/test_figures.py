"""Figures: what they draw, that they need no Chinese font, and that they leave no global state behind."""

from __future__ import annotations

import warnings
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from qilin_lib.errors import QilinError
from qilin_lib.report import annotations, breakdowns, charts, figures, paper

DPO_LOG = [
    {
        "step": s,
        "loss": 0.69,
        "learning_rate": 2e-5,
        "rewards/margins": 0.1 * s,
        "rewards/accuracies": 0.5,
        "rewards/chosen": 0.1,
        "rewards/rejected": -0.1,
        "logps/chosen": -9.0,
        "logps/rejected": -10.0,
    }
    for s in range(5)
]


def words(figure: Figure) -> set[str]:
    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


def test_ledger_bars_fill_one_hundred_percent(ledger: Any) -> None:
    figure = figures.ledger_bar(ledger)
    axes = figure.axes[0]
    widths: dict[float, float] = {}
    for bar in axes.patches:
        widths[round(bar.get_y(), 3)] = widths.get(round(bar.get_y(), 3), 0) + bar.get_width()
    assert len(widths) == len(ledger["sources"])
    assert all(total == pytest.approx(100) for total in widths.values())
    assert "cpt / kg_cpubmed" in words(figure)


def test_ledger_writes_every_count_that_is_not_zero_beside_its_bar(ledger: Any) -> None:
    ledger["sources"][1] |= {"read": 4_580_058, "kept": 20, "merged": 4_580_028}
    axes, numbers = figures.ledger_bar(ledger).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[0].startswith("cpt / ") and labels[-2:] == ["dpo / zhongjing_rlhf", "general / general_zh"]
    row = labels.index("cpt / kg_cpubmed")
    beside = sorted(
        (text.get_position()[0], text.get_text()) for text in numbers.texts if text.get_position()[1] == row
    )
    # Columns: read, kept, rejected, duplicate, contaminated, excluded, merged.
    assert beside == [(1, "4,580,058"), (2, "20"), (3, "10"), (7, "4,580,028")]


def test_ledger_of_nothing_is_refused() -> None:
    with pytest.raises(QilinError, match="no source with records read"):
        figures.ledger_bar({"sources": []})


def test_loss_curves_have_a_panel_a_stage_and_ln_2_for_dpo_only() -> None:
    sft = [{"step": 1, "loss": 2.0, "learning_rate": 1e-5}, {"step": 2, "eval_loss": 1.9}]
    figure = figures.loss_curves({"sft": sft, "dpo": DPO_LOG})
    assert [axes.get_title() for axes in figure.axes[:2]] == ["SFT", "DPO"]
    dashed = [[line.get_label() for line in axes.lines if line.get_linestyle() == "--"] for axes in figure.axes[:2]]
    assert dashed == [[], ["ln 2"]]
    held_out = figure.axes[0].lines[1]
    assert (list(held_out.get_xdata()), list(held_out.get_ydata())) == ([2], [1.9])


def marks(axes: Any) -> int:
    """Scores drawn: each has a marker of its own beside the line of its interval."""
    return sum(line.get_linestyle() == "None" and line.get_marker() != "X" for line in axes.lines)


def test_subjects_without_items_are_left_out_and_the_medical_ones_stand_out(scores: Any) -> None:
    figure = figures.subject_accuracy(scores, ["base", "dpo"])
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == ["Humanities", "Other"]  # law; physician; nothing of art studies, which has no items
    labels = [label for axes in figure.axes for label in axes.get_yticklabels()]
    assert [label.get_text() for label in labels] == ["law (346)", "physician (346)"]
    assert [label.get_fontweight() for label in labels] == ["normal", "bold"]
    assert [marks(axes) for axes in figure.axes] == [2, 2]
    with pytest.raises(QilinError, match="nothing to draw"):
        figures.subject_accuracy(scores, ["rag"])


def test_an_interval_is_drawn_from_its_low_to_its_high_end(scores: Any) -> None:
    scores["ceval"] = {"dpo": {"subjects": {"law": {"value": 40.0, "n": 20, "low": 21.5, "high": 61.0}}}}
    interval, mark, *_ = figures.subject_accuracy(scores).axes[0].lines
    assert (list(interval.get_xdata()), list(mark.get_xdata())) == ([21.5, 61.0], [40.0])


def test_departments_bear_english_names_or_their_number_in_the_table(
    scores: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(charts, "chinese_family", lambda: None)
    figure = figures.group_accuracy(scores)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels == ["no. 3 (20)", "ophthalmology (90)", "internal medicine (150)"]
    assert breakdowns.group_tables(scores)[0].frame.iloc[2][["No.", "Group"]].tolist() == ["3", "某新科"]
    assert marks(figure.axes[0]) == 3 * 4
    assert [label.get_text() for label in figures.group_accuracy(scores, "difficulty").axes[0].get_yticklabels()] == [
        "4 (60)",
        "1 (200)",
    ]
    with pytest.raises(QilinError, match="no annotation 'discipline'"):
        figures.group_accuracy(scores, "discipline")


def test_only_the_commonest_values_are_drawn_and_the_title_says_so(scores: Any) -> None:
    axes = figures.group_accuracy(scores, "department", most=2).axes[0]
    assert len(axes.get_yticklabels()) == 2 and axes.get_title(loc="left").endswith("the 2 commonest")


def test_length_histogram_says_what_lies_beyond_the_limit() -> None:
    figure = figures.length_histogram({"sft": [1, 10, 100, 1000], "empty": []}, limit=500)
    assert "sft (n=4, median 55, 25.0 % beyond)" in words(figure)
    assert charts.png(figures.length_histogram({"sft": []}, limit=500)), "a set can be empty"


def test_forest_has_a_cross_only_where_the_paper_has_a_number(scores: Any) -> None:
    figure = figures.forest(scores, paper.TABLES)
    crosses = [[float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() == "X"] for axes in figure.axes]
    assert crosses == [
        [40.1, 42.8],
        [36.6, 45.1],
        [42.8, 40.0, 38.4, 33.5, 5, 26],
        [16.66, 12.69, 10.63],
        [27.44, 24.21],
    ]
    labels = [label.get_text() for label in figure.axes[2].get_yticklabels()]
    theirs = ["Qilin-Med-RAG (v2)", "Qilin-Med-7B-SFT", "Qilin-Med-7B-CPT", "Baichuan-7B", "Vicuna-7B", "ChatGLM-6B"]
    sft = "tiny 2.3M + DCPT + SFT"
    assert labels == [*theirs, f"{sft} + DPO", sft, "tiny 2.3M + DCPT", "tiny 2.3M"]
    assert [marks(axes) for axes in figure.axes] == [4] * 5


def test_forest_shows_baselines_in_rows_of_their_own(scores: Any) -> None:
    scores["cmexam"] |= {name: {"accuracy": scores["cmexam"]["sft"]["accuracy"]} for name in ("Vicuna-7B", "mine")}
    axes = figures.forest(scores, paper.TABLES).axes[2]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels[:3] == ["mine", "Vicuna-7B (ours)", "Qilin-Med-RAG (v2)"] and marks(axes) == 6


def test_forest_without_scores_says_so(scores: Any) -> None:
    assert "no number" in words(figures.forest({"run": scores["run"]}, paper.TABLES))


@pytest.mark.parametrize("family", [None, "installed"])
def test_labels_are_chinese_where_a_font_is_and_no_glyph_is_ever_missing(
    scores: Any, ledger: Any, monkeypatch: pytest.MonkeyPatch, family: str | None
) -> None:
    if family and not (family := charts.chinese_family()):
        pytest.skip("no Chinese font here")
    monkeypatch.setattr(charts, "chinese_family", lambda: family)
    scores["cmexam"]["华佗 \u202e\x1b"] = scores["cmexam"]["sft"]
    departments = figures.group_accuracy(scores)
    labels = [label.get_text() for label in departments.axes[0].get_yticklabels()]
    english = ["no. 3 (20)", "ophthalmology (90)", "internal medicine (150)"]
    assert labels == (["某新科 (20)", "眼科 (90)", "内科 (150)"] if family else english)
    name = r"华佗 \u202e\x1b" if family else r"\u534e\u4f57 \u202e\x1b"
    assert name in [text.get_text() for text in departments.legends[0].get_texts()]
    drawn = [departments, figures.ledger_bar(ledger), figures.forest(scores, paper.TABLES)]
    drawn += [figures.dpo_curves(DPO_LOG), figures.subject_accuracy(scores)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(charts.png(figure) and charts.svg(figure) for figure in drawn)
    assert all(name.isascii() for name in annotations.ENGLISH.values())


def test_pictures_are_bytes_and_svg_is_the_same_twice(ledger: Any) -> None:
    assert figures.ledger_bar(ledger)._repr_png_().startswith(b"\x89PNG")
    salt = mpl.rcParams["svg.hashsalt"]
    first, second = (charts.svg(figures.ledger_bar(ledger)) for _ in range(2))
    assert first == second and b"<dc:date>" not in first
    assert mpl.rcParams["svg.hashsalt"] == salt
