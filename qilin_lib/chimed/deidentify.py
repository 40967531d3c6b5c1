"""De-identification: personal identifiers become typed placeholders such as [电话], counted by type.

Covers what the paper's §6 asks for (HIPAA) in the form it takes in Chinese consultations. Clinical content stays:
dates of treatment, doses, lab values, ICD codes, drug approval numbers, hospital and department names. Rules are
precise rather than greedy: each needs a checksum, a fixed shape, or a cue word beside it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from datetime import date

# One pass over the text decides whether any rule can apply at all; most texts leave here.
_MAYBE = re.compile(
    r"\d{7}|\d{3}[- ]\d{4}|@|[Qq]{2}|微信|[Vv]信|wechat|vx|账号|帐号|卡号|身份证|电话|手机|联系方式"
    r"|医生|大夫|主任|教授|医师|护士|院长|专家|姓名|名字|签名|我叫|名叫|叫做|联系人|患者|病人|患儿|[产孕]妇|伤者"
    r"|住院号|病历号|病案号|门诊号|就诊号|登记号|检查号|影像号|病理号|诊卡号|疗卡号|保卡号|床|出生|生日|生于|生人|生的"
    r"|地址|住址|家住|现住|住在|家在|\d[号弄栋幢座室]",
    re.IGNORECASE,
)

_SURNAMES = (
    "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗梁宋郑谢韩唐冯董萧程曹袁邓许傅沈曾彭吕苏卢蒋蔡贾丁魏薛叶阎余潘杜"
    "戴夏钟汪田任姜范方石姚谭廖邹熊金陆郝孔白崔康毛邱秦江史顾侯邵孟龙万段雷钱汤尹黎易武乔贺赖龚文欧俞樊兰殷施"
    "陶洪翟颜倪严牛温芦季章鲁葛伍韦申尤毕聂焦向柳邢路岳齐梅庄辛管祝左涂谷祁舒耿牟卜詹关苗凌费纪靳盛童甄项曲成"
    "游阳裴席卫查屈鲍覃霍翁隋甘景薄单包司柏宁柯阮桂闵解强丛华车冉房边"
)
# Surnames that are also everyday words before a title ("向医生咨询", "管医生"), and words that begin like a name.
_NOT_ALONE = set("查向管成单解强文易关项温盛华车边房司包左路阳游景严任方高石金白万龙江")
_NOT_NAMES = """
    丁香 万一 万分 万幸 严格 严重 乔迁 任何 任务 何况 何时 何种 余下 余量 关于 关心 关注 关键
    凌晨 包块 包括 包皮 华山 华西 单位 单独 单纯 南京 卫生 史上 向你 向您 向来 向阳 周围 周礼
    夏天 夏季 孟鲁 季节 宁夏 宁波 安全 安徽 尤其 尹始 左右 席位 常见 常规 康复 强化 强烈 强调
    成人 成功 成年 成都 房间 文中 文献 文章 方便 方式 方才 方法 方面 施治 施行 时间 易感 景区
    曲线 曾找 曾有 曾看 曾经 林区 查体 查房 查看 查询 梅毒 欧洲 武汉 武警 段时间 毕竟 毛细 江苏
    江西 汤药 洪水 温和 温州 温度 温馨 游泳 甘油 田间 申请 白内障 白天 白癜风 白血病 盛产 盛夏
    石家庄 石膏 祝你 祝好 祝您 祝福 程度 章节 童叟 童年 管好 管家 管床 管理 管用 纪律 舒服 舒适
    苏州 苗族 范围 解决 解答 解释 许多 谢你 谢您 谢请 谢谢 谢过 谷丙 费用 贺州 路上 路过 车祸
    边缘 连续 金华 金属 钟爱 阳光 阳性 陈旧 雷同 项目 顾问 马上 马大 马虎 高中 高危 高年资 高度
    高明 高端 高等 高级 高血 高血压 黄疸 黄石 黄金 齐鲁 龙华
