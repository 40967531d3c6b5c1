"""Break-downs of exam records: C-Eval by category, CMExam by annotation column and over its parsed rows only."""

from __future__ import annotations

from collections.abc import Sequence

from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import GROUPS
from qilin_lib.evaluate.metrics import f1_rows, f1_weighted
from qilin_lib.evaluate.subjects import CATEGORIES

NOT_ANNOTATED = "(not annotated)"
NO_CATEGORY = "(no category)"


def categories(records: Sequence[dict]) -> dict[str, Statistic]:
    """Accuracy of each C-Eval category over the records with a gold answer, every subject with the same weight.

    That is how C-Eval averages (Huang et al. 2023). A category without such records is an empty Statistic; subjects
    that are not C-Eval's own (mapping.json may add some) stand under NO_CATEGORY.
    """
    known = [record for record in records if record["gold"] is not None]
    table = {name: _by_subject([r for r in known if r["subject"] in members]) for name, members in CATEGORIES.items()}
    strange = [r for r in known if not any(r["subject"] in members for members in CATEGORIES.values())]
    return table | ({NO_CATEGORY: _by_subject(strange)} if strange else {})


def groups(records: Sequence[dict]) -> dict[str, dict[str, Statistic]]:
    """Accuracy of CMExam records for each value of each annotation column: {column: {value: Statistic}}.

    The columns are those that any record has (items.GROUPS; {} for a file without them), the values in code point
    order. Records without a value stand last, under NOT_ANNOTATED, so that every column adds up to all records.
    """
    table: dict[str, dict[str, Statistic]] = {}
    for column in GROUPS.values():
        members: dict[str, list[bool]] = {}
        for record in records:
            members.setdefault(record["groups"].get(column, NOT_ANNOTATED), []).append(record["correct"])
        if set(members) - {NOT_ANNOTATED}:
            ordered = sorted(members, key=lambda value: (value == NOT_ANNOTATED, value))
            table[column] = {value: proportion(members[value]) for value in ordered}
    return table


def parsed_only(records: Sequence[dict]) -> dict[str, Statistic]:
    """Accuracy and weighted F1 over the rows with a parsed answer alone, n = such rows: CMExam's second column.

    CMExam's evaluation of GPT and ChatGLM leaves the other rows out, which flatters a model that often gives no
    readable answer (Liu et al. 2023, arXiv 2306.03030, the repository's evaluate_gpt_result.py).
    """
    parsed = [record for record in records if record["prediction"] is not None]
    rows = f1_rows([record["gold"] for record in parsed], [record["prediction"] for record in parsed])
    return {
        "accuracy": proportion([record["correct"] for record in parsed]),
        "f1_weighted": Statistic(rows, f1_weighted),
    }


def _by_subject(records: Sequence[dict]) -> Statistic:
    return proportion([record["correct"] for record in records], [record["subject"] for record in records])
