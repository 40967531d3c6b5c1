"""06 with a judge: pairs, single answers rated by a preset's criteria, or by those that a file of the user gives."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.writer import Writer

from qilin_lib import sample
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import answering, plan
from qilin_lib.evaluate.benchmarks import KINDS, prepare
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.items import Item
from qilin_lib.evaluate.judging import stage
from qilin_lib.evaluate.plan import Task
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.evaluate.store import finish, predictions
from qilin_lib.files import read_json, read_jsonl, write_json, write_jsonl
from qilin_lib.models import names
from qilin_lib.params import load
from qilin_lib.report import judged
from tests.report.test_browse import in_chromium, with_script

DISC = "Proactivity: {}\nAccuracy: 4\nHelpfulness: 4\nLinguistic Quality: 4"


def judging(**how: Any) -> SimpleNamespace:
    given = {"by": "gpt", "models": ["sft", "dpo"], "preset": "disc", "benchmark": "huatuo", "max_items": 6}
    return SimpleNamespace(**given | {"max_new_tokens": 8} | how)


@pytest.fixture
def made(tmp_path: Path) -> SimpleNamespace:
    """Stage 06 of two models."""
    parameters = SimpleNamespace(seed=1, models=["sft", "dpo"], baselines={"gpt": None}, retrieval=None)
    parameters.judge, parameters.bootstrap_resamples = judging(), 100
    return SimpleNamespace(parameters=parameters, dir=tmp_path / "06", run_dir=tmp_path)


@pytest.fixture
def judge(made: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tokenizer: Any, template: Any) -> Callable:
    """`judge(task, says, **how)`: what is made of the answers "sft说q0", "dpo说q0" …; `says(prompt)` is the judge's."""

    def run(task: Task, says: Any = None, refused: int = 0, **how: Any) -> dict[str, Any]:
        made.parameters.judge = judging(benchmark=task.name, **how)
        for name in ("sft", "dpo"):
            rows = [{"id": one.id, "output": f"<think>想</think>{name}说{one.id}"} for one in task.items]
            for row in rows[:refused]:
                row |= {"output": "", "finish": ERROR}
            write_jsonl(predictions(made.dir, "fixed", task.name, name), rows)

        def asked(own: Any, tasks: Any, folder: str, failed: Any, show: Any, only: Any) -> None:
            writer = Writer(lambda messages: says(messages[-1]["content"]), tokenizer, template, 99_999)
            path = predictions(own.dir, "fixed", "judging", only[0])
            answering.answer(tasks[0], only[0], writer, 0, path)
            finish(path, [item.id for item in tasks[0].items])

        monkeypatch.setattr(stage, "answered", asked)
        stage.check(made.parameters)
        return stage.judge(made, [task], {}, print)

    return run


@pytest.fixture
def huatuo() -> Task:
    items = [Item("huatuo", f"q{n}", "test", None, f"问{n}", None, None, f"参考{n}") for n in range(7)]
    return Huatuo("huatuo", "fixed", "test", None, items, [], {}, "char")


BASE = {"name": "tiny", "source": "embedded", **names.PAPER_SIZE}
RUN = names.describe(BASE, {}, ["dcpt", "sft", "dpo"])


def shown(found: dict[str, Any]) -> Any:
    (table,) = judged.judged_tables({"run": RUN, "judged": found})
    return table


def test_pairs_are_judged_in_both_orders_and_people_stand_beside_the_judge(
    judge: Callable, huatuo: Task, made: SimpleNamespace
) -> None:
    def says(text: str) -> str:
        assert "想" not in text, "answers are judged without their thoughts"
        return "回答1更好" if text.index("sft说") < text.index("dpo说") else "回答2更好"

    found = judge(huatuo, says, preset="zhongjing")
    assert (found["judge"], found["comparison"][0]["win"], len(found["strengths"])) == ("gpt", 6, 2)
    # A control judge, which needs no model; of as many items as are asked for.
    found = judge(huatuo, by="first", preset="zhongjing", max_items=2)
    assert (found["judge"], found["comparison"][0]["inconsistent"]) == ("first", 2)
    folder = made.dir / "judging"
    secret = read_json(folder / "key.json")
    assert len([*read_jsonl(folder / "records.jsonl")]) == 4
    assert (folder / "sheet.html").exists() and len(secret["games"]) == 2
    # Both say the first model's answer is the better one, one of them of every item.
    better = {name: "first" if game["order"] == "ab" else "second" for name, game in secret["games"].items()}
    for name, many in (("王", 2), ("李", 1)):
        said = {"sheet": secret["sheet"], "judge": name, "verdicts": dict(list(better.items())[:many])}
        write_json(made.run_dir / "people" / f"{name}.json", said)
    frame = judged.people_table(made.dir).words.set_index(["Judge", "and"])
    assert frame.loc[("human: 李", "human: 王"), ["Of people", "n", "Agreed, percent"]].tolist() == ["2", "1", "100.0"]
    assert frame.loc[("first", "human: 王"), "n"] == "0", "the judge contradicts itself on every item"


