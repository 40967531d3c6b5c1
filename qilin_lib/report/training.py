"""Showing what a training stage did: its facts, and held-out scores with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.evaluate.intervals import percentiles, resample_counts, wilson
from qilin_lib.report.cells import ADAPTIVE, NAMES, Score, sentences
from qilin_lib.report.markup import Html, macro
from qilin_lib.report.render import Table, table, view
from qilin_lib.runs import Stage
from qilin_lib.train import one_stage

NOTHING = Score(n=0)


def facts_table(facts: Mapping[str, Any], title: str = "What ran", whole: bool = False) -> Table:
    """What really ran, as the child process reported it: the most important in words and the others below, or the
    `whole` list.

    What has a table of its own (counts by source) is left to that."""
    known = {name: value for name, value in facts.items() if not isinstance(value, dict) and name != "template_sha256"}
    for name, value in known.items():
        if isinstance(value, list):
            known[name] = ", ".join(map(str, value)) or "none"
        elif value is None or isinstance(value, bool):
            known[name] = "-" if value is None else str(value)
    words = {name: name.replace("_", " ") for name in known}
    if "steps_done" in known and not whole:
        words = {name: in_words for name, in_words in NAMES["facts"].items() if name in known}
    further = "; ".join(f"{name.replace('_', ' ')} {known[name]}" for name in known if name not in words)
    rows = [[in_words, known[name]] for name, in_words in words.items()]
    return table(title, rows, ["What", "Value"], [f"Also recorded: {further}."] if further else [])


def perplexity_table(scores: Mapping[str, Any], parameters: Any) -> Table:
    """Perplexity before and after, by kind of text, with 95 % bootstrap intervals over documents.

    Per token, and per character where `scores` count them (DCPT): tokenizers differ in what a token is, not in that.
    `parameters`: a profile's, or a manifest's; its `bootstrap_resamples` and `seed` draw the intervals.
    """
    columns = {
        "before": ("before", None, "tokens"),
        "after": ("after", None, "tokens"),
        "after / before": ("after", "before", "tokens"),
    }
    further: list[str] = []
    if any("chars" in entry for entry in scores.values()):
        columns |= {f"{name}, a character": (*moments, "chars") for name, (*moments, _) in columns.items()}
        further += sentences("training", "characters")
    if any("unquantised_after" in entry for entry in scores.values()):
        columns["before, not quantised"] = ("unquantised_before", None, "tokens")
        columns["after, not quantised"] = ("unquantised_after", None, "tokens")
        further += sentences("training", "quantised")
    rows = [
        [kind, len(entry["tokens"]), *(_perplexity(entry, *column, parameters) for column in columns.values())]
        for kind, entry in scores.items()
    ]
    return view("training", "perplexity", rows, columns, after=further)


def _perplexity(entry: Mapping[str, Any], moment: str, against: str | None, unit: str, parameters: Any) -> Score:
    """exp(-sum of log-probabilities / units), or the ratio of two such, with its bootstrap interval."""
    if not sum(entry.get(unit, [])) or moment not in entry:
        return NOTHING
    sizes = np.array(entry[unit], dtype=float)
    gain = np.array(entry[moment]) - (np.array(entry[against]) if against else 0.0)
    counts = _draws(len(sizes), parameters)
    low, high = percentiles(np.exp(-(counts @ gain) / (counts @ sizes)))
    return Score(float(np.exp(-gain.sum() / sizes.sum())), None, low, high, ADAPTIVE)


def _draws(n: int, parameters: Any) -> np.ndarray:
    given = parameters if isinstance(parameters, Mapping) else vars(parameters)
    # A manifest of an older kit does not hold the first.
    return resample_counts(n, given.get("bootstrap_resamples", 1000), given["seed"])


def improved(entry: Mapping[str, Any], parameters: Any) -> bool:
    """Whether the whole 95 % interval of after / before lies below 1; never for fewer than three documents."""
    return len(entry["tokens"]) >= 3 and _perplexity(entry, "after", "before", "tokens", parameters).high < 1


def by_source(scores: Mapping[str, Any]) -> dict[str, dict[str, list]]:
    """The held-out conversations of all parts as entries of `perplexity_table`, one per source (SFT)."""
    grouped: dict[str, dict[str, list]] = {}
    for entry in scores.values():
        lists = {name: values for name, values in entry.items() if name != "source" and isinstance(values, list)}
        for i, source in enumerate(entry["source"]):
            group = grouped.setdefault(source, {name: [] for name in lists})
            for name, values in lists.items():
                group[name].append(values[i])
    return grouped


def sources_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """What SFT took of every source: conversations read, each reason for not using one, and examples with repeats."""
    names = next(iter(counts.values()), {})
    rows = ([source, *count.values()] for source, count in counts.items())
    return view("training", "sources", rows, (name.replace("_", " ") for name in names))


def arms_table(stage: Stage, facts: Mapping[str, Any]) -> Table | Html:
    """Whether one-stage SFT reads what two stages read; a sentence where there were two. `stage`, `facts`: 04's."""
    if not stage.parameters.one_stage:
        return macro("paragraph", "Two stages: DCPT came before.")
    packing = files.read_json(stage.parent("02_tokenize") / "packing.json")
    compared = one_stage.compare_tokens(packing, facts)
    return view("training", "arms", [[*row, "yes" if row[1] == row[2] else "no"] for row in compared])


def preference_table(scores: Mapping[str, Any], beta: float, parameters: Any) -> Table:
    """Held-out pairs: accuracy of the implicit reward (Wilson), margin and shifts of log-probability (bootstrap).

    `parameters` as in `perplexity_table`.
    """
    chosen, rejected = _shifts(scores)
    rows = [
        ["reward accuracy, percent", accuracy(scores)],
        ["reward margin", mean_interval(beta * (chosen - rejected), parameters)],
        ["shift of log π(chosen)", mean_interval(chosen, parameters)],
        ["shift of log π(rejected)", mean_interval(rejected, parameters)],
    ]
    return view("training", "pairs", rows)


def _shifts(scores: Mapping[str, Any]) -> list[np.ndarray]:
    """How far training moved the log-probability of the chosen and of the rejected answers."""
    return [np.array(scores[f"policy_{side}"]) - scores[f"reference_{side}"] for side in ("chosen", "rejected")]


def accuracy(scores: Mapping[str, Any]) -> Score:
    """Percent of held-out pairs whose implicit reward prefers the chosen answer, with Wilson's interval; a tie counts
    as wrong. "no items" without any pair."""
    chosen, rejected = _shifts(scores)
    if not len(chosen):
        return NOTHING
    share = float((chosen > rejected).mean())
    low, high = (100 * bound for bound in wilson(share, len(chosen)))
    return Score(100 * share, len(chosen), low, high)


def mean_interval(values: np.ndarray, parameters: Any, form: str = ADAPTIVE) -> Score:
    """The mean of values [N] with its interval by the percentile bootstrap; "no items" for none."""
    if not len(values):
        return NOTHING
    low, high = percentiles(_draws(len(values), parameters) @ values / len(values))
    return Score(float(values.mean()), None, low, high, form)
