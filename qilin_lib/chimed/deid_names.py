"""Persons: one grammar of what stands before a name, of a name's shape, and of what stands behind it.

Every place beside a cue (deid_cues) is tried with every length. A name is taken where the evidence on its left, its
shape, that is how much better it reads as a name than as words (deid_model), and the evidence on its right together
are strong enough.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qilin_lib.chimed.deid_base import HAN, NAMED, Rule, Spans, listed, trie
from qilin_lib.chimed.deid_cues import (
    ALONE_BY_NUMBER,
    CALLED,
    EVERYDAY,
    FIRST,
    TITLE,
    TITLED,
    behind,
    left_of,
    name_end,
    right_of,
    starts_of,
)
from qilin_lib.chimed.deid_model import DOUBLE, SMALL, SURNAMES, SYLLABLES, odds, surname_of, words

# --- the shape of a name ----------------------------------------------------------------------------------------------

_surname_alone = re.compile(
    rf"(?<![百同何某族])姓(?![名氏])({HAN}{{1,2}}?)(?:名({HAN}{{1,2}})|[，,]({HAN}{{2,3}}))?"
    rf"(?=[\s，,。！!；;{NAMED}]|\Z)"
).finditer
_DOTS = "·•・．‧∙"
_MINORITY = rf"{HAN}{{1,8}}(?:[{_DOTS}]{HAN}{{1,8}}){{1,3}}"
_FIELD = "(?!(?:Sex|Age|DOB|Gender|Date|ID|No|Tel|Ward|Bed|SEX|AGE)(?![a-z]))"
_LATIN = rf"[A-Z][A-Za-z'’-]{{1,20}}(?:\.? (?:[A-Z]\. )?{_FIELD}[A-Z][A-Za-z'’-]{{1,20}}){{1,3}}(?![A-Za-z])"
_LATIN_LABELLED = rf"[A-Za-z][A-Za-z'’.-]{{1,20}}(?: {_FIELD}[A-Za-z][A-Za-z'’.-]{{0,20}}){{0,3}}(?![A-Za-z\d@_/])"
_SPACED = rf"{HAN} {HAN}(?: ?{HAN})?"
_shape = re.compile(rf"{_MINORITY}|{_SPACED}|{_LATIN}|{_LATIN_LABELLED}|{HAN}{{1,6}}").match
_shape_before = re.compile(rf"(?:{_MINORITY}|{_LATIN}|(?<!{HAN})(?<!{HAN} ){_SPACED})\Z").search
_HEADINGS = tuple(listed("headings"))
_NOTHING, _CLINICAL = frozenset(listed("nothing")), tuple(listed("clinical"))
_ALONE, _LED = frozenset(listed("never_alone")), frozenset(listed("led_only"))
_title = re.compile(TITLE).match
_addressed = re.compile(rf"{trie(listed('addresses'))}|(?:{TITLE})[：:，,您你在！!、和说的]").match
_NO, _ENOUGH, _AT_MOST = -99.0, 2.5, 8.0


def _ends(text: str, start: int) -> Iterator[int]:
    """Where a name that begins at `start` may end."""
    shape = _shape(text, start)
    if shape is None:
        return
    if shape[0].isascii():
        yield shape.end()
        return
    shortest = start + (3 if " " in shape[0] else 1)
    if not _DOT.isdisjoint(shape[0]):
        shortest = start + max(map(shape[0].rfind, _DOTS)) + 2
    longest = shape.end()
    if shape[0].isalpha() and not SYLLABLES.issuperset(shape[0][:4]):
        longest = min(longest, start + len(surname_of(shape[0]) or " ") + 2)
    yield from range(shortest, longest + 1)


_DOT, _dots = frozenset(_DOTS), re.compile(f"[{_DOTS}]").finditer


def _syllables(text: str, end: int) -> int:
    """Where the syllables of a minority's name begin that end at `end`."""
    start = end
    while start and end - start < 8 and text[start - 1] in SYLLABLES:
        start -= 1
    return start


