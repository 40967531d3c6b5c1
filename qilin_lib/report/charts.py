"""What all figures share: fonts, bytes, colours, curves by step, and the plot of scores with intervals.

What is Chinese in the data is Chinese in a figure where the machine has a font for it; else its code points are spelled
out, so that no picture shows boxes. Colours are those of Okabe and Ito, doubled by marker shapes for readers who see no
colour. No pyplot: nothing global moves.
"""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.lines import Line2D
from matplotlib.text import Text

from qilin_lib.errors import visible

Rows = Sequence[Mapping[str, Any]]

COLOURS = {"base": "#7f7f7f", "dcpt": "#e69f00", "sft": "#0072b2", "dpo": "#009e73"}
MARKERS = {"base": "o", "dcpt": "s", "sft": "^", "dpo": "D"}
PAPER_COLOUR = "#d55e00"
# Baselines take these in the order of their names, again and again.
FURTHER_COLOURS = ("#cc79a7", "#56b4e9", "#8c564b", "#b2a100", "#000000", "#9467bd", "#17718c", "#a6611a", "#5e8c31")
FURTHER_MARKERS = ("v", "P", "<", "*", ">", "h")
# A name by base and stages is long: more columns would not fit side by side.
KEY_COLUMNS = 2
LATIN = "DejaVu Sans"
# Characters of a label.
LONGEST = 80
# Families of which a simplified Chinese system has one, the plainest first, and what their files are called.
CHINESE = (
    *("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN", "PingFang SC", "Microsoft YaHei"),
    *("WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Noto Sans CJK JP", "Noto Serif CJK SC"),
)
CHINESE_FILES = re.compile(r"CJK|NotoSansSC|SourceHanSans|PingFang|msyh|wqy|simhei", re.IGNORECASE)


class Chart(Figure):
    """A Figure that a notebook shows by itself, without pyplot having been imported."""

    def _repr_png_(self) -> bytes:
        return png(self)


@cache
def chinese_family() -> str | None:
    """The family of fonts that draws Chinese on this machine; None if there is none."""
    listed = {entry.name for entry in font_manager.fontManager.ttflist if Path(entry.fname).exists()}
    if listed.isdisjoint(CHINESE):
        # matplotlib lists the machine's fonts once; one that was installed since is not among them.
        for path in filter(CHINESE_FILES.search, font_manager.findSystemFonts()):
            with suppress(OSError, RuntimeError):
                font_manager.fontManager.addfont(path)
        listed = {entry.name for entry in font_manager.fontManager.ttflist}
    return next((family for family in CHINESE if family in listed), None)


@cache
def _fonts(families: tuple[str, ...]) -> list[FT2Font]:
    return [font_manager.get_font(font_manager.findfont(family)) for family in families]


def _families() -> tuple[str, ...]:
    return tuple(filter(None, (LATIN, chinese_family())))


def literal(text: str) -> str:
    """`text` as it stands: control characters, and those that no font here has, are spelled out, and "$" is escaped,
    for matplotlib would set what stands between two as a formula. One that would fill the figure is cut."""
    fonts, text = _fonts(_families()), text if len(text) <= LONGEST else f"{text[:LONGEST]} …"
    drawn = "".join(
        c if c.isascii() or any(font.get_char_index(ord(c)) for font in fonts) else c.encode("unicode_escape").decode()
        for c in visible(text)
    )
    return drawn.replace("$", r"\$")


def _saved(figure: Figure, **options: Any) -> bytes:
    """The bytes of a figure whose texts fall back on the Chinese font."""
    for text in figure.findobj(Text):
        text.set_family(list(_families()))
    buffer = io.BytesIO()
    figure.savefig(buffer, **options)
    return buffer.getvalue()


