"""Dialogues of several turns: a model is given what was said and writes the doctor's last turn.

MC (Chunyu's dialogues) is what ChiMed-GPT is evaluated on; CMtMedQA and MedDialog are public sets of the same kind.
CMtMedQA's test file is a benchmark for notebook 01 too. Of the rest of it and of MedDialog 01 makes training data:
there a dialogue is asked only if 01 says that nothing was trained on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib.chimed.batches import encoded, identity
from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.deidentify import deidentify_all
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.readers.turns import speaker_of, talk
from qilin_lib.chimed.records import Dialogue, Record, Rejection, excerpt, mapped
from qilin_lib.chimed.sources import BY_NAME, TRAINING_SETS, files_read, listed, units, unread
from qilin_lib.errors import QilinError
from qilin_lib.evaluate import huatuo
from qilin_lib.evaluate.benchmark_files import Unreadable, files_of, label, opened
from qilin_lib.evaluate.items import Item, Reading, cap, unusable
from qilin_lib.evaluate.prompts import Messages, Prompt, dialogue_messages, fit
from qilin_lib.evaluate.replies import spoken
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.task import FIXED, Task
from qilin_lib.evaluate.texts import text_statistics
from qilin_lib.files import read_json, read_jsonl, sha256_file

TRAIN, HELDOUT, UNUSED, TEST = "train", "heldout", "unused", "test"
SETS = ("cpt", "sft")
EVAL = ("eval",)
BY_CONTEXT = ("bleu_1", "bleu_4", "rouge_l")
LONG = 3
"""Dialogues with so many exchanges before the question, or more, are one group."""
_LINE = re.compile(r'\{"id": "((.+)-\d+)"')
_SPEAKERS = {"P": "patient", "D": "doctor"}
Unit = tuple[str, Record | Rejection]


def task(name: str, folder: Path, params: Any, built: Path | None) -> Task:
    """ "cmtmedqa", "meddialog" or "mc": what is usable and unseen, at most `params.max_items_further` of it.

    `invalid` lists the unusable dialogues and those that `built` (01's folder; None: nothing was trained on) trains on.
    Unreadable when the folder holds no dialogue, QilinError when it holds other files than those that 01 was made from.
    """
    items, invalid = dialogue_items(name, folder, built)
    if not (items or invalid):
        left = unread(BY_NAME[folder.name], folder.parent) if folder.name in BY_NAME else {}
        raise Unreadable(folder, f"holds no dialogue that can be read: {listed(left) or 'no file'}")
    new = {"max_new_tokens": params.max_new_tokens_dialogue}
    kept = cap(items, params.max_items_further, params.seed)
    asked, measured = partial(prompts, **new), partial(statistics, how=params.tokenisation)
    limit, write, split = params.max_items_further, partial(answer, **new), TEST if _is_test(folder) else "unseen"
    return Task(name, FIXED, split, limit, kept, invalid, new, False, asked, write, measured)


def prompts(items: Sequence[Item], backend: Any, shots: int, max_new_tokens: int) -> list[Prompt]:
    """The dialogue turn by turn up to the patient's last; `shots` of the prompt counts the exchanges that it holds.

    What is too long loses whole exchanges, the oldest first, then the beginning of the patient's turn; either makes it
    `truncated`. There are no examples, whatever `shots` says.
    """
    return [_prompt(item, backend, max_new_tokens) for item in items]


def _prompt(item: Item, backend: Any, max_new_tokens: int) -> Prompt:
    def build(question: str, left: Sequence[Item]) -> Messages:
        return dialogue_messages(question, left)

    history = [replace(item, question=said, reference=answered, history=()) for said, answered in item.history]
    prompt = fit(build, item, history, "", backend, max_new_tokens)
    # No other dialogue begins with this one's history.
    return replace(prompt, truncated=prompt.truncated or prompt.shots < len(history), shared=0)


def answer(items: Sequence[Item], asked: Sequence[Prompt], backend: Any, max_new_tokens: int) -> list[dict]:
    """`output`: the doctor's turn as the model writes it; `exchanges`: how many came before, `exchanges_kept` of them
    are in the prompt.
    """
    replies = backend.generate(asked, max_new_tokens)
    return [
        {"output": reply.text, **reply.ending, "exchanges": len(item.history), "exchanges_kept": prompt.shots}
        for item, prompt, reply in zip(items, asked, replies, strict=True)
    ]


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


def dialogue_items(name: str, folder: Path, built: Path | None) -> Reading:
    """The dialogues nobody trained on, in file order, and why each of the others is not asked.

    CMtMedQA: the test files (*_test.json) if there are any, else everything. Ids are those of notebook 01, in MC the
    file's own. Unusable: what the reader rejects, a dialogue that does not end with the doctor, an id that came before.
    An item's `split` is "test" (of such a file, and MC), "heldout" (01 held it out of CPT and SFT) or "unused".
    """
    fate = _fates(built, folder)
    items, invalid, seen = [], [], set()
    for own, read in _read(folder):
        if isinstance(read, Rejection):
            invalid.append(unusable(name, read.file, read.line, f"{read.reason}: {read.detail}", read.excerpt))
            continue
        turns, split = read.payload.turns, fate(own, read)
        place = partial(unusable, name, read.file, read.line, text=turns[0])
        if len(turns) % 2:
            invalid.append(place("the dialogue does not end with the doctor"))
        elif own in seen:
            invalid.append(place(f"id {own} came before"))
        elif split == TRAIN:
            invalid.append(place(f"{own} or a near-duplicate is trained on", reason="in the training split"))
        else:
            history = tuple(zip(turns[:-2:2], turns[1:-2:2], strict=True))
            items.append(Item(name, own, split, None, turns[-2], None, None, turns[-1], history=history))
        seen.add(own)
    return items, invalid


def _read(folder: Path) -> Iterator[Unit]:
    """(id, what was read) of a folder: by the readers and in the numbering of notebook 01 where it knows the folder."""
    if folder.name in BY_NAME:
        source, test = BY_NAME[folder.name], _is_test(folder)
        found = units(source, folder.parent, EVAL if test else TRAINING_SETS, notes={})
        for number, unit in enumerate(found, start=1):
            yield identity(f"{source.name}-test" if test else source.name, number), unit.read
        return
    with files_of(folder, "*.txt", advice="dialogues stand in lines id, P and D") as files:
        for file in files:
            yield from mc(label(file), opened(folder, file))


def _is_test(folder: Path) -> bool:
    """Whether the folder's dialogues are a test set for notebook 01 too, or a set that it does not know."""
    source = BY_NAME.get(folder.name)
    return source is None or next(units(source, folder.parent, EVAL), None) is not None


def mc(file: str, stream: Stream) -> Iterator[Unit]:
    """Chunyu's dialogues (COLING 2020, main.63): "id<TAB>…" begins one, "P<TAB>…" is the patient, "D<TAB>…" the doctor.

    Turns of one speaker that follow each other are joined. Rejection: any other line, turns before the first id, a
    dialogue in which the doctor speaks first or nobody answers.
    """
    blocks: list[tuple[int, str, list[tuple[str, str]]]] = []
    for number, line in stream.lines():
        tag, text = _tagged(line)
        if tag == "id" or tag and not blocks:
            blocks.append((number, text if tag == "id" else "", []))
        if tag not in ("", "id"):
            blocks[-1][2].append((_SPEAKERS.get(tag, tag), text))
    for line, own, turns in blocks:
        shown = excerpt(" ".join(text for _, text in turns))
        try:
            if not own:
                raise Reject("no id", f"line {line}")
            yield own, Record("mc", file, line, talk((speaker_of(who), text) for who, text in turns))
        except Reject as no:
            yield own, Rejection("mc", file, line, no.reason, excerpt(no.detail), shown)


def _tagged(line: str | Reject) -> tuple[str, str]:
    """(tag, text) of a line, ("", "") of an empty one; a line without a tag is one by itself, so that it is noticed."""
    if isinstance(line, Reject):
        return line.reason, line.detail
    tag, tab, text = line.strip().partition("\t")
    return (tag, text.strip()) if tab or tag in ("id", *_SPEAKERS) else (tag[:20], tag)


# --- what was trained on ----------------------------------------------------------------------------------------------


def _fates(built: Path | None, folder: Path) -> Callable[[str, Record], str]:
    """(id, record) -> "train" where CPT, SFT or DPO trains on it, "heldout" where CPT or SFT has it, else "unused".

    What 01 makes training data of: by its ids, those it dropped as duplicates by the record they are duplicates of. A
    test set ("test" instead of "unused"): by the whole text, as 01 would have written it; a copy that differs in a
    character is not noticed here. DPO: by the last exchange.
    """
    test = _is_test(folder)
    unseen = TEST if test else UNUSED
    if built is None:
        return lambda own, read: unseen
    for name in (*SETS, "dpo", "dropped"):
        if not (built / f"{name}.jsonl").is_file():
            raise QilinError(f"{built} has no {name}.jsonl, so what was trained on is not known; run notebook 01 first")
    if not test:
        _same_files(built, folder)
        known = _Known.of(built, folder.name).fate
    else:
        copies = _copies(built, [(own, read.payload) for own, read in _read(folder) if isinstance(read, Record)])

        def known(own: str, read: Record) -> str:
            return TRAIN if own in copies else unseen

    preferred = _preferences(built)

    def fate(own: str, read: Record) -> str:
        split = known(own, read)
        return split if split == TRAIN or _written(read.payload).turns[-2:] not in preferred else TRAIN

    return fate


def _written(said: Dialogue) -> Dialogue:
    """The dialogue with the text that 01 writes: cleaned and de-identified."""
    return mapped(said, lambda turns: deidentify_all([clean(turn) for turn in turns])[0])


def _preferences(built: Path) -> set[tuple[str, str]]:
    """(question, answer) of the training split of DPO, preferred and rejected answers alike."""
    rows = (row for row in read_jsonl(built / "dpo.jsonl") if row["split"] == TRAIN)
    return {(row["prompt"][-1]["content"], row[kind][0]["content"]) for row in rows for kind in ("chosen", "rejected")}


def _same_files(built: Path, folder: Path) -> None:
    """Ids count the units of a folder, so they say nothing of other files than those that were counted."""
    manifest = built / "manifest.json"
    if not manifest.exists():  # 01 is still at work, or its build was called by itself
        return
    recorded = read_json(manifest)["inputs"]["raw"]
    for place, path in files_read(folder.parent, [folder.name]).items():
        if place.startswith(f"{folder.name}/") and recorded.get(place) != sha256_file(path):
            raise QilinError(f"{path} is not what 01_build_chimed read as {place}; run notebook 01 again")


@dataclass(frozen=True)
class _Known:
    """What notebook 01 did with a source. `splits`: {set: {id: split}}, of its own records and of those that its
    duplicates are duplicates of; `duplicates`: {set: {(file, line): ids of those records}}.
    """

    splits: dict[str, dict[str, str]]
    duplicates: dict[str, dict[tuple[str, int], set[str]]]

    @classmethod
    def of(cls, built: Path, source: str) -> _Known:
        duplicates: dict[str, dict[tuple[str, int], set[str]]] = {name: {} for name in SETS}
        for row in read_jsonl(built / "dropped.jsonl"):
            if row["source"] == source and row["reason"] == "duplicate" and row["set"] in SETS:
                place, keeper = (row["file"], row["line"]), row["detail"].removeprefix("of ")
                duplicates[row["set"]].setdefault(place, set()).add(keeper)
        splits = {
            name: _splits(built / f"{name}.jsonl", source, set().union(*duplicates[name].values())) for name in SETS
        }
        return cls(splits, duplicates)

    def fate(self, own: str, read: Record) -> str:
        # A line can hold several dialogues; one that was not kept itself may be any of the duplicates found there.
        found = set()
        for name, splits in self.splits.items():
            ids = {own} if own in splits else self.duplicates[name].get((read.file, read.line), set())
            found |= {splits[other] for other in ids if other in splits}
        return TRAIN if TRAIN in found else HELDOUT if found else UNUSED


def _splits(path: Path, source: str, others: set[str]) -> dict[str, str]:
    """{id: split} of a source's records and of `others` in a set; only their lines are parsed."""
    found = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            begun = _LINE.match(line)
            if begun is None:
                raise QilinError(
                    f"{path} has a line that does not begin with an id: {line[:40]}; run notebook 01 again"
                )
            if begun[2] == source or begun[1] in others:
                found[begun[1]] = json.loads(line)["split"]
    return found


def _copies(built: Path, dialogues: Sequence[tuple[str, Dialogue]]) -> set[str]:
    """Ids of the dialogues whose whole text, as 01 would write it, is a record of the training split of CPT or SFT."""
    clean_ones = [(own, _written(said)) for own, said in dialogues]
    copies: set[str] = set()
    for name in SETS:
        wanted: dict[str, set[str]] = {}
        for own, said in clean_ones:
            wanted.setdefault(f'{encoded(compose(name, said))}, "split": "{TRAIN}"}}', set()).add(own)
        key = '"text": ' if name == "cpt" else '"messages": '
        with open(built / f"{name}.jsonl", encoding="utf-8") as lines:
            for line in lines:
                _, _, body = line.rstrip("\n").partition(f", {key}")
                copies |= wanted.get(key + body, set())
    return copies
