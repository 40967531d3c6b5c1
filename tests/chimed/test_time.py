"""Whatever a file, a cell or a turn holds: the time that its reader takes grows with its size, not with the square."""

from __future__ import annotations

import contextlib
import time

import pytest

from qilin_lib.chimed.readers import dialogue, exam, kg, text
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.readers.turns import instruction_row


def graph(cell: str) -> None:
    ends = ("", "x", "...")
    cells = [f'"{cell}{ends[column % 3]}"'.replace("\n", " ") for column in range(7)]
    head = "name,alias,symptom,checklist,treatment,drug,money,part\n"
    assert len(list(kg.health39("d.csv", Stream.of(f"{head}甲病,{','.join(cells)}\n")))) == 1
    kg.disease_row(
        {"name": "甲病", "cause": f"敏。{cell}", "symptom": [f"{cell}{end}" for end in ends]}, kg.FIELDS["xywy"]
    )


def turns(*said: str) -> None:
    listed = [{"role": "user", "content": one} for one in said]
    with contextlib.suppress(Reject):
        instruction_row({"messages": [*listed, {"role": "assistant", "content": "休息"}]})


READS = {
    "rows": lambda content: list(dialogue.instructions("a.json", Stream.of(content))),
    "book": lambda content: list(text.textbook("a.txt", Stream.of(content))),
    "graph": graph,
    "exam": exam.options_of,
    "turn": turns,
    "turns": lambda content: turns(*content.split("|")),
}
PIECES = [".", "…", "(", "（", "(a", " ", "、", "1、", "a ", "。.", "图\\r", "9\n", "，\n", "第", "- 1"]
# What reads it, its beginning, and what comes again and again.
CASES = [
    ("rows", "[", '{"a":},\n'),
    ("rows", "", '{"a":\n'),
    ("rows", "[", '{"a": "x},\n'),
    ("rows", "", '{"a": [\n'),
    ("rows", "[", '{"a": [1,],},\n'),
    ("rows", "[", '{"a":},'),
    ("rows", "[", "{"),
    *(("book", "", piece) for piece in PIECES),
    *(("graph", "(x)", piece) for piece in PIECES),
    *(("exam", "A 甲", piece) for piece in ("\nB反应", "\nB 乙", "\n", "\\n", "\nA")),
    ("turn", "", "问：头\n"),
    ("turn", "头痛", "\n<无输入>"),
    ("turn", "头痛\n问：甲\n答：乙", "\n"),
    ("turn", "", "<"),
    ("turns", "头", "|头"),
    ("turns", "", "|"),
]


@pytest.mark.parametrize("kind, head, piece", CASES)
def test_time_grows_with_the_size(kind, head, piece):
    def seconds(size: int) -> float:
        content = head + piece * (size // len(piece))
        begun = time.process_time()
        READS[kind](content)
        return time.process_time() - begun

    # Ten times the size: ten times the time, or a hundred. The least of two, for what else a machine does.
    small, large = (min(seconds(size) for _ in range(2)) for size in (20_000, 200_000))
    assert large < 35 * max(small, 0.02), (small, large)
