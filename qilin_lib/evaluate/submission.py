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
    """Write one model's C-Eval test records as {subject: {id: letter or "-"}}.

    Raises QilinError, naming the first that is missing or strange, unless they are the test split's 12,342 questions.
    """
    wanted = [f"{subject}-{n}" for subject, count in sorted(TEST_QUESTIONS.items()) for n in range(count)]
    given = {record["id"]: record["prediction"] or UNPARSED for record in records if record["split"] == "test"}
    missing, strange = [name for name in wanted if name not in given], sorted(given.keys() - set(wanted))
    if missing or strange:
        named = f"{len(missing)} have no test record" if missing else f"{len(strange)} are no questions of it"
        raise QilinError(
            f"a C-Eval submission needs the {len(wanted)} questions of the test split, but {named}, e.g. "
            f"{(missing or strange)[0]}; set eval.ceval_split to 'test', eval.ceval_subjects and "
            "eval.max_items_ceval_per_subject to null"
        )
    answers: dict[str, dict[str, str]] = {subject: {} for subject in sorted(TEST_QUESTIONS)}
    for name in wanted:
        subject, _, number = name.rpartition("-")
        answers[subject][number] = given[name]
    write_json(path, answers)
