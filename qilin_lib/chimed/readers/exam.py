"""Multiple-choice questions.

CMExam (train feeds training, val and test are a benchmark); C-Eval, CMMLU and MedQA (benchmarks only).
"""

from __future__ import annotations

import re
from typing import Any

from qilin_lib.chimed.readers.decode import Reject, csv_reader, field_text, json_reader, required, string
from qilin_lib.chimed.records import Exam

# Options are joined by a real newline, or by a literal backslash-n in the val file of the wild (FACTS: CMExam quirks).
_OPTION = re.compile(r"(?:^|\n|\\n)\s*([A-H])[ \t.．、:：]+(.*?)(?=(?:\n|\\n)\s*[A-H][ \t.．、:：]|\Z)", re.DOTALL)
_ANSWER = re.compile(r"[A-H]+")


def options_of(cell: str) -> tuple[tuple[str, str], ...]:
    """(letter, text) of a CMExam options cell, in order."""
    return tuple((letter, text.replace("\\n", " ").strip()) for letter, text in _OPTION.findall(cell))


def cmexam_row(row: dict[str, str]) -> Exam:
    """Question,Options,Answer,Explanation[,…]; an explanation may be empty or "nan", an answer may not."""
    question, options = required(row, "Question"), options_of(required(row, "Options"))
    answer = string(row.get("Answer")).replace(" ", "").upper()
    if not answer:
        raise Reject("no answer", f"Answer is {row.get('Answer')!r}")
    if not _ANSWER.fullmatch(answer):
        raise Reject("unknown answer", answer)
    letters = [letter for letter, _ in options]
    if len(options) < 2 or len(set(letters)) != len(letters):
        raise Reject("broken options", f"letters {''.join(letters) or 'none'}")
    if not set(answer) <= set(letters):
        raise Reject("answer is no option", f"{answer} among {''.join(letters)}")
    return Exam(question, options, "".join(sorted(set(answer))), field_text(row.get("Explanation")))


def ceval_row(row: dict[str, str]) -> Exam:
    """id,question,A,B,C,D[,answer[,explanation]]; the test split hides the answer."""
    return _one_of(required(row, "question"), row, string(row.get("answer")), field_text(row.get("explanation")))


def cmmlu_row(row: dict[str, str]) -> Exam:
    """(row number without a name),Question,A,B,C,D,Answer."""
    return _one_of(required(row, "Question"), row, string(row.get("Answer")), "")


def medqa_row(row: Any) -> Exam:
    """{question, options: {A: …, …}, answer: its text, answer_idx: its letter, meta_info} (Jin et al. 2020)."""
    question, options = required(row, "question"), row.get("options")
    if not isinstance(options, dict):
        raise Reject("broken options", f"a {type(options).__name__} where an object was expected")
    # Not `string`: an option may be the word "none".
    cells = {letter: text if isinstance(text, str) else string(text) for letter, text in options.items()}
    return _one_of(question, cells, string(row.get("answer_idx")), "")


def _one_of(question: str, cells: dict[str, str], answer: str, explanation: str) -> Exam:
    options = tuple((letter, cells[letter].strip()) for letter in "ABCDEFGH" if cells.get(letter, "").strip())
    if len(options) < 2:
        raise Reject("broken options", f"{len(options)} options")
    if answer and answer.upper() not in dict(options):
        raise Reject("answer is no option", answer)
    return Exam(question, options, answer.upper(), explanation)


cmexam = csv_reader(cmexam_row)
ceval = csv_reader(ceval_row)
cmmlu = csv_reader(cmmlu_row)
medqa = json_reader(medqa_row)