""".split()
_TITLE = r"(?:主任医师|主治医师|住院医师|副主任|医生|大夫|主任|教授|医师|护士长|护士|院长|专家)"
# A given name holds none of the small words of a sentence: "费用和医生", "了解不同医生" are no names.
_GIVEN = r"(?![的了和不个由是次请有在被给让就去来也都说您你我他她它这那们与及或其凭同])[\u4e00-\u9fa5]"
_NAME = rf"(?!(?<=谢)谢)(?!{'|'.join(sorted(_NOT_NAMES))})[{_SURNAMES}]"
# A name stands after a boundary or after one of the small words that lead up to a doctor's name.
_LEAD = r"(?:(?<![\u4e00-\u9fa5])|(?<=[请问找谢好是的给被让由和跟在与向了对经])|(?<=咨询)|(?<=感谢)|(?<=院)|(?<=科))"
_DOCTOR = re.compile(rf"{_LEAD}(?P<name>{_NAME}(?:{_GIVEN}){{0,2}}?)(?P<title>{_TITLE})")
_LABELLED = re.compile(
    r"(?P<cue>(?:患者|病人|孩子|宝宝|家属|联系人)?(?:姓名|名字|联系人|主治医生|主治医师|管床医生|签名) *[：:] *)"
    r"(?P<name>[\u4e00-\u9fa5·]{2,4}?)(?=[\s，,。；;、（(]|$|性别|男|女|年龄|\d)"
)
_PATIENT = re.compile(
    rf"(?P<cue>(?:患者|病人|患儿|伤者|产妇|孕妇)[：:]? ?)(?P<name>{_NAME}(?:{_GIVEN}){{1,2}}?)"
    r"(?= ?[，,、（(\s] ?(?:男|女|\d{1,3} ?岁|性别)|[男女][，,性]| ?\d{1,3}岁)"
)
# "患者孙怀瑾，情况…": without age or sex behind it only a full name of three characters that starts a clause counts.
_PATIENT_CLAUSE = re.compile(
    rf"(?P<cue>(?<![\u4e00-\u9fa5])(?:患者|病人|患儿)[：:]? ?)(?P<name>{_NAME}(?:{_GIVEN}){{2}})(?=[，,。；;])"
)
_CALLED = re.compile(
    rf"(?P<cue>我叫|名叫|叫做|名字叫|名字是)(?P<name>{_NAME}(?:{_GIVEN}){{1,2}}?)(?=[，,。；;！!\s]|今年|男|女|，|$)"
)

_EMAIL = re.compile(r"(?<![\w.+-])[A-Za-z0-9][\w.+-]{0,63}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}", re.ASCII)
_ID18 = re.compile(r"(?<![\dA-Za-z])\d{17}[\dXx](?![\dA-Za-z])")
_ID_CUED = re.compile(r"(?P<cue>身份证(?:号码|号)?(?:是|为)? *[：:]? *)(?P<id>\d{15}(?:\d{2}[\dXx])?)(?!\d)")
_MOBILE = re.compile(
    r"(?<![\d.A-Za-z])(?:\+?86[- ]?)?1[3-9]\d(?:\d{8}|[- ]\d{4}[- ]\d{4})(?!\d|\.\d| ?(?:IU|copies|拷贝|个/|/))"
)
_LANDLINE = re.compile(
    r"(?<![\d.-])(?:0\d{2,3}[-－—]\d{7,8}|[（(]0\d{2,3}[）)] ?\d{7,8}|[48]00[-－](?:\d{3}[-－]?\d{4}|\d{4}[-－]\d{3}))"
    r"(?![\d-])"
)
# What stands between a cue word and its value: "号码是：", "：", " ".
_IS = r"(?:号码|号)?(?:是|为)? *[：:]? *"
_PHONE_CUED = re.compile(
    rf"(?P<cue>(?:电话|手机|座机|热线|联系方式|tel|phone){_IS})(?P<id>\d[\d -]{{5,13}}\d)(?!\d)", re.IGNORECASE
)
_ACCOUNT = re.compile(
    r"(?P<cue>(?:(?<![A-Za-z])QQ(?:号码|号|群)?|微信(?:号码|号)?|[Vv]信号?|wechat|(?<![A-Za-z])vx|(?:银行)?卡号|[账帐]号)"
    r"(?:是|为|加)? *[：:]? *)(?P<id>[A-Za-z0-9][A-Za-z0-9_-]{4,24})",
    re.IGNORECASE,
)
_RECORD = re.compile(
    r"(?P<cue>(?:住院|病历|病案|门诊|就诊|登记|检查|影像|病理|诊疗卡|就诊卡|医保卡)号(?:码)?(?:是|为)? *[：:]? *)"
    r"(?P<id>[A-Za-z]{0,4}-?\d[\dA-Za-z-]{3,})"
)
_BED = re.compile(
    r"(?P<cue>床(?:号|位号)(?:是|为)? *[：:]? *|床位 *[：:] *)(?P<id>[A-Za-z]?\+?\d{1,3} ?号?床?)(?![\d.])"
)
# A bare "12床" is a bed only beside a ward, a record number, or the one who lies in it ("1床棉被" is not).
_BED_BESIDE = re.compile(
    r"(?P<cue>病区|病房|住院部|[内外妇儿]科|\[病历号\][，, ]?|住(?:在)?|第)(?P<id> ?[A-Za-z]?\+?\d{1,3} ?号?床)"
    r"(?=[\s，,。；;、（(的]|$|患者|病人)"
)
_BIRTH = re.compile(
    r"(?P<cue>(?:出生日期|出生年月日?|出生时间|出生于|生日|生于|出生)(?:是|为)? *[：:]? *)"
    r"(?P<id>(?:农历|阴历|阳历)?(?:19|20)\d{2} ?[年./-] ?\d{1,2}(?: ?[月./-](?: ?\d{1,2} ?[日号]?)?)?)"
)
_BORN = re.compile(
    r"(?<!\d)(?P<id>(?:19|20)\d{2} ?[年./-] ?\d{1,2} ?[月./-](?: ?\d{1,2} ?[日号]?)?)(?P<cue> ?(?:出生|生人|生的))"
)
_PLACE = r"[\u4e00-\u9fa5A-Za-z0-9（）()\-—]"
_ADDRESS_CUED = re.compile(
    r"(?P<cue>(?:家庭住址|家庭地址|现住址|住址|联系地址|通讯地址|收货地址|户籍地址?|地址)(?:是|为)? *[：:] *)"
    rf"(?P<id>{_PLACE}{{4,60}})"
)
_HOUSE = r"(?:\d{1,5}(?:号楼|号院|号|弄|栋|幢|座|楼|单元|室|层))"
_LIVES = re.compile(
    rf"(?P<cue>(?:家住|现住|住在|居住在|家在)于?)(?P<id>{_PLACE}{{0,24}}?(?:[路街巷弄村镇乡]|小区|花园|社区){_HOUSE}{{0,4}})"
)
_VAGUE = re.compile(r"[的一这那某]|^(?:农|乡|山|小)?[村镇街乡]$|^(?:农村|乡镇|小镇|小区|社区)")
# The name of a place holds none of the words that lead up to it: "我去天津市和平路26号" keeps its "我去".
_TOWN = r"[^\W\d_A-Za-z的在于去位我到住是从到]"
_STREET = re.compile(
    rf"(?:{_TOWN}{{2,8}}[省市]){{0,2}}(?:{_TOWN}{{2,6}}[市区县镇])?{_TOWN}{{2,8}}(?:路|大街|街|大道|巷|弄|村|小区|花园)"
    rf"\d{{1,5}}(?:号|弄|栋|幢|座){_HOUSE}{{0,4}}"
)

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
    return digits[0] in "1234568" and "10X98765432"[total % 11] == digits[17].upper()


def deidentify(text: str, medical: bool = True) -> tuple[str, Counter[str]]:
    """`text` with identifiers replaced, and how many of each type. Applying it again changes nothing.

    In general-domain text (medical = False) only what reaches a person directly goes: e-mail, telephone, identity and
    account numbers. Its names, addresses and dates of birth are those of novels and encyclopedias, not of patients.
    """
    counts: Counter[str] = Counter()
    if not _MAYBE.search(text):
        return text, counts
    for kind, pattern, replace in _RULES if medical else _DIRECT:
        text = pattern.sub(_counting(kind, replace, counts), text)
    return text, counts


Replace = Callable[[re.Match[str], str], str | None]


def _counting(kind: str, replace: Replace, counts: Counter[str]) -> Callable[[re.Match[str]], str]:
    def change(match: re.Match[str]) -> str:
        new = replace(match, f"[{kind}]")
        if new is None:
            return match[0]
        counts[kind] += 1
        return new

    return change


def _whole(match: re.Match[str], mark: str) -> str:
    return mark


def _after_cue(match: re.Match[str], mark: str) -> str:
    return match["cue"] + mark


def _before_cue(match: re.Match[str], mark: str) -> str:
    return mark + match["cue"]


def _checked_identity(match: re.Match[str], mark: str) -> str | None:
    return mark if valid_identity_number(match[0]) else None


def _account(match: re.Match[str], mark: str) -> str | None:
    # "微信pay", "QQ email": an account has digits, or is what a colon introduces.
    named = any(char.isdigit() for char in match["id"]) or match["cue"].rstrip().endswith(("：", ":"))
    return match["cue"] + mark if named else None


def _doctor(match: re.Match[str], mark: str) -> str | None:
    return None if match["name"] in _NOT_ALONE else mark + match["title"]


def _lives(match: re.Match[str], mark: str) -> str | None:
    # "住在一个安全的社区" and "家住农村" tell nobody where.
    return None if _VAGUE.search(match["id"]) else match["cue"] + mark


# Order: what contains digits of another rule's shape goes first (an identity number holds a date, a record number may
# hold a phone).
_RULES: tuple[tuple[str, re.Pattern[str], Replace], ...] = (
    ("邮箱", _EMAIL, _whole),
    ("身份证号", _ID_CUED, _after_cue),
    ("身份证号", _ID18, _checked_identity),
    ("病历号", _RECORD, _after_cue),
    ("电话", _MOBILE, _whole),
    ("电话", _LANDLINE, _whole),
    ("电话", _PHONE_CUED, _after_cue),
    ("账号", _ACCOUNT, _account),
    ("床号", _BED, _after_cue),
    ("床号", _BED_BESIDE, _after_cue),
    ("出生日期", _BIRTH, _after_cue),
    ("出生日期", _BORN, _before_cue),
    ("地址", _ADDRESS_CUED, _after_cue),
    ("地址", _LIVES, _lives),
    ("地址", _STREET, _whole),
    ("姓名", _LABELLED, _after_cue),
    ("姓名", _PATIENT, _after_cue),
    ("姓名", _PATIENT_CLAUSE, _after_cue),
    ("姓名", _CALLED, _after_cue),
    ("姓名", _DOCTOR, _doctor),
)
_DIRECT = tuple(rule for rule in _RULES if rule[0] in ("邮箱", "身份证号", "电话", "账号"))
