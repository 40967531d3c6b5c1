"""Knowledge graphs per disease entity (paper §3.1.1): rows or triples -> one `Disease` -> text, questions, answers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from qilin_lib.chimed.records import Disease

# Headings under which one value is true: two graphs that state two contradict each other.
SCALARS = {
    "传染性", "传染方式", "医保", "治愈率", "治疗周期", "治疗费用", "多发人群", "易感人群", "患病比例",
}  # fmt: skip
# What is asked about a disease, in the paper's order: the question and the headings (or relation names) that answer it.
QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("{name}的病因是什么？", ("病因", "发病机制", "高危因素")),
    ("{name}有哪些症状？", ("症状", "临床表现", "临床症状及体征")),
    ("{name}一般用什么药？", ("常用药物", "推荐药物", "药物治疗")),
)


def disease(name: str, features: Iterable[tuple[str, Iterable[str]]]) -> Disease:
    """A Disease with empty values and repetitions removed, the order kept."""
    cleaned = ((heading, tuple(dict.fromkeys(filter(None, map(str.strip, values))))) for heading, values in features)
    return Disease(name.strip(), tuple((heading, values) for heading, values in cleaned if values))


def from_triples(triples: Iterable[tuple[str, str, str]]) -> Mapping[str, Disease]:
    """{head: Disease} of (head, relation, tail) triples in order of appearance; relations are headings."""
    heads: dict[str, dict[str, list[str]]] = {}
    for head, relation, tail in triples:
        heads.setdefault(head, {}).setdefault(relation, []).append(tail)
    return {head: disease(head, relations.items()) for head, relations in heads.items()}


_ASKED = frozenset(heading for _, headings in QUESTIONS for heading in headings)


def text(entity: Disease) -> str:
    """The entity's name, then a "heading：values" line per feature that `questions` does not ask for: said once."""
    lines = (f"{heading}：{joined(values)}" for heading, values in entity.features if heading not in _ASKED)
    return "\n".join([entity.name, *lines])


def questions(entity: Disease) -> list[tuple[str, str]]:
    """(question, answer) for the three features that the paper names, those that the entity has."""
    found = dict(entity.features)
    pairs = []
    for question, headings in QUESTIONS:
        values = [value for heading in headings for value in found.get(heading, ())]
        if values:
            pairs.append((question.format(name=entity.name), joined(values).rstrip("。；") + "。"))
    return pairs


def joined(values: Iterable[str]) -> str:
    """Distinct values as one text: sentences one after the other, all else with "、"."""
    parts = (value if value.endswith(("。", "；", "！", "？")) else f"{value}、" for value in dict.fromkeys(values))
    return "".join(parts).removesuffix("、")


# A separator inside brackets separates nothing: "手术治疗（洗胃、催吐）".
_BRACKETED = r"[(（](?!\.\.\.|…)[^()（）]{0,60}[)）]"
_BLANK = re.compile(rf"(?:{_BRACKETED}|\S)+")
_METHOD = re.compile(rf"(?:{_BRACKETED}|[^\s、])+")
# A blank between Latin letters, or a "、" between digits ("第3、4对咽囊综合征"), belongs to the name.
_NAME = re.compile(rf"(?:{_BRACKETED}|[^\s,，、;；]|(?<=\d)、(?=\d)|(?<=[A-Za-z.])[ \t]+(?=[A-Za-z]))+")
_LAST_CLAUSE = re.compile(r".*[。；;！？，,、\s]", re.DOTALL)


def is_cut(text: str) -> bool:
    """Does the text end in the "..." of a page that had no room for the rest?"""
    return text.endswith(("...", "…", "...。", "…。", "...;", "...；"))


def whole_name(name: str) -> str:
    """A name, "" when it is cut; that of "核磁共振成像(..." is whole before the bracket."""
    opened = max(name.rfind("("), name.rfind("（"))
    if opened > max(name.rfind(")"), name.rfind("）")):
        return name[:opened]
    return "" if is_cut(name) else name


def whole_clauses(text: str) -> str:
    """A text without the clause that is cut."""
    text = text.strip()
    if not is_cut(text):
        return text
    clauses = _LAST_CLAUSE.match(text.rstrip("….。;；"))
    return clauses[0].rstrip("，,、；; \n") if clauses else ""


SEPARATED = {"blank": (_BLANK, whole_name), "name": (_NAME, whole_name), "method": (_METHOD, whole_clauses)}


def split_list(cell: str, by: str = "blank") -> list[str]:
    """The items of a cell, without what the site cut off; `by`: a key of SEPARATED, what stands between them."""
    item, whole = SEPARATED[by]
    return [whole(part) for part in item.findall(cell)]
