"""Notebook 01's tables: counts that add up, samples drawn while reading, intervals on the labelled sentences."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qilin_lib.chimed import deid_score
from qilin_lib.chimed.leaks import Recall
from qilin_lib.chimed.ledger import Ledger
from qilin_lib.chimed.ledger import Row as LedgerRow
from qilin_lib.chimed.sources import BY_NAME
from qilin_lib.errors import QilinError
from qilin_lib.report import data
from qilin_lib.report.render import Table
from tests.report.conftest import entry

EVAL = {"ceval": 1346, "cmexam": 1000, "huatuo26m_test": 6000}


def lines(table: Table) -> list[dict[str, str]]:
    return table.words.to_dict("records")


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_ledger_table_shows_every_column_and_its_sum(ledger: Any) -> None:
    ledger["sources"][1] |= {"read": 1033, "merged": 1000, "excluded": 3, "substring_chars": 12_345}
    ledger["sources"][3] |= {"substring_chars": 5, "deidentified": {"电话": 3, "姓名": 4}}
    found = lines(data.ledger_table(ledger))
    assert [line["Dataset"] for line in found] == [row["source"] for row in ledger["sources"]] + ["Total"]
    assert (found[1]["read"], found[1]["merged"], found[1]["substring"]) == ("1,033", "1,000", "12,345")
    assert (found[3]["rejected"], found[3]["deidentified"]) == ("2", "7")
    assert {name: found[-1][name] for name in ("read", "merged", "substring", "deidentified")} == {
        "read": "1,291",
        "merged": "1,000",
        "substring": "12,350",
        "deidentified": "7",
    }


def test_kept_sums_by_set_and_refuses_a_row_that_does_not_add_up(ledger: Any) -> None:
    assert data.kept(ledger) == {"cpt": 132, "sft": 40, "dpo": 64, "general": 10}
    ledger["sources"][2]["merged"] = 2
    for read in (5, 9):
        ledger["sources"][2]["read"] = read
        with pytest.raises(QilinError, match=f"kg_cpubmed_sample in cpt: {read} read, 7 accounted for"):
            data.kept(ledger)
    ledger["sources"][2]["read"] = 7
    assert data.kept(ledger)["cpt"] == 132


def test_tables_read_what_the_builder_writes() -> None:
    """The form of ledger.json is the builder's: nothing here may be a column that only our fixture has."""
    row = LedgerRow.of(BY_NAME["cmexam"], "cpt")
    row.read = 4
    row.keep(["头痛三天"])
    for column in ("rejected", "merged", "contaminated"):
        row.lose(column, "too short")
    written = Ledger()
    written.add(row)
    written.add_hits("cmexam", Counter({("huatuo", "question"): 2}))
    written.check()
    form = json.loads(json.dumps(written.as_dict()))
    assert lines(data.ledger_table(form))[0]["merged"] == "1" and data.kept(form) == {"cpt": 1}
    assert lines(data.contamination_table(form))[0]["all"] == "2"


# --- benchmark items in training data ---------------------------------------------------------------------------------


@pytest.fixture
def leaky(ledger: Any) -> Any:
    ledger["sources"] += [entry(name, "eval", None, n, n) for name, n in EVAL.items()]
    ledger["hits"] = {"cmexam": {"ceval": 2, "cmexam": 1200}, "remedi": {"cmexam": 1}}
    ledger["rules"] = {"cmexam": {"question": 1100, "options": 102}, "remedi": {"answer": 1}}
    return ledger


def test_contamination_by_source_and_benchmark(leaky: Any) -> None:
    table = data.contamination_table(leaky)
    columns = ("Dataset", "ceval", "cmexam", "huatuo", "all", "by options", "by question", "by cloze", "by 13-gram")
    assert lines(table) == [
        dict(zip((*columns, "by answer"), line, strict=True))
        for line in (
            ("cmexam", "2", "1,200", "0", "1,202", "102", "1,100", "0", "0", "0"),
            ("remedi", "0", "1", "0", "1", "0", "0", "0", "0", "1"),
            ("Total", "2", "1,201", "0", "1,203", "102", "1,100", "0", "0", "1"),
        )
    ]
    assert table.notes[0] == "compared with 1,000 items of cmexam, 1,346 items of ceval, 6,000 items of huatuo"
    missing = table.notes[1].rsplit(": ", 1)[1].split(", ")
    assert {"cmmlu", "medqa", "cmtmedqa"} <= {*missing} and not {"ceval", "cmexam", "huatuo"} & {*missing}


