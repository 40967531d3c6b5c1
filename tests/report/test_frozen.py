"""The tables of a made-up run hold the numbers that they held when frozen_tables.json was written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qilin_lib.report import breakdowns, chimed_gpt, data, tables
from tests.report.test_chimed_gpt_tables import further  # noqa: F401

FROZEN = Path(__file__).with_name("frozen_tables.json")


def words(table: Any) -> list[list[str]]:
    """Heads and cells, each as its text on one line."""
    return [list(map(str, table.words.columns)), *table.words.to_numpy().tolist()]


def shown(ledger: Any, tokens: Any, scores: Any, run_of: Any) -> dict[str, list[list[str]]]:
    made = [table(ledger, tokens) for table in (tables.table1, tables.table2, tables.table3)]
    made += [table(scores, "ab" * 32) for table in (tables.table4, tables.table5, tables.table6)]
    made += [breakdowns.category_table(scores), *breakdowns.group_tables(scores), *tables.released_tables(scores)]
    made += [breakdowns.variant_table(scores), breakdowns.paired_table(scores), *chimed_gpt.tables(scores)]
    made.append(chimed_gpt.published())
    found = {table.number: words(table) for table in made}
    found |= {"ledger": words(data.ledger_table(ledger)), "hits": words(data.contamination_table(ledger))}
    as_paper = scores | {"run": run_of("Baichuan-7B", 7_000_559_616, as_paper=True)}
    for table in (tables.table4, tables.table5, tables.table6):
        found[f"{table(as_paper).number}, the paper's base"] = words(table(as_paper))
    return found


def test_every_number_is_the_frozen_one(ledger: Any, tokens: Any, further: Any, run_of: Any) -> None:  # noqa: F811
    expected, found = json.loads(FROZEN.read_text(encoding="utf-8")), shown(ledger, tokens, further, run_of)
    assert list(found) == list(expected)
    for name, table in found.items():
        assert table == expected[name], name
