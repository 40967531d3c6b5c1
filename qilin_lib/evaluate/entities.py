"""Named entities: annotated texts as items, a model's reply read as (type, mention) pairs, mentions found in the text.

Three forms of annotation are read, told apart by their keys, in a JSON list or in JSON lines:
- CMeEE-V2: `text`, `entities` [{start_idx, end_idx, type, entity}], `end_idx` is the LAST character (of all 5,411
  entities of the public dev file at hand, counted in tests/evaluate/test_ner.py);
- CCKS-2019 as copies have it: `text`, `entity_list` [{entity_index {begin, end}, entity_type, entity}], `end` excluded;
- CCKS-2019 as released: `originalText`, `entities` [{start_pos, end_pos, label_type}], `end_pos` excluded, no mention.
Copies differ in what `end` means, so most of a file's own mentions decide; where it has none, its form does, and a line
says so.
How ChiMST (ChiMed-GPT's own set, by contract only) is annotated is not public; the authors' script (generate.py of
Fengshenbang-LM's dev_bio) reads ready-made prompts and replies. Its folder is read in the same three forms.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.stream import Reject, plain_name
from qilin_lib.evaluate.items import Item, Reading, Unreadable, files_of, part, records, said

Entity = tuple[str, str, int, int]
"""type, mention, begin, end: text[begin:end] is the mention."""
Pair = tuple[str, str]
"""type, mention."""

NAMES = {
    "dis": "疾病",
    "sym": "临床表现",
    "pro": "医疗程序",
    "equ": "医疗设备",
    "dru": "药物",
    "ite": "医学检验项目",
    "bod": "身体",
    "dep": "科室",
    "mic": "微生物类",
}
"""CMeEE's type codes and their Chinese names; the other sets' types are Chinese words."""
SPLITS = {"test": ("test",), "dev": ("dev", "val")}
SUFFIXES = (".json", ".jsonl", ".txt", ".parquet", ".arrow")
TEXT_KEYS, ENTITY_KEYS = ("text", "originalText"), ("entities", "entity_list")
KINDS = ("parsed", "unknown_type", "not_in_text", "none", "unreadable")
"""What an entry of a reply can be."""
DEPTH = 5
"""No list of entities in JSON nests deeper."""

_NOTHING = re.compile(
    r"(?:文本中|文中|本文)?(?:无|没有|不存在|未发现|未提及|none|null)(?:任何|相关|该类|明确|的|医学|命名|此类)*(?:实体)?"
)
_BULLET = re.compile(r"^(?:[-*•·●▪►>#]+|[(（]?\d{1,3}[.、)）:：](?!\d)|[①-⑳])\s*")
_BLANKS = re.compile(r"[ \t\u3000]{6,}")
_FENCE = re.compile(r"^```\w*$")
_QUOTES = " \t\u3000\"'“”‘’「」『』《》【】<>[]*`|"
_ENDS = _QUOTES + "。．.，,；;、"
_OBJECT = re.compile(r"\{[^{}]*\}|\[\s*\"[^\[\]]*\]")
_COLON = r"\s*[:：|\t]\s*"
# Blanks and marks are counted to 20: models get stuck and repeat one for as long as they may write.
_GAP = r"\s{0,20}"
_SEPARATOR = rf"(?:{_GAP}+(?:[:：|=＝]|[-—–]{{1,20}}+>?|→)|[^\S\t]{{0,20}}+\t){_GAP}+"
_LIST = re.compile("[、，,；;]")
_LABELLED = re.compile(rf"([^\s:：|，,。；;、]{{1,10}}){_COLON}(\S.*)")
# The asked form taken at its word.
_ASKED = re.compile(rf"类型{_COLON}([^\n:：]{{1,20}}?)[\s，,；;、]{{1,5}}实体{_COLON}")
_TYPE_KEYS = ("type", "类型", "label", "entity_type", "label_type", "category", "类别")
_MENTION_KEYS = ("entity", "实体", "mention", "text", "name", "word", "value", "文本", "名称")


@dataclass(frozen=True)
class Reply:
    """A reply as it was understood. `pairs`: distinct, in their order, those of an unknown type and those that are not
    in the text among them (both are wrong answers); `lines`: how many entries were of each of KINDS."""

    pairs: list[Pair]
    lines: dict[str, int]

    @property
    def unparsed(self) -> bool:
        """Whether nothing in it could be read, not even that there is no entity."""
        return not any(count for kind, count in self.lines.items() if kind != "unreadable")


def read(name: str, folder: Path) -> tuple[str, Reading]:
    """(split, (items, unusable rows)) of the annotated file in `folder` whose name says "test", else "dev" or "val".

    A file without a single entity is passed over (a test file whose labels are kept back). An item's `question` is the
    text, its `reference` the distinct entities as JSON [[type, mention, begin, end], …] in their order. Unusable: a row
    that is not JSON or has another form, no text, or an entity whose place does not hold its mention. Raises Unreadable
    when there is no such file, more than one of a split, or no usable row in it.
    """
    broken: list[str] = []
    with files_of(folder) as there:
        for split, words in SPLITS.items():
            labelled = {}
            for file in there:
                path = PurePosixPath(plain_name(file.place).lower())
                if path.suffix in SUFFIXES and any(word in path.stem for word in words):
                    rows = records(folder, file, lambda row: isinstance(row, dict) and bool(row.keys() & TEXT_KEYS))
                    broken += [f"{file.file}, line {n}: {said(row)}" for n, row in rows if isinstance(row, Reject)][:1]
                    if any(isinstance(row, dict) and any(map(row.get, ENTITY_KEYS)) for _, row in rows):
                        labelled[file] = rows
            if len(labelled) > 1:
                named = ", ".join(file.file for file in labelled)
                raise Unreadable(
                    folder, f"has {len(labelled)} annotated files of its {split} split ({named}); keep one of them"
                )
            for file, rows in labelled.items():
                more = _end_of_file(file.file, [row for _, row in rows])
                judged = ((line, *_item(name, split, place, row, more)) for place, (line, row) in enumerate(rows))
                return split, part(folder, file, judged)
        names = ", ".join(file.file for file in there[:5])
    there_is = "; ".join(broken) or names
    raise Unreadable(
        folder,
        f"has no file with 'test', 'dev' or 'val' in its name ({', '.join(SUFFIXES)}, packed or not) that holds "
        f"annotated entities, but {there_is}; put CMeEE-V2_dev.json or CCKS-2019's test.json there, or name other "
        "eval.further_benchmarks",
    )


def types_of(items: Iterable[Item]) -> dict[str, str]:
    """{type: its Chinese name} of the types that occur, CMeEE's first in NAMES' order, then the others by name."""
    found = {kind for item in items for kind, *_ in gold(item.reference)}
    return {kind: NAMES.get(kind, kind) for kind in (*(k for k in NAMES if k in found), *sorted(found - set(NAMES)))}


def gold(reference: str) -> list[Entity]:
    """The annotated entities of an item's `reference`."""
    return [(kind, mention, begin, end) for kind, mention, begin, end in json.loads(reference)]


