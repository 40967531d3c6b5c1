"""Knowledge graphs: Xywy-KG (JSON lines), 39Health-KG (CSV), CPubMed-KG (triples). The unit is the disease entity."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from qilin_lib.chimed import aggregate
from qilin_lib.chimed.readers.decode import (
    Reader,
    Reject,
    csv_reader,
    field_text,
    json_reader,
    required,
    rows,
    shown,
    string,
)
from qilin_lib.chimed.readers.stream import Stream, plain_name
from qilin_lib.chimed.records import Disease, Record, Rejection, excerpt

XYWY = {
    "desc": "简介", "category": "分类", "cause": "病因", "prevent": "预防", "symptom": "症状",
    "acompany": "并发症", "easy_get": "易感人群", "get_way": "传染方式", "get_prob": "患病比例",
    "yibao_status": "医保", "cure_department": "就诊科室", "check": "检查", "cure_way": "治疗方法",
    "cure_lasttime": "治疗周期", "cured_prob": "治愈率", "cost_money": "治疗费用", "common_drug": "常用药物",
    "recommand_drug": "推荐药物", "do_eat": "宜吃", "not_eat": "忌吃", "recommand_eat": "推荐食谱",
}  # fmt: skip
HEALTH39 = {
    "alias": "别名", "part": "发病部位", "age": "多发人群", "infection": "传染性", "insurance": "医保",
    "department": "就诊科室", "symptom": "症状", "complication": "并发症", "checklist": "检查",
    "treatment": "治疗方法", "drug": "常用药物", "period": "治疗周期", "rate": "治愈率", "money": "治疗费用",
}  # fmt: skip
# Between the items of a list cell stands a blank, between names also a comma, between treatments also "、".
_LISTS = dict.fromkeys(("part", "department", "symptom", "complication", "checklist", "drug"), "blank")
_LISTS |= {"alias": "name", "treatment": "method"}
_NO_DRUG = re.compile(r">+|.*[?？]")
_NO_RATE = re.compile(r"0(?:\.0*)?%?")


def xywy_row(row: Any) -> Disease:
    """One Xywy disease. `category` repeats the departments after a constant first item, which is dropped."""
    name = _name(required(row, "name"))
    features = []
    for key, heading in XYWY.items():
        value = row.get(key)
        items = [aggregate.whole_clauses(field_text(item)) for item in (value if isinstance(value, list) else [value])]
        features.append((heading, [item for item in items if item != "疾病百科"]))
    return _usable(aggregate.disease(name, features))


def health39_row(row: dict[str, str]) -> Disease:
    """One 39Health disease; list cells are split, "[详细]" tails removed. A rate that is missing is 0.00% there."""
    name = _name(required(row, "name"))
    features = []
    for key, heading in HEALTH39.items():
        cell = string(row.get(key)).replace("[详细]", "")
        items = aggregate.split_list(cell, _LISTS[key]) if key in _LISTS else [aggregate.whole_clauses(cell)]
        no_fact = {"drug": _NO_DRUG, "rate": _NO_RATE}.get(key)
        stated = [field_text(item.strip(" ,，;；")) for item in items if not (no_fact and no_fact.fullmatch(item))]
        features.append((heading, stated))
    return _usable(aggregate.disease(name, features))


def _name(name: str) -> str:
    """A disease's name; Reject for one that its page cut off, which names nobody knows how many diseases."""
    name = name.replace("[详细]", "").strip()
    if aggregate.is_cut(name):
        raise Reject("cut name", name)
    return name


def _usable(entity: Disease) -> Disease:
    if not entity.features:
        raise Reject("no features", entity.name)
    return entity


def _graph(driver: Callable[..., Reader], parse: Callable[[Any], Disease], used: Iterable[str]) -> Reader:
    """`driver(parse)`, and one Rejection more, of line 0, that names the fields that no feature is made of."""
    known = {*used, "name", "_id"}

    def read(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
        unused: set[str] = set()

        def noted(row: Any) -> Disease:
            if isinstance(row, dict) and len(unused) < 100:
                unused.update(map(str, row.keys() - known))
            return parse(row)

        yield from driver(noted)(source, file, stream)
        if unused:
            yield Rejection(source, file, 0, "fields not used", excerpt(", ".join(sorted(unused))))

    return read


def cpubmed(source: str, file: str, stream: Stream) -> Iterator[Record | Rejection]:
    """CPubMed-KG triples, aggregated per entity.

    One Record an entity (at its first triple's line), one Rejection a broken triple, in order of line. Two passes, and
    every distinct name once in memory: the triples of an entity may stand anywhere.
    """
    names: dict[str, str] = {}
    good = (triple for _, row in _triple_rows(file, stream) if not isinstance(triple := _triple(row), Reject))
    triples = (tuple([names.setdefault(name, name) for name in triple]) for triple in good)
    entities = dict(aggregate.from_triples(triples))
    for line, row in _triple_rows(file, stream):
        triple = _triple(row)
        if isinstance(triple, Reject):
            yield Rejection(source, file, line, triple.reason, excerpt(triple.detail), excerpt(shown(row)))
        elif entity := entities.pop(triple[0], None):
            yield Record(source, file, line, entity)


def _triple_rows(file: str, stream: Stream) -> Iterator[tuple[int, Any]]:
    if not plain_name(file).lower().endswith(".txt"):
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
    if aggregate.is_cut(head):
        return Reject("cut name", head)
    return head, relation, tail


xywy = _graph(json_reader, xywy_row, XYWY)
health39 = _graph(csv_reader, health39_row, HEALTH39)
