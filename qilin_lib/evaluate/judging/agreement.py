"""How far judges agree: as a share, as Cohen's kappa of two, and as Krippendorff's alpha of any number."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def share_agreed(first: Sequence, second: Sequence) -> float | None:
    """The share of items, in percent, of which two judges say the same; None without an item that both judged."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return 100 * sum(a == b for a, b in both) / len(both) if both else None


def kappa(first: Sequence, second: Sequence) -> float | None:
    """Cohen's kappa (1960) of two judges on the items that both judged; None where chance alone agrees always."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not both:
        return None
    labels = {label: n for n, label in enumerate(dict.fromkeys(label for pair in both for label in pair))}
    table = np.zeros((len(labels), len(labels)))
    for a, b in both:
        table[labels[a], labels[b]] += 1
    table /= len(both)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return None if chance == 1 else (float(np.trace(table)) - chance) / (1 - chance)


def alpha(judgments: Sequence[Sequence[float | None]], ordinal: bool = False) -> float | None:
    """Krippendorff's alpha (2011, "Computing Krippendorff's Alpha-Reliability"); rows: judges, columns: items.

    Nominal labels, or ordinal numbers; None: a judge has not seen the item. None without two different labels.
    """
    units = [[row[n] for row in judgments if row[n] is not None] for n in range(len(judgments[0]))]
    units = [unit for unit in units if len(unit) > 1]
    values = sorted({value for unit in units for value in unit})
    if len(values) < 2:
        return None
    observed = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.array([unit.count(value) for value in values], dtype=float)
        observed += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = observed.sum(axis=0)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    distance = _ordinal(totals) if ordinal else 1 - np.eye(len(values))
    return float(1 - (observed * distance).sum() / (expected * distance).sum())


def _ordinal(totals: np.ndarray) -> np.ndarray:
    below = np.cumsum(totals) - totals / 2
    return np.square(below[:, None] - below[None, :])
