"""Views of 06: what passages beside the question change, and what a judge makes of answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files
from qilin_lib.evaluate import evidence
from qilin_lib.evaluate.judging import comparison, rating, sheet, verdicts
from qilin_lib.evaluate.judging.comparison import OUTCOMES
from qilin_lib.models.names import foot
from qilin_lib.report import figures
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.frames import name_of
from qilin_lib.report.html import Picture
from qilin_lib.report.render import Table, table, view

# Of agreement: percent, kappa, alpha.
FORMS = (".1f", ".2f", ".2f")


def tables(folder: Path, scores: Mapping[str, Any]) -> list[Table]:
    """Passages against none, pairs, strengths, what the judge follows, and people; [] where the profile asks for none.

    `folder` is that of stage 06.
    """
    people = [people_table(folder)] if (folder / "judging" / "key.json").exists() and any(_exports(folder)) else []
    return [*retrieval_tables(folder, scores), *judged_tables(scores), *people]


def retrieval_tables(folder: Path, scores: Mapping[str, Any]) -> list[Table]:
    """J1: accuracy with passages less without, and less with passages by chance, on the same items."""
    rows = []
    for row in scores["paired"]:
        if evidence.parts(row["model_b"])[1] and row["metric"] == "accuracy":
            sides = [name_of(scores, row[side]) for side in ("model_a", "model_b")]
            gap = Score.of({**row, "value": row["difference"]}, "+.1f")
            rows.append([row["benchmark"], *sides, gap, Score(row["p"], form=".3g")])
    if not rows:
        return []
    facts = files.read_json(folder / "evidence" / "index.json")
    left = "; ".join(f"{why} {count:,}" for why, count in facts["left_out"].items())
    about = {"passages": facts["passages"], "left": left or "nothing, since no document holds an item"}
    after: list[str] = []
    for benchmark, recall in facts["recall"].items():
        after += sentences("judged", "recall", benchmark=benchmark, **recall)
    return [view("judged", "retrieval", rows, number="J1", after=[*after, *foot(scores, paper="")], **about)]


def judged_tables(scores: Mapping[str, Any]) -> list[Table]:
    """J2: pairs of models as judged; J3: their strengths; J4: what the judge follows. Of single answers J6 alone."""
    judged = scores.get("judged")
    if judged is None:
        return []
    if "unfinished" in judged:
        why = [f"Nothing was judged: {judged['unfinished']}."]
        return [table("Answers judged", [], ["Model"], why, "J2")]
    about = sentences("judged", "judge", **{name: judged[name] for name in ("judge", "preset", "source", "benchmark")})
    if "ratings" in judged:
        return [_ratings_table(scores, judged, about)]
    pairs = []
    for row in judged["comparison"]:
        sides = [name_of(scores, row[side]) for side in ("model_a", "model_b")]
        read = row["n"] - row["unread"]
        rates = [
            Score(row["win_rate"], read, row["low"], row["high"]),
            Score(row["length_controlled"], read, row["lc_low"], row["lc_high"]),
        ]
        pairs.append([*sides, *(row[name] for name in OUTCOMES), *rates])
    strengths = [
        [name_of(scores, row["model"]), Score.of({**row, "value": row["strength"]}, ".2f")]
        for row in judged["strengths"]
    ]
    controls = [
        [row["control"], Score.of({**row, "value": row["share"]}), row["warning"] or "-"] for row in judged["controls"]
    ]
    columns = [*OUTCOMES, "Win rate", "At equal length"]
    return [
        view("judged", "pairs", pairs, columns, about, "J2", foot(scores, paper="")),
        view("judged", "strengths", strengths, (), about, "J3"),
        view("judged", "controls", controls, (), about, "J4"),
    ]


def pictures(scores: Mapping[str, Any]) -> list[Picture]:
    """The figure of what was judged in pairs; [] where nothing was."""
    pairs = scores.get("judged", {}).get("comparison")
    return [Picture(figures.judged_pairs(scores), "Answers judged in pairs, both orders")] if pairs else []


def _ratings_table(scores: Mapping[str, Any], judged: Mapping[str, Any], about: list[str]) -> Table:
    """J6: a row per model, a column per criterion."""
    chosen = verdicts.preset(judged["preset"])
    heads = {rating.MEAN: f"Mean, {chosen.low}–{chosen.high}", rating.POINTS: "Points, percent"}
    rows: dict[str, dict[str, Any]] = {}
    for row in judged["ratings"]:
        own = rows.setdefault(row["model"], {"Model": name_of(scores, row["model"]), "Unread": row["unread"]})
        form = ".1f" if row["criterion"] == rating.POINTS else ".2f"
        own[heads.get(row["criterion"], row["criterion"])] = Score.of(row, form)
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    content = [[row.get(name, Score()) for name in columns] for row in rows.values()]
    return view("judged", "ratings", content, columns, about, "J6", foot(scores, paper=""))


def _exports(folder: Path) -> list[Path]:
    """What people saved of judging/sheet.html: runs/<name>/people/*.json."""
    return sorted((folder.parent / "people").glob("*.json"))


def people_table(folder: Path) -> Table:
    """J5: how far people who filled in the sheet of 06 (`folder`) agree with its judge, and with each other."""
    own = folder / "judging"
    said = [*files.read_jsonl(own / "records.jsonl"), *sheet.read_all(_exports(folder), own / "key.json")]
    rows = [
        [*row[:4], *(None if pd.isna(one) else f"{one:{form}}" for one, form in zip(row[4:], FORMS, strict=True))]
        for row in comparison.agreement(said).itertuples(index=False)
    ]
    return view("judged", "people", rows, number="J5")
