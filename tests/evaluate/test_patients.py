"""A simulated patient: the model asks, the patient says what its record holds, and the model never sees the record."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.serving import Faulty, completion, said, serving
from helpers.writer import Writer

from qilin_lib import sample
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import answering, plan
from qilin_lib.evaluate.asking import read_records
from qilin_lib.evaluate.benchmarks import KINDS, prepare
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.evaluate.store import predictions
from qilin_lib.files import write_jsonl
from qilin_lib.params import load

RAW = sample.raw_dir().parent
ONLY = {"benchmarks": [], "further_benchmarks": ["patients"], "protocols": ["fixed"]}


def doctor(*lines: str | Reply) -> Writer:
    """Says its lines in turn, whoever is before it."""
    return Writer(lambda messages: lines[len(messages) // 2])


def task(raw: Path = RAW, **more: Any) -> Any:
    return prepare(raw, load("06_eval", {**ONLY, **more}))[0]


def records(made: Any, who: Writer, folder: Path) -> dict[str, dict]:
    path = predictions(folder, made.protocol, made.name, "doctor")
    answering.answer(made, "doctor", who, 0, path)
    return {row["id"]: row for row in read_records(made, "doctor", folder)}


def test_a_patient_says_what_it_is_asked_and_nothing_else(tmp_path: Path) -> None:
    made = task(**{"patient": {"exchanges": 3}})
    asking = doctor("请问疼了几天？", "有没有发烧？有没有呕吐？", "请马上去急诊。")
    found = records(made, asking, tmp_path)["headache"]
    assert found["output"].splitlines() == [
        "医生：请问疼了几天？",
        "患者：三天了，是突然疼起来的。",
        "医生：有没有发烧？有没有呕吐？",
        "患者：昨晚烧到39度。早上吐了一次。",
        "医生：请马上去急诊。",
    ]
    last = max((seen for seen in asking.asked if "头痛" in seen[0]["content"]), key=len)
    assert [turn["role"] for turn in last] == ["user", "assistant"] * 2 + ["user"]
    assert "脖子" not in str(asking.asked), "what nobody asked for stays in the record"
    # Three of five lines; of the child's record how long, and the line that holds vomiting.
    assert made.statistics([found])["gathered"].value(made.statistics([found])["gathered"].rows.sum(0)) == 60


def test_advice_with_a_word_of_the_record_is_no_question(tmp_path: Path) -> None:
    made = task(**{"patient": {"exchanges": 2}})
    found = records(made, doctor("卧床休息几天，体温高就吃药。", "不客气。"), tmp_path)["headache"]
    assert "患者：不清楚。" in found["output"] and found["gathered"] == []


def test_a_doctor_that_falls_silent_ends_the_conversation(tmp_path: Path) -> None:
    made = task(**{"patient": {"exchanges": 3}})
    refused = records(made, doctor("疼了几天？", Reply("", ERROR, error="filtered"), "-"), tmp_path / "a")["headache"]
    assert refused["output"].endswith("突然疼起来的。") and (refused["finish"], refused["error"]) == (ERROR, "filtered")
    silent = records(made, doctor("", "-", "-"), tmp_path / "b")["headache"]
    assert silent["output"] == "" and made.statistics([silent])["unparsed"].rows[0, 0] == 1


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    with serving(Faulty()) as made:
        yield made


def test_a_model_at_an_endpoint_plays_the_patient(tmp_path: Path, server: Faulty) -> None:
    server.reply = lambda request, number: (200, completion("两天。" if "两岁半" in said(request) else "三天。"))
    actor = {"model": "actor", "endpoint": server.url, "benchmarks": []}
    made = task(baselines={"actor": actor}, patient={"by": "actor", "exchanges": 2})
    plan.write([made], tmp_path / "items")
    assert plan.read(tmp_path / "items", KINDS) == [made]
    found = records(made, doctor("疼了几天？", "好的。"), tmp_path)
    assert found["headache"]["output"].splitlines()[1] == "患者：三天。"
    assert found["fever"]["output"].splitlines()[1] == "患者：两天。"
    told = said(next(request for request in server.requests if "脖子" in said(request)))
    assert "医生：疼了几天？" in told and "后脑勺胀痛" in told, "the actor knows the record and what was said"


def test_a_patient_that_cannot_answer_is_an_error_of_the_record(tmp_path: Path, server: Faulty) -> None:
    refusal = {"error": {"message": "inappropriate", "code": "data_inspection_failed"}}
    server.reply = lambda request, number: (400, refusal) if "后脑勺" in said(request) else (200, completion("昨天。"))
    actor = {"model": "actor", "endpoint": server.url, "benchmarks": []}
    made = task(baselines={"actor": actor}, patient={"by": "actor", "exchanges": 2})
    found = records(made, doctor("疼了几天？", "好的。"), tmp_path)
    assert found["headache"]["finish"] == ERROR and "the patient" in found["headache"]["error"]
    assert found["fever"]["output"].endswith("医生：好的。")


@pytest.mark.parametrize(
    ("by", "why"),
    [("actr", r"eval\.patient\.by: 'actr'.*actor"), ("local", r"eval\.patient\.by: 'local'.*endpoint.*actor")],
)
def test_who_cannot_play_the_patient_is_refused_by_name(by: str, why: str) -> None:
    lines = {"actor": {"model": "a", "endpoint": "http://127.0.0.1:9/v1"}, "local": {"model": "base"}}
    with pytest.raises(QilinError, match=why):
        task(baselines=lines, patient={"by": by})


def test_a_bad_row_is_listed_with_its_line(tmp_path: Path) -> None:
    fact, good = {"words": ["几天"], "says": "三天。"}, [{"criterion": "好", "points": 1}]
    rows = [
        {"id": "a", "prompt": "疼。", "record": [fact], "rubrics": good},
        {"id": "b", "prompt": "疼。", "record": [], "rubrics": good},
        {"id": "c", "prompt": "疼。", "record": [{"words": "几天", "says": "三天。"}], "rubrics": good},
        {"id": "d", "prompt": "疼。", "record": [fact]},
        {"id": "a", "prompt": "痒。", "record": [fact], "rubrics": good},
        {"id": "e", "prompt": "疼。", "record": [fact], "rubrics": [{"criterion": "好"}]},
        {"id": "f", "prompt": "疼。", "record": [fact], "rubrics": [{"criterion": "坏", "points": -1}]},
    ]
    write_jsonl(tmp_path / "patients" / "mine.jsonl", rows)
    made = task(tmp_path)
    assert [item.id for item in made.items] == ["a"]
    assert [(row["line"], re.match(r"[\w. ]+", row["detail"])[0].strip()) for row in made.invalid] == [
        (2, "record"),
        (3, "record.0.words"),
        (4, "rubrics"),
        (5, "id a came before"),
        (6, "rubrics.0.points"),
        (7, "rubrics"),
    ]


def test_a_patient_that_comes_again_in_another_file_is_asked_once(tmp_path: Path) -> None:
    case = {
        "prompt": "疼。",
        "record": [{"words": ["几天"], "says": "三天。"}],
        "rubrics": [{"criterion": "好", "points": 1}],
    }
    for name, cases in {"1": ["a"], "2": ["a"], "3": ["b", "a"]}.items():
        write_jsonl(tmp_path / "patients" / f"{name}.jsonl", [{"id": one, **case} for one in cases])
    made = task(tmp_path)
    assert [item.id for item in made.items] == ["a", "b"]
    assert [(row["file"], row["line"]) for row in made.invalid] == [("2.jsonl", 1), ("3.jsonl", 2)]


def test_the_judge_s_criteria_ask_no_patient_again(tmp_path: Path) -> None:
    """What records belong to is what was said, and not what it is worth."""
    settings = []
    for says, points in (("三天。", 1), ("三天。", 2), ("四天。", 2)):
        fact, criterion = {"words": ["几天"], "says": says}, {"criterion": "好", "points": points}
        row = {"id": "a", "prompt": "疼。", "record": [fact], "rubrics": [criterion]}
        write_jsonl(tmp_path / "patients" / "mine.jsonl", [row])
        settings.append(task(tmp_path).settings)
    assert settings[0] == settings[1] != settings[2]
