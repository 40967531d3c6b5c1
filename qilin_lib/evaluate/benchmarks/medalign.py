"""MedAlign (Fleming et al. 2023, arXiv 2308.14089): instructions of clinicians about records of patients.

Nothing here trains on it, and no endpoint is sent a record unless `eval.medalign_endpoints` names it: whoever has the
data has signed that. Asked and measured as HELM does it (stanford-crfm/helm@63754d0): of a record too long for the
context the newest part is kept, and what an answer is worth says a judge who knows the clinician's
(`eval.judge: {by: NAME, preset: medalign, benchmark: medalign}`). The sentences of the prompt are ours.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.decode import string
from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.readers.stream import Reject, plain_name
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmarks.huatuo import Huatuo
from qilin_lib.evaluate.items import Item, Unreadable, cap, files_of, label, opened, records, said, unusable
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Messages, Prompt, fit

ASKED = "以下是一位患者的病历：\n{record}\n\n请根据病历回答：{question}"
COLUMNS = {("bleu_1",): "BLEU-1", ("rouge_l",): "ROUGE-L"}
FIELDS = ("question", "person_id", "clinician_response")
CHOSEN = {"annotator_num": "Annotator_1", "is_selected_ehr": "yes"}


@dataclass(frozen=True)
class MedAlign(Huatuo):
    """Instructions, measured as Huatuo-26M's answers are; `patients`: {person_id: record}."""

    patients: dict[str, str]

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        """The instruction after so much of the record (`question`)."""
        return [{"role": "user", "content": ASKED.format(record=question, question=item.question)}]

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        """One per item; a record that is too long loses its beginning, which makes it `truncated`."""
        new, asked = self.new_tokens(backend), []
        for item in items:
            record = replace(item, question=self.patients[item.groups["person_id"]])
            asked.append(fit(partial(self.messages, item), record, (), self.forced, backend, new))
        return asked


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The one task: instructions that have a record and an answer. QilinError where an endpoint would see a record."""
    for model, line in params.baselines.items():
        judges = params.judge is not None and (params.judge.benchmark, params.judge.by) == (name, model)
        sees = judges or line.benchmarks is None or name in line.benchmarks
        if line.endpoint and sees and model not in params.medalign_endpoints:
            raise QilinError(
                f"eval.baselines.{model} is at an endpoint, to which no record of MedAlign is sent unasked; nearest "
                f"valid: eval.medalign_endpoints: [{model}], or eval.further_benchmarks without {name}"
            )
    with files_of(folder) as files:
        known, broken = _rows(folder, [file for file in files if file.fits("**/*.csv")])
        ehrs = {match[1]: file for file in files if (match := re.search(r"(\d+)\.xml$", plain_name(file.file)))}
        items, invalid = [], broken
        for identity, row in known.items():
            question, person, answer = (row.get(field, "") for field in FIELDS)
            item = Item(name, identity, "test", None, question, None, None, answer, {"person_id": person})
            there = {"question": question, f"record EHR_{person}.xml": person in ehrs, "clinician's answer": answer}
            if lacks := [what for what, is_there in there.items() if not is_there]:
                invalid.append(unusable(name, *row["place"], f"no {lacks[0]}", question))
            else:
                items.append(item)
        if not items:
            raise Unreadable(folder, "has no instruction with its record and a clinician's answer")
        kept = cap(items, params.max_items_further, params.seed)
        patients = {
            one: "".join(opened(folder, ehrs[one]).pieces())
            for one in dict.fromkeys(item.groups["person_id"] for item in kept)
        }
    how = {"max_new_tokens": params.max_new_tokens_dialogue}, params.tokenisation, patients
    return [MedAlign(name, FIXED, "test", params.max_items_further, kept, invalid, *how)]


def _rows(folder: Path, tables: Sequence[Found]) -> tuple[dict[str, dict[str, Any]], list[dict]]:
    """({instruction_id: its FIELDS out of all tables, and the place of its question}, what cannot be read).

    Rows of other annotators than the first, and of records that were not selected, are passed over, as in HELM.
    """
    known: dict[str, dict[str, Any]] = {}
    broken = []
    for file, line, row in ((one, *numbered) for one in tables for numbered in records(folder, one)):
        place = label(file), line
        if isinstance(row, Reject):
            broken.append(unusable("medalign", *place, said(row), row.shown))
            continue
        if any(string(row.get(name, wanted)) != wanted for name, wanted in CHOSEN.items()):
            continue
        own = known.setdefault(string(row.get("instruction_id")), {"place": place})
        if "question" not in own and "question" in row:
            own["place"] = place
        own |= {name: text for name in FIELDS if name not in own and (text := string(row.get(name)))}
    known.pop("", None)
    return known, broken
