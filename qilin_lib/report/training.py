"""What notebooks 02-05 show: conversations and blocks, what a training did, held-out scores, answers to prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qilin_lib import files
from qilin_lib.evaluate.intervals import percentiles, resample_counts
from qilin_lib.report.cells import ADAPTIVE, NAMES, Score, sentences
from qilin_lib.report.markup import Box, Html, card, conversation_card, joined, macro
from qilin_lib.report.render import Table, table, view
from qilin_lib.runs import Stage
from qilin_lib.tokens.pack import Blocks
from qilin_lib.tokens.template import IGNORE, Message, Template
from qilin_lib.train import one_stage

NOTHING = Score(n=0)
# {row of the table: (key in behaviour.json, factor)}
ROWS = {
    "tokens an answer": ("tokens", 1),
    "answers cut, percent": ("cut", 100),
    "repetition, percent": ("repetition", 100),
}


def conversation(messages: list[Message], template: Template, tokenizer: Any) -> Html:
    """The tokens of a conversation in the template; those with loss are shaded."""
    ids, labels = template.encode_with_labels(messages, tokenizer)
    learned = [label != IGNORE for label in labels]
    shown = [tokenizer.decode([token]).replace("\n", "⏎") or "·" for token in ids]
    spans = joined(macro("token", text, with_loss) for text, with_loss in zip(shown, learned, strict=True))
    counts = f"{len(ids)} tokens, {sum(learned)} with loss (shaded)"
    return card(f"template {template.name}", [Box("", spans)], aside=counts)


def messages(row: dict[str, Any]) -> Html:
    """One conversation of sft.jsonl."""
    return conversation_card(row["id"], row["messages"])


def pair(row: dict[str, Any]) -> Html:
    """One triplet of dpo.jsonl: prompt above, chosen and rejected side by side."""
    answers = [Box(side, row[side][-1]["content"]) for side in ("chosen", "rejected")]
    return conversation_card(row["id"], row["prompt"], answers=answers)


def block(blocks: Blocks, number: int, tokenizer: Any, most: int = 8) -> Table:
    """The documents inside one packed block: where each starts, how long its part is, how it begins."""
    if number >= len(blocks.ids):
        return table(f"Block {number}", [], [], [f"there are {len(blocks.ids)} blocks"])
    starts = [i for i, position in enumerate(blocks.positions[number]) if position == 0]
    ends = [*starts[1:], blocks.ids.shape[1]]
    rows = [
        [start, end - start, tokenizer.decode(blocks.ids[number, start:end][:20], skip_special_tokens=True) + " …"]
        for start, end in zip(starts[:most], ends, strict=False)
    ]
    notes = [f"{len(starts)} documents or parts of documents in this block of {blocks.ids.shape[1]} tokens"]
    return table(f"Block {number}", rows, ["First token", "Tokens", "Begins with"], notes)


# --- what a training did ----------------------------------------------------------------------------------------------


def facts_table(facts: Mapping[str, Any], title: str = "What ran", whole: bool = False) -> Table:
    """What really ran, as the child process reported it: the most important in words and the others below, or the
    `whole` list.

    What has a table of its own (counts by source) is left to that."""
    known = {name: value for name, value in facts.items() if not isinstance(value, dict) and name != "template_sha256"}
    for name, value in known.items():
        if isinstance(value, list):
            known[name] = ", ".join(map(str, value)) or "none"
        elif value is None or isinstance(value, bool):
            known[name] = "-" if value is None else str(value)
    words = {name: name.replace("_", " ") for name in known}
    if "steps_done" in known and not whole:
        words = {name: in_words for name, in_words in NAMES["facts"].items() if name in known}
    further = "; ".join(f"{name.replace('_', ' ')} {known[name]}" for name in known if name not in words)
    rows = [[in_words, known[name]] for name, in_words in words.items()]
    return table(title, rows, ["What", "Value"], [f"Also recorded: {further}."] if further else [])


def perplexity_table(scores: Mapping[str, Any], parameters: Any) -> Table:
    """Perplexity before and after, by kind of text, with 95 % bootstrap intervals over documents.

    Per token, and per character where `scores` count them (DCPT): tokenizers differ in what a token is, not in that.
    `parameters`: a profile's, or a manifest's; its `bootstrap_resamples` and `seed` draw the intervals.
    """
    columns = {
        "before": ("before", None, "tokens"),
        "after": ("after", None, "tokens"),
        "after / before": ("after", "before", "tokens"),
    }
    further: list[str] = []
    if any("chars" in entry for entry in scores.values()):
        columns |= {f"{name}, a character": (*moments, "chars") for name, (*moments, _) in columns.items()}
        further += sentences("training", "characters")
    if any("unquantised_after" in entry for entry in scores.values()):
        columns["before, not quantised"] = ("unquantised_before", None, "tokens")
        columns["after, not quantised"] = ("unquantised_after", None, "tokens")
        further += sentences("training", "quantised")
    rows = [
        [kind, len(entry["tokens"]), *(_perplexity(entry, *column, parameters) for column in columns.values())]
        for kind, entry in scores.items()
    ]
    return view("training", "perplexity", rows, columns, after=further)


def _perplexity(entry: Mapping[str, Any], moment: str, against: str | None, unit: str, parameters: Any) -> Score:
    """exp(-sum of log-probabilities / units), or the ratio of two such, with its bootstrap interval."""
    if not sum(entry.get(unit, [])) or moment not in entry:
        return NOTHING
    sizes = np.array(entry[unit], dtype=float)
    gain = np.array(entry[moment]) - (np.array(entry[against]) if against else 0.0)
    counts = _draws(len(sizes), parameters)
    low, high = percentiles(np.exp(-(counts @ gain) / (counts @ sizes)))
    return Score(float(np.exp(-gain.sum() / sizes.sum())), None, low, high, ADAPTIVE)


def _draws(n: int, parameters: Any) -> np.ndarray:
    given = parameters if isinstance(parameters, Mapping) else vars(parameters)
    # A manifest of an older kit does not hold the first.
    return resample_counts(n, given.get("bootstrap_resamples", 1000), given["seed"])


def improved(entry: Mapping[str, Any], parameters: Any) -> bool:
    """Whether the whole 95 % interval of after / before lies below 1; never for fewer than three documents."""
    return len(entry["tokens"]) >= 3 and _perplexity(entry, "after", "before", "tokens", parameters).high < 1


def by_source(scores: Mapping[str, Any]) -> dict[str, dict[str, list]]:
    """The held-out conversations of all parts as entries of `perplexity_table`, one per source (SFT)."""
    parts = [pd.DataFrame({k: v for k, v in entry.items() if isinstance(v, list)}) for entry in scores.values()]
    return {source: part.to_dict("list") for source, part in pd.concat(parts).groupby("source", sort=False)}


def sources_table(counts: Mapping[str, Mapping[str, int]]) -> Table:
    """What SFT took of every source: conversations read, each reason for not using one, and examples with repeats."""
    names = next(iter(counts.values()), {})
    rows = ([source, *count.values()] for source, count in counts.items())
    return view("training", "sources", rows, (name.replace("_", " ") for name in names))


def arms_table(stage: Stage, facts: Mapping[str, Any]) -> Table | Html:
    """Whether one-stage SFT reads what two stages read; a sentence where there were two. `stage`, `facts`: 04's."""
    if not stage.parameters.one_stage:
        return macro("paragraph", "Two stages: DCPT came before.")
    packing = files.read_json(stage.parent("02_tokenize") / "packing.json")
    compared = one_stage.compare_tokens(packing, facts)
    return view("training", "arms", [[*row, "yes" if row[1] == row[2] else "no"] for row in compared])


