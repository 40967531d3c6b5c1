"""Persons: one grammar of what stands before a name, of a name's shape, and of what stands behind it.

Every place beside a cue is tried with every length. A name is taken where the evidence on its left, its shape (how much
better it reads as a name than as words, see deid_model) and the evidence on its right together are strong enough.
Evidence is in natural logarithms, set by hand on the labelled sentences for tuning.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, REPLY, Rule, Spans, listed, trie
from qilin_lib.chimed.deid_model import DOUBLE, SMALL, SURNAMES, SYLLABLES, odds, surname_of, words

# --- what stands before -----------------------------------------------------------------------------------------------

_STAFF = ("医师", "医生", "护士", "护师", "技师", "药师")
_LABEL, _STAFFED, _KIN, _SIGNER, _SAID, _AGENT, _WARD, _SELF = (
    "label", "staff", "kin", "signer", "said", "agent", "ward", "self"
)  # fmt: skip
# What kind of cue a word is; of two kinds the first counts.
_CUES = dict.fromkeys(listed("signed"), _SIGNER)
_CUES |= dict.fromkeys(listed("introductions"), _SAID) | dict.fromkeys((*listed("kin"), *listed("bare")), _KIN)
_CUES["我是"] = _SELF
_CUES |= {role + staff: _STAFFED for role in listed("roles") for staff in (*_STAFF, "人", "者", "员")}
_CUES |= dict.fromkeys((label.replace("_", " ") for label in listed("labels")), _LABEL)
# The weight of a cue with a colon and without one; None where it is no cue.
_WEIGHTS = {
    _LABEL: (12, 5),
    _STAFFED: (9, 5),
    _KIN: (5, 4),
    _SIGNER: (5, None),
    _SAID: (6, 6),
    _AGENT: (5, None),
    _WARD: (2, 2),
    _SELF: (3, 3),
    None: (None, None),
}
_WHOSE = r"(?: ?[（(【][^（()）\n]{1,8}[）)】])?"
_COLON = rf" ?[：:】] ?[：:]? ?{_WHOSE} ?"
_ASKS = "(?:姓名|名字|称呼|贵姓|叫什么|哪位[？?]|联系人)"
_INITIALS = f"[{''.join(sorted(SURNAMES | SYLLABLES | {double[0] for double in DOUBLE}))}小A-Z]"
# Cues are looked for by their last characters: fewer of them make a faster search.
_ENDS = "".join(sorted({cue[-1] for cue in _CUES} | set("名字章人者员氏科父母妻")))
_ahead = re.compile(
    rf"[{_ENDS}{HIDDEN}{NAMED}](?:(?<=[{_ENDS}]){_WHOSE}(?:(?P<colon>{_COLON})|(?P<link>[是为叫写系]| |“|[，,](?!患))?(?={_INITIALS}))"
    rf"|(?P<field>(?<=姓名)|(?<=姓 名)|(?<=名字)) |(?P<hidden>(?<={HIDDEN})) ?(?={_INITIALS})"
    rf"|(?<={NAMED})(?:(?: ?[、/和及与（(] ?)(?={_INITIALS})|(?P<next>) {{0,2}}（[^（()）\n]{{1,6}}）))"
).finditer
_WRITERS = frozenset("作编译记学")
_NICK = ("小", "老")
_LINKS = ("是", "为", "叫", "写", "系")
_signed = re.compile(" ?(?:签名|签字|签章|姓名)$").sub
_TAILS = {cue[-2:] for cue in _CUES}
_SIZES = sorted({len(cue) for cue in _CUES}, reverse=True)
_LONGEST = _SIZES[0]
_asked = re.compile(rf"{_ASKS}[^\n\d{HIDDEN}]{{0,24}}\n+{REPLY}").finditer
_surname_alone = re.compile(
    rf"(?:免贵|[我复]|本人|[，,：:\n])姓(?!名)({HAN}{{1,2}}?)(?:名({HAN}{{1,2}}))?(?=[\s，,。！!；;{NAMED}]|\Z)"
).finditer
_FIRST = SURNAMES | SYLLABLES | {double[0] for double in DOUBLE}
_BORDERS, _LEADS, _LEAD_WORDS = (
    frozenset('\n 　\t，,。；;：:、！!？?（(“"【]|/>'),
    frozenset(listed("leads")[0]),
    frozenset(listed("lead_words")),
)


def _cue(before: str) -> str | None:
    """What kind of cue `before` ends with."""
    for text in (before, _signed("", before)) if before[-1] in "名字章" else (before,):
        if text[-2:] in _TAILS:
            for size in _SIZES:
                if text[-size:] in _CUES:
                    return _CUES[text[-size:]]
    if before[-1] in "父母妻" and (before[-2:-1] or " ") in _BORDERS or before[-1] == "科":
        return _WARD
    return _AGENT if before[-1] in "人者员氏" and before[-2:-1] not in _WRITERS else None


def _starts(text: str) -> dict[int, float]:
    """Where a name may begin behind a cue, with the weight of the cue."""
    starts: dict[int, float] = {}
    for cue in _ahead(text):
        if cue[0][0] in NAMED + HIDDEN or cue["field"] is not None:
            weight = {"field": 12, "hidden": 2, "next": 12}.get(cue.lastgroup, 6)
        else:
            cued = _cue(text[max(0, cue.end() - _LONGEST) : cue.end()]) if not cue["colon"] else None
            cued = cued or _cue(text[max(0, cue.start() + 1 - _LONGEST) : cue.start() + 1])
            weight = _WEIGHTS[cued][0 if cue["colon"] else 1]
            if cue["link"] == "，" or cued == _AGENT and cue["link"]:
                weight = 2 if cued == _KIN or cued == _AGENT and cue["link"] in _LINKS else None
        if weight:
            starts[cue.end()] = weight
    for asked in _asked(text):
        starts[asked.end()] = 9
        reply = text[asked.end() : asked.end() + 24].partition("\n")[0]
        starts |= {asked.end() + place + 1: 5 for place, letter in enumerate(reply) if letter in "，, "}
    return starts | {start + 1: weight for start, weight in starts.items() if text[start : start + 1] in _NICK}


def _left(text: str, start: int) -> float:
    """The weight of what stands before a place that no cue points at."""
    if start == 0 or text[start - 1] in _BORDERS:
        return 1
    return 1.5 if text[start - 1] in _LEADS or text[start - 2 : start] in _LEAD_WORDS else -3


# --- what stands behind -----------------------------------------------------------------------------------------------

_CALLED = frozenset("姐哥叔姨婶嫂")
TITLE = trie(listed("titles"))
_ACTS = trie(listed("acts"))
_RELATION = "(?:患者|病人)?之?[父母儿女妻夫子弟兄姐妹侄媳婿][子女亲友]?"
_OF = rf" ?[（(](?:{_RELATION}[）)]|住院号|药师)|之[父母儿女妻夫子]|的[妈爸][妈爸]|的家属|名下|个人(?:主页|账号|微信|博客)"
_BESIDE = rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?{HIDDEN}|{HIDDEN}"
# Of these patterns the first that matches counts.
_RIGHT = (
    (8, r"[）)]? ?[，,、（(\s]\s?(?:男|女|性别|孕\d|\d{1,3} ?[岁周]|[MF](?:[，, ]|\Z))|[男女][，,性\d]| ?\d{1,3} ?岁"),
    (8, r"[，,] ?\d{4}[年./-]\d"),
    (6, _OF),
    (6, "，复姓"),
    (5, rf"{TITLE}|[{''.join(sorted(_CALLED))}]|就[行好]"),
    (4.5, _BESIDE),
    (4, rf"{_ACTS}|患[有高糖慢冠脑肺肝胃]"),
    (2, rf"[\s，,。；;、！!？?（()）\]】|/’”<{NAMED}]|\Z|{trie(listed('headings'))}"),
    (2, r"[于因在由经为与将已曾现系\d]|[入转出来住]院|来诊|送至|下床|术后|病情|就[行好是]"),
)
_after = re.compile("|".join(f"({pattern})" for _, pattern in _RIGHT)).match
_SEXED = r"(?<=[，, 　（(].)(?=[，, ]|\Z)"
_BRACKETED = rf"(?:{_RELATION}[）)]|住院号|药师)"
# Each alternative begins with a plain character of its own, so that the engine skips quickly.
_behind = re.compile(
    rf"{TITLE}|{_ACTS}|男{_SEXED}|女{_SEXED}|M{_SEXED}|F{_SEXED}|（{_BRACKETED}|\({_BRACKETED}|之[父母儿女妻夫子]"
    rf"|妈(?<=的妈)妈|爸(?<=的爸)爸|属(?<=的家属)|名下|人(?<=个人)(?:主页|账号|微信|博客)|{HIDDEN}"
).finditer
_TITLED, _ACTED = frozenset(listed("titles")), frozenset(listed("acts"))
_lead = re.compile(rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?\Z").search
_joint = re.compile(r"(?:[，, 　（(]{1,3}|个|的家?)\Z").search


def _name_end(text: str, cue: re.Match[str], starts: dict[int, float]) -> int:
    """Where a name would end that what `cue` found stands behind; 0 where none can."""
    start = cue.start()
    if cue[0] in _TITLED:
        return start if not _FIRST.isdisjoint(text[max(0, start - 4) : start]) else 0
    if cue[0] in _ACTED:
        begins = [start - size for size in (2, 3, 4) if start >= size]
        apart = (at in starts or text[at] in _FIRST and (at == 0 or text[at - 1] in _BORDERS) for at in begins)
        return start if any(apart) else 0
    if cue[0] == HIDDEN:
        lead = _lead(text, max(0, start - 12), start)
        return lead.start() if lead else start
    joint = _joint(text, max(0, start - 3), start)
    return joint.start() if joint else start


def _right(text: str, end: int) -> float:
    match = _after(text, end)
    return _RIGHT[match.lastindex - 1][0] if match else -4


# --- the shape of a name ----------------------------------------------------------------------------------------------

_DOTS = "·•・．‧∙"
_MINORITY = rf"{HAN}{{1,8}}(?:[{_DOTS}]{HAN}{{1,8}}){{1,3}}"
_FIELD = "(?!(?:Sex|Age|DOB|Gender|Date|ID|No|Tel|Ward|Bed|SEX|AGE)(?![a-z]))"
_LATIN = rf"[A-Z][A-Za-z'’-]{{1,20}}(?:\.? (?:[A-Z]\. )?{_FIELD}[A-Z][A-Za-z'’-]{{1,20}}){{1,3}}(?![A-Za-z])"
_LATIN_LABELLED = rf"[A-Za-z][A-Za-z'’.-]{{1,20}}(?: {_FIELD}[A-Za-z][A-Za-z'’.-]{{0,20}}){{0,3}}(?![A-Za-z\d@_/])"
_SPACED = rf"{HAN} {HAN}(?: ?{HAN})?"
_shape = re.compile(rf"{_MINORITY}|{_SPACED}|{_LATIN}|{_LATIN_LABELLED}|{HAN}{{1,6}}").match
_shape_before = re.compile(rf"(?:{_MINORITY}|{_LATIN}|(?<!{HAN})(?<!{HAN} ){_SPACED}|{HAN}{{1,6}})\Z").search
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


_DOT = frozenset(_DOTS)


def _form(text: str, start: int, end: int, left: float, right: float) -> float:
    """How much the shape of a name is worth, given what stands on its sides."""
    name = text[start:end]
    plain = name.replace(" ", "")
    if plain.isascii():
        if " " not in name:
            return 0.0 if left >= 12 and right >= 2 else _NO
        alone = right >= 8 and text[end : end + 1] in "，,"
        return 2.0 if left >= 4 and not (name.isupper() and left < 6) or alone or right == 4.5 else _NO
    if not _DOT.isdisjoint(name):
        known = sum(1.0 if letter in SYLLABLES else -0.7 for letter in re.split(f"[{_DOTS}]", name)[-1])
        if left > 1.5 or right >= 6 or right == 4.5:
            return known + 3
        return 5.0 if right >= 2 and SYLLABLES.issuperset(re.sub(f"[{_DOTS}]", "", name)) else _NO
    if len(plain) == 1 or plain in DOUBLE:
        return _single(text, start, plain, left, right)
    small = left < 9 and not SMALL.isdisjoint(plain[1:]) and not SYLLABLES.issuperset(plain)
    if small or plain in _NOTHING or plain[-1] in "某氏者儿人":
        return _NO
    value = _full(text, start, end, plain, left, right)
    return value if left + right + value > _ENOUGH and not _crossed(text, start, end) else _NO


def _crossed(text: str, start: int, end: int) -> bool:
    """Whether a title begins inside the name: 苗医 of 苗医生."""
    return any(_title(text, place) for place in range(start + 1, end)) or text[end - 1] in _CALLED and end - start == 2


def _full(text: str, start: int, end: int, plain: str, left: float, right: float) -> float:
    surname, syllables = surname_of(plain), SYLLABLES.issuperset(plain)
    if not (surname or syllables or left >= 6):
        return _NO
    if plain.startswith(_CLINICAL) and left < 9 or len(plain) - len(surname or " ") > 2 and not syllables:
        return _NO
    value = odds(text, start, end)
    if syllables and (len(plain) > 2 or left >= 4 and right >= 2):
        return max(value, 0.0) if len(plain) > 2 else value
    if plain[0] == "小" and len(plain) == 2:
        return min(value, 0.0) if left >= 6 and plain[1] not in SURNAMES else _NO
    if not surname:
        return value - 4 if left >= 9 else _NO
    if right < 2 and left < 4 or right < 4 and left <= 1.5 or left <= 1.5 and right < 8 and value < 0:
        return _NO
    if left >= 9:
        return value - (4 if left < 12 and plain in words()[1] else 0)
    if (
        right == 5
        and left < 2
        and (
            text.startswith(_ADDRESSES, end)
            and text[start - 1] not in "是问叫找"
            or _public(text, max(0, start - 4), start)
        )
    ):
        # Those whom a text calls so by their full name are public or dead.
        return _NO
    if right == 5 and plain[-1] == "之" or surname in _PREPOSITIONS and right < 8 and plain[1:] in words()[1]:
        return _NO
    everyday = surname in _EVERYDAY and (len(plain) == 2 or right < 2 or left < 1.5 and right < 6)
    if everyday and right < 2 and value < 9:
        return _NO
    if len(plain) == 2 and (right < 2 or left < 2 and right == 4 or everyday and left < 5 and right < 4):
        return _NO
    # A word may be a name, too, but needs more.
    return value - (4 if plain in words()[1] else 0) - (4 if everyday and right < 8 else 0)


_ADDRESSES, _EVERYDAY = tuple(listed("addresses")), frozenset((*listed("everyday"), *listed("led_only")))
_PREPOSITIONS = frozenset("于易常曾任向时应尚")
_public = re.compile("(?:(?<!操)作者|编者|主编|译者|审校)[：: ]*\\Z").search


def _single(text: str, start: int, surname: str, left: float, right: float) -> float:
    end = start + len(surname)
    if right != 5 and (left < 9 or right < 2) or surname not in SURNAMES | DOUBLE or surname in _ALONE:
        return _NO
    if _public(text, max(0, start - 4), start) or surname in _LED and left < 1.5 and not _addressed(text, end):
        return _NO
    return odds(text, start, end) - 2


# --- the search -------------------------------------------------------------------------------------------------------

_old, _modern = re.compile("[之其乃曰矣也而]").findall, re.compile("[的了是我你您们很吗呢吧]").findall


def _classical(text: str) -> bool:
    """Whether `text` is classical Chinese: its 大夫 and 先生 have been dead for centuries."""
    old = _old(text)
    return len(old) > 2 and len(set(old)) > 1 and len(old) > 2 * len(_modern(text))


def _persons(text: str) -> Spans:
    starts = _starts(text)
    places = [(start, end) for start in starts for end in _ends(text, start)]
    for cue in _behind(text):
        end = _name_end(text, cue, starts)
        shape = _shape_before(text, max(0, end - 24), end) if end else None
        if shape:
            han = shape[0].isalpha() and not shape[0].isascii()
            first = range(max(shape.start(), end - (4 if cue[0] in _TITLED else 6)), end) if han else (shape.start(),)
            places += [(start, end) for start in first if not han or text[start] in _FIRST]
    if not places:
        return
    least = 6 if _classical(text) else -4
    values, rights = {}, {}
    for start, end in dict.fromkeys(places):
        left = starts.get(start) or _left(text, start)
        if left >= least:
            right = rights.get(end) or rights.setdefault(end, _right(text, end))
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


def _names(text: str) -> Spans:
    alone = (
        []
        if "姓" not in text or _classical(text)
        else [match.span(part) for match in _surname_alone(text) for part in (1, 2) if match[part]]
    )
    yield from _apart([*alone, *_persons(text)])


NAME_RULES = (Rule("姓名", _names),)
