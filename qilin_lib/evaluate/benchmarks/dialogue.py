"""Dialogues of several turns: a model is given what was said and writes the doctor's last turn.

MC (Chunyu's dialogues) is what ChiMed-GPT is evaluated on; CMtMedQA and MedDialog are public sets of the same kind.
CMtMedQA's test file is a benchmark for notebook 01 too. Of the rest of it and of MedDialog 01 makes training data:
there a dialogue is asked only if 01 says that nothing was trained on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.records import Rejection
from qilin_lib.chimed.sources import BY_NAME, listed, unread
from qilin_lib.evaluate.benchmarks import huatuo
from qilin_lib.evaluate.benchmarks.answers import Written, open_settings
from qilin_lib.evaluate.items import Item, Reading, Unreadable, cap, unusable
from qilin_lib.evaluate.lineage import TEST, TRAIN, Lineage, dialogues, is_test
from qilin_lib.evaluate.metrics import text_statistics
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Messages, Prompt, fit
from qilin_lib.evaluate.replies import spoken
from qilin_lib.evaluate.scores import Table

BY_CONTEXT = ("bleu_1", "bleu_4", "rouge_l")
LONG = 3
"""Dialogues with so many exchanges before the question, or more, are one group."""


def statistics(records: Sequence[dict], how: str = "char") -> Table:
    """As `huatuo.statistics`; under "exchanges" some of it by the number of exchanges before the question."""
    groups: dict[str, list[dict]] = {}
    for record in sorted(records, key=lambda record: record["exchanges"]):
        many = record["exchanges"]
        groups.setdefault(str(many) if many < LONG else f"{LONG} or more", []).append(record)
    by_context = {}
    for name, members in groups.items():
        table = text_statistics([spoken(r["output"]) for r in members], [r["reference"] for r in members], how)
        by_context[name] = {metric: table[metric] for metric in BY_CONTEXT}
    return huatuo.statistics(records, how) | {"exchanges": by_context}


def dialogue_items(name: str, folder: Path, trained: Lineage) -> Reading:
    """The dialogues nobody trained on, in file order, and why each of the others is not asked.

    CMtMedQA: the test files (*_test.json) if there are any, else everything. Ids are those of notebook 01, in MC the
    file's own. Unusable: what the reader rejects, a dialogue that does not end with the doctor, an id that came before.
    An item's `split` is "test" (of such a file, and MC), "heldout" (01 held it out of CPT and SFT) or "unused".
    """
    split_of = trained.splits(folder)
    items, invalid, seen = [], [], set()
    for own, read in dialogues(folder):
        if isinstance(read, Rejection):
            invalid.append(unusable(name, read.file, read.line, f"{read.reason}: {read.detail}", read.excerpt))
            continue
        turns, split = read.payload.turns, split_of(own, read)
        place = partial(unusable, name, read.file, read.line, text=turns[0])
        if len(turns) % 2:
            invalid.append(place("the dialogue does not end with the doctor"))
        elif own in seen:
            invalid.append(place(f"id {own} came before"))
        elif not (reference := clean(turns[-1])):
            invalid.append(place("nothing is left of the doctor's answer once it is cleaned"))
        elif split == TRAIN:
            invalid.append(place(f"{own} or a near-duplicate is trained on", reason="in the training split"))
        else:
            history = tuple(zip(turns[:-2:2], turns[1:-2:2], strict=True))
            items.append(Item(name, own, split, None, turns[-2], None, None, reference, history=history))
        seen.add(own)
    return items, invalid


@dataclass(frozen=True)
class Dialogues(Written):
    """Dialogues up to the doctor's last turn; `tokenisation` of BLEU and ROUGE: "char" or "jieba"."""

    tokenisation: str

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        """The dialogue turn by turn up to the patient's last; `shots` of a prompt counts the exchanges that it holds.

        What is too long loses whole exchanges, the oldest first, then the beginning of the patient's turn; either makes
        it `truncated`. There are no examples.
        """
        fitted = []
        for item in items:
            prompt = fit(self.messages, item, item.history, "", backend, self.new_tokens(backend))
            # No other dialogue begins with this one's history.
            fitted.append(replace(prompt, truncated=prompt.truncated or prompt.shots < len(item.history), shared=0))
        return fitted

    @staticmethod
    def messages(question: str, history: Sequence[tuple[str, str]]) -> Messages:
        """What was said before as it was said, then the patient's turn."""
        turns = [text for exchange in history for text in exchange]
        return [
            {"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate([*turns, question])
        ]

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        """`exchanges`: how many came before the doctor's turn, `exchanges_kept` of them are in the prompt."""
        answers = super().answer(items, asked, backend)
        return [
            {**own, "exchanges": len(item.history), "exchanges_kept": prompt.shots}
            for own, item, prompt in zip(answers, items, asked, strict=True)
        ]

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records, self.tokenisation)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """ "cmtmedqa", "meddialog" or "mc": what is usable and unseen, at most `params.max_items_further` of it.

    `invalid` lists the unusable dialogues and those that 01 trains on. Unreadable when the folder holds no dialogue,
    QilinError when it holds other files than those that 01 was made from.
    """
    items, invalid = dialogue_items(name, folder, trained)
    if not (items or invalid):
        left = unread(BY_NAME[folder.name], folder.parent) if folder.name in BY_NAME else {}
        raise Unreadable(folder, f"holds no dialogue that can be read: {listed(left) or 'no file'}")
    limit, new = params.max_items_further, open_settings(params.max_new_tokens_dialogue, params)
    kept, split = cap(items, limit, params.seed), TEST if is_test(folder) else "unseen"
    return [Dialogues(name, FIXED, split, limit, kept, invalid, new, params.tokenisation)]
