"""Single answers rated: numbers for a preset's criteria, or which of an item's own criteria are met (HealthBench).

Items, not criteria, are resampled. An answer of which one number or one criterion could not be read, or of which the
judge failed, is counted as unread and is in no mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from qilin_lib.evaluate.intervals import mean_of, summary

MEAN, POINTS = "mean", "points"
"""Of a model's rows: the mean of a preset's criteria; the points of an item's own criteria, in percent."""


def ratings(
    records: Sequence[Mapping],
    rated: Callable[[str, list], dict[str, float] | None],
    whole: str,
    bounds: tuple[float, float],
    resamples: int,
    seed: int,
) -> pd.DataFrame:
    """One row per model and criterion (`whole` first): n (items read), unread, value, low, high.

    `rated(item, its verdicts)`: {`whole` and each criterion: value} of one answer, None if it is unread. Bootstrap-t
    over items; no bounds below LEAST items.
    """
    said: dict[str, dict[str, list]] = {}
    for one in records:
        said.setdefault(one["model"], {}).setdefault(one["item"], []).append(one["verdict"])
    rows = []
    for model, items in said.items():
        read = [values for item, replies in items.items() if (values := rated(item, replies))]
        for criterion in read[0] if read else [whole]:
            mean = mean_of([values[criterion] for values in read], bounds)
            row = {"model": model, "criterion": criterion, "unread": len(items) - len(read)}
            rows.append(row | summary(mean, resamples, seed))
    return pd.DataFrame(rows)
