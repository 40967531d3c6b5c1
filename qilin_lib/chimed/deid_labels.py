"""Names beside an explicit label: anything of a name's shape goes, whatever the surname."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qilin_lib.chimed.deid_base import HAN, Finder, Rule, Spans, answered, by, either, ended, listed
from qilin_lib.chimed.deid_lexicon import (
    CLINICAL,
    END,
    FIRST,
    HEADING,
    HEADINGS,
    KIN,
    LABELS,
    LATIN,
    MINORITY,
    NOTHING,
    PREPOSITIONS,
    ROLES,
    SPACED,
    SURNAMES,
    SYLLABLES,
    TITLE,
    composed,
    dictionary,
    is_name,
    surname_of,
)

_STAFF = "(?:医师|医生|护士|护师|技师|药师|者|人)"
# "医师签名", "姓名（必填）".
_SIGNED = r"(?: ?(?:签名|签字|签章|姓名))?(?: ?[（(][^（()）\n]{1,8}[）)])?"
_LABEL = rf"(?:{either(LABELS)}|(?:{either(ROLES)}){_STAFF}){_SIGNED}"
# All roles have two characters, all staff, too: what is rarer is looked for first.
_STAFF_NEXT = ("医师", "医生", "护士", "护师", "药师", "技师")


def _marks(words: Iterable[str]) -> tuple[str, ...]:
    # A colon is rarer than the words before it, and so the better hint.
    ends = "".join(sorted({re.sub(r"[^\w]", "", word)[-1] for word in words}))
    return tuple(rf"{mark}(?<=[{ends}）) ]{mark})" for mark in "：:】")


_LABEL_HINTS = (*_marks((*LABELS, *"师生士者人员名字章")), "名 ", "字(?<=名字) ")
_NEXT = rf"(?:[是为叫签（( ]|{FIRST})"
_NEXT_HINTS = ended(
    (*LABELS, *(label + sign for label in (*LABELS, *_STAFF_NEXT) for sign in ("签名", "签字", "姓名"))), _NEXT
)
_NEXT_HINTS += tuple(rf"{staff[-1]}(?<=(?:{'|'.join(ROLES)}){staff}){_NEXT}" for staff in _STAFF_NEXT)
_LATIN_LABELLED = rf"(?:{LATIN}|[A-Za-z][A-Za-z'’.-]{{1,20}}(?: [A-Za-z][A-Za-z'’.-]{{0,20}}){{0,3}})(?![A-Za-z\d@_/])"
# A name ends in front of the next heading, of the sex with the age, or of what is no part of a word.
_HAN_NAME = (
    rf"{HAN}{{1,4}}?(?={TITLE})|{HAN}{{2,4}}?(?=(?:{HEADING})(?: ?[：:]|$|\n))|{HAN}{{2,3}}?(?=[男女][，, ]?\d)"
    rf"|{HAN}{{2,4}}{END}|{HAN}{{2,4}}?(?={HEADING}|[已签\d]|确认|查房|书写|汇报|审签|接诊)"
)
_VALUE = rf"(?P<id>{MINORITY}|{SPACED}|{_HAN_NAME}|{_LATIN_LABELLED})"
_TALK = frozenset("吗呢吧啊您你我他她它这那了的")


def _labelled(match: re.Match[str]) -> bool:
    """Whether what stands beside an explicit label is a value: no word for none, no further heading, no talk."""
    name = match["id"]
    if name[1:2] == " " and (name[2:] in ("男", "女", "汉") or name[2:].startswith(HEADINGS)):
        return False
    nothing = name in NOTHING or name.startswith(HEADINGS) or name[0] in "未不无已拒暂某"
    if nothing or name.endswith("某") or name.startswith(("本人", "患者", "家属")) or not _TALK.isdisjoint(name):
        return False
    if len(name) == 4 and not surname_of(name)[1:] and name[:2] in dictionary() and name[2:] in dictionary():
        return False
    return len(name) > 1 and bool(surname_of(name) or not composed(name)) or name in SURNAMES


def _beside(match: re.Match[str]) -> bool:
    """Whether what stands beside 家属： or 父亲： is a name, where what somebody says or has may stand as well."""
    name = match["id"]
    if not _labelled(match):
        return False
    if name[0] < HAN[1]:
        return " " in name and not name.isupper()
    if "·" in name or " " in name:
        return "·" in name or bool(surname_of(name))
    if surname_of(name):
        noun = len(name) == 2 and dictionary().get(name, "v")[0] == "n"
        return len(name) > 1 and not name.startswith(CLINICAL) and (noun or is_name(name, links=True))
    return len(name) > 2 and dictionary().keys().isdisjoint(name[at : at + 2] for at in range(len(name) - 1))


def _unmarked(match: re.Match[str]) -> bool:
    # Without a colon the label may begin a sentence: 姓名要写清楚.
    name = match["id"]
    if not _labelled(match) or name[0] < HAN[1] or "·" in name or " " in name:
        return _labelled(match)
    if len(name) == 3 and surname_of(name) and match.string[match.end() : match.end() + 1] in "，,。；;":
        return name not in dictionary() and (name[0] not in PREPOSITIONS or name[1:] not in dictionary())
    person = name[0] not in PREPOSITIONS and surname_of(name) or SYLLABLES.issuperset(name)
    return bool(person) and not composed(name) and not name.startswith(CLINICAL)


def _shorter(finder: Finder) -> Finder:
    """The spans of `finder`, without a word that follows on a name: 元朗联系."""

    def spans(text: str) -> Spans:
        for start, end in finder(text):
            name = text[start:end]
            if (
                len(name) == 4
                and name.isalpha()
                and not surname_of(name)[1:]
                and name[2:] in dictionary()
                and surname_of(name)
            ):
                end -= 2
            yield start, end

    return spans


_COLON = r" ?[：:】] ?[：:]? ?"
_BY_LABEL = _shorter(by(rf"(?:{_LABEL}{_COLON}|(?:姓 ?名|名字) ){_VALUE}", _labelled))
_FIELD = rf"(?:{either((*KIN, *listed('signed')))}|(?:{either(ROLES)})员|{HAN}{{1,4}}(?:人|(?<![作编译记学])者))"
_BY_KIN = by(rf"{_FIELD}{_COLON}{_VALUE}", _beside)
_STAFF_CUE = rf"(?:{either(_STAFF_NEXT)})(?<=(?:{'|'.join(ROLES)})..)"
_PLAIN_LABEL = rf"(?:{either(LABELS)}|{_STAFF_CUE}){_SIGNED}"
_UNMARKED = _shorter(by(rf"{_PLAIN_LABEL}(?:是|为|叫| )?{_VALUE}", _unmarked))
_QUESTIONS = ("姓名", "名字", "称呼", "贵姓", "叫什么", "哪位", "联系人")
_ASKED = either(_QUESTIONS)
_ANSWER = answered(_ASKED, _VALUE, _beside)

LABEL_RULES = (
    Rule("姓名", _LABEL_HINTS, _BY_LABEL),
    Rule("姓名", _NEXT_HINTS, _UNMARKED),
    Rule("姓名", _marks((*KIN, *listed("signed"), "人", "者", "员")), _BY_KIN),
    Rule("姓名", ended(_QUESTIONS, r"[^\n\d]{0,24}\n"), _ANSWER),
)
