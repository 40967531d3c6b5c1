"""Showing what a training stage did: its facts, and held-out scores with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib.evaluate.intervals import percentiles, resample_counts, wilson
from qilin_lib.report.layout import Table

RESAMPLES = 1000
SEED = 17


def facts_table(facts: Mapping[str, Any], title: str = "What ran") -> Table:
    """What really ran, as the child process reported it: steps, batch, precision, speed."""
    rows = [[name.replace("_", " "), _plain(value)] for name, value in facts.items() if name != "template_sha256"]
    return Table("", title, pd.DataFrame(rows, columns=["What", "Value"], dtype=str))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def perplexity_table(scores: Mapping[str, Any]) -> Table:
    """Perplexity a token before and after, by kind of text, with 95 % bootstrap intervals over documents."""
    rows = []
    for kind, entry in scores.items():
        if not entry["tokens"]:
            rows.append([kind, "0", "no items", "no items", "no items"])
            continue
        before, after, ratio = (_perplexity(entry, *names) for names in (("before",), ("after",), ("after", "before")))
        rows.append([kind, str(len(entry["tokens"])), *(_cell(*value) for value in (before, after, ratio))])
    columns = ["Type", "documents", "before", "after", "after / before"]
    notes = ["perplexity a token, with a 95 % bootstrap interval over documents; a ratio below 1 is an improvement"]
    return Table("", "Held-out perplexity", pd.DataFrame(rows, columns=columns), notes)


def improved(entry: Mapping[str, Any]) -> bool:
    """Whether the whole 95 % interval of after / before lies below 1."""
    return _perplexity(entry, "after", "before")[2] < 1


def _perplexity(entry: Mapping[str, Any], moment: str, against: str | None = None) -> tuple[float, float, float]:
    """exp(-sum of log-probabilities / tokens), or the ratio of two such, with its bootstrap interval."""
    tokens = np.array(entry["tokens"], dtype=float)
    gain = np.array(entry[moment]) - (np.array(entry[against]) if against else 0.0)
    counts = resample_counts(len(tokens), RESAMPLES, SEED)
    low, high = percentiles(np.exp(-(counts @ gain) / (counts @ tokens)))
    return float(np.exp(-gain.sum() / tokens.sum())), low, high


def preference_table(scores: Mapping[str, Any], beta: float) -> Table:
    """Held-out pairs: accuracy of the implicit reward (Wilson), margin and shifts of log-probability (bootstrap)."""
    shift = {
        side: np.array(scores[f"policy_{side}"]) - np.array(scores[f"reference_{side}"])
        for side in ("chosen", "rejected")
    }
    margin = beta * (shift["chosen"] - shift["rejected"])
    share, low, high = accuracy(scores)
    rows = [["reward accuracy, percent", f"{100 * share:.1f} [{100 * low:.1f}, {100 * high:.1f}] (n={len(margin)})"]]
    for name, values in (
        ("reward margin", margin),
        ("shift of log π(chosen)", shift["chosen"]),
        ("shift of log π(rejected)", shift["rejected"]),
    ):
        bounds = percentiles(resample_counts(len(values), RESAMPLES, SEED) @ values / len(values))
        rows.append([name, _cell(float(values.mean()), *bounds)])
    notes = ["accuracy above 50 whose interval lies above 50 means that DPO learned something that carries over"]
    return Table("", "Held-out preference pairs", pd.DataFrame(rows, columns=["Metric", "value"]), notes)


def accuracy(scores: Mapping[str, Any]) -> tuple[float, float, float]:
    """(share, low, high) of held-out pairs whose implicit reward prefers the chosen answer; a tie counts as wrong."""
    chosen = np.array(scores["policy_chosen"]) - np.array(scores["reference_chosen"])
    rejected = np.array(scores["policy_rejected"]) - np.array(scores["reference_rejected"])
    share = float((chosen > rejected).mean())
    return share, *wilson(share, len(chosen))


def _cell(*numbers: float) -> str:
    value, low, high = (f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}" for number in numbers)
    return f"{value} [{low}, {high}]"
