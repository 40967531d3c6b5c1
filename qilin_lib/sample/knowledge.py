"""Reads the hand-written data files into plain dicts and refuses what is malformed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.files import read_jsonl

DATA = Path(__file__).parent / "data"
FILES = (
    "diseases_1.jsonl",
    "diseases_2.jsonl",
    "exams.jsonl",
    "ceval_medical.jsonl",
    "ceval_general.jsonl",
    "general_text.jsonl",
    "general_qa.jsonl",
    "general_chat.jsonl",
    "general_preferences.jsonl",
)
TEXTS = (
    "name part population infectious description cause treatment_text diet_text prevention course prognosis advice"
).split()
LISTS = "department symptoms checks treatments drugs complications diet_do diet_dont".split()
EXAM_TEXTS = "question answer explanation disease_group department discipline competency".split()
CEVAL_TEXTS = "subject split question A B C D answer".split()


@dataclass(frozen=True)
class Knowledge:
    """All hand-written material, in file order; every element is one JSON object as written."""

    diseases: list[dict[str, Any]]
    exams: list[dict[str, Any]]
    ceval: list[dict[str, Any]]
    passages: list[dict[str, Any]]
    instructions: list[dict[str, Any]]
    chats: list[dict[str, Any]]
    preferences: list[dict[str, Any]]


def load(data: Path = DATA) -> Knowledge:
    """Read and check all data files.

    Raises QilinError naming file, line and field for a missing file, a missing or empty field, an answer that is not
    among the options, a dialogue that does not end with the doctor, or a name or question given twice.
    """
    return Knowledge(
        diseases=_read(data, ("diseases_1.jsonl", "diseases_2.jsonl"), "name", _check_disease),
        exams=_read(data, ("exams.jsonl",), "question", _check_exam),
        ceval=_read(data, ("ceval_medical.jsonl", "ceval_general.jsonl"), "question", _check_ceval),
        passages=_read(data, ("general_text.jsonl",), "text", _check_texts("topic", "text")),
        instructions=_read(data, ("general_qa.jsonl",), None, _check_texts("instruction", "output")),
        chats=_read(data, ("general_chat.jsonl",), None, _check_chat),
        preferences=_read(data, ("general_preferences.jsonl",), "prompt", _check_texts("prompt", "chosen", "rejected")),
    )


def _read(
    data: Path, names: Iterable[str], key: str | None, check: Callable[[dict[str, Any]], str]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    for name in names:
        for line, row in enumerate(read_jsonl(data / name), start=1):
            place = f"{name}, line {line}"
            reason = check(row) if isinstance(row, dict) else "the line is not a JSON object"
            if reason:
                raise QilinError(f"{place}: {reason}")
            if key and row[key] in seen:
                raise QilinError(f"{place}: {key} {row[key][:30]!r} is already in {seen[row[key]]}")
            if key:
                seen[row[key]] = place
            rows.append(row)
    if not rows:
        raise QilinError(f"{' and '.join(names)} in {data}: no record in it")
    return rows


def _missing_text(row: dict[str, Any], names: Iterable[str]) -> str:
    for name in names:
        if not isinstance(row.get(name), str) or not row[name].strip():
            return f"field {name!r} must be a non-empty text, found {row.get(name)!r}"
    return ""


def _texts_of(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
        return f"field {name!r} must be a list of non-empty texts, found {value!r}"
    if len(set(value)) != len(value):
        return f"field {name!r} holds the same text twice: {value!r}"
    return ""


def _check_disease(row: dict[str, Any]) -> str:
    reason = _missing_text(row, TEXTS) or next(filter(None, (_texts_of(row, name) for name in LISTS)), "")
    if reason:
        return reason
    if not isinstance(row.get("alias"), list) or not isinstance(row.get("insured"), bool):
        return "field 'alias' must be a list and 'insured' true or false"
    for dialogue in row.get("dialogues") or []:
        if not isinstance(dialogue, list) or len(dialogue) < 2 or len(dialogue) % 2 or not all(dialogue):
            return "every dialogue must be an even number of non-empty turns, the doctor's last"
    return "" if row.get("dialogues") else "field 'dialogues' must hold at least one dialogue"


def _check_exam(row: dict[str, Any]) -> str:
    reason = _missing_text(row, EXAM_TEXTS)
    if reason:
        return reason
    options = row.get("options")
    if not isinstance(options, dict) or list(options) not in (list("ABCD"), list("ABCDE")):
        return "field 'options' must hold A to D or A to E, in this order"
    if len(set(options.values())) != len(options):
        return "field 'options' holds the same text twice"
    if not set(row["answer"]) <= set(options) or list(row["answer"]) != sorted(set(row["answer"])):
        return f"answer {row['answer']!r} must be sorted letters among {''.join(options)}"
    return "" if row.get("difficulty") in (1, 2, 3, 4, 5) else "field 'difficulty' must be 1 to 5"


def _check_ceval(row: dict[str, Any]) -> str:
    reason = _missing_text(row, CEVAL_TEXTS)
    if reason:
        return reason
    if row["split"] not in ("dev", "val", "test") or not re.fullmatch(r"[a-z_]+", row["subject"]):
        return f"unknown split {row['split']!r} or malformed subject {row['subject']!r}"
    if row["answer"] not in tuple("ABCD"):
        return f"answer {row['answer']!r} must be A, B, C or D"
    return "a dev item needs an explanation" if row["split"] == "dev" and not row.get("explanation") else ""


def _check_chat(row: dict[str, Any]) -> str:
    turns = row.get("turns") or []
    return _texts_of(row, "turns") or ("" if len(turns) % 2 == 0 else "field 'turns' must end with the assistant")


def _check_texts(*names: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: _missing_text(row, names)
