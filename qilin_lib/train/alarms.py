"""Signs that a training went wrong although it ended: plain sentences from its log, of DPO also from its answers and
parameters.

Each says what was seen, the threshold, where users met it and what to try. Shifts are those against the reference:
rewards / β, so that they do not depend on which pairs a batch happened to hold. The log-probability of chosen answers
falls in most DPO runs (Rafailov et al. 2024, arXiv 2404.12358; Pal et al. 2024, arXiv 2402.13228); the thresholds are
ours and say from where on we would look at answers before anything else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

Rows = Sequence[Mapping[str, Any]]
# Whether an alarm is raised, and its sentence.
Table = Iterator[tuple[bool, str]]

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
    rate, logged = parameters.learning_rate, [row for row in rows if "rewards/accuracies" in row]
    table = [
        (
            rate > HIGH_RATE,
            f"The learning rate {rate:g} is above {HIGH_RATE:g} (allow_high_lr): a 7B model answered "
            "in babble after DPO at such a rate (hiyouga/LLaMA-Factory#797). Try a tenth of it, and read the answers.",
        ),
        *_solved(logged, steps),
        *_falling(logged, parameters.beta),
        *_answered(behaviour),
    ]
    return [sentence for raised, sentence in table if raised]


def _solved(rows: Rows, steps: int) -> Table:
    """Pairs ranked right too soon. Before step 1 policy and reference are equal and every pair is a tie, which counts
    as wrong; so a mean over the first steps near 1 cannot come from learning."""
    for row in rows:
        step, accuracy, loss = row["step"], row["rewards/accuracies"], row["loss"]
        if step <= max(FIRST_SHARE * steps, FIRST_STEPS) and (accuracy > SOLVED or loss < NO_LOSS):
            yield (
                True,
                f"By step {step} of {steps} the reward accuracy is {accuracy:.2f} and the loss {loss:.3f} (alarm: "
                f"above {SOLVED} or below {NO_LOSS} within {FIRST_SHARE:.0%} of the steps or {FIRST_STEPS}): a wrong "
                "reference, or something besides content that tells chosen from rejected "
                "(hiyouga/LLaMA-Factory#8974). Look at the pairs and at step_zero_gap.",
            )
            return
    early = [row for row in rows if EARLY_SHARE * steps / 2 < row["step"] <= EARLY_SHARE * steps]
    if early:
        yield (
            all(row["rewards/accuracies"] > SOLVED for row in early),
            f"From step {early[0]['step']} of {steps} on the reward accuracy is above {SOLVED} (alarm: throughout the "
            f"second half of the first {EARLY_SHARE:.0%}): the pairs are too easy or told apart by a surface feature "
            "such as length (eric-mitchell/direct-preference-optimization#35). Try a lower learning rate, fewer "
            "steps, a larger beta; compare accuracy on held-out pairs.",
        )


def _falling(rows: Rows, beta: float) -> Table:
    """The chosen answers become less likely than they were under the reference."""
    if not (quarter := len(rows) // 4):
        return
    (chosen, margin), (chosen_late, margin_late) = (
        [_mean([row[f"rewards/{name}"] for row in part]) / beta for name in ("chosen", "margins")]
        for part in (rows[:quarter], rows[-quarter:])
    )
    tokens = _mean([row["lengths/chosen"] for row in rows[-quarter:]])
    yield (
        chosen_late < -FALL and chosen_late < chosen and margin_late > margin,
        f"In the last quarter chosen answers are {-chosen_late:.1f} nats less likely than before DPO while the margin "
        f"grew from {margin:.1f} to {margin_late:.1f} nats (alarm: more than {FALL:g} nat): the margin comes from "
        "pushing both sides down (eric-mitchell/direct-preference-optimization#32). Try rpo_alpha: 1, a larger beta, a "
        "lower learning rate.",
    )
    yield (
        chosen_late < -FALL_PER_TOKEN * tokens,
        f"In the last quarter chosen answers lost {-chosen_late / max(tokens, 1):.2f} nats a token (alarm: more than "
        f"{FALL_PER_TOKEN:g}, a perplexity 1.1 times that before DPO): the model forgets how to answer "
        "(hiyouga/LLaMA-Factory#797). Try a tenth of the learning rate, or rpo_alpha: 1.",
    )


def _answered(behaviour: Mapping[str, Any] | None) -> Table:
    """Sampled answers that grew, that no longer end, or that repeat themselves more than before."""
    if behaviour is None:
        return
    (tokens, now), (cut, cut_now), (repetition, repetition_now) = (
        [_mean(behaviour[who][name]) for who in ("reference", "policy")] for name in ("tokens", "cut", "repetition")
    )
    yield (
        now > LONGER * tokens and now - tokens > LONGER_TOKENS,
        f"Sampled answers grew from {tokens:.0f} to {now:.0f} tokens (alarm: more than {LONGER:g} times and "
        f"{LONGER_TOKENS} tokens): DPO rewards length where chosen answers are the longer ones "
        "(eric-mitchell/direct-preference-optimization#40). Compare lengths/chosen with lengths/rejected; try a "
        "larger beta.",
    )
    yield (
        cut_now - cut > CUT_MORE,
        f"{cut_now:.0%} of the sampled answers do not end within {behaviour['max_new_tokens']} tokens, before DPO "
        f"{cut:.0%} (alarm: {CUT_MORE:.0%} more): the end token was unlearnt, or the model repeats "
        "itself (hiyouga/LLaMA-Factory#1347). Try rpo_alpha: 1, a lower learning rate.",
    )
    yield (
        repetition_now - repetition > REPEATS_MORE,
        f"Repetition in sampled answers rose from {repetition:.2f} to {repetition_now:.2f} (alarm: by more than "
        f"{REPEATS_MORE:g}): the commonest complaint after DPO; an added SFT loss helped (hiyouga/LLaMA-Factory#1347). "
        "Try rpo_alpha: 1, a lower learning rate, fewer steps.",
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
