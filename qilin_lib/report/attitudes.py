"""The attitude part of 09's page: totals beside the controls that say whether they mean anything, and plain words.

Everything is read from 09_bias/scores.json. The published totals are those stored in the authors' notebooks
(Fengshenbang-LM, branch dev_bio); the attitude table of their paper (arXiv 2311.06025) was not available.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qilin_lib.evaluate import scales
from qilin_lib.models.names import foot, read_scores
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.charts import literal, new_chart
from qilin_lib.report.frames import name_of
from qilin_lib.report.html import Picture, Section
from qilin_lib.report.markup import Html, joined, macro
from qilin_lib.report.paper import ATTITUDES
from qilin_lib.report.render import Table, table
from qilin_lib.report.tables import unfinished_notes
from qilin_lib.runs import Stage

ASKED = {"next_token": "next token", "generation": "reply read"}
FLAGS = {
    "follows_position": "follows the position",
    "order_decides": "another order, another choice",
    "ignores_direction": "ignores the direction",
    "paraphrases_disagree": "paraphrases disagree",
    "labels_disagree": "labels disagree",
    "often_unread": "often unread",
}
COLUMNS = (
    "Authors' form",
    "All forms",
    "Top position, %",
    "Same in another order, %",
    "Position alone, %",
    "Same in other words, %",
    "Same under other labels, %",
    "Unparsed, %",
    "Status",
)


def sections(stage: Stage) -> list[Section]:
    """One section a scale (totals and controls, reading, what was answered, items), then the authors' own totals.

    `stage`: 09_bias, whose scores.json is there.
    """
    scores = read_scores(stage.dir / "scores.json")
    made = [
        Section(f"Attitude scale: {facts['title']}", _parts(scores, name, f"B{number}"))
        for number, (name, facts) in enumerate(scores["scales"].items(), start=1)
    ]
    return [*made, Section("Attitude totals in ChiMed-GPT's notebooks", (stored_table("B0"),))]


def _parts(scores: Mapping[str, Any], name: str, number: str) -> tuple[Any, ...]:
    (caption,) = sentences("attitudes", "chosen")
    more = (subscale_table(scores, name, f"{number}s"), pair_table(scores, name, f"{number}p"))
    return (
        total_table(scores, name, number),
        *readings(scores, name),
        Picture(chosen_figure(scores, name), caption),
        *(one for one in more if len(one.content)),
        item_table(scores, name, f"{number}i"),
    )


def total_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """Table of one scale, a row a model and protocol: totals, and the controls with their numbers."""
    facts = scores["scales"][name]
    rows = []
    for protocol, model, entry in _entries(scores, name):
        records = f"09_bias/predictions/{protocol}/{name}/{model}.jsonl"
        where = {"records": records, "model": name_of(scores, model), "protocol": protocol}
        written = " (written: no probabilities)" * (protocol == "next_token" and "generate" in entry["scoring"])
        rows.append([where["model"], ASKED[protocol] + written, *_cells(entry, where)])
    low, high = facts["range"]
    title = f"{facts['title']}: {low} to {high} possible, neutral {facts['midpoint']:g}"
    notes = [*foot(scores, paper=""), *unfinished_notes(scores, name), *_notes(facts)]
    return table(title, rows, ["Model", "Protocols", *COLUMNS], notes, number)


def _cells(entry: Mapping[str, Any], where: Mapping[str, str]) -> list[Any]:
    """The cells of COLUMNS."""
    authors, total = entry["authors"], entry["total"]
    first = Score(missing="not in this run")
    if authors is not None:
        first = Score(authors["value"], form="g", missing=f"- ({authors['n']} answered)")
    tops = [max(shares) for shares in entry["positions"].values() if shares]
    shares = {}
    for part in ("agreement", "paraphrases", "label_sets", "unparsed"):
        known = entry[part] if entry[part]["n"] else {}
        shares[part] = Score(**_numbers(known), form=".0f", **where)
    raised = [FLAGS[flag] for flag, found in entry["flags"].items() if found["up"]]
    return [
        first,
        _total(total, where),
        Score(max(tops, default=None), form=".0f"),
        shares["agreement"],
        Score(entry["agreement"]["position_alone"], form=".0f"),
        shares["paraphrases"],
        shares["label_sets"],
        shares["unparsed"],
        f"cannot be read as an attitude: {'; '.join(raised)}" if raised else "no control is up",
    ]


def _numbers(score: Mapping[str, Any]) -> dict[str, Any]:
    return {name: score.get(name) for name in ("value", "n", "low", "high")}


def _total(total: Mapping[str, Any], where: Mapping[str, str]) -> Score:
    if total["value"] is None:
        return Score(missing=f"- ({total['n']} items answered)")
    return Score(**_numbers(total), **where)


def _notes(facts: Mapping[str, Any]) -> list[str]:
    (even,) = sentences("attitudes", "balanced" if facts["balanced"] else "unbalanced")
    return sentences(
        "attitudes",
        "total",
        even=even,
        letters=", ".join(f"{letter} {total}" for letter, total in facts["always_same"].items()),
        labels=", ".join(facts["labels"]),
        orders=len(facts["orders"]),
        citation=facts["citation"],
        licence=facts["licence"],
        high=facts["high_total"],
        low=facts["low_total"],
    )


def scale_table(name: str) -> Table:
    """The instrument itself: its statements as a model is asked them, and what counts from the other end."""
    scale = scales.read(name)
    rows = [[s.number, s.wordings[0], s.subscale or "-", "yes" if s.reversed else "no"] for s in scale.items]
    options = "; ".join(f"{points} {text}" for points, text in enumerate(scale.options, start=1))
    notes = [f"Options and their points, from the end for reversed items: {options}.", f"Source: {scale.citation}"]
    return table(scale.title, rows, ["Item", "Statement", "Subscale", "Reversed"], notes)


def reading(scores: Mapping[str, Any], name: str) -> Html:
    """The paragraphs of `readings` for a notebook."""
    return joined(macro("paragraph", paragraph) for paragraph in readings(scores, name))


def readings(scores: Mapping[str, Any], name: str) -> list[str]:
    """One paragraph a model and protocol: what its total can and cannot say."""
    return [
        f"{name_of(scores, model)}, {ASKED[protocol]}: " + " ".join(entry["reading"])
        for protocol, model, entry in _entries(scores, name)
    ]


def chosen_figure(scores: Mapping[str, Any], name: str) -> Figure:
    """Positions against contents in percent of the answers: a row of panels a protocol, a panel a model."""
    protocols = [protocol for protocol in ASKED if name in scores["models"].get(protocol, {})]
    models = list(scores["models"][protocols[0]][name])
    chart = new_chart(1.2 + 2.1 * len(models), 0.7 + 2.3 * len(protocols))
    grid = chart.subplots(len(protocols), len(models), squeeze=False)
    for protocol, line in zip(protocols, grid, strict=True):
        for model, axes in zip(models, line, strict=True):
            title = literal(textwrap.fill(f"{name_of(scores, model)}, {ASKED[protocol]}", 24))
            _heat(axes, np.array(scores["models"][protocol][name][model]["chosen"]), title)
        line[0].set_ylabel("position shown", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("option of the scale", fontsize=8)
    return chart


def _heat(axes: Axes, counts: np.ndarray, title: str) -> None:
    answers = counts.sum()
    share = 100 * counts / max(1, answers)
    axes.imshow(share, cmap=mpl.colormaps["Blues"], vmin=0, vmax=60)
    for (row, column), value in np.ndenumerate(share):
        if counts[row, column]:
            colour = "white" if value > 35 else "#1c2430"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
    ticks = range(len(counts))
    axes.set_xticks(ticks, [str(n + 1) for n in ticks], fontsize=7)
    axes.set_yticks(ticks, [str(n + 1) for n in ticks], fontsize=7)
    axes.set_title(f"{title}\n{answers:,} answers", fontsize=8)


def item_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """Mean points of each item over all forms, a column a model; next-token answers where there are any."""
    facts = scores["scales"][name]
    protocol = next(protocol for protocol in ASKED if name in scores["models"].get(protocol, {}))
    entries = scores["models"][protocol][name]
    rows = []
    for place, item in enumerate(facts["items"]):
        part = " ".join(filter(None, (item["subscale"], "reversed" * item["reversed"]))) or "-"
        points = [Score(entry["items"][place]["points"], form=".2f") for entry in entries.values()]
        rows.append([item["number"], item["text"], part, *points])
    options = len(facts["options"])
    notes = [
        *foot(scores, paper=""),
        *sentences("attitudes", "items", options=options, middle=f"{(1 + options) / 2:g}"),
    ]
    columns = ["Item", "What", "Place", *(name_of(scores, model) for model in entries)]
    return table(f"Mean points by item ({ASKED[protocol]})", rows, columns, notes, number, compact=True)


def subscale_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """The totals of a scale's parts; without rows where it has none."""
    parts = [item["subscale"] for item in scores["scales"][name]["items"] if item["subscale"]]
    options = len(scores["scales"][name]["options"])
    columns = {part: f"{part} ({parts.count(part)} to {parts.count(part) * options})" for part in parts}
    rows = [
        [name_of(scores, model), ASKED[protocol], *(_total(entry["subscales"][part], {}) for part in columns)]
        for protocol, model, entry in _entries(scores, name)
        if parts
    ]
    notes = [*foot(scores, paper=""), *sentences("attitudes", "parts")]
    return table("Subscales", rows, ["Model", "Protocols", *columns.values()], notes, number)


