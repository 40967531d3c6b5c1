"""What names are made of: surnames, syllables, titles, and the dictionary's words, which are none."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, either, listed

SURNAMES, EVERYDAY = frozenset(listed("surnames")), frozenset(listed("everyday"))
DOUBLE = frozenset(listed("double_surnames"))
NOTHING, HEADINGS = frozenset(listed("nothing")), tuple(listed("headings"))
CLINICAL = tuple(listed("clinical"))
NO_NAMES = frozenset(listed("more_words"))
PREPOSITIONS = frozenset("于易常曾何任方向时成应尚")
LABELS = tuple(label.replace("_", " ") for label in listed("labels"))
ROLES, KIN = tuple(listed("roles")), tuple(listed("kin"))
# No part of a given name: the small words of a sentence.
SMALL = frozenset("的了不个是请在被给让就去都说您你我他她它这那们与及或吗呢吧啊某")
# Rare in names and common in sentences: a name holds them only beside a label, a title or the patient's age.
LINKS, VERBS = frozenset("和由次有来也因于同其凭之自今昨"), frozenset("找问看约挂主代诉已未仍查")

MINORITY = rf"{HAN}{{1,8}}(?:[·•・．‧∙](?:(?![于因在由诉述的与和是患为])[\u4e00-\u9fa5]){{1,8}}){{1,3}}"
LATIN = r"[A-Z][A-Za-z'’-]{1,20}(?:\.? (?:[A-Z]\. )?[A-Z][A-Za-z'’-]{1,20}){1,3}(?![A-Za-z])"
SPACED = rf"{HAN} {HAN}(?: ?{HAN})?(?!{HAN})"
TITLE, HEADING = either(listed("titles")), either(HEADINGS)
# Syllables with which names of minorities are written.
SYLLABLES = frozenset(listed("syllables")[0])
FIRST = f"[{''.join(sorted(SURNAMES | SYLLABLES | {double[0] for double in DOUBLE}))}A-Z]"
ends_in_title = re.compile(rf"(?:{TITLE})$").search
END = rf"(?=[\s，,。；;、！!？?（()）\]】|/{HIDDEN}{NAMED}]|$)"


@cache
def dictionary() -> dict[str, str]:
    """Words of two to four characters in jieba's dictionary that are no names, with their part of speech."""
    lines = Path(find_spec("jieba").origin).with_name("dict.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split(" ") for line in lines)
    words = {word: tag for word, _, tag in rows if 2 <= len(word) <= 4 and not tag.startswith("nr")}
    return words | dict.fromkeys(listed("more_words"), "x")


def surname_of(name: str) -> str:
    """The surname that `name` begins with, of one or two characters, or ""."""
    return name[:2] if name[:2] in DOUBLE and len(name) > 2 else name[:1] if name[:1] in SURNAMES else ""


def composed(text: str) -> bool:
    """Whether `text` is a word of the dictionary, or such words with one further character."""
    words = dictionary()
    heads = [size for size in (4, 3, 2) if text[:size] in words]
    return any(len(text) - size <= 1 or text[size:] in words for size in heads)


def is_name(name: str, links: bool = False) -> bool:
    """Whether `name` may be one without a label: a surname, nothing of a sentence, and no word of the dictionary."""
    surname = surname_of(name)
    given = name[len(surname) :]
    if (
        not VERBS.isdisjoint(given)
        or not (surname and given)
        or not name.isalpha()
        or name[-1] == "氏"
        or not SMALL.isdisjoint(given)
        or not (links or LINKS.isdisjoint(given))
    ):
        return False
    return len(surname) == 2 or dictionary().keys().isdisjoint((name[:2], name[:3], name))


_CLASSICAL, _MODERN = re.compile("[之其乃曰矣也而]").findall, re.compile("[的了是我你您们很吗呢吧]").findall


def classical(text: str) -> bool:
    """Whether `text` is classical Chinese: its 大夫 and 先生 have been dead for centuries."""
    old = _CLASSICAL(text)
    return len(old) > 2 and len(set(old)) > 1 and len(old) > 2 * len(_MODERN(text))
