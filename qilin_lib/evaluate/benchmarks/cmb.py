"""CMB-Exam (Wang et al. 2023, arXiv 2308.08833): questions of medical exams, with one right answer or several.

Asked as its authors ask without examples ("Answer-only Prompt" of their README, FreedomIntelligence/CMB), the letters
written in one go, as CMExam's are: no scored letter can be several. The test split hides its answers; they came later,
in a file of their own, and belong to the questions by id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.exam import exam_row, letters_of
from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.chimed.records import Exam
from qilin_lib.evaluate.benchmarks.answers import Written, marked, written_tokens
from qilin_lib.evaluate.benchmarks.exams import by
from qilin_lib.evaluate.intervals import proportion
from qilin_lib.evaluate.items import Item, Reading, Unreadable, cap, files_of, questions, records, said
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages
from qilin_lib.evaluate.replies import Reply, failures, letters, unread
from qilin_lib.evaluate.scores import Table

ASKED = "以下是中国{exam_type}中{exam_class}考试的一道{question_type}，不需要做任何分析和解释，直接输出答案选项。\n"
ABOUT = ("exam_type", "exam_class", "question_type")
SINGLE, MULTIPLE = "单项选择题", "多项选择题"
COLUMNS = {
    ("accuracy",): "accuracy",
    ("kinds", SINGLE): "one answer",
    ("kinds", MULTIPLE): "several answers",
}


@dataclass(frozen=True)
class Cmb(Written):
    """Every item is written, whatever a backend could score."""

    forced = REPLY_PREFIX

    def new_tokens(self, backend: Any) -> int:
        return written_tokens(backend)

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        lines = [question, *(f"{letter}. {text}" for letter, text in item.options.items())]
        return [{"role": "user", "content": ASKED.format(**item.groups) + "\n".join(lines)}]

    def read(self, item: Item, reply: Reply) -> dict[str, Any]:
        several = item.groups["question_type"] != SINGLE
        return marked(item, letters(reply, item.options, several, item.question))

    def statistics(self, records: Sequence[dict]) -> Table:
        """`accuracy` (all letters of an answer must be right) and FAILURES over all items; accuracy by number of right
        answers under "kinds", by examination under "exams"."""
        table: Table = {"accuracy": proportion([record["correct"] for record in records])}
        for name, group in (("kinds", "question_type"), ("exams", "exam_type")):
            table[name] = by(records, lambda record, group=group: record["groups"][group])
        return table | failures(records, unread)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The test split where its answers are there, else the validation split."""
    items, invalid = cmb_items(folder)
    limit = params.max_items_further
    return [Cmb(name, FIXED, items[0].split, limit, cap(items, limit, params.seed), invalid, {})]


def cmb_items(folder: Path) -> Reading:
    """Questions of CMB-test*question*.json with the answers of CMB-test*answer*.json, else of CMB-val*.json.

    Unusable: what the reader of notebook 01 rejects, no answer, one that is not among the options. Unreadable when no
    such file is there, or no row of it is usable.
    """
    answers = _answers(folder)
    split, pattern = ("test", "**/CMB-test*question*.json") if answers else ("val", "**/CMB-val*.json")

    def item(place: int, known: Exam, row: Any) -> tuple[str, Item]:
        options, gold = dict(known.options), answers.get(str(row.get("id")), known.answer)
        groups = {name: str(row.get(name) or "") for name in ABOUT}
        made = Item("cmb", f"{split}-{place:05d}", split, None, known.question, options, gold, "", groups)
        if not gold:
            return "no answer", made
        known_letters = set(gold) <= set(options)
        return "" if known_letters else f"answer {gold!r} is not among the options {''.join(options)}", made

    advice = "CMB-Exam has CMB-val-merge.json; or leave 'cmb' out of eval.further_benchmarks"
    with files_of(folder, pattern, advice=advice) as (file, *_):
        return questions("cmb", folder, file, exam_row, item)


def _answers(folder: Path) -> dict[str, str]:
    """{id: letters} of the test split; {} where the file is not there. Unreadable when it is damaged."""
    rows = []
    with files_of(folder) as there:
        for file in [file for file in there if file.fits("**/CMB-test*answer*.json")][:1]:
            for line, row in records(folder, file):
                if isinstance(row, Reject):
                    raise Unreadable(folder / file.file, f"line {line}: {said(row)}")
                rows.append(row)
    answered = (row for row in rows if isinstance(row, dict) and "id" in row)
    return {str(row["id"]): letters_of(str(row.get("answer", ""))) for row in answered}
