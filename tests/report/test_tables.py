"""Tables 1-6: our numbers, the paper's beside them, and what they rest on below."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from qilin_lib.errors import QilinError
from qilin_lib.report import external, paper, tables
from qilin_lib.report.layout import Table, to_csv, width

SFT = "tiny 2.3M + DCPT + SFT"
DPO = f"{SFT} + DPO"


def row(table: Table, label: str) -> dict[str, str]:
    """The row with that label, every cell as its text."""
    column = "Dataset" if "Dataset" in table.frame else table.frame.columns[0]
    found = table.frame[table.frame[column] == label].astype(str).to_dict("records")
    assert len(found) == 1, f"{label}: {len(found)} rows"
    return found[0]


def long(table: Table) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv(table))))


def test_table1_sums_the_sources_of_a_row_and_keeps_the_papers_cells(ledger: Any, tokens: Any) -> None:
    table = tables.table1(ledger, tokens, {"01_build_chimed": "abcdef0123456789", "02_tokenize": "9" * 64})
    cpubmed = row(table, "CPubMed-KG")
    assert cpubmed["Our sources"] == "kg_cpubmed, kg_cpubmed_sample"
    assert (cpubmed["Samples (ours)"], cpubmed["Tokens (ours)"], cpubmed["Size MB (ours)"]) == ("25", "2,500", "0.025")
    assert cpubmed["Samples (paper)"] == "not available"
    assert row(table, "CMD")["Samples (ours)"] == "not in this run"
    assert row(table, "CMD")["Samples (paper)"] == "over 392K"
    assert row(table, "remedi")["Samples (paper)"] == "no paper row"
    total = row(table, "Total")
    assert (total["Samples (ours)"], total["Size (paper)"]) == ("132", "3.0 GB")
    assert "01_build_chimed/ledger.json (01_build_chimed/manifest.json abcdef012345)" in table.notes[0]
    assert "Read 164 = kept 132 + rejected 32 " in table.notes[0]


def test_data_tables_show_the_difference_where_the_paper_has_a_number(ledger: Any, tokens: Any) -> None:
    first, third = tables.table1(ledger, tokens), tables.table3(ledger, tokens)
    assert list(first.frame.columns[-2:]) == ["Samples, ours \u2212 paper", "Size MB, ours \u2212 paper"]
    assert row(first, "Total")["Size MB, ours \u2212 paper"] == "\u22122,999.9"  # 0.132 MB of ours, 3 GB of theirs
    assert row(first, "Total")["Samples, ours \u2212 paper"] == "-"
    assert row(first, "CMD")["Samples, ours \u2212 paper"] == "-"  # theirs is known, ours is not in this run
    assert row(third, "Zhongjing_rlhf")["Samples, ours \u2212 paper"] == "\u221219,936"
    assert not [name for name in tables.table2(ledger, tokens).frame.columns if "\u2212" in name]


def test_numbers_of_the_data_tables_lead_to_the_ledger_and_the_counts(ledger: Any, tokens: Any) -> None:
    page = tables.to_html(tables.table3(ledger, tokens, {"01_build_chimed": "ab" * 32}), "../")
    title = "01_build_chimed/ledger.json; manifest abababababab"
    assert f'<a href="../01_build_chimed/ledger.json" title="{title}">64</a>' in page
    assert '<a href="../02_tokenize/token_counts.json" title="02_tokenize/token_counts.json; manifest not' in page


def test_tables_2_and_3_hold_their_own_set_only(ledger: Any, tokens: Any) -> None:
    second, third = tables.table2(ledger, tokens), tables.table3(ledger, tokens)
    assert row(second, "CMExam-explanation")["Samples (ours)"] == "40"
    assert row(second, "Total")["Our sources"] == "1 sources"
    assert row(third, "Zhongjing_rlhf")["Samples (ours)"] == "64"
    assert row(third, "Total")["Samples (paper)"] == "24,000 (sum)"


def test_merged_diseases_are_named_below_the_table(ledger: Any, tokens: Any) -> None:
    one = next(entry for entry in ledger["sources"] if entry["source"] == "kg_cpubmed")
    one |= {"read": one["read"] + 9, "merged": 9, "elsewhere": 7}
    table = tables.table1(ledger, tokens)
    mine = table.frame[table.frame["Dataset"] == "CPubMed-KG"].iloc[0]
    assert str(mine["Samples (ours)"]) == "32", "25 records of its own, 7 diseases in the records of other graphs"
    assert any("kg_cpubmed 7" in note for note in table.notes)


def test_every_ledger_entry_is_counted_once(ledger: Any, tokens: Any) -> None:
    for part, make in (("cpt", tables.table1), ("sft", tables.table2), ("dpo", tables.table3)):
        frame = make(ledger, tokens).frame
        shown = [s for cell in frame["Our sources"][:-1] if cell != "-" for s in cell.split(", ")]
        assert sorted(shown) == sorted(e["source"] for e in ledger["sources"] if e["set"] == part)


def test_tokens_that_were_not_counted_are_said_so(ledger: Any, tokens: Any) -> None:
    del tokens["cpt"]["remedi"]
    tokens["cpt"]["kg_cpubmed"]["samples"] = 19
    table = tables.table1(ledger, tokens)
    assert row(table, "remedi")["Tokens (ours)"] == "not counted"
    assert row(table, "Total")["Tokens (ours)"] == "not counted"
    assert "kg_cpubmed: the ledger keeps 20 samples, tokens are of 19." in table.notes
    assert "remedi: the ledger keeps 7 samples, tokens are of 0." in table.notes


def test_score_text() -> None:
    assert tables.score_text({"value": 40.0, "n": 346, "low": 35.1, "high": 45.2}) == "40.0 [35.1, 45.2] (n=346)"
    assert tables.score_text({"value": None, "n": 0, "low": None, "high": None}) == "no items"
    assert tables.score_text(None) == "not evaluated"


def test_our_models_stand_below_the_papers_rows(scores: Any) -> None:
    table = tables.table4(scores, "0123456789abcdef")
    assert list(table.frame["From"]) == ["paper"] * 8 + ["this run"] * 4
    assert row(table, "Baichuan-7B")["Average"] == "paper 42.8"
    assert row(table, "tiny 2.3M")["Physician"] == "no items"
    assert row(table, "ChatGLM-6B")["Basic Medicine"] == "paper 36.6"
    assert row(table, "Zhongjing-LLaMA")["Average"] == "not available"
    assert row(table, DPO)["Average"] == "40.0 [35.0, 45.0] (n=346)"


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
    frame = tables.table4(scores, "ab" * 32).frame.set_index("Model")
    assert str(frame.loc[DPO, "Unreadable"]) == "3.0 [2.0, 4.0] (n=1346)" and "Unreadable" not in fourth
    assert "Power" not in sixth and "shots" not in sixth


def test_agreement_is_claimed_only_inside_the_interval(scores: Any, run_of: Any) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    note = next(n for n in tables.table5(scores).notes if "inside our interval" in n)
    inside, outside = note.split("; outside: ")
    assert "Qilin-Med-7B-CPT Accuracy 38.4" in inside
    assert "Qilin-Med-7B-SFT Accuracy 40.0" in inside
    assert outside.startswith("Baichuan-7B Accuracy 33.5")
    said = {r["model"]: r["paper_inside_interval"] for r in long(tables.table5(scores)) if r["column"] == "Accuracy"}
    assert (said["Baichuan-7B 7.0B + DCPT"], said["Baichuan-7B 7.0B"], said["Baichuan-7B"]) == ("yes", "no", "")


def test_table6_has_two_decimals(scores: Any) -> None:
    assert row(tables.table6(scores), DPO)["GLEU"] == "12.35 [11.35, 13.35] (n=300)"


def test_parsed_rows_only_are_columns_of_their_own_and_named_inflated(scores: Any) -> None:
    table = tables.table5(scores)
    inflated = [name for name in table.frame.columns if "inflated" in name]
    assert list(table.frame.columns[2:6]) == ["Accuracy", "F1 (weighted)", *inflated]
    assert row(table, "tiny 2.3M")[inflated[0]] == "42.0 [37.0, 47.0] (n=460)"
    for entry in scores["cmexam"].values():
        del entry["parsed_only"]
    assert not [name for name in tables.table5(scores).frame.columns if "inflated" in name]


def test_baselines_stand_below_whatever_their_name(scores: Any) -> None:
    chatglm = {"accuracy": {"value": 25.0, "n": 9, "low": 20.0, "high": 30.0}}
    scores["cmexam"] |= {"ChatGLM-6B": chatglm, "my (model)": chatglm, "Baichuan-7B": chatglm}
    table = tables.table5(scores)
    assert row(table, "ChatGLM-6B")["Accuracy"] == "paper 26"
    ours = row(table, "ChatGLM-6B (ours)")
    assert (ours["From"], ours["Accuracy"], ours["ROUGE-1"]) == ("this run", "25.0 [20.0, 30.0] (n=9)", "-")
    assert row(table, "my (model)")["Accuracy"] == "25.0 [20.0, 30.0] (n=9)"
    assert list(table.frame["Model"])[-3:] == ["Baichuan-7B (ours)", "ChatGLM-6B (ours)", "my (model)"]
    assert 'href="06_eval/predictions/fixed/cmexam/my%20%28model%29.jsonl"' in table._repr_html_()


def test_a_model_that_was_not_run_reads_not_evaluated(scores: Any) -> None:
    del scores["cmexam"]["dpo"], scores["cmexam"]["sft"]
    table = tables.table5(scores)
    assert set(list(row(table, DPO).values())[2:]) == {"not evaluated"}
    assert row(table, "Qilin-Med-7B-SFT")["Accuracy"] == "paper 40.0"


def test_a_baseline_that_failed_keeps_its_row_and_the_foot_says_why(scores: Any) -> None:
    scores["unfinished"] = {"cmexam": {"locked": "status 401"}}
    table = tables.table5(scores)
    assert set(list(row(table, "locked").values())[2:]) == {"not finished"}
    assert "Not finished: locked (status 401)." in table.notes
    assert "locked" not in list(tables.table4(scores).frame["Model"])


def test_a_benchmark_that_was_not_run_leaves_the_papers_numbers_alone(scores: Any) -> None:
    scores |= {"ceval": {}, "split": {}, "cap": {}, "shots": {}}
    table = tables.table4(scores)
    assert row(table, "Baichuan-7B")["Average"] == "paper 42.8" and set(table.frame["From"]) == {"paper"}
    assert table.notes[1].startswith("C-Eval was not evaluated in this run")
    assert "not evaluated in this run" in tables.category_table(scores).notes[1]
    assert not tables.category_table(scores).frame.size


def test_missing_benchmark_is_named(scores: Any) -> None:
    del scores["huatuo"]
    with pytest.raises(QilinError, match="scores.json has no entry 'huatuo'"):
        tables.table6(scores)


def test_the_released_protocol_has_tables_of_its_own(scores: Any) -> None:
    ceval, cmexam, lora = tables.released_tables(scores, "ab")
    assert [table.number for table in (ceval, cmexam, lora)] == ["4r", "5r", "5l"]
    assert row(ceval, "tiny 2.3M")["Average"] == "25.0 [20.0, 30.0] (n=346)"
    assert list(ceval.frame.columns) == ["Model", "From", "Average", "Basic Medicine"]
    # Of the paper's rows those with a number stay.
    assert list(ceval.frame["Model"])[:3] == ["Baichuan-7B", "ChatGLM-6B", "Qilin-Med-7B-SFT"]
    assert row(ceval, "ChatGLM-6B")["Basic Medicine"] == "paper 36.6"
    assert row(cmexam, "tiny 2.3M")["Accuracy"].startswith("21.0 ") and "F1 (weighted)" not in cmexam.frame
    assert row(lora, "tiny 2.3M")["F1 (weighted)"].startswith("11.0 ")
    assert {r["protocol"] for r in long(cmexam) if r["ours"]} == {"released"}
    assert "06_eval/predictions/released/cmexam/sft.jsonl" in {r["records"] for r in long(cmexam)}
    assert "protocol released" in cmexam.notes[1] and "fixed" not in " ".join(cmexam.notes)
    assert tables.released_tables({**scores, "released": {}}) == []


def test_long_csv_has_a_line_a_cell_with_all_parts_apart(scores: Any) -> None:
    cells = long(tables.table5(scores, "ab" * 32))
    assert list(cells[0]) == [
        *["table", "model", "from", "column", "paper", "paper_origin", "ours", "low", "high", "n", "difference"],
        *["paper_inside_interval", "protocol", "records", "manifest"],
    ]
    cell = next(c for c in cells if (c["model"], c["column"]) == ("tiny 2.3M", "Accuracy"))
    assert cell == {
        **{"table": "5", "model": "tiny 2.3M", "from": "this run", "column": "Accuracy", "paper": ""},
        **{"paper_origin": "", "ours": "39.0", "low": "34.0", "high": "44.0", "n": "500"},
        **{"difference": "", "paper_inside_interval": "", "protocol": "fixed", "manifest": "ab" * 32},
        "records": "06_eval/predictions/fixed/cmexam/base.jsonl",
    }
    cell = next(c for c in cells if (c["model"], c["column"]) == ("Baichuan-7B", "Accuracy"))
    assert (cell["from"], cell["paper"], cell["paper_origin"]) == ("paper", "33.5", "v1 abstract")
    assert cell["ours"] == cell["records"] == cell["difference"] == ""
    models = len(scores["cmexam"])
    ours = [c for c in cells if c["ours"]]
    assert len(ours) == models * (len(paper.CMEXAM_COLUMNS) + 2 + 1), "the paper's, the inflated ones, the unreadable"
    assert all(c["n"].isdigit() for c in ours)


def test_every_number_of_ours_leads_to_its_records_and_manifest(scores: Any) -> None:
    page = tables.to_html(tables.table5(scores, "ab" * 32), "../")
    numbers = re.findall(r'<a href="\.\./(06_eval/predictions/fixed/cmexam/(\w+)\.jsonl)" title="([^"]*)">', page)
    assert len(numbers) == 4 * 10 and {model for _, model, _ in numbers} == {"base", "dcpt", "sft", "dpo"}
    assert {title for *_, title in numbers if "/sft." in title} == {
        "06_eval/predictions/fixed/cmexam/sft.jsonl; manifest abababababab"
    }
    assert page.count('<a href="../06_eval/manifest.json"') == 4 * 10 + 1  # each n, and the note
    text = tables.to_markdown(tables.table5(scores), "../")
    assert "[39.0](../06_eval/predictions/fixed/cmexam/sft.jsonl) [34.0, 44.0]<br>[n=500](../06_eval/manifest" in text
    assert "<a " not in tables.to_html(tables.table5(scores), None) and "](" not in tables.to_markdown(
        tables.table5(scores)
    )


def test_breakdowns_by_category_and_annotation(scores: Any) -> None:
    assert row(tables.category_table(scores), SFT)["STEM"] == "41.0 [36.0, 46.0] (n=346)"
    assert row(tables.category_table(scores), SFT)["Other"] == "no items"
    department, difficulty = tables.group_tables(scores)
    assert list(department.frame["Value"]) == ["内科", "眼科", "某新科"]  # by number of items
    assert list(department.frame["English"]) == ["internal medicine", "ophthalmology", "-"]
    assert "English" not in difficulty.frame and difficulty.number == "5b"
    assert str(department.frame[DPO][1]) == "20.0 [15.0, 25.0] (n=90)"
    assert not [note for note in tables.table5(scores).notes if "carry no annotations" in note]


def test_items_without_annotations_are_one_sentence(scores: Any) -> None:
    for entry in scores["cmexam"].values():
        entry["groups"] = {}
    assert tables.group_tables(scores) == []
    assert sum("carry no annotations" in note for note in tables.table5(scores).notes) == 1


def test_variants_are_a_row_each_with_or_without_interval(scores: Any) -> None:
    table = tables.variant_table(scores)
    assert row(table, "bleu_4 nltk corpus jieba")[SFT] == "7.25 (n=300)"
    assert row(table, "rouge_1 cmexam set")[DPO] == "31.50 [26.50, 36.50] (n=300)"
    empty = tables.variant_table({**scores, "huatuo": {}})
    assert not empty.frame.size and "not evaluated in this run" in empty.notes[0]


def test_endpoint_usage_is_shown_only_if_there_was_any(scores: Any) -> None:
    assert tables.usage_table(scores) is None
    usage = {"GPT-4-0314": {"requests": 1200, "cached": 3, "cost": 1.5}, "local": {"requests": 5, "cost": None}}
    table = tables.usage_table({**scores, "usage": usage})
    assert list(row(table, "GPT-4-0314 (ours)").values()) == ["GPT-4-0314 (ours)", "1,200", "3", "1.5000"]
    assert list(row(table, "local").values()) == ["local", "5", "not known", "not known"]


def test_external_table_is_labelled_and_as_printed() -> None:
    table = tables.external_table(external.CMEXAM_OWN, "5a")
    assert set(table.frame["From"]) == {"external"}
    assert row(table, "ChatGLM-6B")["BLEU-4"] == "5.00"
    assert row(table, "Human")["ROUGE-L"] == "-"
    assert "not the paper's Table 5" in table.notes[0]


def test_paired_table(scores: Any) -> None:
    assert list(tables.paired_table(scores).frame.iloc[0]) == [
        "cmexam",
        "accuracy",
        "(tiny 2.3M + DCPT) \u2212 (tiny 2.3M)",
        "+4.00",
        "[\u22120.50, +8.50]",
        "500",
        "0.08",
        "0.24",
    ]
    assert "Holm" in tables.paired_table(scores).notes[1]
    assert "Nothing to compare" in tables.paired_table({**scores, "paired": []}).notes[0]


def demo() -> Table:
    frame = pd.DataFrame([["肺炎", "40.0 [35.1, 45.2] (n=346)"], ["a|b<i>", "not available"]], columns=["Model", "x"])
    return Table("9", "Größe & <b>", frame, ["note <script>"])


def test_text_is_aligned_with_chinese_two_columns_wide() -> None:
    lines = tables.to_text(demo()).splitlines()
    assert width("肺炎") == 4
    assert width("e\u0301") == 1
    assert width(lines[4]) == width(lines[5]) == width(lines[1])


def test_html_is_escaped_and_scoped() -> None:
    html = demo()._repr_html_()
    assert "<script>" not in html and "<b>" not in html and "a|b&lt;i&gt;" in html
    assert "40.0 <small>[35.1, 45.2]</small> <small>(n=346)</small>" in html
    style = html.split("<style>")[1].split("</style>")[0]
    selectors = [line for line in style.strip().splitlines() if "{" in line]
    assert all(line.startswith((".qm-table", "@media")) for line in selectors)


def test_markdown_escapes_pipes_and_tags() -> None:
    text = tables.to_markdown(demo())
    assert "| a\\|b&lt;i&gt; | not available |" in text
    assert "- note &lt;script&gt;" in text


def test_write_all(tmp_path: Path, ledger: Any, tokens: Any, scores: Any) -> None:
    made = [tables.table1(ledger, tokens), tables.table5(scores), tables.paired_table(scores)]
    written = tables.write_all(made, tmp_path / "tables")
    stems = [f"table_{stem}{suffix}" for stem in ("1", "5", "a1") for suffix in (".csv", ".md", ".tex")]
    assert [path.name for path in written] == [*stems, "tables.txt"]
    with open(written[3], encoding="utf-8") as handle:
        assert list(csv.reader(handle))[0][:4] == ["table", "model", "from", "column"]
    assert "](../06_eval/predictions/fixed/" in written[4].read_text(encoding="utf-8")
    assert "Table 5. CMExam results" in written[-1].read_text(encoding="utf-8")
