"""What each way of aligning did to SFT's model: notebook 08's comparison, reward against divergence, the RL curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qilin_lib.evaluate.intervals import Z_POWER, Z, power_note
from qilin_lib.models.names import foot
from qilin_lib.report.cells import NAMES, WORDS, Score
from qilin_lib.report.charts import Panel, curves, literal, looks, new_chart, quiet
from qilin_lib.report.frames import name_of
from qilin_lib.report.markup import Box, Html, conversation_card, joined, macro
from qilin_lib.report.render import Table, view
from qilin_lib.train.fit import read_log

COLUMNS: dict[str, list[str]] = WORDS["policies"]["comparison"]["metrics"]
"""{metric of policies.json: [heading, format]}"""
LOOKS = looks(("sft", "dpo", "rejection_sampling", "rl"))


def comparison_table(compared: Mapping[str, Any], digest: str = "") -> Table:
    """A row per policy of policies.json, a column per metric, with 95 % intervals; `digest` is that of stage 08."""
    rows = []
    for name, scores in compared["policies"].items():
        where = {"model": name_of(compared, name), "records": f"08_rlhf/policies/{name}.jsonl", "manifest": digest}
        cells = [Score.of(scores[metric], form, **where) for metric, (_, form) in COLUMNS.items()]
        rows.append([where["model"], *cells])
    # Half an interval is 1.96 standard errors; to find a difference four times in five takes 1.96 + 0.84 of them.
    least = [
        f"{name_of(compared, row['model_b'])} {(row['high'] - row['low']) / 2 * (Z + Z_POWER) / Z:.2f}"
        for row in compared["paired"]
        if row["metric"] == "reward" and row["low"] is not None
    ]
    power = f"Power, cut answers: {power_note(compared['settings']['questions'])}."
    power += f" Reward: a difference from SFT must be about {', '.join(least)} to be found 4 times in 5." * bool(least)
    headings, notes = (heading for heading, _ in COLUMNS.values()), foot(compared, paper="")
    return view("policies", "comparison", rows, headings, notes, after=[power], **compared["settings"])


def differences_table(compared: Mapping[str, Any]) -> Table:
    """Each policy less SFT on the same questions, a metric a row: difference with 95 % interval, p, p after Holm."""
    rows = []
    for row in compared["paired"]:
        values = [row["p"], row["p_adjusted"]]
        forms = [".2g" if value is not None and value < 0.001 else ".3f" for value in values]
        rows.append(
            [
                name_of(compared, row["model_b"]),
                COLUMNS[row["metric"]][0],
                Score.of({**row, "value": row["difference"]}, ".2f"),
                *(Score(value, form=form, missing="–") for value, form in zip(values, forms, strict=True)),
            ]
        )
    return view("policies", "differences", rows, (), foot(compared, paper=""), compact=True, count=len(rows))


def reward_against_kl(compared: Mapping[str, Any]) -> Figure:
    """Reward of sampled answers over KL from SFT, one mark a policy with both 95 % intervals.

    A policy far to the right without a gain in reward, or with one that BLEU and the answers do not share, has been
    optimised past what the reward model knows. Empty when there is no question.
    """
    known = {name: entry for name, entry in compared["policies"].items() if entry["kl_answer"]["value"] is not None}
    chart = new_chart(7.0, 4.2)
    axes = chart.subplots()
    for name, entry in known.items():
        colour, marker = (looks(list(compared["policies"])) | LOOKS)[name]
        kl, reward = entry["kl_answer"], entry["sampled_reward"]
        axes.plot((kl["low"], kl["high"]), [reward["value"]] * 2, color=colour, linewidth=1.1)
        axes.plot([kl["value"]] * 2, (reward["low"], reward["high"]), color=colour, linewidth=1.1)
        label = literal(name_of(compared, name))
        axes.plot(kl["value"], reward["value"], color=colour, marker=marker, linestyle="", label=label)
    axes.set(xlabel="KL from SFT, nats an answer", ylabel="reward of sampled answers")
    axes.set_title(f"Reward against divergence, 95 % intervals, n = {compared['settings']['questions']}", fontsize=10)
    if known:
        chart.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    quiet(axes, "both")
    return chart


def curve(folder: Path) -> Figure | Html:
    """`rl_curve` of 08's folder, or a sentence where there was no reinforcement learning."""
    if not (folder / "rl" / "log.jsonl").exists():
        return macro("paragraph", "No reinforcement learning was asked for.")
    return rl_curve(read_log(folder / "rl"))


def rl_curve(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward, KL from SFT, length and cut share over the steps of `rl/log.jsonl`.

    The KL is TRL's estimate from the sampled tokens: RLOO's is the mean log-ratio, which can be below 0. The loss is
    left out: RLOO's and GRPO's advantages sum to 0 in a group, so it says nothing about progress.
    """
    panels = [Panel(title, {key: (LOOKS["rl"][0], "")}) for key, title in NAMES["rl"].items()]
    return curves(rows, panels, len(panels), 2.9)


def side_by_side(records: Mapping[str, Sequence[Mapping[str, Any]]], most: int = 3) -> Html:
    """The first `most` questions with the preferred answer and the greedy answers of all policies.

    `records`: {name: rows of policies/<policy>.jsonl}, the same questions in the same order.
    """
    cards = []
    for rows in list(zip(*records.values(), strict=False))[:most]:
        first, answers = rows[0], [Box("preferred in ChiMed-DPO", rows[0]["chosen"])]
        for name, row in zip(records, rows, strict=True):
            told = f"reward {row['reward']:.2f}, {row['tokens']} tokens{', cut' * row['cut']}"
            answers.append(Box(f"{name}: {told}, repetition {100 * row['repetition']:.0f} %", row["answer"]))
        cards.append(conversation_card(f"held-out question {first['id']}", first["prompt"], answers=answers))
    return joined(cards)