def preference_table(scores: Mapping[str, Any], beta: float, parameters: Any) -> Table:
    """Held-out pairs: accuracy of the implicit reward (Wilson), margin and shifts of log-probability (bootstrap).

    `parameters` as in `perplexity_table`.
    """
    chosen, rejected = _shifts(scores)
    rows = [
        ["reward accuracy, percent", accuracy(scores)],
        ["reward margin", mean_interval(beta * (chosen - rejected), parameters)],
        ["shift of log π(chosen)", mean_interval(chosen, parameters)],
        ["shift of log π(rejected)", mean_interval(rejected, parameters)],
    ]
    return view("training", "pairs", rows)


def _shifts(scores: Mapping[str, Any]) -> list[np.ndarray]:
    """How far training moved the log-probability of the chosen and of the rejected answers."""
    return [np.array(scores[f"policy_{side}"]) - scores[f"reference_{side}"] for side in ("chosen", "rejected")]


def accuracy(scores: Mapping[str, Any]) -> Score:
    """Percent of held-out pairs whose implicit reward prefers the chosen answer, with Wilson's interval; a tie counts
    as wrong. "no items" without any pair."""
    chosen, rejected = _shifts(scores)
    return Score.share(int((chosen > rejected).sum()), len(chosen))


def mean_interval(values: np.ndarray, parameters: Any, form: str = ADAPTIVE) -> Score:
    """The mean of values [N] with its interval by the percentile bootstrap; "no items" for none."""
    if not len(values):
        return NOTHING
    low, high = percentiles(_draws(len(values), parameters) @ values / len(values))
    return Score(float(values.mean()), None, low, high, form)


# --- answers before and after -----------------------------------------------------------------------------------------


def by_strategy(scores: Mapping[str, Any]) -> Table:
    """Held-out reward accuracy of constructed pairs by the strategy that made the rejected answer, Wilson intervals."""
    made = scores.get("strategy", [])
    pairs = pd.DataFrame({name: values for name, values in scores.items() if made and len(values) == len(made)})
    rows = [[name, accuracy(own)] for name, own in pairs.groupby("strategy", sort=False)] if made else []
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
