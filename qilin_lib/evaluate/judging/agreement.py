"""How far judges agree: as a share, as Cohen's kappa of two, and as Krippendorff's alpha of any number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np


def share_agreed(first: Sequence, second: Sequence) -> float | None:
    """The share of items, in percent, of which two judges say the same; None without an item that both judged."""
    both = _both(first, second)
    return 100 * sum(a == b for a, b in both) / len(both) if both else None


def kappa(first: Sequence, second: Sequence) -> float | None:
    """Cohen's kappa (1960) of two judges on the items that both judged; None where chance alone agrees always."""
    both = _both(first, second)
    if not both:
        return None
    shares = [{label: n / len(both) for label, n in Counter(said).items()} for said in zip(*both, strict=True)]
    chance = sum(share * shares[1].get(label, 0) for label, share in shares[0].items())
    observed = sum(a == b for a, b in both) / len(both)
    return None if chance == 1 else (observed - chance) / (1 - chance)


def _both(first: Sequence, second: Sequence) -> list[tuple]:
    return [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]


def alpha(judgments: Sequence[Sequence[float | None]]) -> float | None:
    """Krippendorff's alpha of nominal labels (2011, "Computing Krippendorff's Alpha-Reliability"); rows: judges,
    columns: items, None: a judge has not seen the item. None without two different labels."""
    units = [[label for label in labels if label is not None] for labels in zip(*judgments, strict=True)]
    units = [unit for unit in units if len(unit) > 1]
    values = sorted({label for unit in units for label in unit})
    if len(values) < 2:
        return None
    observed = np.zeros((len(values), len(values)))
    for unit in units:
        counts = np.array([unit.count(value) for value in values], dtype=float)
        observed += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = observed.sum(axis=0)
    expected = (np.outer(totals, totals) - np.diag(totals)) / (totals.sum() - 1)
    return float(1 - (observed.sum() - np.trace(observed)) / (expected.sum() - np.trace(expected)))
