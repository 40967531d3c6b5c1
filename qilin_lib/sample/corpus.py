"""What the pipeline takes from the sample: the raw folder, and the texts that the tiny base model is made from."""

from __future__ import annotations

import json
from pathlib import Path

from qilin_lib.errors import QilinError
from qilin_lib.sample.knowledge import load
from qilin_lib.sample.render import raw_dir


def raw_or_sample(named: str | None, root: Path, cache: Path) -> Path:
    """The raw folder that a profile names (relative to `root`), or the embedded sample rendered below `cache`."""
    if named is None:
        return raw_dir(cache)
    folder = (root / Path(named).expanduser()).resolve()
    if not folder.is_dir():
        raise QilinError(f"raw_dir = '{named}': {folder} is not a folder; null takes the embedded sample")
    return folder


def general_documents(cache: Path) -> list[str]:
    """General-domain passages and instructions of the sample as documents; the tiny base model learns from these alone.

    An instruction reads "问：…\\n答：…", the plain form in which a model that never saw a chat is asked.
    """
    folder = raw_dir(cache) / "general_zh"
    passages = (folder / "general_text.txt").read_text(encoding="utf-8").splitlines()
    rows = json.loads((folder / "alpaca_zh.json").read_text(encoding="utf-8"))
    asked = [f"问：{row['instruction']}\n答：{row['output']}" for row in rows if not row["input"]]
    return [text for text in passages + asked if text.strip()]


def base_texts(cache: Path, held: set[str]) -> tuple[list[str], list[str]]:
    """(documents, vocabulary): what the tiny base model learns from, and what its tokenizer is trained on.

    Documents are the general ones without those in `held` (a run's held-out texts). The vocabulary adds the knowledge
    base for its medical characters, as a general base model's tokenizer covers more than the model knows about.
    """
    documents = [text for text in general_documents(cache) if not any(text in kept or kept in text for kept in held)]
    known = load()
    medical = [text for disease in known.diseases for text in _strings(disease)]
    exams = [text for item in known.exams for text in _strings(item)]
    return documents, documents + medical + exams


def _strings(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for part in parts for text in _strings(part)]
