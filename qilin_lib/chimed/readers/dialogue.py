"""Doctor-patient dialogues: Toyhom, MedDialog (two layouts), CMtMedQA, ReMeDi, and the {"conversations": …} family."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from qilin_lib.chimed.readers.decode import Reject, csv_reader, json_reader, required, string
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


def toyhom_row(row: dict[str, str]) -> Dialogue:
    """department,title,ask,answer (the repository's README calls `ask` "question").

    The title is said first unless ask has it.
    """
    title, ask, answer = string(row.get("title")), string(row.get("ask", row.get("question"))), required(row, "answer")
    if ask in ("无", "-", "同上") or ask == title:
        ask = ""
    if not (title or ask):
        raise Reject("empty field", "title and ask")
    user = ask if title in ask else f"{title}\n{ask}".strip()
    return Dialogue((user, answer))


_SPEECH = re.compile(r"\s*(病人|患者|医生)\s*[：:]\s*(.*)", re.DOTALL)


def meddialog_row(row: Any) -> Dialogue:
    """["病人：…", "医生：…", …] or {medical_case, doctor_diagnosis, …}."""
    if isinstance(row, list):
        spoken = [_SPEECH.fullmatch(string(item)) for item in row]
        if not all(spoken):
            raise Reject("unknown speaker", string(row[spoken.index(None)]))
        return Dialogue(alternating((match[1], string(match[2])) for match in spoken if match))
    return Dialogue((required(row, "medical_case"), required(row, "doctor_diagnosis")))


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


def remedi(source: str, file: str, text: str) -> Iterator[Record | Rejection]:
    """ReMeDi: a line holds a dialogue up to one response, so a dialogue of n responses stands there n times, growing.

    A line whose turns are the beginning of another line's turns is a part of that dialogue, not a record of its own.
    """
    units: list[tuple[int, tuple[tuple[str, str], ...], str]] = []
    rejections: list[Rejection] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        if missing := [tag for tag in _NEEDED if tag not in line]:
            rejections.append(Rejection(source, file, number, "broken tags", f"no {missing[0]}", excerpt(line)))
            continue
        turns = tuple((_speaker(tag), " ".join(said.split())) for tag, said in _TURN.findall(line))
        units.append((number, turns, line))
    parts = {turns[:size] for _, turns, _ in units for size in range(1, len(turns))}
    whole: list[Record | Rejection] = []
    for number, turns, line in units:
        if turns not in parts:
            whole.append(_remedi_unit(source, file, number, turns, line))
    yield from sorted([*whole, *rejections], key=lambda unit: unit.line)


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
