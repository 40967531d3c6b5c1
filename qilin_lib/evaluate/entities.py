"""Named entities: annotated texts as items, a model's reply read as (type, mention) pairs, mentions found in the text.

Three forms of annotation are read, told apart by their keys, in a JSON list or in JSON lines:
- CMeEE-V2: `text`, `entities` [{start_idx, end_idx, type, entity}], `end_idx` is the LAST character (of all 5,411
  entities of the public dev file at hand, counted in tests/evaluate/test_ner.py);
- CCKS-2019 as copies have it: `text`, `entity_list` [{entity_index {begin, end}, entity_type, entity}], `end` excluded;
- CCKS-2019 as released: `originalText`, `entities` [{start_pos, end_pos, label_type}], `end_pos` excluded, no mention.
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

from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.readers.stream import Reject, plain_name
from qilin_lib.evaluate.benchmark_files import Unreadable, files_of, records, said
from qilin_lib.evaluate.items import Item, Reading, part

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
KINDS = ("parsed", "unknown_type", "not_in_text", "none", "unreadable")
"""What an entry of a reply can be."""
DEPTH = 5
"""No list of entities in JSON nests deeper."""

_NOTHING = re.compile(
    r"(?:文本中|文中|本文)?(?:无|没有|不存在|未发现|未提及|none|null)(?:任何|相关|该类|明确|的|医学|命名|此类)*(?:实体)?"
)
_BULLET = re.compile(r"^(?:[-*•·●▪►>#]+|[(（]?\d{1,3}[.、)）:：](?!\d)|[①-⑳])\s*")
_FENCE = re.compile(r"^```\w*$")
_QUOTES = " \t\u3000\"'“”‘’「」『』《》【】<>[]*`|"
_ENDS = _QUOTES + "。．.，,；;、"
_OBJECT = re.compile(r"\{[^{}]*\}|\[\s*\"[^\[\]]*\]")
_COLON = r"\s*[:：|\t]\s*"
_SEPARATOR = r"\s*(?:[:：|\t=＝]|[-—–]+>?|→)\s*"
_LIST = re.compile(r"\s*[、，,；;]\s*")
_LABELLED = re.compile(rf"([^\s:：|，,。；;、]{{1,10}}){_COLON}(\S.*)")
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
            files = {file: records(folder, file, _has_text) for file in there if _fits(file, words)}
            for file, rows in files.items():
                broken += [f"{file.file}, line {n}: {said(row)}" for n, row in rows if isinstance(row, Reject)][:1]
            labelled = {file: rows for file, rows in files.items() if any(_annotated(row) for _, row in rows)}
            if len(labelled) > 1:
                raise Unreadable(
                    folder,
                    f"has {len(labelled)} annotated files of its {split} split "
                    f"({', '.join(file.file for file in labelled)}); keep one of them",
                )
            for file, rows in labelled.items():
                return split, part(folder, file, _judged(name, split, rows))
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
    "实体：类型", "实体/类型", two words of which one is a type, JSON as a whole or line by line. Mentions are exact:
    one that is no substring of the text is not in it. An unknown type is one before something that is in the text; any
    other line is unreadable.
    """
    known = {}
    for kind, name in types.items():
        glossed = [f"{name}{gloss}" for gloss in (f"({kind})", f"（{kind}）", f" ({kind})", f" （{kind}）")]
        known |= {alias.lower(): kind for alias in (name, kind, *glossed)}
    entries = [entry for line in _lines(reply) for entry in _entries(line, known, text)]
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


def _fits(file: Found, words: Sequence[str]) -> bool:
    name = PurePosixPath(plain_name(file.place).lower())
    return name.suffix in SUFFIXES and any(word in name.stem for word in words)


def _has_text(row: Any) -> bool:
    return isinstance(row, dict) and ("text" in row or "originalText" in row)


