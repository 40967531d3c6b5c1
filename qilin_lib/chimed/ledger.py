"""The ledger: what came of every unit that was read, per source and set, and the proof that nothing vanished."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from qilin_lib.errors import QilinError


@dataclass(slots=True)
class Row:
    """Counts of one source in one set. `deidentified` counts placeholders in kept records by type."""

    source: str
    set: str
    table_row: str
    standing: str
    licence: str
    read: int = 0
    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    duplicate: int = 0
    contaminated: int = 0
    excluded: int = 0
    deidentified: Counter[str] = field(default_factory=Counter)
    bytes_kept: int = 0
    chars_kept: int = 0

    def accounted(self) -> int:
        """Units whose fate is known; equals `read` when the row balances."""
        return self.kept + self.rejected.total() + self.duplicate + self.contaminated + self.excluded

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in ledger.json."""
        counters = {
            "rejected": dict(sorted(self.rejected.items())),
            "deidentified": dict(sorted(self.deidentified.items())),
        }
        return {name: counters.get(name, getattr(self, name)) for name in self.__slots__}


@dataclass(slots=True)
class Ledger:
    """Rows by (source, set) in corpus order, and how many training records held an item of each benchmark."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)

    def check(self) -> None:
        """QilinError naming the source and set whose counts do not add up."""
        for row in self.rows.values():
            if row.read != row.accounted():
                raise QilinError(
                    f"the ledger does not balance for {row.source} in {row.set}: {row.read} read, "
                    f"but {row.kept} kept + {row.rejected.total()} rejected + {row.duplicate} duplicate + "
                    f"{row.contaminated} contaminated + {row.excluded} excluded = {row.accounted()}"
                )

    def as_dict(self) -> dict[str, Any]:
        """The content of ledger.json."""
        return {"sources": [row.as_dict() for row in self.rows.values()], "hits": dict(sorted(self.hits.items()))}
