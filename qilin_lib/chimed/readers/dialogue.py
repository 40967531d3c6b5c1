"""Dialogues: Toyhom, MedDialog (JSON and text), ReMeDi, the authors' release; and questions with answers, chats and
instructions, medical and general, whose forms `instruction_row` tells apart (paper §3.2.1)."""

from __future__ import annotations

import itertools
import re
from array import array
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from qilin_lib.chimed.readers.decode import Found, field_text, parsed, parsed_rows, required, string
from qilin_lib.chimed.readers.json_text import holds_rows
from qilin_lib.chimed.readers.stream import Reject, Stream, plain_name
from qilin_lib.chimed.readers.turns import Turn, instruction_row, messages, question_and_answer, speaker_of, talk
from qilin_lib.chimed.records import Dialogue


def release_row(row: Any) -> Dialogue:
    """{"conversations": [{"from": "input", …}, {"from": "output", …}, …]}, as the authors' code reads their sft.jsonl.

    That code drops a dialogue of an odd number of turns and knows no other role; so is it here, and counted.
    """
    if not isinstance(row, dict) or "conversations" not in row:
        raise Reject("missing field", "conversations")
    dialogue = talk(messages(row["conversations"]))
    speakers = [string(message.get("from")) if isinstance(message, dict) else "" for message in row["conversations"]]
    if unknown := sorted(set(speakers) - {"input", "output"}):
        raise Reject("unknown speaker", unknown[0])
    if speakers != ["input", "output"] * (len(speakers) // 2):
        raise Reject("turns do not alternate", f"{len(speakers)} turns: {' '.join(speakers)}")
    return dialogue


def toyhom_row(row: Any) -> Dialogue:
    """department,title,ask,answer (the repository's README calls `ask` "question").

    The title is said first unless ask has it.
    """
    answer, title, ask = required(row, "answer"), *(field_text(row.get(name)) for name in ("title", "ask"))
    ask = ask or field_text(row.get("question"))
    if ask in ("同上", title):
        ask = ""
    if not (title or ask):
        raise Reject("empty field", "title and ask")
    return question_and_answer(ask if title in ask else f"{title}\n{ask}".strip(), answer)


def meddialog_row(row: Any) -> Dialogue:
    """One dialogue in any of the forms in which MedDialog goes round.

    ["病人：…", "医生：…", …] (train_data.json); {"utterances": the same list} (processed.zh); {"dialogue_turns":
    [{speaker, utterance}, …] or {speaker: […], utterance: […]}} with speakers by name or as class numbers (zh);
    {medical_case, doctor_diagnosis}.
    """
    return instruction_row({"utterances": row} if isinstance(row, list) else row)


def meddialog(file: str, stream: Stream) -> Found:
    """MedDialog: JSON, or the text files as they are downloaded."""
    if plain_name(file).lower().endswith(".txt") and not holds_rows(stream):
        return _meddialog_text(stream)
    return parsed_rows(meddialog_row, file, stream)


_ID = re.compile(r"id\s?=\s?\d+")
# The headings of a block; all but the first end the dialogue.
_HEADINGS = ("Dialogue", "Diagnosis and suggestions", "Description", "Doctor faculty")
_SPOKEN = re.compile(r"(病人|患者|医生)\s?[：:](.*)")


def _meddialog_text(stream: Stream) -> Found:
    """Blocks that begin with "id=…"; below "Dialogue" a line "病人：" or "医生：" begins a turn, which may have many.

    Of a block the dialogue alone is read, as in MedDialog's own JSON; a block that has none is a Reject.
    """
    start, inside, turns = 0, False, []
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line
        elif _ID.fullmatch(line := line.strip()):
            if start:
                yield start, parsed(_block, turns)
            start, inside, turns = number, False, []
        elif line in _HEADINGS:
            inside = line == _HEADINGS[0]
        elif inside and (spoken := _SPOKEN.fullmatch(line)):
            turns.append((speaker_of(spoken[1]), [spoken[2].strip()]))
        elif inside and turns:
            turns[-1][1].append(line)
        start = start or number * bool(line)
    if start:
        yield start, parsed(_block, turns)


def _block(turns: list[tuple[str, list[str]]]) -> Dialogue:
    if not turns:
        raise Reject("no dialogue", "no turns")
    return talk((who, "\n".join(filter(None, lines))) for who, lines in turns)


def remedi(file: str, stream: Stream) -> Found:
    """ReMeDi: a line holds a dialogue up to one response, so a dialogue of n responses stands there n times, growing.

    Two passes: the first keeps 8 bytes a turn, the second gives the lines whose turns no other line goes on from.
    """
    own, beginnings = array("q"), array("q")
    for _, turns in _remedi_lines(stream):
        if not isinstance(turns, Reject):
            _, *shorter, whole = itertools.accumulate(turns, lambda before, turn: hash((before, turn)), initial=0)
            own.append(whole)
            beginnings.extend(shorter)
    is_part = iter(np.isin(np.asarray(own), np.asarray(beginnings)).tolist())
    for number, turns in _remedi_lines(stream):
        if isinstance(turns, Reject) or not next(is_part):
            yield number, parsed(talk, turns)


_TURN = re.compile(r"<\|(user|system|currentuser|response)\|>(.*?)(?=<\||$)")
_TAGS = {"user": "user", "currentuser": "user", "system": "assistant", "response": "assistant"}


def _remedi_lines(stream: Stream) -> Iterator[tuple[int, list[Turn] | Reject]]:
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line
            continue
        needed = ("<|context|>", "<|endofcontext|>", "<|currentuser|>", "<|response|>")
        if not (missing := [tag for tag in needed if tag not in line]):
            yield number, [(_TAGS[tag], " ".join(text.split())) for tag, text in _TURN.findall(line)]
        elif line.strip():
            yield number, Reject("broken tags", f"no {missing[0]}", line)


toyhom = partial(parsed_rows, toyhom_row, tabular=True)
chimed_release = partial(parsed_rows, release_row)
instructions = partial(parsed_rows, instruction_row)
