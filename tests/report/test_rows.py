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

from qilin_lib import chains, files
from qilin_lib.report import browse, case_study, figures, html, layout, paper, policies, records, second, tables, whole
from qilin_lib.report.cells import Score
from qilin_lib.report.chimed_gpt_paper import MODELS as PUBLISHED
from qilin_lib.report.layout import Table

PAPERS = {row.label for number in (4, 5, 6) for row in paper.TABLES[number].rows} | set(PUBLISHED)
DPO = "tiny 2.3M + DCPT + SFT + DPO"
DRESSES: dict[str, Callable[[Table], str]] = {
    "text": layout.to_text,
    "html": layout.to_html,
    "markdown": layout.to_markdown,
    "csv": layout.to_csv,
    "latex": layout.to_latex,
}


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
    rows = table.frame.itertuples(index=False, name=None)
    return [
        (str(row[0]), column)
        for row in rows
        for column, cell in zip(table.frame.columns, row, strict=True)
        if isinstance(cell, Score) and cell.known
    ]


def test_a_row_of_the_papers_holds_no_number_of_ours(made: list[Table]) -> None:
    counted = 0
    for table in made:
        false = {(row, column) for row, column in ours(table) if row in PAPERS or column in PAPERS}
        assert not false, f"Table {table.number}"
        counted += len(ours(table))
    assert counted > 100


def test_our_rows_are_named_by_base_and_stages(made: list[Table]) -> None:
    named = {label for table in made for pair in ours(table) for label in pair}
    assert {"tiny 2.3M", "tiny 2.3M + DCPT", "tiny 2.3M + DCPT + SFT", DPO, "my model"} <= named
    assert {"Vicuna-7B (ours)", "Baichuan-7B (ours)", "LLaMA-CMExam (ours)", "GPT-4 (ours)"} <= named
    assert not named & {"base", "dcpt", "sft", "dpo"}


def test_the_papers_numbers_stay_in_its_rows(made: list[Table]) -> None:
    fifth = next(table for table in made if table.number == "5")
    cells = {str(row[0]): str(row[2]) for row in fifth.frame.itertuples(index=False, name=None)}
    assert (cells["Baichuan-7B"], cells["Qilin-Med-7B-CPT"], cells["Vicuna-7B"]) == (
        *("paper 33.5", "paper 38.4", "paper 5"),
    )
    assert cells[DPO] == "39.0 [34.0, 44.0] (n=500)"


def test_another_base_is_not_compared_with_the_paper(made: list[Table]) -> None:
    for table in made:
        notes = "\n".join(table.notes)
        assert "inside our interval" not in notes and "ours minus" not in notes, f"Table {table.number}"
    fourth = next(table for table in made if table.number == "4")
    assert "Base model here: tiny, 2.3 million weights; the paper's: Baichuan-7B." in fourth.notes
    lines = list(csv.DictReader(io.StringIO(layout.to_csv(fourth))))
    assert not [line for line in lines if line["ours"] and (line["paper"] or line["difference"])]


@pytest.mark.parametrize("dress", DRESSES)
def test_every_dress_calls_our_row_by_its_name(made: list[Table], dress: str) -> None:
    fifth = next(table for table in made if table.number == "5")
    text = DRESSES[dress](fifth)
    assert DPO in text and "Vicuna-7B (ours)" in text


def test_the_csv_names_group_and_model_in_columns_of_their_own(made: list[Table]) -> None:
    department = next(table for table in made if table.number == "5a")
    lines = list(csv.DictReader(io.StringIO(layout.to_csv(department))))
    cells = {(line.get("value"), line["model"]): line["ours"] for line in lines}
    assert cells.get(("眼科", DPO)) == "20" and cells.get(("内科", "Vicuna-7B (ours)")) == "60"


