"""Doctor-patient dialogues: Toyhom, MedDialog (two layouts), CMtMedQA, ReMeDi, and the {"conversations": …} family."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from qilin_lib.chimed.readers.decode import Reject, csv_reader, field_text, json_reader, required, string
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.records import Dialogue, Record, Rejection, excerpt

_USER = {"human", "user", "input", "病人", "患者", "patient"}
_ASSISTANT = {"gpt", "assistant", "output", "医生", "doctor", "bot"}


def alternating(turns: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Texts that alternate user, assistant, … from (speaker, text) turns.

    Consecutive turns of one speaker are joined by a newline, empty turns skipped, a system turn stands before the
    first user turn. Reject: an unknown speaker, the assistant speaking first, or nobody answering.
    """
    texts: list[str] = []
    system = ""
    for speaker, text in turns:
        if not text:
            continue
        if speaker == "system":
            system = f"{text}\n"
        elif speaker not in _USER and speaker not in _ASSISTANT:
            raise Reject("unknown speaker", speaker)
        elif (speaker in _USER) == (len(texts) % 2 == 0):
            texts.append(system + text)
            system = ""
        elif texts:
            texts[-1] += "\n" + text
        else:
            raise Reject("the assistant speaks first", text)
    if len(texts) < 2:
        raise Reject("no answer", texts[0] if texts else "no turns")
    return tuple(texts)


def speaker_turns(messages: Any) -> list[tuple[str, str]]:
    """(speaker, text) of [{"from", "value"}, …] or [{"role", "content"}, …]."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Reject("unknown form", "conversations is not a list of objects")
    return [
        (string(message.get("from", message.get("role"))), string(message.get("value", message.get("content"))))
        for message in messages
    ]


def conversation(row: Any) -> Dialogue:
    """{"conversations": [{"from": "human"|"input"|…, "value": …}, …]}."""
    if not isinstance(row, dict) or "conversations" not in row:
        raise Reject("missing field", "conversations")
    return Dialogue(alternating(speaker_turns(row["conversations"])))


def release_row(row: Any) -> Dialogue:
    """{"conversations": [{"from": "input", …}, {"from": "output", …}, …]}, as the authors' code reads their sft.jsonl.

    That code drops a dialogue of an odd number of turns and knows no other role; so is it here, and counted.
    """
    dialogue = conversation(row)
    speakers = [speaker for speaker, _ in speaker_turns(row["conversations"])]
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
    return Dialogue((user, answer))


_SPEECH = re.compile(r"\s*(病人|患者|医生)\s*[：:]\s*(.*)", re.DOTALL)


def meddialog_row(row: Any) -> Dialogue:
    """One dialogue in any of the forms in which MedDialog goes round.

    ["病人：…", "医生：…", …] (train_data.json); {"utterances": the same list} (processed.zh); {"dialogue_turns":
    [{speaker, utterance}, …] or {speaker: […], utterance: […]}} with speakers by name or as class numbers (zh);
    {medical_case, doctor_diagnosis}.
    """
    if isinstance(row, dict) and "dialogue_turns" in row:
        return Dialogue(alternating(_speaker_columns(row["dialogue_turns"])))
    if isinstance(row, dict) and "utterances" in row:
        return meddialog_row(row["utterances"] if isinstance(row["utterances"], list) else [row["utterances"]])
    if isinstance(row, list):
        spoken = [_SPEECH.fullmatch(string(item)) for item in row]
        if not all(spoken):
            raise Reject("unknown speaker", string(row[spoken.index(None)]))
        return Dialogue(alternating((match[1], string(match[2])) for match in spoken if match))
    return Dialogue((required(row, "medical_case"), required(row, "doctor_diagnosis")))


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
    return list(zip(names, map(string, utterances), strict=True))


def cmtmedqa_row(row: Any) -> Dialogue:
    """{instruction, input, output, history: [[q, a], …]} or {instruct, output}, mixed in one file."""
    if not isinstance(row, dict):
        raise Reject("unknown form", f"a {type(row).__name__} where an object was expected")
    history = row.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise Reject("unknown form", "history is not a list of pairs")
    turns = [(who, string(text)) for pair in history for who, text in zip(("user", "assistant"), pair, strict=True)]
    asked = f"{required(row, 'instruction', 'instruct')}\n{string(row.get('input'))}".strip()
    return Dialogue(alternating([*turns, ("user", asked), ("assistant", required(row, "output"))]))


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
            yield _remedi_unit(source, file, number, turns, line)


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


def _remedi_unit(source: str, file: str, line: int, turns: tuple, raw: str) -> Record | Rejection:
    try:
        return Record(source, file, line, Dialogue(alternating(turns)))
    except Reject as no:
        return Rejection(source, file, line, no.reason, excerpt(no.detail), excerpt(raw))


toyhom = csv_reader(toyhom_row)
meddialog = json_reader(meddialog_row)
cmtmedqa = json_reader(cmtmedqa_row)
conversations = json_reader(conversation)
chimed_release = json_reader(release_row)
