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
from matplotlib.figure import Figure

from qilin_lib.evaluate import scales
from qilin_lib.models.names import foot, read_scores
from qilin_lib.report.breakdowns import usage_table
from qilin_lib.report.cells import NAMES, Score, sentences
from qilin_lib.report.charts import literal, new_chart
from qilin_lib.report.frames import name_of
from qilin_lib.report.html import Picture, Section
from qilin_lib.report.markup import Html, joined, macro
from qilin_lib.report.paper import ATTITUDES
from qilin_lib.report.render import Table, view
from qilin_lib.report.tables import unfinished_notes
from qilin_lib.runs import Stage

ASKED = {"next_token": "next token", "generation": "reply read"}


def sections(stage: Stage) -> list[Section]:
    """One section a scale (totals and controls, reading, what was answered, items), what servers were asked, then the
    authors' own totals.

    `stage`: 09_bias, whose scores.json is there.
    """
    scores = read_scores(stage.dir / "scores.json")
    (caption,) = sentences("attitudes", "chosen")
    made = []
    for place, (name, facts) in enumerate(scores["scales"].items(), start=1):
        more = [subscale_table(scores, name, f"B{place}s"), pair_table(scores, name, f"B{place}p")]
        parts = (
            total_table(scores, name, f"B{place}"),
            reading(scores, name),
            Picture(chosen_figure(scores, name), caption),
            *(one for one in more if len(one.content)),
            item_table(scores, name, f"B{place}i"),
        )
        made.append(Section(f"Attitude scale: {facts['title']}", parts))
    stored = [[name, *totals] for name, totals in ATTITUDES["rows"].items()]
    published = view("attitudes", "stored", stored, ATTITUDES["columns"].split(), (), "B0")
    if usage := usage_table(scores):
        made.append(Section(usage.title, (usage,)))
    return [*made, Section("Attitude totals in ChiMed-GPT's notebooks", (published,))]


def total_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """Table of one scale, a row a model and protocol: totals, and the controls with their numbers."""
    facts = scores["scales"][name]
    rows = []
    for protocol, model, entry in _entries(scores, name):
        records = f"09_bias/predictions/{protocol}/{name}/{model}.jsonl"
        where = {"records": records, "model": name_of(scores, model), "protocol": protocol}
        written = " (written: no probabilities)" * (protocol == "next_token" and "generate" in entry["scoring"])
        authors = Score(missing="not in this run")
        if entry["authors"] is not None:
            missing = f"- ({entry['authors']['n']} answered)"
            authors = Score(entry["authors"]["value"], form="g", missing=missing)
        shares = {
            part: Score.of(entry[part] if entry[part]["n"] else None, ".0f", **where)
            for part in ("agreement", "paraphrases", "label_sets", "unparsed")
        }
        up = [NAMES["flags"][flag] for flag, found in entry["flags"].items() if found["up"]]
        rows.append(
            [
                where["model"],
                ASKED[protocol] + written,
                authors,
                _total(entry["total"], **where),
                Score(max((max(each) for each in entry["positions"].values() if each), default=None), form=".0f"),
                shares["agreement"],
                Score(entry["agreement"]["position_alone"], form=".0f"),
                *(shares[part] for part in ("paraphrases", "label_sets", "unparsed")),
                f"cannot be read as an attitude: {'; '.join(up)}" if up else "no control is up",
            ]
        )
    (even,) = sentences("attitudes", "balanced" if facts["balanced"] else "unbalanced")
    about = {
        "letters": ", ".join(f"{letter} {total}" for letter, total in facts["always_same"].items()),
        "labels": ", ".join(facts["labels"]),
        "orders": len(facts["orders"]),
        "least": facts["range"][0],
        "most": facts["range"][1],
        "high": facts["high_total"],
        "low": facts["low_total"],
        **{known: facts[known] for known in ("citation", "licence", "title", "midpoint")},
    }
    notes = [*foot(scores, paper=""), *unfinished_notes(scores, name)]
    return view("attitudes", "total", rows, (), notes, number, even=even, **about)


def _total(total: Mapping[str, Any], **where: str) -> Score:
    if total["value"] is None:
        return Score(missing=f"- ({total['n']} items answered)")
    return Score.of(total, **where)


