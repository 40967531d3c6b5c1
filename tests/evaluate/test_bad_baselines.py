"""06 with baselines that cannot answer, or answer otherwise: none of them takes a row of the others with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import Faulty, said, serving

from qilin_lib import files
from qilin_lib.evaluate import run, store
from qilin_lib.runs import Stage

pytestmark = pytest.mark.slow
SMALL = {
    "models": ["base"],
    "shots": 1,
    "benchmarks": ["ceval", "cmexam", "huatuo"],
    "further_benchmarks": [],
    "protocols": ["fixed"],
    "max_items_ceval_per_subject": 2,
    "max_new_tokens_cmexam": 6,
    "max_new_tokens_huatuo": 6,
    "retrieval": "null",
    "judge": "null",
    "bootstrap_resamples": 100,
    "processes": 1,
}
THOUGHT = "这道题先排除B。可能是A？不对，应该是C。"


def wrote(text: str | None, finish: str = "stop", **more: Any) -> tuple[int, dict]:
    message = {"role": "assistant", "content": text, **more}
    return 200, {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def answer(model: str, question: str) -> tuple[int, dict]:
    if model == "locked":
        return 401, {"error": {"message": "no such key"}}
    if model == "thinks":
        return wrote(f"<think>{THOUGHT}</think>\n\n综上，选 **C**。")
    if model == "thinks too long":
        return wrote(None, "length", reasoning_content=THOUGHT)
    if model == "filtered" and "首选检查" in question:
        return 400, {
            "error": {"message": "Input data may contain inappropriate content.", "code": "data_inspection_failed"}
        }
    return wrote("答案：C。多休息。")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    made = Faulty()
    made.reply = lambda request, number: answer(request["body"]["model"], said(request))
    with serving(made):
        yield made


@pytest.fixture
def stage(
    stage_of_06: Callable[..., Stage], server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Stage]:
    """`stage(name, lines)`; `lines` name the baselines."""
    monkeypatch.setenv("QILIN_CACHE_DIR", str(tmp_path / "cache"))
    at_server = {"endpoint": server.url, "template": "chat"}

    def make(name: str, lines: dict[str, dict[str, Any]], **changes: Any) -> Stage:
        baselines = {name: (line if "/" in line["model"] else at_server | line) for name, line in lines.items()}
        return stage_of_06(name, SMALL | {"baselines": baselines} | changes)

    return make


@pytest.fixture
def windowed(tmp_path: Path, tiny_model_dir: Path) -> Path:
    """A Mistral with random weights whose layers see 16 tokens back, with the tiny model's tokenizer."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from qilin_lib.models.load import load_tokenizer

    tokenizer = load_tokenizer(tiny_model_dir)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(
        vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=16, max_position_embeddings=4096, **shape
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "mistral")
    tokenizer.save_pretrained(tmp_path / "mistral")
    return tmp_path / "mistral"


def records(stage: Stage, benchmark: str, model: str) -> list[dict]:
    return list(files.read_jsonl(store.predictions(stage.dir, "fixed", benchmark, model)))


