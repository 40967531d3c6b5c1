"""A simulated patient: the model asks, the patient says what its record holds, and the model never sees the record.

RuleAlign (arXiv 2408.12579) tests so; its patient and its criteria are not public. Ours says the lines of the record
that a question asks for by one of their words, or is played by a model at an endpoint (`eval.patient.by`) that reads
the record. The criteria of each case are a judge's: `eval.judge: {by: NAME, preset: healthbench, benchmark: patients}`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pydantic import Field

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.benchmarks.rubrics import Rubrics, checked
from qilin_lib.evaluate.endpoint import EndpointBackend, connected
from qilin_lib.evaluate.intervals import mean_of
from qilin_lib.evaluate.items import Item, all_parts, cap, files_of
from qilin_lib.evaluate.judging.verdicts import Criteria
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Messages, Prompt, fit
from qilin_lib.evaluate.replies import ERROR, STOP, Reply, failures, spoken, unsaid
from qilin_lib.evaluate.scores import Table
from qilin_lib.schema import Baseline
from qilin_lib.strict import Part
from qilin_lib.train.questions import is_question

COLUMNS = {("gathered",): "asked of the record, percent"}
UNKNOWN = "不清楚。"
PLAYED = (
    "你扮演一位来看病的患者。你的情况：\n{record}\n\n到现在为止的对话：\n{said}\n\n"
    "请只写患者的下一句话：医生问到什么就按上面的情况简短回答什么，没有问到的不要主动说，情况里没有的就说不清楚。"
)


class Fact(Part):
    """A line of a record."""

    words: list[str] = Field(min_length=1, description="a question with one of them asks for the line")
    says: str = Field(min_length=1, description="what the patient says then")

    def asked(self, turn: str) -> bool:
        """Whether a doctor's turn asks for it."""
        return is_question(turn) and any(word in turn for word in self.words)


class Case(Part):
    """A patient: what it comes with, what it knows, and what a good conversation has."""

    id: str = Field(min_length=1, description="of its own")
    prompt: str = Field(min_length=1, description="what the patient says first")
    record: list[Fact] = Field(min_length=1, description="what the patient knows")
    rubrics: Criteria = Field(description="the judge's criteria")


@dataclass
class Talk:
    """A conversation as it goes on; `asked`: places of the record's lines that the doctor has asked for."""

    item: Item
    record: list[Fact]
    lines: list[str] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)
    ending: dict[str, str] = field(default_factory=lambda: {"finish": STOP})

    def doctor(self, reply: Reply) -> bool:
        """Note what the doctor says; whether it is anything that can be answered."""
        self.ending, turn = reply.ending, spoken(reply.text)
        if not turn:
            return False
        self.lines.append(f"医生：{turn}")
        self.asked |= {place for place, fact in enumerate(self.record) if fact.asked(turn)}
        self.item = replace(self.item, history=(*self.item.history, (self.item.question, turn)))
        return reply.finish != ERROR

    def patient(self, reply: Reply) -> bool:
        """Note what the patient says; whether it is anything."""
        turn = spoken(reply.text)
        if reply.finish == ERROR or not turn:
            self.ending = {"finish": ERROR, "error": f"the patient said nothing: {reply.error or reply.finish}"}
            return False
        self.lines.append(f"患者：{turn}")
        self.item = replace(self.item, question=turn)
        return True


