"""Numbers, accounts, pages and dates of birth: by the label beside them, by their shape, by the unit behind them.

A value goes where its label stands before it in the same line, or asks for it in the line before (see deid_base).
Numbers of institutions stay.
"""

from __future__ import annotations

import re
from datetime import date

from qilin_lib.chimed.deid_base import HAN, HIDDEN, NAMED, Rule, Spans, answered, by, each, group, listed, near, trie

# --- what numbers are made of -----------------------------------------------------------------------------------------

_SPACE = r"[ \t　]?"
_IS = rf"(?:是|为|写着|填的是?|暂编为?|[更改]正?为)?{_SPACE}[：:]?{_SPACE}"
_NUMBER = "(?:号码|编号|号)"
_SEP = "[-–—. ·・－_]"
_GAP = "[-–—. ·]?"
_SPOKEN = "零〇○一幺二两三四五六七八九壹贰叁肆伍陆柒捌玖"
# A unit behind eleven digits makes them a quantity, a decimal point a measurement.
_UNIT = "IU|U/|copies|拷贝|[cC][fF][uU]|[kMG]?b|reads|条|个|元|例|份|次|万|亿|[mμ]?g|m[lL]|/[A-Za-z]|[×*%]"
_NO_UNIT = rf"(?!\d|\.\d| ?(?:{_UNIT}))"


def _digits(least: int):
    """Accepts a value with at least so many digits."""
    return lambda match: sum(letter.isdigit() for letter in match["id"]) >= least


# --- identity cards, papers, records ----------------------------------------------------------------------------------

_ID18 = rf"(?P<id>\d(?<![\dA-Za-z]\d)(?:{_GAP}\d){{16}}{_GAP}[\dXx])(?![\dA-Za-z])"
# Beside its label a number counts with a mistyped digit, too, and so does one of 15 digits, which has no check digit.
_ID_LABELLED = rf"(?P<id>\d(?:{_GAP}\d){{14}}(?:(?:{_GAP}\d){{2}}{_GAP}[\dXx])?|[{_SPOKEN}]{{15,18}})(?![\dA-Za-z])"
_ID_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_dated = re.compile(r"[1-9]\d{5}(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]").fullmatch


def valid_identity_number(digits: str) -> bool:
    """Whether 18 characters are a Chinese identity-card number.

    Region, date of birth, and the GB 11643 check character.
    """
    try:
        date(int(digits[6:10]), int(digits[10:12]), int(digits[12:14]))
        total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, digits[:17], strict=True))
    except ValueError:
        return False
    return digits[0] in "123456789" and "10X98765432"[total % 11] == digits[17].upper()


_thing = re.compile(
    "(?:编号|序列号|条形?码|追溯码|流水号|单号|代码|批号|批次|货号|设备号|型号|登记号|随便打的?|是)[^，。；\\n]{0,4}$"
).search


def _identity(match: re.Match[str]) -> bool:
    """Whether 18 digits are those of a person: by their check digit, or by their date where no thing is numbered."""
    digits = re.sub(_GAP[:-1], "", match["id"])
    if valid_identity_number(digits):
        return True
    start = match.start("id")
    thing = _thing(match.string, max(0, start - 12), start) and not re.search("身份证|证件", match.string)
    return not thing and _dated(digits) is not None and not re.match(" ?(?:是|对应|已|扫)", match.string[match.end() :])


