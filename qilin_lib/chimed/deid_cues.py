"""What tells of a name: cues before it with their weights, and what stands behind it.

Weights are natural logarithms, set by hand on the labelled sentences for tuning.
"""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, REPLY, listed, trie
from qilin_lib.chimed.deid_model import DOUBLE, SURNAMES, SYLLABLES

# --- what stands before -----------------------------------------------------------------------------------------------

_STAFF = ("医师", "医生", "护士", "护师", "技师", "药师")
_LABEL, _STAFFED, _KIN, _SIGNER, _SAID, _AGENT, _WARD, _SELF = (
    "label", "staff", "kin", "signer", "said", "agent", "ward", "self"
)  # fmt: skip
# What kind of cue a word is; of two kinds the first counts.
_CUES = dict.fromkeys(listed("signed"), _SIGNER)
_CUES |= dict.fromkeys(listed("introductions"), _SAID) | dict.fromkeys((*listed("kin"), *listed("bare")), _KIN)
_CUES |= {"损伤者": _AGENT, "外伤者": _AGENT, "创伤者": _AGENT}
_CUES |= {role + staff: _STAFFED for role in listed("roles") for staff in (*_STAFF, "人", "者", "员")}
_CUES |= dict.fromkeys((label.replace("_", " ") for label in listed("labels")), _LABEL)
# The weight of a cue with a colon and without one; None where it is no cue.
_WEIGHTS = {
    _LABEL: (12, 5),
    _STAFFED: (9, 5),
    _KIN: (4.5, 4),
    _SIGNER: (5, None),
    _SAID: (6, 6),
    _AGENT: (5, None),
    _WARD: (2, 2),
    _SELF: (3, 3),
    None: (None, None),
}
_WHOSE = r"(?: ?[（(【][^（()）\n]{1,8}[）)】])?"
_COLON = rf"[一二三四甲乙]? ?[：:】] ?[：:]? ?{_WHOSE} ?"
_ASKS = "(?:姓名|名字|称呼|贵姓|叫什么|哪位[？?]|联系人)"
_SURNAMED = SURNAMES | {double[0] for double in DOUBLE}
FIRST = _SURNAMED | SYLLABLES
# Surnames that are everyday words, too.
EVERYDAY = frozenset((*listed("everyday"), *listed("led_only")))
_INITIALS = f"[{''.join(sorted(FIRST))}小A-Z]"
# Cues are looked for by their last characters: fewer of them make a faster search.
_ENDS = "".join(
    sorted({cue[-1] for cue, kind in _CUES.items() if kind not in (_SIGNER, _AGENT)} | set("名字章科父母妻"))
)
# These are cues with a colon only, or with 是 and the like.
_COLON_ENDS = "".join(sorted({cue[-1] for cue in _CUES} | set("人者员氏")))
_ahead = re.compile(
    rf"[{''.join(sorted({*_ENDS, *_COLON_ENDS}))}{HIDDEN}{NAMED}]"
    rf"(?:(?<=[{_COLON_ENDS}]){_WHOSE}(?:(?P<colon>{_COLON})|(?P<link>[是为叫写系 ])(?={_INITIALS}))"
    rf"|(?<=[{_ENDS}]){_WHOSE}(?P<mark> |“|[，,](?!患))?(?={_INITIALS})"
    rf"|(?P<field>(?<=姓名)|(?<=姓 名)|(?<=名字)) |(?P<hidden>(?<={HIDDEN})) ?(?={_INITIALS})"
    rf"|(?<={NAMED})(?:(?: ?[、/和及与（(] ?)(?={_INITIALS})|(?P<next>) {{0,2}}（[^（()）\n]{{1,6}}）))"
).finditer
_WRITERS = frozenset("作编译记学或")
_NICK = ("小", "老")
_DRUGS = frozenset("品药学用别俗")
_signed = re.compile(" ?(?:签名|签字|签章|姓名)$").sub
_TAILS = {cue[-2:] for cue in _CUES}
_SIZES = sorted({len(cue) for cue in _CUES}, reverse=True)
_LONGEST = _SIZES[0]
# The weight of a place beside a number that identifies, where something stands alone and reads as a name.
ALONE_BY_NUMBER = 1.8
_asked = re.compile(rf"{_ASKS}[^\n\d{HIDDEN}]{{0,24}}\n+{REPLY}").finditer
_lone = re.compile(
    rf"(?:(?<=[\s，,。；;：:、（(“/])|\A)[{''.join(sorted(FIRST - EVERYDAY))}]"
    rf"{HAN}{{2,3}}(?:[·•]{HAN}{{2,6}})?(?=[\s，,。；;、（()）”/+]|\Z)"
).finditer
_BORDERS, _LEADS, _LEAD_WORDS = (
    frozenset('\n 　\t，,。；;：:、！!？?（(“"【]|/>'),
    frozenset(listed("leads")[0]),
    frozenset(listed("lead_words")),
)


def _cue(before: str) -> str | None:
    """What kind of cue `before` ends with."""
    if before.endswith("名叫") and before[-3:-2] in _DRUGS:
        return None
    for text in (before, _signed("", before)) if before[-1] in "名字章" else (before,):
        if text[-2:] in _TAILS:
            for size in _SIZES:
                if text[-size:] in _CUES:
                    return _CUES[text[-size:]]
    if before[-1] in "父母妻" and (before[-2:-1] or " ") in _BORDERS or before[-1] == "科":
        return _WARD
    return _AGENT if before[-1] in "人者员氏" and before[-2:-1] not in _WRITERS else None