def _decoded(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # a model may write a thousand brackets
        return line


def _annotated(row: Any) -> bool:
    return isinstance(row, dict) and bool(row.get("entities") or row.get("entity_list"))


def _judged(name: str, split: str, rows: list[tuple[int, Any]]) -> Iterator[tuple[int, str, str, Item]]:
    for place, (line, row) in enumerate(rows):
        text, entities, reason = ("", [], said(row)) if isinstance(row, Reject) else _row(row)
        reference = json.dumps(sorted(set(entities), key=lambda e: (e[2], -e[3], e[0])), ensure_ascii=False)
        yield line, "", reason, Item(name, f"{split}-{place:05d}", split, None, text, None, None, reference)


def _row(row: Any) -> tuple[str, list[Entity], str]:
    """(text, entities, what is wrong with the row)."""
    if not isinstance(row, dict):
        return str(row), [], "the row is not a JSON object"
    text = row.get("text", row.get("originalText"))
    if not isinstance(text, str) or not text.strip():
        return "", [], "no text"
    listed = row.get("entities", row.get("entity_list"))
    if not isinstance(listed, list):
        return text, [], "no list of entities ('entities' or 'entity_list')"
    found = [_entity(given, text) for given in listed]
    wrong = next((entity for entity in found if isinstance(entity, str)), "")
    return text, [] if wrong else found, wrong


def _entity(given: Any, text: str) -> Entity | str:
    """The entity, or what is wrong with it."""
    given = given if isinstance(given, dict) else {}
    place = given.get("entity_index")
    if isinstance(place, dict):
        kind, begin, end, last = given.get("entity_type"), place.get("begin"), place.get("end"), 0
    elif "start_pos" in given:
        kind, begin, end, last = given.get("label_type"), given["start_pos"], given.get("end_pos"), 0
    else:
        kind, begin, end, last = given.get("type"), given.get("start_idx"), given.get("end_idx"), 1
    if not isinstance(kind, str) or not kind.strip() or type(begin) is not int or type(end) is not int:
        return f"entity {json.dumps(given, ensure_ascii=False)} lacks its type or its place"
    end += last
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
    lines = [line.strip() for line in reply.splitlines()]
    lines = [line for line in lines if line and not _FENCE.match(line)]
    whole = "\n".join(lines)
    begin, end = re.search(r"[\[{]", whole), max(whole.rfind("]"), whole.rfind("}"))
    value = _decoded(whole[begin.start() : end + 1]) if begin and begin.start() < end else ""
    if pairs := list(_elements(value)):
        around = f"{whole[: begin.start()]}\n{whole[end + 1 :]}".splitlines()
        return [*pairs, *(line for line in around if line.strip(_ENDS))]
    if lines and _empty(value):
        return ["无"]
    return [found for line in lines for found in _objects(line)]


def _objects(line: str) -> list[str | Pair]:
    """The line, or of one that holds JSON (an object a line, a list cut off in its middle) its pairs and the rest."""
    found = [pair for words in _OBJECT.findall(line) for pair in _elements(_decoded(words))]
    rest = _OBJECT.sub("", line).strip("[], ") if found else line
    return [*found, rest] if rest.strip("[]{},") else found


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


def _entries(line: str | Pair, known: Mapping[str, str], text: str) -> list[Entry]:
    if isinstance(line, tuple):
        return [_entry(*line, known, text)]
    line = _BULLET.sub("", line).strip()
    if _says_nothing(line):
        return [("none", None)]
    return _typed(line, known, text) or _turned(line, known, text) or [_unknown(line, text)]


def _typed(line: str, known: Mapping[str, str], text: str) -> list[Entry]:
    """The asked form, once or several times in the line, and several mentions after one type."""
    marks = list(_patterns(tuple(known))[0].finditer(line))
    if not marks or line[: marks[0].start()].strip(_ENDS):
        return []
    ends = [*(mark.start() for mark in marks[1:]), len(line)]
    said = [(mark[1] or mark[2], line[mark.end() : end]) for mark, end in zip(marks, ends, strict=True)]
    return [entry for kind, words in said for entry in _mentions(kind, words, known, text)]


def _mentions(kind: str, said: str, known: Mapping[str, str], text: str) -> list[Entry]:
    whole = _entry(kind, said, known, text)
    parts = [word for word in _LIST.split(said.strip(_ENDS)) if word.strip(_ENDS)]
    if whole[0] != "not_in_text" or len(parts) < 2:
        return [whole]
    return [_entry(kind, word, known, text) for word in parts]


def _turned(line: str, known: Mapping[str, str], text: str) -> list[Entry]:
    """The mention before its type, and two words without a mark between them."""
    match = _patterns(tuple(known))[1].fullmatch(line)
    if match:
        return [_entry(match[2], match[1], known, text)]
    words = line.split()
    return [_entry(*words, known, text)] if len(words) == 2 and words[0].lower() in known else []


@cache
def _patterns(known: tuple[str, ...]) -> tuple[re.Pattern, re.Pattern]:
    """A type with its separator, at the beginning of a line or of a part of it; a mention before its type."""
    names = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    quotes, ends = f"[{re.escape(_QUOTES)}]*", f"[{re.escape(_ENDS)})）]*"
    return (
        re.compile(
            rf"(?:^|(?<=[\s、，,；;。|]))(?:{quotes}({names}){quotes}{_SEPARATOR}|[\[【(（]\s*({names})\s*[\]】)）]\s*)",
            re.IGNORECASE,
        ),
        re.compile(rf"(.+?)(?:{_SEPARATOR}|\s+|\s*[(（\[【/／]\s*){quotes}({names}){ends}", re.IGNORECASE),
    )


def _unknown(line: str, text: str) -> Entry:
    match = _LABELLED.fullmatch(line.strip(_QUOTES))
    mention = _mention(match[2], text) if match else ""
    kind = match[1].strip(_QUOTES) if match else ""
    return ("unknown_type", (kind, mention)) if kind and mention and mention in text else ("unreadable", None)


def _entry(kind: str, said: str, known: Mapping[str, str], text: str) -> Entry:
    mention, kind = _mention(said, text), kind.strip(_QUOTES)
    if not mention:
        return "unreadable", None
    if _says_nothing(mention):
        return "none", None
    if kind.lower() not in known:
        return "unknown_type", (kind, mention)
    return "parsed" if mention in text else "not_in_text", (known[kind.lower()], mention)


def _mention(said: str, text: str) -> str:
    """The mention as written where the text has it so, else without quotes and marks around it."""
    candidates = (said.strip(), said.strip(_QUOTES), said.strip(_ENDS))
    return next((words for words in candidates if words and words in text), candidates[-1])


def _says_nothing(words: str) -> bool:
    return bool(_NOTHING.fullmatch(words.strip(_ENDS + "()（）").lower()))
