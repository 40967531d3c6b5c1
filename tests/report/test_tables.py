"""Tables 1-6 and those below them: what stands in which row, what each number rests on, and that they are numbers."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from wcwidth import wcswidth

from qilin_lib import chains, files
from qilin_lib.errors import QilinError
from qilin_lib.report import (
    breakdowns,
    browse,
    case_study,
    data,
    figures,
    html,
    paper,
    second,
    tables,
    training,
    whole,
)
from qilin_lib.report.cells import Score
from qilin_lib.report.render import Table
from qilin_lib.runs import Run
from tests.report.conftest import DPO, SFT, row, words_of
from tests.report.test_chimed_gpt_tables import further  # noqa: F401

FROZEN = Path(__file__).with_name("frozen_tables.json")
PAPERS = {row.label for number in (4, 5, 6) for row in paper.TABLES[number].rows} | {*paper.CHIMED_GPT["results"]}


def ours(table: Table) -> list[tuple[str, str]]:
    """(row, column) of every cell that holds a number of this run."""
    return [
        (str(cells[0]), column)
        for cells in table.content.itertuples(index=False, name=None)
        for column, cell in zip(table.content.columns, cells, strict=True)
        if isinstance(cell, Score) and cell.value is not None
    ]


def test_every_number_is_the_frozen_one(ledger: Any, tokens: Any, further: Any, run_of: Any) -> None:  # noqa: F811
    """The tables of a made-up run hold what they held when frozen_tables.json was written."""
    as_paper = further | {"run": run_of("Baichuan-7B", 7_000_559_616, as_paper=True)}
    made = [tables.data_table(number, ledger, tokens) for number in (1, 2, 3)]
    made += whole.result_tables(further)
    shown = {table.number: table for table in made}
    shown |= {"ledger": data.ledger_table(ledger), "hits": data.contamination_table(ledger)}
    shown |= {f"{number}, the paper's base": tables.score_table(number, as_paper) for number in (4, 5, 6)}
    expected = json.loads(FROZEN.read_text(encoding="utf-8"))
    assert shown.keys() == expected.keys()
    for name, table in shown.items():
        assert [list(table.words.columns), *table.words.to_numpy().tolist()] == expected[name], name


# --- Tables 1-3 -------------------------------------------------------------------------------------------------------


def test_every_entry_of_the_ledger_is_in_one_row_and_in_the_total(ledger: Any, tokens: Any) -> None:
    one = next(entry for entry in ledger["sources"] if entry["source"] == "kg_cpubmed")
    one |= {"read": one["read"] + 9, "merged": 9, "elsewhere": 7}
    table = tables.data_table(1, ledger, tokens, {"01_build_chimed": "abcdef0123456789", "02_tokenize": "9" * 64})
    # 25 records of its own, 7 diseases in those of other graphs.
    assert list(row(table, "CPubMed-KG").values())[2:] == ["kg_cpubmed, kg_cpubmed_sample", "32", "2,500", "0.025"]
    assert any("kg_cpubmed 7" in note for note in table.notes)
    assert row(table, "CMD")["Samples"] == "not in this run; paper over 392K"
    assert row(table, "remedi")["Type"] == "Further (no paper row)"
    assert "01_build_chimed/ledger.json (01_build_chimed/manifest.json abcdef012345)" in table.notes[0]
    assert "Read 173 = kept 132 + rejected 32 " in table.notes[0]
    for number, part in tables.DATA.items():
        frame = tables.data_table(number, ledger, tokens).frame
        shown = [source for cell in frame["Our sources"][:-1] if cell != "-" for source in cell.split(", ")]
        assert sorted(shown) == sorted(entry["source"] for entry in ledger["sources"] if entry["set"] == part)
        assert frame["Samples"].iloc[-1] == frame["Samples"].iloc[:-1].sum()
    del tokens["cpt"]["remedi"]
    table = tables.data_table(1, ledger, tokens)
    assert row(table, "remedi")["Tokens"] == row(table, "Total")["Tokens"] == "not counted"


# --- whose number stands in whose row ---------------------------------------------------------------------------------


@pytest.fixture
def made(scores: dict[str, Any]) -> list[Table]:
    """All tables of a run whose profile gave baselines the names of rows of the paper and of ChiMed-GPT's README."""
    for name in ("Vicuna-7B", "Baichuan-7B", "LLaMA-CMExam", "my (model)"):
        scores["cmexam"][name] = scores["cmexam"]["sft"]
    scores["cmmlu"] = {
        name: {"accuracy": {"value": 31.0, "n": 9, "low": 20.0, "high": 40.0}} for name in ("dpo", "GPT-4")
    }
    for name in ("split", "cap", "shots", "invalid", "scoring"):
        scores[name]["cmmlu"] = None
    return whole.result_tables(scores)


