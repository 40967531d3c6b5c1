"""Showing what a training stage did: its facts, and held-out scores with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib.evaluate.intervals import percentiles, resample_counts, wilson
from qilin_lib.report.layout import Table

RESAMPLES = 1000
SEED = 17


def facts_table(facts: Mapping[str, Any], title: str = "What ran") -> Table:
    """What really ran, as the child process reported it: steps, batch, precision, speed. What has a table of its own
    (counts by source) is left to that."""
    shown = {name: value for name, value in facts.items() if name != "template_sha256" and not isinstance(value, dict)}
    rows = [[name.replace("_", " "), _plain(value)] for name, value in shown.items()]
    return Table("", title, pd.DataFrame(rows, columns=["What", "Value"], dtype=str))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def perplexity_table(scores: Mapping[str, Any]) -> Table:
    """Perplexity before and after, by kind of text, with 95 % bootstrap intervals over documents.

    A token, and a character where `scores` count them (DCPT): tokenizers differ in what a token is, not in that.
    """
    units = ["token"] + ["char"] * any("chars" in entry for entry in scores.values())
    quantised = any("unquantised_after" in entry for entry in scores.values())
    rows = []
    for kind, entry in scores.items():
        row = [kind, str(len(entry["tokens"]))]
        for unit in units:
            row += _perplexities(entry, f"{unit}s")
        rows.append(row + _perplexities(entry, "tokens", UNQUANTISED) * quantised)
    columns = ["Type", "documents", "before", "after", "after / before"]
    notes = ["perplexity a token, with a 95 % bootstrap interval over documents; a ratio below 1 is an improvement"]
    if "char" in units:
        columns += [f"{name}, a character" for name in columns[2:]]
        notes.append("perplexity a character compares between tokenizers, perplexity a token does not")
    if quantised:
        columns += ["before, not quantised", "after, not quantised"]
        notes.append("trained was on NF4 weights; not quantised: the same adapter on the weights before quantisation")
    return Table("", "Held-out perplexity", pd.DataFrame(rows, columns=columns), notes)


CHANGE = (("before", None), ("after", None), ("after", "before"))
UNQUANTISED = (("unquantised_before", None), ("unquantised_after", None))


def _perplexities(entry: Mapping[str, Any], unit: str, pairs: tuple = CHANGE) -> list[str]:
    """Cells of moments, or of one against another: before, after and after / before."""
    if not sum(entry.get(unit, [])) or pairs[0][0] not in entry:
        return ["no items"] * len(pairs)
    return [_cell(*_perplexity(entry, moment, against, unit)) for moment, against in pairs]


def improved(entry: Mapping[str, Any]) -> bool:
    """Whether the whole 95 % interval of after / before lies below 1; never for fewer than three documents."""
    return len(entry["tokens"]) >= 3 and _perplexity(entry, "after", "before")[2] < 1


def by_source(scores: Mapping[str, Any]) -> dict[str, dict[str, list]]:
    """The held-out conversations of all parts as entries of `perplexity_table`, one a source (SFT)."""
    grouped: dict[str, dict[str, list]] = {}
    for entry in scores.values():
        for i, source in enumerate(entry["source"]):
            names = [name for name, values in entry.items() if name != "source" and isinstance(values, list)]
            group = grouped.setdefault(source, {name: [] for name in names})
            for name, values in group.items():
                values.append(entry[name][i])
    return grouped


def sources_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """What SFT took of every source: conversations read, each reason for not using one, and examples with repeats."""
    rows = [[source, *map(_plain, count.values())] for source, count in counts.items()]
    names = next(iter(counts.values()), {})
    return Table(
        "",
        "Conversations by source",
        pd.DataFrame(rows, columns=["Source", *(name.replace("_", " ") for name in names)], dtype=str),
        [
            "read = not drawn + too long + no answer + used; an example is a use, repeats included; a turn cut is "
            "longer than its limit"
        ],
    )


def tokens_table(rows: Iterable[tuple[str, int, int]]) -> Table:
    """Rows (quantity, two stages, one stage) of `one_stage.compare_tokens`: whether both arms read the same."""
    made = [[name, _plain(two), _plain(one), "yes" if two == one else "no"] for name, two, one in rows]
    frame = pd.DataFrame(made, columns=["What", "two stages", "one stage", "equal"], dtype=str)
    return Table("", "Tokens of both arms, one epoch", frame, ["Two stages: 02's packing.json for DCPT; the same SFT."])


def _perplexity(
    entry: Mapping[str, Any], moment: str, against: str | None = None, unit: str = "tokens"
) -> tuple[float, float, float]:
    """exp(-sum of log-probabilities / units), or the ratio of two such, with its bootstrap interval."""
    sizes = np.array(entry[unit], dtype=float)
    gain = np.array(entry[moment]) - (np.array(entry[against]) if against else 0.0)
    counts = resample_counts(len(sizes), RESAMPLES, SEED)
    low, high = percentiles(np.exp(-(counts @ gain) / (counts @ sizes)))
    return float(np.exp(-gain.sum() / sizes.sum())), low, high


def preference_table(scores: Mapping[str, Any], beta: float) -> Table:
    """Held-out pairs: accuracy of the implicit reward (Wilson), margin and shifts of log-probability (bootstrap)."""
    shift = {
        side: np.array(scores[f"policy_{side}"]) - np.array(scores[f"reference_{side}"])
        for side in ("chosen", "rejected")
    }
    margin = beta * (shift["chosen"] - shift["rejected"])
    share, low, high = accuracy(scores)
    value = f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}] (n={len(margin)})" if len(margin) else "no items"
    rows = [["reward accuracy, percent", value]]
    for name, values in (
        ("reward margin", margin),
        ("shift of log π(chosen)", shift["chosen"]),
        ("shift of log π(rejected)", shift["rejected"]),
    ):
        rows.append([name, _cell(*mean_interval(values)) if len(values) else "no items"])
    notes = ["accuracy above 50 whose interval lies above 50 means that what was learned carries over"]
    return Table("", "Held-out preference pairs", pd.DataFrame(rows, columns=["Metric", "value"]), notes)


def accuracy(scores: Mapping[str, Any]) -> tuple[float, float, float]:
    """(share, low, high) of held-out pairs whose implicit reward prefers the chosen answer; a tie counts as wrong.

    NaN without any pair.
    """
    chosen = np.array(scores["policy_chosen"]) - np.array(scores["reference_chosen"])
    rejected = np.array(scores["policy_rejected"]) - np.array(scores["reference_rejected"])
    share = float((chosen > rejected).mean()) if len(chosen) else math.nan
    return share, *wilson(share, len(chosen))


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """(mean, low, high) of one or more values, by the percentile bootstrap."""
    return float(values.mean()), *percentiles(resample_counts(len(values), RESAMPLES, SEED) @ values / len(values))


def _cell(*numbers: float) -> str:
    value, low, high = (f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}" for number in numbers)
    return f"{value} [{low}, {high}]"
