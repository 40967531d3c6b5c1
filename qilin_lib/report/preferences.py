"""What DPO did to the answers: alarms, lengths and repetition before and after, and some answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.report.cells import Score
from qilin_lib.report.markup import Box, Html, card, conversation_card, joined, macro
from qilin_lib.report.render import Table, view
from qilin_lib.report.training import NOTHING, accuracy, mean_interval

# {row of the table: (key in behaviour.json, factor)}
ROWS = {
    "tokens an answer": ("tokens", 1),
    "answers cut, percent": ("cut", 100),
    "repetition, percent": ("repetition", 100),
}


def by_strategy(scores: Mapping[str, Any]) -> Table:
    """Held-out reward accuracy of constructed pairs by the strategy that made the rejected answer, Wilson intervals."""
    made = scores.get("strategy", [])
    names, rows = np.array(made), []
    for name in dict.fromkeys(made):
        own = {key: np.array(values)[names == name] for key, values in scores.items() if len(values) == len(names)}
        rows.append([name, accuracy(own)])
    notes = [] if rows else ["No pair was constructed from ChiMed-SFT (parameter constructed)."]
    return view("training", "strategies", rows, (), notes)


def alarm_list(alarms: Sequence[str]) -> Html:
    """The alarms of a training (`facts["alarms"]`), or that there is none."""
    count = f"{len(alarms)} to look at" if alarms else "none of the known signs of a failed training"
    return card("Alarms", [Box("", sentence) for sentence in alarms], aside=count)


def sampled(stage_dir: Path) -> dict[str, Any]:
    """behaviour.json of 05's folder, {} if no prompt was sampled."""
    path = stage_dir / "behaviour.json"
    return files.read_json(path) if path.exists() else {}


def behaviour_table(behaviour: Mapping[str, Any], parameters: Any) -> Table | Html:
    """Means over the sampled prompts of behaviour.json, and method - SFT with a 95 % bootstrap interval.

    `parameters` as in `training.perplexity_table`; a sentence where no prompt was sampled.
    """
    if not behaviour:
        return macro("paragraph", "No prompt was sampled.")
    rows = []
    for name, (key, factor) in ROWS.items():
        before, after = (factor * np.array(behaviour[who][key], dtype=float) for who in ("reference", "policy"))
        means = [Score(float(side.mean())) if len(side) else NOTHING for side in (before, after)]
        rows.append([name, *means, mean_interval(after - before, parameters, "+.1f")])
    method = method_name(behaviour)
    about = {"count": len(behaviour["policy"]["texts"]), "limit": behaviour["max_new_tokens"], "method": method}
    return view("training", "behaviour", rows, [method, f"{method} - SFT"], **about)


def method_name(made: Mapping[str, Any]) -> str:
    """What the method of 05 is called, from its behaviour.json or facts."""
    return made.get("method", "dpo").upper()


def answers(behaviour: Mapping[str, Any], most: int = 3) -> Html:
    """The first `most` prompts with the answers of SFT and DPO side by side."""
    cards = []
    for number, prompt in enumerate(behaviour.get("prompts", [])[:most]):
        sides = []
        for name, who in (("SFT", "reference"), (method_name(behaviour), "policy")):
            told = {key: values[number] for key, values in behaviour[who].items()}
            about = f"{told['tokens']} tokens{', cut' * told['cut']}, repetition {100 * told['repetition']:.0f} %"
            sides.append(Box(f"{name}: {about}", told["texts"]))
        cards.append(conversation_card(f"held-out prompt {number + 1}", prompt, answers=sides))
    return joined(cards)
