"""Figures of notebooks 01-07: the ledger, training curves, accuracy by subject, lengths, ours against the paper.

A Chinese annotation bears its English name (`annotations.ENGLISH`), or its number in the table, where no font draws
Chinese.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qilin_lib.chimed.sources import SETS
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.subjects import CATEGORIES, MEDICAL
from qilin_lib.report import charts
from qilin_lib.report.annotations import COLUMNS, figure_label
from qilin_lib.report.breakdowns import CATEGORIES as CATEGORY_NAMES
from qilin_lib.report.breakdowns import group_values
from qilin_lib.report.charts import COLOURS, PAPER_COLOUR, Line, Rows, interval_plot, line, literal, new_chart, quiet
from qilin_lib.report.frames import count, name_of, ordered, stages_of
from qilin_lib.report.paper import PaperTable

FATES = {
    "kept": "#0072b2",
    "rejected": "#d55e00",
    "duplicate": "#e69f00",
    "contaminated": "#cc79a7",
    "excluded": "#999999",
    "merged": "#56b4e9",
}
# The numbers a reader looks for first; the paper gives at least one cell in each of these columns.
HEADLINES = {4: ("average", "basic_medicine"), 5: ("accuracy",), 6: ("bleu_1", "rouge_1")}


def ledger_bar(ledger: Mapping[str, Any]) -> Figure:
    """What became of every unit read, one bar a source and set: shares of what was read, the counts beside it.

    A share too small to be seen still has its number. Order: the sets as the stages use them, sources by name.
    """
    entries = [entry for entry in ledger["sources"] if entry["read"]]
    if not entries:
        raise QilinError("ledger.json lists no source with records read: notebook 01 found nothing to draw")
    entries.sort(key=lambda entry: (SETS.index(entry["set"]), entry["source"]))
    counts = {fate: np.array([count(entry[fate]) for entry in entries]) for fate in ("read", *FATES)}
    chart = new_chart(11, 1.2 + 0.24 * len(entries))
    axes, numbers = chart.subplots(1, 2, sharey=True, width_ratios=[6, 7])
    left = np.zeros(len(entries))
    for fate, colour in FATES.items():
        share = 100 * counts[fate] / counts["read"]
        axes.barh(range(len(entries)), share, left=left, color=colour, label=fate, height=0.74)
        left += share
    _counts_beside(numbers, counts)
    for place, (above, entry) in enumerate(zip(entries, entries[1:], strict=False), start=1):
        if above["set"] != entry["set"]:
            for half in (axes, numbers):
                half.axhline(place - 0.5, color="#56606f", linewidth=0.7)
    axes.set_yticks(range(len(entries)), [f"{entry['set']} / {entry['source']}" for entry in entries], fontsize=8)
    axes.set(xlim=(0, 100), ylim=(len(entries) - 0.5, -0.5), xlabel="share of units read, percent")
    quiet(axes, "x")
    chart.legend(loc="outside upper center", ncols=len(FATES), frameon=False)
    return chart


def _counts_beside(axes: Axes, counts: Mapping[str, np.ndarray]) -> None:
    """One column of numbers a fate; nothing where the count is zero."""
    for column, (fate, values) in enumerate(counts.items(), start=1):
        axes.text(column, -0.6, fate, ha="right", va="bottom", fontsize=6, color="#56606f")
        for place in np.flatnonzero(values):
            axes.text(column, place, f"{values[place]:,}", ha="right", va="center", fontsize=7)
    axes.set_xlim(0, len(counts))
    axes.axis("off")


def loss_curves(logs: Mapping[str, Rows]) -> Figure:
    """Training and held-out loss over steps, one panel a stage, the learning rate below it.

    A row is {"step", "loss"?, "eval_loss"?, "learning_rate"?}. The dashed line of the stage "dpo" is ln 2, the DPO loss
    of a policy equal to its reference.
    """
    if not logs:
        raise QilinError("loss_curves needs the log of at least one stage, got none")
    chart = new_chart(max(4.2, 3.8 * len(logs)), 4.2)
    grid = chart.subplots(2, len(logs), squeeze=False, sharex="col", height_ratios=[3, 1])
    for (stage, rows), (top, bottom) in zip(logs.items(), grid.T, strict=True):
        colour = COLOURS.get(stage, "#333333")
        line(top, rows, "loss", colour, "training")
        line(top, rows, "eval_loss", PAPER_COLOUR, "held out", marker="o")
        line(bottom, rows, "learning_rate", colour, "")
        if stage == "dpo":
            top.axhline(math.log(2), color="#333333", linestyle="--", linewidth=1, label="ln 2")
        top.set_title(stage.upper(), fontsize=10)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        bottom.set_xlabel("optimizer step")
        if top.get_legend_handles_labels()[0]:
            top.legend(frameon=False, fontsize=8)
        quiet(top)
        quiet(bottom)
    grid[0, 0].set_ylabel("loss, nats")
    grid[1, 0].set_ylabel("learning rate")
    return chart


def dpo_curves(rows: Rows, start: float | None = math.log(2)) -> Figure:
    """Loss, reward margin, reward accuracy over DPO steps; rewards, log-probabilities and lengths of both sides.

    `start`: what the loss begins at, None if nobody knows (ORPO). A margin can grow while both log-probabilities fall;
    rewards show that fall free of which pairs a batch holds.
    """
    chart = new_chart(11, 5.4)
    grid = chart.subplots(2, 3, sharex=True)
    loss, margin, accuracy = grid[0]
    for axes, name, level in (
        (loss, "loss", start),
        (margin, "rewards/margins", 0),
        (accuracy, "rewards/accuracies", 0.5),
    ):
        line(axes, rows, name, COLOURS["dpo"], name)
        if level is not None:
            axes.axhline(level, color="#333333", linewidth=0.8, linestyle="--")
    accuracy.set_ylim(-0.02, 1.02)
    for axes, prefix in zip(grid[1], ("rewards", "logps", "lengths"), strict=True):
        line(axes, rows, f"{prefix}/chosen", COLOURS["sft"], "chosen")
        line(axes, rows, f"{prefix}/rejected", PAPER_COLOUR, "rejected", style="--")
        axes.set_xlabel("optimizer step")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    begin = "" if start is None else " (dashed: ln 2)" if start == math.log(2) else f" (dashed: {start:g})"
    titles = (f"loss{begin}", "reward margin, chosen - rejected", "pairs ranked right")
    titles += ("implicit reward", "log-probability, nats", "answer length, tokens")
    for axes, title in zip(grid.ravel(), titles, strict=True):
        axes.set_title(title, fontsize=10)
        quiet(axes)
    return chart


def length_histogram(lengths: Mapping[str, Sequence[int]], limit: int | None = None, unit: str = "tokens") -> Figure:
    """Lengths by group on a logarithmic axis; `limit` draws where texts are cut and says what share lies beyond it."""
    filled = {name: np.asarray(values) for name, values in lengths.items() if len(values)}
    top = max((values.max() for values in filled.values()), default=1)
    bins = np.unique(np.geomspace(1, max(top + 1, 2), 50).round())
    chart = new_chart(7.5, 3.6)
    axes = chart.subplots()
    palette = [*COLOURS.values(), PAPER_COLOUR, "#56b4e9", "#cc79a7", "#000000"]
    for place, (name, values) in enumerate(filled.items()):
        beyond = "" if limit is None else f", {100 * (values > limit).mean():.1f} % beyond"
        label = f"{literal(name)} (n={len(values):,}, median {np.median(values):,.0f}{beyond})"
        style = "-" if place < len(palette) else "--"
        axes.hist(
            np.maximum(values, 1),
            bins,
            histtype="step",
            linewidth=1.6,
            label=label,
            linestyle=style,
            color=palette[place % len(palette)],
            weights=np.full(len(values), 100 / len(values)),
        )
    if limit is not None:
        axes.axvline(limit, color="#333333", linestyle="--", linewidth=1, label=f"limit {limit:,}")
    axes.set(xscale="log", xlabel=f"length, {unit}", ylabel="share of samples, percent")
    quiet(axes)
    chart.legend(loc="outside upper center", ncols=1 if len(filled) < 4 else 2, frameon=False, fontsize=8)
    return chart


def subject_accuracy(scores: Mapping[str, Any], models: Sequence[str] | None = None) -> Figure:
    """C-Eval accuracy by subject and model with 95 % intervals, a panel a category, last stage's best on top.

    `models`: None = all, the stages before the baselines. Subjects without items are left out.
    """
    results = {m: scores["ceval"][m]["subjects"] for m in models or ordered(scores["ceval"]) if m in scores["ceval"]}
    counts = {s: score["n"] for by_subject in results.values() for s, score in by_subject.items() if score["n"]}
    if not counts:
        raise QilinError(f"scores.json has no C-Eval item for {list(models or ['any model'])}: nothing to draw")
    last = results[[m for m in results if m in COLOURS or not set(results) & set(COLOURS)][-1]]

    def line(subject: str) -> Line:
        by_model = {model: by_subject.get(subject) for model, by_subject in results.items()}
        return Line(f"{subject.replace('_', ' ')} ({counts[subject]})", by_model, subject in MEDICAL)

    best = sorted(counts, key=lambda s: (-(last.get(s, {}).get("value") or 0), s))
    home = {subject: name for name, subjects in CATEGORIES.items() for subject in subjects}
    panels = {title: [line(s) for s in best if home.get(s) == name] for name, title in CATEGORY_NAMES.items()}
    panels["No category"] = [line(s) for s in best if s not in home]
    chart = interval_plot(
        {title: lines for title, lines in panels.items() if lines},
        {model: name_of(scores, model) for model in results},
        "accuracy, percent, 95 % interval; (items); dashed: chance; bold: medical",
    )
    for axes in chart.axes:
        axes.axvline(25, color="#333333", linestyle="--", linewidth=0.8)
    return chart


def group_accuracy(scores: Mapping[str, Any], column: str = "department", most: int = 40) -> Figure:
    """CMExam accuracy by the values of an annotation column with 95 % intervals, the `most` commonest values.

    Where no font draws Chinese, a value bears its English name, or the number that it has in the table of the column.
    """
    results = scores["cmexam"]
    counts = group_values(results, column)
    if not counts:
        raise QilinError(f"CMExam's items carry no annotation '{column}' in this run: nothing to draw")
    lines = [
        Line(
            f"{value if charts.chinese_family() else figure_label(value, number)} ({n})",
            {model: results[model].get("groups", {}).get(column, {}).get(value) for model in ordered(results)},
        )
        for number, (value, n) in enumerate(counts.items(), start=1)
    ]
    title = f"CMExam by {COLUMNS.get(column, column)}" + (f", the {most} commonest" if len(lines) > most else "")
    names = {model: name_of(scores, model) for model in ordered(results)}
    return interval_plot({title: lines[:most]}, names, "accuracy, percent, with 95 % interval; (n) items")


def forest(scores: Mapping[str, Any], paper: Mapping[int, PaperTable]) -> Figure:
    """Our scores with 95 % intervals, and the paper's numbers, for the headline metrics of Tables 4, 5 and 6.

    Rows of ours have an interval, rows of the paper a cross, where its number is known (`paper.TABLES`).
    """
    panels = {
        f"{paper[number].title.removesuffix(' results')}: {paper[number].columns[metric]}": _forest_lines(
            paper[number], metric, scores
        )
        for number, metrics in HEADLINES.items()
        for metric in metrics
    }
    models = {model: name_of(scores, model) for model in stages_of(scores)}
    return interval_plot(panels, models, "percent", percent=False)


def _forest_lines(table: PaperTable, metric: str, scores: Mapping[str, Any]) -> list[Line]:
    """Our stages, the paper's numbers, then our others."""
    ours = {model: entry.get(metric) for model, entry in scores.get(table.benchmark, {}).items()}
    further = [model for model in ordered(ours) if model not in COLOURS and ours[model]]
    theirs = [(row.label, row.cell(metric).value) for row in table.rows]
    return [
        *(Line(name_of(scores, model), {model: ours.get(model)}) for model in stages_of(scores)),
        *(Line(name, {}, cross=value) for name, value in theirs if value is not None),
        *(Line(name_of(scores, model), {model: ours[model]}) for model in further),
    ]