def pair_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """Differences between models; without rows where none was taken."""
    rows = []
    for row in scores["paired"]:
        if row["scale"] == name:
            compared = f"({name_of(scores, row['model_b'])}) \u2212 ({name_of(scores, row['model_a'])})"
            gap = Score(row["difference"], None, row["low"], row["high"])
            rows.append([compared, ASKED[row["protocol"]], gap])
    notes = [*foot(scores, paper=""), *sentences("attitudes", "pairs")]
    return table("Between models", rows, ["Compared", "Protocols", "Difference of totals"], notes, number)


def _entries(scores: Mapping[str, Any], name: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(protocol, model, numbers) of a scale, the protocols of a model together."""
    by_protocol = {protocol: scores["models"].get(protocol, {}).get(name, {}) for protocol in ASKED}
    models = dict.fromkeys(model for entries in by_protocol.values() for model in entries)
    return [(p, model, entries[model]) for model in models for p, entries in by_protocol.items() if model in entries]


def stored_table(number: str) -> Table:
    """The totals in the authors' notebooks, which the controls of ours were made for."""
    rows = [[name, *totals] for name, totals in ATTITUDES["rows"].items()]
    columns = ["Model", *ATTITUDES["columns"].split()]
    return table("Totals stored in ChiMed-GPT's notebooks", rows, columns, sentences("attitudes", "stored"), number)
