"""The ledger: what came of every unit that was read, per source and set, and the proof that nothing vanished."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from qilin_lib.chimed.sources import Source
from qilin_lib.errors import QilinError

# What can become of a unit; "rejected" is counted by reason.
FATES = ("kept", "rejected", "duplicate", "contaminated", "excluded", "merged")


@dataclass(slots=True)
class Row:
    """Counts of one source in one set.

    `merged`: entities that went into an earlier record of the same disease; `elsewhere`: those without a record of this
    graph. `deidentified`: placeholders in kept records by type; `substring_chars`: characters cut out of them.
    """

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
    merged: int = 0
    elsewhere: int = 0
    deidentified: Counter[str] = field(default_factory=Counter)
    substring_chars: int = 0
    bytes_kept: int = 0
    chars_kept: int = 0

    @classmethod
    def of(cls, source: Source, name: str) -> Row:
        """An empty row of `source` in set `name`."""
        title = next(feed.rows[name] for feed in source.feeds if name in feed.rows)
        return cls(source.name, name, title, source.standing, " + ".join(source.licences()))

    def keep(self, texts: Sequence[str]) -> None:
        """Count a kept record of these texts."""
        self.kept += 1
        self.chars_kept += sum(map(len, texts))
        self.bytes_kept += sum(len(text.encode("utf-8")) for text in texts)

    def lose(self, column: str, reason: str) -> None:
        """Count a unit in the column of what became of it; rejected ones by `reason`."""
        self.elsewhere += (column, reason) == ("merged", "merged")
        if column == "rejected":
            self.rejected[reason] += 1
        else:
            setattr(self, column, getattr(self, column) + 1)

    def add(self, other: Row) -> None:
        """Add the counts of another part of the same source and set."""
        for name in self.__slots__[5:]:
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def as_dict(self) -> dict[str, Any]:
        """The row as it stands in ledger.json."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {name: dict(sorted(v.items())) if isinstance(v, Counter) else v for name, v in values.items()}


@dataclass(slots=True)
class Ledger:
    """Rows by (source, set) in corpus order; `unread`: {source: {file of its folder that is not read: why}};
    `notes`: {source: {file: what a reader noted of it}}.

    Training records that held a test item, by source: `hits` by benchmark, `rules` by how they held it.
    """

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    hits: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rules: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    unread: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: dict[str, dict[str, str]] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Add a part's counts to the row of its source and set."""
        if (held := self.rows.setdefault((row.source, row.set), row)) is not row:
            held.add(row)

    def add_hits(self, source: str, hits: Counter[tuple[str, str]]) -> None:
        """Add hits of a source's records, by (benchmark, rule)."""
        for (benchmark, rule), count in hits.items():
            self.hits[source][benchmark] += count
            self.rules[source][rule] += count

    def check(self) -> None:
        """QilinError naming the source and set whose counts do not add up."""
        for row in self.rows.values():
            counts = {name: getattr(row, name) for name in FATES} | {"rejected": row.rejected.total()}
            if row.read != sum(counts.values()):
                parts = " + ".join(f"{count} {name}" for name, count in counts.items())
                raise QilinError(f"{row.source} in {row.set} does not balance: {row.read} read, but {parts}")

    def as_dict(self) -> dict[str, Any]:
        """The content of ledger.json."""
        hits, rules = (
            {source: dict(sorted(found.items())) for source, found in sorted(counts.items())}
            for counts in (self.hits, self.rules)
        )
        rows = [row.as_dict() for row in self.rows.values()]
        return {"sources": rows, "hits": hits, "rules": rules, "unread": self.unread, "notes": self.notes}