def parse(reply: str, types: Mapping[str, str], text: str) -> Reply:
    """Read a reply in the asked form, one "类型：实体" a line, and what models make of it.

    Also read: codes for names, bullets and numbers, quotes, brackets, other separators, several pairs in a line,
    several mentions after one type (split at 、，； only where the whole is not in the text), "实体（类型）",
    "实体：类型", "实体/类型", two words of which one is a type, mentions in the lines below a type, JSON as a whole or
    line by line. Mentions are exact:
    one that is no substring of the text is not in it. An unknown type is one before something that is in the text; any
    other line is unreadable.
    """
    reader = _Reader(types, text)
    entries = [entry for line in reader.headed(_lines(reply)) for entry in reader.entries(line)]
    pairs = dict.fromkeys(pair for _, pair in entries if pair)
    counts = Counter(kind for kind, _ in entries)
    return Reply(list(pairs), {kind: counts[kind] for kind in KINDS})


def located(pairs: Sequence[Pair], text: str) -> list[tuple[str, int, int]]:
    """(type, begin, end) of EVERY occurrence of each mention; one that does not occur begins below 0.

    A reply names no places, and where a mention occurs twice both are mostly annotated: on CMeEE-V2's dev file a
    perfect reply finds all 5,411 spans so, and 524 more that are not annotated (F1 95.4, which is the ceiling).
    """
    spans: dict[tuple[str, int, int], None] = {}
    for number, (kind, mention) in enumerate(pairs):
        found = [match.start() for match in re.finditer(f"(?={re.escape(mention)})", text)]
        # Each absent mention stays a wrong span of its own.
        spans |= {(kind, begin, begin + len(mention)): None for begin in found} or {(kind, -1 - number, -1): None}
    return list(spans)


