"""What stands beside a name: the cue before it with what joins the two, and what begins behind it."""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, REPLY, listed, trie
from qilin_lib.chimed.deid_model import DOUBLE, SURNAMES, SYLLABLES

# --- cues before a name -----------------------------------------------------------------------------------------------

_STAFF = ("医师", "医生", "护士", "护师", "技师", "药师")
_CUES = dict.fromkeys(listed("signed"), "signer")
_CUES |= dict.fromkeys((*listed("kin"), *listed("bare")), "kin") | dict.fromkeys(listed("introductions"), "said")
_CUES |= {role + staff: "staff" for role in listed("roles") for staff in (*_STAFF, "人", "者", "员", "人员")}
_CUES |= dict.fromkeys((label.replace("_", " ") for label in listed("labels")), "label")
_CUES |= dict.fromkeys(listed("written"), "written")
_TAILS = {cue[-2:] for cue in _CUES}
_SIZES = sorted({len(cue) for cue in _CUES}, reverse=True)
SURNAMED = SURNAMES | {double[0] for double in DOUBLE}
FIRST = SURNAMED | SYLLABLES
EXTRA = frozenset(listed("extra_surnames")) - FIRST
_ENDS = "".join(sorted({cue[-1] for cue in _CUES} | set("名字章科父母妻人者员氏叫我")))
_INITIALS = f"[{''.join(sorted(FIRST | EXTRA))}小老阿A-Z]"
_WHOSE = r"(?: ?[（(【][^（()）\n]{1,8}[）)】])?"
_COLON = rf"[一二三四甲乙]? ?[：:】] ?[：:]? ?{_WHOSE} ?"
_ahead = re.compile(
    # It begins with one class of characters, so that the engine skips quickly.
    rf"[{_ENDS}）){HIDDEN}{NAMED}](?:"
    rf"(?<=[{_ENDS}])(?=[{_INITIALS[1:-1]} （(【：:】一二三四甲乙是为叫写系“，,、]){_WHOSE}"
    rf"(?:(?P<colon>{_COLON})|(?P<mark>[是为叫写系 “，,、]?)(?={_INITIALS}))"
    r"|(?P<field>(?<=姓名) |(?<=姓 名) |(?<=名字) |(?<=[（(](?:患者|医师|医生|家属|护士)[）)]) ?)"
    rf"|(?<=[{HIDDEN}{NAMED}])(?P<joint> ?[、/和及与（(,，]? {{0,2}})(?={_INITIALS}))"
).finditer
_ASKS = "(?:姓名|名字|称呼|贵姓|叫什么|叫啥|哪位[？?]|联系人|谁[^，。\n]{0,4}[？?])"
_asked = re.compile(rf"{_ASKS}[^\n\d{HIDDEN}]{{0,24}}\n+{REPLY}").finditer
_signed = re.compile(" ?(?:签名|签字|签章|姓名)$").sub
_MARKS = {"，": ",", ",": ",", "、": ","}
BORDERS = '\n 　\t，,。；;：:、！!？?（()）“”"‘’【】[]|/>-—=+@'


_MARKED = {"人": "agent", "者": "agent", "员": "agent", "我": "me"}


def _cue(before: str, marked: bool = True) -> str:
    """What kind of cue `before` ends with; empty for none. Some are cues only with a mark behind them."""
    for text in (before, _signed("", before)) if before[-1] in "名字章" else (before,):
        if text[-2:] in _TAILS:
            for size in _SIZES:
                if text[-size:] in _CUES:
                    return _CUES[text[-size:]]
    if before[-1] in "父母妻" and (before[-2:-1] or " ") in BORDERS:
        return "kin"
    return "ward" if before[-1] == "科" else _MARKED.get(before[-1], "") if marked else ""


def cued(text: str) -> dict[int, str]:
    """Where a name may begin behind a cue, with the kind of the cue and what joins the two."""
    starts: dict[int, str] = {}
    for cue in _ahead(text):
        place = cue.end()
        if cue["field"] is not None:
            starts[place] = "signed" if cue[0][0] in "）)" else "label:"
        elif cue["joint"] is not None:
            starts[place] = f"{'named' if cue[0][0] == NAMED else 'hidden'}{cue['joint'].strip()[:1]}"
        else:
            end = cue.start() + 1
            mark = ":" if cue["colon"] else _MARKS.get(cue["mark"], cue["mark"])
            if mark and mark in "叫写为是系" and (kind := _cue(text[max(0, place - _SIZES[0]) : place])):
                starts[place] = kind
            elif kind := _cue(text[max(0, end - _SIZES[0]) : end], bool(mark)):
                starts[place] = kind + mark
            elif text[place - 1] == "叫":
                starts[place] = "call"
    for asked in _asked(text) if "\n" in text else ():
        starts[asked.end()] = "asked"
        reply = text[asked.end() : asked.end() + 24].partition("\n")[0]
        starts |= {asked.end() + at + 1: "reply" for at, letter in enumerate(reply) if letter in "，, "}
    return starts


