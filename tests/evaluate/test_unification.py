"""HuatuoGPT-II's unification: a model writes a question to a passage and answers it; two filters, two tries each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.serving import Faulty, completion, said, serving

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import unification
from qilin_lib.files import read_jsonl
from qilin_lib.schema import Baseline
from qilin_lib.train import one_stage

TEXTS = {"a": "贫血" + "甲" * 500 + "乙" * 300, "b": "肺炎常见发热。", "c": "高血压应当低盐。", "d": "痛风要少喝酒。"}


@pytest.fixture
def server() -> Iterator[Faulty]:
    with serving(Faulty()) as made:
        yield made


def unified(server: Faulty, tmp_path: Path, reply: Callable[[str], str | None]) -> tuple[dict, dict]:
    """({id: its row}, counts) of TEXTS."""
    server.reply = lambda request, number: (
        (400, {"error": {"message": "no", "code": "data_inspection_failed"}})
        if (text := reply(said(request))) is None
        else (200, completion(text))
    )
    line, target = Baseline(model="writer", endpoint=server.url), tmp_path / "unified.jsonl"
    counts = unification.unify(TEXTS.items(), line, target, show=lambda text: None)
    return {row["id"]: row for row in read_jsonl(target)}, counts


def test_a_question_is_asked_of_the_beginning_and_answered_from_a_longer_one(server: Faulty, tmp_path: Path) -> None:
    rows, counts = unified(server, tmp_path, lambda text: "答案。" if "什么病？" in text else "什么病？")
    assert rows["b"] == {"id": "b", "question": "什么病？", "answer": "答案。"} and counts["unified"] == 4
    asked = [said(request) for request in server.requests]
    first = [text for text in asked if "贫血" in text]
    assert sorted(text.count("甲") for text in first) == [398, 500] and sorted(text.count("乙") for text in first) == [
        0,
        98,
    ]


def test_filters_reject_and_ask_once_more(server: Faulty, tmp_path: Path) -> None:
    tries: dict[str, int] = {}

    def reply(text: str) -> str | None:
        kind = next((name for name in ("贫血", "肺炎", "高血压") if name in text), "痛风")
        answering = "怎么办？" in text
        tries[f"{kind}{answering}"] = number = tries.get(f"{kind}{answering}", 0) + 1
        if kind == "痛风":
            return None
        if not answering:
            # Too long once of pneumonia's, always of high blood pressure's.
            return "长" * 181 if kind == "高血压" or (kind == "肺炎" and number == 1) else f"{kind}怎么办？"
        return "根据参考文本，休息。" if kind == "贫血" or number == 1 else "休息。"

    rows, counts = unified(server, tmp_path, reply)
    assert rows.keys() == {"b"} and rows["b"]["question"] == "肺炎怎么办？" and rows["b"]["answer"] == "休息。"
    assert counts == {
        "documents": 4,
        "unified": 1,
        "question of more than 180 characters": 1,
        "answer that names its reference": 1,
        "no reply": 1,
    }
    assert tries == {"贫血False": 1, "贫血True": 2, "肺炎False": 2, "肺炎True": 2, "高血压False": 2, "痛风False": 2}


def test_what_stands_in_the_file_is_not_asked_again(server: Faulty, tmp_path: Path) -> None:
    answer = lambda text: "答案。" if "什么病？" in text else "什么病？"  # noqa: E731
    first = unified(server, tmp_path, answer)
    many = len(server.requests)
    assert unified(server, tmp_path, answer) == first and len(server.requests) == many


def test_a_file_of_another_form_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "unified.jsonl"
    path.write_text('{"id": "a", "question": "问", "answer": "答"}\n{"id": "b", "question": ""}\n', encoding="utf-8")
    with pytest.raises(QilinError, match=r"unified\.jsonl:2: .*id, question, answer"):
        one_stage.unified(path)
    with pytest.raises(QilinError, match=r"one_stage\.unified: .*none\.jsonl.*no file"):
        one_stage.unified(tmp_path / "none.jsonl")


def test_a_run_without_02_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    (tmp_path / "bare").mkdir()
    assert unification.main(["bare", str(tmp_path / "out.jsonl"), "gpt", "http://host/v1"]) == 2
    assert "run 'bare' has not finished 02_tokenize" in capsys.readouterr().err
