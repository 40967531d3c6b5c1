"""Figures of notebooks 01-07: the ledger, training curves, accuracy by subject, lengths, ours against the paper.

Labels are English throughout (subject handles, registry names, `annotations.ENGLISH`), so that no picture depends on a
Chinese font. Colours are those of Okabe and Ito, doubled by marker shapes for readers who see no colour. No pyplot:
nothing global moves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qilin_lib.chimed.sources import SETS
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.subjects import CATEGORIES, MEDICAL
from qilin_lib.report.annotations import COLUMNS, figure_label
from qilin_lib.report.benchmark_tables import name_of, ordered, stages_of
from qilin_lib.report.breakdowns import CATEGORIES as CATEGORY_NAMES
from qilin_lib.report.breakdowns import group_values
from qilin_lib.report.paper import PaperTable

Rows = Sequence[Mapping[str, Any]]

COLOURS = {"base": "#7f7f7f", "dcpt": "#e69f00", "sft": "#0072b2", "dpo": "#009e73"}
MARKERS = {"base": "o", "dcpt": "s", "sft": "^", "dpo": "D"}
PAPER_COLOUR = "#d55e00"
FATES = {
    "kept": "#0072b2",
    "rejected": "#d55e00",
    "duplicate": "#e69f00",
    "contaminated": "#cc79a7",
    "excluded": "#999999",
    "merged": "#56b4e9",
}
# Baselines take these in the order of their names, again and again.
FURTHER_COLOURS = ("#cc79a7", "#56b4e9", "#8c564b", "#b2a100", "#000000", "#9467bd", "#17718c", "#a6611a", "#5e8c31")
FURTHER_MARKERS = ("v", "P", "<", "*", ">", "h")
# A name by base and stages is long: more columns would not fit side by side.
KEY_COLUMNS = 2
# The numbers a reader looks for first; the paper gives at least one cell in each of these columns.
HEADLINES = {4: ("average", "basic_medicine"), 5: ("accuracy",), 6: ("bleu_1", "rouge_1")}


class Chart(Figure):
    """A Figure that a notebook shows by itself, without pyplot having been imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The figure as SVG bytes, the same bytes for the same figure: no date in it, identifiers from a fixed salt."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "qilin"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def new_chart(width: float, height: float) -> Chart:
    """An empty figure of so many inches."""
    chart = Chart(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(chart)
    return chart


def literal(text: str) -> str:
    """`text` as it stands: matplotlib would set what stands between two dollars as a formula."""
    return text.replace("$", r"\$")


def quiet(axes: Axes, grid: str = "y") -> None:
    """No frame, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e3e6eb", linewidth=0.8)
    axes.set_axisbelow(True)


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


def count(value: int | Mapping[str, int]) -> int:
    """How many, of a number or of all the numbers of a mapping."""
    return sum(value.values()) if isinstance(value, Mapping) else value


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


def line(axes: Axes, rows: Rows, name: str, colour: str, label: str, marker: str = "", style: str = "-") -> None:
    """Draw one logged quantity by step, leaving out the rows that lack it."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        # A single logged step would be an invisible line.
        marker = marker or ("." if len(points) < 15 else "")
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=4, linestyle=style, linewidth=1.4)


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