# A number in one or several pieces, "B-2019-44820", "E 1409 6623"; a piece behind a blank is no age and no date.
_PIECE = rf"(?: \d{{2,4}}(?![\dA-Za-z]*(?: ?[./:：]|{HAN}| ?[A-Za-z%])))"
_CODE = (
    rf"(?P<id>\d(?: \d){{4,14}}|(?!NCT)[A-Za-z]{{0,4}}[- ]?\d[\dA-Za-z]{{0,24}}(?:[-/][\dA-Za-z]{{1,12}}){{0,5}}"
    rf"{_PIECE}{{0,4}})(?![A-Za-z\d])"
)
_PAPER = (
    rf"(?:{trie(listed('papers'))})书?{_NUMBER}?"
    rf"(?:{_IS}|[（(，, ]{{1,2}}(?:字号|编号|证号|号码)?[：:]?| ?[Nn][Oo]\.? ?)"
    rf"(?:(?P<id>{HAN}字第? ?\d{{4,10}}号?)|{_CODE.replace('<id>', '<code>')})"
)
_RECORD = (
    rf"(?:(?:{trie(name.replace('_', ' ') for name in listed('numbered'))})(?:号码|编号|单号|号)"
    r"|(?:诊疗|就诊|门诊|病历|住院)[卡证]号?|(?:拍片|检查|住院|门诊|化验)的号|(?:患者|病人)(?:ID号?|编号)|[标样]本条形?码|扫码)"
)
# Without 号 the number is no year and no quantity: letters, a dash or five digits.
_BARE = rf"(?:{trie(listed('records'))}|(?:ID|MRN)(?<![A-Za-z]ID)(?<![A-Za-z]MRN)号?) ?[：:]? ?"
_BARE += r"(?=[A-Za-z]{0,4}-?[\d-]{5})(?!(?:19|20)\d\d[-./年])"
# "编号" alone numbers things too; beside a picture, a form, or at the beginning of a field it is a patient's.
_OWN_NUMBER = r"(?:(?:(?<=[\n\t　])|\A)编号(?=[：:]|[A-Z])|(?:片|单|图|本|册|卡)[（(，,]编号|检查(?=[A-Z]{2}\d{6}))"
_RECORD_LABELLED = (
    rf"(?:(?:{_RECORD}|{_OWN_NUMBER})(?:{_IS}|[（(])"
    rf"|ID(?<![A-Za-z]ID)号?(?=[：:]){_IS}|{_BARE}){_CODE}(?! ?[年例份张页])"
)
_VALUE_NEXT = rf"{_IS}(?:[（(]| ?[Nn][Oo]\.? ?)?[A-Za-z]{{0,4}}[- ]?\d"
# "00982417这个住院号", "0076653号患者".
_RECORD_BEHIND = r"(?P<id>(?<![A-Za-z\d.-])[A-Z]{0,4}\d{5,12})(?:这个?(?:住院|门诊|病[案历]|就诊卡?)号|号(?:患者|病人))"
_PROVINCES = "京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼"
# A short or partly hidden one beside its label or with its dot, in any case and with blanks; else a whole one.
_PLATE_AT = rf"(?P<id>[{_PROVINCES}] ?[A-HJ-Za-hj-z] ?[·•・.-]? ?"
_PLATE_END = r"[挂学警港澳]?)(?![A-Za-z\d])"
_PLATE_OF = "[A-HJ-NP-Za-hj-np-z\\d]"
_PLATE = (
    rf"{_PLATE_AT}(?=[A-Za-z]{{0,4}}\d)(?:{_PLATE_OF}{{5,6}}|{_PLATE_OF}{{4}}(?=[挂学警港澳])|(?<=[·•・])[A-HJ-NP-Z\d]{{4}})"
    rf"{_PLATE_END}"
)
_PLATE_LABELLED = (
    rf"(?:[车号]牌|牌照|车号|[驾货轿客包托]车?|车辆|驾驶)(?:号码?)?(?:是|为)?[：:（( ]{{0,2}}"
    rf"{_PLATE_AT}(?=[A-Za-z]{{0,4}} ?[\d*?？×])[A-Za-z\d*?？×](?: ?[·•]?[A-Za-z\d*?？×]){{2,5}}{_PLATE_END}"
)

# --- pages, mail, accounts --------------------------------------------------------------------------------------------