def test_a_benchmark_of_which_nothing_was_read_is_not_called_missing(leaky: Any) -> None:
    leaky["sources"].append(entry("medqa", "eval", None, 3, 0))
    leaky["unread"] = {"cmmlu": {"test.xlsx": "not *.csv"}}
    absent, unread = data.contamination_table(leaky).notes[1:3]
    assert "does not have" in absent and not {"cmmlu", "medqa"} & {*absent.rsplit(": ", 1)[1].split(", ")}
    (only,) = lines(data.contamination_table(leaky, False))
    assert set(only.values()) == {"Total", "not counted"}
    assert "kept all the same" in data.contamination_table(leaky, "report").notes[-1]
    assert "folders are there" in unread and "nothing in them was read" in unread and unread.endswith(": cmmlu, medqa")


def test_recall_by_kind_and_benchmark_with_intervals() -> None:
    rows = [Recall("a kind", "ceval", 100, 99), Recall("a kind", "huatuo", 50, 50), Recall("another", "ceval", 10, 10)]
    first, second = lines(data.leak_recall_table(rows))
    assert (first["Kind of leak"], first["huatuo"], second["huatuo"]) == ("a kind", "100.0 [92.9, 100.0] (n=50)", "-")
    assert first["ceval"].startswith("99.0 [") and first["all"].startswith("99.3") and "150" in first["all"]
    assert lines(data.leak_recall_table([])) == []


# --- what was not kept ------------------------------------------------------------------------------------------------


def drop(path: Path, reasons: Iterator[str]) -> Path:
    with open(path, "w", encoding="utf-8") as handle:
        for number, reason in enumerate(reasons):
            row = {"source": "cmd", "set": "cpt", "file": "a.json", "line": number, "reason": reason}
            handle.write(
                json.dumps(row | {"detail": "", "excerpt": f"第{number}条" + "，" * 60}, ensure_ascii=False) + "\n"
            )
    return path


def test_dropped_lines_are_counted_and_drawn_from_the_whole_file(tmp_path: Path) -> None:
    path = drop(tmp_path / "dropped.jsonl", ("duplicate" if n % 10 else "too short" for n in range(2000)))
    table = data.dropped_table(path, each=50)
    assert "2,000 lines in dropped.jsonl" in table.notes[0]
    found = lines(table)
    assert [line["Reason"] for line in found] == ["duplicate"] * 50 + ["too short"] * 50
    assert {line["Reason"]: line["lines"] for line in found} == {"duplicate": "1,800", "too short": "200"}
    places = [int(line["Place"].removeprefix("a.json, line ")) for line in found]
    assert all(bool(place % 10) == (at < 50) for at, place in enumerate(places)), "lines stand under their own reason"
    assert len(set(places)) == 100 and all(len(line["Begins with"]) <= 32 for line in found)
    # Drawn evenly: of 50 from 0 .. 2000, the mean has a standard deviation of 82.
    assert abs(sum(places[:50]) / 50 - 1000) < 330
    assert data.dropped_table(path, each=50).words.equals(table.words)


# --- personal data ----------------------------------------------------------------------------------------------------


def test_precision_recall_and_f1_with_their_intervals() -> None:
    rows = [
        deid_score.Row("电话", true_positives=8, false_positives=2, false_negatives=0, covered=8),
        deid_score.Row("邮箱", true_positives=0, false_positives=0, false_negatives=0, covered=0),
        deid_score.Row("all", true_positives=8, false_positives=2, false_negatives=0, covered=8),
    ]
    phone, mail, total = lines(data.deid_score_table(rows))
    # By hand from the formula: 8 of 10; and for 8 of 8 the lower bound is 8 / (8 + 1.96 ** 2).
    assert phone["precision"] == "80.0 [49.0, 94.3] (n=10)"
    assert phone["recall"] == "100.0 [67.6, 100.0] (n=8)"
    assert phone["F1"].startswith("88.9 [65.8, 97.1]"), "2J / (1 + J) of 0.8, 0.490, 0.943"
    assert set(mail.values()) == {"邮箱", "0", "no items"}
    assert total == phone | {"Type": "Total"}