def test_a_row_of_the_papers_holds_no_number_of_ours_and_none_is_compared(made: list[Table]) -> None:
    assert sum(len(ours(table)) for table in made) > 100
    for table in made:
        assert not {(name, column) for name, column in ours(table) if name in PAPERS or column in PAPERS}, table.number
        lines = list(csv.DictReader(io.StringIO(table.csv())))
        assert not [line for line in lines if line.get("value") and (line["paper"] or line["difference"])], table.number
    fourth, fifth = (next(table for table in made if table.number == number) for number in "45")
    assert fourth.notes[0].startswith("Base model here: tiny, 2.3 million weights; the paper's: Baichuan-7B. One run")
    assert "one seed" in fourth.notes[0]
    for text in (fifth.html(), fifth.markdown(), fifth.csv(), fifth.latex(), " ".join(fifth.text().split())):
        assert DPO in text and "Vicuna-7B (ours)" in text
    assert list(fifth.words["Model"])[-4:] == [
        "Baichuan-7B (ours)",
        "LLaMA-CMExam (ours)",
        "Vicuna-7B (ours)",
        "my (model)",
    ]
    assert 'href="06_eval/predictions/fixed/cmexam/my%20%28model%29.jsonl"' in fifth._repr_html_()
    assert row(fifth, "Vicuna-7B")["Accuracy"] == "paper 5"
    lines = list(csv.DictReader(io.StringIO(next(table for table in made if table.number == "5a").csv())))
    cells = {(line["group"], line["model"]): line["value"] for line in lines}
    assert float(cells["眼科", DPO]) == 20 and float(cells["内科", "Vicuna-7B (ours)"]) == 60


def test_the_papers_base_is_compared_in_rows_of_our_own(scores: dict[str, Any], run_of: Any) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    scores["cmexam"]["sft"]["accuracy"] = {"value": 50.0, "n": 500, "low": 45.0, "high": 55.0}
    scores["cmexam"]["dcpt"]["accuracy"] = {"value": 30.0, "n": 500, "low": 25.0, "high": 35.0}
    table = tables.score_table(5, scores)
    words = dict(zip(table.words["Model"], table.words["Accuracy"], strict=True))
    assert words["Baichuan-7B 7.0B"] == "39.0 [34.0, 44.0] (n=500); paper 33.5 (+5.5)"
    assert words["Baichuan-7B"] == "paper 33.5" and words["Baichuan-7B 7.0B + DCPT + SFT + DPO"].endswith("(n=500)")
    scores["cmexam"]["base"]["accuracy"]["low"] = 33.5
    cells = tables.score_table(5, scores).cells
    inside = cells[cells["column"] == "Accuracy"].set_index("model")["paper_inside_interval"]
    names = ("Baichuan-7B", "Baichuan-7B 7.0B", "Baichuan-7B 7.0B + DCPT", "Baichuan-7B 7.0B + DCPT + SFT")
    assert [inside[name] for name in names] == [None, True, False, False]


def test_figures_and_records_name_our_models(scores: dict[str, Any], tmp_path: Path) -> None:
    assert DPO in words_of(figures.subject_accuracy(scores))
    texts = {"output": "休息", "reference": "多休息", "prompt": "头痛", "template": "plain"}
    exam = {"benchmark": "cmexam", "gold": "A", "prediction": "A", "correct": True} | texts
    folder = tmp_path / "06_eval"
    for model in ("base", "sft", "my model"):
        path = folder / "predictions" / "fixed" / "cmexam" / f"{model}.jsonl"
        files.write_jsonl(path, [{"id": f"q{n}", **exam} for n in range(3)])
    files.write_json(folder / "scores.json", scores)
    names = ["tiny 2.3M", SFT, "my model"]
    assert list(dict.fromkeys(row.model for row in browse.load(folder))) == names
    parameters = SimpleNamespace(cases=1, seed=3, chain=chains.DEFAULT)
    cards = case_study.cases(SimpleNamespace(parent=lambda name: tmp_path / name, parameters=parameters), "cmexam")
    assert all(f'title">{name}<' in cards for name in names) and "same as tiny 2.3M<" in cards
    assert 'title">sft' not in cards and "compared with sft" not in cards


