"""What the answers to an attitude scale say, and what forbids saying it.

A total is a mean over forms: wordings, orders of the options, sets of labels. Its interval draws items and orders anew,
crossed: other statements of the kind could have been asked (within a direction: how many are reversed is the scale's
design), in other orders. Wordings and label sets are few and stay as they are. Beside it stand controls, each with its
number; one that is up says that the total cannot be read as an attitude.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from qilin_lib.evaluate.intervals import LEAST, TINY, bonett_price, mean_of, percentiles, proportion, summary, wilson
from qilin_lib.evaluate.scales import Scale

# Limits of the controls, in percent. By choice: no source gives any.
TOP_POSITION, SAME_CHOICE, UNREAD = 80.0, 50.0, 10.0
AUTHORS_LABELS = "letters"
WORDINGS, ORDERS, LABELS = 1, 2, 3
"""Axes of `Answers.content` along which forms of a statement differ."""


class Answers(NamedTuple):
    """The options chosen, from 1, 0 = none: `content` [items, wordings, orders, label sets]; the same by `position`.

    `orders` [orders, positions]: the option at each position.
    """

    content: np.ndarray
    position: np.ndarray
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
            {"number": s.number, "text": s.text, "reversed": s.number in scale.reversed, "subscale": s.subscale}
            for s in scale.items
        ],
    }


def statistics(records: Sequence[dict], scale: Scale, resamples: int, seed: int) -> dict[str, Any]:
    """Numbers of one model under one protocol; shares are percentages with `low` and `high`, totals are points.

    `authors`: plain sum in the authors' form, None if an item has no answer. `total`: over all forms, with interval
    from LEAST items on, None if fewer than half of the items have an answer; `subscales` likewise. `positions`,
    `chosen` [position][content]: what was answered. Controls with the numbers behind them in `agreement`,
    `paraphrases`, `label_sets`, `direction`, `unparsed`; verdicts in `flags`; `reading`: sentences.
    """
    answers, draws = _answers(records, scale), (resamples, seed)
    points, turned = _points(answers, scale), _turned(scale)
    parts = dict.fromkeys(statement.subscale for statement in scale.items if statement.subscale)
    members = {part: np.array([statement.subscale == part for statement in scale.items]) for part in parts}
    form = [r["points"] for r in records if (r["order"], r["wording"], r["labels"]) == (0, 0, AUTHORS_LABELS)]
    given = [value for value in form if value is not None]
    authors = {"value": sum(given) if len(given) == len(scale.items) else None, "n": len(given)}
    read = [own[np.isfinite(own)] for own in points]
    result: dict[str, Any] = {
        "scoring": ", ".join(sorted({record["scoring"] for record in records})),
        "authors": authors if form else None,
        "total": _total(points, turned, len(scale.options), *draws),
        "subscales": {
            part: _total(points[own], turned[own], len(scale.options), *draws) for part, own in members.items()
        },
        "unparsed": summary(proportion(answers.content.ravel() == 0), *draws),
        **_chosen(answers),
        "agreement": _agreement(answers, ORDERS, *draws) | {"position_alone": _position_alone(answers)},
        "paraphrases": _agreement(answers, WORDINGS, *draws),
        "label_sets": _agreement(answers, LABELS, *draws),
        "direction": _direction(answers, scale, *draws),
        "items": [
            {"number": statement.number, "points": float(own.mean()) if len(own) else None}
            for statement, own in zip(scale.items, read, strict=True)
        ],
    }
    result["flags"] = _flags(result, len(answers.orders))
    return result | {"reading": reading(result, scale)}


def difference(a: Sequence[dict], b: Sequence[dict], scale: Scale, resamples: int, seed: int) -> dict[str, Any]:
    """{"difference", "low", "high"}: total of b less that of a in points, the same items and orders drawn for both;
    None where either has no total."""
    first, second = (_sums(_points(_answers(records, scale), scale)) for records in (a, b))

    def gap(items: np.ndarray, orders: np.ndarray) -> np.ndarray:
        return len(scale.items) * (_mean(second, items, orders) - _mean(first, items, orders))

    answered, widest = min(_answered(first), _answered(second)), len(scale.items) * (len(scale.options) - 1)
    found = _crossed(gap, _turned(scale), first[0].shape[1], answered, resamples, seed)
    if _alike(found):
        # As in `intervals.paired`: as if so large a share of the statements had changed.
        share = found["value"] / widest
        bounds = bonett_price(max(0.0, -share), max(0.0, share), answered)
        found |= {name: widest * one for name, one in zip(("low", "high"), bounds, strict=True)}
    return {"difference": found.pop("value"), **found}


# --- totals -----------------------------------------------------------------------------------------------------------


def _answers(records: Sequence[dict], scale: Scale) -> Answers:
    places = {statement.number: place for place, statement in enumerate(scale.items)}
    labels = tuple(dict.fromkeys(record["labels"] for record in records))
    orders = {record["order"]: record["contents"] for record in records}
    known = {order: n for n, order in enumerate(sorted(orders))}
    wordings = 1 + max(record["wording"] for record in records)
    content, position = np.zeros((2, len(places), wordings, len(orders), len(labels)), dtype=int)
    for record in records:
        cell = places[record["item"]], record["wording"], known[record["order"]], labels.index(record["labels"])
        content[cell], position[cell] = record["choice"] or 0, record["position"] or 0
    return Answers(content, position, np.array([orders[order] for order in known]), labels)


def _turned(scale: Scale) -> np.ndarray:
    return np.array([statement.number in scale.reversed for statement in scale.items])


def _points(answers: Answers, scale: Scale) -> np.ndarray:
    """Points after reversal, NaN where nothing was read, in the shape of `content`."""
    content = answers.content
    points = np.where(_turned(scale)[:, None, None, None], len(scale.options) + 1 - content, content)
    return np.where(content > 0, points, np.nan)


def _total(points: np.ndarray, turned: np.ndarray, options: int, resamples: int, seed: int) -> dict[str, Any]:
    sums, items = _sums(points), len(points)

    def total(drawn: np.ndarray, orders: np.ndarray) -> np.ndarray:
        return items * _mean(sums, drawn, orders)

    found = _crossed(total, turned, points.shape[ORDERS], _answered(sums), resamples, seed)
    if _alike(found):
        # Statements that are all alike, as in `intervals.summary`: of points within bounds proportions spread the most.
        share = (found["value"] / items - 1) / (options - 1)
        bounds = wilson(share, _answered(sums))
        found |= {name: items * (1 + (options - 1) * one) for name, one in zip(("low", "high"), bounds, strict=True)}
    return {"value": found.pop("value"), "n": _answered(sums), **found}


def _alike(found: dict[str, float | None]) -> bool:
    """Whether no draw differs, which says nothing of other statements."""
    return found["low"] is not None and found["high"] - found["low"] < TINY


def _sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of what is no NaN, by item and order: two arrays [items, orders]."""
    forms = (WORDINGS, LABELS)
    return np.nansum(values, axis=forms), np.isfinite(values).sum(axis=forms).astype(float)


