"""Notebook 09: every model answers every attitude scale (benchmarks.attitudes says how), and what that shows."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import attitude_scores, store
from qilin_lib.evaluate.asking import evaluated, scored_records
from qilin_lib.evaluate.benchmarks.attitudes import LABELS, Attitudes, prepare
from qilin_lib.progress import Show
from qilin_lib.runs import Stage


def evaluate(stage: Stage, show: Show | None = None) -> dict[str, Any]:
    """Answers and scores of the run's models and baselines; returns what it writes to scores.json.

    See `asking.evaluated` for what is kept and raised.
    """
    parameters = stage.parameters
    for name, line in parameters.baselines.items():
        if line.benchmarks is not None:
            raise QilinError(f"bias.baselines.{name}.benchmarks: every model is asked every scale; nearest valid: null")
    models = [*parameters.models, *parameters.baselines]

    def scored(tasks: Sequence[Attitudes], failed: Mapping[str, str]) -> dict[str, Any]:
        return score(tasks, models, stage.dir, parameters, failed)

    return evaluated(stage, show, lambda: prepare(parameters), scored)


def score(
    tasks: Sequence[Attitudes],
    models: Sequence[str],
    out_dir: str | Path,
    params: Any,
    failed: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """scores.json from the records alone: {"scales": facts, "models": protocol -> scale -> model -> numbers, "paired",
    "unfinished": scale -> model -> why it has no number, "usage": model -> what its server counted}.

    Makes the finished files out of what the processes wrote. Raises QilinError when a record is missing.
    """
    facts, measured, paired, unfinished = {}, {}, [], {}
    for task in tasks:
        scale = task.scale
        facts[task.name] = attitude_scores.facts(scale, task.labels, task.orders, LABELS)
        answers, without = scored_records(task, models, out_dir, failed)
        # A scale is a task per protocol.
        unfinished[scale.name] = unfinished.get(scale.name, {}) | without
        by_model = {model: task.statistics(records) for model, records in answers.items()}
        measured.setdefault(task.protocol, {})[scale.name] = by_model
        for a, b in itertools.combinations(answers, 2):
            gap = attitude_scores.difference(answers[a], answers[b], scale, params.bootstrap_resamples, params.seed)
            paired.append({"protocol": task.protocol, "scale": scale.name, "model_a": a, "model_b": b} | gap)
    more = {"paired": paired, "unfinished": unfinished, "usage": store.bills(out_dir)}
    return {"scales": facts, "models": measured} | more