def test_a_model_that_a_server_refused_too_often_has_no_score_from_a_judge_either(
    judge: Callable, huatuo: Task
) -> None:
    """Its empty answers would lose every pair, or be rated, without a word."""
    for preset, why in (("zhongjing", "fewer than two models have"), ("disc", "no model has")):
        found = judge(huatuo, lambda text: DISC.format(4), refused=3, preset=preset)
        assert found == {"unfinished": f"eval.judge: {why} a score on huatuo"}


@pytest.mark.parametrize("names", [("王", "王"), ("王", " 王 "), ("b", "")])
def test_two_files_by_one_judge_s_name_are_refused(
    judge: Callable, huatuo: Task, made: SimpleNamespace, names: tuple[str, str]
) -> None:
    """Two people of one name, or one person's file of yesterday and of today: neither is lost in the other."""
    judge(huatuo, by="first", preset="zhongjing", max_items=2)
    secret = read_json(made.dir / "judging" / "key.json")
    for file, name in zip("ab", names, strict=True):
        said = {"sheet": secret["sheet"], "judge": name, "verdicts": dict.fromkeys(secret["games"], "tie")}
        write_json(made.run_dir / "people" / f"{file}.json", said)
    with pytest.raises(QilinError, match=r"b\.json: judge: '(王|b)' is a\.json's too; nearest valid: another name"):
        judged.people_table(made.dir)


@pytest.mark.slow
def test_what_two_people_save_of_a_sheet_has_two_names(judge: Callable, huatuo: Task, made: SimpleNamespace) -> None:
    judge(huatuo, by="first", preset="zhongjing", max_items=2)
    page, names = made.dir / "judging" / "sheet.html", []
    with_script(
        page,
        "HTMLAnchorElement.prototype.click = function () { document.title += `|${this.download}`; };"
        "for (const name of ['', '王/ 1']) {"
        "at('judge').value = name; at('judge').dispatchEvent(new Event('input')); at('export').click(); }",
    )
    sheet = read_json(made.dir / "judging" / "key.json")["sheet"]
    for _ in "ab":
        title = re.search("<title>([^<]+)", in_chromium(page, 900)[0])[1]
        nobody, named = title.split("|")[1:]
        assert re.fullmatch(rf"judgments-{sheet}-[a-z0-9]{{6,}}\.json", nobody)
        assert re.fullmatch(rf"judgments-{sheet}-王-1-[a-z0-9]{{6,}}\.json", named)
        names += [nobody, named]
    assert len({*names}) == 4


def test_a_preset_that_scores_gives_each_model_a_mean_with_an_interval_by_item(
    judge: Callable, huatuo: Task, made: SimpleNamespace
) -> None:
    """What cannot be read is counted, and an error is no verdict."""

    def says(text: str) -> Any:
        assert "参考" in text and "Helpfulness" in text
        if "sft说q5" in text:
            return Reply(DISC.format(5), ERROR, error="filtered")
        return "我不能打分。" if "sft说q4" in text else DISC.format(2 if "sft" in text else 5)

    found = judge(huatuo, says)
    rows = {(row["model"], row["criterion"]): row for row in found["ratings"]}
    mean = rows["sft", "mean"]
    assert (mean["value"], mean["n"], mean["unread"]) == (3.5, 4, 2)
    assert 1 < mean["low"] < 3.5 < mean["high"] < 5
    assert (rows["sft", "Proactivity"]["value"], rows["dpo", "mean"]["value"], rows["dpo", "mean"]["n"]) == (2, 4.25, 6)
    records = [*read_jsonl(made.dir / "judging" / "records.jsonl")]
    assert len(records) == 12 and sum(not row["parsed"] for row in records) == 2
    assert records[0].keys() >= {"item", "model", "criterion", "judge", "prompt_sha", "raw", "verdict", "parsed"}
    sft = shown(found).words.set_index("Model").loc[RUN["names"]["sft"]]
    assert sft["Unread"] == "2" and sft["Mean, 1–5"].startswith("3.50")


