"""How a table is shown: text, HTML, Markdown, LaTeX and CSV; foreign text stays text in each."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from markdown_it import MarkdownIt
from wcwidth import wcswidth

from qilin_lib.report import breakdowns, tables
from qilin_lib.report.cells import ADAPTIVE, Linked, Score
from qilin_lib.report.paper import Cell
from qilin_lib.report.render import latex_text, table, write_all

WHOLE = Score(40.0, 346, 35.1, 45.2)


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (WHOLE, "40.0 [35.1, 45.2] (n=346)"),
        (Score(n=0), "no items"),
        (Score(40.0, 2, 35.1, 45.2), "40.0 (n=2)"),
        (Score(), "-"),
        (Score(missing="not evaluated"), "not evaluated"),
        (Score(missing="", paper=Cell(None)), "not available"),
        (Score(missing="", paper=Cell(392_000, "text", "over 392K")), "paper over 392K"),
        (Score(40.0, 346, 35.1, 45.2, paper=Cell(42.8, "text")), "40.0 [35.1, 45.2] (n=346); paper 42.8 (\u22122.8)"),
        (Score(40.0, paper=Cell(None)), "40.0"),
        (Score(-1.25, None, -2.0, 0.5, "+.2f"), "\u22121.25 [\u22122.00, +0.50]"),
        (Score(1234.5, None, 99.96, 0.0123, ADAPTIVE), "1,234 [100, 0.0123]"),
    ],
)
def test_a_score_as_words(score: Score, said: str) -> None:
    assert str(score) == said
    assert Score.of({"value": 40.0, "n": 346, "low": 35.1, "high": 45.2}) == WHOLE
    assert str(Score.of(None, missing="not evaluated")) == "not evaluated"


def test_a_small_table_in_every_form() -> None:
    rows = [["肺炎", WHOLE], ["a|b<i>", Score(missing="not available")], [Linked("01", "01_b/manifest.json", "x"), "-"]]
    demo = table("Größe & <b>", rows, ["Model", "x"], ["note <script>", "see 06_eval/scores.json"], "9")
    lines = demo.text().splitlines()
    assert len({wcswidth(line) for line in lines[3:6]}) == 1 and lines[3].startswith("肺炎 ")
    html = demo._repr_html_()
    assert "<script>" not in html and "<b>" not in html and "a|b&lt;i&gt;" in html
    assert "40.0 <small>[35.1, 45.2]</small> <small>n=346</small>" in html
    assert '<a href="01_b/manifest.json" title="x">01</a>' in html
    text = demo.markdown("../")
    assert "| a\\|b&lt;i&gt; | not available |" in text and "- note &lt;script&gt;" in text
    assert "[01](../01_b/manifest.json)" in text and "[06_eval/scores.json](../06_eval/scores.json)" in text
    assert "<a " not in demo.html() and "](" not in demo.markdown()


def test_every_number_leads_to_its_records_and_manifest(scores: Any) -> None:
    made = tables.score_table(5, scores)
    page = made.html("../")
    numbers = re.findall(r'<a href="\.\./(06_eval/predictions/fixed/cmexam/(\w+)\.jsonl)" title="([^"]*)">[\d.]', page)
    assert len(numbers) == 4 * 10 and {model for _, model, _ in numbers} == {"base", "dcpt", "sft", "dpo"}
    assert {title for *_, title in numbers if "/sft." in title} == {
        "06_eval/predictions/fixed/cmexam/sft.jsonl; manifest abababababab"
    }
    assert page.count('<a href="../06_eval/manifest.json"') == 4 * 10
    link = "[39.0](../06_eval/predictions/fixed/cmexam/sft.jsonl) [34.0, 44.0]<br>[n=500](../06_eval/manifest"
    assert link in made.markdown("../")


def test_the_csv_has_a_row_a_cell_with_all_parts_apart(scores: Any) -> None:
    cells = tables.score_table(5, scores).cells
    assert list(cells.columns) == [
        *["table", "model", "from", "column", "value", "low", "high", "n", "reason", "paper", "paper_origin"],
        *["difference", "paper_inside_interval", "protocol", "records", "manifest"],
    ]
    ours = cells[(cells["model"] == "tiny 2.3M") & (cells["column"] == "Accuracy")].iloc[0]
    assert (ours["from"], ours["value"], ours["low"], ours["high"], ours["n"]) == ("this run", 39.0, 34.0, 44.0, 500)
    assert (ours["protocol"], ours["records"]) == ("fixed", "06_eval/predictions/fixed/cmexam/base.jsonl")
    theirs = cells[(cells["model"] == "Baichuan-7B") & (cells["column"] == "Accuracy")].iloc[0]
    assert (theirs["from"], theirs["paper"], theirs["paper_origin"]) == ("paper", 33.5, "v1 abstract")
    assert pd.isna(theirs["value"]) and cells["value"].notna().sum() == 4 * (7 + 2 + 1)


def test_write_all(tmp_path: Path, ledger: Any, tokens: Any, scores: Any) -> None:
    made = [tables.data_table(1, ledger, tokens), tables.score_table(5, scores), breakdowns.paired_table(scores)]
    written = write_all(made, tmp_path / "tables")
    stems = [f"table_{stem}{suffix}" for stem in ("1", "5", "a1") for suffix in (".csv", ".md", ".tex")]
    assert [path.name for path in written] == [*stems, "tables.txt"]
    text = written[-1].read_text(encoding="utf-8")
    assert "Table 5. CMExam results" in text and "Table A1" not in text


def test_text_of_the_data_runs_nowhere(scores: Any) -> None:
    groups = scores["cmexam"]["base"]["groups"]["department"]
    links = "[click](javascript:x) ![t](http://host/x.png)"
    for text in ('=HYPERLINK("http://x")', "-2+3+cmd|' /C calc'!A0", "＝1+1", links, "\x1b[31m\u202etxt", "\\input{x}"):
        groups[text] = groups["眼科"]
    made = breakdowns.group_tables(scores)[0]
    lines = list(csv.DictReader(io.StringIO(made.csv())))
    assert not [cell for line in lines for cell in line.values() if cell.startswith(("=", "+", "@", "-2", "＝"))]
    assert "'=HYPERLINK" in made.csv() and "](" not in made.markdown()
    assert r"\input" not in made.latex() and "<img" not in made.html()
    for shown in (made.text(), made.markdown(), made.html(), made.latex()):
        assert "\x1b" not in shown and "\u202e" not in shown


WORDS = [
    "`code`",
    "*it*",
    "_x_",
    "__x__",
    "a_b_c",
    "$1$ and $2$",
    "A&amp;B",
    "<b>",
    "[l](http://h)",
    "~~s~~",
    "a\\|b",
    "a\\",
]


def test_markdown_shows_every_text_word_for_word() -> None:
    markdown = MarkdownIt("gfm-like", {"linkify": False})
    shown = table("*T*", [[word] for word in WORDS], ["Model"], WORDS, "9").markdown()
    read = [token for token in markdown.parse(shown) if token.type == "inline"]
    texts = [[(child.type, child.content) for child in token.children] for token in read]
    assert texts[0] == [("text", "Table 9. *T*")]
    assert texts[2:] == [[("text", word)] for word in WORDS] * 2
    assert r"\$1\$" in shown, "GitHub would set what stands between as a formula"


# --- LaTeX: that TeX can read it, seen through its grammar (braces, environments, cells) ------------------------------


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


def test_every_table_has_as_many_cells_in_each_row_as_columns(scores: Any, ledger: Any, tokens: Any) -> None:
    assert latex_text("σ(x) `-p`") == r"$\sigma$(x) \textasciigrave{}-p\textasciigrave{}"
    assert latex_text("50 % & a_b #1 $x {y} ~ ^ \\ <z> 内科\u22121\x00\x1b\u202e") == (
        r"50 \% \& a\_b \#1 \$x \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{}z\textgreater{} "
        "内科$-$1???"
    )
    cells = ["\\", "}{", "%$&_#~^", "a\nb", "[2em]", "50 %"]
    hostile = table("T_1 {&", [cells] * 2, cells, ["note 100 % \\ {"], "9")
    groups = breakdowns.group_tables(scores)
    made = [tables.data_table(1, ledger, tokens), tables.score_table(5, scores), *tables.released_tables(scores)]
    for one in [*made, *groups, breakdowns.paired_table(scores), hostile]:
        assert structure(one.latex()) == [len(one.words.columns)] * (len(one.words) + 1), one.number
    department, difficulty = (one.latex().splitlines()[0] for one in groups)
    assert "xeCJK" in department and "xeCJK" not in difficulty and "booktabs,graphicx" in difficulty


def test_a_score_cell_has_the_papers_number_below(scores: Any, run_of: Any) -> None:
    scores["run"] = run_of("Baichuan-7B", 7_000_559_616, as_paper=True)
    text = tables.score_table(5, scores).latex()
    assert r"\begin{tabular}[t]{@{}r@{}}39.0 [34.0, 44.0]\\n=500; paper 33.5 (+5.5)\end{tabular}" in text
    assert r"\label{tab:qilin-5}" in text