# --- annotated files -------------------------------------------------------------------------------------------------


def _item(name: str, split: str, place: int, row: Any, more: int) -> tuple[str, Item]:
    """(what is wrong with the row, its item); `more`: as in `_end_of_file`."""
    text, entities, wrong = str(row), [], ""
    if isinstance(row, Reject):
        text, wrong = "", said(row)
    elif not isinstance(row, dict):
        wrong = "the row is not a JSON object"
    else:
        text, listed = _annotated(row)
        if not isinstance(text, str) or not text.strip():
            text, wrong = "", "no text"
        elif not isinstance(listed, list):
            wrong = "no list of entities ('entities' or 'entity_list')"
        else:
            entities = [_entity(given, text, more) for given in listed]
            wrong = next((entity for entity in entities if isinstance(entity, str)), "")
    distinct = [] if wrong else sorted(set(entities), key=lambda e: (e[2], -e[3], e[0]))
    reference = json.dumps(distinct, ensure_ascii=False)
    return wrong, Item(name, f"{split}-{place:05d}", split, None, text, None, None, reference)


def _annotated(row: dict) -> tuple[Any, Any]:
    return row.get("text", row.get("originalText")), row.get("entities", row.get("entity_list"))


def _place(given: Any) -> tuple[Any, Any, Any, int]:
    """(type, begin, end, 1 where the form's `end` is the last character) of an entity."""
    given = given if isinstance(given, dict) else {}
    place = given.get("entity_index")
    if isinstance(place, dict):
        return given.get("entity_type"), place.get("begin"), place.get("end"), 0
    if "start_pos" in given:
        return given.get("label_type"), given["start_pos"], given.get("end_pos"), 0
    return given.get("type"), given.get("start_idx"), given.get("end_idx"), 1


def _end_of_file(file: str, rows: Iterable[Any]) -> int:
    """What to add to each `end` of a file for the place behind the mention: 1 where it is the last character."""
    shown: Counter[int] = Counter()
    forms: Counter[int] = Counter()
    for row in rows:
        text, listed = _annotated(row) if isinstance(row, dict) else ("", ())
        for given in listed if isinstance(text, str) and isinstance(listed, list) else ():
            _, begin, end, own = _place(given)
            if type(begin) is int and type(end) is int:
                forms[own] += 1
                shown.update(more for more in (0, 1) if text[begin : end + more] == given.get("entity"))
    if shown:
        return shown.most_common(1)[0][0]
    more = max(forms, key=forms.get, default=0)
    meant = "its last character" if more else "the place behind it"
    print(f"{file}: no entity of it has its text, so an end is taken as {meant}")
    return more


def _entity(given: Any, text: str, more: int) -> Entity | str:
    """The entity, or what is wrong with it."""
    kind, begin, end, _ = _place(given)
    if not isinstance(kind, str) or not kind.strip() or type(begin) is not int or type(end) is not int:
        return f"entity {json.dumps(given, ensure_ascii=False)} lacks its type or its place"
    end += more
    if not 0 <= begin < end <= len(text):
        return f"entity {kind} lies at {begin}-{end}, but the text has {len(text)} characters"
    mention = given.get("entity", text[begin:end])
    if mention != text[begin:end]:
        return f"entity {kind} {mention!r} lies at {begin}-{end}, where the text has {text[begin:end]!r}"
    return kind.strip(), mention, begin, end


