"""Signs that a training went wrong although it ended: plain sentences from its log, of DPO also from its answers and
parameters.

Each says what was seen, the threshold, where users met it and what to try. Shifts are those against the reference:
rewards / β, so that they do not depend on which pairs a batch happened to hold. The log-probability of chosen answers
falls in most DPO runs (Rafailov et al. 2024, arXiv 2404.12358; Pal et al. 2024, arXiv 2402.13228); the thresholds are
ours and say from where on we would look at answers before anything else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

Rows = Sequence[Mapping[str, Any]]

HIGH_RATE = 1e-5
SOLVED, NO_LOSS = 0.98, 0.05
FIRST_SHARE, FIRST_STEPS, EARLY_SHARE = 0.02, 5, 0.2
FALL_PER_TOKEN, FALL = 0.1, 1.0
BEFORE, WINDOW, LOSS_JUMP, NORM_JUMP = 5, 20, 3, 10
LONGER, LONGER_TOKENS, CUT_MORE, REPEATS_MORE = 1.5, 10, 0.25, 0.1


def spikes(rows: Rows, max_grad_norm: float) -> list[str]:
    """Logged steps of any training whose loss or gradient norm is far above the median of those before: the first, and
    how many. Small figures never count: a loss within one nat of the median, a norm that is not clipped."""
    found = []
    for name, what, times, least in (
        ("loss", "loss", LOSS_JUMP, 1.0),
        ("grad_norm", "gradient norm", NORM_JUMP, max_grad_norm),
    ):
        logged = [(row["step"], row[name]) for row in rows if name in row]
        high = []
        for place, (step, value) in enumerate(logged):
            before = [other for _, other in logged[max(0, place - WINDOW) : place]]
            usual = median(before) if len(before) >= BEFORE else math.inf
            if value > max(times * usual, usual + least):
                high.append((step, value, usual))
        if high:
            step, value, usual = high[0]
            found.append(
                f"Step {step}: the {what} is {value:.3g}, the median of the steps logged before {usual:.3g} (alarm: "
                f"above {times} times; {len(high)} such steps). Look at the examples of that step; try a lower "
                "learning_rate or a longer warmup_ratio."
            )
    return found


def alarms(rows: Rows, parameters: Any, steps: int, behaviour: Mapping[str, Any] | None) -> list[str]:
    """All alarms of a training of `steps` steps; `rows` of log.jsonl, `behaviour` as in behaviour.json or None."""
    logged = [row for row in rows if "rewards/accuracies" in row]
    found = [high_rate(parameters), *solved(logged, steps), *falling(logged, parameters.beta)]
    if behaviour is not None:
        found += [*longer(behaviour), repeats(behaviour)]
    return [sentence for sentence in found if sentence]


def high_rate(parameters: Any) -> str | None:
    """A learning rate that at 7B is known to end in babble."""
    if parameters.learning_rate <= HIGH_RATE:
        return None
    return (
        f"The learning rate {parameters.learning_rate:g} is above {HIGH_RATE:g} (allow_high_lr): a 7B model answered "
        "in babble after DPO at such a rate (hiyouga/LLaMA-Factory#797). Try a tenth of it, and read the answers."
    )


def solved(rows: Rows, steps: int) -> list[str]:
    """Pairs ranked right too soon. Before step 1 policy and reference are equal and every pair is a tie, which counts
    as wrong; so a mean over the first steps near 1 cannot come from learning."""
    first = [row for row in rows if row["step"] <= max(FIRST_SHARE * steps, FIRST_STEPS)]
    for row in first:
        if row["rewards/accuracies"] > SOLVED or row["loss"] < NO_LOSS:
            return [
                f"By step {row['step']} of {steps} the reward accuracy is {row['rewards/accuracies']:.2f} and the loss "
                f"{row['loss']:.3f} (alarm: above {SOLVED} or below {NO_LOSS} within {FIRST_SHARE:.0%} of the steps or "
                f"{FIRST_STEPS}): a wrong reference, or something besides content that tells chosen from rejected "
                "(hiyouga/LLaMA-Factory#8974). Look at the pairs and at step_zero_gap."
            ]
    early = [row for row in rows if EARLY_SHARE * steps / 2 < row["step"] <= EARLY_SHARE * steps]
    if early and all(row["rewards/accuracies"] > SOLVED for row in early):
        return [
            f"From step {early[0]['step']} of {steps} on the reward accuracy is above {SOLVED} (alarm: throughout the "
            f"second half of the first {EARLY_SHARE:.0%}): the pairs are too easy or told apart by a surface feature "
            "such as length (eric-mitchell/direct-preference-optimization#35). Try a lower learning rate, fewer "
            "steps, a larger beta; compare accuracy on held-out pairs."
        ]
    return []


def falling(rows: Rows, beta: float) -> list[str]:
    """The chosen answers become less likely than they were under the reference."""
    if len(rows) < 4:
        return []
    quarter = len(rows) // 4
    early, late = (
        {name: mean(part, f"rewards/{name}") / beta for name in ("chosen", "margins")}
        for part in (rows[:quarter], rows[-quarter:])
    )
    found = []
    if late["chosen"] < -FALL and late["chosen"] < early["chosen"] and late["margins"] > early["margins"]:
        found.append(
            f"In the last quarter chosen answers are {-late['chosen']:.1f} nats less likely than before DPO while "
            f"the margin grew from {early['margins']:.1f} to {late['margins']:.1f} nats (alarm: more than {FALL:g} "
            "nat): the margin comes from pushing both sides down (eric-mitchell/direct-preference-optimization#32). "
            "Try rpo_alpha: 1, a larger beta, a lower learning rate."
        )
    tokens = mean(rows[-quarter:], "lengths/chosen")
    if late["chosen"] < -FALL_PER_TOKEN * tokens:
        found.append(
            f"In the last quarter chosen answers lost {-late['chosen'] / tokens:.2f} nats a token (alarm: more than "
            f"{FALL_PER_TOKEN:g}, a perplexity 1.1 times that before DPO): the model forgets how to answer "
            "(hiyouga/LLaMA-Factory#797). Try a tenth of the learning rate, or rpo_alpha: 1."
        )
    return found


def longer(behaviour: Mapping[str, Any]) -> list[str]:
    """Answers that grew, or that no longer end."""
    before, after = (mean_of(behaviour[who]["tokens"]) for who in ("reference", "policy"))
    found = []
    if after > LONGER * before and after - before > LONGER_TOKENS:
        found.append(
            f"Sampled answers grew from {before:.0f} to {after:.0f} tokens (alarm: more than {LONGER:g} times and "
            f"{LONGER_TOKENS} tokens): DPO rewards length where chosen answers are the longer ones "
            "(eric-mitchell/direct-preference-optimization#40). Compare lengths/chosen with lengths/rejected; try a "
            "larger beta."
        )
    before, after = (mean_of(behaviour[who]["cut"]) for who in ("reference", "policy"))
    if after - before > CUT_MORE:
        found.append(
            f"{after:.0%} of the sampled answers do not end within {behaviour['max_new_tokens']} tokens, before DPO "
            f"{before:.0%} (alarm: {CUT_MORE:.0%} more): the end token was unlearnt, or the model repeats "
            "itself (hiyouga/LLaMA-Factory#1347). Try rpo_alpha: 1, a lower learning rate."
        )
    return found


def repeats(behaviour: Mapping[str, Any]) -> str | None:
    """Answers that repeat themselves more than before."""
    before, after = (mean_of(behaviour[who]["repetition"]) for who in ("reference", "policy"))
    if after - before <= REPEATS_MORE:
        return None
    return (
        f"Repetition in sampled answers rose from {before:.2f} to {after:.2f} (alarm: by more than {REPEATS_MORE:g}): "
        "the commonest complaint after DPO; an added SFT loss helped (hiyouga/LLaMA-Factory#1347). Try rpo_alpha: 1, a "
        "lower learning rate, fewer steps."
    )


def mean(rows: Rows, name: str) -> float:
    """Mean of one logged quantity over rows."""
    return mean_of([row[name] for row in rows])


def mean_of(values: Sequence[float]) -> float:
    """Arithmetic mean; of nothing 0."""
    return sum(values) / len(values) if values else 0.0
