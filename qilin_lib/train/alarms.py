"""Signs that a training went wrong although it ended: plain sentences from its log, of DPO also from its answers and
parameters.

alarms.yaml holds the sentences: each says what was seen, the threshold, where users met it and what to try. The
thresholds are ours: from where on we would look at answers before anything else. Shifts are those against the
reference: rewards / β, so that they do not depend on which pairs a batch happened to hold. The log-probability of
chosen answers falls in most DPO runs (Rafailov et al. 2024, arXiv 2404.12358; Pal et al. 2024, arXiv 2402.13228).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from qilin_lib import strict_yaml

Rows = Sequence[Mapping[str, Any]]
# {name: its sentence and its limits}
ALARMS: dict[str, dict[str, Any]] = strict_yaml.read(Path(__file__).with_name("alarms.yaml"))


def spikes(rows: Rows, max_grad_norm: float) -> list[str]:
    """Logged steps of any training whose loss or gradient norm is far above the median of those before: the first, and
    how many. Small figures never count: a loss within one nat of the median, a norm that is not clipped. And whether no
    step had a learning rate."""
    rates, limit = [row["learning_rate"] for row in rows if "learning_rate" in row], ALARMS["spike"]
    found = [_sentence("idle")] if rates and not any(rates) else []
    for name, what, least in (("loss", "loss", 1.0), ("grad_norm", "gradient norm", max_grad_norm)):
        factor, high = limit["times"][name], []
        logged = [(row["step"], row[name]) for row in rows if name in row]
        for place, (step, value) in enumerate(logged):
            before = [other for _, other in logged[max(0, place - limit["window"]) : place]]
            usual = median(before) if len(before) >= limit["before"] else math.inf
            if value > max(factor * usual, usual + least):
                high.append({"step": step, "value": value, "usual": usual})
        if high:
            found.append(_sentence("spike", what=what, factor=factor, count=len(high), **high[0]))
    return found


def alarms(rows: Rows, parameters: Any, steps: int, behaviour: Mapping[str, Any] | None) -> list[str]:
    """All alarms of a training of `steps` steps; `rows` of log.jsonl, `behaviour` as in behaviour.json or None."""
    rate, logged = parameters.learning_rate, [row for row in rows if "rewards/accuracies" in row]
    high = [_sentence("rate", rate=rate)] if rate > ALARMS["rate"]["most"] else []
    return [*high, *_solved(logged, steps), *_falling(logged, parameters.beta), *_answered(behaviour)]


def _sentence(name: str, **figures: Any) -> str:
    return ALARMS[name]["sentence"].format(**ALARMS[name] | figures)


def _solved(rows: Rows, steps: int) -> Iterator[str]:
    """Pairs ranked right too soon. Before step 1 every pair is a tie, which counts as wrong; so a mean over the first
    steps near 1 cannot come from learning."""
    first, early = ALARMS["first"], ALARMS["early"]
    for row in rows:
        accuracy, loss = row["rewards/accuracies"], row["loss"]
        soon = row["step"] <= max(first["share"] * steps, first["steps"])
        if soon and (accuracy > first["accuracy"] or loss < first["loss"]):
            yield _sentence("first", at=row["step"], all=steps, reached=accuracy, low=loss)
            return
    end = early["share"] * steps
    part = [row for row in rows if end / 2 < row["step"] <= end]
    if part and all(row["rewards/accuracies"] > early["accuracy"] for row in part):
        yield _sentence("early", at=part[0]["step"], all=steps)


def _falling(rows: Rows, beta: float) -> Iterator[str]:
    """The chosen answers become less likely than they were under the reference."""
    if not (quarter := len(rows) // 4):
        return
    begin, end = rows[:quarter], rows[-quarter:]
    chosen = fmean(row["rewards/chosen"] for row in begin) / beta
    late = fmean(row["rewards/chosen"] for row in end) / beta
    margin = fmean(row["rewards/margins"] for row in begin) / beta
    margin_late = fmean(row["rewards/margins"] for row in end) / beta
    tokens = fmean(row["lengths/chosen"] for row in end)
    if late < min(-ALARMS["fall"]["nats"], chosen) and margin_late > margin:
        yield _sentence("fall", lost=-late, margin=margin, late=margin_late)
    if late < -ALARMS["token"]["nats"] * tokens:
        yield _sentence("token", lost=-late / max(tokens, 1))


def _answered(behaviour: Mapping[str, Any] | None) -> Iterator[str]:
    """Sampled answers that grew, that no longer end, or that repeat themselves more than before."""
    if not behaviour or not behaviour["policy"]["tokens"]:
        return
    for name in ("tokens", "cut", "repetition"):
        before, after = (fmean(behaviour[who][name]) for who in ("reference", "policy"))
        alarm = "longer" if name == "tokens" else name
        least = ALARMS[alarm]["more"]
        if after - before > least and after > ALARMS[alarm].get("times", 0) * before:
            yield _sentence(alarm, before=before, after=after, limit=behaviour["max_new_tokens"])