def test_what_rests_on_an_accepted_stage_says_so(scores: dict[str, Any], tmp_path: Path) -> None:
    sentence = "03_dcpt was accepted as it is on 2026-01-02: the new code logs more"
    scores["accepted"] = [sentence]
    made = whole.result_tables(scores)
    # None of ours stands in these.
    assert {table.number for table in made if sentence not in table.notes} == {"C1", "C2a", "C2b"}
    entry = {"stage": "03_dcpt", "when": "2026-01-02", "reason": "the new code logs more"}
    entry |= {"key": "", "inputs": {}, "files": {}}
    files.write_json(tmp_path / "03_dcpt.accepted.json", [entry])
    assert sentence in html.chain(SimpleNamespace(run=Run(tmp_path), name="07_case_study")).notes


@pytest.mark.parametrize("content", [[{}], ["03_dcpt"], {"stage": "03_dcpt"}, [{"stage": "03_dcpt", "when": "today"}]])
def test_an_odd_note_of_acceptance_is_named(content: Any, tmp_path: Path) -> None:
    files.write_json(tmp_path / "03_dcpt.accepted.json", content)
    with pytest.raises(QilinError, match=r"03_dcpt\.accepted\.json: not what --accept writes"):
        html.chain(SimpleNamespace(run=Run(tmp_path), name="07_case_study"))


# --- what stands under a table, and what is not there -----------------------------------------------------------------


def test_notes_name_all_that_a_number_rests_on(scores: Any) -> None:
    fourth, fifth, sixth = ("\n".join(tables.score_table(number, scores).notes) for number in (4, 5, 6))
    asked = "protocol fixed; split val; no cap on items; shots 5; scoring likelihood; averages weigh every subject"
    for words in (asked, "No prompt was cut", "Power: n = 346: ", "06_eval/predictions/fixed/ceval"):
        assert words in fourth, words
    assert "cap 500 items" in fifth and "tokenisation of BLEU and ROUGE jieba" in fifth
    assert "unusable rows of the benchmark 1" in fifth and f"Prompts cut to fit the context: {SFT} 7." in fifth
    assert "Parsed rows only: answers that could not be read are left out" in fifth
    assert row(tables.score_table(4, scores), DPO)["Unreadable"] == "3.0 [2.0, 4.0] (n=1346)"
    assert "Power" not in sixth
    inflated = [name for name in tables.score_table(5, scores).words.columns if "inflated" in name]
    assert row(tables.score_table(5, scores), "tiny 2.3M")[inflated[0]] == "42.0 [37.0, 47.0] (n=460)"


def test_what_is_not_there_says_why(scores: Any) -> None:
    del scores["cmexam"]["dpo"], scores["cmexam"]["sft"]
    scores["unfinished"] = {"cmexam": {"locked": "status 401"}}
    table = tables.score_table(5, scores)
    assert set(list(row(table, DPO).values())[2:]) == {"not evaluated"}
    assert set(list(row(table, "locked").values())[2:]) == {"not finished"}
    assert "Not finished: locked (status 401)." in table.notes[:4]
    scores["unfinished"] = {"cmexam": {"dpo": "killed", "ChatGLM-6B": "status 401"}}
    scores["scoring"]["cmexam"] = {"base": "likelihood", "ChatGLM-6B": "generate"}
    notes = tables.score_table(5, scores).notes
    assert f"Not finished: {DPO} (killed); ChatGLM-6B (ours) (status 401)." in notes
    assert any("scoring tiny 2.3M likelihood, ChatGLM-6B (ours) generate" in note for note in notes)
    scores["unfinished"] = {"cmexam": {"locked": "status 401"}}
    assert "locked" not in list(tables.score_table(4, scores).words["Model"])
    scores |= {"ceval": {}, "split": {}, "cap": {}, "shots": {}}
    table = tables.score_table(4, scores)
    assert row(table, "Baichuan-7B")["Average"] == "paper 42.8" and set(table.words["From"]) == {"paper"}
    assert table.notes[1].startswith("C-Eval was not evaluated in this run")
    assert not breakdowns.category_table(scores).words.size
    for entry in scores["cmexam"].values():
        entry["groups"] = {}
    assert breakdowns.group_tables(scores) == []
    assert sum("carry no annotations" in note for note in tables.score_table(5, scores).notes) == 1


def test_the_released_protocol_has_tables_of_its_own(scores: Any) -> None:
    ceval, cmexam, lora = tables.released_tables(scores)
    assert [table.number for table in (ceval, cmexam, lora)] == ["4r", "5r", "5l"]
    assert list(ceval.words.columns) == ["Model", "From", "Average", "Basic Medicine"]
    # Of the paper's rows those with a number stay.
    assert list(ceval.words["Model"])[:3] == ["Baichuan-7B", "ChatGLM-6B", "Qilin-Med-7B-SFT"]
    assert row(cmexam, "tiny 2.3M")["Accuracy"].startswith("21.0 ") and "F1 (weighted)" not in cmexam.words
    assert row(lora, "tiny 2.3M")["F1 (weighted)"].startswith("11.0 ")
    own = cmexam.cells[cmexam.cells["value"].notna()]
    assert set(own["protocol"]) == {"released"}
    assert "06_eval/predictions/released/cmexam/sft.jsonl" in set(own["records"])
    assert "protocol released" in cmexam.notes[1] and "fixed" not in " ".join(cmexam.notes)
    assert "tokenisation" not in " ".join(cmexam.notes), "the authors' scripts have their own"
    assert tables.released_tables({**scores, "released": {}}) == []


