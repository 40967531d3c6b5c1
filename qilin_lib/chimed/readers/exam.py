"""Multiple-choice questions, read alike by 01 and by 06.

CMExam (train feeds training, val and test are a benchmark); C-Eval, CMMLU, MedQA and CMB (benchmarks only).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import partial
from typing import Any

from qilin_lib.chimed.readers.decode import (
    Reject,
    csv_reader,
    field_text,
    json_reader,
    parsed,
    reader,
    required,
    rows,
    string,
)
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.readers.turns import question_and_answer
from qilin_lib.chimed.records import Dialogue, Exam

# Options are joined by a real newline, or by a literal backslash-n in the val file of the wild. Their letter stands
# alone, with a mark behind it, or in brackets; directly before a word it must be the letter that comes next.
_BREAK = re.compile(r"(?:\r?\n|\r|\\n)(?=\s{0,9}[（(]?[A-HＡ-Ｈ](?![A-Za-z]))")
_OPTION = re.compile(
    r"\s*(?:[（(](?P<in>[A-HＡ-Ｈ])[）)]|(?P<alone>[A-HＡ-Ｈ])[ \t.．、,，:：）)]|(?P<tight>[A-HＡ-Ｈ]))"
)
# Not that of "\\nu".
_BACKSLASH_N = re.compile(r"\\n(?![a-z])")
_MARKS = " \t.．、:："
_LETTERS = re.compile(r"[A-Z]+")
_SEPARATORS = re.compile(r"[\s,、;/.。和()]")


def options_of(cell: str) -> tuple[tuple[str, str], ...]:
    """(letter, text) of a cell of options, in order; () when its text does not begin with a letter.

    "A 甲\\nB 乙", with ".", "、", ":" or ")" behind the letter, "(A) 甲" or "A甲". A line that begins otherwise goes on
    from the option before it.
    """
    found: list[tuple[str, list[str]]] = []
    for line in _BREAK.split(cell.strip()):
        mark = _OPTION.match(line)
        letter = _narrow(mark["in"] or mark["alone"] or mark["tight"]) if mark else ""
        if letter and (not mark["tight"] or letter == "ABCDEFGH"[len(found) : len(found) + 1]):
            found.append((letter, [_text(line[mark.end() :])]))
        elif found:
            found[-1][1].append(_text(line))
        else:
            return ()
    options = ((letter, " ".join(filter(None, texts))) for letter, texts in found)
    return tuple((letter, text) for letter, text in options if text)


def _narrow(letter: str) -> str:
    return letter if letter.isascii() else unicodedata.normalize("NFKC", letter)


def _text(option: str) -> str:
    return _BACKSLASH_N.sub(" ", option.lstrip(_MARKS)).strip()


def letters_of(answer: str) -> str:
    """The sorted distinct capitals of an answer, full-width, separated or in brackets too; any other text as it is."""
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", answer)).upper()
    return "".join(sorted(set(plain))) if _LETTERS.fullmatch(plain) else plain


def cmexam_row(row: dict[str, str]) -> Exam:
    """Question,Options,Answer,Explanation[,…]; an explanation may be empty or "nan", an answer may not."""
    question, options = required(row, "Question"), options_of(required(row, "Options"))
    answer = letters_of(string(row.get("Answer")))
    if not answer:
        raise Reject("no answer", f"Answer is {row.get('Answer')!r}")
    return _exam(question, options, answer, field_text(row.get("Explanation")))


def ceval_row(row: dict[str, str]) -> Exam:
    """id,question,A,B,C,D[,answer[,explanation]]; the test split hides the answer."""
    return _one_of(required(row, "question"), row, string(row.get("answer")), field_text(row.get("explanation")))


def cmmlu_row(row: dict[str, str]) -> Exam:
    """(row number without a name),Question,A,B,C,D,Answer."""
    return _one_of(required(row, "Question"), row, string(row.get("Answer")), "")


# Apollo's zh.json has the items of four benchmarks.
_OTHERS_OF_APOLLO = ("cmb", "cmexam", "cmmlu")


def medqa_row(row: Any) -> Exam:
    """MedQA in its original form (Jin et al. 2020), in Apollo's, or as an instruction.

    {question, options: {A: …, …}, answer: its text, answer_idx: its letter}; {question, options or option:
    "(A) ….\\n(B) ….", answer or anwer: "(A)"}; {instruction, input: "问题：…\\n选项：\\n\\t…\\n\\t…", output: one
    of the options}.
    """
    if isinstance(row, dict) and "output" in row and "question" not in row:
        return _instructed(row)
    question = required(row, "question")
    if string(row.get("source")).startswith(_OTHERS_OF_APOLLO):
        raise Reject("another benchmark", string(row["source"]))
    return _of_object(question, row, string(row.get("answer_idx", row.get("answer", row.get("anwer")))))


def _of_object(question: str, row: dict[str, Any], answer: str) -> Exam:
    options = row.get("options", row.get("option"))
    if isinstance(options, str):
        # Apollo puts a point behind every option, and writes one that is not there as "(E) .".
        options = {letter: text.removesuffix(".") for letter, text in options_of(options)}
    if not isinstance(options, dict):
        raise Reject("broken options", f"a {type(options).__name__} where an object was expected")
    # Not `string`: an option may be the word "none".
    cells = {letter: text if isinstance(text, str) else string(text) for letter, text in options.items()}
    return _one_of(question, cells, answer, "")


_INSTRUCTED = re.compile(r"问题[：:](.*?)\n[ \t]{0,9}选项[：:](.*)", re.DOTALL)


def _instructed(row: dict[str, Any]) -> Exam:
    parts = _INSTRUCTED.fullmatch(required(row, "input"))
    if not parts:
        raise Reject("broken options", "no 问题： and 选项： in the input")
    texts = [line.strip() for line in parts[2].split("\n") if line.strip()]
    if len(set(texts)) < len(texts) or len(texts) > 8:
        raise Reject("broken options", f"{len(texts)} options, {len(set(texts))} of them different")
    answer = required(row, "output")
    if answer not in texts:
        raise Reject("answer is no option", answer)
    cells = dict(zip("ABCDEFGH", texts, strict=False))
    return _one_of(parts[1].strip(), cells, "ABCDEFGH"[texts.index(answer)], "")


@reader
def cmb(file: str, stream: Stream) -> Iterator[tuple[int, Exam | Dialogue | Reject]]:
    """CMB (Wang et al. 2023): {question, option: {A: …, …}, answer: letters, absent in the test set}; of CMB-Clin
    {description, QA_pairs: [{question, answer or solution}, …]}, a question of its own for each pair."""
    for line, row in rows(file, stream):
        pairs = row.get("QA_pairs") if isinstance(row, dict) else None
        if isinstance(pairs, list):
            parse = partial(_clinical, string(row.get("description")))
            yield from ((line, parsed(parse, pair)) for pair in pairs)
        else:
            yield line, parsed(_choice, row)


def _choice(row: Any) -> Exam:
    return _of_object(required(row, "question"), row, string(row.get("answer")))


def _clinical(case: str, pair: Any) -> Dialogue:
    return question_and_answer(f"{case}\n{required(pair, 'question')}".strip(), required(pair, "answer", "solution"))


def _one_of(question: str, cells: dict[str, str], answer: str, explanation: str) -> Exam:
    options = tuple((letter, cells[letter].strip()) for letter in "ABCDEFGH" if cells.get(letter, "").strip())
    return _exam(question, options, letters_of(answer), explanation)


def _exam(question: str, options: tuple[tuple[str, str], ...], answer: str, explanation: str) -> Exam:
    letters = [letter for letter, _ in options]
    if len(options) < 2 or len(set(letters)) != len(letters):
        raise Reject("broken options", f"letters {''.join(letters) or 'none'}")
    if answer and not _LETTERS.fullmatch(answer):
        raise Reject("unknown answer", answer)
    if not set(answer) <= set(letters):
        raise Reject("answer is no option", answer)
    return Exam(question, options, answer, explanation)


cmexam = csv_reader(cmexam_row)
ceval = csv_reader(ceval_row)
cmmlu = csv_reader(cmmlu_row)
medqa = json_reader(medqa_row)