def test_models_that_fail_leave_the_others_standing(
    stage: Callable[..., Stage], windowed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    lines = {
        "locked": {"model": "locked"},
        "without a template": {"model": silent(tiny_model_dir, tmp_path / "silent"), "template": "chat"},
        "nowhere": {"model": str(tmp_path / "nothing")},
        "thinks": {"model": "thinks"},
        "window": {"model": str(windowed)},
        "good": {"model": str(tiny_model_dir), "template": "plain"},
    }
    shown: list[str] = []
    here = stage("run", lines)
    scores = run.evaluate(here, shown.append)
    for benchmark in ("ceval", "cmexam", "huatuo"):
        assert list(scores[benchmark]) == ["base", "thinks", "window", "good"]
        why = scores["unfinished"][benchmark]
        assert list(why) == ["locked", "without a template", "nowhere"]
        assert "status 401" in why["locked"] and "brings none" in why["without a template"]
    assert shown[-1].startswith("3 of 6 baselines failed: locked (") and "--force --only 06" in shown[-1]
    assert {record["prediction"] for record in records(here, "ceval", "thinks")} == {"C"}


def test_a_thought_that_takes_all_tokens_is_an_answer_cut_at_the_limit(stage: Callable[..., Stage]) -> None:
    here = stage("run", {"long": {"model": "thinks too long"}}, benchmarks=["cmexam"])
    scores = run.evaluate(here, lambda text: None)
    assert [record["finish"] for record in records(here, "cmexam", "long")] == ["length"] * 3
    assert scores["cmexam"]["long"]["cut"]["value"] == 100 and scores["cmexam"]["long"]["accuracy"]["value"] == 0


def test_a_refused_prompt_is_one_item_and_is_asked_again_on_request(stage: Callable[..., Stage], server: Any) -> None:
    here = stage("run", {"filtered": {"model": "filtered"}}, benchmarks=["cmexam"])
    scores = run.evaluate(here, lambda text: None)
    refused = [record for record in records(here, "cmexam", "filtered") if record["finish"] == "error"]
    assert len(refused) == 1 and refused[0]["output"] == "" and not refused[0]["correct"]
    assert "inappropriate content" in refused[0]["error"]
    # One of three is more than 2 in 100: no score is printed of a model that a filter kept from answering.
    assert "filtered" not in scores["cmexam"] and "1 of 3" in scores["unfinished"]["cmexam"]["filtered"]
    server.reply = lambda request, number: wrote("答案：B")
    asked = len(server.requests)
    again = stage("again", {"filtered": {"model": "filtered"}}, benchmarks=["cmexam"], ask_errors_again=True)
    target = store.predictions(again.dir, "fixed", "cmexam", "filtered")
    target.parent.mkdir(parents=True)
    for path in store.predictions(here.dir, "fixed", "cmexam", "filtered").parent.glob("filtered*"):
        target.with_name(path.name).write_bytes(path.read_bytes())
    scores = run.evaluate(again, lambda text: None)
    assert len(server.requests) == asked + 1
    assert scores["cmexam"]["filtered"]["error"]["value"] == 0


def test_what_a_judge_costs_stands_in_the_bill(stage: Callable[..., Stage]) -> None:
    judge = {"judge": {"model": "good", "benchmarks": [], "price_per_million_input": 1, "price_per_million_output": 1}}
    own = {"by": "judge", "models": ["base"], "preset": "disc", "max_items": 2}
    scores = run.evaluate(stage("run", judge, benchmarks=["huatuo"], judge=own), lambda text: None)
    assert scores["judged"]["ratings"] and scores["usage"]["judge"]["requests"] == 2


def test_a_prompt_refused_under_the_authors_protocol_is_an_error_too(stage: Callable[..., Stage]) -> None:
    """An empty reply is read as "no answer", so nothing else tells a filter from a model that says nothing."""
    here = stage("run", {"filtered": {"model": "filtered"}}, benchmarks=["cmexam"], protocols=["released"])
    scores = run.evaluate(here, lambda text: None)
    rows = list(files.read_jsonl(store.predictions(here.dir, "released", "cmexam", "filtered")))
    assert [row["id"] for row in rows if row.get("finish") == "error"] == ["test-00001"]
    assert "inappropriate content" in rows[1]["error"] and not rows[1]["correct"]
    assert "filtered" not in scores["released"]["cmexam"]
    assert "1 of 3" in scores["unfinished"]["cmexam"]["filtered"]


def silent(source: Path, target: Path) -> str:
    """The model in `source` with a tokenizer that brings no chat template."""
    target.mkdir()
    for path in source.iterdir():
        if path.name != "chat_template.jinja":
            (target / path.name).write_bytes(path.read_bytes())
    settings = files.read_json(target / "tokenizer_config.json")
    settings.pop("chat_template", None)
    files.write_json(target / "tokenizer_config.json", settings)
    return str(target)
