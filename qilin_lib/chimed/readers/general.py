"""General-domain instructions (Alpaca, BELLE, ShareGPT) and general-domain text, told apart by their fields (paper
§3.2.1)."""

from __future__ import annotations

from typing import Any

from qilin_lib.chimed.readers.decode import json_reader, required, string
from qilin_lib.chimed.readers.dialogue import conversation
from qilin_lib.chimed.records import Dialogue


def instruction_row(row: Any) -> Dialogue:
    """{instruction, input, output} or {"conversations": …}."""
    if isinstance(row, dict) and "conversations" in row:
        return conversation(row)
    asked = f"{required(row, 'instruction', 'prompt')}\n{string(row.get('input'))}".strip()
    return Dialogue((asked, required(row, "output", "response")))


instructions = json_reader(instruction_row)
