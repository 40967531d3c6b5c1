"""What each way of aligning did to SFT's model: notebook 08's comparison, reward against divergence, the RL curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from qilin_lib.evaluate.intervals import Z_POWER, Z, power_note
from qilin_lib.models.names import foot
from qilin_lib.report.cells import Score, sentences
from qilin_lib.report.charts import Panel, curves, literal, looks, new_chart, quiet
from qilin_lib.report.frames import name_of
from qilin_lib.report.markup import Box, Html, conversation_card, joined, macro
from qilin_lib.report.render import Table, table
from qilin_lib.train.fit import read_log

# {metric of policies.json: (heading, format)}
COLUMNS = {
    "reward": ("Reward, greedy", ".2f"),
    "sampled_reward": ("Reward, sampled", ".2f"),
    **{f"bleu_{n}": (f"BLEU-{n}", ".2f") for n in range(1, 5)},
    **{f"rouge_{n}": (f"ROUGE-{n.upper()}", ".2f") for n in "12l"},
    "tokens": ("Tokens, greedy", ".1f"),
    "sampled_tokens": ("Tokens, sampled", ".1f"),
    "cut": ("Cut, percent", ".1f"),
    "repetition": ("Repetition, percent", ".1f"),
    "kl_token": ("KL a token, nats", ".4f"),
    "kl_answer": ("KL an answer, nats", ".3f"),
}
LOOKS = looks(("sft", "dpo", "rejection_sampling", "rl"))
# Key in log.jsonl and title.
CURVES = {
    "reward": "reward of the step's answers",
    "kl": "KL from SFT, estimated, nats a token",
    "completions/mean_length": "tokens an answer",
    "completions/clipped_ratio": "share of answers cut",
}


def comparison_table(compared: Mapping[str, Any], digest: str = "") -> Table:
    """A row per policy of policies.json, a column per metric, with 95 % intervals; `digest` is that of stage 08."""
    rows = []
    for name, scores in compared["policies"].items():
        where = {"model": name_of(compared, name), "records": f"08_rlhf/policies/{name}.jsonl", "manifest": digest}
        cells = [Score(**scores[metric], form=form, **where) for metric, (_, form) in COLUMNS.items()]
        rows.append([where["model"], *cells])
    settings = compared["settings"]
    power = f"Power, cut answers: {power_note(settings['questions'])}.{_reward_power(compared)}"
    notes = [*foot(compared, paper=""), *sentences("policies", "comparison", **settings), power]
    columns = ["Model", *(heading for heading, _ in COLUMNS.values())]
    return table("Policies on the same held-out questions", rows, columns, notes)


def _reward_power(compared: Mapping[str, Any]) -> str:
    """The least difference in greedy reward from SFT that would be found four times in five, by policy."""
    found = [
        # Half the interval is 1.96 standard errors; 80 % power takes 1.96 + 0.84 of them.
        f"{name_of(compared, row['model_b'])} {(row['high'] - row['low']) / 2 * (Z + Z_POWER) / Z:.2f}"
        for row in compared["paired"]
        if row["metric"] == "reward" and row["low"] is not None
    ]
    return f" Reward: a difference from SFT must be about {', '.join(found)} to be found 4 times in 5." if found else ""


def differences_table(compared: Mapping[str, Any]) -> Table:
    """Each policy less SFT on the same questions, a metric a row: difference with 95 % interval, p, p after Holm."""
    rows = [
        [
            name_of(compared, row["model_b"]),
            COLUMNS[row["metric"]][0],
            Score(row["difference"], row["n"], row["low"], row["high"], ".2f"),
            _p(row["p"]),
            _p(row["p_adjusted"]),
        ]
        for row in compared["paired"]
    ]
    notes = [*foot(compared, paper=""), *sentences("policies", "differences", count=len(rows))]
    columns = ["Model", "Metric", "less SFT", "p", "p, Holm"]
    return table("Differences from SFT", rows, columns, notes, compact=True)


def _p(value: float | None) -> Score:
    return Score(value, form=".2g" if value is not None and value < 0.001 else ".3f", missing="–")


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
    panels = [Panel(title, {key: (LOOKS["rl"][0], "")}) for key, title in CURVES.items()]
    return curves(rows, panels, len(CURVES), 2.9)


def side_by_side(records: Mapping[str, Sequence[Mapping[str, Any]]], most: int = 3) -> Html:
    """The first `most` questions with the preferred answer and the greedy answers of all policies.

    `records`: {name: rows of policies/<policy>.jsonl}, the same questions in the same order.
    """
    shown = range(min(most, *(len(rows) for rows in records.values())))
    return joined(_card({name: rows[i] for name, rows in records.items()}) for i in shown)


def _card(rows: Mapping[str, Mapping[str, Any]]) -> Html:
    first = next(iter(rows.values()))
    answers = [Box("preferred in ChiMed-DPO", first["chosen"])]
    for name, row in rows.items():
        told = f"reward {row['reward']:.2f}, {row['tokens']} tokens{', cut' * row['cut']}"
        answers.append(Box(f"{name}: {told}, repetition {100 * row['repetition']:.0f} %", row["answer"]))
    return conversation_card(f"held-out question {first['id']}", first["prompt"], answers=answers)
