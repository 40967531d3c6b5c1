"""Knowledge graphs: Xywy-KG (JSON lines), 39Health-KG (CSV), CPubMed-KG (triples). The unit is the disease entity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from qilin_lib.chimed.readers import decode
from qilin_lib.chimed.readers.decode import FIELDS, Found, Reject, field_text, leaves, required, string
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.records import Disease

HEALTH39, _LISTS = FIELDS["health39"], FIELDS["health39_lists"]
# A link where a drug was expected; a rate that is missing is 0.00% there.
_NO_FACT = {"drug": re.compile(r">+|.*[?？]"), "rate": re.compile(r"0(?:\.0*)?%?")}
# Cells of other columns that a shifted row has in the place of a name: "3-7天", "50%", "约1000～3000元".
_NO_NAME = re.compile(
    r"[\d\s.,，、~～\-－–—+()（）<>≤≥约至到]*\d[\s)）]*(?:%|％|‰|个?月|[天日周年岁次元]|小时|分钟|万元)?[左右内)）]*"
)
# What stands between the items of a cell; inside brackets it separates nothing: "手术治疗（洗胃、催吐）".
_BRACKETED = r"[(（](?!\.\.\.|…)[^()（）]{0,60}[)）]"
_ITEM = {
    "blank": re.compile(rf"(?:{_BRACKETED}|\S)+"),
    "method": re.compile(rf"(?:{_BRACKETED}|[^\s、])+"),
    # A blank between Latin letters, or a "、" between digits ("第3、4对咽囊综合征"), belongs to the name.
    "name": re.compile(rf"(?:{_BRACKETED}|[^\s,，、;；]|(?<=\d)、(?=\d)|(?<=[A-Za-z.])[ \t]+(?=[A-Za-z]))+"),
}
# Of a page that had no room for the rest.
_CUT = ("...", "…", "...。", "…。", "...;", "...；")
_LAST_CLAUSE = re.compile(r".*[。；;！？，,、\s]", re.DOTALL)


def disease_row(row: Any, headings: dict[str, str]) -> Disease:
    """One disease of a graph whose columns have `headings`; "[详细]" tails are removed.

    Of 39Health-KG the list cells are split. Xywy's `category` repeats the departments after a constant first item,
    which is dropped. Reject: a name that its page cut off, which names nobody knows how many; a number; no features.
    """
    name = required(row, "name").replace("[详细]", "").strip()
    if name.endswith(_CUT):
        raise Reject("cut name", name)
    if len(name) <= 40 and _NO_NAME.fullmatch(name):
        raise Reject("no disease name", name)
    entity = _disease(name, ((heading, _values(row.get(key), key)) for key, heading in headings.items()))
    if not entity.features:
        raise Reject("no features", name)
    return entity


def _disease(name: str, features: Iterable[tuple[str, Iterable[str]]]) -> Disease:
    """A Disease with empty values and repetitions removed, the order kept."""
    own = ((heading, tuple(dict.fromkeys(filter(None, map(str.strip, values))))) for heading, values in features)
    return Disease(name.strip(), tuple((heading, values) for heading, values in own if values))


def _values(cell: Any, key: str) -> list[str]:
    if isinstance(cell, list) or key not in HEALTH39:
        items = [_whole(field_text(item)) for item in leaves(cell)]
        return [item for item in items if item != "疾病百科"]
    text, kind = string(cell).replace("[详细]", ""), _LISTS.get(key)
    items = [_whole(item, kind in ("blank", "name")) for item in (_ITEM[kind].findall(text) if kind else [text])]
    facts = (item for item in items if not (key in _NO_FACT and _NO_FACT[key].fullmatch(item)))
    return [field_text(item.strip(" ,，;；")) for item in facts]


def _whole(text: str, is_name: bool = False) -> str:
    """A text without the clause that is cut; of a name, that of "核磁共振成像(..." is whole before the bracket."""
    if is_name and (opened := max(text.rfind("("), text.rfind("（"))) > max(text.rfind(")"), text.rfind("）")):
        return text[:opened]
    text = text if is_name else text.strip()
    if not text.endswith(_CUT):
        return text
    clauses = None if is_name else _LAST_CLAUSE.match(text.rstrip("….。;；"))
    return clauses[0].rstrip("，,、；; \n") if clauses else ""


def _graph(headings: dict[str, str], tabular: bool = False) -> Callable[[str, Stream], Found]:
    """A reader of rows, and one note more that names the fields that no feature is made of."""

    def read(file: str, stream: Stream) -> Found:
        unused: set[str] = set()

        def noted(row: Any) -> Disease:
            if isinstance(row, dict) and len(unused) < 100:
                unused.update(map(str, row.keys() - {*headings, "name", "_id"}))
            return disease_row(row, headings)

        yield from decode.parsed_rows(noted, file, stream, tabular)
        if unused:
            yield 0, Reject("fields not used", ", ".join(sorted(unused)), note=True)

    return read


def cpubmed(file: str, stream: Stream) -> Found:
    """CPubMed-KG triples: a record per entity (at its first triple's line), a Reject per broken triple, by line.

    Two passes, and every distinct name once in memory: the triples of an entity may stand anywhere.
    """
    names: dict[str, str] = {}
    heads: dict[str, dict[str, list[str]]] = {}
    for _, triple in _triples(file, stream):
        if not isinstance(triple, Reject):
            head, relation, tail = (names.setdefault(name, name) for name in triple)
            heads.setdefault(head, {}).setdefault(relation, []).append(tail)
    for line, triple in _triples(file, stream):
        if isinstance(triple, Reject):
            yield line, triple
        elif relations := heads.pop(triple[0], None):
            yield line, _disease(triple[0], relations.items())


def _triples(file: str, stream: Stream) -> Iterator[tuple[int, tuple[str, ...] | Reject]]:
    """(line, (head, relation, tail)) of rows, or of lines with tabs, which may begin with a header."""
    if plain_name(file).lower().endswith((".txt", ".tsv")):
        lines = ((n, line) for n, line in stream.lines() if isinstance(line, Reject) or line.strip())
        titled = re.compile(r"\s*(head|头实体)", re.IGNORECASE)
        body = ((n, line) for n, line in lines if not (n == 1 and isinstance(line, str) and titled.match(line)))
        found = ((n, line if isinstance(line, Reject) else line.split("\t")) for n, line in body)
    else:
        found = decode.rows(file, stream)
    return ((line, decode.parsed(_triple, row)) for line, row in found)


def _triple(row: Any) -> tuple[str, ...]:
    parts = [row.get(key) for key in ("head", "relation", "tail")] if isinstance(row, dict) else row
    if not isinstance(parts, list) or len(parts) != 3:
        raise Reject("not a triple", f"{len(parts) if isinstance(parts, list) else 0} fields instead of 3")
    head, _, kind = string(parts[0]).partition("@@")
    head, relation, tail = field_text(head), field_text(parts[1]), field_text(string(parts[2]).partition("@@")[0])
    if not (head and relation and tail):
        raise Reject("empty field", "head, relation or tail")
    if kind and kind != "疾病":
        raise Reject("head is not a disease", kind)
    if head.endswith(_CUT):
        raise Reject("cut name", head)
    return head, relation, tail


xywy = _graph(FIELDS["xywy"])
health39 = _graph(HEALTH39, tabular=True)
