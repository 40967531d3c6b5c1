"""Names of persons: beside a label, behind 患者 and kin, before a title, in front of sex and age.

Beside an explicit label anything of a name's shape goes, whatever the surname. Elsewhere a name must begin with a
surname and be no word of jieba's dictionary.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from qilin_lib.chimed.deid_base import HAN, HIDDEN, Finder, Rule, Spans, answered, by, either, ended, listed

_SURNAMES, _EVERYDAY = frozenset(listed("surnames")), frozenset(listed("everyday"))
_DOUBLE = frozenset(listed("double_surnames"))
_NEVER_ALONE, _LED_ONLY = frozenset(listed("never_alone")), frozenset(listed("led_only"))
_NOTHING, _HEADINGS = frozenset(listed("nothing")), tuple(listed("headings"))
_CLINICAL = tuple(listed("clinical"))
# No part of a given name: the small words of a sentence.
_SMALL = frozenset("的了不个是请在被给让就去都说您你我他她它这那们与及或吗呢吧啊某")
# Rare in names and common in sentences: a name holds them only beside a label, a title or the patient's age.
_LINKS = frozenset("和由次有来也因于同其凭找问看约挂之自主代诉今昨")

_MINORITY = rf"{HAN}{{1,8}}(?:[·•・．‧∙](?:(?![于因在由诉述的与和是患为])[\u4e00-\u9fa5]){{1,8}}){{1,3}}"
_LATIN = r"[A-Z][A-Za-z'’-]{1,20}(?:\.? (?:[A-Z]\. )?[A-Z][A-Za-z'’-]{1,20}){1,3}(?![A-Za-z])"
_SPACED = rf"{HAN} {HAN}(?: ?{HAN})?(?!{HAN})"
_TITLE, _HEADING = either(listed("titles")), either(_HEADINGS)
_WHO = re.compile(rf"{_MINORITY}|{_SPACED}|{_LATIN}|{HAN}{{2,4}}")
# Syllables with which names of minorities are written.
_SYLLABLES = frozenset(listed("syllables")[0])
_END = rf"(?=[\s，,。；;、！!？?（()）\]】|/{HIDDEN}]|$)"


@cache
def _words() -> dict[str, str]:
    """Words of two to four characters in jieba's dictionary that are no names, with their part of speech."""
    lines = Path(find_spec("jieba").origin).with_name("dict.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split(" ") for line in lines)
    words = {word: tag for word, _, tag in rows if 2 <= len(word) <= 4 and not tag.startswith("nr")}
    return words | dict.fromkeys(listed("more_words"), "x")


def _surname(name: str) -> str:
    return name[:2] if name[:2] in _DOUBLE and len(name) > 2 else name[:1] if name[:1] in _SURNAMES else ""


def _composed(text: str) -> bool:
    """Whether `text` is a word of the dictionary, or such words with one further character."""
    words = _words()
    heads = [size for size in (4, 3, 2) if text[:size] in words]
    return any(len(text) - size <= 1 or text[size:] in words for size in heads)


def _is_name(name: str, links: bool = False) -> bool:
    """Whether `name` may be one without a label: a surname, nothing of a sentence, and no word of the dictionary."""
    surname = _surname(name)
    given = name[len(surname) :]
    if (
        not (surname and given)
        or not name.isalpha()
        or name[-1] == "氏"
        or not _SMALL.isdisjoint(given)
        or not (links or _LINKS.isdisjoint(given))
    ):
        return False
    return len(surname) == 2 or _words().keys().isdisjoint((name[:2], name[:3], name))


_CLASSICAL, _MODERN = re.compile("[之其乃曰矣也煎钱余]"), re.compile("[的了吗呢吧您我们很]|医院")


def _classical(text: str) -> bool:
    # Classical Chinese: its 大夫 and 先生 have been dead for centuries.
    return not _MODERN.search(text) and len(set(_CLASSICAL.findall(text))) > 1


# --- beside a label ---------------------------------------------------------------------------------------------------

_FIRST = f"[{''.join(sorted(_SURNAMES | _SYLLABLES | {double[0] for double in _DOUBLE}))}A-Z]"
_LABELS = tuple(label.replace("_", " ") for label in listed("labels"))
_ROLES, _KIN = tuple(listed("roles")), tuple(listed("kin"))
_STAFF = "(?:医师|医生|护士|护师|技师|药师|者|人|员)"
_LABEL = rf"(?:{either(_LABELS)}|(?:{either(_ROLES)}){_STAFF})(?: ?(?:签名|签字|签章|姓名))?(?: ?[（(][^（()）\n]{{1,8}}[）)])?"
# All roles have two characters, all staff, too: what is rarer is looked for first.
_STAFF_NEXT = ("医师", "医生", "护士", "护师", "药师", "技师")


def _marks(words: Iterable[str]) -> tuple[str, ...]:
    # A colon is rarer than the words before it, and so the better hint.
    ends = "".join(sorted({re.sub(r"[^\w]", "", word)[-1] for word in words}))
    return tuple(rf"{mark}(?<=[{ends}）) ]{mark})" for mark in "：:】")


_LABEL_HINTS = _marks((*_LABELS, *"师生士者人员名字章"))
_NEXT = rf"(?:[是为叫签（( ]|{_FIRST})"
_NEXT_HINTS = ended(
    (*_LABELS, *(label + sign for label in (*_LABELS, *_STAFF_NEXT) for sign in ("签名", "签字", "姓名"))), _NEXT
)
_NEXT_HINTS += ended(_STAFF_NEXT, _NEXT)
_LATIN_LABELLED = rf"(?:{_LATIN}|[A-Za-z][A-Za-z'’.-]{{1,20}}(?: [A-Za-z][A-Za-z'’.-]{{0,20}}){{0,3}})(?![A-Za-z\d@_/])"
# A name ends in front of the next heading, of the sex with the age, or of what is no part of a word.
_HAN_NAME = (
    rf"{HAN}{{2,4}}?(?=(?:{_HEADING})(?: ?[：:]|$|\n))|{HAN}{{2,3}}?(?=[男女][，, ]?\d)|{HAN}{{1,4}}?(?=(?:{_TITLE}){_END})"
    rf"|{HAN}{{2,4}}{_END}|{HAN}{{2,4}}?(?={_TITLE}|{_HEADING}|[已签\d]|确认)"
)
_VALUE = rf"(?P<id>{_MINORITY}|{_SPACED}|{_HAN_NAME}|{_LATIN_LABELLED})"
_TALK = frozenset("吗呢吧啊您你我他她它这那了的")


def _labelled(match: re.Match[str]) -> bool:
    """Whether what stands beside an explicit label is a value: no word for none, no further heading, no talk."""
    name = match["id"]
    if name[1:2] == " " and (name[2:] in ("男", "女", "汉") or name[2:].startswith(_HEADINGS)):
        return False
    nothing = name in _NOTHING or name.startswith(_HEADINGS) or name[0] in "未不无已拒暂某"
    if nothing or name.endswith("某") or name.startswith(("本人", "患者", "家属")) or not _TALK.isdisjoint(name):
        return False
    return len(name) > 1 or name in _SURNAMES


def _beside(match: re.Match[str]) -> bool:
    """Whether what stands beside 家属： or 父亲： is a name, where what somebody says or has may stand as well."""
    name = match["id"]
    if not _labelled(match):
        return False
    if name[0] < HAN[1]:
        return " " in name and not name.isupper()
    if "·" in name or " " in name:
        return "·" in name or bool(_surname(name))
    if _surname(name):
        noun = len(name) == 2 and _words().get(name, "v")[0] == "n"
        return len(name) > 1 and not name.startswith(_CLINICAL) and (noun or _is_name(name, links=True))
    return len(name) > 2 and _words().keys().isdisjoint(name[at : at + 2] for at in range(len(name) - 1))


def _unmarked(match: re.Match[str]) -> bool:
    # Without a colon the label may begin a sentence: 姓名要写清楚.
    name = match["id"]
    if not _labelled(match) or name[0] < HAN[1] or "·" in name or " " in name:
        return _labelled(match)
    person = name[0] not in _PREPOSITIONS and _surname(name) or _SYLLABLES.issuperset(name)
    return bool(person) and not _composed(name) and not name.startswith(_CLINICAL)


def _shorter(finder: Finder) -> Finder:
    """The spans of `finder`, without a word that follows on a name: 元朗联系."""

    def spans(text: str) -> Spans:
        for start, end in finder(text):
            name = text[start:end]
            if len(name) == 4 and name.isalpha() and not _surname(name)[1:] and name[2:] in _words() and _surname(name):
                end -= 2
            yield start, end

    return spans


_COLON = r" ?[：:】] ?[：:]? ?"
_BY_LABEL = _shorter(by(rf"{_LABEL}{_COLON}{_VALUE}", _labelled))
_FIELD = rf"(?:{either((*_KIN, *listed('signed')))}|{HAN}{{1,4}}[人者])"
_BY_KIN = by(rf"{_FIELD}{_COLON}{_VALUE}", _beside)
_STAFF_CUE = rf"(?:{either(_STAFF_NEXT)})(?<=(?:{'|'.join(_ROLES)})..)"
_PLAIN_LABEL = rf"(?:{either(_LABELS)}|{_STAFF_CUE})(?: ?(?:签名|签字|签章|姓名))?(?: ?[（(][^（()）\n]{{1,8}}[）)])?"
_UNMARKED = _shorter(by(rf"{_PLAIN_LABEL}(?:是|为|叫| )?{_VALUE}", _unmarked))
_QUESTIONS = ("姓名", "名字", "称呼", "贵姓", "叫什么", "哪位", "联系人")
_ASKED = either(_QUESTIONS)
_ANSWER = answered(_ASKED, _VALUE, _beside)

# --- behind the patient, their kin and staff, without a colon -------------------------------------------------------------

_CUES = re.compile(rf"(?:{either((*_KIN, *listed('bare')))})[：:]? ?")
_AGED = re.compile(
    r" ?[，,、（(\s] ?(?:男|女|性别|孕\d|\d{1,3} ?[岁周]|[MF][，,])|[男女][，,性\d]| ?\d{1,3} ?[岁床]|[，,] ?\d{4}[年./-]"
)
_SAYS = re.compile(
    r"[自主代补]?[诉述答]|自?称|签[字署名]|已签|要求|表示|拒绝|名下|[的之][家妈爸父母儿女子妻夫]|患[有\u4e00-\u9fa5]{2}|提供|接听"
)
_DOES = re.compile(r"[于因在由经为与将]|[入转出来住]院|来诊|送至|下床|协助|整理|汇报|曾|现|术后|病情|[，,。；;（(\n]")
_PATIENT = frozenset("患者 病人 患儿 产妇 孕妇 家属 伤者".split())


def _patients(text: str) -> Spans:
    if _classical(text):
        return
    last = 0
    for cue in _CUES.finditer(text):
        who = _WHO.match(text, cue.end()) if cue.start() >= last else None
        if who is None or ("·" in who[0] or who[0].isascii()) and cue[0].rstrip("：: ") not in _PATIENT:
            continue
        start = who.start()
        for size in range(min(4, len(who[0])), 1, -1) if who[0].isalpha() and not who[0].isascii() else (len(who[0]),):
            if _is_person(text[start : start + size], text, start + size):
                last = start + size
                yield start, last
                break


def _is_person(name: str, text: str, end: int) -> bool:
    if "·" in name or name.isascii():
        return True
    plain = name.replace(" ", "")
    if len(plain) == 4 and not (_surname(plain)[1:] or _SYLLABLES.issuperset(plain)):
        return False
    if not _SMALL.isdisjoint(plain) or plain.startswith(_CLINICAL) or plain.endswith(("者", "儿", "某")):
        return False
    aged, says = _AGED.match(text, end), _SAYS.match(text, end)
    if not _surname(plain):
        return len(plain) > 2 and _SYLLABLES.issuperset(plain) and bool(aged or says or _DOES.match(text, end))
    if aged:
        # In front of sex and age a word may be a name (时光, 车前), only not what a patient has.
        return plain[-1] not in _SEXES
    if says and all(_words().get(plain[:size], "n")[0] == "n" for size in (2, 3)):
        return _LINKS.isdisjoint(plain[-1])
    if name[0] in _EVERYDAY and not (
        len(plain) > 2 and _DOES.match(text, end) and _words().keys().isdisjoint((plain[1:], plain[2:]))
    ):
        return False
    if not _is_name(plain) or plain[0] in _PREPOSITIONS:
        return False
    return len(plain) > 2 or bool(_DOES.match(text, end))


_SEXES, _PREPOSITIONS = "男女", frozenset("于易常曾何任方向时成应尚")

# --- at the beginning of a clause -------------------------------------------------------------------------------------------

_RELATION = "(?:患者|病人)?之?[父母儿女妻夫子弟兄姐妹侄媳婿][子女亲友]?"
_SUBJECT = rf"(?P<id>{_MINORITY}|{HAN} {HAN}{{1,2}}|{HAN}{{2,4}}?|{_LATIN})"
# Behind somebody at the beginning of a clause: "李 明，男，28岁", "何其（患者之子）", "程前，身份证[身份证号]".
_EVIDENCE = re.compile(
    rf"[男女](?<=[，, ].)(?:性|[，, ]|$)|[MF](?<=[，, ].)[，,] ?\d|（(?:{_RELATION}）|住院号|药师)|{HIDDEN}+"
)
_BEFORE_EVIDENCE = re.compile(
    rf"(?:^|[\n，,。；;：: 】“])(?:{either(_KIN)}|{HAN}{{2,4}}[人者员])?{_SUBJECT}(?:[，,（( ]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?)?$"
)


def _subjects(text: str) -> Spans:
    last = 0
    for evidence in _EVIDENCE.finditer(text):
        left = max(last, evidence.start() - 24)
        match = _BEFORE_EVIDENCE.search(text[left : evidence.start()])
        # The slice may begin inside a word.
        if match and (match.start("id") or not left) and _is_subject(match["id"]):
            last = left + match.end("id")
            yield left + match.start("id"), last


def _is_subject(name: str) -> bool:
    plain = name.replace(" ", "")
    if plain.isascii() or "·" in plain:
        return True
    if plain.startswith(_CLINICAL) or plain.endswith(("者", "儿", "某", "人", "族")) or not _SMALL.isdisjoint(plain):
        return False
    if len(plain) == 4 and not _surname(plain)[1:]:
        return _SYLLABLES.issuperset(plain)
    tag = _words().get(plain, "nr")
    return (bool(_surname(plain)) or _SYLLABLES.issuperset(plain)) and (tag == "nr" or tag[0] == "a")


# --- before a title ---------------------------------------------------------------------------------------------------

_ADDRESSES = ("先生", "女士", "小姐")
_POSTS = ("教授", "主任", "院长", "护士", "老师", "专家", "博士")
# What leads up to a person within a clause.
_LEADS = frozenset("请问询找谢好是给被让由和跟在与对经约挂看叫听烦到复院科室师您吧那有、小老")
_LEAD_WORDS = frozenset(listed("lead_words"))
_TITLES = re.compile(_TITLE).finditer


def _doctors(text: str) -> Spans:
    if _classical(text):
        return
    last = 0
    for title in _TITLES(text):
        end = title.start()
        for start in range(max(last, end - 4), end):
            if _is_doctor(text, start, end, title[0]):
                yield start, end
                last = end
                break


def _is_doctor(text: str, start: int, end: int, title: str) -> bool:
    name, before = text[start:end], text[start - 1 : start] if start else ""
    surname = _surname(name)
    if before.isdigit() or not (surname or name in _DOUBLE):
        return False
    inside = "\u4e00" <= before <= "\u9fa5"
    led = not inside or text[max(0, start - 2) : start] in _LEAD_WORDS or before in _LEADS
    if inside and text[max(0, start - 2) : start] not in _LEAD_WORDS:
        words = _words()
        if before + name[0] in words or before + name[:2] in words or text[max(0, start - 2) : start + 1] in words:
            return False
    if len(name) > 1 and name not in _DOUBLE:
        if name[0] in _EVERYDAY and not (led and name[1:] not in _words()):
            return False
        # "吴九宜先生": those whom a text calls so by their full name are public or dead.
        return title not in _ADDRESSES and len(name) - len(surname) <= 2 and _is_name(name) and (led or len(name) > 2)
    if name in _NEVER_ALONE or name in _LED_ONLY and not (inside and led):
        return False
    return led or name not in _EVERYDAY


# --- further ones, beside names ---------------------------------------------------------------------------------------

_CALLED = by(
    rf"(?:我是|我叫|名叫|名字(?:是|叫|为)|(?:{either(_KIN)}|孩子|宝宝|小孩|老公|老婆|妈妈|爸爸)叫|免贵姓|我姓)"
    rf"(?P<id>{_MINORITY}|{_LATIN}|{HAN}{{1,4}})(?=[\s，,。；;、！!？?（()）{HIDDEN}]|$|性别|[男女]|年龄|今年|\d)",
    lambda match: _is_called(match[0], match["id"]),
)


def _is_called(text: str, name: str) -> bool:
    if "姓" in text[:4]:
        return name == _surname(name) or _is_name(name)
    if name.isascii() or "·" in name:
        return not text.startswith("我是")
    return 2 <= len(name) and _is_name(name, links=not text.startswith("我是"))


_NEXT = re.compile(
    rf"(?:[、/]| ?(?:和|及|与) ?)(?P<id>{_MINORITY}|{_LATIN}|{HAN}{{2,4}}?)(?=[、，,。；;\s及和等（(]|$)"
).match
_NEXT_AFTER = re.compile(rf"{HIDDEN}(?=[、/和及与 ])").finditer


def _names_next(text: str) -> Spans:
    # The second and third of "戚明、仇小年、李娜", of which an earlier rule took the first.
    for end in _NEXT_AFTER(text):
        place = end.end()
        while (match := _NEXT(text, place)) and (
            not match["id"].isalpha() or match["id"].isascii() or _is_name(match["id"])
        ):
            place = match.end()
            yield match.span("id")


def _title_hint(title: str) -> str:
    surnames = f"[{''.join(sorted(_SURNAMES))}]"
    plain = re.sub(r"\W.*", "", title)
    behind = "|".join(f"(?<={surnames}{'.' * size}{plain})" for size in range(4))
    return f"{plain[-1]}(?<=.{plain[-2:]})(?:{behind})"


NAME_RULES = (
    Rule("姓名", _LABEL_HINTS, _BY_LABEL),
    Rule("姓名", _NEXT_HINTS, _UNMARKED),
    Rule("姓名", _marks((*_KIN, *listed("signed"), "人", "者")), _BY_KIN),
    Rule("姓名", tuple(rf"{asked}[^\n\d]{{0,24}}\n" for asked in _QUESTIONS), _ANSWER),
    Rule("姓名", ended((*_KIN, *_STAFF_NEXT, *listed("bare")), f"[：:]? ?{_FIRST}"), _patients),
    Rule(
        "姓名",
        (
            *(rf"{sex}(?<=[，, ]{sex})(?<![者儿人患][，, ]{sex})(?:性|[，, ]|$)" for sex in "男女MF"),
            HIDDEN,
            f"（{_RELATION}[）)]",
            "（住院号",
            "（药师",
        ),
        _subjects,
    ),
    Rule("姓名", ("叫", "我是", "名字", "姓"), _CALLED),
    Rule("姓名", tuple(_title_hint(title) for title in listed("titles")), _doctors),
    Rule("姓名", (HIDDEN,), _names_next),
)
