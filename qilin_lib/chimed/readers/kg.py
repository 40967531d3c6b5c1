"""Knowledge graphs: Xywy-KG (JSON lines), 39Health-KG (CSV), CPubMed-KG (triples). The unit is the disease entity."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from qilin_lib.chimed import aggregate
from qilin_lib.chimed.readers.decode import (
    FIELDS,
    Reader,
    Reject,
    field_text,
    parsed_rows,
    reader,
    required,
    rows,
    shown,
    string,
)
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.records import Disease

HEALTH39, _LISTS = FIELDS["health39"], FIELDS["health39_lists"]
# A link where a drug was expected; a rate that is missing is 0.00% there.
_NO_FACT = {"drug": re.compile(r">+|.*[?？]"), "rate": re.compile(r"0(?:\.0*)?%?")}
# Cells of other columns that a shifted row has in the place of a name: "3-7天", "50%", "约1000～3000元".
_NO_NAME = re.compile(
    r"[\d\s.,，、~～\-－–—+()（）<>≤≥约至到]*\d[\s)）]*(?:%|％|‰|个?月|[天日周年岁次元]|小时|分钟|万元)?[左右内)）]*"
)


def disease_row(row: Any, headings: dict[str, str]) -> Disease:
    """One disease of a graph whose columns have `headings`; "[详细]" tails are removed.

    Of 39Health-KG the list cells are split. Xywy's `category` repeats the departments after a constant first item,
    which is dropped. Reject: a name that its page cut off, which names nobody knows how many; a number; no features.
    """
    name = required(row, "name").replace("[详细]", "").strip()
    if aggregate.is_cut(name):
        raise Reject("cut name", name)
    if len(name) <= 40 and _NO_NAME.fullmatch(name):
        raise Reject("no disease name", name)
    entity = aggregate.disease(name, ((heading, _values(row.get(key), key)) for key, heading in headings.items()))
    if not entity.features:
        raise Reject("no features", name)
    return entity


def _values(cell: Any, key: str) -> list[str]:
    if isinstance(cell, list) or key not in HEALTH39:
        items = [aggregate.whole_clauses(field_text(item)) for item in (cell if isinstance(cell, list) else [cell])]
        return [item for item in items if item != "疾病百科"]
    text = string(cell).replace("[详细]", "")
    items = aggregate.split_list(text, _LISTS[key]) if key in _LISTS else [aggregate.whole_clauses(text)]
    facts = (item for item in items if not (key in _NO_FACT and _NO_FACT[key].fullmatch(item)))
    return [field_text(item.strip(" ,，;；")) for item in facts]


def _graph(headings: dict[str, str], tabular: bool = False) -> Reader:
    """A reader of `rows`, and one note more that names the fields that no feature is made of."""
    known = {*headings, "name", "_id"}

    @reader
    def read(file: str, stream: Stream) -> Iterator[tuple[int, Disease | Reject]]:
        unused: set[str] = set()

        def noted(row: Any) -> Disease:
            if isinstance(row, dict) and len(unused) < 100:
                unused.update(map(str, row.keys() - known))
            return disease_row(row, headings)

        yield from parsed_rows(noted, file, stream, tabular)
        if unused:
            yield 0, Reject("fields not used", ", ".join(sorted(unused)), note=True)

    return read


@reader
def cpubmed(file: str, stream: Stream) -> Iterator[tuple[int, Disease | Reject]]:
    """CPubMed-KG triples: a record per entity (at its first triple's line), a Reject per broken triple, by line.

    Two passes, and every distinct name once in memory: the triples of an entity may stand anywhere.
    """
    names: dict[str, str] = {}
    good = (triple for _, row in _triple_rows(file, stream) if not isinstance(triple := _triple(row), Reject))
    entities = dict(aggregate.from_triples(tuple([names.setdefault(name, name) for name in one]) for one in good))
    for line, row in _triple_rows(file, stream):
        triple = _triple(row)
        if isinstance(triple, Reject):
            triple.shown = shown(row)
            yield line, triple
        elif entity := entities.pop(triple[0], None):
            yield line, entity


def _triple_rows(file: str, stream: Stream) -> Iterator[tuple[int, Any]]:
    if not plain_name(file).lower().endswith((".txt", ".tsv")):
        yield from rows(file, stream)
        return
    for number, line in stream.lines():
        if isinstance(line, Reject):
            yield number, line
        elif line.strip() and not (number == 1 and re.match(r"\s*(head|头实体)", line, re.IGNORECASE)):
            yield number, line.split("\t")


def _triple(row: Any) -> tuple[str, str, str] | Reject:
    if isinstance(row, Reject):
        return row
    parts = [row.get(key) for key in ("head", "relation", "tail")] if isinstance(row, dict) else row
    if not isinstance(parts, list) or len(parts) != 3:
        return Reject("not a triple", f"{len(parts) if isinstance(parts, list) else 0} fields instead of 3")
    head, _, kind = string(parts[0]).partition("@@")
    head, relation, tail = field_text(head), field_text(parts[1]), field_text(string(parts[2]).partition("@@")[0])
    if not (head and relation and tail):
        return Reject("empty field", "head, relation or tail")
    if kind and kind != "疾病":
        return Reject("head is not a disease", kind)
    return Reject("cut name", head) if aggregate.is_cut(head) else (head, relation, tail)


xywy = _graph(FIELDS["xywy"])
health39 = _graph(HEALTH39, tabular=True)
