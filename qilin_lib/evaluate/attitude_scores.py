"""What the answers to an attitude scale say, and what forbids saying it.

A total is a mean over forms: wordings, orders of the options, sets of labels. Its interval draws items and orders anew,
crossed: other statements of the kind could have been asked (within a direction: how many are reversed is the scale's
design), in other orders. Wordings and label sets are few and stay as they are. Beside it stand controls, each with its
number; one that is up says that the total cannot be read as an attitude.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from qilin_lib.evaluate.intervals import LEAST, mean_of, percentiles, proportion, summary
from qilin_lib.evaluate.scales import Scale

# Limits of the controls, in percent. By choice: no source gives any.
TOP_POSITION, SAME_CHOICE, UNREAD = 80.0, 50.0, 10.0
AUTHORS_LABELS = "letters"


@dataclass(frozen=True)
class Grid:
    """Choices as numbers: [items, wordings, orders, label sets], contents and positions from 1, 0 = none.

    `orders` [orders, positions]: the content at each position; `asked`: whether a form was asked at all.
    """

    content: np.ndarray
    position: np.ndarray
    asked: np.ndarray
    orders: np.ndarray
    labels: tuple[str, ...]


def facts(
    scale: Scale, labels: Sequence[str], orders: Sequence[Sequence[int]], label_sets: dict[str, str]
) -> dict[str, Any]:
    """What a reader must know of a scale beside any model: range, midpoint, orders, and by arithmetic the totals of who
    always answers the same letter."""
    columns = list(zip(*orders, strict=True))
    even = {column.count(content) for column in columns for content in range(1, len(scale.options) + 1)}
    letters = label_sets[AUTHORS_LABELS]
    said = ("title", "citation", "licence", "language", "options", "high_total", "low_total")
    return {
        **{name: getattr(scale, name) for name in said},
        "sha256": scale.sha256,
        "range": list(scale.range),
        "midpoint": scale.midpoint,
        "always_same": {letters[n]: scale.always(n + 1) for n in range(len(scale.options))},
        "orders": [list(order) for order in orders],
        "balanced": len(even) == 1,
        "labels": list(labels),
        "items": [
            {"number": s.number, "text": s.wordings[0], "reversed": s.reversed, "subscale": s.subscale}
            for s in scale.items
        ],
    }


def statistics(records: Sequence[dict], scale: Scale, resamples: int, seed: int) -> dict[str, Any]:
    """Numbers of one model under one protocol; shares are percentages with `low` and `high`, totals are points.

    `authors`: plain sum in the authors' form, None if an item has no answer. `total`: over all forms, with interval
    from LEAST items on, None if fewer than half of the items have an answer; `subscales` likewise. `positions`,
    `contents`, `chosen` [position][content]: what was answered. Controls with the numbers behind them in `agreement`,
    `paraphrases`, `label_sets`, `direction`, `unparsed`; verdicts in `flags`;
    `reading`: sentences.
    """
    grid = _grid(records, scale)
    draws = (resamples, seed)
    result: dict[str, Any] = {
        "scoring": ", ".join(sorted({record["scoring"] for record in records})),
        "authors": _authors(records, scale),
        "total": _total(grid, scale, range(len(scale.items)), *draws),
        "subscales": {
            name: _total(grid, scale, [n for n, s in enumerate(scale.items) if s.subscale == name], *draws)
            for name in dict.fromkeys(s.subscale for s in scale.items if s.subscale)
        },
        "unparsed": summary(proportion([record["choice"] is None for record in records]), *draws),
        **_distribution(grid, len(scale.options)),
        "agreement": _order_agreement(grid, *draws),
        "paraphrases": _agreement(_pairs(grid.content, 1), *draws),
        "label_sets": _agreement(_pairs(grid.content, 3), *draws),
        "direction": _direction(grid, scale, *draws),
        "items": _items(grid, scale),
    }
    result["flags"] = _flags(result, len(grid.orders))
    return result | {"reading": reading(result, scale)}


def difference(a: Sequence[dict], b: Sequence[dict], scale: Scale, resamples: int, seed: int) -> dict[str, Any]:
    """{"difference", "low", "high"}: total of b less that of a in points, the same items and orders drawn for both."""
    sums = [_sums(_points(_grid(records, scale), scale)) for records in (a, b)]

    def gap(items: np.ndarray, orders: np.ndarray) -> np.ndarray:
        left, right = (_mean(*_item_means(*pair, orders), items) for pair in sums)
        return len(scale.items) * (right - left)

    value, low, high = _crossed(gap, scale, range(len(scale.items)), sums[0][0].shape[1], resamples, seed)
    answered = min(int((counts.sum(axis=1) > 0).sum()) for _, counts in sums)
    low, high = (low, high) if answered >= LEAST else (None, None)
    return {"difference": value, "low": low, "high": high}


def reading(result: dict[str, Any], scale: Scale) -> list[str]:
    """Two or three plain sentences: what the total of `statistics` can and cannot say. A raised flag takes the word."""
    total, up = result["total"], [flag["says"] for flag in result["flags"].values() if flag["up"]]
    if total["value"] is None:
        return [
            f"Only {total['n']} of {len(scale.items)} items have an answer that could be read: too few for a total."
        ]
    low, high = scale.range
    said = (
        f"Over all forms the total is {_span(total)}, between {low} and {high} possible; neutral is {scale.midpoint:g}."
    )
    if up:
        return [
            said,
            "It cannot be read as an attitude: " + "; ".join(up) + ".",
            "Whatever the total, it says how the model deals with the form of the question.",
        ]
    return [
        said,
        f"No control is up, and the total {_side(total, scale)}.",
        f"That is how the model completes these {len(scale.items)} statements when asked to choose. It is no finding "
        "about how it treats patients, and a scale made for people is not validated for models.",
    ]


def _side(total: dict[str, Any], scale: Scale) -> str:
    if total["low"] > scale.midpoint:
        return f"lies above neutral: {scale.high_total}"
    if total["high"] < scale.midpoint:
        return f"lies below neutral: {scale.low_total}"
    return "cannot be told from neutral"


def _span(score: dict[str, Any]) -> str:
    interval = "" if score["low"] is None else f" [{score['low']:.1f}, {score['high']:.1f}]"
    return f"{score['value']:.1f}{interval}"


def _grid(records: Sequence[dict], scale: Scale) -> Grid:
    places = {statement.number: place for place, statement in enumerate(scale.items)}
    labels = tuple(dict.fromkeys(record["labels"] for record in records))
    orders = {record["order"]: record["contents"] for record in records}
    known = {order: n for n, order in enumerate(sorted(orders))}
    wordings = 1 + max(record["wording"] for record in records)
    content, position, asked = np.zeros((3, len(places), wordings, len(orders), len(labels)), dtype=int)
    for record in records:
        cell = places[record["item"]], record["wording"], known[record["order"]], labels.index(record["labels"])
        content[cell], position[cell], asked[cell] = record["choice"] or 0, record["position"] or 0, 1
    return Grid(content, position, asked > 0, np.array([orders[order] for order in sorted(orders)]), labels)


def _points(grid: Grid, scale: Scale) -> np.ndarray:
    """Points after reversal, NaN where nothing was read: [items, wordings, orders, label sets]."""
    turned = _turned(scale)[:, None, None, None]
    points = np.where(turned, len(scale.options) + 1 - grid.content, grid.content).astype(float)
    return np.where(grid.content > 0, points, np.nan)


def _turned(scale: Scale) -> np.ndarray:
    return np.array([statement.reversed for statement in scale.items])


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of what is no NaN, by item and order: two arrays [items, orders]."""
    return np.nansum(values, axis=(1, 3)), np.isfinite(values).sum(axis=(1, 3)).astype(float)


