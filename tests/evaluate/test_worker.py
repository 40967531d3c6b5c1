"""The processes of notebook 06, started as it starts them: kill -9, one and two processes, batch sizes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.evaluate import asking, plan, run, store
from qilin_lib.evaluate.benchmarks import prepare
from qilin_lib.runs import Stage
from qilin_lib.train import children, launch

pytestmark = pytest.mark.slow
SMALL = {
    "models": ["base"],
    "shots": 2,
    "max_items_ceval_per_subject": 4,
    "max_items_cmexam": None,
    "max_items_huatuo": 4,
    "max_new_tokens_cmexam": 12,
    "max_new_tokens_huatuo": 12,
    "bootstrap_resamples": 100,
    "retrieval": "null",
    "judge": "null",
}


METRICS = {"ceval": "average", "cmexam": "accuracy", "huatuo": "gleu"}


@pytest.fixture
def make_stage(stage_of_06: Callable[..., Stage]) -> Callable[..., Stage]:
    """`make_stage(name, **overrides)`: a stage that has begun."""

    def make(name: str, **overrides: Any) -> Stage:
        stage = stage_of_06(name, {**SMALL, **overrides})
        stage.begin()
        return stage

    return make


@pytest.fixture
def shown() -> list[str]:
    return []


def records(stage: Stage) -> dict[str, bytes]:
    paths = sorted((stage.dir / "predictions").rglob("*.jsonl"))
    return {str(path.relative_to(stage.dir)): path.read_bytes() for path in paths}


def test_batch_sizes_processes_and_a_kill_change_no_record(
    make_stage: Callable[..., Stage], raw_dir: Path, shown: list[str]
):
    one = make_stage("one", batch_size=1, processes=1)
    two = make_stage("two", batch_size=16, processes=2)
    scores = run.evaluate(one, shown.append)
    assert run.evaluate(two, shown.append) == scores
    assert len(records(one)) == 5 and records(one) == records(two)
    assert any("base: ceval, fixed 12/12, 0 s left" in line for line in shown)
    assert not list(two.dir.rglob("*.part*")) and not (two.dir / "job.json").exists()
    killed = make_stage("killed", batch_size=2, processes=1)
    assert _killed(killed, raw_dir) and run.evaluate(killed, shown.append) == scores
    assert records(killed) == records(one)


def test_workers_that_never_talk_are_plain_processes(
    make_stage: Callable[..., Stage], shown: list[str], monkeypatch: pytest.MonkeyPatch
):
    """No torchrun, whose agents meet over an open port: each knows its rank and how many there are."""
    started: list[tuple[list[str], dict[str, str]]] = []
    real = subprocess.Popen

    def watched(arguments: list[str], **how: Any) -> subprocess.Popen:
        started.append((arguments, how["env"]))
        return real(arguments, **how)

    monkeypatch.setattr(children.subprocess, "Popen", watched)
    stage = make_stage("apart", processes=2, benchmarks=["cmexam"], further_benchmarks=[], protocols=["fixed"])
    run.evaluate(stage, shown.append)
    assert [arguments[1:3] for arguments, _ in started] == [["-m", "qilin_lib.evaluate.asking"]] * 2
    seen = [[env.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")] for _, env in started]
    assert seen == [["0", "0", "2"], ["1", "1", "2"]]


def test_workers_answer_the_items_that_were_written_and_read_no_benchmark(
    make_stage: Callable[..., Stage], raw_dir: Path, shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = launch.run

    def without_raw_files(*given: Any, **how: Any) -> None:
        raw_dir.rename(raw_dir.with_name("gone"))
        real(*given, **how)

    monkeypatch.setattr(launch, "run", without_raw_files)
    stage = make_stage("written", processes=1, further_benchmarks=[], max_items_ceval_per_subject=1)
    scores = run.evaluate(stage, shown.append)
    assert {name: scores[name]["base"][metric]["n"] for name, metric in METRICS.items()} == {
        "ceval": 3, "cmexam": 3, "huatuo": 4
    }  # fmt: skip


def test_a_single_process_takes_no_rank_from_outside(
    make_stage: Callable[..., Stage], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod of a training operator says RANK and WORLD_SIZE to everything that runs in it."""
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "4")):
        monkeypatch.setenv(name, value)
    stage = make_stage("pod", processes=1, benchmarks=["cmexam"], further_benchmarks=[], protocols=["fixed"])
    assert run.evaluate(stage, shown.append)["cmexam"]["base"]["accuracy"]["n"] > 1


def _killed(stage: Stage, raw_dir: Path) -> bool:
    """Kill the worker once it has written some records; whether something was left to do afterwards."""
    _kill_when(stage, raw_dir, random.Random(5).randint(1, 5))
    return 0 < _written(stage) < sum(len(task.items) for task in prepare(raw_dir, stage.parameters))


def _kill_when(stage: Stage, raw_dir: Path, enough: int) -> None:
    """Start the worker as the notebook does and kill it with SIGKILL once it has written `enough` records."""
    job = stage.dir / "job.json"
    job.parent.mkdir(parents=True, exist_ok=True)
    plan.write(prepare(raw_dir, stage.parameters), stage.dir / asking.ITEMS)
    said = {"parameters": stage.parameters.model_dump(mode="json"), "run_dir": str(stage.run_dir), "workers": 1}
    said |= {"items": asking.ITEMS, "failed": [], "only": []}
    job.write_text(json.dumps(said), encoding="utf-8")
    process = subprocess.Popen([sys.executable, "-m", "qilin_lib.evaluate.asking", str(job)], stdout=subprocess.DEVNULL)
    while _written(stage) < enough:
        assert process.poll() is None, "the worker ended before it was killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def _written(stage: Stage) -> int:
    paths = {path.with_name(path.name.rpartition(".part")[0] + ".jsonl") for path in stage.dir.rglob("*.part*")}
    return sum(store.count(path) for path in paths)


def test_a_judge_that_answers_no_benchmark_judges(make_stage: Callable[..., Stage], shown: list[str]) -> None:
    """`benchmarks: []` is how a profile says that a baseline is there to judge."""
    own = {"judge": {"by": "reader", "preset": "disc", "max_items": 2, "max_new_tokens": 8}}
    reader = {"model": "base", "benchmarks": []}
    stage = make_stage(
        "judged", processes=1, benchmarks=["huatuo"], further_benchmarks=[], baselines={"reader": reader}, **own
    )
    judged = run.evaluate(stage, shown.append)["judged"]
    assert "unfinished" not in judged, judged
    assert judged["judge"] == "reader" and sum(row["n"] + row["unread"] for row in judged["ratings"]) == 2
