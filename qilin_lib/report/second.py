"""Notebook 09: one page for the second system: reward model, policies, attitude scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.evaluate.calibration import calibration
from qilin_lib.report import attitudes, html, policies, rlhf
from qilin_lib.report.layout import Table
from qilin_lib.runs import Stage, read_manifest
from qilin_lib.train.fit import read_log

RLHF = "08_rlhf"


def write_report(stage: Stage) -> Path:
    """report.html of 09_bias, one self-contained page. Returns its path; leaves it alone if the stage is up to date."""
    target = stage.dir / "report.html"
    stage.begin()
    if stage.up_to_date:
        return target
    folder, digest = stage.parent(RLHF), read_manifest(stage.run_dir, RLHF)["digest"]
    sections = [
        html.Section("The reward model", tuple(_reward_parts(folder, stage.parameters))),
        html.Section("Rejection sampling", tuple(_pool_parts(read_pool(folder)))),
        html.Section("Policies side by side", tuple(_policy_parts(folder, digest))),
        *attitudes.sections(stage),
        html.Section("Where it comes from", (chain(stage),)),
    ]
    return html.report(sections, target, f"ChiMed-GPT's regime and analyses, run {stage.run_dir.name}")


def chain(stage: Stage) -> Table:
    """The manifests of the run, back to the raw files."""
    return html.manifest_chain(stage.run_dir, stage.name)


def read_pool(folder: Path) -> list[dict[str, Any]]:
    """Every sampled answer with its reward, all rounds in order; `folder` is 08's."""
    rounds = sorted(folder.glob("rejection/round*/pool.jsonl"), key=lambda path: (len(path.parent.name), path))
    return [row for path in rounds for row in files.read_jsonl(path)]


def read_answers(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """{policy: its answers to the held-out questions}; `folder` is 08's."""
    names = files.read_json(folder / "policies.json")["policies"]
    return {name: list(files.read_jsonl(folder / "policies" / f"{name}.jsonl")) for name in names}


def _reward_parts(folder: Path, parameters: Any) -> list[Any]:
    """Accuracy by source, training curves and calibration of the reward model in 08's `folder`."""
    scores = files.read_json(folder / "reward" / "heldout.json")
    measured = calibration(scores["chosen"], scores["rejected"], parameters.bootstrap_resamples, parameters.seed)
    return [
        rlhf.accuracy_table(scores),
        html.Picture(rlhf.reward_curves(read_log(folder / "reward")), "The reward model on its training batches"),
        html.Picture(rlhf.calibration_figure(measured), "Stated confidence against the share ranked right"),
        rlhf.calibration_table(measured),
    ]


def _pool_parts(pool: list[dict[str, Any]]) -> list[Any]:
    return [
        rlhf.pool_table(pool),
        html.Picture(rlhf.best_of_k_figure(pool), "Mean reward of the best of k answers"),
        rlhf.pool_examples(pool),
    ]


def _policy_parts(folder: Path, digest: str) -> list[Any]:
    compared = files.read_json(folder / "policies.json")
    parts = [
        policies.comparison_table(compared, digest),
        policies.differences_table(compared),
        html.Picture(policies.reward_against_kl(compared), "Reward against the distance from SFT"),
    ]
    if "rl" in compared["policies"]:
        parts.append(html.Picture(policies.rl_curve(read_log(folder / "rl")), "Reinforcement learning, step by step"))
    return [*parts, policies.side_by_side(read_answers(folder))]