# "git@host:path" is no mailbox.
_EMAIL = (
    r"(?<![A-Za-z0-9_.+-])(?P<id>(?!git@)[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}"
    r"(?:@| ?[\[(（]at[\])）] ?)[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,6}\.[A-Za-z]{2,24})"
)
_url = re.compile(
    r"(?<![A-Za-z0-9@.])(?:https?://|www\.)[A-Za-z0-9._~/?#@!$&'*+,;=%:-]{4,300}"
    r"|(?<![A-Za-z0-9@./])[a-z0-9-]{1,30}\.(?:[a-z0-9-]{1,30}\.){0,3}(?:com|cn|net|me|org)/[A-Za-z0-9._~/?#@!$&'*+,;=%-]{1,200}"
).finditer
_own_page = re.compile(
    r"(?:主页(?<![方院站]主页)[^\n。；]{0,12}|(?:博客|空间|微博|朋友圈|个人网[站页]|我的(?:网站|链接|网址|网页))[^\n，。；]{0,8})$"
).search
# A page of one person: by its host, by its path, by what it is asked for.
_personal = re.compile(
    r"(?:weibo|zhihu|douyin|kuaishou|xiaohongshu|bilibili|douban|haodf|linkedin|facebook|instagram|twitter|qzone|blog|pan\.baidu)[.\w-]*/?"
    r"|/(?:u|user|users|people|profile|space|patient|member|home)/|/~|[?&](?:uid|userid|user|id|name|openid|token|patient\w*|k)=",
    re.IGNORECASE,
).search


def _pages(text: str) -> Spans:
    for match in _url(text):
        page = match[0].rstrip(".,;:!?'")
        own = _own_page(text, max(0, match.start() - 24), match.start())
        if own or _personal(page) and "/" in page.removeprefix("https://").removeprefix("http://"):
            yield match.start(), match.start() + len(page)


_LATIN_APPS = r"(?:QQ|qq|Qq|WeChat|Wechat|wechat|VX|Vx|vx|WX|Wx|wx)(?<![A-Za-z]QQ)(?<![A-Za-z][qQVvWw][qXx])群?"
_APP = rf"(?:{trie(listed('accounts'))}|{_LATIN_APPS})(?:号码|号| ?ID| ?id)?"
_OWN = r"(?:[么吗呢吧哈]?[，,？? ]{0,2}(?:(?:我|他|她)的?)?(?:号码|好像|应该|就)?)"
_ACCOUNT = (
    rf"(?P<id>\d(?:[ -]\d){{4,11}}|\d{{2,5}}(?:[ -]\d{{2,5}}(?! ?[岁年月日天次元])){{1,5}}"
    rf"|[A-Za-z0-9][A-Za-z0-9_-]{{4,24}}"
    rf"|[A-Za-z]{{0,3}}[{_SPOKEN}](?:[ -]?[{_SPOKEN}\d]){{3,11}}[A-Za-z]{{0,4}})(?![A-Za-z0-9_@.-])"
)
_ACCOUNT_LABELLED = rf"{_APP}{_OWN}(?:是|为|加|叫)?{_SPACE}(?P<colon>[：:（(]?){_SPACE}{_ACCOUNT}(?! ?元)"
_HANDLE = rf"(?:微博|抖音|小红书|快手|知乎|B站)(?:账?号|名|ID)?[是叫：: ]{{0,2}}(?P<id>@[\w{HAN[1:-1]}-]{{2,20}})"
_CARD = r"(?<![\d.])(?P<id>62\d\d(?:[ -]?\d{4}){3}(?:[ -]?\d{1,3})?|62\d\d(?: \d{4}){2} \d{2,3})(?!\d)"
_CARD_END = r"(?:尾号|后四位)(?:是|为)? ?[：:]? ?(?P<id>\d{3,6})(?![\d年月])"
_INSURANCE = (
    rf"(?:医保|社保|参保|医疗保险|社会保障)[卡证]?(?:账户|电子凭证)?(?:上的?)?{_NUMBER}?"
    rf"(?:{_IS}|[（(])(?!12\d{{3}}(?!\d)){_CODE}(?! ?[元年月])"
)


