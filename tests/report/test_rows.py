"""A row is called by what it is: the paper's rows hold the paper's numbers, ours the name of our base and stages."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.text import Text

from qilin_lib import files
from qilin_lib.report import browse, case_study, charts, figures, html, paper, records, second, tables, whole
from qilin_lib.report.cells import Score
from qilin_lib.report.paper import CHIMED_GPT
from qilin_lib.report.render import Table

PAPERS = {row.label for number in (4, 5, 6) for row in paper.TABLES[number].rows} | {*CHIMED_GPT["results"]}
DPO = "tiny 2.3M + DCPT + SFT + DPO"


@pytest.fixture
def made(scores: dict[str, Any]) -> list[Table]:
    """All tables of a run whose profile gave baselines the names of rows of the paper and of ChiMed-GPT's README."""
    for name in ("Vicuna-7B", "Baichuan-7B", "LLaMA-CMExam", "my model"):
        scores["cmexam"][name] = scores["cmexam"]["sft"]
    scores["cmmlu"] = {
        name: {"accuracy": {"value": 31.0, "n": 9, "low": 20.0, "high": 40.0}} for name in ("dpo", "GPT-4")
    }
    for name in ("split", "cap", "shots", "invalid", "scoring"):
        scores[name]["cmmlu"] = None
    return whole.result_tables(scores, "ab" * 32)


def ours(table: Table) -> list[tuple[str, str]]:
    """(row, column) of every cell that holds a number of this run."""
    rows = table.content.itertuples(index=False, name=None)
    return [
        (str(row[0]), column)
        for row in rows
        for column, cell in zip(table.content.columns, row, strict=True)
        if isinstance(cell, Score) and cell.value is not None
    ]


def test_a_row_of_the_papers_holds_no_number_of_ours(made: list[Table]) -> None:
    counted = 0
    for table in made:
        false = {(row, column) for row, column in ours(table) if row in PAPERS or column in PAPERS}
        assert not false, f"Table {table.number}"
        counted += len(ours(table))
    assert counted > 100


def test_another_base_is_not_compared_with_the_paper(made: list[Table]) -> None:
    for table in made:
        notes = "\n".join(table.notes)
        assert "inside our interval" not in notes and "ours minus" not in notes, f"Table {table.number}"
    fourth = next(table for table in made if table.number == "4")
    assert fourth.notes[0].startswith("Base model here: tiny, 2.3 million weights; the paper's: Baichuan-7B. One run")
    lines = list(csv.DictReader(io.StringIO(fourth.csv())))
    assert not [line for line in lines if line["value"] and (line["paper"] or line["difference"])]


def test_our_row_has_its_name_however_it_is_shown(made: list[Table]) -> None:
    fifth = next(table for table in made if table.number == "5")
    for text in (fifth.html(), fifth.markdown(), fifth.csv(), fifth.latex(), " ".join(fifth.text(400).split())):
        assert DPO in text and "Vicuna-7B (ours)" in text


def test_the_csv_names_group_and_model_in_columns_of_their_own(made: list[Table]) -> None:
    department = next(table for table in made if table.number == "5a")
    lines = list(csv.DictReader(io.StringIO(department.csv())))
    cells = {(line["group"], line["model"]): line["value"] for line in lines}
    assert cells.get(("眼科", DPO)) == "20" and cells.get(("内科", "Vicuna-7B (ours)")) == "60"


def test_the_papers_base_is_compared_in_rows_of_our_own(scores: dict[str, Any], run_of: Callable) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    table = tables.table5(scores)
    cells = {str(row[0]): str(row[2]) for row in table.words.itertuples(index=False, name=None)}
    assert cells.get("Baichuan-7B 7.0B") == "39.0 [34.0, 44.0] (n=500); paper 33.5 (+5.5)"
    assert cells["Baichuan-7B"] == "paper 33.5" and cells["Baichuan-7B 7.0B + DCPT + SFT + DPO"].endswith("(n=500)")
    note = next(note for note in table.notes if "inside our interval" in note)
    assert "Qilin-Med-7B-CPT Accuracy 38.4, Qilin-Med-7B-SFT Accuracy 40.0; outside: Baichuan-7B Accuracy 33.5" in note


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def test_figures_name_our_models_and_leave_the_papers_rows_to_the_paper(scores: dict[str, Any]) -> None:
    for figure in (figures.forest(scores, paper.TABLES), figures.subject_accuracy(scores)):
        assert DPO in words(figure)
    forest = figures.forest(scores, paper.TABLES).axes[2]
    height = {label.get_text(): place for place, label in enumerate(forest.get_yticklabels())}["Qilin-Med-7B-SFT"]
    assert [line.get_marker() for line in forest.lines if list(line.get_ydata()) == [height]] == ["X"]


