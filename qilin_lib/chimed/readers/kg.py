"""Knowledge graphs: Xywy-KG (JSON lines), 39Health-KG (CSV), CPubMed-KG (triples). The unit is the disease entity."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from qilin_lib.chimed import aggregate
from qilin_lib.chimed.readers.decode import Reject, csv_reader, json_reader, required, rows, shown, string
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
_LISTS = {"alias", "part", "department", "symptom", "complication", "checklist", "drug"}


def xywy_row(row: Any) -> Disease:
    """One Xywy disease. `category` repeats the departments after a constant first item, which is dropped."""
    name = required(row, "name")
    features = []
    for field, heading in XYWY.items():
        value = row.get(field)
        items = [string(item) for item in value] if isinstance(value, list) else [string(value)]
        features.append((heading, [item for item in items if item != "疾病百科"]))
    return _usable(aggregate.disease(name, features))


def health39_row(row: dict[str, str]) -> Disease:
    """One 39Health disease; list cells are split, the "[详细]" tails removed."""
    name = required(row, "name").replace("[详细]", "")
    features = []
    for field, heading in HEALTH39.items():
        cell = string(row.get(field)).replace("[详细]", "").strip()
        features.append((heading, aggregate.split_list(cell) if field in _LISTS else [string(cell)]))
    return _usable(aggregate.disease(name, features))


def _usable(entity: Disease) -> Disease:
    if not entity.features:
        raise Reject("no features", entity.name)
    return entity


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
    relation, tail = string(parts[1]), string(parts[2]).partition("@@")[0]
    if not (head and relation and tail):
        return Reject("empty field", "head, relation or tail")
    if kind and kind != "疾病":
        return Reject("head is not a disease", kind)
    return head, relation, tail


xywy = json_reader(xywy_row)
health39 = csv_reader(health39_row)
