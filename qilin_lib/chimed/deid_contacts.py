"""What reaches a person: e-mail, telephone, accounts, personal pages. Numbers of institutions stay."""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, HIDDEN, IS, Rule, Spans, answered, by, either, ended
from qilin_lib.chimed.deid_numbers import CODE, NUMBER

# "git@host:path" is no mailbox.
_EMAIL = (
    r"(?<![A-Za-z0-9_.+-])(?P<id>(?!git@)[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
    r"@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,6}\.[A-Za-z]{2,24})"
)

# --- pages ------------------------------------------------------------------------------------------------------------

_URL = re.compile(
    r"(?<![A-Za-z0-9@.])(?:https?://|www\.)[A-Za-z0-9._~/?#@!$&'*+,;=%:-]{4,300}|(?<![A-Za-z0-9@./])[a-z0-9-]{1,30}\.(?:com|cn|net|me|org)/[A-Za-z0-9._~/?#@!$&'*+,;=%-]{1,200}"
)
_OWN_PAGE = re.compile(r"(?:主页|博客|空间|微博|朋友圈|个人网站|我的(?:网站|链接|网址|网页))[^\n，。；]{0,8}$")
# A page of one person: by its host, by its path, by what it is asked for.
_PERSONAL = re.compile(
    r"(?:weibo|zhihu|douyin|kuaishou|xiaohongshu|bilibili|douban|haodf|linkedin|facebook|instagram|twitter|qzone|blog)[.\w-]*/?"
    r"|/(?:u|user|users|people|profile|space|patient|member|home)/|/~|[?&](?:uid|userid|user|id|name|openid|token|patient\w*|k)=",
    re.IGNORECASE,
)


def _pages(text: str) -> Spans:
    for match in _URL.finditer(text):
        page = match[0].rstrip(".,;:!?'")
        own = _OWN_PAGE.search(text, max(0, match.start() - 24), match.start())
        if own or _PERSONAL.search(page) and "/" in page.removeprefix("https://").removeprefix("http://"):
            yield match.start(), match.start() + len(page)


# --- telephones -------------------------------------------------------------------------------------------------------

_SEP = "[-–—. ·・－_]"
# A unit behind eleven digits makes them a quantity, a decimal point a measurement.
_NO_QUANTITY = (
    r"(?!\d|\.\d| ?(?:IU|U/|copies|拷贝|[cC][fF][uU]|[kMG]?b|reads|条|个|元|例|份|次|万|亿|[mμ]?g|m[lL]"
    r"|/[A-Za-z]|[×*%]))"
)


# Eleven digits in the groups that people write them in.
def _grouped(groups: str) -> str:
    return "".join(rf"{_SEP}?\d{{{size}}}" for size in groups.split())