def scale_table(name: str) -> Table:
    """The instrument itself: its statements as a model is asked them, and what counts from the other end."""
    scale = scales.read(name)
    rows = [[s.number, s.text, s.subscale or "-", "yes" if s.number in scale.reversed else "no"] for s in scale.items]
    options = "; ".join(f"{points} {text}" for points, text in enumerate(scale.options, start=1))
    return view("attitudes", "scale", rows, title=scale.title, options=options, citation=scale.citation)


def reading(scores: Mapping[str, Any], name: str) -> Html:
    """One paragraph a model and protocol: what its total can and cannot say."""
    told = [
        f"{name_of(scores, model)}, {ASKED[protocol]}: " + " ".join(entry["reading"])
        for protocol, model, entry in _entries(scores, name)
    ]
    return joined(macro("paragraph", paragraph) for paragraph in told)


def chosen_figure(scores: Mapping[str, Any], name: str) -> Figure:
    """Positions against contents in percent of the answers: a row of panels a protocol, a panel a model."""
    protocols = [protocol for protocol in ASKED if name in scores["models"].get(protocol, {})]
    models = list(scores["models"][protocols[0]][name])
    chart = new_chart(1.2 + 2.1 * len(models), 0.7 + 2.3 * len(protocols))
    grid = chart.subplots(len(protocols), len(models), squeeze=False)
    for (row, column), axes in np.ndenumerate(grid):
        protocol, model = protocols[row], models[column]
        counts = np.array(scores["models"][protocol][name][model]["chosen"])
        share = 100 * counts / max(1, counts.sum())
        axes.imshow(share, cmap=mpl.colormaps["Blues"], vmin=0, vmax=60)
        for (position, content), value in np.ndenumerate(share):
            if counts[position, content]:
                colour = "white" if value > 35 else "#1c2430"
                axes.text(content, position, f"{value:.0f}", ha="center", va="center", fontsize=7, color=colour)
        ticks = range(len(counts))
        axes.set_xticks(ticks, [str(n + 1) for n in ticks], fontsize=7)
        axes.set_yticks(ticks, [str(n + 1) for n in ticks], fontsize=7)
        title = literal(textwrap.fill(f"{name_of(scores, model)}, {ASKED[protocol]}", 24))
        axes.set_title(f"{title}\n{counts.sum():,} answers", fontsize=8)
    for axes in grid[:, 0]:
        axes.set_ylabel("position shown", fontsize=8)
    for axes in grid[-1]:
        axes.set_xlabel("option of the scale", fontsize=8)
    return chart


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
    about = {"options": options, "middle": f"{(1 + options) / 2:g}", "asked": ASKED[protocol]}
    models, notes = [name_of(scores, model) for model in entries], foot(scores, paper="")
    return view("attitudes", "items", rows, models, notes, number, compact=True, **about)


def subscale_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """The totals of a scale's parts; without rows where it has none."""
    parts = [item["subscale"] for item in scores["scales"][name]["items"] if item["subscale"]]
    options = len(scores["scales"][name]["options"])
    columns = {part: f"{part} ({parts.count(part)} to {parts.count(part) * options})" for part in parts}
    rows = [
        [name_of(scores, model), ASKED[protocol], *(_total(entry["subscales"][part]) for part in columns)]
        for protocol, model, entry in _entries(scores, name)
        if parts
    ]
    return view("attitudes", "parts", rows, columns.values(), foot(scores, paper=""), number)


def pair_table(scores: Mapping[str, Any], name: str, number: str) -> Table:
    """Differences between models; without rows where none was taken."""
    rows = []
    for row in scores["paired"]:
        if row["scale"] == name:
            compared = f"({name_of(scores, row['model_b'])}) \u2212 ({name_of(scores, row['model_a'])})"
            gap = Score(row["difference"], None, row["low"], row["high"])
            rows.append([compared, ASKED[row["protocol"]], gap])
    return view("attitudes", "pairs", rows, (), foot(scores, paper=""), number)


def _entries(scores: Mapping[str, Any], name: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(protocol, model, numbers) of a scale, the protocols of a model together."""
    by_protocol = {protocol: scores["models"].get(protocol, {}).get(name, {}) for protocol in ASKED}
    models = dict.fromkeys(model for entries in by_protocol.values() for model in entries)
    return [(p, model, entries[model]) for model in models for p, entries in by_protocol.items() if model in entries]