# --- replies ---------------------------------------------------------------------------------------------------------

Entry = tuple[str, Pair | None]
"""One of KINDS, and the pair where there is one."""


def _lines(reply: str) -> list[str | Pair]:
    """The lines of a reply that say something; of a reply in JSON its (type, mention) pairs and what stands around."""
    # Patterns take the cube of a row of blanks; no mention holds so many.
    lines = [_BLANKS.sub(" ", line).strip() for line in reply.splitlines()]
    lines = [line for line in lines if line and not _FENCE.match(line)]
    whole = "\n".join(lines)
    begin, end = re.search(r"[\[{]", whole), max(whole.rfind("]"), whole.rfind("}"))
    value = _decoded(whole[begin.start() : end + 1]) if begin and begin.start() < end else ""
    if pairs := list(_elements(value)):
        around = f"{whole[: begin.start()]}\n{whole[end + 1 :]}".splitlines()
        return [*pairs, *(line for line in around if line.strip(_ENDS))]
    if lines and _empty(value):
        return ["无"]
    entries: list[str | Pair] = []
    for line in lines:
        # An object a line, or a list cut off in its middle.
        found = [pair for words in _OBJECT.findall(line) for pair in _elements(_decoded(words))]
        rest = _OBJECT.sub("", line).strip("[], ") if found else line
        entries += [*found, rest] if rest.strip("[]{},") else found
    return entries


def _decoded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # a model may write a thousand brackets
        return line


def _empty(value: Any, depth: int = DEPTH) -> bool:
    """Whether JSON holds lists and objects only, and nothing in them."""
    inside = list(value.values()) if isinstance(value, dict) else value
    return isinstance(inside, list) and depth > 0 and all(_empty(one, depth - 1) for one in inside)


def _elements(value: Any, depth: int = DEPTH) -> Iterator[Pair]:
    """Of a list of objects, a list of pairs, one object, or {type: mentions}."""
    if isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value):
        yield value[0], value[1]
    elif isinstance(value, list):
        for element in value if depth else ():
            yield from _elements(element, depth - 1)
    elif isinstance(value, dict):
        kind = next((value[key] for key in _TYPE_KEYS if isinstance(value.get(key), str)), "")
        mentions = next((words for key in _MENTION_KEYS if (words := _words(value.get(key)))), [])
        if kind and mentions:
            yield from ((kind, word) for word in mentions)
            return
        for key, inside in value.items() if depth else ():
            words = _words(inside)
            yield from ((key, word) for word in words) if words else _elements(inside, depth - 1)


def _words(value: Any) -> list[str]:
    """A text, or a list of texts, as a list; [] for anything else."""
    words = [value] if isinstance(value, str) else value
    return words if isinstance(words, list) and all(isinstance(word, str) for word in words) else []