_app = re.compile("微信|薇|[vV][xX]|QQ|扣扣|抖音|快手|小红书").search
_no_account = re.compile("(?:准字|批[号次]|型号|证号?|编号)[：: ]?$").search


def _asked_for(match: re.Match[str]) -> bool:
    """Whether Latin letters and digits look chosen by somebody and stand behind the name of an app: "小李_85"."""
    word, start = match["id"], match.start()
    digits, small = sum(map(str.isdigit, word)), sum(map(str.islower, word))
    chosen = small > 1 and ("_" in word or digits > 1) and not re.match("covid|ncov|sars|http", word, re.IGNORECASE)
    app = _app(match.string, max(0, start - 60), start)
    return bool((chosen or digits > 4) and app and not _no_account(match.string, app.end(), start))


def _account(match: re.Match[str]) -> bool:
    # "微信pay", "QQ email": an account is more than a word, or is what a colon introduces.
    return bool(match["colon"]) or not match["id"].isascii() or not match["id"].isalpha()


# --- telephones -------------------------------------------------------------------------------------------------------


def _grouped(groups: str) -> str:
    return "".join(rf"{_SEP}?\d{{{size}}}" for size in groups.split())


# Eleven digits in the groups that people write them in.
_ELEVEN = (
    rf"[3-9]\d(?:{_grouped('4 4')}|{_SEP}\d{{3}}{_SEP}?\d{{5}}|{_SEP}\d{{5}}{_SEP}?\d{{3}}|\d{{2}}{_SEP}\d{{6}}"
    rf"|\d{{2}}{_SEP}\d{{3}}{_SEP}\d{{3}}|\d{{1}}{_SEP}\d{{3}}{_SEP}\d{{4}}|(?:{_SEP}\d\d){{4}}){_NO_UNIT}"
)
_MOBILE = (
    rf"(?P<id>(?:(?<![\dA-Za-z.])(?:[（(]\+86[)）]|(?:\+|00)?86)[- ]?1|1(?<![\dA-Za-z.].)){_ELEVEN}"
    rf"|1(?<![\dA-Za-z.].)[ -]{{1,3}}[3-9](?:[ -]{{1,3}}\d){{9}}{_NO_UNIT})"
)
_MOBILE_SAID = (
    rf"(?P<id>(?<![\d{_SPOKEN}])[一幺1壹]{_SEP}?[三四五六七八九3-9叁肆伍陆柒捌玖]"
    rf"(?=(?:[\d ，]|{_SEP}){{0,14}}[{_SPOKEN}])"
    rf"(?:(?:，|{_SEP})?[{_SPOKEN}\d]){{9,11}})(?![\d{_SPOKEN}十])"
)
_AREA = r"0(?:10|2\d|[3-9]\d\d)"
_LOCAL = r"[2-9](?:\d{6,7}|\d{2,3}[- .]\d{4}|\d{3}[- ]\d{3})"
_LANDLINE = (
    rf"(?P<id>[0（(](?<![\d.+-].)(?:(?<=0){_AREA[1:]}[- －—.]{_LOCAL}|(?<=[（(]){_AREA}[）)][- ]?{_LOCAL})"
    rf"|(?:\+|00)86[- ]?{_AREA[1:]}[- ]{_LOCAL})(?!\d|-\d{{6}}|\.\d)"
)
_PHONES = trie(name.replace("_", " ") for name in listed("telephones"))
_CALLED = (
    rf"(?:{_PHONES}|联系{HAN}{{0,4}}|致电{HAN}{{0,4}}|拨{HAN}{{0,4}}|打{HAN}{{0,4}})"
    rf"(?:号码|号|\.)?{_IS}(?:[（(]\w{{1,4}}[）)])?"
)
_CALL = (
    rf"(?P<id>1{_SEP}?[3-9](?:{_SEP}{{0,2}}\d){{9}}|{_AREA}(?: ?[-–—] ?| )?\d{{3,4}}[- ]?\d{{3,4}}"
    rf"|{_AREA}[- ]?[2-9]\d{{6,7}}"
    rf"|[2-9]\d{{2}}[- ]\d{{3}}[- ]\d{{4}}|[2-9]\d{{2,3}}[- ]\d{{4}}|[2-9]\d{{6,7}}){_NO_UNIT}"
)
# The second of "5550123/5550124/5550125"; the third when that is hidden, too.
_NEXT_CALL = rf"{HIDDEN}[/、或]{{1,2}}(?P<id>[2-9]\d{{6,7}}){_NO_UNIT}"
# Whose number it is: the last of these words before it in its sentence decides.
_owner = re.compile(
    r"(?P<public>科室随访电话|邮编|医院|我院|本院|总机|急诊|急救|热线|客服|咨询|投诉(?!人)|预约|挂号|订餐|护士站|护办|科室|科里|病区|病房|检验科|服务|中心|药[店房]|诊所"
    r"|卫生|疾控|办公|值班|公司|平台|院内|门诊(?!号)|体检|改约|报告单位|血库|[\u4e00-\u9fa5]科)|患者|家属|病人|本人|来电[人者]|咨询人|收[件货]|我家|家里|家中|宅|手机|联系人|老公|老婆|爱人"
    r"|儿子|女儿|父亲|母亲|爸|妈|我的?电话|他的?电话|她的?电话|随访电话|家庭|投诉人|\ue001"
).finditer
_sentence = re.compile(r"[。；;！\n　]").split
_lot = re.compile(r"(?:批号|批次|货号|序列号|条形?码|单号)[】：: ]{0,3}$").search