_ELEVEN = (
    rf"[3-9]\d(?:{_grouped('4 4')}|{_SEP}\d{{3}}{_SEP}?\d{{5}}|{_SEP}\d{{5}}{_SEP}?\d{{3}}|\d{{2}}{_SEP}\d{{6}}"
    rf"|\d{{2}}{_SEP}\d{{3}}{_SEP}\d{{3}}|\d{{1}}{_SEP}\d{{3}}{_SEP}\d{{4}}|{_SEP}\d{{2}}{_SEP}\d{{2}}{_SEP}\d{{2}}{_SEP}\d{{2}}"
    rf"){_NO_QUANTITY}"
)
_MOBILE_ABROAD = rf"(?P<id>(?<![\dA-Za-z.])(?:\+|00)?86[- ]?1{_ELEVEN})"
_MOBILE = rf"(?P<id>1(?<![\dA-Za-z.].){_ELEVEN})"
_MOBILE_CUED_VALUE = rf"1{_SEP}?[3-9](?:{_SEP}{{0,2}}\d){{9}}{_NO_QUANTITY}"
_SAID = "零〇○一幺二两三四五六七八九壹贰叁肆伍陆柒捌玖"
_MOBILE_SAID = (
    rf"(?P<id>(?<![\d{_SAID}])[一幺1壹][三四五六七八九3-9叁肆伍陆柒捌玖](?=[\d {_SEP[1:-1]}]{{0,14}}[{_SAID}])"
    rf"(?:{_SEP}?[{_SAID}\d]){{9,11}})(?![\d{_SAID}十])"
)
_AREA = r"0(?:10|2\d|[3-9]\d\d)"
_LOCAL = r"[2-9](?:\d{6,7}|\d{2,3}[- .]\d{4})"
_LANDLINE = (
    rf"(?P<id>[0（(](?<![\d.+-].)(?:(?<=0){_AREA[1:]}[- －—.]{_LOCAL}"
    rf"|(?<=[（(]){_AREA}[）)][- ]?{_LOCAL}))(?!\d|-\d{{6}}|\.\d)"
)
_LANDLINE_LOOSE = rf"{_AREA}(?: ?[-–—] ?| )?\d{{3,4}}[- ]?\d{{4}}"
_CUES = "电话 手机 座机 联系方式 传真 小灵通 号码 T[Ee][Ll] t[Ee][Ll] Phone phone 电_话 手_机".replace("_", " ").split()
_CALLS = tuple(call + HAN + "{0,4}" for call in ("联系", "致电", "拨", "打"))
_CUED_VALUE = (
    rf"(?P<id>{_MOBILE_CUED_VALUE}|{_LANDLINE_LOOSE}{_NO_QUANTITY}|{_AREA}[- ]?[2-9]\d{{6,7}}{_NO_QUANTITY}"
    rf"|[2-9]\d{{2}}[- ]\d{{3}}[- ]\d{{4}}{_NO_QUANTITY}|[2-9]\d{{2,3}}[- ]\d{{4}}{_NO_QUANTITY}"
    rf"|[2-9]\d{{6,7}}{_NO_QUANTITY})"
)
_PHONE_CUED = rf"(?:{either((*_CUES, *_CALLS))})(?:号码|号|\.)?{IS}(?:[（(]\w{{1,4}}[）)])?{_CUED_VALUE}"
_PHONE_NEXT = re.compile(rf"[/、或]{{1,2}}(?P<id>[2-9]\d{{6,7}}){_NO_QUANTITY}").match
_PHONE_END = re.compile(rf"{HIDDEN}(?=[/、或]{{1,2}}\d{{7}})").finditer
# Whose number it is: the last of these words before it in its sentence decides.
_OWNER = re.compile(
    r"(?P<public>邮编|医院|我院|本院|总机|急诊|急救|热线|客服|咨询|投诉|预约|挂号|订餐|护士站|护办|科室|科里|病区|病房|检验科|服务|中心|药[店房]|诊所"
    r"|卫生|疾控|办公|值班|公司|平台|院内|门诊|体检|血库|[\u4e00-\u9fa5]科)|患者|家属|病人|本人|我家|家里|家中|宅|手机|联系人|老公|老婆|爱人"
    r"|儿子|女儿|父亲|母亲|爸|妈|我的?电话|他的?电话|她的?电话|随访电话|家庭"
)
_SENTENCE = re.compile(r"[。；;！？\n　]")


def _private(match: re.Match[str]) -> bool:
    # A mobile number is somebody's, a fixed one may be that of a ward or of the hospital.
    if re.match(r"1[-–—. ·・－_]?[3-9]", match["id"]):
        return True
    start = match.start("id")
    left = _SENTENCE.split(match.string[max(0, start - 40) : start])[-1]
    owners = [owner["public"] for owner in _OWNER.finditer(left)]
    return not owners or owners[-1] is None


def _phones_next(text: str) -> Spans:
    # The second and third of "5550123/5550124/5550125", of which an earlier rule found the first.
    for end in _PHONE_END(text):
        place = end.end()
        while match := _PHONE_NEXT(text, place):
            place = match.end()
            yield match.span("id")


# --- accounts ---------------------------------------------------------------------------------------------------------

