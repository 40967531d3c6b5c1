"""Numbers of persons and their papers: identity cards, passports, plates, records, beds, dates of birth."""

from __future__ import annotations

import re
from datetime import date

from qilin_lib.chimed.deid_base import HAN, IS, Rule, Spans, answered, by, either, ended

# Here and below: what must not stand before a match is checked behind its first character, because an engine that
# begins with a plain character skips quickly from one place to the next.
_GAP = "[-–—. ·]?"
_ID18 = rf"(?P<id>\d(?<![\dA-Za-z]\d)(?:{_GAP}\d){{16}}{_GAP}[\dXx])(?![\dA-Za-z])"
# Beside its cue a number counts with a mistyped digit, too, and so does the one of 15 digits, which has no check digit.
_ID_VALUE = rf"(?P<id>\d(?:{_GAP}\d){{14}}(?:(?:{_GAP}\d){{2}}{_GAP}[\dXx])?)(?![\dA-Za-z])"
_ID_CUED = rf"(?:身份证件?|证件|身份)(?:号码|号)?{IS}{_ID_VALUE}"
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def valid_identity_number(digits: str) -> bool:
    """Whether 18 characters are a Chinese identity-card number.

    Region, date of birth, and the GB 11643 check character.
    """
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
        total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits[:17], strict=True))
    except ValueError:
        return False
    return digits[0] in "12345678" and "10X98765432"[total % 11] == digits[17].upper()


_DATED = re.compile(r"[1-8]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]").fullmatch


def _identity(match: re.Match[str]) -> bool:
    digits = re.sub(_GAP[:-1], "", match["id"])
    # Where a text speaks of identity cards, a mistyped digit is no reason to keep the number.
    return valid_identity_number(digits) or "身份证" in match.string and _DATED(digits) is not None


# --- papers, records, insurance ---------------------------------------------------------------------------------------

NUMBER = r"(?:号码|编号|号)"
# A number in one or several pieces, "B-2019-44820", "E 1409 6623"; a piece behind a blank is no age and no date.
_PIECE = rf"(?: \d{{2,4}}(?![\dA-Za-z]*(?: ?[./:：]|{HAN}| ?[A-Za-z%])))"
_CODE = (
    rf"(?!NCT)[A-Za-z]{{0,4}}[- ]?\d[\dA-Za-z]{{0,24}}(?:[-/][\dA-Za-z]{{1,12}}){{0,5}}{_PIECE}{{0,4}})(?![A-Za-z\d])"
)
CODE = f"(?P<id>{_CODE}"
_PAPERS = (
    "护照 军官证 士官证 士兵证 警官证 通行证 台胞证 回乡证 居留证 居住证 驾驶证 驾照 执业证 资格证 残疾证 学生证 工作证"
).split()
_PAPER = rf"(?:{either(_PAPERS, '书?(?:号码|编号|号)?')}){IS}(?P<id>[\u4e00-\u9fa5]字第? ?\d{{4,10}}号?|{_CODE}"
_PLATE = (
    r"(?P<id>[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-HJ-Z] ?[·•・.-]? ?"
    r"(?=[A-Z]{0,4}\d)[A-HJ-NP-Z\d]{4,5}[A-HJ-NP-Z\d挂学警港澳])(?![A-Za-z\d])"
)
_PLATE_HINTS = tuple(rf"{mark}[A-HJ-Z]" for mark in "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼")
_NUMBERED = (
    "住院 住_院 病历 病案 门诊 就诊 登记 检查 影像 病理 超声 内镜 胃镜 肠镜 X线 CT MR 标本 样本 条码 条形码 随访 挂号"
    " 处方 申请单 腕带 急诊 放射 体检 片 X光片 心电图 B超 彩超 镜检"
)
_RECORD_CUES = (
    *(thing.replace("_", " ") + NUMBER for thing in _NUMBERED.split()),
    *(card + "(?:卡|证)" + NUMBER + "?" for card in "诊疗 就诊 门诊 病历 住院".split()),
    *(who + "(?:ID|编号)号?" for who in ("患者", "病人")),
)
_RECORD = rf"(?:{'|'.join(_RECORD_CUES)}|ID(?<![A-Za-z]ID)号?(?=[：:])){IS}{CODE}"


def _numbered(match: re.Match[str]) -> bool:
    return sum(map(str.isdigit, match["id"])) >= 4


# --- beds -------------------------------------------------------------------------------------------------------------

_BED = rf"床 ?位?号{IS}(?P<id>[A-Za-z]?[-+加]?\d{{1,3}}(?: ?号?床)?)(?![\d.])"
# "1床棉被", "有500床": a bare number is a bed only on its own or beside the ward or whoever lies in it.
_TEN = "一二三四五六七八九十"
_WARD = (
    rf"(?:[内外骨妇儿普胸脑神肿呼消心泌肾]{{0,3}}[{_TEN}\d]{{1,3}}(?:病区|区|病房)|重症|抢救|急诊留观|留观"
    r"|(?:[A-Z]?ICU|CCU)-)"
)
_BED_NUMBER = r"(?:[加+]?[1-9]\d?|[加+]?1\d\d|0\d|[A-Z]\d{1,2})号?床"
_LIER = "病人|患者|家属|产妇|患儿"
_NOT_A_BED = r"(?![位次旁棉被垫单铺褥毯上下边套头品以])"
_BED_BARE = (
    rf"(?P<id>{_WARD}{_BED_NUMBER}{_NOT_A_BED}"
    r"|(?:(?<!\w)(?<![设放有置备增编约共达余至] )|(?<=[床科区室房住在院楼箱给晚第U知原入由到嘱和与请将向]))"
    rf"{_BED_NUMBER}{_NOT_A_BED}"
    rf"|(?<!\d){_BED_NUMBER}(?={_LIER})|(?<=[科区房])[{_TEN}]{{1,3}}号?床)"
)

