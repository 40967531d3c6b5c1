"""Persons: places where a name may stand, and a linear model, trained from sentences, that says where one does.

A place is proposed by a cue before it, by a title or a verb behind it, by a surname that is hardly a word, or by where
a signature stands. Its features are what stands on both sides, its shape, and how much better it reads as a name than
as words (deid_model). Weights are integers (data/deid_weights.json; deid_train makes them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, Rule, Spans, listed, trie
from qilin_lib.chimed.deid_cues import (
    ACTED,
    BORDERS,
    EXTRA,
    FIRST,
    SURNAMED,
    TITLE,
    TITLES,
    behind,
    cued,
    name_end,
    right_of,
)  # fmt: skip
from qilin_lib.chimed.deid_model import DOUBLE, SMALL, SURNAMES, SYLLABLES, odds, surname_of, words

Place = tuple[int, int]
LIKELY = 96  # of `odds`
# What makes features, and from what: the sum of their weights is kept (`_weight`).
Part = tuple[Any, ...]

# --- texts without persons to protect ---------------------------------------------------------------------------------

_old = re.compile(
    "[之其乃曰矣也而∶]|[一二三四五六七八九十半两各][钱两分盏枚斤壮]|为末|为使|[恶畏反杀][\u4e00-\u9fa5]{2,3}[、；，。]|水煎|为丸|每服|无毒|[味主]治?[甘辛苦酸咸]"
).findall
_modern = re.compile("[的了是我你您们很吗呢吧患0-9A-Za-z]").findall
_title = re.compile(r".{0,60}(?:指南|方案|规范|共识|规程|标准|手册)(?:[（(].{0,20}[）)])?\n").match
_chapter = re.compile(r"《[^》\n]+》[^，。\n]*\n").match
_ANCIENT = frozenset(listed("ancients"))
_PRINTED = ("按姓氏", "参考文献", "et al", "[J]", "[M]", "日印发")


def public(text: str) -> bool:
    """Whether the persons of `text` are public: it is classical Chinese, a guideline, or lists who wrote it."""
    if _title(text) or any(mark in text for mark in _PRINTED):
        return True
    head, book = text[:600], _chapter(text)
    old, modern = _old(head), len(_modern(head))
    classical = len(old) > (1 if book else 2) and len(set(old)) > 1 and len(old) > 2 * modern
    return classical or not modern and (book is not None or bool(old) and any(name in head for name in _ANCIENT))


# --- shapes -----------------------------------------------------------------------------------------------------------

_DOTS = "·•・．‧∙"
_MINORITY = rf"{HAN}{{1,8}}(?:[{_DOTS}]{HAN}{{1,8}}){{1,3}}"
_FIELD = "(?!(?:Sex|Age|DOB|Gender|Date|ID|No|Tel|Ward|Bed|SEX|AGE)(?![a-z]))"
_LATIN = rf"[A-Z][A-Za-z'’-]{{1,20}}(?:\.? (?:[A-Z]\. )?{_FIELD}[A-Z][A-Za-z'’-]{{1,20}}){{1,3}}(?![A-Za-z])"
_LATIN_LABELLED = rf"[A-Za-z][A-Za-z'’.-]{{1,20}}(?: {_FIELD}[A-Za-z][A-Za-z'’.-]{{0,20}}){{0,3}}(?![A-Za-z\d@_/])"
_SPACED = rf"{HAN}[ 　]{HAN}(?:[ 　]?{HAN})?"
_shape = re.compile(rf"{_MINORITY}|{_SPACED}|{_LATIN}|{_LATIN_LABELLED}|{HAN}{{1,6}}").match
_plain = re.compile(f"{HAN}{{1,6}}").match
_shape_before = re.compile(rf"(?:{_MINORITY}|{_LATIN}|(?<!{HAN})(?<!{HAN} ){_SPACED})\Z").search
_ODD = frozenset(f"{_DOTS} abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_DOT = frozenset(_DOTS)
_NAMING = ("label", "staff", "said", "asked", "reply")


def _ends(text: str, start: int, cue: str = "") -> Iterator[int]:
    """Where a name that begins at `start` may end."""
    if cue in ("nick", "twice"):
        yield start + (2 if cue == "twice" else len(surname_of(text[start : start + 2])) or 1)
        return
    shape = _shape(text, start)
    if shape is None:
        return
    if shape[0].isascii():
        pieces = shape[0].split()
        proper = len(pieces) > 1 and all(piece[0].isupper() for piece in pieces)
        if max(map(len, pieces)) > 2 and (proper or cue[:5] in _NAMING):
            yield shape.end()
        return
    if (" " in shape[0] or "　" in shape[0]) and start and "\u4e00" <= text[start - 1] <= "\u9fa5" and not cue:
        shape = _plain(text, start)
    dots, blank = _DOT.intersection(shape[0]), {" ", "　"}.intersection(shape[0])
    shortest = start + (3 if blank else max(map(shape[0].rfind, _DOTS)) + 2 if dots else 1 if cue else 2)
    longest = shape.end()
    if not dots and not blank and not SYLLABLES.issuperset(shape[0][:4]):
        longest = min(longest, start + len(surname_of(shape[0]) or " ") + 2)
    yield from range(shortest, longest + 1)
    if cue[-1:] == ":" and shape.end() > longest:
        # "患者姓名：吉木阿呷": what a label introduces may be longer than a name is elsewhere.
        yield shape.end()


_EDGES = frozenset(BORDERS) | frozenset(listed("leads")[0])


def _begins(text: str, end: int, longest: int) -> Iterator[int]:
    """Where a name that ends at `end` may begin."""
    start = end
    while start and end - start < 6 and "\u4e00" <= text[start - 1] <= "\u9fa5":
        start -= 1
        # Names of minorities are longer.
        if end - start > longest and not SYLLABLES.issuperset(text[start:end]):
            break
        if text[start] in FIRST or text[start] in EXTRA and (start == 0 or text[start - 1] in _EDGES):
            yield start
    if start and text[start - 1] in _ODD and (shape := _shape_before(text, max(0, end - 24), end)):
        yield shape.start()


# --- places -----------------------------------------------------------------------------------------------------------

_border = re.escape(BORDERS)
_any = "".join(sorted(SURNAMED))
_day = r"[ 　，,]{0,3}(?:\d{2,4}[年./-]\d{1,2}[月./-]?(?:\d{1,2}日?)?)?"
# Whoever signs stands at the end of a text, or behind the last sentence of a line.
_last = re.compile(
    rf"(?:[{_border}]|\A)(?P<name>[{_any}](?:{HAN}{{1,3}}|[ 　]{HAN}(?:[ 　]?{HAN})?)){_day}\s*\Z"
).search
_signed = re.compile(rf"[。！!　] ?(?P<name>[{_any}]{HAN}{{1,2}}){_day}(?=\n)").finditer
_opening = re.compile(rf"^(?P<name>[{_any}]{HAN}{{1,3}})(?=[，, 　])", re.MULTILINE).finditer
_nick = re.compile(rf"[小老阿](?P<name>{trie(DOUBLE)}|[{''.join(sorted(SURNAMES | set(listed('pets')[0])))}])").finditer
# What parents call a child: "豆豆今天退烧了".
_twice = re.compile(rf"(?P<name>([{listed('pets')[0]}])\2)").finditer
_dots = re.compile(rf"(?<=[{''.join(sorted(SYLLABLES))}])[{_DOTS}](?={HAN})").finditer
_syllables = re.compile(rf"[{''.join(sorted(SYLLABLES))}]*\Z").search
# What begins with a surname that is hardly a word may be a name anywhere: "沈浪", "欧阳静".
_RARE = frozenset(listed("rare_surnames")[0])
_bare = re.compile(rf"[{''.join(sorted(_RARE))}](?=[\u4e00-\u9fa5 　])").finditer
_known = re.compile(f"[{HIDDEN}{NAMED}]").search
_bare_any = re.compile(rf"[{_any}](?=[\u4e00-\u9fa5 　])").finditer
_double = re.compile(
    "[{}](?=[{}])".format(*("".join(sorted(set(place))) for place in zip(*DOUBLE, strict=True)))
).finditer


def places(text: str) -> tuple[dict[Place, None], dict[int, str]]:
    """The places in `text` where a name may stand, and the cues before them."""
    starts = cued(text)
    for match in _nick(text):
        if match[0] not in words()[1]:
            starts[match.start("name")] = "nick"
    for cue, matches in (
        ("twice", _twice(text)),
        ("opens", _opening(text)),
        ("signs", _signed(text)),
        ("signs", [_last(text, max(0, len(text) - 24))]),
    ):
        for match in filter(None, matches):
            starts.setdefault(match.start("name"), cue)
    for start in _uncued(text):
        starts.setdefault(start, "")
    found = [(start, end) for start, cue in starts.items() for end in _ends(text, start, cue)]
    if _known(text):
        # Where somebody is named or has a number, others may stand without a cue: what reads far better as a name.
        starting = (start for start in _outside_words(text, _bare_any) if not start or text[start - 1] in _EDGES)
        bare = ((start, end) for start in starting for end in _ends(text, start) if end - start > 1)
        found += [place for place in bare if odds(text, *place) >= LIKELY]
    for cue in behind(text):
        end, longest = name_end(text, cue)
        found += [(start, end) for start in _begins(text, end, longest)]
    return dict.fromkeys(place for place in found if _possible(text, *place, starts)), starts


def _uncued(text: str) -> Iterator[int]:
    """Where a rare surname, a double one, or the syllables in front of a dot begin, unless they are part of a word."""
    yield from _outside_words(text, _bare)
    for match in _double(text):
        start = match.start()
        if text[start : start + 2] in DOUBLE and text[start - 1 : start + 1] not in words()[1]:
            yield start
    for dot in _dots(text):
        yield dot.start() - len(_syllables(text[max(0, dot.start() - 8) : dot.start()])[0])


def _outside_words(text: str, search: Callable[[str], Iterator[re.Match[str]]]) -> Iterator[int]:
    common = words()[1]
    for start in (match.start() for match in search(text)):
        if common.isdisjoint((text[start - 1 : start + 1], text[start : start + 2], text[start : start + 3])):
            yield start


_LED, _EVERYDAY, _NEVER = (frozenset(listed(key)) for key in ("led_only", "everyday", "never_alone"))
_CLINICAL = tuple(listed("clinical"))
_NO_NAMES = ACTED | TITLES | {"麻醉", "宣教", "查房"}
_NO_PART = SMALL | frozenset("某氏症癌瘤疮疹痣痛病药膏酸剂肿胀泻")


def _possible(text: str, start: int, end: int, starts: dict[int, str]) -> bool:
    """Whether a place holds neither a word for an act or a title nor, unless a label says so, what no name holds."""
    name, cue = text[start:end], starts.get(start, "")
    if name in _NO_NAMES or text.startswith(("作者：", "作者:"), start - 3):
        return False
    if cue[-1:] == ":" or cue in ("said", "asked", "reply", "signed"):
        return True
    if text[end : end + 1] == "某" or not _ANCIENT.isdisjoint((text[start : start + 3], text[start : start + 2])):
        return False
    # "胡萝卜", "羊角风", "帕金森病": a word of three letters, or the name of a disease, whatever stands beside it.
    if len(name) > 2 and (name in words()[1] or name[-1] in _NO_PART):
        return False
    return (len(name) > 3 or _NO_PART.isdisjoint(name[1:])) and not name.startswith(_CLINICAL)


# --- features ---------------------------------------------------------------------------------------------------------

_HEADINGS = tuple(listed("headings"))
_NOTHING = frozenset(listed("nothing"))
_crossing = re.compile(TITLE).match
_LEADS, _LEAD_WORDS = frozenset(listed("leads")[0]), frozenset(listed("lead_words"))
# Who speaks or signs in a text, or what is already found in it, makes it somebody's.
_personal = re.compile(f"[我您你咱签{HIDDEN}{NAMED}]|家属").search


def _surname_kind(plain: str, surname: str) -> str:
    if len(surname) == 2:
        return "double"
    if len(plain) > 2 and SYLLABLES.issuperset(plain):
        return "syllables"
    if not surname and plain[0] in EXTRA:
        return "extra"
    if not surname:
        return "syllables" if SYLLABLES.issuperset(plain) else "none"
    kind = "everyday" if surname in _EVERYDAY else "rare" if surname in _RARE else "common"
    return kind + ("!" if surname in _NEVER else "?" if surname in _LED else "")


def _form(name: str, plain: str) -> str:
    if plain.isascii():
        return ("latin" if " " in name else "word") + ("A" if name.isupper() else "a" if name[1:].islower() else "")
    if not _DOT.isdisjoint(name):
        odd = sum(letter not in SYLLABLES for letter in re.split(f"[{_DOTS}]", name)[-1])
        return f"dots{min(odd, 3)}"
    return f"han{len(plain)}"


def _left(text: str, start: int, cue: str) -> str:
    if cue:
        return cue
    if start == 0 or text[start - 1] in BORDERS:
        return "border"
    return "lead" if text[start - 1] in _LEADS or text[start - 2 : start] in _LEAD_WORDS else "other"


def features(text: str, start: int, end: int, cue: str, told: bool) -> list[Part]:
    """What tells for or against a name at text[start:end], in parts that are the same at many places."""
    name = text[start:end]
    plain = name.replace(" ", "").replace("　", "")
    left, right = _left(text, start, cue), right_of(text, end)
    surname, form = surname_of(plain), _form(name, plain)
    before, after = text[max(0, start - 3) : start] or "^", text[end : end + 3] or "$"
    is_han = form[0] == "h"
    kind = _surname_kind(plain, surname)
    if not is_han:
        kind = form[:4] + (str(after[0] in SYLLABLES) if form[0] == "d" else "")
    parts: list[Part] = [(_before, before, kind, form), (_behind, after, kind, form), (_beside, before[-1], after[0])]
    if not is_han:
        return [*parts, (_shape_tags, left, right, form, kind, told)]
    common, given = words()[1], plain[len(surname) :]
    joins = f"{text[max(0, start - 1) : start + 1] in common:d}{text[end - 1 : end + 1] in common:d}"
    joins += f"{plain in common:d}{text[end : end + 2] in common:d}"
    flags = "".join(
        flag
        for flag, holds in (
            (" gap", plain != name),
            (" sure", cue[-1:] == ":" and right == "border" and kind in ("common", "rare") and plain not in common),
            (" nothing", plain in _NOTHING),
            (" heading", plain.startswith(_HEADINGS)),
            (" ending", plain[-1] in "者儿人痰之"),
            (" crossing", end - start > 1 and any(_crossing(text, place) for place in range(start + 1, end))),
            (f" g{given in common}|", len(given) == 2),
        )
        if holds
    )
    score = max(-5, min(6, odds(text, start, end) // 32))
    return [
        *parts,
        (_letters, text[start], plain[-1], given[:1], form, right),
        (_flags, flags, left),
        (_shape_tags, left, right, form, kind, told),
        (_word_tags, left, right, form, kind, told, score, joins),
    ]


def _before(before: str, kind: str, form: str) -> list[str]:
    one = before[-1]
    return [f"<{one}", f"<<{before[-2:]}", f"<<<{before}", f"<k{one}|{kind}", f"<f{one}|{form}"]


def _behind(after: str, kind: str, form: str) -> list[str]:
    one = after[0]
    return [f">{one}", f">>{after[:2]}", f">>>{after}", f">k{one}|{kind}", f">f{one}|{form}"]


def _beside(one: str, following: str) -> list[str]:
    return [f"<>{one}|{following}"]


def _letters(first: str, last: str, given: str, form: str, right: str) -> list[str]:
    return [f"0{first}|{form}", f"0r{first}|{right}", f"-1{last}", f"1{given}"]


def _flags(flags: str, left: str) -> list[str]:
    return [tag for flag in flags.split() for tag in (flag, f"{flag}{left}")]


def _shape_tags(left: str, right: str, form: str, kind: str, told: bool) -> list[str]:
    """The shape of a place and what stands beside it."""
    return [
        "bias", f"f{form}", f"k{kind}", f"l{left}", f"r{right}", f"lr{left}|{right}", f"lf{left}|{form}",
        f"rf{right}|{form}", f"lk{left}|{kind}", f"rk{right}|{kind}", f"fk{form}|{kind}", f"lrf{left}|{right}|{form}",
        f"lrk{left}|{right}|{kind}", f"t{told:d}{left}", f"tr{told:d}{left}|{right}",
    ]  # fmt: skip


def _word_tags(left: str, right: str, form: str, kind: str, told: bool, score: int, joins: str) -> list[str]:
    """How well a place reads as a name, and what of it and beside it are words."""
    opens, ends, word, ahead = joins
    bare = left in ("other", "lead", "border")
    return [
        *[f"u{kind}|{form}|{score}", f"u{told:d}{form}|{score}|{opens}{ends}{word}"] * bare,
        f"w{word}|{form}", f"wl{word}|{left}", f"wr{word}|{right}", f"lw{left}|{word}|{right}",
        f"j{opens}{ends}|{form}", f"jl{opens}|{left}", f"jr{ends}|{right}",
        f"a{ahead}|{right}|{form}", f"al{ahead}|{left}|{right}",
        f"o{score}", f"of{score}|{form}", f"ol{score}|{left}", f"or{score}|{right}", f"ok{score}|{kind}",
        f"lo{left}|{score // 2}|{right}", f"s{kind}|{left}|{right}|{score > 1}", f"to{told:d}{score}|{left}",
    ]  # fmt: skip


def tags(parts: list[Part]) -> list[str]:
    """The features of a place, each of which has a weight of its own."""
    return [tag for make, *given in parts for tag in make(*given)]


# --- the decision -----------------------------------------------------------------------------------------------------


@cache
def weights() -> dict[str, int]:
    """The weight of each feature that has one."""
    return json.loads(files("qilin_lib.chimed").joinpath("data/deid_weights.json").read_text(encoding="utf-8"))


@lru_cache(1 << 17)
def _weight(part: Part) -> int:
    return sum(weights().get(tag, 0) for tag in tags([part]))


def proposed(text: str) -> Iterator[tuple[Place, str, bool]]:
    """The places in `text` where a name may stand, each with the cue before it and whether somebody speaks."""
    found, starts = places(text)
    told = bool(found) and _personal(text) is not None
    for start, end in found:
        yield (start, end), starts.get(start, ""), told


def best(values: dict[Place, int]) -> list[Place]:
    """The places of positive value that overlap none of a higher one, in order."""
    taken, kept = set(), []
    for start, end in sorted(
        (place for place in values if values[place] > 0), key=lambda place: (-values[place], place)
    ):
        if taken.isdisjoint(range(start, end)):
            taken.update(range(start, end))
            kept.append((start, end))
    return sorted(kept)


_surname_alone = re.compile(
    rf"(?<![百同何某族])姓(?![名氏])({HAN}{{1,2}}?)(?:名({HAN}{{1,2}})|[，,]({HAN}{{2,3}}))?"
    rf"(?=[\s，,。！!；;{NAMED}]|\Z)"
).finditer


def _called(match: re.Match[str], part: int) -> bool:
    """Whether a part of "姓沈名浪", "姓贡，贡来福" is a name: its surname is one, and the full name begins with it."""
    sure = match[1] in SURNAMES | DOUBLE or match.string[: match.start()].endswith(("免贵", "复"))
    return bool(match[part] and sure and (part < 3 or match[3].startswith(match[1])))


def _names(text: str) -> Spans:
    if public(text):
        return
    values = {}
    for (start, end), cue, told in proposed(text):
        values[start, end] = sum(map(_weight, features(text, start, end, cue, told)))
    for match in _surname_alone(text) if "姓" in text else ():
        values |= {match.span(part): 10**6 for part in (1, 2, 3) if _called(match, part)}
    yield from best(values)


NAME_RULES = (Rule("姓名", _names),)
