"""Tables 1-6: our numbers, the paper's beside them, and what they rest on below."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.report import breakdowns, paper, tables
from qilin_lib.report.render import Table

SFT = "tiny 2.3M + DCPT + SFT"
DPO = f"{SFT} + DPO"


def row(table: Table, label: str) -> dict[str, str]:
    """The row with that label, every cell as its text."""
    words = table.words
    found = words[words["Dataset" if "Dataset" in words else words.columns[0]] == label].to_dict("records")
    assert len(found) == 1, f"{label}: {len(found)} rows"
    return found[0]


# --- Tables 1-3 -------------------------------------------------------------------------------------------------------


def test_a_row_sums_its_sources_and_keeps_the_papers_cells(ledger: Any, tokens: Any) -> None:
    table = tables.table1(ledger, tokens, {"01_build_chimed": "abcdef0123456789", "02_tokenize": "9" * 64})
    cpubmed = row(table, "CPubMed-KG")
    assert list(cpubmed.values())[2:] == ["kg_cpubmed, kg_cpubmed_sample", "25", "2,500", "0.025"]
    assert row(table, "CMD")["Samples"] == "not in this run; paper over 392K"
    assert row(table, "remedi")["Type"] == "Further (no paper row)"
    total = row(table, "Total")
    assert (total["Samples"], total["Size MB"]) == ("132", "0.132; paper 3.0 GB (−2,999.868)")
    assert "01_build_chimed/ledger.json (01_build_chimed/manifest.json abcdef012345)" in table.notes[0]
    assert "Read 164 = kept 132 + rejected 32 " in table.notes[0]
    third = tables.table3(ledger, tokens)
    assert row(third, "Zhongjing_rlhf")["Samples"] == "64; paper 20,000 (−19,936)"
    assert row(third, "Total")["Samples"] == "64; paper 24,000 (sum) (−23,936)"


def test_merged_diseases_count_and_are_named_below(ledger: Any, tokens: Any) -> None:
    one = next(entry for entry in ledger["sources"] if entry["source"] == "kg_cpubmed")
    one |= {"read": one["read"] + 9, "merged": 9, "elsewhere": 7}
    table = tables.table1(ledger, tokens)
    assert row(table, "CPubMed-KG")["Samples"] == "32", "25 records of its own, 7 diseases in those of other graphs"
    assert any("kg_cpubmed 7" in note for note in table.notes)


def test_every_ledger_entry_is_counted_once(ledger: Any, tokens: Any) -> None:
    for part, make in (("cpt", tables.table1), ("sft", tables.table2), ("dpo", tables.table3)):
        frame = make(ledger, tokens).frame
        shown = [s for cell in frame["Our sources"][:-1] if cell != "-" for s in cell.split(", ")]
        assert sorted(shown) == sorted(e["source"] for e in ledger["sources"] if e["set"] == part)
        assert frame["Samples"].iloc[-1] == frame["Samples"].iloc[:-1].sum()


def test_tokens_that_were_not_counted_are_said_so(ledger: Any, tokens: Any) -> None:
    del tokens["cpt"]["remedi"]
    tokens["cpt"]["kg_cpubmed"]["samples"] = 19
    table = tables.table1(ledger, tokens)
    assert row(table, "remedi")["Tokens"] == row(table, "Total")["Tokens"] == "not counted"
    assert "kg_cpubmed: the ledger keeps 20 samples, tokens are of 19." in table.notes
    assert "remedi: the ledger keeps 7 samples, tokens are of 0." in table.notes


# --- Tables 4-6 -------------------------------------------------------------------------------------------------------


def test_notes_name_all_that_a_number_rests_on(scores: Any) -> None:
    fourth, fifth, sixth = (
        "\n".join(t(scores, "ab" * 32).notes) for t in (tables.table4, tables.table5, tables.table6)
    )
    for words in (
        "protocol fixed; split val; shots 5; no cap on items; scoring likelihood; averages weigh every subject alike",
        "No prompt was cut",
        "Power: n = 346: ",
        "06_eval/predictions/fixed/ceval",
    ):
        assert words in fourth, words
    assert "cap 500 (items)" in fifth and "tokenisation of BLEU and ROUGE jieba" in fifth
    assert "unusable rows of the benchmark 1" in fifth and f"Prompts cut to fit the context: {SFT} 7." in fifth
    assert "Parsed rows only: answers that could not be read are left out" in fifth
    assert row(tables.table4(scores), DPO)["Unreadable"] == "3.0 [2.0, 4.0] (n=1346)"
    assert "Power" not in sixth and "shots" not in sixth


def test_agreement_is_claimed_only_inside_the_interval(scores: Any, run_of: Any) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    table = tables.table5(scores)
    note = next(n for n in table.notes if "inside our interval" in n)
    inside, outside = note.split("; outside: ")
    assert "Qilin-Med-7B-CPT Accuracy 38.4" in inside and "Qilin-Med-7B-SFT Accuracy 40.0" in inside
    assert outside.startswith("Baichuan-7B Accuracy 33.5")
    cells = table.cells[table.cells["column"] == "Accuracy"].set_index("model")["paper_inside_interval"]
    assert (cells["Baichuan-7B 7.0B + DCPT"], cells["Baichuan-7B 7.0B"], cells["Baichuan-7B"]) == (True, False, None)


def test_parsed_rows_only_are_columns_of_their_own_and_named_inflated(scores: Any) -> None:
    table = tables.table5(scores)
    inflated = [name for name in table.words.columns if "inflated" in name]
    assert list(table.words.columns[2:6]) == ["Accuracy", "F1 (weighted)", *inflated]
    assert row(table, "tiny 2.3M")[inflated[0]] == "42.0 [37.0, 47.0] (n=460)"
    for entry in scores["cmexam"].values():
        del entry["parsed_only"]
    assert not [name for name in tables.table5(scores).words.columns if "inflated" in name]


def test_baselines_stand_below_whatever_their_name(scores: Any) -> None:
    chatglm = {"accuracy": {"value": 25.0, "n": 9, "low": 20.0, "high": 30.0}}
    scores["cmexam"] |= {"ChatGLM-6B": chatglm, "my (model)": chatglm, "Baichuan-7B": chatglm}
    table = tables.table5(scores)
    assert row(table, "ChatGLM-6B")["Accuracy"] == "paper 26"
    ours = row(table, "ChatGLM-6B (ours)")
    assert (ours["From"], ours["Accuracy"], ours["ROUGE-1"]) == ("this run", "25.0 [20.0, 30.0] (n=9)", "-")
    assert list(table.words["Model"])[-3:] == ["Baichuan-7B (ours)", "ChatGLM-6B (ours)", "my (model)"]
    assert 'href="06_eval/predictions/fixed/cmexam/my%20%28model%29.jsonl"' in table._repr_html_()


def test_what_is_not_there_says_why(scores: Any) -> None:
    del scores["cmexam"]["dpo"], scores["cmexam"]["sft"]
    scores["unfinished"] = {"cmexam": {"locked": "status 401"}}
    table = tables.table5(scores)
    assert set(list(row(table, DPO).values())[2:]) == {"not evaluated"}
    assert set(list(row(table, "locked").values())[2:]) == {"not finished"}
    assert "Not finished: locked (status 401)." in table.notes[:4]
    assert "locked" not in list(tables.table4(scores).words["Model"])
    scores |= {"ceval": {}, "split": {}, "cap": {}, "shots": {}}
    table = tables.table4(scores)
    assert row(table, "Baichuan-7B")["Average"] == "paper 42.8" and set(table.words["From"]) == {"paper"}
    assert table.notes[1].startswith("C-Eval was not evaluated in this run")
    assert not breakdowns.category_table(scores).words.size
    del scores["huatuo"]
    with pytest.raises(QilinError, match=r"scores.json has no entry 'huatuo'"):
        tables.table6(scores)


def test_the_released_protocol_has_tables_of_its_own(scores: Any) -> None:
    ceval, cmexam, lora = tables.released_tables(scores, "ab")
    assert [table.number for table in (ceval, cmexam, lora)] == ["4r", "5r", "5l"]
    assert row(ceval, "tiny 2.3M")["Average"] == "25.0 [20.0, 30.0] (n=346)"
    assert list(ceval.words.columns) == ["Model", "From", "Average", "Basic Medicine"]
    # Of the paper's rows those with a number stay.
    assert list(ceval.words["Model"])[:3] == ["Baichuan-7B", "ChatGLM-6B", "Qilin-Med-7B-SFT"]
    assert row(cmexam, "tiny 2.3M")["Accuracy"].startswith("21.0 ") and "F1 (weighted)" not in cmexam.words
    assert row(lora, "tiny 2.3M")["F1 (weighted)"].startswith("11.0 ")
    ours = cmexam.cells[cmexam.cells["value"].notna()]
    assert set(ours["protocol"]) == {"released"}
    assert "06_eval/predictions/released/cmexam/sft.jsonl" in set(ours["records"])
    assert "protocol released" in cmexam.notes[1] and "fixed" not in " ".join(cmexam.notes)
    assert tables.released_tables({**scores, "released": {}}) == []


# --- below them -------------------------------------------------------------------------------------------------------


def test_breakdowns_by_category_and_annotation(scores: Any) -> None:
    assert row(breakdowns.category_table(scores), SFT)["STEM"] == "41.0 [36.0, 46.0] (n=346)"
    assert row(breakdowns.category_table(scores), SFT)["Other"] == "no items"
    department, difficulty = breakdowns.group_tables(scores)
    assert list(department.words["Group"]) == ["内科", "眼科", "某新科"]  # by number of items
    assert list(department.words["English"]) == ["internal medicine", "ophthalmology", "-"]
    assert "English" not in difficulty.words and difficulty.number == "5b"
    assert department.words[DPO][1] == "20.0 [15.0, 25.0] (n=90)"
    for entry in scores["cmexam"].values():
        entry["groups"] = {}
    assert breakdowns.group_tables(scores) == []
    assert sum("carry no annotations" in note for note in tables.table5(scores).notes) == 1


def test_paired_differences_and_requests(scores: Any) -> None:
    assert list(breakdowns.paired_table(scores).words.iloc[0]) == [
        *("cmexam", "accuracy", "(tiny 2.3M + DCPT) \u2212 (tiny 2.3M)"),
        *("+4.00 [\u22120.50, +8.50] (n=500)", "0.08", "0.24"),
    ]
    assert "Nothing to compare" in breakdowns.paired_table({**scores, "paired": []}).notes[1]
    assert breakdowns.usage_table(scores) is None
    usage = {"GPT-4-0314": {"requests": 1200, "cached": 3, "cost": 1.5}, "local": {"requests": 5, "cost": None}}
    table = breakdowns.usage_table({**scores, "usage": usage})
    assert list(row(table, "GPT-4-0314 (ours)").values()) == ["GPT-4-0314 (ours)", "1,200", "3", "1.5000"]
    assert list(row(table, "local").values()) == ["local", "5", "not known", "not known"]


def test_external_table_is_labelled_and_as_printed() -> None:
    table = breakdowns.external_table(next(t for t in paper.EXTERNAL if t.beside == 5), "5a")
    assert set(table.words["From"]) == {"external"}
    assert (row(table, "ChatGLM-6B")["BLEU-4"], row(table, "Human")["ROUGE-L"]) == ("5.00", "-")
    assert "not the paper's Table 5" in table.notes[0]
