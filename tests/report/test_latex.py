"""LaTeX: what is written can be read by TeX, seen here through its grammar (braces, environments, cells)."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd
import pytest

from qilin_lib.report import tables
from qilin_lib.report.latex import latex_text
from qilin_lib.report.layout import Table, to_latex


def structure(source: str) -> list[int]:
    """Cells of each row of the outer tabular; fails on unbalanced braces or environments, or an unescaped special."""
    body = re.sub(r"\\[\\{}#$%&_~^]", "", re.sub(r"\\tabularnewline", "\0", re.sub(r"(?m)^%.*\n|%$", "", source)))
    assert "%" not in body and "#" not in body and "~" not in body and "^" not in body.replace("$-$", "")
    assert not re.search(r"(?<!tab:qilin)_", body)
    assert body.count("$") % 2 == 0
    depth, rows, cells, environments = 0, [], 1, []
    for token in re.findall(r"\\(?:begin|end)\{\w+\}|[{}&\0]", body):
        if token.startswith(r"\begin"):
            environments.append(token[7:-1])
        elif token.startswith(r"\end"):
            assert environments.pop() == token[5:-1]
        elif token == "&":
            # Cells of the outer table only: inner ones have one column.
            assert environments.count("tabular") == 1
            cells += 1
        elif token == "\0":
            rows, cells = [*rows, cells], 1
        else:
            depth += {"{": 1, "}": -1}[token]
            assert depth >= 0
    assert depth == 0 and environments == []
    return rows


def test_special_characters_are_escaped_and_chinese_is_left() -> None:
    assert latex_text("50 % & a_b #1 $x {y} ~ ^ \\ <z>") == (
        r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}z\textgreater{}"
    )
    assert latex_text("内科\u22121\x00\x1b") == "内科$-$1??"


def test_every_table_has_as_many_cells_in_each_row_as_columns(scores: Any, ledger: Any, tokens: Any) -> None:
    made = [tables.table1(ledger, tokens), tables.table4(scores), tables.table5(scores), tables.table6(scores)]
    made += [*tables.released_tables(scores), *tables.group_tables(scores), tables.variant_table(scores)]
    for table in [*made, tables.category_table(scores), tables.paired_table(scores)]:
        assert structure(to_latex(table)) == [len(table.frame.columns)] * (len(table.frame) + 1), table.number


def test_a_hostile_table_is_still_well_formed() -> None:
    cells = ["\\", "}{", "%$&_#~^", "a\nb", "[2em]", "50 %"]
    table = Table("9", "T_1 {&", pd.DataFrame([cells] * 2, columns=cells, dtype=str), ["note 100 % \\ {"])
    assert structure(to_latex(table)) == [6, 6, 6]


def test_the_checker_finds_what_it_is_for() -> None:
    good = to_latex(Table("1", "t", pd.DataFrame([["a", "b"]], columns=["x", "y"])))
    assert structure(good) == [2, 2]
    for bad in (good.replace("{table}", "{tab}", 1), good + "}", good.replace("a & b", "50 % & b"), good + "a_b"):
        with pytest.raises((AssertionError, IndexError)):
            structure(bad)


def test_a_score_cell_has_its_interval_small_and_the_papers_number_below(scores: Any, run_of: Any) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    text = to_latex(tables.table5(scores))
    cell = r"39.0\,{\scriptsize[34.0, 44.0]}\\{\tiny n=500; paper 33.5 (+5.5)}"
    assert rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{cell}\end{{tabular}}" in text
    assert r"\toprule" in text and r"\midrule" in text and r"\bottomrule" in text
    assert r"\label{tab:qilin-5}" in text and r"\resizebox{\linewidth}{!}{%" in text


def test_the_first_line_asks_for_a_chinese_font_only_where_there_is_chinese(scores: Any) -> None:
    department, difficulty = (to_latex(table) for table in tables.group_tables(scores))
    assert "xeCJK" in department.splitlines()[0] and "内科" in department
    assert "xeCJK" not in difficulty.splitlines()[0] and "booktabs,graphicx" in difficulty.splitlines()[0]