class _Reader:
    """Reads the lines of replies about `text`; `types` as in `parse`."""

    def __init__(self, types: Mapping[str, str], text: str) -> None:
        self.text, self.known = text, {}
        for kind, name in types.items():
            glossed = [f"{name}{gloss}" for gloss in (f"({kind})", f"（{kind}）", f" ({kind})", f" （{kind}）")]
            self.known |= {alias.lower(): kind for alias in (name, kind, *glossed)}
        self.typed, self.turned = _patterns(tuple(self.known))

    def headed(self, lines: Iterable[str | Pair]) -> Iterator[str | Pair]:
        """The lines, those below a type that stands alone with that type before them."""
        heading = alone = ""
        for line in lines:
            words = "" if isinstance(line, tuple) else _BULLET.sub("", line).strip()
            if words.strip(_ENDS + ":：").lower() in self.known:
                yield from filter(None, [alone])
                heading = alone = words.strip(_ENDS + ":：")
            elif heading and words and self._goes_on(line, words):
                alone = ""
                yield f"{heading}：{words}"
            else:
                yield from filter(None, [alone])
                heading = alone = ""
                yield line
        yield from filter(None, [alone])

    def _goes_on(self, line: str, words: str) -> bool:
        """Whether a line below a type names no type of its own: a point of a list, words of the text, or none."""
        kinds = [kind for kind, _ in self.entries(line)]
        named = bool(_BULLET.match(line)) or all(self.mention(word) in self.text for word in _LIST.split(words))
        return kinds == ["none"] or kinds == ["unreadable"] and named

    def entries(self, line: str | Pair) -> list[Entry]:
        """The asked form, once or several times in the line, else a mention before its type, or two words without a
        mark between them, else a type that is not known."""
        if isinstance(line, tuple):
            return [self.entry(*line)]
        line = _ASKED.sub(r"\1：", _BULLET.sub("", line).strip())
        if _says_nothing(line):
            return [("none", None)]
        marks = list(self.typed.finditer(line))
        if marks and not line[: marks[0].start()].strip(_ENDS):
            ends = [*(mark.start() for mark in marks[1:]), len(line)]
            said = [(mark[1] or mark[2], line[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
            return [entry for kind, words in said for entry in self.mentions(kind, words)]
        if match := self.turned.fullmatch(line):
            return [self.entry(match[2], match[1])]
        words = line.split()
        if len(words) == 2 and words[0].lower() in self.known:
            return [self.entry(*words)]
        match = _LABELLED.fullmatch(line.strip(_QUOTES))
        kind, mention = (match[1].strip(_QUOTES), self.mention(match[2])) if match else ("", "")
        unknown = kind and mention and mention in self.text
        return [("unknown_type", (kind, mention)) if unknown else ("unreadable", None)]

    def mentions(self, kind: str, said: str) -> list[Entry]:
        """Several mentions after one type, unless the whole is one."""
        whole = self.entry(kind, said)
        parts = [word for word in _LIST.split(said.strip(_ENDS)) if word.strip(_ENDS)]
        several = whole[0] == "not_in_text" and len(parts) > 1
        return [self.entry(kind, word) for word in parts] if several else [whole]

    def entry(self, kind: str, said: str) -> Entry:
        """What one pair of a reply is."""
        mention, kind = self.mention(said), kind.strip(_QUOTES)
        if not mention:
            return "unreadable", None
        if _says_nothing(mention):
            return "none", None
        if kind.lower() not in self.known:
            return "unknown_type", (kind, mention)
        return "parsed" if mention in self.text else "not_in_text", (self.known[kind.lower()], mention)

    def mention(self, said: str) -> str:
        """The mention as written where the text has it so, else without quotes and marks around it."""
        candidates = (said.strip(), said.strip(_QUOTES), said.strip(_ENDS))
        return next((words for words in candidates if words and words in self.text), candidates[-1])


@cache
def _patterns(known: tuple[str, ...]) -> tuple[re.Pattern, re.Pattern]:
    """A type with its separator, at the beginning of a line or of a part of it; a mention before its type."""
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    quotes, ends = f"[{re.escape(_QUOTES)}]{{0,20}}", f"[{re.escape(_ENDS)})）]*"
    return (
        re.compile(
            rf"(?:^|(?<=[\s、，,；;。|]))(?:{quotes}({names}){quotes}{_SEPARATOR}|[\[【(（]{_GAP}({names}){_GAP}[\]】)）]{_GAP})",
            re.IGNORECASE,
        ),
        re.compile(rf"(.+?)(?:{_SEPARATOR}|\s|[(（\[【/／]{_GAP}+){quotes}+({names}){ends}", re.IGNORECASE),
    )


def _says_nothing(words: str) -> bool:
    return bool(_NOTHING.fullmatch(words.strip(_ENDS + "()（）").lower()))