def _private(match: re.Match[str]) -> bool:
    """Whether a number is somebody's: a mobile one is, but for lots; a fixed one may be that of a ward."""
    start = match.start("id")
    if re.match(rf"[（(]?\+|00|86|1{_SEP}?[3-9]|1 ", match["id"]):
        return not _lot(match.string, max(0, start - 8), start)
    owners = [owner["public"] for owner in _owner(_sentence(match.string[max(0, start - 40) : start])[-1])]
    return not owners or owners[-1] is None


# --- beds -------------------------------------------------------------------------------------------------------------

_TEN = "一二三四五六七八九十"
# Wards as they are written before a bed. No 胸 and no 腰: these number vertebrae.
_WARDS = "内外骨妇儿产普脑神消心泌肾康血肝甲乳创急抢监老年肿瘤腺液化脊髓疼痛高危妊娠"
_UNIT_NAME = rf"(?:[A-Z]?ICU|CCU|[{_WARDS}]{{1,4}}(?:科|病区|区|室)?)[一二三四]?"
_BED = rf"(?P<id>(?:{_UNIT_NAME}|[一二三四][－-])?[A-Za-z]?[-－+加]?\d{{1,4}}(?:[-－]\d{{1,3}})?(?: ?号?床)?)(?![\d.])"
# Without a word for a bed: "ICU7", "神三-19", "肿瘤科21-1".
_BED_OF_WARD = (
    r"(?P<id>(?<![A-Za-z])(?:[A-Z]?ICU|CCU)-?\d{1,2}(?![\d天日周月年次小hHd.]|个)"
    rf"|{_UNIT_NAME}(?:-\d{{1,2}}|\d{{1,2}}-\d{{1,2}})(?=[）)，。,｜| \n　]|$))"
)
# "1床棉被", "有500床": a bare number is a bed only on its own or beside the ward or whoever lies in it.
_WARD = (
    rf"(?:[内外骨妇儿普胸脑神肿呼消心泌肾]{{0,3}}[{_TEN}\d]{{1,3}}(?:病区|区|病房)|重症|抢救|急诊留观|留观"
    r"|(?:[A-Z]?ICU|CCU)-)"
)
_BED_NUMBER = r"(?:[1-9]\d?-)?(?:[A-Z]|[加+]?[1-9]\d?|[加+]?1\d\d|0\d|[A-Z]\d{1,2})号?床"
_NOT_A_BED = r"(?![位次旁棉被垫单铺褥毯上下边套头品以])"
_BED_BEHIND = (
    r"(?:(?<!\w)(?<![设放有置备增编约共达余至] )|(?<=[U第])"
    r"|(?<=[\u4e00-\u9fa5])(?<![设放有置备增编约共达余至定制开每次张加用铺睡买换位])|(?<=[换转调][至到]))"
)
_BED_ALONE = (
    rf"(?P<id>{_WARD}{_BED_NUMBER}{_NOT_A_BED}|{_BED_BEHIND}{_BED_NUMBER}{_NOT_A_BED}"
    rf"|(?<!\d){_BED_NUMBER}(?=病人|患者|家属|产妇|患儿)"
    rf"|(?<![\w])[{_TEN}]{{1,3}}号?床(?=病人|患者|家属|的|术[前后]|产后|诉|说|要)|(?<=[科区房])[{_TEN}]{{1,3}}号?床)"
)

