"""Multiple-choice questions, read alike by 01 and by 06.

CMExam (train feeds training, val and test are a benchmark); C-Eval, CMMLU, MedQA and CMB (benchmarks only).
"""

from __future__ import annotations

import re
import unicodedata
from functools import partial
from typing import Any

from qilin_lib.chimed.readers import decode
from qilin_lib.chimed.readers.decode import FIELDS, Found, field, field_text, leaves, parsed_rows, required, string
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.readers.turns import question_and_answer
from qilin_lib.chimed.records import Dialogue, Exam

# Options are joined by a real newline, or by a literal backslash-n in the val file of the wild. Their letter stands
# alone, with a mark behind it, or in brackets; directly before a word it must be the letter that comes next.
_BREAK = re.compile(r"(?:\r?\n|\r|\\n)(?=\s{0,9}[（(]?[A-HＡ-Ｈ](?![A-Za-z]))")
_OPTION = re.compile(
    r"\s*(?:[（(](?P<in>[A-HＡ-Ｈ])[）)]|(?P<alone>[A-HＡ-Ｈ])[ \t.．、,，:：）)]|(?P<tight>[A-HＡ-Ｈ]))"
)
LETTERS = "ABCDEFGH"
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
        letter = unicodedata.normalize("NFKC", mark["in"] or mark["alone"] or mark["tight"]) if mark else ""
        if letter and (not mark["tight"] or letter == LETTERS[len(found) : len(found) + 1]):
            found.append((letter, []))
            line = line[mark.end() :]
        elif not found:
            return ()
        found[-1][1].append(_BACKSLASH_N.sub(" ", line.lstrip(_MARKS)).strip())
    options = ((letter, " ".join(filter(None, texts))) for letter, texts in found)
    return tuple((letter, text) for letter, text in options if text)


def letters_of(answer: Any) -> str:
    """The sorted distinct capitals of an answer, full-width, parted, in brackets or a list too; other text as it is."""
    plain = _SEPARATORS.sub("", unicodedata.normalize("NFKC", "".join(map(string, leaves(answer))))).upper()
    return "".join(sorted(set(plain))) if _LETTERS.fullmatch(plain) else plain


def exam_row(row: Any, answered: bool = False) -> Exam:
    """A question in any form in which exams go round.

    CMExam: Question,Options,Answer,Explanation[,…], the options one text; an explanation may be empty or "nan", an
    answer may not (`answered`). C-Eval, CMMLU: question,A,B,C,D[,answer[,explanation]]; a test split hides the answer.
    MedQA, CMB: {question, options or option: {A: …, …}, […], [{key, value}, …] or "(A) ….\n(B) ….", answer: its text
    or letters, answer_idx: its letter}.
    """
    names = FIELDS["exam"]
    question, options = required(row, *names["question"]), field(row, names["options"], row)
    if options is row and not {"A", "a"} & row.keys():
        raise Reject("missing field", f"options or A, B, …; found {', '.join(list(row)[:8])}")
    answers = [row[name] for name in names["answer"] if letters_of(row.get(name))]
    answer = next((one for one in answers if _LETTERS.fullmatch(letters_of(one))), answers[0] if answers else "")
    lettered = [option for option in _lettered(options) if option[1]]
    if answered and not answer:
        raise Reject("no answer", f"Answer is {field(row, names['answer'])!r}")
    return _exam(question, lettered, answer, field_text(field(row, names["explanation"])))