def starts_of(text: str) -> dict[int, float]:
    """Where a name may begin behind a cue, with the weight of the cue."""
    starts: dict[int, float] = {}
    for cue in _ahead(text):
        if cue[0][0] in NAMED + HIDDEN or cue["field"] is not None:
            weight = {"field": 12, "hidden": 2, "next": 12}.get(cue.lastgroup, 6)
        else:
            cued = _SELF if cue["link"] == "是" and cue[0][0] == "我" else None
            if cue["link"] == "叫":
                cued = _cue(text[max(0, cue.end() - _LONGEST) : cue.end()])
            cued = cued or _cue(text[max(0, cue.start() + 1 - _LONGEST) : cue.start() + 1])
            weight = _WEIGHTS[cued][0 if cue["colon"] else 1]
            if cued == _AGENT and cue["link"]:
                weight = 2
            elif cue["mark"] == "，":
                weight = 2 if cued == _KIN else None
        if weight:
            starts[cue.end()] = weight
    for mark in re.finditer(HIDDEN, text) if HIDDEN in text else ():
        for name in _lone(text, max(0, mark.start() - 40), mark.start() + 40):
            starts.setdefault(name.start(), ALONE_BY_NUMBER)
    for asked in _asked(text):
        starts[asked.end()] = 9
        reply = text[asked.end() : asked.end() + 24].partition("\n")[0]
        starts |= {asked.end() + place + 1: 5 for place, letter in enumerate(reply) if letter in "，, "}
    return starts | {
        start + 1: weight for start, weight in starts.items() if weight >= 4 and text[start : start + 1] in _NICK
    }


def left_of(text: str, start: int) -> float:
    """The weight of what stands before a place that no cue points at."""
    if start == 0 or text[start - 1] in _BORDERS:
        return 1
    return 1.5 if text[start - 1] in _LEADS or text[start - 2 : start] in _LEAD_WORDS else -3


# --- what stands behind -----------------------------------------------------------------------------------------------

CALLED = frozenset("姐哥叔姨婶嫂")
TITLE = trie(listed("titles"))
_ACTS = trie(listed("acts"))
_RELATION = "(?:患者|病人)?之?[父母儿女妻夫子弟兄姐妹侄媳婿][子女亲友]?"
_OWN = "之[父母儿女妻夫子]|的[妈爸][妈爸]|的家属|名下|个人(?:主页|账号|微信|博客)"
_OF = rf" ?[（(](?:{_RELATION}[）)]|住院号|药师)|{_OWN}"
_BESIDE = rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?{HIDDEN}|{HIDDEN}"
# Of these patterns the first that matches counts.
_RIGHT = (
    (8, r"[）)]? ?[，,、（(\s]\s?(?:男|女|性别|孕\d|\d{1,3} ?[岁周]|[MF](?:[，, ]|\Z))|[男女][，,性\d]| ?\d{1,3} ?岁"),
    (8, r"[，,] ?\d{4}[年./-]\d"),
    (6, _OF),
    (6, "，复姓"),
    (5, rf"{TITLE}|[{''.join(sorted(CALLED))}]|就[行好]"),
    (4.5, _BESIDE),
    (4, rf"{_ACTS}|患[有高糖慢冠脑肺肝胃]"),
    (2, rf"[\s，,。；;、！!？?（()）\]】|/’”<{NAMED}]|\Z|{trie(listed('headings'))}"),
    (2, r"[于因在由经为与将已曾现系\d]|[入转出来住]院|来诊|送至|下床|术[前后]|病情|无明显"),
    (2, "今[年日晨天早]|昨[日夜晚天]|近[日期]|前[日天]|上[周月]|夜间"),
)
_after = re.compile("|".join(f"({pattern})" for _, pattern in _RIGHT)).match
_SEXED = r"(?<=[，, 　（(].)(?=[，, ]|\Z)"
_BRACKETED = rf"(?:{_RELATION}[）)]|住院号|药师)"
# Each alternative begins with a plain character of its own, so that the engine skips quickly.
behind = re.compile(
    rf"{TITLE}|{_ACTS}|男{_SEXED}|女{_SEXED}|M{_SEXED}|F{_SEXED}|（{_BRACKETED}|\({_BRACKETED}|之[父母儿女妻夫子]"
    rf"|妈(?<=的妈)妈|爸(?<=的爸)爸|属(?<=的家属)|名下|人(?<=个人)(?:主页|账号|微信|博客)|{HIDDEN}"
).finditer
TITLED, _ACTED = frozenset(listed("titles")), frozenset(listed("acts"))
_lead = re.compile(rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?\Z").search
_joint = re.compile(r"(?:[，, 　（(]{1,3}|个|的家?)\Z").search


def name_end(text: str, cue: re.Match[str], starts: dict[int, float]) -> int:
    """Where a name would end that what `cue` found stands behind; 0 where none can."""
    start = cue.start()
    if cue[0] in TITLED:
        return start if not _SURNAMED.isdisjoint(text[max(0, start - 4) : start]) else 0
    if cue[0] in _ACTED:
        begins = [start - size for size in (2, 3, 4) if start >= size]
        apart = (at in starts or text[at] in _SURNAMED and (at == 0 or text[at - 1] in _BORDERS) for at in begins)
        return start if any(apart) else 0
    if cue[0] == HIDDEN:
        lead = _lead(text, max(0, start - 12), start)
        return lead.start() if lead else start
    joint = _joint(text, max(0, start - 3), start)
    return joint.start() if joint else start


def right_of(text: str, end: int) -> float:
    """The weight of what stands behind a name that ends at `end`."""
    match = _after(text, end)
    return _RIGHT[match.lastindex - 1][0] if match else -4