# --- dates of birth ---------------------------------------------------------------------------------------------------

_SAID = "零〇○一二三四五六七八九"
_MONTH_DAY = r"[01]?\d(?: ?[月./-](?: ?[0-3]?\d(?: ?[日号])?)?)?"
_SAID_DAY = rf"(?:[{_TEN}]{{1,3}}|正|冬|腊|元)月(?:初?[{_TEN}廿卅]{{1,3}}[日号]?)?"
_DATE = (
    rf"(?:(?:19|20)\d\d ?[年./-] ?{_MONTH_DAY}|(?:19|20)\d\d[01]\d[0-3]\d(?!\d)"
    rf"|\d\d ?年 ?[01]?\d ?月(?: ?[0-3]?\d ?[日号])?|[{_SAID}]{{2}}(?:[{_SAID}]{{2}})?年{_SAID_DAY}"
    rf"|(?:19|20)?\d\d ?年{_SAID_DAY})"
)
_YEAR = rf"(?:(?:19|20)\d\d ?年|[{_SAID}]{{4}}年)"
_CALENDAR = "(?:农历|阴历|阳历|公历)?"
_BIRTH_CUE = r"(?:出生(?:日期|年月日?|时间|日)?|生日|(?<![发医先学卫产寄派再孳丛原新而])生于|DOB)"
_BIRTH = rf"{_BIRTH_CUE}(?:是|为|在|于)? ?[：:]? ?{_CALENDAR}(?P<id>{_DATE}|{_YEAR}(?!\d|后|前|以|代|间|至|到))"
_BORN_BY = r" ?(?:早上|凌晨|上午|中午|下午|晚上|\d{1,2}[：:]\d\d)?(?:足月|早产|顺产|剖[腹宫]产)?"
_BORN = (
    rf"(?<![\d.-])(?P<id>{_DATE})(?:{_BORN_BY}(?:出生|生人|生的)|生(?=[，,。；;、）)]|$))"
    # A year alone is that of a person, not of a cohort.
    rf"|(?<![\d.至到~～-])(?P<year>{_YEAR})(?:出生|生人|生的|生(?=[，,。；;、）)]|$))(?!的|队列|人群|人口|缺陷|率|[者儿]|\d)"
)
_BORN_HINTS = (
    "出生",
    "生人",
    r"生的(?<=[年月日号晨上午产\d ]生的)",
    rf"生(?<=[年月日号\d{_TEN}]生)(?:[，,。；;、）)]|$)",
)


def _births(text: str) -> Spans:
    for match in _BORN_AT(text):
        yield match.span("id" if match["id"] else "year")


_BORN_AT = re.compile(_BORN).finditer
_ID_HINTS = tuple(rf"{digit}(?:{_GAP}\d){{14}}" for digit in "0123456789")
_CODE_HINTS = tuple(rf"{mark}(?:码|是|为|[：: ]){{0,4}}[A-Za-z]{{0,4}}[- ]?\d" for mark in "号卡证D")
IDENTITY_RULES = (
    Rule("身份证号", _ID_HINTS, by(_ID_CUED)),
    Rule("身份证号", _ID_HINTS, by(_ID18, _identity)),
    Rule("身份证号", _ID_HINTS, answered("身份证", _ID_VALUE)),
    Rule("证件号", ended(_PAPERS), by(_PAPER)),
    Rule("车牌", _PLATE_HINTS, by(_PLATE)),
    Rule("病历号", _CODE_HINTS, by(_RECORD, _numbered)),
    Rule(
        "病历号",
        (r"号(?:码)?[^\n\d]{0,24}\n", r"卡[^\n\d]{0,24}\n", r"证[^\n\d]{0,24}\n"),
        answered("|".join(_RECORD_CUES), CODE, _numbered),
    ),
)
BED_RULES = (
    Rule("床号", ("床号", "床位号", "床 号"), by(_BED)),
    Rule("床号", (rf"床(?<=[号\d{_TEN}]床)",), by(_BED_BARE)),
    Rule(
        "床号",
        ("床号", r"床(?<=[几哪]床)"),
        answered("床号|[几哪]床", r"(?P<id>[+加]?\d{1,3}(?: ?号?床)?)(?![\d.])"),
    ),
)
BIRTH_RULES = (
    Rule("出生日期", ("出生", "生日", "生于", "DOB"), by(_BIRTH)),
    Rule("出生日期", _BORN_HINTS, _births),
    Rule(
        "出生日期",
        ("出生", "生日"),
        answered("出生(?:日期|年月日?|时间)|生日|哪年出生|什么时候出生", rf"{_CALENDAR}(?P<id>{_DATE}|{_YEAR})"),
    ),
)