_ACCOUNT_CUES = (
    "微信 威信 薇信 徽信 V信 v信 加薇 加微 加v 加V 薇 "
    "扣扣 加扣 Q号 q号 企鹅号 企鹅 支付宝 账号 帐号 抖音号 快手号 小红书号 "
    "微博号 卡号 "
    "银行卡 建行卡 工行卡 农行卡 中行卡 交行卡 招行卡 储蓄卡 信用卡"
).split()
_LATIN_CUES = "QQ qq Qq WeChat Wechat wechat VX Vx vx WX Wx wx".split()
_LATIN = "|".join(f"{cue}(?<![A-Za-z]{cue})群?(?:号码|号)?" for cue in _LATIN_CUES)
_OWN = r"(?:[么吗呢吧]?[，,？? ]{0,2}(?:我|他|她)的?)?"
_ACCOUNT_VALUE = (
    r"(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{4,24}|\d(?:[ -]\d){4,11}|\d{3,5}(?:[ -]\d{3,5}){1,5})(?![A-Za-z0-9_@.-])"
)
_ACCOUNT = (
    rf"(?:{either(_ACCOUNT_CUES, '(?:号码|号|ID|id)?')}|{_LATIN}){_OWN}"
    rf"(?:是|为|加)? ?(?P<colon>[：:（(]?) ?{_ACCOUNT_VALUE}(?! ?元)"
)
_INSURED = ("医保", "社保", "参保", "医疗保险", "社会保障")
_INSURANCE = (
    rf"(?:{either(_INSURED[:3], '(?:卡|证)?(?:账户)?' + NUMBER + '?')}"
    rf"|{either(_INSURED[3:], '(?:卡|证|号)' + NUMBER + '?')})"
    rf"{IS}{CODE}(?! ?[元年月])"
)


def _account(match: re.Match[str]) -> bool:
    # "微信pay", "QQ email": an account is more than a word, or is what a colon introduces.
    return bool(match["colon"]) or not match["id"].isalpha()


_DIGITS = "0123456789"
# A run of seven digits, or a shorter one that goes on behind a separator.
_LONG = tuple(rf"{digit}{_SEP}?\d{_SEP}?\d(?:\d{{4}}|(?:{_SEP}|[） )]|\d) ?\d)" for digit in _DIGITS)
_SPOKEN = tuple(rf"{first}[三四五六七八九3-9叁肆伍陆柒捌玖](?:{_SEP}?[{_SAID}\d]){{6}}" for first in "一幺1壹")
CONTACT_RULES = (
    Rule("邮箱", ("@",), by(_EMAIL)),
    Rule("网址", ("http", "www", "com/", "cn/", "net/", "me/", "org/"), _pages),
)
_ACCOUNT_HINTS = (*_LATIN_CUES, *ended(cue for cue in _ACCOUNT_CUES if len(cue) > 1), "薇")
ACCOUNT_RULES = (
    Rule(
        "账号",
        (
            r"保(?<=[医社参]保)(?:卡|证|号|账|编|是|为|[：: ]|[A-Za-z0-9])",
            r"险(?<=保险)[卡号证]",
            r"障(?<=保障)[卡号证]",
        ),
        by(_INSURANCE, lambda match: sum(map(str.isdigit, match["id"])) >= 5),
    ),
    Rule("账号", _ACCOUNT_HINTS, by(_ACCOUNT, _account)),
    Rule(
        "账号",
        _ACCOUNT_HINTS,
        answered(
            f"{either(_ACCOUNT_CUES)}|{_LATIN}",
            r"(?P<id>(?=[A-Za-z_-]{0,20}\d)[A-Za-z0-9][A-Za-z0-9_-]{4,24})(?![A-Za-z0-9_@.-])",
        ),
    ),
)
PHONE_RULES = (
    Rule("电话", ("86-1", "86 1", "861"), by(_MOBILE_ABROAD)),
    Rule("电话", _LONG, by(_MOBILE)),
    Rule("电话", _SPOKEN, by(_MOBILE_SAID)),
    Rule("电话", _LONG, by(_LANDLINE, _private)),
    Rule("电话", _LONG, by(_PHONE_CUED, _private)),
    Rule("电话", (HIDDEN + r"[/、或]{1,2}\d{7}",), _phones_next),
    Rule(
        "电话",
        _LONG,
        answered("电话|手机|联系方式|联系[您你]|号码", _CUED_VALUE),
    ),
)
