"""Chats and instructions, medical and general: one reader, which tells the forms apart by their fields (paper §3.2.1),
and Safety-Prompts, whose files are objects of categories."""

from __future__ import annotations

import re
from collections.abc import Iterator

from qilin_lib.chimed.readers.decode import json_reader
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.readers.turns import instruction_row
from qilin_lib.chimed.records import Record, Rejection

instructions = json_reader(instruction_row)

_FIRST_CATEGORY = re.compile(r'\s*\{\s*"[^"\\]*"\s*:\s*\[')
_NEXT_CATEGORY = re.compile(r'\]\s*,\s*"[^"\\]*"\s*:\s*\[')
_END = re.compile(r"\]\s*\}\s*\Z")


def safety_prompts(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """{category: [{prompt, response, type}, …], …}, the authors' two files of 23 and 46 MB, or the rows alone.

    The categories become one array after another, which `instructions` reads; line breaks stay where they are.
    """
    text = "".join(stream.pieces())
    if opening := _FIRST_CATEGORY.match(text):
        text = "\n" * opening[0].count("\n") + "[" + text[opening.end() :]
        text = _NEXT_CATEGORY.sub(lambda found: "]" + "\n" * found[0].count("\n") + "[", text)
        text = _END.sub("]", text)
    yield from instructions(source, file, Stream.of(text))
