"""General-domain instructions (Alpaca, BELLE, ShareGPT, Chinese-Vicuna, Safety-Prompts), told apart by their fields
(paper §3.2.1)."""

from __future__ import annotations

import re
from typing import Any

from qilin_lib.chimed.readers.decode import Reject, json_reader, required, string
from qilin_lib.chimed.readers.dialogue import alternating, conversation
from qilin_lib.chimed.records import Dialogue

_SPEAKER = re.compile(r"(?:^|\n)[ \t]*(Human|Assistant)[ \t]*[:：]")


def instruction_row(row: Any) -> Dialogue:
    """One row of a general instruction set, whichever of the five forms it has.

    {"conversations": …} (ShareGPT); {"input": [q, …], "output": [a, …]} (Chinese-Vicuna's chats); {instruction, input,
    output} (Alpaca, BELLE), where BELLE's multi-turn rows hold "Human:…\\nAssistant:…\\nHuman:…\\nAssistant:" in
    `instruction` and the last answer in `output`; {prompt, response, type} (Safety-Prompts).
    """
    if isinstance(row, dict) and "conversations" in row:
        return conversation(row)
    if isinstance(row, dict) and isinstance(row.get("input"), list):
        return _two_lists(row["input"], row.get("output"))
    asked, answer = required(row, "instruction", "prompt"), required(row, "output", "response")
    if asked.startswith("Human") and _SPEAKER.match(asked):
        return _numbered_turns(asked, answer)
    return Dialogue((f"{asked}\n{string(row.get('input'))}".strip(), answer))


def _two_lists(questions: list[Any], answers: Any) -> Dialogue:
    if not isinstance(answers, list) or len(answers) != len(questions):
        raise Reject("unknown form", "input and output are not two lists of one length")
    said = [string(text) for pair in zip(questions, answers, strict=True) for text in pair]
    return Dialogue(alternating(zip(["user", "assistant"] * len(questions), said, strict=True)))


def _numbered_turns(transcript: str, answer: str) -> Dialogue:
    _, *parts = _SPEAKER.split(transcript)
    speakers = ["user" if who == "Human" else "assistant" for who in parts[::2]]
    said = [text.strip() for text in parts[1::2]]
    if (speakers[-1], said[-1]) != ("assistant", ""):
        raise Reject("unknown form", 'a "Human:" transcript that does not end with an open "Assistant:"')
    return Dialogue(alternating(zip(speakers, [*said[:-1], answer], strict=True)))


instructions = json_reader(instruction_row)
# {category: [{prompt, response, type}, …], …}, the authors' two files of 23 and 46 MB, or the rows alone.
safety_prompts = instructions