# --- cues behind a name -----------------------------------------------------------------------------------------------

_CALLED = frozenset("姐哥叔姨婶嫂总伯")
TITLES, ACTED = frozenset(listed("titles")), frozenset(listed("acts"))
TITLE, _ACTS = trie(listed("titles")), trie(listed("acts"))
_KIN_OF = "[为系是]其[父母儿女妻夫子弟兄姐妹侄媳婿胞堂表叔伯舅姑姨孙爱朋同邻]"
_RELATION = "(?:患者|病人)?之?[长次]?[父母婴儿女妻夫子弟兄姐妹侄媳婿][子女亲友]?"
_OWN = "之[长次]?[父母婴儿女妻夫子]|的[妈爸][妈爸]|的家属|名下|个人(?:主页|账号|微信|博客)"
_RIGHT = {
    "sexed": r"[）)]? ?[，,、（(\s/]\s?(?:男|女|性别|孕\d|\d{1,3} ?[岁周月]|[MF](?:[，, ]|\Z))"
    r"|[男女][，,性\d]| ?\d{1,3} ?岁",
    "year": r"[，,] ?\d{2,4}[年./-]\d",
    "of": rf" ?[（(](?:{_RELATION}[）)]|住院号|药师)|{_KIN_OF}|{_OWN}|家属|[妈爸]妈|妈妈|爸爸",
    "called": rf"老(?=[按谓曰云说认师的治])|[{''.join(sorted(_CALLED))}]",
    "title": TITLE,
    "hidden": rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?{HIDDEN}|{HIDDEN}",
    "act": rf"{_ACTS}|患[有高糖慢冠脑肺肝胃]|就[行好]|收(?=[，,。\s]|\Z)",
    "heading": rf" ?(?:{trie(listed('headings'))})",
    "border": rf"[\s，,。；;、！!？?（()）\]】|/’”<{NAMED}]|\Z",
    "verb": r"[于因在由经为与将已曾现系到来]|[入转出住]院|下床|术[前后]|病情|无明显"
    r"|[今昨前][日年天晨早晚夜]|近[日期]|上[周月]|夜间",
}
_after = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in _RIGHT.items())).match
_SEXED = r"(?<=[，, 　（(/].)(?=[，, /]|\Z)"
behind = re.compile(
    # Each alternative begins with a plain character, so that the engine skips quickly.
    rf"{TITLE}|老(?=[按谓曰云说认师的治])|两位|二位|三位|M(?<=[，, /].)(?=[，, /])|F(?<=[，, /].)(?=[，, /])|{_ACTS}"
    rf"|{_KIN_OF}|男{_SEXED}|女{_SEXED}|（{_RELATION}）|\({_RELATION}\)|之[长次]?[父母婴儿女妻夫子]|妈妈|爸爸|家属|名下|收(?=[，,])"
    rf"|{'|'.join(sorted(_CALLED))}|{HIDDEN}"
).finditer
_lead = re.compile(rf"[，,（( 　]{{1,2}}(?:{HAN}{{0,8}}[：: ]?)?\Z").search
_joint = re.compile(r"(?:[，, 　（(/]{1,3}|个|的家?)\Z").search


def right_of(text: str, end: int) -> str:
    """What kind of text stands behind a name that ends there."""
    match = _after(text, end)
    return match.lastgroup if match else "none"


def name_end(text: str, cue: re.Match[str]) -> tuple[int, int]:
    """Where a name would end that what `cue` found stands behind, and how long it may be."""
    start = cue.start()
    if cue[0] in TITLES or cue[0] in "两位二位三位老":
        return start, 4
    if cue[0] in ACTED or cue[0] in _CALLED:
        return start, 3
    if cue[0] == HIDDEN:
        lead = _lead(text, max(0, start - 12), start)
        return (lead.start() if lead else start), 4
    joint = _joint(text, max(0, start - 3), start)
    return (joint.start() if joint else start), 6
