"""What notebook 08 shows: the reward model, the pool of sampled answers, and what each way of aligning did.

Rewards have no zero and no unit of their own: σ of a difference is the stated chance that one answer is preferred, and
only differences between answers to the same question are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import calibration as reliability
from qilin_lib.evaluate.intervals import LEAST, Z_POWER, Summary, Z, mean_of, power_note, studentised
from qilin_lib.models.names import foot
from qilin_lib.report import charts
from qilin_lib.report.cells import NAMES, WORDS, Score
from qilin_lib.report.frames import name_of
from qilin_lib.report.markup import Box, Html, conversation_card, joined, macro
from qilin_lib.report.render import Table, view
from qilin_lib.train.fit import read_log

CURVE_COLOUR = charts.COLOURS["sft"]
Row = Mapping[str, Any]
COLUMNS: dict[str, list[str]] = WORDS["policies"]["comparison"]["metrics"]
"""{metric of policies.json: [heading, format]}"""
LOOKS = charts.looks(("sft", "dpo", "rejection_sampling", "rl"))


# --- the reward model -------------------------------------------------------------------------------------------------


def accuracy_table(scores: Mapping[str, Sequence[Any]], parameters: Any) -> Table:
    """Held-out pairs of reward/heldout.json that are ranked right, by source and in all, with 95 % intervals (Wilson),
    and the mean margin r(chosen) - r(rejected) (bootstrap over pairs)."""
    rows = []
    for name, entry in {**reliability.by_source(scores), "Total": scores}.items():
        share = reliability.accuracy(entry["chosen"], entry["rejected"])
        margins = np.subtract(entry["chosen"], entry["rejected"], dtype=float)
        ties = int((margins == 0).sum())
        rows.append([name, share["n"], _percent(share), ties, _number(_mean(margins, parameters))])
    return view("rlhf", "accuracy", rows, power=power_note(len(scores["chosen"])))


def calibration_table(calibration: Mapping[str, Any]) -> Table:
    """Expected calibration error, Brier score and log loss of `calibration.calibration`, beside those of a model that
    gives every pair one half."""
    rows = [
        ["expected calibration error", _number(calibration["ece"]), Score()],
        ["Brier score", _number(calibration["brier"]), Score(0.25, form=".3f")],
        ["log loss, nats", _number(calibration["log_loss"]), Score(math.log(2), form=".3f")],
    ]
    return view("rlhf", "calibration", rows, n=calibration["n"], bins=len(calibration["bins"]))


def calibration_figure(calibration: Mapping[str, Any]) -> Figure:
    """Share of pairs ranked right against stated confidence, with Wilson intervals and the diagonal of a calibrated
    model; below, how many pairs there are (none where heldout_share_dpo is 0)."""
    chart = charts.new_chart(5.2, 4.8)
    top, bottom = chart.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    top.plot([50, 100], [50, 100], color="#333333", linestyle="--", linewidth=1, label="calibrated")
    shares, most = {}, 1
    for one in calibration["bins"]:
        start, end = 100 * one["low"], 100 * one["high"]
        bottom.bar((start + end) / 2, one["n"], width=0.92 * (end - start), color="#b8c0cc")
        bottom.annotate(f"{one['n']:,}", ((start + end) / 2, one["n"]), ha="center", va="bottom", fontsize=8)
        most = max(most, one["n"])
        if one["n"]:
            ends = {name: one["right"][name] and 100 * one["right"][name] for name in ("value", "low", "high")}
            shares[100 * one["confidence"]] = ends | {"n": one["n"]}
    charts.interval_curve(top, shares, (CURVE_COLOUR, "o"), "share right, 95 % interval", joined=False)
    top.set(ylabel="pairs ranked right, percent", ylim=(-2, 102))
    top.legend(frameon=False, fontsize=8, loc="lower right")
    bottom.set(
        xlabel="confidence in the preferred answer, percent", ylabel="pairs", ylim=(0, 1.35 * most), xlim=(49, 101)
    )
    charts.quiet(top)
    charts.quiet(bottom)
    return chart


def reward_curves(rows: charts.Rows) -> Figure:
    """Loss, share ranked right and margin of the training batches over steps: rows of reward/log.jsonl."""
    panels = [
        charts.Panel("loss (dashed: ln 2)", {"loss": (CURVE_COLOUR, "")}, math.log(2)),
        charts.Panel("pairs of the batch ranked right", {"accuracy": (CURVE_COLOUR, "")}, 0.5),
        charts.Panel("margin, chosen - rejected", {"margin": (CURVE_COLOUR, "")}, 0.0),
    ]
    return charts.curves(rows, panels, 3, 3)


# --- the pool of rejection sampling -----------------------------------------------------------------------------------


def pool_table(pool: Sequence[Row], parameters: Any) -> Table:
    """What the choice among K answers gains, one row a round: means over questions with 95 % intervals over questions.

    `pool`: rows of pool.jsonl, of one round or several. QilinError if there is none.
    """
    rows = []
    for number, questions in _rounds(pool).items():
        rewards = [[row["reward"] for row in ranked] for ranked in questions]
        best, worst = (np.array([own[place] for own in rewards]) for place in (-1, 0))
        mean = np.array([np.mean(own) for own in rewards])
        # Mean over the other answers of σ(r(best) - r(other)).
        above = [
            float(np.exp(-np.logaddexp(0.0, np.array(own[:-1]) - own[-1])).mean()) for own in rewards if len(own) > 1
        ]
        level = sum(len(set(own)) == 1 for own in rewards)
        sizes = " or ".join(map(str, sorted({len(own) for own in rewards})))
        means = [_number(_mean(values, parameters)) for values in (worst, mean, best, best - mean)]
        preferred = _percent(_mean(np.array(above), parameters))
        rows.append([number, len(questions), sizes, *means, preferred, level])
    return view("rlhf", "pool", rows)


def best_of_k(pool: Sequence[Row], parameters: Any) -> dict[int, Summary]:
    """{k: {"value", "n", "low", "high"}}: reward to expect of the best of k answers, k from 1 to the K sampled.

    Each question gives the mean over all subsets of k of its K answers, an estimate without bias of which the best of
    the first k is one draw: Σ_i r_(i) C(i - 1, k - 1) / C(K, k), answers in the order of their rank, the best last.
    Means over questions of all rounds, 95 % intervals over questions. QilinError if there is no answer.
    """
    questions = [[row["reward"] for row in ranked] for found in _rounds(pool).values() for ranked in found]
    expected = {}
    for k in range(1, min(map(len, questions)) + 1):
        values = []
        for own in questions:
            ways = math.comb(len(own), k)
            values.append(sum(value * math.comb(i, k - 1) / ways for i, value in enumerate(own)))
        expected[k] = _mean(np.array(values), parameters)
    return expected


def best_of_k_figure(pool: Sequence[Row], parameters: Any) -> Figure:
    """`best_of_k` as a curve with its intervals, one a round: where it flattens, more samples buy little."""
    chart = charts.new_chart(5.6, 3.6)
    axes = chart.subplots()
    colours = (CURVE_COLOUR, charts.PAPER_COLOUR, *charts.FURTHER_COLOURS)
    largest = 1
    for place, number in enumerate(_rounds(pool)):
        found = best_of_k([row for row in pool if row["round"] == number], parameters)
        charts.interval_curve(axes, found, (colours[place % len(colours)], "o"), f"round {number}")
        largest = max(largest, *found)
    axes.set(xlabel="k, answers sampled to a question", ylabel="expected reward of the best")
    axes.set_xticks(range(1, largest + 1, max(1, largest // 8)))
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    charts.quiet(axes)
    return chart


def pool_examples(pool: Sequence[Row], most: int = 3) -> Html:
    """Best and worst answer to `most` questions, evenly spaced over the pool, with rewards and lengths."""
    questions = [ranked for found in _rounds(pool).values() for ranked in found]
    count = min(most, len(questions))
    cards = []
    for ranked in (questions[i * len(questions) // count] for i in range(count)):
        best, worst = ranked[-1], ranked[0]
        sides = []
        for name, row in (("best", best), ("worst", worst)):
            rank = (
                f"{name} of {len(ranked)}: reward {row['reward']:.2f}, {row['tokens']} tokens{', kept' * row['kept']}"
            )
            sides.append(Box(rank, row["answer"]))
        cards.append(conversation_card(best["id"], best["prompt"], f"round {best['round']}", sides))
    return joined(cards)


def _rounds(pool: Sequence[Row]) -> dict[int, list[list[Row]]]:
    """{round: [answers to a question, the best last]}, questions in the order of the pool."""
    if not pool:
        raise QilinError("the pool of rejection sampling holds no answer; see rlhf.prompts and rlhf.num_samples")

    def rank(row: Row) -> tuple[bool, float, int]:
        # As train/rejection.py keeps them: silence ranks last, and of equal rewards the earlier sample first.
        return bool(row["answer"].strip()), row["reward"], -row["sample"]

    found: dict[int, dict[str, list[Row]]] = {}
    for row in pool:
        found.setdefault(row["round"], {}).setdefault(row["id"], []).append(row)
    return {number: [sorted(own, key=rank) for own in asked.values()] for number, asked in found.items()}


def _mean(values: np.ndarray, parameters: Any) -> Summary:
    """The mean of values [N] with its bootstrap-t interval; without one for fewer than three."""
    n, low, high = len(values), None, None
    if n >= LEAST:
        low, high, _ = studentised(mean_of(values), parameters.bootstrap_resamples, parameters.seed)
    return {"value": float(values.mean()) if n else None, "n": n, "low": low, "high": high}


def _number(score: Summary, form: str = ".3f") -> Score:
    # Its n stands in a column of its own, unless there is none.
    return Score(score["value"], None if score["value"] is not None else 0, score["low"], score["high"], form)


def _percent(score: Summary) -> Score:
    bounds = {name: score[name] and 100 * min(1.0, max(0.0, score[name])) for name in ("low", "high")}
    value = score["value"] and 100 * score["value"]
    return _number({"value": value, **bounds}, ".1f")


# --- the policies side by side ----------------------------------------------------------------------------------------


def comparison_table(compared: Mapping[str, Any]) -> Table:
    """A row per policy of policies.json, a column per metric, with 95 % intervals."""
    rows, digest = [], compared.get("digest", "")
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
    chart = charts.new_chart(7.0, 4.2)
    axes = chart.subplots()
    for name, entry in known.items():
        look = (charts.looks(list(compared["policies"])) | LOOKS)[name]
        kl, reward = entry["kl_answer"], entry["sampled_reward"]
        charts.interval(axes, reward, kl["value"], look, upright=True)
        charts.interval(axes, kl, reward["value"], look, label=charts.literal(name_of(compared, name)))
    axes.set(xlabel="KL from SFT, nats an answer", ylabel="reward of sampled answers")
    axes.set_title(f"Reward against divergence, 95 % intervals, n = {compared['settings']['questions']}", fontsize=10)
    if known:
        chart.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    charts.quiet(axes, "both")
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
    panels = [charts.Panel(title, {key: (LOOKS["rl"][0], "")}) for key, title in NAMES["rl"].items()]
    return charts.curves(rows, panels, len(panels), 2.9)


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
