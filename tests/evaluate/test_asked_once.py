"""What is read once, written once and asked once."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.writer import Writer

from qilin_lib import sample
from qilin_lib.evaluate import answering, plan
from qilin_lib.evaluate.benchmarks import KINDS, attitudes, prepare
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import read_json, read_jsonl
from qilin_lib.params import load


def test_equal_items_are_asked_once_and_each_has_its_record(
    raw_dir: Path, params: SimpleNamespace, tokenizer: Any, template: Any, tmp_path: Path
) -> None:
    rows = [
        ("头痛怎么办", "休息。"),
        ("发热怎么办", "喝水。"),
        ("头痛怎么办", "就医。"),
        ("咳嗽怎么办", "止咳。"),
        ("头痛怎么办", "休息。"),
    ]
    lines = [json.dumps({"questions": q, "answers": a}, ensure_ascii=False) + "\n" for q, a in rows]
    (raw_dir / "huatuo26m_test" / "test_datasets.jsonl").write_text("".join(lines), encoding="utf-8")
    params.benchmarks, params.protocols, params.max_items_huatuo = ["huatuo"], ["fixed"], None
    (task,) = [task for task in prepare(raw_dir, params) if task.name == "huatuo"]
    backend = Writer(lambda messages: f"第{backend.asked.index(messages)}问。", tokenizer, template, 9999)
    backend.batch_size = 2
    path = predictions(tmp_path, "fixed", "huatuo", "base")
    answering.answer(task, "base", backend, 0, path)
    answering.store.finish(path, [item.id for item in task.items])
    records = list(read_jsonl(path))
    asked = [str(messages) for messages in backend.asked]
    assert Counter(asked).most_common(1)[0][1] == 1 and len(asked) == 3
    assert [record["reference"] for record in records] == [answer for _, answer in rows]
    assert records[0]["output"] == records[2]["output"] == records[4]["output"] != records[1]["output"]


class Server:
    """Refuses the first prompt of its first asking."""

    context = tokenizer = None
    likelihood, batch_size = False, 2

    def __init__(self, template: Any) -> None:
        self.template = template
        self.asked: list[str] = []

    def render(self, messages: list, reply_prefix: str) -> str:
        return messages[-1]["content"]

    def generate(self, prompts: list, max_new_tokens: int) -> list[Reply]:
        first, self.asked = not self.asked, [*self.asked, *(prompt.text for prompt in prompts)]
        return [Reply("", ERROR) if first and not n else Reply("休息。") for n, _ in enumerate(prompts)]

    def fingerprint(self) -> str:
        return "server"

    def usage(self) -> dict[str, int]:
        return {"requests": len(self.asked)}


def test_a_server_is_asked_by_one_process_alone_also_for_what_it_refused(
    raw_dir: Path, params: SimpleNamespace, template: Any, tmp_path: Path
) -> None:
    """The second process comes when the first has done its work: it must not open the finished file anew."""
    params.benchmarks, params.protocols = ["huatuo"], ["fixed"]
    (task,) = [task for task in prepare(raw_dir, params) if task.name == "huatuo"]
    backend, outputs = Server(template), {}
    for name, again in (("06_eval.old-1", False), ("06_eval", True)):
        for rank in (0, 1):
            share = answering.Share(rank, 2, errors_again=again)
            answering.answer_all([task], {"gpt": lambda: backend}, {"gpt": 0}, tmp_path / name, share)
        path = predictions(tmp_path / name, "fixed", "huatuo", "gpt")
        answering.store.finish(path, [item.id for item in task.items])
        outputs[name] = [record["output"] for record in read_jsonl(path)]
    assert len(set(backend.asked)) == 3 and len(backend.asked) == 5, "each once, the refused one's chunk once more"
    assert outputs["06_eval.old-1"].count("") == 1 and outputs["06_eval"] == ["休息。"] * 3
    assert read_json(tmp_path / "06_eval.old-1" / "usage" / "gpt.json") == {"requests": 3}


def test_a_bill_is_on_disk_as_it_grows_since_a_kill_writes_nothing(
    raw_dir: Path, params: SimpleNamespace, template: Any, tmp_path: Path
) -> None:
    params.benchmarks, params.protocols = ["huatuo"], ["fixed"]
    (task,) = [task for task in prepare(raw_dir, params) if task.name == "huatuo"]
    path, seen = tmp_path / "usage" / "gpt.json", []

    class Watched(Server):
        def generate(self, prompts: list, max_new_tokens: int) -> list[Reply]:
            seen.append(read_json(path) if path.exists() else None)
            return super().generate(prompts, max_new_tokens)

    for _ in range(2):
        answering.answer_all([task], {"gpt": lambda: Watched(template)}, {"gpt": 0}, tmp_path)
        for part in (tmp_path / "predictions" / "fixed" / "huatuo").iterdir():
            part.unlink()
    assert seen == [None, {"requests": 2}, {"requests": 3}, {"requests": 5}] and read_json(path) == {"requests": 6}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """How often each file was opened by name."""
    seen: Counter = Counter()
    real: Callable = builtins.open

    def watched(file: Any, *given: Any, **how: Any) -> Any:
        seen[Path(file).name if isinstance(file, str | Path) else ""] += 1
        return real(file, *given, **how)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr("io.open", watched)
    return seen


def test_what_was_trained_on_is_read_once_for_all_dialogues(
    params: SimpleNamespace, tmp_path: Path, opened: Counter
) -> None:
    """01's three sets hold gigabytes, and three benchmarks ask what is in them."""
    params.benchmarks, params.further_benchmarks = [], ["cmtmedqa", "meddialog", "mc"]
    for name in ("cpt", "sft", "dpo", "dropped"):
        (tmp_path / f"{name}.jsonl").write_text("", encoding="utf-8")
    opened.clear()
    tasks = prepare(sample.raw_dir(), params, tmp_path)
    assert [task.name for task in tasks] == ["cmtmedqa", "meddialog", "mc"] and all(task.items for task in tasks)
    assert {name: opened[f"{name}.jsonl"] for name in ("cpt", "sft", "dpo", "dropped")} == dict.fromkeys(
        ("cpt", "sft", "dpo", "dropped"), 1
    )


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Items, examples, types, scales: what the processes read is what the notebook planned, rows left out apart."""
    planned, scales = prepare(sample.raw_dir(), load("06_eval")), attitudes.prepare(load("09_bias"))
    plan.write(planned, tmp_path / "06")
    assert plan.read(tmp_path / "06", KINDS) == [replace(task, invalid=[]) for task in planned]
    others = {"Attitudes", "Cmb", "Rubrics", "Patients", "MedAlign"}
    assert {type(task).__name__ for task in planned} == KINDS.keys() - others
    assert len(list((tmp_path / "06").glob("ceval*"))) == 1, "both protocols ask the same items"
    plan.write(scales, tmp_path / "09")
    for task, again in zip(scales, plan.read(tmp_path / "09", KINDS), strict=True):
        assert (again.items, again.forms, again.settings) == (task.items, task.forms, task.settings)
        assert again.scale.model_dump() == task.scale.model_dump()


def test_letters_that_a_server_scored_are_not_taken_for_written_ones(
    raw_dir: Path, params: SimpleNamespace, template: Any, tmp_path: Path
) -> None:
    """`logprobs` of a line moved: prompts, model and server are the same."""
    params.benchmarks, params.protocols = ["ceval"], ["fixed"]
    (task,) = [task for task in prepare(raw_dir, params) if task.name == "ceval"]
    path, how = predictions(tmp_path, "fixed", "ceval", "gpt"), []
    for scores in (True, False):
        backend = Writer(lambda messages: "答案：B", template=template)
        backend.likelihood = scores
        backend.choice_logprobs = lambda prompts, choices: [dict.fromkeys(choices, -1.0) for _ in prompts]
        answering.answer(task, "gpt", backend, 0, path)
        answering.store.finish(path, [item.id for item in task.items])
        how.append({record["scoring"] for record in read_jsonl(path)})
    assert how == [{"likelihood"}, {"generate"}]
