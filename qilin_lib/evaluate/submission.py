"""C-Eval's submission file: every answer to the test split, for its authors' server.

Form (github.com/hkust-nlp/ceval, "How to submit"): {"subject": {"0": "A", …}, …}, the keys being the questions' ids.
The server reports "mismatched questions" for a missing or extra id (issue 43) and computes nothing for a subject with
fewer than 50 (issues 79, 85), so the file is written whole or not at all. An answer that could not be read is "-", what
C-Eval's own evaluators put there: it is no option, so it counts as wrong, and no answer is guessed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.subjects import TEST_QUESTIONS
from qilin_lib.files import write_json

UNPARSED = "-"


def write(records: Sequence[dict], path: str | Path) -> None:
    """Write one model's C-Eval test records as the submission file.

    Raises QilinError unless they are the 12,342 questions of the 52 subjects, each once.
    """
    write_json(path, submission(records))


def submission(records: Sequence[dict]) -> dict[str, dict[str, str]]:
    """{subject: {id: letter or "-"}}, subjects in alphabetical order, ids in their own.

    Raises QilinError as `write` does, naming the subjects and ids that are missing, strange or there twice.
    """
    answers: dict[str, dict[str, str]] = {
        subject: dict.fromkeys(map(str, range(n)), "") for subject, n in sorted(TEST_QUESTIONS.items())
    }
    for record in records:
        name, slots = record["id"], answers.get(record["subject"], {})
        number = name.removeprefix(f"{record['subject']}-")
        if record["split"] != "test":
            raise QilinError(f"C-Eval record {name} is of split '{record['split']}'; set eval.ceval_split to 'test'")
        if number not in slots:
            raise QilinError(f"C-Eval record {name} is not a question of C-Eval's test split; its ids count from 0")
        if slots[number]:
            raise QilinError(f"C-Eval record {name} comes twice; a submission answers each question once")
        slots[number] = record["prediction"] or UNPARSED
    _check_complete(answers)
    return answers


def _check_complete(answers: dict[str, dict[str, str]]) -> None:
    missing = {subject: [n for n, letter in given.items() if not letter] for subject, given in answers.items()}
    absent = [subject for subject, given in answers.items() if len(missing[subject]) == len(given)]
    if absent:
        raise QilinError(
            f"a C-Eval submission needs all {len(answers)} subjects, but no test record is of {', '.join(absent)}; "
            "set eval.ceval_subjects to null"
        )
    short = [f"{subject} {len(ids)} (the first: {ids[0]})" for subject, ids in missing.items() if ids]
    if short:
        raise QilinError(
            f"a C-Eval submission needs every question, but some have no test record: {', '.join(short)}; "
            "set eval.max_items_ceval_per_subject to null"
        )