def png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes."""
    return _saved(figure, format="png", dpi=dpi)


def svg(figure: Figure) -> bytes:
    """The figure as SVG bytes, the same bytes for the same figure: no date in it, identifiers from a fixed salt."""
    with mpl.rc_context({"svg.hashsalt": "qilin"}):
        drawn = _saved(figure, format="svg", metadata={"Date": None})
    # matplotlib names a clip by a hash of all digits of its place, of which the last ones differ from run to run.
    names: dict[bytes, bytes] = {}
    return re.sub(rb"\bp[0-9a-f]{10}\b", lambda clip: names.setdefault(clip[0], b"p%d" % len(names)), drawn)


def new_chart(width: float, height: float) -> Chart:
    """An empty figure of so many inches."""
    chart = Chart(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(chart)
    return chart


def quiet(axes: Axes, grid: str = "y") -> None:
    """No frame, a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color="#e3e6eb", linewidth=0.8)
    axes.set_axisbelow(True)


def line(axes: Axes, rows: Rows, name: str, colour: str, label: str, marker: str = "", style: str = "-") -> None:
    """Draw one logged quantity by step, leaving out the rows that lack it."""
    points = [(row["step"], row[name]) for row in rows if row.get(name) is not None]
    if points:
        # A single logged step would be an invisible line.
        marker = marker or ("." if len(points) < 15 else "")
        steps, values = zip(*points, strict=True)
        axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=4, linestyle=style, linewidth=1.4)


@dataclass(frozen=True)
class Panel:
    """Logged quantities over the steps, {key in the log: (colour, label)}, and a dashed line at `level`."""

    title: str
    lines: Mapping[str, tuple[str, str]]
    level: float | None = None


def curves(rows: Rows, panels: Sequence[Panel], columns: int, height: float) -> Chart:
    """Panels of curves over the optimizer's steps, `columns` side by side, with a key where a panel has several."""
    chart = new_chart(11, height)
    grid = chart.subplots(math.ceil(len(panels) / columns), columns, squeeze=False, sharex=True)
    for axes, panel in zip(grid.ravel(), panels, strict=True):
        for place, (key, (colour, label)) in enumerate(panel.lines.items()):
            line(axes, rows, key, colour, label, style="--" if place else "-")
        if panel.level is not None:
            axes.axhline(panel.level, color="#333333", linewidth=0.8, linestyle="--")
        if len(panel.lines) > 1 and axes.lines:
            axes.legend(frameon=False, fontsize=8)
        axes.set_title(panel.title, fontsize=10)
        axes.xaxis.get_major_locator().set_params(integer=True)
        quiet(axes)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer step")
    return chart


def looks(models: Sequence[str]) -> dict[str, tuple[str, str]]:
    """{model: (colour, marker)}: the stages have their own, baselines the next free ones."""
    further = zip(itertools.cycle(FURTHER_COLOURS), itertools.cycle(FURTHER_MARKERS), strict=True)
    own = {model: (COLOURS[model], MARKERS[model]) for model in models if model in COLOURS}
    return own | {model: look for model, look in zip((m for m in models if m not in own), further, strict=False)}


def interval(
    axes: Axes,
    score: Mapping[str, Any] | None,
    place: float,
    look: tuple[str, str],
    upright: bool = False,
    label: str | None = None,
) -> bool:
    """Draw one score {value, low, high, n} with its interval, lying at the height `place` or upright above it; False
    when it has no items. `look`: (colour, marker)."""
    if not score or not score["n"]:
        return False
    colour, marker = look
    # Not errorbar: it refuses an interval that does not hold its value, which a bootstrap's percentiles may do. A bound
    # that is not there becomes NaN, which draws nothing.
    ends = np.array([score["low"], score["high"]], dtype=float), np.array([place, place])
    mark = np.array([score["value"]]), np.array([place])
    step = -1 if upright else 1
    axes.plot(*ends[::step], color=colour, linewidth=1.1)
    axes.plot(*mark[::step], color=colour, marker=marker, markersize=4, linestyle="", label=label)
    return True


