"""Persons: places where a name may stand, and a linear model, trained from sentences, that says where one does.

A place is proposed by a cue before it, by a title or a verb behind it, by a surname between two borders, or by a
surname that is rare as a word. Its features are what stands on both sides, its shape, and how much better it reads as
a name than as words (deid_model). Weights are integers (data/deid_weights.json; deid_train makes them).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.resources import files

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
)
from qilin_lib.chimed.deid_model import DOUBLE, SURNAMES, SYLLABLES, odds, surname_of, words

# --- shapes -----------------------------------------------------------------------------------------------------------

_EDGES = frozenset(BORDERS) | frozenset(listed("leads")[0])
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
_DOT, _dots = frozenset(_DOTS), re.compile(f"[{_DOTS}]").finditer
_EVERYDAY, _LED, _NEVER = (frozenset(listed(key)) for key in ("everyday", "led_only", "never_alone"))
# "任护士长三年" holds an office.
_office = re.compile(rf"任(?:{TITLE})(?:[^，。]{{0,2}}年|期间|职|不)").match
_CLINICAL = tuple(listed("clinical"))
_NO_NAMES = ACTED | TITLES | {"麻醉", "宣教", "查房"}
_RARE = frozenset(listed("rare_surnames")[0])
_border = re.escape(BORDERS)
_lone = re.compile(
    rf"[{''.join(sorted(SURNAMED))}](?<=[{_border}].){HAN}{{1,3}}(?=[{_border}{NAMED}{HIDDEN}<]|\Z)"
    rf"|\A[{''.join(sorted(SURNAMED))}]{HAN}{{1,3}}(?=[{_border}{NAMED}{HIDDEN}<]|\Z)"
    rf"|[{''.join(sorted(SURNAMES))}](?:(?<=[{_border}].)|(?<=\A.))[ 　]{HAN}(?:[ 　]?{HAN})?"
    rf"(?=[{_border}{NAMED}{HIDDEN}<]|\Z)"
    rf"|[{''.join(sorted(SYLLABLES))}](?<=[{_border}].){HAN}{{2,4}}(?=[{_border}{NAMED}{HIDDEN}<]|\Z)"
).finditer
_nick = re.compile(rf"[小老阿](?={trie(DOUBLE)}|[{''.join(sorted(SURNAMES))}])").finditer
_odd_surname = re.compile(f"[{''.join(sorted(_RARE | {double[0] for double in DOUBLE}))}]").finditer


_NAMING = ("label", "staff", "said", "asked", "reply")


def _ends(text: str, start: int, cue: str = "") -> Iterator[int]:
    """Where a name that begins at `start` may end."""
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
    shortest = start + (3 if blank else max(map(shape[0].rfind, _DOTS)) + 2 if dots else 1)
    longest = shape.end()
    if not dots and not blank and not SYLLABLES.issuperset(shape[0][:4]):
        longest = min(longest, start + len(surname_of(shape[0]) or " ") + 2)
    yield from range(shortest, longest + 1)


def _begins(text: str, end: int, longest: int) -> Iterator[int]:
    """Where a name that ends at `end` may begin."""
    start = end
    while start and end - start < longest and "\u4e00" <= text[start - 1] <= "\u9fa5":
        start -= 1
        if text[start] in FIRST or text[start] in EXTRA and (start == 0 or text[start - 1] in _EDGES):
            yield start
    if start and text[start - 1] in _ODD and (shape := _shape_before(text, max(0, end - 24), end)):
        yield shape.start()


def _syllables(text: str, end: int) -> int:
    start = end
    while start and end - start < 8 and text[start - 1] in SYLLABLES:
        start -= 1
    return start


def places(text: str) -> tuple[dict[tuple[int, int], None], dict[int, str]]:
    """The places in `text` where a name may stand, and the cues before them."""
    starts = cued(text)
    found = [(start, end) for start in starts for end in _ends(text, start, starts[start])]
    for nick in _nick(text):
        start = nick.end()
        if text[start - 1 : start + 1] not in words()[1]:
            starts[start] = "nick" + starts.get(start - 1, "")[:5]
            found += [(start, start + len(surname_of(text[start : start + 2])))]
    for cue in behind(text):
        end, longest = name_end(text, cue)
        found += [(start, end) for start in _begins(text, end, longest)]
    for dot in _dots(text) if "·" in text or "•" in text else ():
        if (start := _syllables(text, dot.start())) < dot.start() - 1:
            found += [(start, end) for end in _ends(text, start)]
    found += [match.span() for match in _lone(text) if match[0] not in words()[1]]
    for match in _odd_surname(text):
        start = match.start()
        if (
            match[0] in _RARE
            and "\u4e00" <= text[start + 1 : start + 2] <= "\u9fa5"
            or text[start : start + 2] in DOUBLE
        ):
            found += [(start, end) for end in _ends(text, start)]
    return dict.fromkeys(place for place in found if _possible(text, *place, starts)), starts


def _possible(text: str, start: int, end: int, starts: dict[int, str]) -> bool:
    """Whether a place holds neither a word for an act or a title, nor, unless a label says so, a clinical word."""
    name, cue = text[start:end], starts.get(start, "")
    if name in _NO_NAMES or name == "任" and _office(text, start):
        return False
    if cue[-1:] == ":" or cue in ("said", "asked", "reply", "signed"):
        return True
    return name not in _NEVER and not name.startswith(_CLINICAL)


# --- features ---------------------------------------------------------------------------------------------------------

_HEADINGS = tuple(listed("headings"))
_NOTHING = frozenset(listed("nothing"))
_SMALL = frozenset("的了不个是请在被给让就去都说您你我他她它这那们或吗呢吧啊")
_crossing = re.compile(TITLE).match
_LEADS, _LEAD_WORDS = frozenset(listed("leads")[0]), frozenset(listed("lead_words"))


def _surname_kind(plain: str, surname: str) -> str:
    if len(surname) == 2:
        return "double"
    if len(plain) > 2 and SYLLABLES.issuperset(plain):
        return "syllables"
    if not surname and plain[0] in EXTRA:
        return "extra"
    if not surname:
        return "syllables" if SYLLABLES.issuperset(plain) else "none"
    kind = "rare" if surname in _RARE else "everyday" if surname in _EVERYDAY else "common"
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


Key = tuple[str, str, str, str, bool, str, bool, str, tuple[str, ...]]


def _key(text: str, start: int, end: int, left: str, right: str) -> Key:
    """The shape of the place and what stands beside it, as far as it is more than letters."""
    name = text[start:end]
    plain = name.replace(" ", "").replace("　", "")
    surname, form = surname_of(plain), _form(name, plain)
    if form[0] != "h":
        kind = form[:4] + (str(text[end : end + 1] in SYLLABLES) if form[0] == "d" else "")
        return left, right, form, kind, False, "", False, "", ()
    common, given = words()[1], plain[len(surname) :]
    flags = [
        flag
        for flag, holds in (
            ("gap", plain != name),
            ("small", not _SMALL.isdisjoint(given)),
            ("nothing", plain in _NOTHING),
            ("heading", plain.startswith(_HEADINGS)),
            ("ending", plain[-1] in "某者儿人病症痰氏之"),
            ("crossing", end - start > 1 and any(_crossing(text, place) for place in range(start + 1, end))),
        )
        if holds
    ]
    joins = f"{text[max(0, start - 1) : start + 1] in common:d}{text[end - 1 : end + 1] in common:d}"
    word, ahead = str(given in common) if len(given) == 2 else "", text[end : end + 2] in common
    return left, right, form, _surname_kind(plain, surname), plain in common, joins, ahead, word, tuple(flags)


def _letters(text: str, start: int, end: int, key: Key) -> list[str]:
    """The features of the letters of the place and around it."""
    _, right, form, kind, *_ = key
    before, after = text[max(0, start - 3) : start] or "^", text[end : end + 3] or "$"
    one, next_ = before[-1], after[0]
    found = [
        f"<{one}", f"<<{before[-2:]}", f"<<<{before}", f">{next_}", f">>{after[:2]}", f">>>{after}",
        f"<>{one}|{next_}", f"<k{one}|{kind}", f">k{next_}|{kind}", f"<f{one}|{form}", f">f{next_}|{form}",
    ]  # fmt: skip
    if key[5]:
        given = start + (len(surname_of(text[start:end])) if text[start + 1 : start + 2] not in " 　" else 2)
        found += (f"0{text[start]}|{form}", f"0r{text[start]}|{right}", f"-1{text[end - 1]}", f"1{text[given:end][:1]}")
    return found


def _shape_features(key: Key) -> list[str]:
    """The features of a shape and what stands beside it."""
    left, right, form, kind, word, joins, ahead, given, flags = key
    found = [
        "bias", f"f{form}", f"k{kind}", f"l{left}", f"r{right}", f"lr{left}|{right}", f"lf{left}|{form}",
        f"rf{right}|{form}", f"lk{left}|{kind}", f"rk{right}|{kind}", f"fk{form}|{kind}", f"lrf{left}|{right}|{form}",
        f"lrk{left}|{right}|{kind}",
    ]  # fmt: skip
    if not joins:
        return found
    found += [
        f"w{word}|{form}", f"wl{word}|{left}", f"wr{word}|{right}", f"lw{left}|{word}|{right}",
        f"j{joins}|{form}", f"jl{joins[0]}|{left}", f"jr{joins[1]}|{right}",
        f"a{ahead}|{right}|{form}", f"al{ahead}|{left}|{right}",
    ]  # fmt: skip
    if given:
        found.append(f"g{given}|{left}")
    for flag in flags:
        found += [flag] if flag == "crossing" else [flag, f"{flag}{left}"]
    return found + ([f"gap{right}", f"gap{form}"] if "gap" in flags else [])


def _score_features(left: str, right: str, form: str, kind: str, score: int) -> list[str]:
    """The features of how much better a place reads as a name than as words."""
    return [
        f"o{score}", f"of{score}|{form}", f"ol{score}|{left}", f"or{score}|{right}", f"ok{score}|{kind}",
        f"lo{left}|{score // 2}|{right}", f"s{kind}|{left}|{right}|{score > 1}",
    ]  # fmt: skip


_SCORES = range(-5, 7)


def _score(text: str, start: int, end: int) -> int:
    return max(_SCORES[0], min(_SCORES[-1], odds(text, start, end) // 32))


def features(text: str, start: int, end: int, starts: dict[int, str]) -> list[str]:
    """What tells for or against a name at text[start:end], as strings."""
    key = _key(text, start, end, _left(text, start, starts.get(start, "")), right_of(text, end))
    score = _score_features(*key[:4], _score(text, start, end)) if key[5] else []
    return [*_letters(text, start, end, key), *_shape_features(key), *score]


@lru_cache(1 << 16)
def _weight(key: Key) -> int:
    return sum(weights().get(feature, 0) for feature in _shape_features(key))


@lru_cache(1 << 14)
def _readings(left: str, right: str, form: str, kind: str) -> list[int]:
    """The weight of each score, from the least to the greatest; then the most of them."""
    weight = weights().get
    found = [
        sum(weight(feature, 0) for feature in _score_features(left, right, form, kind, score)) for score in _SCORES
    ]
    return [*found, max(found)]


@cache
def weights() -> dict[str, int]:
    """The weight of each feature that has one."""
    return json.loads(files("qilin_lib.chimed").joinpath("data/deid_weights.json").read_text(encoding="utf-8"))


_old, _modern = re.compile("[之其乃曰矣也而]").findall, re.compile("[的了是我你您们很吗呢吧]").findall


def classical(text: str) -> bool:
    """Whether `text` is classical Chinese: its 大夫 and 先生 have been dead for centuries."""
    old = _old(text)
    return len(old) > 2 and len(set(old)) > 1 and len(old) > 2 * len(_modern(text))


_UNREAD, _FAR = [0, 0], -1500
# Behind these no surname stands alone.
_APART = frozenset(("none", "verb", "act", "year"))


@lru_cache(1 << 15)
def _value(before: str, name: str, after: str, cue: str) -> int:
    """The sum of the weights of a name between these letters; 0 or less where none stands."""
    text, start, end = before + name + after, len(before), len(before) + len(name)
    right = right_of(text, end)
    if len(name) == 1 and right in _APART and cue and cue[:4] not in ("nick", "name"):
        return 0
    key = _key(text, start, end, _left(text, start, cue), right)
    # To look at letters and to read as words takes longest, and most places are far from a name.
    value, readings = _weight(key), _readings(*key[:4]) if key[5] else _UNREAD
    if value + readings[-1] <= _FAR:
        return 0
    value += sum(weights().get(feature, 0) for feature in _letters(text, start, end, key))
    if value + readings[-1] <= 0:
        return 0
    return value + readings[_score(text, start, end) - _SCORES[0] if key[5] else 0]


def _persons(text: str) -> Spans:
    proposed, starts = places(text)
    values = {}
    for start, end in proposed:
        before, after = text[max(0, start - 3) : start], text[end : end + 20]
        value = _value(before, text[start:end], after, starts.get(start, ""))
        if value > 0:
            values[start, end] = value
    return iter(apart(sorted(values, key=lambda place: (-values[place], place))))


def apart(ordered: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The places that overlap none before them in the list, in order."""
    taken, kept = set(), []
    for start, end in ordered:
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
    alone: list[tuple[int, int]] = []
    if "姓" in text and not classical(text):
        alone = [match.span(part) for match in _surname_alone(text) for part in (1, 2, 3) if _called(match, part)]
    found = _persons(text)
    yield from apart([*alone, *found]) if alone else found


NAME_RULES = (Rule("姓名", _names),)
