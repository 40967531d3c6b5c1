"""The balance."""

from __future__ import annotations

import pytest

from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.errors import QilinError


def ledger():
    book = Ledger()
    row = Row("cmd", "sft", "CMD", "original", "MIT", read=10, kept=4, duplicate=2, contaminated=1, excluded=1)
    row.rejected.update({"empty field": 2})
    book.rows["cmd", "sft"] = row
    return book


def test_a_balanced_ledger_passes():
    book = ledger()
    book.check()
    assert sum(book.rows["cmd", "sft"].counts().values()) == 10


@pytest.mark.parametrize("name", ["read", "kept", "duplicate", "contaminated", "excluded"])
def test_an_unbalanced_ledger_names_the_source(name):
    book = ledger()
    setattr(book.rows["cmd", "sft"], name, 99)
    with pytest.raises(QilinError, match="cmd in sft"):
        book.check()


def test_as_dict_has_the_agreed_keys():
    (row,) = ledger().as_dict()["sources"]
    agreed = (
        "source set table_row read kept rejected duplicate contaminated excluded deidentified bytes_kept chars_kept"
    )
    assert set(agreed.split()) <= set(row) and row["rejected"] == {"empty field": 2}
