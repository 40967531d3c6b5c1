"""From raw files to scores.json: the records' contract, what is kept and what is made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.answering import Share, answer_all
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.benchmarks import prepare
from qilin_lib.evaluate.replies import Reply
from qilin_lib.evaluate.run import score
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_jsonl

pytestmark = pytest.mark.slow

COMMON = {"id", "benchmark", "model", "split", "protocol", "prompt", "output", "reference", "template", "truncated"}
COMMON |= {"shots", "scoring"}
EXAM = COMMON | {"gold", "prediction", "correct", "n_options", "groups"}
KEYS = {
    ("fixed", "ceval"): EXAM | {"subject", "scores"},
    ("fixed", "cmexam"): EXAM | {"explanation", "finish"},
    ("fixed", "huatuo"): COMMON | {"finish"},
    ("released", "ceval"): EXAM | {"subject"},
}


@pytest.fixture
def loaders(tiny_llama: Any, tokenizer: Any, template: Any, params: SimpleNamespace) -> Any:
    def make(*seeds: int) -> dict[str, Any]:
        names = ["base", "dcpt", "sft", "dpo"]
        return {
            name: lambda seed=seed: TransformersBackend(tiny_llama(seed), tokenizer, template, params.batch_size, "cpu")
            for name, seed in zip(names, seeds, strict=False)
        }

    return make


@pytest.fixture
def evaluate(raw_dir: Path, params: SimpleNamespace) -> Callable:
    """`evaluate(models, out, processes=1, progress=None)`: what the processes and then the notebook do, in turn."""

    def run(models: dict, out: Path, processes: int = 1, progress: Any = None) -> dict[str, Any]:
        tasks = prepare(raw_dir, params)
        shots = dict.fromkeys(models, params.shots)
        for rank in range(processes):
            answer_all(tasks, models, shots, out, Share(rank, processes, progress))
        return score(tasks, {task.name: list(models) for task in tasks}, out, params)

    return run


def test_records_and_scores_are_the_contracts(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: SimpleNamespace
):
    seen: list[tuple] = []
    scores = evaluate(loaders(0, 1), tmp_path, progress=lambda *step: seen.append(step[:4]))
    assert scores == json.loads(json.dumps(scores))
    for (protocol, benchmark), keys in KEYS.items():
        for model in ("base", "dcpt"):
            records = list(read_jsonl(predictions(tmp_path, protocol, benchmark, model)))
            assert len(records) == {"ceval": 6, "cmexam": 3, "huatuo": 3}[benchmark]
            assert all(set(record) == keys for record in records), set(records[0]) ^ keys
            assert {row["model"] for row in records} == {model} and {row["protocol"] for row in records} == {protocol}
            assert (model, f"{benchmark}, {protocol}", len(records), len(records)) in seen
    assert set(scores["ceval"]) == set(scores["released"]["cmexam"]) == {"base", "dcpt"}
    assert scores["cap"] == {"ceval": 2, "cmexam": None, "huatuo": 3}
    assert scores["split"] == {"ceval": "val", "cmexam": "test", "huatuo": "test"}
    assert scores["scoring"] == {"ceval": "likelihood", "cmexam": "generate", "huatuo": "generate"}
    assert (scores["tokenisation"], scores["protocol"]) == ("char", "fixed")
    assert scores["shots"]["ceval"] == 5 and scores["truncated"]["cmexam"] == {"base": 0, "dcpt": 0}
    assert scores["invalid"]["cmexam"] == 2
    assert {(row["model_a"], row["model_b"]) for row in scores["paired"]} == {("base", "dcpt")}
    assert {"average", "accuracy", "gleu"} <= {row["metric"] for row in scores["paired"]}
    tested = [row for row in scores["paired"] if row["n"] >= 3]
    assert tested and all(row["p"] <= row["p_adjusted"] <= 1 for row in tested)
    assert all(row["p"] is row["p_adjusted"] is None for row in scores["paired"] if row["n"] < 3)


@pytest.mark.parametrize(("dtype", "same"), [("float32", True), ("bfloat16", False)])
def test_a_written_answer_is_kept_for_another_batch_size_only_in_float32(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: Any, dtype: str, same: bool
):
    import torch

    params.benchmarks, params.protocols = ["huatuo"], ["fixed"]
    load = loaders(0)["base"]

    def cast() -> Any:
        backend = load()
        backend.model.to(getattr(torch, dtype))
        return backend

    keys = []
    for size in (4, 1):
        params.batch_size = size
        evaluate({"base": cast}, tmp_path)
        keys.append(json.loads(predictions(tmp_path, "fixed", "huatuo", "base").with_suffix(".key.json").read_text()))
    assert (keys[0]["key"] == keys[1]["key"]) == same


class _Killed(Exception):
    pass


def test_what_was_killed_goes_on_to_the_same_records(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: Any, monkeypatch: pytest.MonkeyPatch
):
    params.batch_size = 2
    whole = evaluate(loaders(0), tmp_path / "whole")
    calls: list[str] = []
    for name in ("choice_logprobs", "generate"):
        real = getattr(TransformersBackend, name)

        def counted(self: Any, *given: Any, real: Any = real, name: str = name) -> Any:
            calls.append(name)
            if len(calls) in (2, 5, 9):
                raise _Killed
            return real(self, *given)

        monkeypatch.setattr(TransformersBackend, name, counted)
    for _ in range(3):
        with pytest.raises(_Killed):
            evaluate(loaders(0), tmp_path / "killed", 2)
    assert evaluate(loaders(0), tmp_path / "killed", 2) == whole
    # Six chunks of C-Eval (3 subjects, two protocols in pairs) … three kills cost three calls, nothing else is redone.
    undisturbed = len(calls) - 3
    calls[:] = ["done"] * 10
    evaluate(loaders(0), tmp_path / "again", 2)
    assert len(calls) - 10 == undisturbed


def test_complete_predictions_are_kept_and_others_made_again(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: SimpleNamespace
):
    params.benchmarks, params.protocols = ["huatuo", "cmexam"], ["fixed"]

    def times(models: dict) -> dict[str, int]:
        evaluate(models, tmp_path)
        return {name: predictions(tmp_path, "fixed", name, "base").stat().st_mtime_ns for name in params.benchmarks}

    first = times(loaders(0))
    assert times(loaders(0)) == first
    params.max_new_tokens_huatuo += 1
    second = times(loaders(0))
    assert second["huatuo"] > first["huatuo"] and second["cmexam"] == first["cmexam"]
    predictions(tmp_path, "fixed", "cmexam", "base").write_text("{}\n", encoding="utf-8")
    third = times(loaders(0))
    assert third["cmexam"] > second["cmexam"] and third["huatuo"] == second["huatuo"]
    other_weights = times(loaders(5))
    assert all(other_weights[name] > third[name] for name in third)


def test_a_backend_without_probabilities_writes_its_letters(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: SimpleNamespace
):
    def writer() -> Any:
        backend = loaders(0)["base"]()
        backend.likelihood = False
        backend.generate = lambda asked, _: [Reply("选B。") for _ in asked]
        return backend

    params.benchmarks = ["ceval"]
    scores = evaluate({"base": writer}, tmp_path)
    records = list(read_jsonl(predictions(tmp_path, "fixed", "ceval", "base")))
    assert {row["prediction"] for row in records} == {"B"} and "scores" not in records[0]
    assert scores["scoring"]["ceval"] == "generate" and scores["ceval"]["base"]["unparsed"]["value"] == 0


def test_an_unknown_benchmark_is_named(raw_dir: Path, params: SimpleNamespace):
    params.benchmarks = ["cmexm"]
    with pytest.raises(QilinError, match="did you mean 'cmexam'"):
        prepare(raw_dir, params)


def test_a_protocol_that_leaves_nothing_is_refused(raw_dir: Path, params: SimpleNamespace):
    params.benchmarks, params.protocols = ["huatuo"], ["released"]
    with pytest.raises(QilinError, match=r"leaves nothing of eval.benchmarks = \['huatuo'\].*nearest valid"):
        prepare(raw_dir, params)


def test_a_short_context_leaves_fewer_shots_and_says_so(
    loaders: Any, evaluate: Callable, tmp_path: Path, params: SimpleNamespace
):
    def short() -> TransformersBackend:
        backend = loaders(0)["base"]()
        backend.context = 165
        return backend

    params.benchmarks, params.protocols = ["ceval"], ["fixed"]
    scores = evaluate({"base": short}, tmp_path)
    used = [record["shots"] for record in read_jsonl(predictions(tmp_path, "fixed", "ceval", "base"))]
    assert max(used) < 5 and scores["shots"]["ceval"] == (f"{min(used)}-{max(used)}" if len(set(used)) > 1 else used[0])
