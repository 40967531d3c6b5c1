"""How far judges agree: as a share, as Cohen's kappa of two, and as Krippendorff's alpha of any number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def agreed(first: Sequence, second: Sequence) -> tuple[int, float | None, float | None]:
    """(items that both judges judged, in what percent of these they say the same, Cohen's kappa (1960)); None without
    such an item, and kappa where chance alone agrees always."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    n, same = len(both), sum(a == b for a, b in both)
    if not both:
        return 0, None, None
    shares = [{label: count / n for label, count in Counter(said).items()} for said in zip(*both, strict=True)]
    chance = sum(share * shares[1].get(label, 0) for label, share in shares[0].items())
    return n, 100 * same / n, None if chance == 1 else (same / n - chance) / (1 - chance)


def alpha(judgments: Sequence[Sequence[float | None]]) -> float | None:
    """Krippendorff's alpha of nominal labels (2011, "Computing Krippendorff's Alpha-Reliability"); rows: judges,
    columns: items, None: a judge has not seen the item. None without two different labels."""
    units = [[label for label in labels if label is not None] for labels in zip(*judgments, strict=True)]
    units = [Counter(unit) for unit in units if len(unit) > 1]
    totals = Counter()
    different = 0.0
    for unit in units:
        totals.update(unit)
        n = unit.total()
        different += (n * n - sum(count * count for count in unit.values())) / (n - 1)
    n = totals.total()
    expected = n * n - sum(count * count for count in totals.values())
    return 1 - (n - 1) * different / expected if expected else None
