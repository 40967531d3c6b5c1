from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import TransformersBackend
from qilin_lib.evaluate.run import evaluate
from qilin_lib.files import read_json, read_jsonl

COMMON = {"id", "benchmark", "model", "split", "protocol", "prompt", "output", "reference", "template"}
KEYS = {
    "ceval": COMMON | {"subject", "gold", "prediction", "correct", "scores", "shots", "truncated"},
    "cmexam": COMMON | {"gold", "prediction", "correct", "n_options", "explanation", "truncated"},
    "huatuo": COMMON | {"truncated"},
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


def test_records_and_scores_are_the_contracts(loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace):
    seen: list[tuple] = []
    out = tmp_path / "06_eval"
    scores = evaluate(loaders(0, 1), params.benchmarks, raw_dir, out, params, lambda *step: seen.append(step))
    assert read_json(out / "scores.json") == json.loads(json.dumps(scores))
    for benchmark, n in {"ceval": 6, "cmexam": 3, "huatuo": 3}.items():
        for model in ("base", "dcpt"):
            records = list(read_jsonl(out / "predictions" / benchmark / f"{model}.jsonl"))
            assert len(records) == n and all(set(record) == KEYS[benchmark] for record in records)
            assert {record["model"] for record in records} == {model} and {r["protocol"] for r in records} == {"fixed"}
            assert (model, benchmark, n, n) in seen
        assert set(scores[benchmark]) == {"base", "dcpt"}
    assert scores["cap"] == {"ceval": 2, "cmexam": None, "huatuo": 3}
    assert scores["split"] == {"ceval": "val", "cmexam": "test", "huatuo": "test"}
    assert (scores["tokenisation"], scores["protocol"]) == ("char", "fixed")
    assert scores["shots"]["ceval"] == 5 and scores["truncated"]["cmexam"] == {"base": 0, "dcpt": 0}
    assert len(list(read_jsonl(out / "invalid.jsonl"))) == scores["invalid"]["cmexam"] == 2
    assert {(row["model_a"], row["model_b"]) for row in scores["paired"]} == {("base", "dcpt")}
    assert {"average", "accuracy", "gleu"} <= {row["metric"] for row in scores["paired"]}


def test_ceval_records_choose_the_likeliest_letter(
    loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace
):
    evaluate(loaders(0), ["ceval"], raw_dir, tmp_path, params)
    for record in read_jsonl(tmp_path / "predictions" / "ceval" / "base.jsonl"):
        logprobs = record["scores"]
        assert set(logprobs) == set("ABCD") and record["prediction"] == max(logprobs, key=logprobs.get)
        assert record["correct"] == (record["prediction"] == record["gold"]) and 0 <= record["shots"] <= 5
        assert record["template"] == "stand-in"


def test_the_batch_size_changes_nothing(loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace):
    first = evaluate(loaders(0), params.benchmarks, raw_dir, tmp_path / "a", params)
    params.batch_size = 1
    assert evaluate(loaders(0), params.benchmarks, raw_dir, tmp_path / "b", params) == first
    for name in ("cmexam", "huatuo"):
        path = Path("predictions") / name / "base.jsonl"
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_complete_predictions_are_kept_and_others_made_again(
    loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace
):
    def times(models: dict) -> dict[str, int]:
        evaluate(models, ["huatuo", "cmexam"], raw_dir, tmp_path, params)
        folder = tmp_path / "predictions"
        return {name: (folder / name / "base.jsonl").stat().st_mtime_ns for name in ("huatuo", "cmexam")}

    first = times(loaders(0))
    assert times(loaders(0)) == first
    params.max_new_tokens_huatuo += 1
    second = times(loaders(0))
    assert second["huatuo"] > first["huatuo"] and second["cmexam"] == first["cmexam"]
    (tmp_path / "predictions" / "cmexam" / "base.jsonl").write_text("{}\n", encoding="utf-8")
    third = times(loaders(0))
    assert third["cmexam"] > second["cmexam"] and third["huatuo"] == second["huatuo"]
    other_weights = times(loaders(5))
    assert all(other_weights[name] > third[name] for name in third)


def test_one_model_at_a_time(loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace):
    events: list[str] = []
    made = loaders(0, 1)
    models = {name: lambda name=name: (events.append(name), made[name]())[1] for name in made}
    evaluate(models, ["huatuo"], raw_dir, tmp_path, params, lambda model, *_: events.append(f"{model} answers"))
    assert events == ["base", "base answers", "dcpt", "dcpt answers"]


def test_an_unknown_benchmark_is_named_before_any_model_loads(raw_dir: Path, tmp_path: Path, params: SimpleNamespace):
    with pytest.raises(QilinError, match="did you mean 'cmexam'"):
        evaluate({"base": lambda: pytest.fail("loaded")}, ["cmexm"], raw_dir, tmp_path, params)


def test_a_short_context_leaves_fewer_shots_and_says_so(
    loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace
):
    def short() -> TransformersBackend:
        backend = loaders(0)["base"]()
        backend.context = 165
        return backend

    scores = evaluate({"base": short}, ["ceval"], raw_dir, tmp_path, params)
    used = [record["shots"] for record in read_jsonl(tmp_path / "predictions" / "ceval" / "base.jsonl")]
    assert max(used) < 5 and scores["shots"]["ceval"] == (f"{min(used)}-{max(used)}" if len(set(used)) > 1 else used[0])


def test_too_few_dev_examples_are_named(loaders: Any, raw_dir: Path, tmp_path: Path, params: SimpleNamespace):
    params.shots = 6
    with pytest.raises(QilinError, match="has 5 dev examples, fewer than shots = 6"):
        evaluate(loaders(0), ["ceval"], raw_dir, tmp_path, params)