# --- dates of birth ---------------------------------------------------------------------------------------------------

_SAID = "零〇○一二三四五六七八九"
_MONTH_DAY = r"[01]?\d(?: ?[月./-](?: ?[0-3]?\d(?: ?[日号])?)?)?"
_SAID_DAY = rf"(?:[{_TEN}]{{1,3}}|正|冬|腊|元)月(?:初?[{_TEN}廿卅]{{1,3}}[日号]?)?"
_DATE = (
    rf"(?:(?:19|20)\d\d ?[年./-] ?{_MONTH_DAY}|(?:19|20)\d\d[01]\d[0-3]\d(?!\d)|[0-3]?\d/[0-3]?\d/(?:19|20)\d\d"
    rf"|\d\d ?年 ?[01]?\d ?月(?: ?[0-3]?\d ?[日号])?|[{_SAID}]{{2}}(?:[{_SAID}]{{2}})?年{_SAID_DAY}"
    rf"|(?:19|20)?\d\d ?年(?:[农阴旧]历)?{_SAID_DAY}"
    rf"|[甲乙丙丁戊己庚辛壬癸][子丑寅卯辰巳午未申酉戌亥]年(?:（(?:19|20)\d\d年）)?{_SAID_DAY})"
)
_YEAR = rf"(?:(?:19|20)\d\d ?年|[{_SAID}]{{4}}年)"
_CALENDAR = "(?:农历|阴历|阳历|公历)?"
_BIRTH = (
    r"(?:出生(?:日期|年月日?|时间|日)?\*?|生日|生辰"
    rf"|生于(?<![发医先学卫产寄派再孳丛原新而]生于)|DOB)(?:是|为|在|于)?{_SPACE}[：:]?{_SPACE}"
    rf"{_CALENDAR}(?P<id>{_DATE}|(?<=历){_SAID_DAY}|{_YEAR}(?!\d|后|前|以|代|间|至|到))"
)
_WAS = "(?:出生|生人|生的|生日(?![会聚宴当那时过蛋]))"
_BORN_BY = r" ?(?:早上|凌晨|上午|中午|下午|晚上|\d{1,2}[：:]\d\d)?(?:足月|早产|顺产|剖[腹宫]产)?"
_LATELY = rf"(?:[去今前]年|上个?月)(?:[农阴]历)?(?:{_SAID_DAY}|\d\d?月\d\d?[日号]?|(?<=月)[{_TEN}廿\d]{{1,3}}[日号])"
_BORN = rf"(?<![\d.-])(?P<id>{_DATE}|{_LATELY})(?:{_BORN_BY}{_WAS}|生(?=[，,。；;、）)]|$))"
# A year alone is that of a person, not of a cohort.
_COHORT = "(?!的|队列|人群|人口|缺陷|率|[者儿]|\\d)"
_BORN_IN = rf"(?<![\d.至到~～-])(?P<id>{_YEAR})(?:出生|生人|生的|生(?=[，,。；;、）)]|$)){_COHORT}"
# Of a year of the last century: "53年7月19的", behind a name, in front of the sex.
_LAST_CENTURY = (
    r"19[3-9]\d[.年/-][01]?\d[.月/-][0-3]?\d[日号]?|[3-9]\d ?年 ?[01]?\d ?月(?: ?[0-3]?\d ?[日号]?)?"
    rf"|[三四五六七八九][{_SAID}]年{_SAID_DAY}|(?<=[我他她妈爸]是)[3-9]\d年|(?<=孩子|宝宝|儿子|女儿){_DATE}"
)
_OF = rf"(?P<id>(?<![\d{_SAID}])(?:{_LAST_CENTURY})(?=的[，,。；;、”\"]))"
# Said somewhat behind the label, or of whoever was just born.
_SAID_BIRTH = (
    rf"(?:(?:出生(?:日期|年月日?)|生日)(?:(?!日期|时间|当|那)[^\d\s{HIDDEN}]){{1,30}}(?:为|是|成|[：:])“?|身份证[上号]?(?:登记|写|登)?的?[为是]"
    rf"|(?:患儿|新生儿|胎龄|早产儿)[^。\n]{{0,40}}于(?={_DATE}[^。；\n]{{0,30}}娩出))(?P<id>{_DATE})"
    rf"|身份证(?:后[4四]位)?[及和](?P<day>(?:19|20)\d\d[.-]\d\d[.-]\d\d)"
)
_BESIDE = (
    rf"(?:(?:(?<={NAMED}[，, ])|(?<={NAMED}[，, ][男女][，, ])|(?<=[男女][ \t　])|(?<=\d岁[ \t　]))"
    r"(?P<id>19\d\d ?[年./-] ?[01]?\d ?[月./-] ?[0-3]?\d日?)(?=[，,。；;生\s]|$)"
    r"|(?<!\d)(?P<day>19\d\d(?:0[1-9]|1[0-2])[0-3]\d)(?= ?[MF男女](?![A-Za-z])))"
)