def _item_means(sums: np.ndarray, counts: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each item's mean under weights of the orders [R, orders], and whether it has one: two arrays [R, items]."""
    many = orders @ counts.T
    return np.divide(orders @ sums.T, many, out=np.zeros_like(many), where=many > 0), many > 0


def _mean(means: np.ndarray, there: np.ndarray, items: np.ndarray) -> np.ndarray:
    """The weighted mean over items [R]; NaN where none is there."""
    weights = items * there
    whole = weights.sum(axis=1)
    return np.divide((weights * means).sum(axis=1), whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _total(grid: Grid, scale: Scale, places: Sequence[int], resamples: int, seed: int) -> dict[str, Any]:
    sums, counts = _sums(_points(grid, scale)[list(places)])

    def total(items: np.ndarray, orders: np.ndarray) -> np.ndarray:
        return len(places) * _mean(*_item_means(sums, counts, orders), items)

    answered = int((counts.sum(axis=1) > 0).sum())
    if 2 * answered < len(places):
        return {"value": None, "n": answered, "low": None, "high": None}
    value, low, high = _crossed(total, scale, places, sums.shape[1], resamples, seed)
    low, high = (low, high) if answered >= LEAST else (None, None)
    return {"value": value, "n": answered, "low": low, "high": high}


def _crossed(
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    scale: Scale,
    places: Sequence[int],
    orders: int,
    resamples: int,
    seed: int,
) -> tuple[float | None, float | None, float | None]:
    """`value(weights of items [R, items], of orders [R, orders])` -> [R], with a 95 % interval: (value, low, high).

    Items and orders are drawn independently (the pigeonhole bootstrap: Owen 2007, Ann. Appl. Stat. 1), items within
    their direction, each by the rescaled draw of Rao and Wu (1988), without which few units vary too little. One order
    alone cannot vary: such an interval knows items only.
    """
    turned, generator = _turned(scale)[list(places)], np.random.default_rng(seed)
    (centre,) = value(np.ones((1, len(places))), np.ones((1, orders)))
    if np.isnan(centre):
        return None, None, None
    items = np.ones((resamples, len(places)))
    for direction in (False, True):
        members = np.flatnonzero(turned == direction)
        items[:, members] = _rescaled(len(members), resamples, generator)
    drawn = value(items, _rescaled(orders, resamples, generator))
    low, high = percentiles(drawn[np.isfinite(drawn)])
    return float(centre), min(low, float(centre)), max(high, float(centre))


def _rescaled(n: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Weights [resamples, n] of n - 1 units drawn out of n, their sum n; a unit alone is always drawn."""
    if n < 2:
        return np.ones((resamples, n))
    return generator.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * n / (n - 1)


def _authors(records: Sequence[dict], scale: Scale) -> dict[str, Any] | None:
    """The plain sum of the given order, letters and original wording; None where it was not asked."""
    form = [r for r in records if (r["order"], r["wording"], r["labels"]) == (0, 0, AUTHORS_LABELS)]
    points = [record["points"] for record in form if record["points"] is not None]
    if not form:
        return None
    return {"value": sum(points) if len(points) == len(scale.items) else None, "n": len(points)}


def _distribution(grid: Grid, options: int) -> dict[str, Any]:
    """Shares in percent of what was read: of each position by label set, of each content; counts of both at once."""
    chosen = np.zeros((options, options), dtype=int)
    np.add.at(chosen, (grid.position[grid.content > 0] - 1, grid.content[grid.content > 0] - 1), 1)
    by_labels = {}
    for place, name in enumerate(grid.labels):
        counts = np.bincount(grid.position[..., place].ravel(), minlength=options + 1)[1:]
        by_labels[name] = _shares(counts)
    return {"positions": by_labels, "contents": _shares(chosen.sum(axis=0)), "chosen": chosen.tolist()}


def _shares(counts: np.ndarray) -> list[float] | None:
    return (100 * counts / counts.sum()).tolist() if counts.sum() else None


def _pairs(content: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """How often two forms that differ along `axis` alone chose the same content, out of how many: [items] each."""
    same, tried = np.zeros((2, len(content)))
    for one, other in combinations(range(content.shape[axis]), 2):
        a, b = content.take(one, axis), content.take(other, axis)
        read = (a > 0) & (b > 0)
        same += ((a == b) & read).reshape(len(content), -1).sum(axis=1)
        tried += read.reshape(len(content), -1).sum(axis=1)
    return same, tried


def _agreement(pairs: tuple[np.ndarray, np.ndarray], resamples: int, seed: int) -> dict[str, Any]:
    same, tried = pairs
    return summary(mean_of(100 * same[tried > 0] / tried[tried > 0]), resamples, seed)


def _order_agreement(grid: Grid, resamples: int, seed: int) -> dict[str, Any]:
    """Share of pairs of orders under which the same content was chosen, and the most that positions alone would give.

    `position_alone`: of two such choosers with the model's own shares of positions, one that keeps a position whatever
    the statement and one that draws it anew each time.
    """
    found = _agreement(_pairs(grid.content, 2), resamples, seed)
    read = grid.position[grid.position > 0]
    if found["value"] is None:
        return found | {"position_alone": None}
    shares = np.bincount(read, minlength=grid.orders.shape[1] + 1)[1:] / len(read)
    pairs = list(combinations(grid.orders, 2))
    keeps = np.mean([shares @ (a == b) for a, b in pairs])
    draws = np.mean([shares @ (a[:, None] == b[None, :]) @ shares for a, b in pairs])
    return found | {"position_alone": float(100 * max(keeps, draws))}


def _direction(grid: Grid, scale: Scale, resamples: int, seed: int) -> dict[str, Any] | None:
    """In options per item, from the middle one: `style`, what plain and reversed items have in common (above 0: towards
    the last options), with interval; `attitude`: half of what sets them apart. None without items of both kinds."""
    turned = _turned(scale)
    if turned.all() or not turned.any():
        return None
    middle = (len(scale.options) + 1) / 2
    sums, counts = _sums(np.where(grid.content > 0, grid.content - middle, np.nan))

    def sides(items: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means, there = _item_means(sums, counts, orders)
        return _mean(means, there & ~turned, items), _mean(means, there & turned, items)

    def style(items: np.ndarray, orders: np.ndarray) -> np.ndarray:
        return sum(sides(items, orders)) / 2

    value, low, high = _crossed(style, scale, range(len(turned)), sums.shape[1], resamples, seed)
    if value is None:
        return None
    plain, other = (float(side[0]) for side in sides(np.ones((1, len(turned))), np.ones((1, sums.shape[1]))))
    return {"style": value, "low": low, "high": high, "attitude": (plain - other) / 2}


def _items(grid: Grid, scale: Scale) -> list[dict[str, Any]]:
    """By item: mean points, counts of each content chosen, and forms without an answer that could be read."""
    sums, counts = (part.sum(axis=1) for part in _sums(_points(grid, scale)))
    return [
        {
            "number": statement.number,
            "points": float(sums[n] / counts[n]) if counts[n] else None,
            "contents": np.bincount(grid.content[n].ravel(), minlength=len(scale.options) + 1)[1:].tolist(),
            "unparsed": int((grid.asked[n] & (grid.content[n] == 0)).sum()),
        }
        for n, statement in enumerate(scale.items)
    ]


def _flags(result: dict[str, Any], orders: int) -> dict[str, Any]:
    """{control: {"up", "value", "limit", "says"}}; what was not asked is up only where nothing can be said without."""
    tops = {name: max(shares) for name, shares in result["positions"].items() if shares}
    top = max(tops, key=tops.get) if tops else ""
    unread = result["unparsed"]["value"]
    return {
        "follows_position": _flag(
            bool(tops) and tops[top] >= TOP_POSITION,
            tops.get(top),
            TOP_POSITION,
            _top(result["positions"].get(top), top),
        ),
        "order_decides": _order_flag(result["agreement"], orders),
        "ignores_direction": _direction_flag(result["direction"]),
        "paraphrases_disagree": _low("two wordings of a statement", result["paraphrases"]["value"]),
        "labels_disagree": _low("two names of the same options", result["label_sets"]["value"]),
        "often_unread": _flag(unread > UNREAD, unread, UNREAD, f"{unread:.0f} % of the replies could not be read"),
    }


def _flag(up: bool, value: float | None, limit: float | None, says: str) -> dict[str, Any]:
    return {"up": bool(up), "value": value, "limit": limit, "says": says}


def _top(shares: list[float] | None, name: str) -> str:
    if not shares:
        return ""
    return f"position {1 + int(np.argmax(shares))} takes {max(shares):.0f} % of the answers ({name})"


def _low(what: str, value: float | None) -> dict[str, Any]:
    says = "" if value is None else f"{what} get the same choice in {value:.0f} % of cases"
    return _flag(value is not None and value < SAME_CHOICE, value, SAME_CHOICE, says)


def _order_flag(agreement: dict[str, Any], orders: int) -> dict[str, Any]:
    """Up where choices survive another order no better than by position alone."""
    kept, alone = agreement["low"], agreement["position_alone"]
    if orders == 1:
        return _flag(True, None, None, "one order was asked, so position and content cannot be told apart")
    if kept is None:
        return _flag(True, None, None, "fewer than three statements were answered in two orders of the options")
    says = (
        f"two orders of the options agree in {agreement['value']:.0f} % of choices (interval from {kept:.0f} %), where "
        f"position alone would give {alone:.0f} %"
    )
    # Who keeps to a position reaches that share exactly, but for rounding.
    return _flag(kept <= alone + 1e-6, agreement["value"], alone, says)


def _direction_flag(style: dict[str, Any] | None) -> dict[str, Any]:
    """Up where the same options are chosen for reversed and plain items alike, more than attitude sets them apart."""
    if style is None:
        return _flag(True, None, None, "plain and reversed items cannot be compared, so agreeing with all is possible")
    certain = style["low"] > 0 or style["high"] < 0
    says = (
        f"plain and reversed items lean the same way by {abs(style['style']):.1f} options, and differ by attitude by "
        f"{abs(style['attitude']):.1f}"
    )
    return _flag(certain and abs(style["style"]) > abs(style["attitude"]), style["style"], style["attitude"], says)
