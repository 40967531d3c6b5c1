"""Figures of notebooks 01-07: the ledger, training curves, accuracy by subject, lengths, ours against the paper.

Labels are English throughout (subject handles, registry names), so that no picture depends on a Chinese font. Colours
are those of Okabe and Ito, doubled by marker shapes for readers who see no colour. No pyplot: nothing global moves.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from qilin_lib.chimed.sources import SETS
from qilin_lib.errors import QilinError
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
MEDICAL_SUBJECTS = ("clinical_medicine", "physician", "basic_medicine")
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


def _chart(width: float, height: float) -> Chart:
    chart = Chart(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(chart)
    return chart


def _quiet(axes: Axes, grid: str = "y") -> None:
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
    counts = {fate: np.array([_count(entry[fate]) for entry in entries]) for fate in ("read", *FATES)}
    chart = _chart(11, 1.2 + 0.24 * len(entries))
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
    _quiet(axes, "x")
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


def _count(value: int | Mapping[str, int]) -> int:
    return sum(value.values()) if isinstance(value, Mapping) else value


def loss_curves(logs: Mapping[str, Rows]) -> Figure:
    """Training and held-out loss over steps, one panel a stage, the learning rate below it.

    A row is {"step", "loss"?, "eval_loss"?, "learning_rate"?}. The dashed line of the stage "dpo" is ln 2, the DPO loss
    of a policy equal to its reference.
    """
    if not logs:
        raise QilinError("loss_curves needs the log of at least one stage, got none")
    chart = _chart(max(4.2, 3.8 * len(logs)), 4.2)
    grid = chart.subplots(2, len(logs), squeeze=False, sharex="col", height_ratios=[3, 1])
    for (stage, rows), (top, bottom) in zip(logs.items(), grid.T, strict=True):
        colour = COLOURS.get(stage, "#333333")
        _line(top, rows, "loss", colour, "training")
        _line(top, rows, "eval_loss", PAPER_COLOUR, "held out", marker="o")
        _line(bottom, rows, "learning_rate", colour, "")
        if stage == "dpo":
            top.axhline(math.log(2), color="#333333", linestyle="--", linewidth=1, label="ln 2")
        top.set_title(stage.upper(), fontsize=10)
        bottom.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        bottom.set_xlabel("optimizer step")
        if top.get_legend_handles_labels()[0]:
            top.legend(frameon=False, fontsize=8)
        _quiet(top)
        _quiet(bottom)
    grid[0, 0].set_ylabel("loss, nats")
    grid[1, 0].set_ylabel("learning rate")
    return chart


def _line(axes: Axes, rows: Rows, name: str, colour: str, label: str, marker: str = "", style: str = "-") -> None:
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        # A single logged step would be an invisible line.
        marker = marker or ("." if len(points) < 15 else "")
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=4, linestyle=style, linewidth=1.4)


def dpo_curves(rows: Rows) -> Figure:
    """Loss, reward margin, reward accuracy over DPO steps; rewards, log-probabilities and lengths of both sides.

    A margin can grow while both log-probabilities fall; rewards show that fall free of which pairs a batch holds.
    """
    chart = _chart(11, 5.4)
    grid = chart.subplots(2, 3, sharex=True)
    loss, margin, accuracy = grid[0]
    for axes, name, level in (
        (loss, "loss", math.log(2)),
        (margin, "rewards/margins", 0),
        (accuracy, "rewards/accuracies", 0.5),
    ):
        _line(axes, rows, name, COLOURS["dpo"], name)
        axes.axhline(level, color="#333333", linewidth=0.8, linestyle="--")
    accuracy.set_ylim(-0.02, 1.02)
    for axes, prefix in zip(grid[1], ("rewards", "logps", "lengths"), strict=True):
        _line(axes, rows, f"{prefix}/chosen", COLOURS["sft"], "chosen")
        _line(axes, rows, f"{prefix}/rejected", PAPER_COLOUR, "rejected", style="--")
        axes.set_xlabel("optimizer step")
        if axes.lines:
            axes.legend(frameon=False, fontsize=8)
    titles = ("loss (dashed: ln 2)", "reward margin, chosen - rejected", "pairs ranked right")
    titles += ("implicit reward", "log-probability, nats", "answer length, tokens")
    for axes, title in zip(grid.ravel(), titles, strict=True):
        axes.set_title(title, fontsize=10)
        _quiet(axes)
    return chart


def length_histogram(lengths: Mapping[str, Sequence[int]], limit: int | None = None, unit: str = "tokens") -> Figure:
    """Lengths by group on a logarithmic axis; `limit` draws where texts are cut and says what share lies beyond it."""
    filled = {name: np.asarray(values) for name, values in lengths.items() if len(values)}
    if not filled:
        raise QilinError("length_histogram got no length to draw: every group is empty")
    top = max(values.max() for values in filled.values())
    bins = np.unique(np.geomspace(1, max(top + 1, 2), 50).round())
    chart = _chart(7.5, 3.6)
    axes = chart.subplots()
    palette = [*COLOURS.values(), PAPER_COLOUR, "#56b4e9", "#cc79a7", "#000000"]
    for place, (name, values) in enumerate(filled.items()):
        beyond = "" if limit is None else f", {100 * (values > limit).mean():.1f} % beyond"
        label = f"{name} (n={len(values):,}, median {np.median(values):,.0f}{beyond})"
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
    _quiet(axes)
    chart.legend(loc="outside upper center", ncols=1 if len(filled) < 4 else 2, frameon=False, fontsize=8)
    return chart


def _interval(axes: Axes, score: Mapping[str, Any] | None, height: float, model: str) -> bool:
    """Draw one score with its interval; False when it has no items."""
    if not score or not score["n"]:
        return False
    error = [[score["value"] - score["low"]], [score["high"] - score["value"]]]
    axes.errorbar(
        score["value"],
        height,
        xerr=error,
        fmt=MARKERS.get(model, "v"),
        color=COLOURS.get(model, "#333333"),
        markersize=4,
        linewidth=1.1,
        capsize=0,
    )
    return True


def _model_key(chart: Chart, models: Sequence[str], paper: bool = False) -> None:
    handles = [
        Line2D([], [], color=COLOURS.get(m, "#333333"), marker=MARKERS.get(m, "v"), linewidth=1.2, label=m)
        for m in models
    ]
    if paper:
        handles.append(Line2D([], [], color=PAPER_COLOUR, marker="X", linestyle="", label="paper"))
    chart.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False)


def subject_accuracy(scores: Mapping[str, Any], models: Sequence[str] = tuple(COLOURS)) -> Figure:
    """C-Eval accuracy by subject and model with 95 % intervals, best subject of the last model on top."""
    results = {m: scores["ceval"][m]["subjects"] for m in models if m in scores["ceval"]}
    known = [(s, score["value"]) for s, score in list(results.values())[-1].items() if score["n"]] if results else []
    if not known:
        raise QilinError(f"scores.json has no C-Eval item for {list(models)}: nothing to draw by subject")
    subjects = [subject for subject, _ in sorted(known, key=lambda pair: (pair[1], pair[0]))]
    chart = _chart(7.5, 1.3 + (0.12 + 0.06 * len(results)) * len(subjects))
    axes = chart.subplots()
    for place, (model, by_subject) in enumerate(results.items()):
        shift = 0.2 * ((len(results) - 1) / 2 - place)
        for height, subject in enumerate(subjects):
            _interval(axes, by_subject.get(subject), height + shift, model)
    last = list(results.values())[-1]
    axes.set_yticks(range(len(subjects)), [f"{s.replace('_', ' ')} ({last[s]['n']})" for s in subjects], fontsize=8)
    for label, subject in zip(axes.get_yticklabels(), subjects, strict=True):
        label.set_fontweight("bold" if subject in MEDICAL_SUBJECTS else "normal")
    axes.axvline(25, color="#333333", linestyle="--", linewidth=0.8)
    axes.set(
        xlim=(-1, 101),
        ylim=(-0.7, len(subjects) - 0.3),
        xlabel="accuracy, percent, with 95 % interval; (n) items; dashed: chance; bold: medical subjects",
    )
    _quiet(axes, "x")
    for height in range(0, len(subjects), 2):
        axes.axhspan(height - 0.5, height + 0.5, color="#f5f6f9", zorder=0)
    _model_key(chart, list(results))
    return chart


def forest(scores: Mapping[str, Any], paper: Mapping[int, PaperTable]) -> Figure:
    """Our scores with 95 % intervals against the paper's numbers, for the headline metrics of Tables 4, 5 and 6.

    A cross appears only where the paper's number is known (`paper.TABLES`).
    """
    panels = [(paper[number], name) for number, names in HEADLINES.items() for name in names]
    chart = _chart(8.2, 1.1 + 1.25 * len(panels))
    for axes, (table, metric) in zip(chart.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        results = scores.get(table.benchmark, {})
        theirs = {row.ours: row.cells[metric].value for row in table.rows if row.ours}
        for height, model in enumerate(reversed(COLOURS)):
            found = _interval(axes, results.get(model, {}).get(metric), height, model)
            if theirs.get(model) is not None:
                axes.plot(theirs[model], height, marker="X", color=PAPER_COLOUR, markersize=7, linestyle="")
            elif not found:
                axes.text(
                    0.01,
                    height,
                    "no number",
                    transform=axes.get_yaxis_transform(),
                    va="center",
                    fontsize=7,
                    color="#7a8494",
                )
        axes.set_yticks(range(len(COLOURS)), list(reversed(COLOURS)), fontsize=8)
        axes.set_ylim(-0.6, len(COLOURS) - 0.4)
        axes.set_title(f"{table.title.removesuffix(' results')}: {table.columns[metric]}", fontsize=9, loc="left")
        axes.set_xlim(left=0)
        _quiet(axes, "x")
    axes.set_xlabel("percent")
    _model_key(chart, list(COLOURS), paper=True)
    return chart