@dataclass(frozen=True)
class Patients(Rubrics):
    """Conversations with simulated patients; `records` by the items' ids; `actor` at an endpoint, asked `threads`
    times at once, None: the record."""

    records: dict[str, list[Fact]]
    actor: Baseline | None
    threads: int

    @cached_property
    def player(self) -> EndpointBackend:
        """The actor's endpoint: one for all conversations, since its limit of requests is."""
        return connected(self.actor, self.threads)

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        """`output`: the whole conversation; `gathered`: places of the record's lines that the doctor asked for.

        The doctor speaks `exchanges` times, last of all; a turn without words ends it.
        """
        talks = [Talk(item, self.records[item.id]) for item in items]
        going, prompts = list(talks), list(asked)
        for left in reversed(range(self.settings["exchanges"])):
            replies = backend.generate(prompts, self.new_tokens(backend))
            going = [talk for talk, reply in zip(going, replies, strict=True) if talk.doctor(reply)]
            if left == 0 or not going:
                break
            answers = self._patients(going)
            going = [talk for talk, reply in zip(going, answers, strict=True) if talk.patient(reply)]
            prompts = self.prompts([talk.item for talk in going], backend, 0)
        return [
            {
                "output": "\n".join(talk.lines),
                **talk.ending,
                "gathered": sorted(talk.asked),
                "facts": len(talk.record),
            }
            for talk in talks
        ]

    def _patients(self, talks: Sequence[Talk]) -> list[Reply]:
        if self.actor is not None:
            return _played(self.player, talks, self.settings["max_new_tokens"])
        replies = []
        for talk in talks:
            turn = talk.item.history[-1][1]
            known = "".join(fact.says for fact in talk.record if fact.asked(turn))
            replies.append(Reply(known or UNKNOWN))
        return replies

    def statistics(self, records: Sequence[dict]) -> Table:
        """`gathered`: how much of its record a patient was asked for, in percent; and FAILURES."""
        shares = [100 * len(record["gathered"]) / record["facts"] for record in records]
        return {"gathered": mean_of(shares)} | failures(records, unsaid)


def _played(backend: EndpointBackend, talks: Sequence[Talk], new_tokens: int) -> list[Reply]:
    def turn(talk: Talk, *_: Any) -> Messages:
        record = "\n".join(fact.says for fact in talk.record)
        so_far = "\n".join([f"患者：{talk.item.history[0][0]}", *talk.lines])
        return [{"role": "user", "content": PLAYED.format(record=record, said=so_far)}]

    prompts = [fit(partial(turn, talk), talk.item, (), "", backend, new_tokens) for talk in talks]
    return backend.generate(prompts, new_tokens)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The one task of all files of `folder`, rows {id, prompt, record: [{words, says}], rubrics}.

    Unusable: what is not of this form. Unreadable when there is no file, or no usable row in one; QilinError for an
    actor that is no baseline at an endpoint.
    """
    own, actor = params.patient, None
    if own.by is not None:
        there = [model for model, line in params.baselines.items() if line.endpoint]
        if own.by not in there:
            raise QilinError(
                f"eval.patient.by: '{own.by}' is no baseline at an endpoint{nearest(own.by, there)}; there: {there}; "
                "null: the record itself answers"
            )
        actor = params.baselines[own.by]
    cases: dict[str, Case] = {}
    with files_of(folder, "**/*.jsonl") as files:
        items, invalid = all_parts(folder, files, partial(_case, cases), _fits)
    kept, limit = cap(items, params.max_items_further, params.seed), params.max_items_further
    chosen = {item.id: cases[item.id] for item in kept}
    settings = {
        "max_new_tokens": params.max_new_tokens_dialogue,
        "exchanges": own.exchanges,
        "actor": actor and actor.model_dump(mode="json"),
        # Without what only a judge reads: a criterion that changes is no other conversation.
        "cases": [case.model_dump(exclude={"rubrics"}) for case in chosen.values()],
    }
    criteria = {name: case.rubrics for name, case in chosen.items()}
    records = {name: case.record for name, case in chosen.items()}
    played = ("char", criteria, records, actor, params.batch_size)
    return [Patients(name, FIXED, "test", limit, kept, invalid, settings, *played)]


def _fits(row: Any) -> bool:
    return isinstance(row, dict) and {"prompt", "record"} <= row.keys()


def _case(cases: dict[str, Case], place: str, row: Any) -> tuple[str, Item]:
    """(what is wrong with a row, the item), whose case is put into `cases`."""
    wrong, case = checked(Case, row)
    if wrong:
        return wrong, Item("patients", place, "test", None, "", None, None, "")
    cases.setdefault(case.id, case)
    return "", Item("patients", case.id, "test", None, case.prompt, None, None, "")