def test_a_perplexity_that_was_asked_for_is_shown_also_of_huatuo(scores: Any) -> None:
    heading = "Perplexity of the reference, by character"
    assert heading not in tables.score_table(6, scores).content
    scores["huatuo"]["base"]["perplexity"] = {"value": 466.9, "n": 200, "low": 300.0, "high": 700.0}
    shown = tables.score_table(6, scores).words.set_index("Model")[heading]
    assert shown["tiny 2.3M"] == "466.90 [300.00, 700.00] (n=200)" and shown["tiny 2.3M + DCPT"] == "-"


def test_requests_and_other_projects_numbers(scores: Any) -> None:
    assert "Nothing to compare" in breakdowns.paired_table({**scores, "paired": []}).notes[1]
    assert breakdowns.usage_table(scores) is None
    usage = {"GPT-4-0314": {"requests": 1200, "cached": 3, "cost": 1.5}, "local": {"requests": 5, "cost": None}}
    table = breakdowns.usage_table({**scores, "usage": usage})
    assert list(row(table, "GPT-4-0314 (ours)").values()) == ["GPT-4-0314 (ours)", "1,200", "3", "1.5000"]
    assert list(row(table, "local").values()) == ["local", "5", "not known", "not known"]
    table = breakdowns.external_table(next(t for t in paper.EXTERNAL if t.beside == 5), "5a")
    assert set(table.words["From"]) == {"external"} and "not the paper's Table 5" in table.notes[0]
    assert (row(table, "ChatGLM-6B")["BLEU-4"], row(table, "Human")["ROUGE-L"]) == ("5.00", "-")


# --- numbers are numbers ----------------------------------------------------------------------------------------------


def test_tables_are_numbers_in_a_frame_and_a_csv_and_fit_a_terminal(made: list[Table], ledger: Any) -> None:
    for table in [*made, data.ledger_table(ledger)]:
        text = table.csv()
        assert "\u2212" not in text and not re.search(r'"\d{1,3},\d{3}', text), table.number
        columns = pd.read_csv(io.StringIO(text))
        for name in {"value", "low", "high", "paper", "difference", "kept", "read"} & {*columns}:
            assert columns[name].dtype.kind in "if", (table.number, name)
        assert max(map(wcswidth, repr(table).splitlines())) <= 120, table.number
        page = table.html("../")
        assert page.partition("<details")[0].count("<li>") <= 4 and page.count("<li>") == len(table.notes)
        assert sum(line.startswith("* ") for line in repr(table).splitlines()) <= 5, table.number
    fifth = next(table for table in made if table.number == "5")
    assert all(part in repr(fifth) for part in ("39.0", "[34.0, 44.0]", "n=500", "paper 33.5"))
    assert fifth.frame.loc[fifth.frame["Model"] == DPO, "Accuracy"].mean() == pytest.approx(39)
    assert data.ledger_table(ledger).frame["kept"].sum() == 2 * 246


def test_intervals_take_the_profile_s_resamples_and_seed(tmp_path: Path) -> None:
    entry = {"tokens": [30] * 9, "before": [-90.0] * 9, "after": [-60.0 + n for n in range(9)]}
    profiles = [{"bootstrap_resamples": n, "seed": seed} for n, seed in ((200, 1), (200, 2), (3000, 1))]
    assert len({str(training.perplexity_table({"medical": entry}, profile)) for profile in profiles}) == 3
    rewards = [0.1, 0.7, -0.4, 1.9, 0.3, -2.0, 0.8]
    pairs = {"chosen": rewards, "rejected": [0.0] * 7, "sources": ["a"] * 7, "source": ["a"] * 7}
    files.write_json(tmp_path / "reward" / "heldout.json", pairs)
    files.write_jsonl(tmp_path / "reward" / "log.jsonl", [{"step": 1, "loss": 0.7, "accuracy": 0.5, "margin": 0.0}])
    shown = [second.reward_parts(tmp_path, SimpleNamespace(**profile))[0] for profile in profiles]
    assert len({table.words["margin"][0] for table in shown}) == 3