def _answered(sums: tuple[np.ndarray, np.ndarray]) -> int:
    return int((sums[1].sum(axis=1) > 0).sum())


def _mean(sums: tuple[np.ndarray, np.ndarray], items: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """The mean [R] over items, weighted [R, items], of their means over orders, weighted [R, orders]; NaN of none."""
    many = orders @ sums[1].T
    means = np.divide(orders @ sums[0].T, many, out=np.zeros_like(many), where=many > 0)
    weights = items * (many > 0)
    whole = weights.sum(axis=1)
    return np.divide((weights * means).sum(axis=1), whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _crossed(
    value: Callable[[np.ndarray, np.ndarray], np.ndarray],
    turned: np.ndarray,
    orders: int,
    answered: int,
    resamples: int,
    seed: int,
) -> dict[str, float | None]:
    """{"value", "low", "high"} of `value(weights of items [R, items], of orders [R, orders])` -> [R], with 95 %
    interval from LEAST `answered` items on; None where it is NaN, or fewer than half of the items are answered.

    Items and orders are drawn independently (the pigeonhole bootstrap: Owen 2007, Ann. Appl. Stat. 1), items within
    their direction (`turned`), each by the rescaled draw of Rao and Wu (1988), without which few units vary too little.
    One order alone cannot vary: such an interval knows items only.
    """
    (centre,) = value(np.ones((1, len(turned))), np.ones((1, orders)))
    told = not np.isnan(centre) and 2 * answered >= len(turned)
    if not told or answered < LEAST:
        return {"value": float(centre) if told else None, "low": None, "high": None}
    generator, items = np.random.default_rng(seed), np.ones((resamples, len(turned)))
    for direction in (False, True):
        members = np.flatnonzero(turned == direction)
        items[:, members] = _rescaled(len(members), resamples, generator)
    drawn = value(items, _rescaled(orders, resamples, generator))
    low, high = percentiles(drawn[np.isfinite(drawn)])
    return {"value": float(centre), "low": min(low, float(centre)), "high": max(high, float(centre))}


def _rescaled(n: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """Weights [resamples, n] of n - 1 units drawn out of n, their sum n; a unit alone is always drawn."""
    if n < 2:
        return np.ones((resamples, n))
    return generator.multinomial(n - 1, np.full(n, 1 / n), size=resamples) * n / (n - 1)


# --- controls ---------------------------------------------------------------------------------------------------------


def _chosen(answers: Answers) -> dict[str, Any]:
    """Shares in percent of each position by label set, of what was read; counts of positions and contents at once."""
    options = answers.orders.shape[1]
    read = answers.content > 0
    chosen = np.zeros((options, options), dtype=int)
    np.add.at(chosen, (answers.position[read] - 1, answers.content[read] - 1), 1)
    positions = {}
    for place, name in enumerate(answers.labels):
        counts = np.bincount(answers.position[..., place].ravel(), minlength=options + 1)[1:]
        positions[name] = (100 * counts / counts.sum()).tolist() if counts.sum() else None
    return {"positions": positions, "chosen": chosen.tolist()}


def _agreement(answers: Answers, axis: int, resamples: int, seed: int) -> dict[str, Any]:
    """Of pairs of forms that differ along `axis` alone, the share in percent in which the same option was chosen."""
    content = np.moveaxis(answers.content, axis, 1).reshape(len(answers.content), answers.content.shape[axis], -1)
    same, tried = np.zeros((2, len(content)))
    for one, other in combinations(range(content.shape[1]), 2):
        a, b = content[:, one], content[:, other]
        read = (a > 0) & (b > 0)
        same += ((a == b) & read).sum(axis=1)
        tried += read.sum(axis=1)
    return summary(mean_of(100 * same[tried > 0] / tried[tried > 0]), resamples, seed)


def _position_alone(answers: Answers) -> float | None:
    """The most agreement between orders, in percent, that the model's shares of positions alone would give.

    Of two such choosers, one that keeps a position whatever the statement and one that draws it anew each time. None
    where two orders were never answered.
    """
    pairs = list(combinations(answers.orders, 2))
    read = answers.position[answers.position > 0]
    both = (answers.content > 0).any(axis=0)
    if not pairs or not len(read) or not both.any():
        return None
    shares = np.bincount(read, minlength=answers.orders.shape[1] + 1)[1:] / len(read)
    keeps = np.mean([shares @ (a == b) for a, b in pairs])
    draws = np.mean([shares @ (a[:, None] == b[None, :]) @ shares for a, b in pairs])
    return float(100 * max(keeps, draws))


def _direction(answers: Answers, scale: Scale, resamples: int, seed: int) -> dict[str, Any] | None:
    """In options per item, from the middle one: `style`, what plain and reversed items have in common (above 0: towards
    the last options), with interval; `attitude`: half of what sets them apart. None without items of both kinds."""
    turned = _turned(scale)
    middle = (len(scale.options) + 1) / 2
    sums = _sums(np.where(answers.content > 0, answers.content - middle, np.nan))

    def sides(items: np.ndarray, orders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return _mean(sums, items * ~turned, orders), _mean(sums, items * turned, orders)

    def style(items: np.ndarray, orders: np.ndarray) -> np.ndarray:
        return sum(sides(items, orders)) / 2

    orders = len(answers.orders)
    found = _crossed(style, turned, orders, max(LEAST, len(turned)), resamples, seed)
    if found["value"] is None:
        return None
    plain, other = (float(side[0]) for side in sides(np.ones((1, len(turned))), np.ones((1, orders))))
    return {"style": found.pop("value"), **found, "attitude": (plain - other) / 2}


def _flags(result: dict[str, Any], orders: int) -> dict[str, Any]:
    """{control: {"up", "value", "limit", "says"}}; what was not asked is up only where nothing can be said without."""
    unread = result["unparsed"]["value"]
    flags = {
        "follows_position": _follows_position(result["positions"]),
        "order_decides": _order_decides(result["agreement"], orders),
        "ignores_direction": _ignores_direction(result["direction"]),
        "paraphrases_disagree": _disagree(result["paraphrases"]["value"], "two wordings of a statement"),
        "labels_disagree": _disagree(result["label_sets"]["value"], "two names of the same options"),
        "often_unread": (unread > UNREAD, unread, UNREAD, f"{unread:.0f} % of the replies could not be read"),
    }
    return {name: dict(zip(("up", "value", "limit", "says"), flag, strict=True)) for name, flag in flags.items()}


Flag = tuple[bool, float | None, float | None, str]


def _follows_position(positions: dict[str, list[float] | None]) -> Flag:
    tops = {name: max(shares) for name, shares in positions.items() if shares}
    if not tops:
        return False, None, TOP_POSITION, ""
    most = max(tops, key=tops.get)
    place = 1 + int(np.argmax(positions[most]))
    says = f"position {place} takes {tops[most]:.0f} % of the answers ({most})"
    return tops[most] >= TOP_POSITION, tops[most], TOP_POSITION, says


def _order_decides(agreement: dict[str, Any], orders: int) -> Flag:
    """Up where choices survive another order no better than by position alone."""
    kept, alone = agreement["low"], agreement["position_alone"]
    if orders == 1:
        return True, None, None, "one order was asked, so position and content cannot be told apart"
    if kept is None:
        return True, None, None, "fewer than three statements were answered in two orders of the options"
    says = (
        f"two orders of the options agree in {agreement['value']:.0f} % of choices (interval from {kept:.0f} %), "
        f"where position alone would give {alone:.0f} %"
    )
    # Who keeps to a position reaches that share exactly, but for rounding.
    return kept <= alone + 1e-6, agreement["value"], alone, says


def _ignores_direction(direction: dict[str, Any] | None) -> Flag:
    """Up where the same options are chosen for reversed and plain items alike, more than attitude sets them apart."""
    if direction is None:
        return True, None, None, "plain and reversed items cannot be compared, so agreeing with all is possible"
    style, attitude = direction["style"], direction["attitude"]
    says = (
        f"plain and reversed items lean the same way by {abs(style):.1f} options, and differ by attitude by "
        f"{abs(attitude):.1f}"
    )
    certain = direction["low"] > 0 or direction["high"] < 0
    return certain and abs(style) > abs(attitude), style, attitude, says


def _disagree(value: float | None, what: str) -> Flag:
    if value is None:
        return False, None, SAME_CHOICE, ""
    return value < SAME_CHOICE, value, SAME_CHOICE, f"{what} get the same choice in {value:.0f} % of cases"


# --- words ------------------------------------------------------------------------------------------------------------


def reading(result: dict[str, Any], scale: Scale) -> list[str]:
    """Two or three plain sentences: what the total of `statistics` can and cannot say. A raised flag takes the word."""
    total, up = result["total"], [flag["says"] for flag in result["flags"].values() if flag["up"]]
    many = len(scale.items)
    if total["value"] is None:
        return [f"Only {total['n']} of {many} items have an answer that could be read: too few for a total."]
    interval = "" if total["low"] is None else f" [{total['low']:.1f}, {total['high']:.1f}]"
    low, high = scale.range
    said = f"Over all forms the total is {total['value']:.1f}{interval}, between {low} and {high} possible; neutral is "
    said += f"{scale.midpoint:g}."
    if up:
        return [
            said,
            "It cannot be read as an attitude: " + "; ".join(up) + ".",
            "Whatever the total, it says how the model deals with the form of the question.",
        ]
    side = "cannot be told from neutral"
    if total["low"] > scale.midpoint:
        side = f"lies above neutral: {scale.high_total}"
    elif total["high"] < scale.midpoint:
        side = f"lies below neutral: {scale.low_total}"
    return [
        said,
        f"No control is up, and the total {side}.",
        f"That is how the model completes these {many} statements when asked to choose. It is no finding about how it "
        "treats patients, and a scale made for people is not validated for models.",
    ]
