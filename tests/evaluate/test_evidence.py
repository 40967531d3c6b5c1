"""Rows with passages beside the question: what is shown, what is left out, and what is compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.writer import Writer

from qilin_lib import runs, sample
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import answering, evidence
from qilin_lib.evaluate import run as evaluation
from qilin_lib.evaluate.benchmarks import prepare
from qilin_lib.evaluate.intervals import proportion
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.prompts import AS_IT_COMES, ceval_messages, cmexam_messages, fit
from qilin_lib.evaluate.scores import compare
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_jsonl, write_json, write_jsonl
from qilin_lib.retrieval import index

ITEM = Item("cmexam", "q1", "test", None, "咳嗽三周应查什么", {"A": "胸片", "B": "脑电图"}, "A", "三周以上应拍胸片。")
PASSAGES = [{"origin": f"a.txt:{n}", "score": 9.0 - n, "text": text} for n, text in enumerate(("甲" * 30, "乙" * 30))]


def writer(tokenizer: Any, template: Any, context: int = 9999, shows: list | None = None) -> Writer:
    """Writes the same to everything, and is shown `shows` with every item."""
    backend = Writer(lambda messages: "回答1更好", tokenizer, template, context)
    backend.asking = replace(AS_IT_COMES, passages=shows and (lambda item: shows))
    return backend


def asked(backend: Writer, shots: tuple = ()) -> Any:
    build = (lambda question, left: ceval_messages(question, ITEM, left, "内科")) if shots else None
    return fit(build or (lambda question, _: cmexam_messages(question, ITEM)), ITEM, shots, "答案：", backend, 8)


def test_passages_stand_before_the_question_in_their_order(tokenizer: Any, template: Any) -> None:
    bare, shown = asked(writer(tokenizer, template)), asked(writer(tokenizer, template, shows=PASSAGES))
    (turn,) = shown.messages
    places = [turn["content"].index(text) for text in ("[1] 甲", "[2] 乙", bare.messages[0]["content"])]
    assert places == sorted(places) and list(shown.passages) == PASSAGES and bare.passages == ()


def test_what_does_not_fit_is_left_out_worst_first_and_before_any_example(tokenizer: Any, template: Any) -> None:
    shots = (replace(ITEM, id="dev", question="腹痛应查什么"),)
    sizes = {}
    for many in (0, 1, 2):
        sizes[many] = len(asked(writer(tokenizer, template, shows=PASSAGES[:many]), shots).ids)
    for many, context in ((2, sizes[2]), (1, sizes[2] - 1), (1, sizes[1]), (0, sizes[1] - 1)):
        prompt = asked(writer(tokenizer, template, context + 8, PASSAGES), shots)
        assert (list(prompt.passages), prompt.shots, prompt.truncated) == (PASSAGES[:many], 1, False)


def retrieval(**how: Any) -> SimpleNamespace:
    given = {"corpus": "chimed", "k": 2, "models": ["dpo"], "benchmarks": ["cmexam"], "controls": True, "dense": None}
    return SimpleNamespace(**given | how)


@pytest.fixture
def run(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stage 06 over a folder that holds what 01 would have written."""
    built = tmp_path / "01_build_chimed"
    write_jsonl(built / "cpt.jsonl", [{"text": text} for text in ("咳嗽应查胸片。", "高血压要限盐。", "骨折要固定。")])
    made = {"facts": {"raw_dir": str(sample.raw_dir())}, "parameters": {"contamination_share": 0.5}}
    write_json(built / "manifest.json", made | {"key": "k", "digest": "d", "inputs": {}, "outputs": {}})
    monkeypatch.setattr(runs, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(index.Pool, "__init__", lambda self, workers: setattr(self, "_executor", None))
    parameters = SimpleNamespace(seed=1, models=["sft", "dpo"], baselines={}, retrieval=retrieval(), judge=None)
    return SimpleNamespace(parameters=parameters, dir=tmp_path / "06", run_dir=tmp_path)


def test_what_an_item_is_shown_is_found_once_with_its_controls(run: SimpleNamespace) -> None:
    facts = evidence.prepare(run, {"cmexam": [ITEM], "huatuo": [replace(ITEM, benchmark="huatuo")]}, lambda line: None)
    assert facts["passages"] == 3
    recall = {
        "n": 1,
        "retrieval": 1,
        "random": int(any("胸片" in one["text"] for one in evidence.shown(run.dir, "random")(ITEM))),
    }
    assert facts["recall"] == {"cmexam": recall}
    shows = {kind: evidence.shown(run.dir, kind)(ITEM) for kind in ("retrieval", "random", "gold")}
    assert shows["retrieval"][0]["text"] == "咳嗽应查胸片。" and shows["retrieval"][0]["origin"] == "cpt.jsonl:1"
    assert len(shows["random"]) == 2 and [one["text"] for one in shows["gold"]] == [ITEM.reference]
    assert evidence.shown(run.dir, "retrieval")(replace(ITEM, benchmark="huatuo")) == []
    before = (run.dir / "evidence" / "cmexam.jsonl").read_bytes()
    evidence.prepare(run, {"cmexam": [ITEM]}, lambda line: None)
    assert (run.dir / "evidence" / "cmexam.jsonl").read_bytes() == before


def test_no_index_is_made_where_none_of_its_benchmarks_is_asked(run: SimpleNamespace, tmp_path: Any) -> None:
    told: list[str] = []
    assert evidence.prepare(run, {"huatuo": [replace(ITEM, benchmark="huatuo")]}, told.append) == {}
    assert told == ["retrieval: none of its benchmarks is asked: cmexam"] and not (tmp_path / "cache").exists()


def test_the_query_is_the_question_alone(run: SimpleNamespace) -> None:
    found = evidence.search_in(run.run_dir, run.parameters.retrieval, lambda line: None)
    options = replace(ITEM, options={"A": "高血压要限盐", "B": "骨折要固定"})
    evidence.prepare(run, {"cmexam": [options]}, lambda line: None)
    shown = evidence.shown(run.dir, "retrieval")(options)
    assert [one["text"] for one in shown] == [hit.text for hit in found(ITEM.question)]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"models": ["bse"]}, r"eval\.retrieval\.models: 'bse' is not asked here.*'base'"),
        ({"corpus": "/nowhere/books"}, r"retrieval: corpus: /nowhere/books is no folder; nearest valid: 'chimed'"),
    ],
)
def test_what_gives_no_passages_is_refused_before_anything_is_moved(
    stage_of_06: Callable[..., Any], how: dict[str, Any], said: str
) -> None:
    small = {"models": ["base"], "benchmarks": ["cmexam"], "further_benchmarks": [], "judge": "null", "retrieval": how}
    here = stage_of_06("run", small)
    with pytest.raises(QilinError, match=said):
        evaluation.evaluate(here, lambda line: None)
    assert not here.dir.exists()


