"""The page's sections on results: complete for a full run, a sentence instead of a traceback for a poor one."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.evaluate.benchmarks import ceval, cmexam, huatuo
from qilin_lib.evaluate.scores import summarise
from qilin_lib.report import html, whole
from qilin_lib.report.render import Table, write_all
from tests.report.conftest import EMPTY, SFT

EXAM = {"benchmark": "cmexam", "split": "test", "truncated": False, "shots": 0}


def page(scores: Any, tmp_path: Path) -> str:
    sections = whole.result_sections(scores, whole.result_tables(scores))
    return html.report(sections, tmp_path / "report.html", "run").read_text(encoding="utf-8")


def only(scores: Any, *models: str) -> None:
    """Keep these models alone."""
    for results in (*(scores[name] for name in ("ceval", "cmexam", "huatuo")), *scores["released"].values()):
        for model in set(results) - set(models):
            del results[model]
    scores["paired"] = []


def without_ceval(scores: Any) -> None:
    scores["ceval"], scores["released"]["ceval"] = {}, {}
    for name in ("split", "cap", "shots", "invalid", "scoring", "truncated"):
        del scores[name]["ceval"]


def released_alone(scores: Any) -> None:
    scores |= {name: {} for name in ("ceval", "cmexam", "huatuo", "split", "cap", "shots", "scoring", "truncated")}
    scores["paired"] = []


def no_public_answers(scores: Any) -> None:
    for results in (scores["ceval"], scores["released"]["ceval"]):
        for entry in results.values():
            entry |= {part: dict.fromkeys(entry.get(part, {}), EMPTY) for part in ("subjects", "categories")}
            entry |= {name: EMPTY for name, score in entry.items() if "value" in score}


def no_annotations(scores: Any) -> None:
    for entry in [*scores["cmexam"].values(), *scores["released"]["cmexam"].values()]:
        entry["groups"] = {}


CASES = {
    "C-Eval was not evaluated in this run": without_ceval,
    "protocol fixed": lambda scores: scores.update(released={}),
    "Huatuo-26M was not evaluated in this run": released_alone,
    "Nothing to compare: fewer than two models answered the same benchmark.": lambda scores: only(scores, "base"),
    "no item of this run has a public answer": no_public_answers,
    "carry no annotations": no_annotations,
    "CMExam was not evaluated in this run": lambda scores: only(scores),
}


def test_a_full_run_shows_every_table_once_in_order(scores: Any, tmp_path: Path) -> None:
    shown = re.findall(r'<div class="caption">Table (\w+)\.', page(scores, tmp_path))
    assert shown == ["4", "4c", "4r", "5", "5a", "5b", "5l", "5r", "6", "6v", "A1", "C1", "C2a", "C2b"]


@pytest.mark.slow
@pytest.mark.parametrize("sentence", CASES)
def test_a_poor_run_says_what_it_lacks(scores: Any, tmp_path: Path, sentence: str) -> None:
    CASES[sentence](scores)
    text = page(scores, tmp_path)
    assert sentence in text
    made = whole.result_tables(scores)
    assert all(path.stat().st_size for path in write_all(made, tmp_path / "files"))
    cells = re.findall(r"<td[^>]*>(.*?)</td>", text)
    assert not [cell for cell in cells if re.search(r"\b(None|nan)\b", cell)] and len(cells) > 50


def answer(number: int, gold: str, prediction: str | None, department: str) -> dict[str, Any]:
    right = {"gold": gold, "prediction": prediction, "correct": gold == prediction}
    words = {"output": "肺炎链球菌", "explanation": "肺炎链球菌", "reference": "肺炎由肺炎链球菌引起"}
    return {**EXAM, **right, **words, "id": str(number), "groups": {"department": department} if department else {}}


def test_what_the_statistics_make_of_records_is_what_the_tables_read(scores: Any) -> None:
    """The scores of the other tests are written by hand; these come from records."""
    exams = [answer(n, "C", "C" if n % 4 else None, "内科" if n < 3 else "") for n in range(8)]
    asked = [
        {"subject": s, "gold": "A", "prediction": "AB"[n % 2], "correct": n % 2 == 0}
        for s in ("law", "physician", "unheard_of")
        for n in range(4)
    ]
    made = {
        "ceval": {"sft": summarise(ceval.statistics(asked), 200, 1)},
        "cmexam": {"sft": summarise(cmexam.statistics(exams), 200, 1)},
        "huatuo": {"sft": summarise(huatuo.statistics(exams), 200, 1)},
    }
    scores |= made | {"released": {}, "paired": []}
    found: dict[str, Table] = {table.number: table for table in whole.result_tables(scores)}
    cell = {number: table.words.set_index(table.words.columns[0]).astype(str) for number, table in found.items()}
    assert cell["5"].loc[SFT, "Accuracy"].startswith("75.0 [")
    assert "100.0" in cell["5"].loc[SFT, "Accuracy, parsed rows only (inflated)"]
    assert cell["4"].loc[SFT, "Average"].startswith("50.0 [")
    assert cell["4c"].loc[SFT, "Humanities"].startswith("50.0 [") and cell["4c"].loc[SFT, "STEM"] == "no items"
    assert cell["4c"].loc[SFT, "(no category)"].startswith("50.0 [")
    assert list(found["5a"].words["Group"]) == ["内科", "(not annotated)"]
    assert [text.partition(" ")[0] for text in cell["5a"][SFT]] == [
        "66.7",
        "80.0",
    ]  # 2 of 3; 4 of 5, though there are more of them
    assert len(found["6v"].words) > 10 and "not" not in " ".join(cell["6v"][SFT])


def test_each_system_says_what_its_paper_did_what_runs_here_and_what_is_not_available() -> None:
    cards = {re.search(r"profile (\w+)", text)[1]: unescape(text) for text in whole.systems()}
    assert set(cards) == {"bianque", "chimed_gpt", "huatuogpt2", "pediatricsgpt", "rulealign", "zhongjing"}
    assert "ChiMed-GPT (arXiv 2311.06025; synlp/ChiMed-GPT@4b7b312, a README only)" in cards["chimed_gpt"]
    for said in ("Ziya-LLaMA-13B; LoRA pre-training", "RLOO", "PPO's launch script"):
        assert said in cards["zhongjing"], said
    assert "mixture of experts" in cards["pediatricsgpt"].partition("Not available")[2]
    assert not any("differs from" in text for text in cards.values())
