"""general_zh: Alpaca, BELLE and ShareGPT instructions and one passage a line of general text."""

from __future__ import annotations

from typing import Any

from qilin_lib.sample import drills, forms
from qilin_lib.sample.knowledge import Knowledge
from qilin_lib.sample.sheets import Sheet
from qilin_lib.sample.wording import rng

DRILL_PASSAGES = 330
DRILL_QUESTIONS = 120
DRILL_CHATS = 30


def sheets(known: Knowledge, seed: int) -> list[Sheet]:
    """Hand-written material first, then the template-made drills, shuffled together."""
    dice = rng(seed, "general")
    made = [forms.alpaca(row["instruction"], row["output"], row.get("input", "")) for row in known.instructions]
    drilled = [forms.alpaca(question, answer) for question, answer in drills.questions(DRILL_QUESTIONS, seed)]
    alpaca, belle = made[::2] + drilled[::2], made[1::2] + drilled[1::2]
    chats = [forms.sharegpt(*row["turns"]) for row in known.chats]
    chats += [forms.sharegpt(*turns) for turns in drills.chats(DRILL_CHATS, seed)]
    text = [_one_line(row["text"]) for row in known.passages] + drills.passages(DRILL_PASSAGES, seed)
    for records in (alpaca, belle, chats, text):
        dice.shuffle(records)
    return [
        _sheet("alpaca_zh.json", "json", alpaca),
        _sheet("belle_zh.json", "jsonl", [_belle(record) for record in belle]),
        _sheet("sharegpt_zh.jsonl", "jsonl", chats),
        _sheet("general_text.txt", "lines", text),
    ]


def _sheet(name: str, kind: str, records: list[Any]) -> Sheet:
    return Sheet("general_zh", f"general_zh/{name}", kind, records)


def _belle(record: dict[str, Any]) -> dict[str, Any]:
    # BELLE keeps the input inside the instruction and leaves "input" empty.
    return forms.alpaca("\n".join(filter(None, (record["instruction"], record["input"]))), record["output"])


def _one_line(text: str) -> str:
    return "".join(text.split("\n"))
