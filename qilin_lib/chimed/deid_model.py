"""How much better a piece of text reads as a name than as words: jieba's word frequencies and its letters of names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from math import log
from pathlib import Path

from qilin_lib.chimed.deid_base import HAN, listed

SURNAMES = frozenset(listed("surnames"))
DOUBLE = frozenset(listed("double_surnames"))
# Syllables with which names of minorities are written.
SYLLABLES = frozenset(listed("syllables")[0])
# No part of a given name: the small words of a sentence.
SMALL = frozenset("的了不个是请在被给让就去都说您你我他她它这那们或吗呢吧啊某")
_UNKNOWN, _RARE, _LONGEST = -286, -208, 4
_UNIT = 16  # of a natural logarithm, so that sums are integers and the same on every machine


def dictionary() -> Iterator[tuple[str, int, str]]:
    """The words of jieba's dictionary, how often they were counted, and their tags."""
    for line in _jieba("dict.txt").read_text(encoding="utf-8").splitlines():
        word, count, tag = line.split(" ")
        yield word, int(count), tag


@cache
def words() -> tuple[dict[str, int], frozenset[str]]:
    """Log probabilities of words of up to four characters in jieba's dictionary, and those of them that are no names.

    The dictionary calls 文明 and 顾客 names, too: what is frequent is a word.
    """
    rows = list(dictionary())
    total = log(sum(count for _, count, _ in rows))
    known = {
        word: round(_UNIT * (log(count or 1) - total))
        for word, count, tag in rows
        if len(word) < 3 or tag[:2] != "nr" and len(word) <= _LONGEST
    }
    known |= {word: max(known.get(word, -144), -144) for word in listed("more_words")}
    common = frozenset(word for word, count, tag in rows if _is_word(word, count, tag))
    return known, common | frozenset(listed("more_words"))


def _is_word(word: str, count: int, tag: str) -> bool:
    """Whether an entry of the dictionary is no name: "老周" and "小范", which it holds, too, are rare."""
    if len(word) == 2 and word[0] in "小老阿" and word[1] in SURNAMES:
        return tag[:2] != "nr" and count > 100
    return tag[:2] != "nr" or len(word) == 2 and count > 200


@cache
def name_letters() -> tuple[dict[str, int], ...]:
    """Log probabilities of the first, a middle and the last letter of a name (the tag nr of jieba's hidden states)."""
    spec = spec_from_file_location("_name_letters", _jieba("posseg/prob_emit.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return tuple({letter: round(_UNIT * value) for letter, value in module.P[place, "nr"].items()} for place in "BME")


def _jieba(name: str) -> Path:
    return Path(find_spec("jieba").origin).parent / name


@lru_cache(1 << 15)
def readings(text: str) -> tuple[int, ...]:
    """For each beginning of `text`, the empty one first, the log probability of its likeliest words."""
    known, best = words()[0].get, [0]
    for end in range(1, len(text) + 1):
        most = best[-1] + known(text[end - 1], _UNKNOWN)
        for start in range(max(0, end - _LONGEST), end - 1):
            value = known(text[start:end])
            if value is not None and best[start] + value > most:
                most = best[start] + value
        best.append(most)
    return tuple(best)


def surname_of(name: str) -> str:
    """The surname that `name` begins with, of one or two characters, or ""."""
    return name[:2] if name[:2] in DOUBLE and len(name) > 1 else name[:1] if name[:1] in SURNAMES else ""


def named(name: str) -> int:
    """The log probability of a Chinese name: its surname, the middle and the last letter of what is given."""
    first, middle, last = name_letters()
    surname = surname_of(name)
    given = name[len(surname) or 1 :]
    if len(surname) == 2:
        value = -144
    elif surname:
        value = max(first.get(name[0], _RARE), -144)
    else:
        value = first.get(name[0], _RARE) - 64
    if given:
        value += sum(middle.get(letter, _RARE) for letter in given[:-1]) + last.get(given[-1], _RARE)
    return value


_BEHIND = re.compile(rf"{HAN}{{0,4}}").match
_BEFORE = re.compile(rf"{HAN}{{0,3}}$").search
_AHEAD = re.compile(rf"{HAN}*").match


def odds(text: str, start: int, end: int) -> int:
    """How much likelier text[start:end] is a name than words, given the words around it.

    In sixteenths of a natural logarithm.
    """
    before = _BEFORE(text[max(0, start - 3) : start])[0]
    name, behind = text[start:end], _BEHIND(text, end)[0]
    # Names of several lengths that begin here read the same letters.
    ahead = _AHEAD(text, start, max(start + 8, end + 4))[0]
    if len(ahead) < end - start:
        name = name.replace(" ", "")
        ahead = name + behind
    values = readings(before + ahead)
    whole = values[len(before) + len(name) + len(behind)]
    return values[len(before)] + named(name) + readings(behind)[-1] - whole