def _lettered(options: Any) -> list[tuple[str, str]]:
    """(letter, text) of options in any of their forms."""
    if isinstance(options, list) and all(isinstance(one, dict) for one in options):
        options = {string(one.get("key")): one.get("value") for one in options}
    elif isinstance(options, list) and len(options) <= len(LETTERS):
        marks = [_OPTION.match(string(one)) for one in options]
        marked = all(mark and not mark["tight"] for mark in marks)
        options = "\n".join(options) if marked else dict(zip(LETTERS, options, strict=False))
    if isinstance(options, str):
        # Apollo puts a point behind every option, and writes one that is not there as "(E) .".
        return [(k, text.removesuffix(".") if options[:1] == "(" else text) for k, text in options_of(options)]
    if not isinstance(options, dict):
        raise Reject("broken options", f"a {type(options).__name__} where an object was expected")
    cells = {key.upper(): cell for key, cell in options.items()}
    if odd := [key for key in LETTERS if isinstance(cells.get(key), list | dict)]:
        raise Reject("broken options", f"{odd[0]} is a {type(cells[odd[0]]).__name__}")
    # Not `string`: an option may be the word "none".
    return [(k, (cells[k] if isinstance(cells[k], str) else string(cells[k])).strip()) for k in LETTERS if k in cells]


def medqa_row(row: Any) -> Exam:
    """MedQA in its original form (Jin et al. 2020), in Apollo's, or as an instruction.

    {instruction, input: "问题：…\n选项：\n\t…\n\t…", output: one of the options}.
    """
    if not isinstance(row, dict) or "output" not in row or "question" in row:
        # Apollo's zh.json has the items of four benchmarks.
        if isinstance(row, dict) and string(row.get("source")).startswith(("cmb", "cmexam", "cmmlu")):
            raise Reject("another benchmark", string(row["source"]))
        return exam_row(row)
    parts = re.fullmatch(r"问题[：:](.*?)\n[ \t]{0,9}选项[：:](.*)", required(row, "input"), re.DOTALL)
    if not parts:
        raise Reject("broken options", "no 问题： and 选项： in the input")
    texts = [line.strip() for line in parts[2].split("\n") if line.strip()]
    if len(set(texts)) < len(texts) or len(texts) > 8:
        raise Reject("broken options", f"{len(texts)} options, {len(set(texts))} of them different")
    answer = required(row, "output")
    if answer not in texts:
        raise Reject("answer is no option", answer)
    return _exam(parts[1].strip(), list(zip(LETTERS, texts, strict=False)), LETTERS[texts.index(answer)], "")


def cmb(file: str, stream: Stream) -> Found:
    """CMB (Wang et al. 2023): {question, option: {A: …, …}, answer: letters, absent in the test set}; of CMB-Clin
    {description, QA_pairs: [{question, answer or solution}, …]}, a question of its own for each pair. A file of the
    test set's answers alone ({id, answer}) is noted once: notebook 06 reads it."""
    noted = False
    for line, row in decode.rows(file, stream):
        pairs = row.get("QA_pairs") if isinstance(row, dict) else None
        if isinstance(row, dict) and {"id", "answer"} <= row.keys() and not {"question", "QA_pairs"} & row.keys():
            if not noted:
                yield line, Reject("answers without questions", "they belong to CMB's test questions", note=True)
            noted = True
        elif isinstance(pairs, list):
            case = string(row.get("description"))
            for pair in pairs:
                yield line, decode.parsed(partial(_clinical, case), pair)
        else:
            yield line, decode.parsed(exam_row, row)


def _clinical(case: str, pair: Any) -> Dialogue:
    return question_and_answer(f"{case}\n{required(pair, 'question')}".strip(), required(pair, "answer", "solution"))


def _exam(question: str, options: list[tuple[str, str]], answer: Any, explanation: str) -> Exam:
    letters, said, answer = [letter for letter, _ in options], string(answer), letters_of(answer)
    if len(options) < 2 or len(set(letters)) != len(letters):
        raise Reject("broken options", f"letters {''.join(letters) or 'none'}")
    if not set(answer) <= set(letters) and [text for _, text in options].count(said) == 1:
        answer = next(letter for letter, text in options if text == said)
    if answer and not _LETTERS.fullmatch(answer):
        raise Reject("unknown answer", answer)
    if not set(answer) <= set(letters):
        raise Reject("answer is no option", answer)
    return Exam(question, tuple(options), answer, explanation)


cmexam = partial(parsed_rows, partial(exam_row, answered=True), tabular=True)
ceval = cmmlu = partial(parsed_rows, exam_row, tabular=True)
medqa = partial(parsed_rows, medqa_row)
