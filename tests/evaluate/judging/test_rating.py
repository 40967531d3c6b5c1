"""Single answers rated: by a preset's criteria, or by the criteria that a file of the user gives each item."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import sample
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import answering, plan
from qilin_lib.evaluate.benchmarks import KINDS, prepare
from qilin_lib.evaluate.judging import stage
from qilin_lib.evaluate.replies import ERROR, Reply
from qilin_lib.evaluate.store import finish, predictions
from qilin_lib.files import read_jsonl, write_jsonl
from qilin_lib.models import names
from qilin_lib.params import load
from qilin_lib.report import judged

DISC = "Proactivity: {}\nAccuracy: 4\nHelpfulness: 4\nLinguistic Quality: 4"


class Judge:
    """Answers each prompt by what `says` makes of its text."""

    likelihood, batch_size, context = False, 4, 99_999

    def __init__(self, says: Any, tokenizer: Any, template: Any) -> None:
        self.says, self.tokenizer, self.template = says, tokenizer, template

    def generate(self, prompts: list, max_new_tokens: int) -> list[Reply]:
        replies = [self.says(prompt.messages[-1]["content"]) for prompt in prompts]
        return [one if isinstance(one, Reply) else Reply(one) for one in replies]

    def fingerprint(self) -> str:
        return "stand-in"


def judging(**how: Any) -> SimpleNamespace:
    given = {"by": "gpt", "models": ["sft", "dpo"], "preset": "disc", "benchmark": "huatuo", "max_items": None}
    return SimpleNamespace(**given | {"max_new_tokens": 8} | how)


def answers(folder: Path, benchmark: str, ids: list[str]) -> None:
    for name in ("sft", "dpo"):
        rows = [{"id": one, "output": f"{name}说{one}", "finish": "stop"} for one in ids]
        write_jsonl(predictions(folder, "fixed", benchmark, name), rows)


@pytest.fixture
def rated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any, template: Any) -> SimpleNamespace:
    """Stage 06 with two models' answers to six questions; `says` is what the judge makes of a prompt."""
    parameters = SimpleNamespace(seed=1, models=["sft", "dpo"], baselines={"gpt": None}, retrieval=None)
    parameters.judge, parameters.bootstrap_resamples = judging(), 100
    made = SimpleNamespace(parameters=parameters, dir=tmp_path / "06", run_dir=tmp_path, says=lambda text: "")
    rows = [{"id": f"q{n}", "question": f"问{n}", "reference": f"参考{n}", "history": []} for n in range(6)]
    write_jsonl(made.dir / "items" / "huatuo.jsonl", rows)
    answers(made.dir, "huatuo", [row["id"] for row in rows])

    def asked(own: Any, tasks: Any, folder: str, failed: Any, show: Any, only: Any) -> None:
        path = predictions(own.dir, "fixed", "judging", only[0])
        answering.answer(tasks[0], only[0], Judge(made.says, tokenizer, template), 0, path)
        finish(path, [item.id for item in tasks[0].items])

    monkeypatch.setattr(stage, "answered", asked)
    return made


BASE = {"name": "tiny", "source": "embedded", **names.PAPER_SIZE}
RUN = names.describe(BASE, {}, ["dcpt", "sft", "dpo"])


def shown(found: dict[str, Any]) -> Any:
    (table,) = judged.judged_tables({"run": RUN, "judged": found})
    return table


def test_a_preset_that_scores_gives_each_model_a_mean_with_an_interval_by_item(rated: SimpleNamespace) -> None:
    """What cannot be read is counted, and an error is no verdict."""

    def says(text: str) -> Any:
        assert "参考" in text and "Helpfulness" in text
        if "sft说q5" in text:
            return Reply(DISC.format(5), ERROR, error="filtered")
        return "我不能打分。" if "sft说q4" in text else DISC.format(2 if "sft" in text else 5)

    rated.says = says
    stage.check(rated.parameters)
    found = stage.judge(rated, {}, print)
    rows = {(row["model"], row["criterion"]): row for row in found["ratings"]}
    mean = rows["sft", "mean"]
    assert (mean["value"], mean["n"], mean["unread"]) == (3.5, 4, 2)
    assert 1 < mean["low"] < 3.5 < mean["high"] < 5
    assert (rows["sft", "Proactivity"]["value"], rows["dpo", "mean"]["value"], rows["dpo", "mean"]["n"]) == (2, 4.25, 6)
    records = [*read_jsonl(rated.dir / "judging" / "records.jsonl")]
    assert len(records) == 12 and sum(not row["parsed"] for row in records) == 2
    assert records[0].keys() >= {"item", "model", "criterion", "judge", "prompt_sha", "raw", "verdict", "parsed"}
    cells = shown(found).words.set_index("Model")
    assert cells.loc[RUN["names"]["sft"], "Unread"] == "2" and cells.loc[RUN["names"]["sft"], "Mean, 1–5"].startswith(
        "3.50"
    )


