"""What others published (paper.yaml), as values: the paper's Tables 1-6, other projects' tables, ChiMed-GPT's README.

A cell that the paper's text and abstracts do not state is None and is shown as "not available"; it is never filled in.
Other projects' numbers are values of other types, so that they cannot slip into the paper's cells.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qilin_lib import strict_yaml

UNKNOWN = "not available"


@dataclass(frozen=True)
class Cell:
    """One published number: `value` or None, where it stands, and its own wording when it is not exact."""

    value: int | float | None
    origin: str = ""
    wording: str = ""

    @property
    def text(self) -> str:
        """The number as it was worded, "not available" where it is not known."""
        return UNKNOWN if self.value is None else self.wording or f"{self.value:,}"


@dataclass(frozen=True)
class Row:
    """One row: its label, its block in the table, the cells that are known, and what stands for it on our side.

    `ours` names our model (base, dcpt, sft, dpo) in Tables 4-6, `sources` our raw folders in Tables 1-3.
    """

    label: str
    group: str
    known: dict[str, Cell] = field(default_factory=dict)
    ours: str = ""
    sources: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PaperTable:
    """One printed table: `columns` maps our metric name to the heading, `notes` say what is uncertain about it."""

    number: int
    title: str
    columns: dict[str, str]
    rows: list[Row]
    notes: list[str]
    benchmark: str = ""


@dataclass(frozen=True)
class ExternalTable:
    """A table of another project: `origin` says whose; a row holds one value per column, None where "-" is printed."""

    beside: int
    title: str
    origin: str
    columns: list[str]
    rows: dict[str, list[int | float | None]]


_contents = strict_yaml.read(Path(__file__).with_name("paper.yaml"))
TABLES: dict[int, PaperTable] = {}
for _table in _contents["tables"]:
    for _row in _table["rows"]:
        _row["known"] = {name: Cell(**cell) for name, cell in _row.get("known", {}).items()}
    TABLES[_table["number"]] = PaperTable(**{**_table, "rows": [Row(**row) for row in _table["rows"]]})
EXTERNAL = [ExternalTable(**table) for table in _contents["external"]]
ATTITUDES = _contents["attitudes"]

_block = _contents["chimed_gpt"]
CHIMED_GPT: dict[str, dict[str, dict[str, Cell]]] = {}
"""{group: {model: {column: cell}}} of the tables of ChiMed-GPT's README, each cell in the README's own digits."""
for _name in ("results", "chimed_qa", "mc"):
    _columns = _block[_name]["columns"].split()
    CHIMED_GPT[_name] = {
        model: {
            column: Cell(float(text), _block["origin"], text)
            for column, text in zip(_columns, line.split(), strict=True)
        }
        for model, line in _block[_name]["rows"].items()
    }
CHIMED_GPT_NOTES: dict[str, str] = _block["notes"]
