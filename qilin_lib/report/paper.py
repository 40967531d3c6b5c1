"""What others published (paper.yaml), as values: the paper's Tables 1-6, other projects' tables, ChiMed-GPT's README.

A cell that the paper's text and abstracts do not state is None and is shown as "not available"; it is never filled in.
Other projects' numbers are values of other types, so that they cannot slip into the paper's cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from qilin_lib import strict_yaml
from qilin_lib.errors import QilinError

UNKNOWN = "not available"
FILE = Path(__file__).with_name("paper.yaml")
_SHAPE = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_SHAPE)
class Cell:
    """One published number: `value` or None, where it stands, and its own wording when it is not exact."""

    value: int | float | None
    origin: str = ""
    wording: str = ""

    @model_validator(mode="after")
    def _from_somewhere(self) -> Cell:
        if (self.value is None) != (not self.origin):
            raise ValueError(f"a number needs its origin, and only a number has one: {self.value}, '{self.origin}'")
        return self

    @property
    def text(self) -> str:
        """The number as it was worded, "not available" where it is not known."""
        return UNKNOWN if self.value is None else self.wording or f"{self.value:,}"


@dataclass(frozen=True, config=_SHAPE)
class Row:
    """One row: its label, its block in the table, the cells that are known, and what stands for it on our side.

    `ours` names our model (base, dcpt, sft, dpo) in Tables 4-6, `sources` our raw folders in Tables 1-3.
    """

    label: str
    group: str
    known: dict[str, Cell] = Field(default_factory=dict)
    ours: str = ""
    sources: list[str] = Field(default_factory=list)

    def cell(self, column: str) -> Cell:
        """The paper's cell of a column, without a value where it is not known."""
        return self.known.get(column, Cell(None))


@dataclass(frozen=True, config=_SHAPE)
class PaperTable:
    """One printed table: `columns` maps our metric name to the heading, `notes` say what is uncertain about it."""

    number: int
    title: str
    columns: dict[str, str]
    rows: list[Row]
    notes: list[str]
    benchmark: str = ""

    @model_validator(mode="after")
    def _known_columns(self) -> PaperTable:
        unknown = {name for row in self.rows for name in row.known} - self.columns.keys()
        if unknown:
            raise ValueError(f"Table {self.number} has no column {sorted(unknown)}; it has {list(self.columns)}")
        return self


@dataclass(frozen=True, config=_SHAPE)
class ExternalTable:
    """A table of another project: `origin` says whose; a row holds one value per column, None where "-" is printed."""

    beside: int
    title: str
    origin: str
    columns: list[str]
    rows: dict[str, list[int | float | None]]


@dataclass(frozen=True, config=_SHAPE)
class _Contents:
    tables: list[PaperTable]
    external: list[ExternalTable]
    chimed_gpt: dict[str, Any]
    attitudes: dict[str, Any]


def read(path: Path = FILE) -> _Contents:
    """The file's tables; QilinError names what is not of its form."""
    try:
        return _Contents(**strict_yaml.read(path))
    except (ValidationError, TypeError) as reason:
        raise QilinError(f"{path}: {reason}") from None


def published(group: Mapping[str, Any], origin: str) -> dict[str, dict[str, Cell]]:
    """{model: {column: cell}} of a table of ChiMed-GPT's README, each cell in the README's own digits."""
    names = group["columns"].split()
    return {
        model: {name: Cell(float(text), origin, text) for name, text in zip(names, line.split(), strict=True)}
        for model, line in group["rows"].items()
    }


_contents = read()
TABLES = {table.number: table for table in _contents.tables}
EXTERNAL = _contents.external
ATTITUDES = _contents.attitudes
CHIMED_GPT = {
    name: published(_contents.chimed_gpt[name], _contents.chimed_gpt["origin"])
    for name in ("results", "chimed_qa", "mc")
}
CHIMED_GPT_NOTES: dict[str, str] = _contents.chimed_gpt["notes"]
CEVAL_ITEMS = 41
"""Validation items of C-Eval's clinical_medicine and basic_medicine, on which ChiMed-GPT's README rests."""
