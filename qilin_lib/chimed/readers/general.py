"""Questions with answers, chats and instructions, medical and general: one reader, which tells the forms apart by their
fields (paper §3.2.1): Huatuo-26M, CMtMedQA, Alpaca, BELLE, ShareGPT, Safety-Prompts, …"""

from __future__ import annotations

from qilin_lib.chimed.readers.decode import json_reader
from qilin_lib.chimed.readers.turns import instruction_row

instructions = json_reader(instruction_row)
