"""The live line."""

from __future__ import annotations

from qilin_lib.progress import live_line


def test_live_line_outside_a_notebook_is_print() -> None:
    assert live_line() is print
