"""Numbers are numbers: in a table's frame, in its CSV; a terminal and a reader get what fits."""

from __future__ import annotations

import io
import re
from typing import Any

import pandas as pd
import pytest
from wcwidth import wcswidth

from qilin_lib.report import breakdowns, data, tables, training
from qilin_lib.report.render import Table


@pytest.fixture
def made(ledger: Any, tokens: Any, scores: Any) -> list[Table]:
    found = [table(ledger, tokens) for table in (tables.table1, tables.table2, tables.table3)]
    found += [table(scores, "ab" * 32) for table in (tables.table4, tables.table5, tables.table6)]
    found += [*breakdowns.group_tables(scores), breakdowns.variant_table(scores), breakdowns.paired_table(scores)]
    return [*found, data.ledger_table(ledger)]


def test_a_column_of_a_table_can_be_averaged(scores: Any, ledger: Any) -> None:
    frame = tables.table5(scores).frame
    assert frame.loc[frame["From"] == "this run", "Accuracy"].mean() == pytest.approx(39)
    assert data.ledger_table(ledger).frame["kept"].sum() == 2 * 246
    assert breakdowns.paired_table(scores).frame["Difference, points"].mean() == 4.0


def test_a_csv_is_read_back_as_numbers(made: list[Table]) -> None:
    for table in made:
        text = table.csv()
        assert "\u2212" not in text and not re.search(r'"\d{1,3},\d{3}', text) and "over 392K" not in text, table.number
        columns = pd.read_csv(io.StringIO(text))
        for name in {"value", "low", "high", "paper", "difference", "kept", "read"} & {*columns}:
            assert columns[name].dtype.kind in "if", (table.number, name)


def test_a_terminal_needs_no_more_than_120_columns(made: list[Table]) -> None:
    for table in made:
        lines = repr(table).splitlines()
        assert max(map(wcswidth, lines)) <= 120, table.number
    text = repr(made[4])
    assert "39.0" in text and "[34.0, 44.0]" in text and "n=500" in text and "paper 33.5" in text


def test_at_most_four_notes_stand_open_and_the_base_is_among_them(made: list[Table]) -> None:
    for table in made:
        page = table.html("../")
        assert page.partition("<details")[0].count("<li>") <= 4, table.number
        assert page.count("<li>") == len(table.notes)
        assert sum(line.startswith("* ") for line in repr(table).splitlines()) <= 5, table.number
    fifth = made[4].html("../")
    assert "Base model here: tiny" in fifth.partition("<details")[0] and "Power" in fifth


def test_a_table_of_one_run_says_that_it_rests_on_one_seed(scores: Any) -> None:
    assert "one seed" in tables.table5(scores).notes[0]


def test_intervals_of_held_out_scores_take_the_profile_s_resamples_and_seed() -> None:
    entry = {"tokens": [30] * 9, "before": [-90.0] * 9, "after": [-60.0 + n for n in range(9)]}
    shown = {
        str(training.perplexity_table({"medical": entry}, {"bootstrap_resamples": 200, "seed": seed}))
        for seed in (1, 2)
    }
    assert len(shown) == 2
