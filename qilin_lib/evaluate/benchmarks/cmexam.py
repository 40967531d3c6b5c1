"""CMExam (Liu et al. 2023, arXiv 2306.03030): licensing-exam questions, answered and explained (Table 5).

One greedy generation after the forced "答案：" gives both. Unlike in the scripts in use, all options count (E too),
each item may have several answers (a template chosen by the gold answer's length leaks it), and unparsed is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.decode import string
from qilin_lib.chimed.readers.exam import exam_row
from qilin_lib.chimed.records import Exam
from qilin_lib.evaluate import released
from qilin_lib.evaluate.benchmarks.answers import Written, marked
from qilin_lib.evaluate.benchmarks.exams import by
from qilin_lib.evaluate.extraction import NEXT
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import GROUPS, Item, Reading, cap, files_of, questions, reference_of, there
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.metrics import f1_rows, f1_weighted, text_statistics
from qilin_lib.evaluate.plan import FIXED, RELEASED, Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, cmexam_messages
from qilin_lib.evaluate.replies import Reply, failures, letters, spoken, unread
from qilin_lib.evaluate.scores import Table

NOT_ANNOTATED = "(not annotated)"
REASONING = ("bleu_1", "bleu_4", "rouge_1", "rouge_2", "rouge_l")
_MARK = re.compile(r"[(【\[#*]*\s*(?:答案)?(?:解释|解析|分析|理由|Explanation)(?:\s*[)】\]*]*\s*[:：][*\s]*|[】\]]\s*)")
_RUN_ON = re.compile(rf"\n[ \t]*答案\s*[:：]|{NEXT.pattern}")


def cmexam_items(raw_dir: str | Path, split: str = "test") -> Reading:
    """CMExam's questions of one split. Options come joined by real newlines or by a literal backslash-n: both are read.

    Reads `cmexam/<split>_with_annotations.csv` (the same rows, with GROUPS), else `<split>.csv`. Unusable: what the
    reader of notebook 01 rejects. Raises Unreadable when there is no such file, or it cannot be used.
    """
    folder = there(raw_dir) / "cmexam"

    def item(place: int, known: Exam, row: Any) -> tuple[str, Item]:
        groups = {name: value for column, name in GROUPS.items() if (value := string(row.get(column.lower())))}
        options, reference = dict(known.options), reference_of(known.explanation)
        identity = f"{split}-{place:05d}"
        made = Item("cmexam", identity, split, None, known.question, options, known.answer, reference, groups)
        return "", made

    with files_of(folder, f"{split}_with_annotations.csv", f"{split}.csv") as (file, *_):
        return questions("cmexam", folder, file, partial(exam_row, answered=True), item, tabular=True)


def split_reply(reply: str, forced: bool) -> tuple[str, str]:
    """(answer, explanation) of a reply, parted at "解释：" (the form taught in training).

    Without it all of the reply is the answer, and the explanation is what follows its first line or sentence. A reply
    begun with "答案：" (`forced`) ends before another answer or question.
    """
    mark = _MARK.search(reply)
    if mark:
        return reply[: mark.start()].strip(), reply[mark.end() :].strip()
    stop = (_RUN_ON if forced else NEXT).search(reply.lstrip())
    answer = reply.lstrip()[: stop.start()] if stop else reply
    first = re.search(r"[\n。]", answer)
    return answer.strip(), answer[first.end() :].strip() if first else ""


def statistics(records: Sequence[dict], how: str = "char") -> Table:
    """The columns of Table 5: answers over all records, reasoning over those with a gold explanation.

    "parsed_only": over the rows with a readable answer alone, as CMExam's own evaluation of GPT and ChatGLM counts
    (evaluate_gpt_result.py of its repository), which flatters a model that often gives none.
    """
    explained = [record for record in records if record["reference"]]
    texts = text_statistics([r["explanation"] for r in explained], [r["reference"] for r in explained], how)
    parsed = [record for record in records if record["prediction"] is not None]
    table = _accuracies(records) | failures(records, unread) | {name: texts[name] for name in REASONING}
    return table | {"parsed_only": _accuracies(parsed), "groups": groups(records)}


def _accuracies(records: Sequence[dict]) -> Table:
    rows = f1_rows([record["gold"] for record in records], [record["prediction"] for record in records])
    accuracy = proportion([record["correct"] for record in records])
    return {"accuracy": accuracy, "f1_weighted": Statistic(rows, f1_weighted)}


def groups(records: Sequence[dict]) -> dict[str, dict[str, Statistic]]:
    """Accuracy of records for each value of each annotation column that any of them has: {column: {value: Statistic}}.

    Values in code point order; records without one stand last, so that every column adds up to all records.
    """
    table: dict[str, dict[str, Statistic]] = {}
    for column in GROUPS.values():
        if any(column in record["groups"] for record in records):
            own = by(records, lambda record, column=column: record["groups"].get(column, NOT_ANNOTATED))
            without = {name: own.pop(name) for name in (NOT_ANNOTATED,) if name in own}
            table[column] = own | without
    return table


@dataclass(frozen=True)
class CMExam(Written):
    """CMExam's questions, all kinds of answers alike; `output` is what stands after "答案："."""

    tokenisation: str
    forced = REPLY_PREFIX

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        return cmexam_messages(question, item)

    def read(self, item: Item, reply: Reply) -> dict[str, Any]:
        """Letters and explanation, thoughts left out. After a forced "答案：" the answer stands before "解释："; only
        when none can be read there is the whole reply searched. Any other reply may reason first."""
        options = item.options or {}
        answer, explanation = split_reply(spoken(reply.text), reply.forced)
        chosen = letters(reply._replace(text=answer), options, True, item.question) if reply.forced else None
        return marked(item, chosen or letters(reply, options, True, item.question)) | {"explanation": explanation}

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records, self.tokenisation)


@dataclass(frozen=True)
class ReleasedCMExam(Task):
    """As the authors' evaluator asks and counts."""

    statistics, answer = staticmethod(released.cmexam_statistics), staticmethod(released.cmexam_answer)

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        return released.cmexam_prompts(items, backend)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """CMExam under both protocols, without examples."""
    items, invalid = cmexam_items(folder.parent, params.cmexam_split)
    limit, new = params.max_items_cmexam, {"max_new_tokens": params.max_new_tokens_cmexam}
    common = (params.cmexam_split, limit, cap(items, limit, params.seed), invalid)
    return [CMExam(name, FIXED, *common, new, params.tokenisation), ReleasedCMExam(name, RELEASED, *common, {})]