def interval_curve(
    axes: Axes, scores: Mapping[float, Mapping[str, Any]], look: tuple[str, str], label: str, joined: bool = True
) -> None:
    """Scores with upright intervals at their places along the axis, joined by a line or not."""
    bare = (look[0], "None")
    known = {place: score["value"] for place, score in scores.items() if interval(axes, score, place, bare, True)}
    colour, marker = look
    style = {"marker": marker, "markersize": 4, "linestyle": "-" if joined else "", "linewidth": 1.4}
    axes.plot(list(known), list(known.values()), color=colour, label=label, **style)


@dataclass(frozen=True)
class Line:
    """A row of an interval plot: its label, each model's score, whether it stands out, and a number of the paper's."""

    label: str
    scores: Mapping[str, Any]
    bold: bool = False
    cross: float | None = None


def interval_plot(
    panels: Mapping[str, Sequence[Line]], names: Mapping[str, str], xlabel: str, percent: bool = True
) -> Figure:
    """Scores with 95 % intervals, a panel per title, a row per line (the first on top), a mark per model of `names`.

    Models of one row stand below each other. `percent`: every panel runs from 0 to 100, else from 0 to what it holds. A
    row without score and cross says so where the paper's crosses are drawn.
    """
    models, paper = list(names), any(line.cross is not None for lines in panels.values() for line in lines)
    most = max((len(line.scores) for lines in panels.values() for line in lines), default=1)
    row, step = 0.13 + 0.065 * most, 0.74 / max(1, most)
    heights = [0.3 + row * len(lines) for lines in panels.values()]
    chart = new_chart(8, 1.1 + sum(heights) + 0.2 * math.ceil((len(models) + paper) / KEY_COLUMNS))
    grid = chart.subplots(len(panels), 1, squeeze=False, sharex=percent, height_ratios=heights)[:, 0]
    for axes, (title, lines) in zip(grid, panels.items(), strict=True):
        for height, line in enumerate(reversed(lines)):
            colours, shown = looks(list(dict.fromkeys([*models, *line.scores]))), False
            for place, (model, score) in enumerate(line.scores.items()):
                shown |= interval(axes, score, height + step * ((len(line.scores) - 1) / 2 - place), colours[model])
            if line.cross is not None:
                axes.plot(line.cross, height, marker="X", color=PAPER_COLOUR, markersize=7, linestyle="")
            elif paper and not shown:
                across = axes.get_yaxis_transform()
                axes.text(0.01, height, "no number", transform=across, va="center", fontsize=7, color="#7a8494")
        axes.set_yticks(range(len(lines)), [literal(line.label) for line in reversed(lines)], fontsize=8)
        for label, line in zip(axes.get_yticklabels(), reversed(lines), strict=True):
            label.set_fontweight("bold" if line.bold else "normal")
        axes.set(xlim=(-1, 101) if percent else (0, None), ylim=(-0.6, len(lines) - 0.4))
        axes.set_title(literal(title), fontsize=9, loc="left")
        quiet(axes, "x")
        # So tall a figure is never seen whole: every panel has its own numbers.
        axes.tick_params(axis="x", labelbottom=True, labelsize=8)
        for height in range(0, len(lines), 2):
            axes.axhspan(height - 0.5, height + 0.5, color="#f5f6f9", zorder=0)
    grid[-1].set_xlabel(xlabel)
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.2, label=literal(names[model]))
        for model, (colour, marker) in looks(models).items()
    ]
    if paper:
        handles.append(Line2D([], [], color=PAPER_COLOUR, marker="X", linestyle="", label="paper"))
    columns = min(KEY_COLUMNS, len(handles))
    # Legends fill their columns first; models are to be read row by row.
    by_row = [handle for column in range(columns) for handle in handles[column::columns]]
    chart.legend(handles=by_row, loc="outside upper center", ncols=columns, frameon=False, fontsize=8)
    return chart