def test_rows_with_passages_are_asked_their_benchmarks_and_compared_with_the_model_as_it_is() -> None:
    line = SimpleNamespace(benchmarks=["huatuo"])
    parameters = SimpleNamespace(baselines={"other": line}, retrieval=retrieval(models=["dpo", "other"]))
    assert evidence.benchmarks(parameters) == {
        "other": ["huatuo"],
        **{f"dpo + {kind}": ["cmexam"] for kind in ("retrieval", "random", "gold")},
        **{f"other + {kind}": [] for kind in ("retrieval", "random", "gold")},
    }
    names = ["base", "dpo", "dpo + retrieval", "dpo + random"]
    rows = compare("cmexam", {name: {"accuracy": proportion([True, False, True])} for name in names}, 100, 1)
    assert {(row["model_a"], row["model_b"]) for row in rows} == {
        ("base", "dpo"),
        ("dpo", "dpo + retrieval"),
        ("dpo", "dpo + random"),
        ("dpo + random", "dpo + retrieval"),
    }


def test_passages_stand_in_the_record_and_move_its_key(
    raw_dir: Any, params: Any, tokenizer: Any, template: Any, tmp_path: Any
) -> None:
    params.benchmarks, params.protocols = ["cmexam"], ["fixed"]
    (task,) = [task for task in prepare(raw_dir, params) if task.name == "cmexam"]
    keys = []
    for name, own in (("bare", None), ("shown", PASSAGES)):
        path = predictions(tmp_path, "fixed", "cmexam", name)
        answering.answer(task, name, writer(tokenizer, template, shows=own), 0, path)
        answering.store.finish(path, [item.id for item in task.items])
        assert [row.get("passages") for row in read_jsonl(path)] == [own] * len(task.items)
        keys.append(json.loads(path.with_suffix(".key.json").read_text(encoding="utf-8"))["key"])
    assert keys[0] != keys[1]