def _begins(text: str, end: int, longest: int) -> Iterator[int]:
    """Where a name that ends at `end` may begin."""
    start = end
    while start and end - start < longest and "\u4e00" <= text[start - 1] <= "\u9fa5":
        start -= 1
        if text[start] in FIRST:
            yield start
    if start and text[start - 1] in _ODD and (shape := _shape_before(text, max(0, end - 24), end)):
        yield shape.start()


_ODD = frozenset(f"{_DOTS} abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def _form(text: str, start: int, end: int, left: float, right: float) -> float:
    """How much the shape of a name is worth, given what stands on its sides."""
    name = text[start:end]
    plain = name.replace(" ", "")
    if plain.isascii():
        if " " not in name:
            return 0.0 if right >= 2 and (left >= 12 or left >= 6 and name[1:].islower()) else _NO
        beside = right >= 8 and text[end : end + 1] in "，," or right == 4.5
        return (
            3.0
            if all(word[0].isupper() for word in name.split())
            and (left >= 6 or left >= 4 and not name.isupper() or beside)
            else _NO
        )
    if not _DOT.isdisjoint(name):
        known = sum(1.0 if letter in SYLLABLES else -0.7 for letter in re.split(f"[{_DOTS}]", name)[-1])
        if left > 1.5 or right >= 6 or right == 4.5:
            return known + 3
        return 5.0 if right >= 2 and SYLLABLES.issuperset(re.sub(f"[{_DOTS}]", "", name)) else _NO
    if len(plain) == 1 or plain in DOUBLE:
        return _single(text, start, plain, left, right)
    small = left < 9 and not SMALL.isdisjoint(plain[1:]) and not SYLLABLES.issuperset(plain)
    if small or plain in _NOTHING or plain[-1] in "某者儿人病症痰" or "氏" in plain:
        return _NO
    value = _full(text, start, end, plain, left, right)
    return value if left + right + value > _ENOUGH and not _crossed(text, start, end) else _NO


def _crossed(text: str, start: int, end: int) -> bool:
    """Whether a title begins inside the name: 苗医 of 苗医生."""
    return any(_title(text, place) for place in range(start + 1, end)) or text[end - 1] in CALLED and end - start == 2


def _full(text: str, start: int, end: int, plain: str, left: float, right: float) -> float:
    surname, syllables = surname_of(plain), SYLLABLES.issuperset(plain)
    if not (surname or syllables or left >= 6) or len(plain) - len(surname or " ") > 2 and not syllables:
        return _NO
    if plain.startswith(_HEADINGS) or plain.startswith(_CLINICAL) and left < 9:
        return _NO
    value = odds(text, start, end)
    if syllables and (len(plain) > 2 or left >= 4 and right >= 2):
        return max(value, 0.0) if len(plain) > 2 else value
    if plain[0] == "小" and len(plain) == 2:
        return min(value, 0.0) if left >= 6 and plain[1] not in SURNAMES else _NO
    if not surname:
        return value - 4 if left >= 9 else _NO
    # A word may be a name, too, but needs more than that, unless a label says so.
    word = 4 if left < 12 and plain in words()[1] else 0
    if left >= 9:
        return value - word
    if _weak(left, right, value) or _public(text, start, end, left, right) or _wordy(plain, surname, left, right):
        return _NO
    everyday = surname in EVERYDAY and (len(plain) == 2 or right < 2 or left < 1.5 and right < 6)
    if everyday and right < 4 and (len(plain) == 2 and left < 5 or right < 2 and value < 9):
        return _NO
    return value - word - (4 if everyday and right < 8 else 0)


def _weak(left: float, right: float, value: float) -> bool:
    """Whether what stands on the sides is too little for a shape of this value."""
    if left == ALONE_BY_NUMBER and right < 4:
        return right < 2 or value < 2
    return right < 2 and left < 4 or left <= 1.5 and (right < 4 or right < 8 and value < 0)


def _public(text: str, start: int, end: int, left: float, right: float) -> bool:
    """Whether a person is public or dead: an author, whom a text calls by the full name, with 先生 behind."""
    if right != 5 or left >= 2:
        return False
    called = text.startswith(_ADDRESSES, end) and text[start - 1] not in "是问叫找"
    return called or _author(text, max(0, start - 4), start) is not None


def _wordy(plain: str, surname: str, left: float, right: float) -> bool:
    """Whether a name reads like the words of a sentence: 涂布后, 于上周, two letters without a cue on one side."""
    if (
        plain[-1] in "因于等"
        or left < 4
        and right < 4.5
        and plain[-1] in "后前时中"
        or right == 5
        and plain[-1] == "之"
    ):
        return True
    if left < 5 and surname in _PREPOSITIONS and right < 8 and plain[1:] in words()[1]:
        return True
    if left <= 2 and right < 4 and (surname in _VERBS or len(plain) == 2 and plain in words()[0]):
        return True
    return len(plain) == 2 and (right < 2 or left < 2 and right == 4)


_ADDRESSES = tuple(listed("addresses"))
_PREPOSITIONS, _VERBS = frozenset("于易常曾任向时应尚尤益"), frozenset("查应常曾任施解包祝管许向于")
_author = re.compile("(?:(?<!操)作者|编者|主编|译者|审校)[：: ]*\\Z").search


def _single(text: str, start: int, surname: str, left: float, right: float) -> float:
    end = start + len(surname)
    if right != 5 and (left < 9 or right < 2) or surname not in SURNAMES | DOUBLE or surname in _ALONE:
        return _NO
    if _author(text, max(0, start - 4), start) or surname in _LED and left < 1.5 and not _addressed(text, end):
        return _NO
    return odds(text, start, end) - 2


# --- the search -------------------------------------------------------------------------------------------------------

_old, _modern = re.compile("[之其乃曰矣也而]").findall, re.compile("[的了是我你您们很吗呢吧]").findall


def _classical(text: str) -> bool:
    """Whether `text` is classical Chinese: its 大夫 and 先生 have been dead for centuries."""
    old = _old(text)
    return len(old) > 2 and len(set(old)) > 1 and len(old) > 2 * len(_modern(text))


def _persons(text: str) -> Spans:
    starts = starts_of(text)
    places = [(start, end) for start in starts for end in _ends(text, start)]
    for cue in behind(text):
        end = name_end(text, cue, starts)
        places += [(start, end) for start in _begins(text, end, 4 if cue[0] in TITLED else 6)]
    for dot in _dots(text) if "·" in text or "•" in text else ():
        if (start := _syllables(text, dot.start())) < dot.start() - 1:
            places += [(start, end) for end in _ends(text, start)]
    if not places:
        return
    least = 7 if _classical(text) else -4
    values, rights = {}, {}
    for start, end in dict.fromkeys(places):
        left = starts.get(start) or left_of(text, start)
        if left >= least:
            right = rights.get(end) or rights.setdefault(end, right_of(text, end))
            form = _form(text, start, end, left, right)
            if left + right + min(form, _AT_MOST) > _ENOUGH:
                values[start, end] = left + right + form
    yield from _apart(sorted(values, key=lambda place: (-values[place], place)))


def _apart(places: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The places that overlap none before them in the list, in order."""
    taken, kept = set(), []
    for start, end in places:
        if taken.isdisjoint(range(start, end)):
            taken.update(range(start, end))
            kept.append((start, end))
    return sorted(kept)


def _called(match: re.Match[str], part: int) -> bool:
    """Whether a part of "姓沈名浪", "姓贡，贡来福" is a name: its surname is one, and the full name begins with it."""
    sure = match[1] in SURNAMES | DOUBLE or match.string[: match.start()].endswith(("免贵", "复"))
    return bool(match[part] and sure and (part < 3 or match[3].startswith(match[1])))


def _names(text: str) -> Spans:
    alone: list[tuple[int, int]] = []
    if "姓" in text and not _classical(text):
        alone = [match.span(part) for match in _surname_alone(text) for part in (1, 2, 3) if _called(match, part)]
    found = _persons(text)
    yield from _apart([*alone, *found]) if alone else found


NAME_RULES = (Rule("姓名", _names),)