def test_a_dollar_in_a_name_is_drawn_as_it_stands(scores: dict[str, Any]) -> None:
    groups = scores["cmexam"]["base"]["groups"]["difficulty"]
    groups[r"$\foo$"] = groups["1"]
    scores["cmexam"]["a$b$"] = scores["cmexam"]["sft"]
    failure = ""
    try:
        charts.png(figures.group_accuracy(scores, "difficulty"))
        charts.png(figures.forest(scores, paper.TABLES))
    except ValueError as reason:
        failure = str(reason)
    assert not failure


def test_what_rests_on_an_accepted_stage_says_so(scores: dict[str, Any]) -> None:
    sentence = "03_dcpt was accepted as it is on 2026-01-02: the new code logs more"
    scores["accepted"] = [sentence]
    assert all(sentence in table.notes for table in whole.result_tables(scores, ""))


def test_the_manifest_chain_names_accepted_stages(tmp_path: Path) -> None:
    entry = {"stage": "03_dcpt", "when": "2026-01-02", "reason": "the new code logs more"}
    files.write_json(tmp_path / "03_dcpt.accepted.json", [entry])
    notes = html.manifest_chain(tmp_path).notes
    assert "03_dcpt was accepted as it is on 2026-01-02: the new code logs more" in notes


def test_the_reward_tables_use_the_profile_s_resamples_and_seed(tmp_path: Path) -> None:
    rewards = [0.1, 0.7, -0.4, 1.9, 0.3, -2.0, 0.8]
    pairs = {"chosen": rewards, "rejected": [0.0] * 7, "sources": ["a"] * 7, "source": ["a"] * 7}
    files.write_json(tmp_path / "reward" / "heldout.json", pairs)
    files.write_jsonl(tmp_path / "reward" / "log.jsonl", [{"step": 1, "loss": 0.7, "accuracy": 0.5, "margin": 0.0}])
    profiles = [SimpleNamespace(bootstrap_resamples=n, seed=seed) for n, seed in ((200, 1), (200, 2), (3000, 1))]
    margins = {second._reward_parts(tmp_path, profile)[0].words["margin"][0] for profile in profiles}
    assert len(margins) == 3


@pytest.fixture
def stage(tmp_path: Path, scores: dict[str, Any]) -> Any:
    """What is read of a finished 06: scores.json and three models' records."""
    texts = {"output": "休息", "reference": "多休息", "prompt": "头痛", "template": "plain"}
    for model in ("base", "sft", "my model"):
        exam = {"benchmark": "cmexam", "gold": "A", "prediction": "A", "correct": True} | texts
        folder = tmp_path / "06_eval" / "predictions" / "fixed"
        files.write_jsonl(folder / "cmexam" / f"{model}.jsonl", [{"id": f"q{n}", **exam} for n in range(3)])
    files.write_json(tmp_path / "06_eval" / "scores.json", scores)
    return SimpleNamespace(parent=lambda name: tmp_path / name, parameters=SimpleNamespace(cases=1, seed=3))


def test_letters_cases_and_search_name_our_models(stage: Any) -> None:
    folder = stage.parent("06_eval")
    names = ["tiny 2.3M", "tiny 2.3M + DCPT + SFT", "my model"]
    assert list(records.letters_table(folder).words["Model"]) == ["gold", *names]
    assert list(dict.fromkeys(row.model for row in browse.load(folder))) == names
    cards = case_study.cases(stage, "cmexam")
    assert all(f'title">{name}<' in cards for name in names) and "compared with sft" not in cards
    assert 'title">sft' not in cards and "same as tiny 2.3M<" in cards
