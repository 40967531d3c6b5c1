"""Questions of the user's own, each with the criteria of a good answer (HealthBench's form, Arora et al. 2025).

Nothing is measured without a judge: `eval.judge: {by: NAME, preset: healthbench, benchmark: rubrics}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.evaluate.benchmarks.dialogue import Dialogues
from qilin_lib.evaluate.items import Item, all_parts, cap, files_of, said
from qilin_lib.evaluate.judging.verdicts import Criteria, Criterion
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.replies import failures, unsaid
from qilin_lib.evaluate.scores import Table
from qilin_lib.params import failure_sentence


class Rubric(BaseModel):
    """A question, or a conversation that ends in one, with the criteria of a good answer (the form of HealthBench,
    whose further fields are not read)."""

    model_config = ConfigDict(frozen=True)
    rubrics: Criteria = Field(description="the judge's criteria")
    prompt: str | list[dict[str, str]] = Field(min_length=1, description="a question, or turns that end in one")

    @property
    def turns(self) -> list[str]:
        """What was said in turn, by the user first and last."""
        return [self.prompt] if isinstance(self.prompt, str) else [turn.get("content", "") for turn in self.prompt]

    @model_validator(mode="after")
    def _in_turn(self) -> Self:
        roles = ["user"] if isinstance(self.prompt, str) else [turn.get("role") for turn in self.prompt]
        texts = all(map(str.strip, self.turns))
        if not texts or roles != ["user", "assistant"] * (len(roles) // 2) + ["user"]:
            raise ValueError(f"prompt: no texts of user and assistant in turn, the user first and last: {roles}")
        return self


@dataclass(frozen=True)
class Rubrics(Dialogues):
    """Conversations up to the user's last turn; `criteria`: {id of an item: what a good answer says}."""

    criteria: dict[str, list[Criterion]]

    def statistics(self, records: Sequence[dict]) -> Table:
        """FAILURES alone: there is no reference, and what the answers are worth a judge says."""
        return failures(records, unsaid)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The one task of all files of `folder`, JSON of any layout {prompt, rubrics: [{criterion, points}]}; `prompt` is a
    text or HealthBench's list of turns.

    Unusable: what is not of this form. Unreadable when there is no file, or no usable row in one.
    """
    criteria: dict[str, list[Criterion]] = {}
    with files_of(folder, "**/*.jsonl") as files:
        items, invalid = all_parts(folder, files, partial(_item, criteria), _fits)
    kept = cap(items, params.max_items_further, params.seed)
    new, own = {"max_new_tokens": params.max_new_tokens_dialogue}, {item.id: criteria[item.id] for item in kept}
    return [Rubrics(name, FIXED, "test", params.max_items_further, kept, invalid, new, params.tokenisation, own)]


def _fits(row: Any) -> bool:
    return isinstance(row, dict) and {"prompt", "rubrics"} <= row.keys()


def checked(form: type[BaseModel], row: Any) -> tuple[str, Any]:
    """(what is wrong with a row, the row in that form)."""
    if isinstance(row, Reject):
        return said(row), None
    try:
        return "", form.model_validate(row)
    except ValidationError as failure:
        return failure_sentence(form, failure), None


def _item(criteria: dict[str, list[Criterion]], place: str, row: Any) -> tuple[str, Item]:
    """(what is wrong with it, the item), whose criteria are put into `criteria`."""
    identity = str(row.get("prompt_id") or place) if isinstance(row, dict) else place
    wrong, known = checked(Rubric, row)
    if wrong:
        return wrong, Item("rubrics", identity, "test", None, "", None, None, "")
    criteria.setdefault(identity, known.rubrics)
    *before, question = known.turns
    history = tuple(zip(before[::2], before[1::2], strict=True))
    return "", Item("rubrics", identity, "test", None, question, None, None, "", history=history)
