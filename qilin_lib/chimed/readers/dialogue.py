"""Doctor-patient dialogues: Toyhom, MedDialog (JSON and text), ReMeDi, and the authors' release."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from qilin_lib.chimed.readers import stream as streams
from qilin_lib.chimed.readers.decode import (
    Reject,
    csv_reader,
    field_text,
    json_reader,
    required,
    string,
)
from qilin_lib.chimed.readers.json_text import holds_rows
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.readers.turns import messages, question_and_answer, speaker_of, talk
from qilin_lib.chimed.records import Dialogue, Record, Rejection, excerpt


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


def toyhom_row(row: dict[str, str]) -> Dialogue:
    """department,title,ask,answer (the repository's README calls `ask` "question").

    The title is said first unless ask has it.
    """
    title, answer = field_text(row.get("title")), required(row, "answer")
    ask = field_text(row.get("ask", row.get("question")))
    if ask == "同上" or ask == title:
        ask = ""
    if not (title or ask):
        raise Reject("empty field", "title and ask")
    user = ask if title in ask else f"{title}\n{ask}".strip()
    return question_and_answer(user, answer)


def meddialog_row(row: Any) -> Dialogue:
    """One dialogue in any of the forms in which MedDialog goes round.

    ["病人：…", "医生：…", …] (train_data.json); {"utterances": the same list} (processed.zh); {"dialogue_turns":
    [{speaker, utterance}, …] or {speaker: […], utterance: […]}} with speakers by name or as class numbers (zh);
    {medical_case, doctor_diagnosis}.
    """
    if isinstance(row, dict) and "dialogue_turns" in row:
        return talk(_speaker_columns(row["dialogue_turns"]))
    if isinstance(row, dict) and "utterances" in row:
        return meddialog_row(row["utterances"] if isinstance(row["utterances"], list) else [row["utterances"]])
    if isinstance(row, list):
        return talk(messages([string(item) for item in row]))
    return question_and_answer(required(row, "medical_case"), required(row, "doctor_diagnosis"))


def _speaker_columns(turns: Any) -> list[tuple[str, str]]:
    if isinstance(turns, dict):
        speakers, utterances = turns.get("speaker"), turns.get("utterance")
    elif isinstance(turns, list) and all(isinstance(turn, dict) for turn in turns):
        speakers, utterances = ([turn.get(key) for turn in turns] for key in ("speaker", "utterance"))
    else:
        speakers, utterances = None, None
    if not isinstance(speakers, list) or not isinstance(utterances, list) or len(speakers) != len(utterances):
        raise Reject("unknown form", "dialogue_turns does not pair speakers with utterances")
    # The class labels of the data set's card: 0 is the patient, 1 the doctor.
    names = [("病人", "医生")[who] if type(who) is int and who in (0, 1) else string(who) for who in speakers]
    return list(zip(map(speaker_of, names), map(string, utterances), strict=True))


def meddialog(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """MedDialog: JSON, or the text files as they are downloaded."""
    text = plain_name(file).lower().endswith(".txt") and not holds_rows(stream)
    yield from (meddialog_text if text else _meddialog_json)(source, file, stream)


# The headings of a block; all but the first end the dialogue.
_ID = re.compile(r"id\s?=\s?\d+")
_DIALOGUE = "Dialogue"
_OTHER_PARTS = ("Diagnosis and suggestions", "Description", "Doctor faculty")
_SPOKEN = re.compile(r"(病人|患者|医生)\s?[：:](.*)")


def meddialog_text(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """Blocks that begin with "id=…"; below "Dialogue" a line "病人：" or "医生：" begins a turn, which may have many.

    Of a block the dialogue alone is read, as in MedDialog's own JSON. Rejection: a block that has none, text before the
    first block, and what is no dialogue.
    """
    start, block = 0, _Block("text before the first id")
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield Rejection(source, file, number, line.reason, line.detail)
        elif _ID.fullmatch(line := line.strip()):
            if start:
                yield _unit(source, file, start, block.dialogue)
            start, block = number, _Block("no turns")
        elif line:
            start = start or number
            block.add(line)
    if start:
        yield _unit(source, file, start, block.dialogue)


class _Block:
    """The turns of a block of MedDialog's text; `nothing` says what it is when it has none."""

    def __init__(self, nothing: str) -> None:
        self._nothing, self._inside, self._size = nothing, False, 0
        self._turns: list[tuple[str, list[str]]] = []

    def add(self, line: str) -> None:
        """Take a line that is not empty; what is too long for a record is not kept."""
        if line == _DIALOGUE or line in _OTHER_PARTS:
            self._inside = line == _DIALOGUE
        elif self._inside:
            self._size += len(line)
            if self._size > streams.MAX_LINE:
                self._turns = []
            elif spoken := _SPOKEN.fullmatch(line):
                self._turns.append((spoken[1], [spoken[2].strip()]))
            elif self._turns:
                self._turns[-1][1].append(line)

    def dialogue(self) -> Dialogue:
        """The dialogue; Reject when there is none."""
        if self._size > streams.MAX_LINE:
            raise Reject("dialogue too long", f"more than {streams.MAX_LINE} characters")
        if not self._turns:
            raise Reject("no dialogue", self._nothing)
        return talk((speaker_of(who), "\n".join(filter(None, lines))) for who, lines in self._turns)


_TURN = re.compile(r"<\|(user|system|currentuser|response)\|>(.*?)(?=<\||$)")
_NEEDED = ("<|context|>", "<|endofcontext|>", "<|currentuser|>", "<|response|>")


def remedi(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """ReMeDi: a line holds a dialogue up to one response, so a dialogue of n responses stands there n times, growing.

    A line whose turns are the beginning of another line's turns is a part of that dialogue, not a record of its own.
    Two passes: the first keeps 8 bytes a turn, the second gives the lines that no other line goes on from.
    """
    own, beginnings = array("Q"), array("Q")
    for _, turns, _ in _remedi_lines(stream):
        if not isinstance(turns, Reject):
            *shorter, whole = _prefix_hashes(turns)
            own.append(whole)
            beginnings.extend(shorter)
    is_part = iter(np.isin(np.asarray(own), np.asarray(beginnings)).tolist())
    for number, turns, line in _remedi_lines(stream):
        if isinstance(turns, Reject):
            yield Rejection(source, file, number, turns.reason, turns.detail, excerpt(line))
        elif not next(is_part):
            yield _unit(source, file, number, partial(talk, turns), line)


def _remedi_lines(stream: Stream) -> Iterator[tuple[int, tuple[tuple[str, str], ...] | Reject, str]]:
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line, ""
        elif missing := [tag for tag in _NEEDED if tag not in line]:
            if line.strip():
                yield number, Reject("broken tags", f"no {missing[0]}"), line
        else:
            yield number, tuple((_speaker(tag), " ".join(said.split())) for tag, said in _TURN.findall(line)), line


def _prefix_hashes(turns: tuple[tuple[str, str], ...]) -> list[int]:
    """A 64-bit hash of the first 1, 2, … turns; one of nothing when there are none."""
    hashed = hashlib.blake2b(digest_size=8)
    found = []
    for speaker, said in turns:
        hashed.update(f"{speaker}\n{said}\n".encode("utf-8", "surrogatepass"))
        found.append(int.from_bytes(hashed.digest(), "little"))
    return found or [0]


def _speaker(tag: str) -> str:
    return "user" if tag in ("user", "currentuser") else "assistant"


def _unit(source: str, file: str, line: int, parse: Callable[[], Dialogue], raw: str = "") -> Record | Rejection:
    try:
        return Record(source, file, line, parse())
    except Reject as no:
        return Rejection(source, file, line, no.reason, excerpt(no.detail), excerpt(raw))


toyhom = csv_reader(toyhom_row)
_meddialog_json = json_reader(meddialog_row)
chimed_release = json_reader(release_row)