# --- the rules --------------------------------------------------------------------------------------------------------

_NEXT_DIGIT = rf"(?:(?:{_SEP}{{0,3}}|[）)] ?)\d)"
_FOUR, _SEVEN = (each("0123456789", rf"{_NEXT_DIGIT}{{{more}}}") for more in (3, 6))
NUMBER_GROUPS = (
    group(r"@|\[at|\(at|（at", Rule("邮箱", by(_EMAIL)), Rule("账号", by(_HANDLE))),
    group("http|www|com/|cn/|net/|me/|org/", Rule("网址", _pages)),
    group(
        f"{_FOUR}|身份证",
        Rule("身份证号", by(rf"(?:身份证件?|证件|身份)(?:号码|号)?{_IS}{_ID_LABELLED}")),
        Rule("证件号", by(_PAPER, lambda match: not match.string.endswith("客服", 0, match.start()))),
        Rule("身份证号", by(_ID18, _identity)),
        Rule("身份证号", answered("身份证", _ID_LABELLED)),
    ),
    group(
        "|".join(word + _VALUE_NEXT for word in (*"号码卡证", "ID", "MRN", *listed("records")))
        + "|"
        + each("号码", r"[^\n\d]{0,24}\n")
        + "|号(?:患者|病人)|这个?(?:住院|门诊|病|就诊)|检查[A-Z]",
        Rule("病历号", by(_RECORD_LABELLED, _digits(4))),
        Rule("病历号", by(_RECORD_BEHIND)),
        Rule("病历号", answered(_RECORD, _CODE, _digits(4))),
    ),
    group(
        _FOUR,
        Rule("账号", by(_INSURANCE, _digits(5))),
        Rule("账号", by(_CARD)),
        Rule("账号", by(_CARD_END)),
        Rule("网址", by(r"(?:IP|ip)(?:地址)?[：: ]{0,2}(?P<id>\d{1,3}(?:\.\d{1,3}){3})(?![\d.])")),
    ),
    group(
        each(_PROVINCES, r" ?[A-HJ-Za-hj-z] ?[·•・.-]? ?[A-Za-z\d*]"),
        Rule("车牌", by(_PLATE_LABELLED)),
        Rule("车牌", by(_PLATE)),
    ),
    group(
        rf"{trie((*listed('accounts'), *'QQ qq Qq Chat chat VX Vx vx WX Wx wx'.split()))}",
        Rule("账号", by(r"(?P<id>wxid_[A-Za-z0-9_]{4,24})")),
        Rule("账号", by(_ACCOUNT_LABELLED, _account)),
        Rule("账号", by(rf"(?:小红书|抖音|快手){HAN}{{2,12}}[（(]号?(?P<id>\d{{6,12}})(?!\d)")),
        Rule("账号", by(r"(?<![A-Za-z0-9_@./-])(?P<id>[A-Za-z][A-Za-z0-9_-]{5,24})(?![A-Za-z0-9_@./-])", _asked_for)),
        Rule(
            "账号", answered(_APP, r"(?P<id>(?=[A-Za-z_-]{0,20}\d)[A-Za-z0-9][A-Za-z0-9_-]{4,24})(?![A-Za-z0-9_@.-])")
        ),
    ),
    group(
        each("QqVv", "(?:信|❤|号)?[：:是]") + "|wei信|❤|加[Qq]",
        Rule(
            "账号",
            by(
                r"(?:(?<![A-Za-z\d])(?:[QqVv]|wei|微(?=❤))[信❤️号]{0,2}(?:是|[：:])|加[Qq]) ?"
                r"(?P<id>[1-9]\d{5,10}(?!\d)|[a-z]{3,20}[\w-]{0,12}\d[A-Za-z\d_]{0,8})(?![A-Za-z\d])"
            ),
        ),
    ),
    group(
        _SEVEN,
        Rule("电话", by(_MOBILE, _private)),
        Rule("电话", by(_LANDLINE, _private)),
        Rule("电话", by(_CALLED + _CALL, _private)),
        Rule("电话", by(_NEXT_CALL)),
        Rule("电话", answered("电话|手机|联系方式|联系[您你]|号码", _CALL)),
    ),
    group(each("一幺壹1", rf"(?:(?:，|{_SEP})?[{_SPOKEN}\d]){{4}}"), Rule("电话", by(_MOBILE_SAID))),
    group(
        "床(?<![临卧起]床)",
        Rule("床号", by(rf"床 ?(?:位?号{_IS}|位(?=[：:\t　]){_IS}){_BED}")),
        Rule("床号", near("床", _BED_ALONE)),
        Rule("床号", answered("床号|[几哪]床", r"(?P<id>[+加]?\d{1,3}(?: ?号?床)?)(?![\d.])")),
    ),
    group(
        each("ICU", "CU-?\\d") + "|" + each(_WARDS + "科区室一二三四", "-?\\d"),
        Rule("床号", by(_BED_OF_WARD)),
    ),
    group(each("bB", "ed "), Rule("床号", by(r"\b[Bb]ed (?:[Nn]o\.? ?)?(?P<id>\d{1,3}[A-Z]?)(?=[,，.;。)）\n]|$)"))),
    group(
        r"出生|生日|生辰|生于|娩出|DOB|天生的?[？?]|19\d\d|20\d\d ?[./-]"
        r"|年.{0,12}(?:出生|生人|生的|生[，,。；;、）)]|生$|的[，,。；;、”\"])",
        Rule("出生日期", by(_BIRTH)),
        Rule("出生日期", near("生", _BORN)),
        Rule("出生日期", near("生", _BORN_IN)),
        Rule("出生日期", by(_OF)),
        Rule("出生日期", by(_SAID_BIRTH)),
        Rule("出生日期", by(_BESIDE)),
        Rule(
            "出生日期",
            answered(
                "出生(?:日期|年月日?|时间)|生日|[哪几][年天](?:出生|生)|什么时候(?:出生|生)",
                rf"{_CALENDAR}(?P<id>{_DATE}|{_YEAR})",
            ),
        ),
    ),
)