def test_a_rubric_file_of_the_user_is_a_benchmark_and_scores_its_answers(rated: SimpleNamespace) -> None:
    parameters = load("06_eval", {"benchmarks": [], "further_benchmarks": ["rubrics"], "protocols": ["fixed"]})
    raw = sample.raw_dir().parent
    (task,) = prepare(raw, parameters)
    first, second = task.items
    assert (first.id, [*first.history], second.history) == (
        "headache",
        [("我头痛三天了，要紧吗？", "疼痛是突然开始的吗？有没有发热？")],
        (),
    )
    plan.write([task], rated.dir / "items")
    assert plan.read(rated.dir / "items", KINDS) == [task]
    answers(rated.dir, "rubrics", ["headache", "salt"])
    rated.parameters.judge = judging(preset="healthbench", benchmark="rubrics")

    def says(text: str) -> str:
        if "颈部" in text:
            assert text.index("我头痛三天了") < text.index("39度") < text.index("sft说" if "sft" in text else "dpo说")
        met = "急诊" in text or ("dpo" in text and "感冒" in text) or "克" in text
        return "说不好" if "sft说salt" in text else json.dumps({"criteria_met": met})

    rated.says = says
    stage.check(rated.parameters)
    found = stage.judge(rated, {}, print)
    rows = {row["model"]: row for row in found["ratings"]}
    assert (rows["sft"]["value"], rows["sft"]["n"], rows["sft"]["unread"]) == (pytest.approx(62.5), 1, 1)
    dpo = (100 * (5 - 4) / 8 + 100 * 4 / 6) / 2
    assert (rows["dpo"]["value"], rows["dpo"]["n"]) == (pytest.approx(dpo), 2)
    assert "Points, percent" in shown(found).words.columns


def test_a_bad_row_of_a_rubric_file_is_listed_with_its_line(tmp_path: Path) -> None:
    rows = [
        {"prompt": "问", "rubrics": [{"criterion": "好", "points": 1}]},
        {"prompt": "问", "rubrics": [{"criterion": "坏", "points": -1}]},
        {"prompt": [{"role": "assistant", "content": "答"}], "rubrics": [{"criterion": "好", "points": 1}]},
    ]
    write_jsonl(tmp_path / "rubrics" / "mine.jsonl", rows)
    parameters = load("06_eval", {"benchmarks": [], "further_benchmarks": ["rubrics"], "protocols": ["fixed"]})
    (task,) = prepare(tmp_path, parameters)
    assert len(task.items) == 1 and [row["line"] for row in task.invalid] == [2, 3]
    assert "no criterion has points above 0" in task.invalid[0]["detail"] and "user" in task.invalid[1]["detail"]


def rubric_task(folder: Path, **files: Any) -> Any:
    for name, content in files.items():
        path = folder / "rubrics" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    parameters = load("06_eval", {"benchmarks": [], "further_benchmarks": ["rubrics"], "protocols": ["fixed"]})
    (task,) = prepare(folder, parameters)
    return task


def row(identity: str, question: str, points: float = 1) -> dict[str, Any]:
    return {"prompt_id": identity, "prompt": question, "rubrics": [{"criterion": question, "points": points}]}


def test_a_file_of_one_question_is_read_whole(tmp_path: Path) -> None:
    task = rubric_task(tmp_path, one=row("a", "问"))
    assert [item.question for item in task.items] == ["问"]


def test_a_question_of_two_files_is_asked_once(tmp_path: Path) -> None:
    """HealthBench's hard questions are a part of all of them, and come as a file of their own."""
    task = rubric_task(tmp_path, all=[row("a", "甲"), row("b", "乙")], hard=[row("b", "乙"), row("a", "甲")])
    assert [item.id for item in task.items] == ["a", "b"]
    assert [one["detail"] for one in task.invalid] == ["id b came before", "id a came before"]


def test_points_are_finite_and_texts_are_not_blank(tmp_path: Path) -> None:
    bad = [row("a", "问", float("inf")), row("b", " "), row("c", "问", float("nan"))]
    assert len(rubric_task(tmp_path, all=[*bad, row("d", "问")]).items) == 1


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"by": "longer"}, r"eval\.judge\.by: 'longer' compares two answers, and preset 'disc' scores one"),
        ({"preset": "healthbench"}, r"eval\.judge\.benchmark: huatuo has no criteria.*rubrics"),
    ],
)
def test_a_judge_that_cannot_score_is_refused_by_name(rated: SimpleNamespace, how: dict, said: str) -> None:
    rated.parameters.judge = judging(**how)
    with pytest.raises(QilinError, match=said):
        stage.check(rated.parameters)