def looks(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{model: (colour, marker)}: the stages have their own, baselines the next free ones."""
    found = {model: (COLOURS[model], MARKERS[model]) for model in models if model in COLOURS}
    for place, model in enumerate(model for model in models if model not in COLOURS):
        colour = FURTHER_COLOURS[place % len(FURTHER_COLOURS)]
        found[model] = (colour, FURTHER_MARKERS[place % len(FURTHER_MARKERS)])
    return found


def _interval(axes: Axes, score: Mapping[str, Any] | None, height: float, look: tuple[str, str]) -> bool:
    """Draw one score with its interval; False when it has no items."""
    if not score or not score["n"]:
        return False
    colour, marker = look
    # Not errorbar: it refuses an interval that does not hold its value, which a bootstrap's percentiles may do.
    axes.plot((score["low"], score["high"]), (height, height), color=colour, linewidth=1.1, solid_capstyle="butt")
    axes.plot(score["value"], height, color=colour, marker=marker, markersize=4, linestyle="")
    return True


def _model_key(chart: Chart, names: Mapping[str, str], paper: bool = False) -> None:
    """The legend; `names`: {model: what it is called}."""
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.2, label=literal(names[model]))
        for model, (colour, marker) in looks(list(names)).items()
    ]
    if paper:
        handles.append(Line2D([], [], color=PAPER_COLOUR, marker="X", linestyle="", label="paper"))
    columns = min(KEY_COLUMNS, len(handles))
    # Legends fill their columns first; models are to be read row by row.
    across = [handle for column in range(columns) for handle in handles[column::columns]]
    chart.legend(handles=across, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)


@dataclass(frozen=True)
class Line:
    """A row of a chart of intervals: its label, each model's score, and whether it stands out."""

    label: str
    scores: Mapping[str, Any]
    bold: bool = False


def _interval_chart(panels: Mapping[str, Sequence[Line]], names: Mapping[str, str], xlabel: str) -> Figure:
    """Scores with intervals, a panel per title, a row per line (the first on top), a mark per model of `names`."""
    heights, models = [len(lines) for lines in panels.values()], list(names)
    row = 0.13 + 0.065 * len(models)
    chart = new_chart(7.5, 1.1 + 0.3 * len(panels) + row * sum(heights) + 0.2 * math.ceil(len(models) / KEY_COLUMNS))
    grid = chart.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    look, step = looks(models), 0.74 / max(1, len(models))
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for place, model in enumerate(models):
            shift = step * ((len(models) - 1) / 2 - place)
            for height, line in enumerate(reversed(lines)):
                _interval(axes, line.scores.get(model), height + shift, look[model])
        axes.set_yticks(range(len(lines)), [literal(line.label) for line in reversed(lines)], fontsize=8)
        for label, line in zip(axes.get_yticklabels(), reversed(lines), strict=True):
            label.set_fontweight("bold" if line.bold else "normal")
        axes.set(xlim=(-1, 101), ylim=(-0.6, len(lines) - 0.4))
        axes.set_title(literal(title), fontsize=9, loc="left")
        quiet(axes, "x")
        # So tall a figure is never seen whole: every panel has its own numbers.
        axes.tick_params(axis="x", labelbottom=True, labelsize=8)
        for height in range(0, len(lines), 2):
            axes.axhspan(height - 0.5, height + 0.5, color="#f5f6f9", zorder=0)
    grid[-1].set_xlabel(xlabel)
    _model_key(chart, names)
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
    chart = _interval_chart(
        {title: lines for title, lines in panels.items() if lines},
        {model: name_of(scores, model) for model in results},
        "accuracy, percent, 95 % interval; (items); dashed: chance; bold: medical",
    )
    for axes in chart.axes:
        axes.axvline(25, color="#333333", linestyle="--", linewidth=0.8)
    return chart


def group_accuracy(scores: Mapping[str, Any], column: str = "department", most: int = 40) -> Figure:
    """CMExam accuracy by the values of an annotation column with 95 % intervals, the `most` commonest values.

    A Chinese value bears its English name, or the number that it has in the table of the same column.
    """
    results = scores["cmexam"]
    counts = group_values(results, column)
    if not counts:
        raise QilinError(f"CMExam's items carry no annotation '{column}' in this run: nothing to draw")
    lines = [
        Line(
            f"{figure_label(value, number)} ({n})",
            {model: entry.get("groups", {}).get(column, {}).get(value) for model, entry in results.items()},
        )
        for number, (value, n) in enumerate(counts.items(), start=1)
    ]
    title = f"CMExam by {COLUMNS.get(column, column)}" + (f", the {most} commonest" if len(lines) > most else "")
    names = {model: name_of(scores, model) for model in ordered(results)}
    return _interval_chart({title: lines[:most]}, names, "accuracy, percent, with 95 % interval; (n) items")


def forest(scores: Mapping[str, Any], paper: Mapping[int, PaperTable]) -> Figure:
    """Our scores with 95 % intervals, and the paper's numbers, for the headline metrics of Tables 4, 5 and 6.

    Rows of ours have an interval, rows of the paper a cross, where its number is known (`paper.TABLES`).
    """
    panels = [(paper[number], name) for number, names in HEADLINES.items() for name in names]
    rows = [_forest_rows(table, metric, scores) for table, metric in panels]
    chart = new_chart(8.2, 1.1 + sum(0.45 + 0.2 * len(lines) for lines in rows))
    grid = chart.subplots(len(panels), 1, squeeze=False, height_ratios=[len(lines) + 1 for lines in rows])[:, 0]
    for axes, (table, metric), lines in zip(grid, panels, rows, strict=True):
        for height, (_, model, score, theirs) in enumerate(reversed(lines)):
            found = _interval(axes, score, height, looks([model])[model])
            if theirs is not None:
                axes.plot(theirs, height, marker="X", color=PAPER_COLOUR, markersize=7, linestyle="")
            elif not found:
                across = axes.get_yaxis_transform()
                axes.text(0.01, height, "no number", transform=across, va="center", fontsize=7, color="#7a8494")
        axes.set_yticks(range(len(lines)), [literal(name) for name, *_ in reversed(lines)], fontsize=8)
        axes.set_ylim(-0.6, len(lines) - 0.4)
        axes.set_title(f"{table.title.removesuffix(' results')}: {table.columns[metric]}", fontsize=9, loc="left")
        axes.set_xlim(left=0)
        quiet(axes, "x")
    grid[-1].set_xlabel("percent")
    _model_key(chart, {model: name_of(scores, model) for model in stages_of(scores)}, paper=True)
    return chart


def _forest_rows(
    table: PaperTable, metric: str, scores: Mapping[str, Any]
) -> list[tuple[str, str, Mapping[str, Any] | None, float | None]]:
    """(name, model, our score, the paper's number) of each row: our stages, the paper's numbers, then our others."""
    found = {model: entry.get(metric) for model, entry in scores.get(table.benchmark, {}).items()}
    further = [model for model in ordered(found) if model not in COLOURS and found[model]]
    theirs = [(row.label, row.cells[metric].value) for row in table.rows]
    return [
        *((name_of(scores, model), model, found.get(model), None) for model in stages_of(scores)),
        *((name, name, None, value) for name, value in theirs if value is not None),
        *((name_of(scores, model), model, found[model], None) for model in further),
    ]
