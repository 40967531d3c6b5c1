"""The embedded sample: a raw folder in the formats of the real sources, and what the tiny base model learns from.

README.md beside this file says what the files hold and which flaws are planted in them.
"""

from __future__ import annotations

from pathlib import Path

from qilin_lib.files import read_json

_FOLDER = Path(__file__).parent


def raw_dir() -> Path:
    """The sample's raw folder, one sub-folder per source; it is read where it lies and never written to."""
    return _FOLDER / "raw"


def general_documents() -> list[str]:
    """General-domain passages and instructions of the sample as documents; the tiny base model learns from these alone.

    An instruction reads "问：…\\n答：…", the plain form in which a model that never saw a chat is asked.
    """
    folder = raw_dir() / "general_zh"
    passages = (folder / "general_text.txt").read_text(encoding="utf-8").splitlines()
    rows = read_json(folder / "alpaca_zh.json")
    instructions = [f"问：{row['instruction']}\n答：{row['output']}" for row in rows if not row["input"]]
    return [text for text in passages + instructions if text.strip()]


def base_texts(held: set[str]) -> tuple[list[str], list[str]]:
    """(documents, vocabulary): what the tiny base model learns from, and what its tokenizer is trained on.

    Documents are the general ones without those in `held` (a run's held-out texts). The vocabulary adds the lines of
    vocabulary.txt for their medical characters, as a general base model's tokenizer covers more than the model knows
    about.
    """
    documents = [text for text in general_documents() if not any(text in kept or kept in text for kept in held)]
    medical = (_FOLDER / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    return documents, documents + medical
