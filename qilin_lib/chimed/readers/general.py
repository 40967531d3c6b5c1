"""Chats and instructions, medical and general: one reader, which tells the forms apart by their fields (paper §3.2.1),
and Safety-Prompts, whose files are objects of categories."""

from __future__ import annotations

from qilin_lib.chimed.readers.decode import json_reader
from qilin_lib.chimed.readers.turns import instruction_row

instructions = json_reader(instruction_row)
# {category: [{prompt, response, type}, …], …}, the authors' two files of 23 and 46 MB, or the rows alone.
safety_prompts = instructions
