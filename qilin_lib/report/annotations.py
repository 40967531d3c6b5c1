"""English names of CMExam's annotation columns and values, from annotations.yaml."""

from __future__ import annotations

from pathlib import Path

from qilin_lib.strict_yaml import read

_NAMES = read(Path(__file__).with_name("annotations.yaml"))
COLUMNS: dict[str, str] = _NAMES["columns"]
ENGLISH: dict[str, str] = _NAMES["values"]


def figure_label(value: str, number: int) -> str:
    """What a figure calls a value: its English name, itself where it is ASCII, else the number it has in the table."""
    return ENGLISH.get(value) or (value if value.isascii() else f"no. {number}")
