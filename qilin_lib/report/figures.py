"""Figures of notebooks 01-07: the ledger, training curves, accuracy by subject, lengths, ours against the paper.

A Chinese annotation bears its English name (`breakdowns.ENGLISH`), or its number in the table, where no font draws
Chinese.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qilin_lib import chains
from qilin_lib.chimed.sources import SETS
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks.ceval import CATEGORIES, MEDICAL
from qilin_lib.evaluate.judging.comparison import OUTCOMES
from qilin_lib.report import charts, tables
from qilin_lib.report.breakdowns import CATEGORIES as CATEGORY_NAMES
from qilin_lib.report.breakdowns import COLUMNS, ENGLISH, group_values
from qilin_lib.report.charts import COLOURS, PAPER_COLOUR, Line, Panel, Rows, interval_plot, literal, new_chart, quiet
from qilin_lib.report.frames import count, name_of, ordered, stages_of
from qilin_lib.report.paper import TABLES

FATES = dict(zip(tables.FATES, ("#0072b2", "#d55e00", "#e69f00", "#cc79a7", "#999999", "#56b4e9"), strict=True))
OUTCOME_COLOURS = dict(zip(OUTCOMES, ("#009e73", "#56b4e9", "#d55e00", "#e69f00", "#999999"), strict=True))
SIDES = {"implicit reward": "rewards", "log-probability, nats": "logps", "answer length, tokens": "lengths"}
# Departments in a figure.
MOST = 40
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
    _share_bars(axes, counts, counts["read"], FATES)
    _counts_beside(numbers, counts)
    for place, (above, entry) in enumerate(zip(entries, entries[1:], strict=False), start=1):
        if above["set"] != entry["set"]:
            for half in (axes, numbers):
                half.axhline(place - 0.5, color="#56606f", linewidth=0.7)
    axes.set_yticks(range(len(entries)), [f"{entry['set']} / {entry['source']}" for entry in entries], fontsize=8)
    axes.set_xlabel("share of units read, percent")
    chart.legend(loc="outside upper center", ncols=len(FATES), frameon=False)
    return chart


def _share_bars(axes: Axes, counts: Mapping[str, np.ndarray], total: np.ndarray, colours: Mapping[str, str]) -> None:
    """One lying bar a row, the first on top: what share of `total` each of `colours` has."""
    left = np.zeros(len(total))
    for name, colour in colours.items():
        share = 100 * counts[name] / total
        axes.barh(range(len(total)), share, left=left, color=colour, label=name, height=0.74)
        left += share
    axes.set(xlim=(0, 100), ylim=(len(total) - 0.5, -0.5))
    quiet(axes, "x")


def _counts_beside(axes: Axes, counts: Mapping[str, np.ndarray]) -> None:
    """One column of numbers a fate; nothing where the count is zero."""
    for column, (fate, values) in enumerate(counts.items(), start=1):
        axes.text(column, -0.6, fate, ha="right", va="bottom", fontsize=6, color="#56606f")
        for place in np.flatnonzero(values):
            axes.text(column, place, f"{values[place]:,}", ha="right", va="center", fontsize=7)
    axes.set_xlim(0, len(counts))
    axes.axis("off")


def judged_pairs(scores: Mapping[str, Any]) -> Figure:
    """What the judge of 06 made of every pair of models, one bar of OUTCOMES each, and the first model's win rate with
    its 95 % interval; none where nothing was read."""
    rows = scores["judged"]["comparison"]
    counts = {name: np.array([row[name] for row in rows]) for name in ("n", *OUTCOME_COLOURS)}
    chart = new_chart(11, 1.3 + 0.32 * len(rows))
    axes, rates = chart.subplots(1, 2, sharey=True, width_ratios=[6, 4])
    _share_bars(axes, counts, counts["n"], OUTCOME_COLOURS)
    first, second = ([literal(name_of(scores, row[side])) for row in rows] for side in ("model_a", "model_b"))
    labels = [f"{a} / {b} ({row['n']})" for a, b, row in zip(first, second, rows, strict=True)]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_xlabel("share of items, percent")
    for place, row in enumerate(rows):
        rate = {**row, "value": row["win_rate"], "n": row["n"] - row["unread"]}
        charts.interval(rates, rate, place, (COLOURS["sft"], "o"))
    rates.axvline(50, color="#333333", linestyle="--", linewidth=0.8)
    rates.set(xlim=(-1, 101), xlabel="win rate of the first, percent, 95 % interval")
    quiet(rates, "x")
    chart.legend(loc="outside upper center", ncols=len(OUTCOME_COLOURS), frameon=False)
    return chart


def loss_curves(logs: Mapping[str, Rows]) -> Figure:
    """Training and held-out loss over steps, one panel per stage ("04_sft2"), the learning rate below it.

    A row is {"step", "loss"?, "eval_loss"?, "learning_rate"?}.
    """
    chart = new_chart(max(4.2, 3.8 * len(logs)), 4.2)
    grid = chart.subplots(2, len(logs), squeeze=False, sharex="col", height_ratios=[3, 1])
    for (stage, rows), (top, bottom) in zip(logs.items(), grid.T, strict=True):
        name = chains.name_of(stage)
        colour = COLOURS.get(name, "#333333")
        charts.line(top, rows, "loss", colour, "training")
        charts.line(top, rows, "eval_loss", PAPER_COLOUR, "held out", marker="o")
        charts.line(bottom, rows, "learning_rate", colour, "")
        top.set_title(name.upper(), fontsize=10)
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
    begin = "" if start is None else " (dashed: ln 2)" if start == math.log(2) else f" (dashed: {start:g})"
    own = COLOURS["dpo"]
    panels = [
        Panel(f"loss{begin}", {"loss": (own, "")}, start),
        Panel("reward margin, chosen - rejected", {"rewards/margins": (own, "")}, 0),
        Panel("pairs ranked right", {"rewards/accuracies": (own, "")}, 0.5),
    ]
    for title, prefix in SIDES.items():
        lines = {f"{prefix}/chosen": (COLOURS["sft"], "chosen"), f"{prefix}/rejected": (PAPER_COLOUR, "rejected")}
        panels.append(Panel(title, lines))
    chart = charts.curves(rows, panels, 3, 5.4)
    chart.axes[2].set_ylim(-0.02, 1.02)
    return chart


def length_histogram(lengths: Mapping[str, Sequence[int]], limit: int) -> Figure:
    """Lengths by group on a logarithmic axis, where texts are cut (`limit`), and what share lies beyond it."""
    filled = {name: np.asarray(values) for name, values in lengths.items() if len(values)}
    top = max((values.max() for values in filled.values()), default=1)
    bins = np.unique(np.geomspace(1, max(top + 1, 2), 50).round())
    chart = new_chart(7.5, 3.6)
    axes = chart.subplots()
    palette = [*COLOURS.values(), PAPER_COLOUR, "#56b4e9", "#cc79a7", "#000000"]
    for place, (name, values) in enumerate(filled.items()):
        beyond = f"{100 * (values > limit).mean():.1f} % beyond"
        style = {
            "label": f"{literal(name)} (n={len(values):,}, median {np.median(values):,.0f}, {beyond})",
            "color": palette[place % len(palette)],
            "linestyle": "-" if place < len(palette) else "--",
            "weights": np.full(len(values), 100 / len(values)),
        }
        axes.hist(np.maximum(values, 1), bins, histtype="step", linewidth=1.6, **style)
    axes.axvline(limit, color="#333333", linestyle="--", linewidth=1, label=f"limit {limit:,}")
    axes.set(xscale="log", xlabel="length, tokens", ylabel="share of samples, percent")
    quiet(axes)
    chart.legend(loc="outside upper center", ncols=1 if len(filled) < 4 else 2, frameon=False, fontsize=8)
    return chart


def subject_accuracy(scores: Mapping[str, Any]) -> Figure:
    """C-Eval accuracy by subject and model with 95 % intervals, a panel a category, last stage's best on top.

    Subjects without items are left out.
    """
    results = {model: scores["ceval"][model]["subjects"] for model in ordered(scores["ceval"])}
    counts = {s: score["n"] for by_subject in results.values() for s, score in by_subject.items() if score["n"]}
    last = results[([model for model in results if model in COLOURS] or list(results))[-1]]
    home = {subject: CATEGORY_NAMES[name] for name, subjects in CATEGORIES.items() for subject in subjects}
    panels: dict[str, list[Line]] = {title: [] for title in (*CATEGORY_NAMES.values(), "No category")}
    for subject in sorted(counts, key=lambda s: (-(last.get(s, {}).get("value") or 0), s)):
        by_model = {model: by_subject.get(subject) for model, by_subject in results.items()}
        label = f"{subject.replace('_', ' ')} ({counts[subject]})"
        panels[home.get(subject, "No category")].append(Line(label, by_model, subject in MEDICAL))
    chart = interval_plot(
        {title: lines for title, lines in panels.items() if lines},
        {model: name_of(scores, model) for model in results},
        "accuracy, percent, 95 % interval; (items); dashed: chance; bold: medical",
    )
    for axes in chart.axes:
        axes.axvline(25, color="#333333", linestyle="--", linewidth=0.8)
    return chart


def group_accuracy(scores: Mapping[str, Any]) -> Figure:
    """CMExam accuracy by clinical department with 95 % intervals, the commonest MOST of them.

    Where no font draws Chinese, a department bears its English name, or the number that it has in the table.
    """
    results = scores["cmexam"]
    names = {model: name_of(scores, model) for model in ordered(results)}
    lines = []
    for number, (value, n) in enumerate(group_values(results, "department").items(), start=1):
        label = value
        if not (value.isascii() or charts.chinese_family()):
            label = ENGLISH.get(value, f"no. {number}")
        by_model = {model: results[model].get("groups", {}).get("department", {}).get(value) for model in names}
        lines.append(Line(f"{label} ({n})", by_model))
    title = f"CMExam by {COLUMNS['department']}" + f", the {MOST} commonest" * (len(lines) > MOST)
    return interval_plot({title: lines[:MOST]}, names, "accuracy, percent, with 95 % interval; (n) items")


def forest(scores: Mapping[str, Any]) -> Figure:
    """Our scores with 95 % intervals, and the paper's numbers, for the headline metrics of Tables 4, 5 and 6.

    Rows of ours have an interval, rows of the paper a cross, where its number is known.
    """
    panels = {}
    for number, metrics in HEADLINES.items():
        printed = TABLES[number]
        for metric in metrics:
            title = f"{printed.title.removesuffix(' results')}: {printed.columns[metric]}"
            # Our stages, the paper's numbers, then our others.
            ours = {model: entry.get(metric) for model, entry in scores.get(printed.benchmark, {}).items()}
            further = [model for model in ordered(ours) if model not in COLOURS and ours[model]]
            theirs = {row.label: row.known[metric].value for row in printed.rows if metric in row.known}
            panels[title] = [
                *(Line(name_of(scores, model), {model: ours.get(model)}) for model in stages_of(scores)),
                *(Line(name, {}, cross=value) for name, value in theirs.items() if value is not None),
                *(Line(name_of(scores, model), {model: ours[model]}) for model in further),
            ]
    models = {model: name_of(scores, model) for model in stages_of(scores)}
    return interval_plot(panels, models, "percent", percent=False)
