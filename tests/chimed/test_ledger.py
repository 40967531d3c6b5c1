"""The balance."""

from __future__ import annotations

import pytest

from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.errors import QilinError


@pytest.mark.parametrize("name", [None, "read", "kept", "duplicate", "contaminated", "excluded", "merged"])
def test_an_unbalanced_ledger_names_the_source(name):
    row = Row("cmd", "sft", "CMD", "original", "MIT", read=10, kept=4, duplicate=2, contaminated=1, excluded=1)
    row.rejected.update({"empty field": 2})
    book = Ledger()
    book.add(row)
    if name is None:
        book.check()
        (written,) = book.as_dict()["sources"]
        agreed = "source set table_row read kept rejected duplicate contaminated excluded deidentified bytes_kept"
        assert {*agreed.split(), "chars_kept"} <= set(written) and written["rejected"] == {"empty field": 2}
        return
    setattr(row, name, 99)
    with pytest.raises(QilinError, match="cmd in sft"):
        book.check()