ONLY = {"benchmarks": [], "further_benchmarks": ["rubrics"], "protocols": ["fixed"]}


def test_a_rubric_file_of_the_user_is_a_benchmark_and_scores_its_answers(judge: Callable, tmp_path: Path) -> None:
    (task,) = prepare(sample.raw_dir().parent, load("06_eval", ONLY))
    first, second = task.items
    assert (first.id, second.history) == ("headache", ())
    assert first.history == (("我头痛三天了，要紧吗？", "疼痛是突然开始的吗？有没有发热？"),)
    plan.write([task], tmp_path / "items")
    assert plan.read(tmp_path / "items", KINDS) == [task]

    def says(text: str) -> str:
        if "颈部" in text:
            assert text.index("我头痛三天了") < text.index("39度") < text.index("sft说" if "sft" in text else "dpo说")
        met = "急诊" in text or ("dpo" in text and "感冒" in text) or "克" in text
        return "说不好" if "sft说salt" in text else json.dumps({"criteria_met": met})

    found = judge(task, says, preset="healthbench")
    rows = {row["model"]: row for row in found["ratings"]}
    assert (rows["sft"]["value"], rows["sft"]["n"], rows["sft"]["unread"]) == (pytest.approx(62.5), 1, 1)
    dpo = (100 * (5 - 4) / 8 + 100 * 4 / 6) / 2
    assert (rows["dpo"]["value"], rows["dpo"]["n"]) == (pytest.approx(dpo), 2)
    assert "Points, percent" in shown(found).words.columns


def row(identity: str, question: Any, points: float = 1) -> dict[str, Any]:
    return {"prompt_id": identity, "prompt": question, "rubrics": [{"criterion": "好", "points": points}]}


@pytest.mark.parametrize(
    ("files", "ids", "details"),
    [
        ({"one": row("a", "问")}, ["a"], []),
        # HealthBench's hard questions are a part of all of them, and come as a file of their own.
        (
            {"all": [row("a", "甲"), row("b", "乙")], "hard": [row("b", "乙"), row("a", "甲")]},
            ["a", "b"],
            ["id b came before", "id a came before"],
        ),
        (
            {
                "all": [
                    row("a", "问", float("inf")),
                    row("b", " "),
                    row("c", "问", float("nan")),
                    row("d", "问", -1),
                    row("e", [{"role": "assistant", "content": "答"}]),
                    {"prompt": "问", "rubrics": [{"criterion": "", "points": 1}]},
                    {"prompt": "问", "rubrics": []},
                    row("f", "问"),
                ]
            },
            ["f"],
            [
                "rubrics.0.points = inf",
                "the user first and last",
                "rubrics.0.points = nan",
                "no criterion has points above 0",
                "the user first and last",
                "rubrics.0.criterion = ''",
                "rubrics = []",
            ],
        ),
    ],
)
def test_a_rubric_file_is_read_whole_each_question_once_and_bad_rows_are_listed(
    tmp_path: Path, files: dict[str, Any], ids: list[str], details: list[str]
) -> None:
    for name, content in files.items():
        write_json(tmp_path / "rubrics" / f"{name}.json", content)
    (task,) = prepare(tmp_path, load("06_eval", ONLY))
    assert [item.id for item in task.items] == ids
    for found, detail in zip(task.invalid, details, strict=True):
        assert detail in found["detail"] and found["line"] > 0


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"by": "firs"}, r"eval\.judge\.by: 'firs'.*first"),
        ({"models": ["sft", "dop"]}, r"eval\.judge\.models: 'dop'.*dpo"),
        ({"by": "longer"}, r"eval\.judge\.by: 'longer' compares two answers, and preset 'disc' scores one"),
        ({"preset": "healthbench"}, r"eval\.judge\.benchmark: huatuo has no criteria.*rubrics or patients"),
        ({"preset": "zhongjin"}, "zhongjing"),
    ],
)
def test_a_judge_that_is_not_there_or_cannot_score_is_refused_by_name(
    made: SimpleNamespace, how: dict, said: str
) -> None:
    made.parameters.judge = judging(**how)
    with pytest.raises(QilinError, match=said):
        stage.check(made.parameters)
