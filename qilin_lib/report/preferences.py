"""What DPO did to the answers: alarms, lengths and repetition before and after, and some answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib.report.layout import Table
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.report.tokens import box, card
from qilin_lib.report.training import accuracy, mean_interval

# Row of the table, key in behaviour.json, factor.
ROWS = (
    ("tokens an answer", "tokens", 1),
    ("answers cut, percent", "cut", 100),
    ("repetition, percent", "repetition", 100),
)


def by_strategy(scores: Mapping[str, Any]) -> Table:
    """Held-out reward accuracy of constructed pairs by the strategy that made the rejected answer, Wilson intervals."""
    names = np.array(scores["strategy"])
    rows = []
    for name in dict.fromkeys(scores["strategy"]):
        own = {key: np.array(values)[names == name] for key, values in scores.items() if len(values) == len(names)}
        share, low, high = (100 * value for value in accuracy(own))
        rows.append([name, f"{share:.1f} [{low:.1f}, {high:.1f}] (n={int((names == name).sum())})"])
    columns = ["Strategy", "reward accuracy, percent"]
    return Table("", "Held-out pairs by strategy", pd.DataFrame(rows, columns=columns), [])


def alarm_list(sentences: Sequence[str]) -> Html:
    """The alarms of a training (`facts["alarms"]`), or that there is none."""
    boxes = "".join(f"<div class='box'><div class='text'>{escape(sentence)}</div></div>" for sentence in sentences)
    count = f"{len(sentences)} to look at" if sentences else "none of the known signs of a failed training"
    return styled(CASE_STYLE, f"<div class='qm-case'><div class='head'>Alarms<span>{count}</span></div>{boxes}</div>")


def behaviour_table(behaviour: Mapping[str, Any]) -> Table:
    """Means over the sampled prompts of behaviour.json, and method - SFT with a 95 % bootstrap interval."""
    rows = []
    for name, key, factor in ROWS:
        before, after = (factor * np.array(behaviour[who][key], dtype=float) for who in ("reference", "policy"))
        if not len(after):
            rows.append([name, *["no items"] * 3])
            continue
        gain, low, high = mean_interval(after - before)
        rows.append([name, f"{before.mean():.1f}", f"{after.mean():.1f}", f"{gain:+.1f} [{low:+.1f}, {high:+.1f}]"])
    count = len(behaviour["policy"]["texts"])
    notes = [
        f"greedy answers to {count} held-out prompts, at most {behaviour['max_new_tokens']} tokens; cut = no end token "
        "by then",
        "repetition: share of character 4-grams that occurred before in the same answer (seq-rep-4, Welleck et al. "
        "2020)",
    ]
    name = method_name(behaviour)
    frame = pd.DataFrame(rows, columns=["Metric", "SFT", name, f"{name} - SFT"])
    return Table("", f"Answers before and after {name}", frame, notes)


def method_name(made: Mapping[str, Any]) -> str:
    """What the method of 05 is called, from its behaviour.json or facts."""
    return made.get("method", "dpo").upper()


def answers(behaviour: Mapping[str, Any], most: int = 3) -> Html:
    """The first `most` prompts with the answers of SFT and DPO side by side."""
    cards = "".join(_card(behaviour, number) for number in range(min(most, len(behaviour["prompts"]))))
    return styled(CASE_STYLE, cards)


def _card(behaviour: Mapping[str, Any], number: int) -> str:
    sides = []
    for name, who in (("SFT", "reference"), (method_name(behaviour), "policy")):
        told = {key: values[number] for key, values in behaviour[who].items()}
        title = f"{name}: {told['tokens']} tokens{', cut' * told['cut']}, repetition {100 * told['repetition']:.0f} %"
        sides.append(box(title, told["texts"]))
    return card(f"held-out prompt {number + 1}", behaviour["prompts"][number], sides)
