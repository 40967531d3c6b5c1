"""Names without a label: behind 患者 and kin, before a title, in front of sex and age.

Such a name must begin with a surname and be no word of the dictionary, unless what stands around it is strong.
"""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, Rule, Spans, by, either, ended, listed
from qilin_lib.chimed.deid_lexicon import (
    CLINICAL,
    DOUBLE,
    EVERYDAY,
    FIRST,
    KIN,
    LATIN,
    LINKS,
    MINORITY,
    NO_NAMES,
    NOTHING,
    PREPOSITIONS,
    SMALL,
    SPACED,
    SURNAMES,
    SYLLABLES,
    TITLE,
    VERBS,
    classical,
    dictionary,
    ends_in_title,
    is_name,
    surname_of,
)

_NEVER_ALONE, _LED_ONLY = frozenset(listed("never_alone")), frozenset(listed("led_only"))
_WHO = re.compile(rf"{MINORITY}|{SPACED}|{LATIN}|{HAN}{{2,6}}")

# --- behind the patient, their kin and staff, without a colon ---------------------------------------------------------

_CUES = re.compile(rf"(?:{either((*KIN, *listed('bare')))})[：:]? ?(?={FIRST})")
_AGED = re.compile(
    r" ?[，,、（(\s] ?(?:男|女|性别|孕\d|\d{1,3} ?[岁周]|[MF][，,])|[男女][，,性\d]| ?\d{1,3} ?[岁床]"
    rf"|[，,] ?(?:\d{{4}}[年./-]|{HIDDEN})"
)
_SAYS = re.compile(
    r"[自主代补]?[诉述答]|自?称|签[字署名]|已签|要求|表示|拒绝|名下|[的之][家妈爸父母儿女子妻夫]|患[有\u4e00-\u9fa5]{2}|提供|接听"
)
_DOES = re.compile(
    r"[于因在由经为与将]|[入转出来住]院|来诊|送至|下床|协助|整理|汇报|查房|书写|记录|审签|誊抄|曾|现|术后|病情|[，,。；;（(\n]"
)
_PATIENT = frozenset("患者 病人 患儿 产妇 孕妇 家属 伤者".split())


def _patients(text: str) -> Spans:
    if classical(text):
        return
    last = 0
    for cue in _CUES.finditer(text):
        who = _WHO.match(text, cue.end()) if cue.start() >= last else None
        if who is None or ("·" in who[0] or who[0].isascii()) and cue[0].rstrip("：: ") not in _PATIENT:
            continue
        start = who.start()
        for size in range(len(who[0]), 1, -1) if who[0].isalpha() and not who[0].isascii() else (len(who[0]),):
            if _is_person(text[start : start + size], text, start + size):
                last = start + size
                yield start, last
                break


def _is_person(name: str, text: str, end: int) -> bool:
    if "·" in name or name.isascii():
        return not name.isupper()
    plain = name.replace(" ", "")
    if len(plain) > 3 and not (len(plain) == 4 and surname_of(plain)[1:] or SYLLABLES.issuperset(plain)):
        return False
    if not SMALL.isdisjoint(plain) or plain.startswith(CLINICAL) or plain.endswith(("者", "儿", "某")):
        return False
    if plain in NOTHING or ends_in_title(plain):
        return False
    aged, says = _AGED.match(text, end), _SAYS.match(text, end)
    if not surname_of(plain):
        return len(plain) > 2 and SYLLABLES.issuperset(plain) and bool(aged or says or _DOES.match(text, end))
    if aged:
        # In front of sex and age a word may be a name (时光, 车前), only not what a patient has.
        return plain[-1] not in _SEXES
    if says and all(dictionary().get(plain[:size], "n")[0] == "n" for size in (2, 3)):
        return (LINKS | VERBS).isdisjoint(plain)
    if name[0] in EVERYDAY and not (
        len(plain) > 2 and _DOES.match(text, end) and dictionary().keys().isdisjoint((plain[1:], plain[2:]))
    ):
        return False
    if not is_name(plain, links=len(plain) == 3) or plain[0] in PREPOSITIONS:
        return False
    return _DOES.match(text, end) is not None


_SEXES = "男女"

# --- at the beginning of a clause -------------------------------------------------------------------------------------