def test_text_that_a_spreadsheet_would_run_is_only_text_in_the_csv(scores: dict[str, Any]) -> None:
    groups = scores["cmexam"]["base"]["groups"]["department"]
    groups['=HYPERLINK("http://x")'] = groups["眼科"]
    lines = csv.DictReader(io.StringIO(layout.to_csv(tables.group_tables(scores)[0])))
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "@"))]
    assert "'=HYPERLINK" in layout.to_csv(tables.group_tables(scores)[0])


def test_text_of_the_data_is_no_link_in_markdown(scores: dict[str, Any]) -> None:
    groups = scores["cmexam"]["base"]["groups"]["department"]
    groups["[click](javascript:x) ![t](http://host/x.png)"] = groups["眼科"]
    assert "](" not in layout.to_markdown(tables.group_tables(scores)[0], None)


def test_the_papers_base_is_compared_in_rows_of_our_own(scores: dict[str, Any], run_of: Callable) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    table = tables.table5(scores)
    cells = {str(row[0]): str(row[2]) for row in table.frame.itertuples(index=False, name=None)}
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
        figures.png(figures.group_accuracy(scores, "difficulty"))
        figures.png(figures.forest(scores, paper.TABLES))
    except ValueError as reason:
        failure = str(reason)
    assert not failure


def test_a_table_in_plain_text_is_the_text_table(scores: dict[str, Any]) -> None:
    assert repr(tables.table4(scores)) == layout.to_text(tables.table4(scores))


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
    margins = {second._reward_parts(tmp_path, profile)[0].frame["margin"][0] for profile in profiles}
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
    return SimpleNamespace(
        parent=lambda name: tmp_path / name, parameters=SimpleNamespace(cases=1, seed=3, chain=chains.DEFAULT)
    )


def test_letters_cases_and_search_name_our_models(stage: Any) -> None:
    folder = stage.parent("06_eval")
    names = ["tiny 2.3M", "tiny 2.3M + DCPT + SFT", "my model"]
    assert list(records.letters_table(folder).frame["Model"]) == ["gold", *names]
    assert list(dict.fromkeys(row.model for row in browse.load(folder))) == names
    cards = case_study.cases(stage, "cmexam")
    assert all(f'title">{name}<' in cards for name in names) and "compared with sft" not in cards
    assert 'title">sft' not in cards and "same as tiny 2.3M<" in cards


def test_policies_are_named_like_the_models_they_are(run_of: Callable) -> None:
    numbers = dict.fromkeys(policies.COLUMNS, {"value": 1.0, "n": 9, "low": 0.5, "high": 1.5})
    paired = [{"metric": "reward", "model_a": "sft", "model_b": "rl", "n": 9, "difference": 1.0, "low": 0.1}]
    paired[0] |= {"high": 1.9, "p": 0.1, "p_adjusted": 0.2}
    compared = {"policies": dict.fromkeys(("sft", "dpo", "rejection_sampling", "rl"), numbers), "paired": paired}
    compared |= {"settings": {"questions": 9, "too_long": 0, "max_new_tokens": 4, "tokenisation": "char"}}
    compared |= {"run": run_of("tiny", 2_263_296)}
    sft = "tiny 2.3M + DCPT + SFT"
    named = [sft, f"{sft} + DPO", f"{sft} + rejection sampling", f"{sft} + RL"]
    assert list(policies.comparison_table(compared).frame["Model"]) == named
    assert list(policies.differences_table(compared).frame["Model"]) == named[3:]
    labels = [line.get_label() for line in policies.reward_against_kl(compared).axes[0].lines]
    assert [label for label in labels if not label.startswith("_")] == named


def test_a_name_moves_no_terminal(scores: dict[str, Any], run_of: Callable) -> None:
    scores["run"] = run_of("\x1b[31mmine\x9b2J", 2_263_296)
    text = layout.to_text(tables.table4(scores))
    assert "mine" in text and not [c for c in text if c != "\n" and (ord(c) < 32 or 127 <= ord(c) < 160)]
