"""Notebook 09: one page for the second system: reward model, policies, attitude scales."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.evaluate.calibration import calibration
from qilin_lib.models.names import accepted, read_scores
from qilin_lib.report import attitudes, html, rlhf
from qilin_lib.report.frames import name_of
from qilin_lib.report.html import Picture, Section, chain
from qilin_lib.report.render import Table, with_notes, write_all
from qilin_lib.runs import Stage
from qilin_lib.train.fit import read_log


def write_report(stage: Stage) -> Path:
    """report.html of 09_bias, one self-contained page. Returns its path; leaves it alone if the stage is up to date."""
    target = stage.dir / "report.html"
    stage.begin()
    if stage.up_to_date:
        return target
    folder, parameters = stage.parent("08_rlhf"), stage.parameters
    pool = read_pool(folder)
    best = Picture(rlhf.best_of_k_figure(pool, parameters), "Mean reward of the best of k answers")
    sampled = [rlhf.pool_table(pool, parameters), best, rlhf.pool_examples(pool)]
    notes = accepted(stage.run_dir, "08_rlhf")
    sections = [
        Section("The reward model", with_notes(reward_parts(folder, parameters), notes)),
        Section("Rejection sampling", with_notes(sampled, notes)),
        Section("Policies side by side", _policy_parts(folder)),
        *attitudes.sections(stage),
        Section("Where it comes from", (chain(stage),)),
    ]
    # For their files: R1, R2 … where they have no number.
    numbers = (f"R{number}" for number in itertools.count(1))
    made = [part for section in sections for part in section.parts if isinstance(part, Table)]
    write_all([one if one.number else replace(one, number=next(numbers)) for one in made], stage.dir)
    return html.report(sections, target, f"ChiMed-GPT's regime and analyses, run {stage.run_dir.name}")


def read_pool(folder: Path) -> list[dict[str, Any]]:
    """Every sampled answer with its reward, all rounds in order; `folder` is 08's."""
    rounds = sorted(folder.glob("rejection/round*/pool.jsonl"), key=lambda path: (len(path.parent.name), path))
    return [row for path in rounds for row in files.read_jsonl(path)]


def read_answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """{name of a policy: its answers to the held-out questions}; `folder` is 08's."""
    compared, answers = files.read_json(folder / "policies.json"), folder / "policies"
    return {name_of(compared, name): list(files.read_jsonl(answers / f"{name}.jsonl")) for name in compared["policies"]}


def reward_parts(folder: Path, parameters: Any) -> list[Any]:
    """Accuracy by source, training curves and calibration of the reward model in 08's `folder`."""
    scores = files.read_json(folder / "reward" / "heldout.json")
    measured = calibration(scores["chosen"], scores["rejected"], parameters.bootstrap_resamples, parameters.seed)
    return [
        rlhf.accuracy_table(scores, parameters),
        Picture(rlhf.reward_curves(read_log(folder / "reward")), "The reward model on its training batches"),
        Picture(rlhf.calibration_figure(measured), "Stated confidence against the share ranked right"),
        rlhf.calibration_table(measured),
    ]


def _policy_parts(folder: Path) -> tuple[Any, ...]:
    compared = read_scores(folder / "policies.json")
    parts = [
        rlhf.comparison_table(compared),
        rlhf.differences_table(compared),
        Picture(rlhf.reward_against_kl(compared), "Reward against the distance from SFT"),
    ]
    if "rl" in compared["policies"]:
        parts.append(Picture(rlhf.rl_curve(read_log(folder / "rl")), "Reinforcement learning, step by step"))
    return (*parts, rlhf.side_by_side(read_answers(folder)))