_RELATION = "(?:患者|病人)?之?[父母儿女妻夫子弟兄姐妹侄媳婿][子女亲友]?"
# What only somebody does.
_ACTS = "陪同 护送 代诉 代述 签收 签字 签名 来电 接听 致电 誊抄 整理 您好".split()
# Behind somebody at the beginning of a clause: "李 明，男，28岁", "何其（患者之子）", "程前，身份证[身份证号]".
_EVIDENCE = re.compile(
    rf"[男女](?<=[，, ].)(?:[，, ]|$)|[MF](?<=[，, ].)[，,] ?\d|（(?:{_RELATION}）|住院号|药师)|{HIDDEN}+"
    rf"|名下|个人(?:主页|账号|微信|博客)|的(?:[妈爸][妈爸]|家属)|(?:{either(_ACTS)})"
)
_BOUNDARY = re.compile(rf"(?:^|[\n，,。；;：: 　】“（至见为由是]|{either((*KIN, *listed('bare')))}|[人者员位])$")
_SUBJECT = re.compile(rf"(?:{MINORITY}|{LATIN}|{HAN} {HAN}{{1,2}})$")
_LEAD = re.compile(rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?$")


def _subjects(text: str) -> Spans:
    last = 0
    for evidence in _EVIDENCE.finditer(text):
        left = max(last, evidence.start() - 24)
        before = text[left : evidence.start()]
        lead = _LEAD.search(before)
        # What was taken identifies its owner only where it stands apart: "程前，身份证[身份证号]".
        end = lead.start() if lead else len(before)
        if evidence[0][0] != HIDDEN or lead:
            start = _subject(before, end, left == 0, evidence[0][0] in "男女（")
            if evidence[0] in _ACTS and start is not None and (end - start < 3 or before[start] in EVERYDAY):
                continue
            if start is not None:
                last = left + end
                yield left + start, last


def _subject(before: str, end: int, whole: bool, strong: bool) -> int | None:
    """Where the name begins that ends at `end`; None when there is none."""
    match = _SUBJECT.search(before, 0, end)
    for start in (match.start(),) if match else (end - 3, end - 2, end - 4):
        # The slice may begin inside a word.
        if (
            (start > 0 or start == 0 and whole)
            and _BOUNDARY.search(before[:start])
            and _is_subject(before[start:end], strong)
        ):
            return start
    return None


def _is_subject(name: str, sexed: bool) -> bool:
    plain = name.replace(" ", "")
    if "·" in plain or re.fullmatch(LATIN, name):
        return True
    if plain in NOTHING or ends_in_title(plain) or not re.fullmatch(rf"{HAN}(?: ?{HAN})+", name):
        return False
    if plain.startswith(CLINICAL) or plain.endswith(("者", "儿", "某", "人", "族")) or not SMALL.isdisjoint(plain):
        return False
    if len(plain) == 4 and not surname_of(plain)[1:]:
        return SYLLABLES.issuperset(plain)
    if SYLLABLES.issuperset(plain):
        return True
    # In front of the sex a word may be a name, elsewhere not.
    return bool(surname_of(plain)) and (sexed and plain not in NO_NAMES or is_name(plain, links=True))


# --- before a title ---------------------------------------------------------------------------------------------------

_ADDRESSES = frozenset("先生 女士 小姐 阿姨 阿婆 大爷 大妈 大姐 大哥 大伯 大叔 叔叔 奶奶 爷爷 太太".split())
_OLD_TITLES = frozenset("先生 大夫 师傅 老师 医生 博士".split())
# What leads up to a person within a clause.
_LEADS = frozenset("请问询找谢好是给被让由和跟在与对经约挂看叫听烦到复院科室师您吧那有、小老签治治疗")
_LEAD_WORDS = frozenset(listed("lead_words"))
_TITLES = re.compile(TITLE).finditer


_AUTHORS = ("作者", "编者", "主编", "译者", "审校")


def _doctors(text: str) -> Spans:
    last, old = 0, None
    for title in _TITLES(text):
        if title[0] in _OLD_TITLES:
            old = classical(text) if old is None else old
            if old:
                continue
        end = title.start()
        for start in range(max(last, end - 4), end):
            if _is_doctor(text, start, end, title):
                yield start, end
                last = end
                break


def _is_doctor(text: str, start: int, end: int, title: re.Match[str]) -> bool:
    name, before = text[start:end], text[start - 1 : start] if start else ""
    surname = name if name in DOUBLE else surname_of(name)
    public = text[max(0, start - 3) : start].rstrip("：: ").endswith(_AUTHORS)
    if public or before.isdigit() or not surname or not name.isalpha():
        return False
    inside = "\u4e00" <= before <= "\u9fa5"
    # "对方医生", "及时向医生": the surname belongs to the word before it; "班主任": to the title.
    joined = (before + name[0], before + name[:2], name + title[0])
    if inside and not dictionary().keys().isdisjoint(joined):
        return False
    led = text[max(0, start - 2) : start] in _LEAD_WORDS
    if inside and not led and text[max(0, start - 2) : start + 1] in dictionary():
        return False
    led = led or not inside or before in _LEADS
    address = title[0] in _ADDRESSES
    if name != surname:
        return _full_name(name, surname, led, address and before not in "是问叫找")
    if name in _NEVER_ALONE:
        return False
    if name in _LED_ONLY and not address:
        return inside and led or not inside and text[title.end() : title.end() + 1] in "：:，,您你在！!、和说的"
    return led or address or name not in EVERYDAY


_PLACES = frozenset("后前时中上下内外里间患病科院与及的")


def _full_name(name: str, surname: str, led: bool, public: bool) -> bool:
    # "吴九宜先生": those whom a text calls so by their full name are public or dead.
    if public or len(name) - len(surname) > 2 or name[0] in EVERYDAY and not (led and name[1:] not in dictionary()):
        return False
    if (
        led
        and len(name) == 3
        and name[0] not in EVERYDAY
        and name[2] not in _PLACES - {"和"}
        and name not in dictionary()
    ):
        # "周长风医生", "钱清和医生": a noun at the beginning or a link at the end is no reason to keep a name.
        noun = dictionary().get(name[:2], "n")[0] == "n"
        if (
            (noun and name[2] != "和" or name[:2] not in dictionary())
            and SMALL.isdisjoint(name)
            and VERBS.isdisjoint(name)
        ):
            return True
    return is_name(name, links=led and len(name) == 3) and (led or len(name) > 2)


# --- further ones, beside names ---------------------------------------------------------------------------------------

_CALLED = by(
    rf"(?:我是|我叫|(?<![品药用学别俗])名叫|名字(?:是|叫|为)|(?:{either(KIN)}|孩子|宝宝|小孩|老公|老婆|妈妈|爸爸)叫|免贵姓|我姓|(?<=[：:，,\n])姓)"
    rf"(?P<id>{MINORITY}|{LATIN}|{HAN}{{1,4}})(?=[\s，,。；;、！!？?（()）{HIDDEN}{NAMED}]|$|性别|[男女]|年龄|今年|\d|{TITLE})",
    lambda match: _is_called(match[0], match["id"], _TITLE_AT(match.string, match.end()) is not None),
)


_TITLE_AT = re.compile(TITLE).match


def _is_called(text: str, name: str, titled: bool) -> bool:
    if "姓" in text[:4]:
        return name == surname_of(name) or is_name(name)
    if ends_in_title(name):
        return False
    if (titled or not text.startswith("我是")) and len(name) == 3 and surname_of(name) and name not in dictionary():
        return SMALL.isdisjoint(name)
    if name.isascii() or "·" in name:
        return not text.startswith("我是")
    return 2 <= len(name) and is_name(name, links=not text.startswith("我是"))


_FURTHER = re.compile(
    rf"(?:[、/]| ?(?:和|及|与) ?)(?P<id>{MINORITY}|{LATIN}|{HAN}{{2,4}}?)(?=[、，,。；;\s及和等（(]|$)"
).match
_NEXT_AFTER = re.compile(rf"{NAMED}(?=[、/和及与 ])").finditer


def _names_next(text: str) -> Spans:
    # The second and third of "戚明、仇小年、李娜", of which an earlier rule took the first.
    for end in _NEXT_AFTER(text):
        place = end.end()
        while (match := _FURTHER(text, place)) and (
            not match["id"].isalpha() or match["id"].isascii() or is_name(match["id"])
        ):
            place = match.end()
            yield match.span("id")


def _title_hint(title: str) -> str:
    surnames = f"[{''.join(sorted(SURNAMES | set(''.join(DOUBLE))))}]"
    plain = re.sub(r"\W.*", "", title)
    behind = "|".join(f"(?<={surnames}{'.' * size}{plain})" for size in range(4))
    # No name ends in these: "麻烦医生", "由医生".
    return f"{plain[-1]}(?<=[^烦由诉看般才到请的听去找问告让是叫与向跟经位家级名]{plain})(?:{behind})"


NAME_RULES = (
    Rule("姓名", ended((*KIN, *listed("bare")), f"[：:]? ?{FIRST}"), _patients),
    Rule(
        "姓名",
        (
            *(rf"{sex}(?<=[，, ]{sex})(?<![者儿人患岁][，, ]{sex})(?:[，, ]|$)" for sex in "男女MF"),
            HIDDEN,
            f"（{_RELATION}[）)]",
            "（住院号",
            "（药师",
            "名下",
            r"人(?<=个人)(?:主页|账号|微信|博客)",
            "妈(?<=的妈)妈",
            "爸(?<=的爸)爸",
            r"属(?<=的家属)",
            *_ACTS[:-1],
            r"您(?<![生夫任授士师家长是啊，,。！!？?：:\n 　]您)好",
        ),
        _subjects,
    ),
    Rule("姓名", ("叫", rf"我是{FIRST}", "名字", r"姓(?<=[我贵：:，,\n]姓)"), _CALLED),
    Rule("姓名", tuple(_title_hint(title) for title in listed("titles")), _doctors),
    Rule("姓名", (rf"{NAMED}[、/和及与 ]",), _names_next),
)
