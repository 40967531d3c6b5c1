"""Addresses down to the door, the village or the group, and what stands beside 住址. Those of institutions stay."""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, Finder, Rule, Spans, answered, by, each, group, near

# The name of a place holds none of the words that lead up to it: "我去天津市和平路26号" keeps its "我去".
_P = "(?![的在于去位我你他她到至住是从往回寄与及或被把给说您这吗呢吧但因为很就请得了着写]|自(?!贡))[\u4e00-\u9fa5]"
_P = f"(?:{_P})"
_N = r"(?:[附甲乙丙丁]?\d{1,5}|[A-Za-z]\d{0,3}|[一二三四五六七八九十]{1,3})"
_AREA = f"(?:{_P}{{2,7}}?(?:省|自治区|市|州|盟|县|区|旗|街道|镇|乡|村|社区))"
_UNITS = "(?:号院|号楼|号|弄|栋|幢|座|单元|楼|层|室|房|门|组|社|队|舍|街坊)"
_ESTATES = "(?:小区|花园|家园|苑|公寓|新村|社区|宿舍|里)"
_DOOR = f"(?:{_P}{{0,4}}?{_ESTATES}?{_N}{_UNITS})"
_END = r"(?:(?:地下室|[东西南北前后]门|[东西中]户)[A-Za-z]?\d{0,3}|\d{2,4}(?!\d|\.\d))?"
# What leads on from a door or a village to one household: "西头第三户", "往上走第三户", "后院".
_TAIL = rf"(?:{HAN}{{0,12}}?第[一二三四五六七八九十\d]{{1,3}}[家户]|后院|前院|[东西南北]头)?"
_END += _TAIL
# "松花里6-102", "水木年华11-904": a house and a flat of it.
_ESTATE_ENDS = "里苑园湾馆城庭府居庄寓村区厦轩阁华舍庐邸期"
_NO_MEASURE = r"(?![\d.]| ?(?:[mμ]?g|m?[lL]|元|次|例|之间))"
_HOUSES = rf"[{_ESTATE_ENDS}][A-Z]?\d{{1,3}}-(?:\d{{1,3}}-|[甲乙丙丁]-)?\d{{3,4}}{_NO_MEASURE}"
_ESTATE = rf"{_P}{{1,8}}?{_HOUSES}"
_ROAD = r"(?:路(?<![通尿线电思气回旁套管道]路)|街|巷|弄|大道|胡同)[东西南北中]?"
_STREET_AT = r"[路街巷弄道同区园苑寓村舍里][东西南北中]?[甲乙丙丁]?\d{1,5}[号弄院栋幢座]"
_STREET = (
    rf"(?P<id>{_AREA}{{0,6}}(?:{_P}{{1,8}}?{_ROAD}[甲乙丙丁]?\d{{1,5}}(?:号[院楼]?|弄|院)"
    rf"|(?:{_P}{{1,8}}?{_ROAD})?{_P}{{2,8}}?{_ESTATES}\d{{1,4}}(?:号楼|号院|栋|幢|座|(?:-\d{{1,4}}){{2}}))(?:{_DOOR}){{0,5}}(?:{_ESTATE}|{_END})"
    rf"|{_AREA}{{1,5}}{_P}{{1,6}}?[道里村园苑坊]\d{{1,5}}号{_DOOR}{{0,5}}{_END})"
)
_GROUP = rf"(?:{_P}{{1,4}}?|{_N})(?:组|社|队)(?![会织区])|{_N}{_UNITS}"
_RURAL_AT = rf"[县旗镇乡道]{HAN}{{0,8}}?(?:[村庄屯寨组社队]|嘎查|\d)"
_RURAL = (
    rf"(?P<id>(?:{_P}{{2,7}}?(?:省|自治区|市|州|盟|县|区|旗)){{2,4}}(?:{_P}{{1,6}}?(?:街道|镇|乡))?"
    rf"(?:{_P}{{1,6}}?(?:[庄屯寨]?村|庄|屯|寨|社区|嘎查)(?!卫生)(?:{_GROUP}){{0,4}}|(?<=[镇乡道])(?:{_GROUP}){{1,4}})"
    rf"(?:\d{{2,4}}(?!\d))?{_TAIL})"
)
_HOUSE = r"(?:第[一二三四五六七八九十\d]{1,3}[家户])"
_VILLAGE_AT = rf"[镇乡]{HAN}{{1,6}}村(?![医委级民务]|卫生)"
_VILLAGE_AT += rf"|村(?:{HAN}{{0,14}}第[一二三四五六七八九十\d]{{1,3}}[家户]|[一二三四五六七八九十\d]{{1,3}}[组社队])"
_VILLAGE = (
    rf"(?P<id>{_P}{{2,5}}[镇乡]{_P}{{1,6}}?村(?:{_N}[组社队]|[东西南北]头|{_P}{{1,4}}?屯)?(?:{HAN}{{0,14}}?{_HOUSE})?)"
)
# What leads up to an address and is no part of it: "现居".
_home = re.compile("[现新原旧]?(?:居住?|址)|老家|籍贯|户籍|家").match
_institution = re.compile(
    r"(?:医院|[我本]院|诊所|门诊部?|药[店房]|卫生院|疾控|中心|大学|学院|研究所|编辑部|出版社|协会|公司|网站地图|机构|科|委员会|政府|企业|厂)】?"
    r"(?:的?(?:地 ?址|位于|坐落于|在|设在))?[^，。；\n]{0,3}\n?(?:地址)?[：: ]{0,2}$"
    r"|(?:委员会|政府|网站地图)[，, ]{0,2}$"
).search
_hospital = re.compile("(?:的|这家|那家)?[\u4e00-\u9fa5]{0,8}(?:医院|诊所|卫生院| 邮编)|[ ，,]?邮编").match


def _home_at(anchor: str, pattern: str) -> Finder:
    """Matches of `pattern` around an anchor, without what leads up to them, but for those of institutions."""
    found = near(anchor, pattern, reach=40)

    def spans(text: str) -> Spans:
        for begin, end in found(text):
            lead = _home(text, begin)
            start = lead.end() if lead else begin
            public = _institution(text, max(0, start - 24), start) or _hospital(text, end)
            if not public and "某" not in text[start:end]:
                yield start, end

    return spans


_PLACE = r"[\u4e00-\u9fa5A-Za-z0-9（）()\-—]"
_VALUE = rf"(?P<id>{_PLACE}{{3,60}}(?:{_UNITS}|[省市区县旗镇乡村庄路街巷道院苑园厦户]|嘎查|\d))"
_HOME = "住 ?址|地 ?址|户口所在地|户籍所在地|户籍(?:地址?)?|籍贯|现居(?!住)|老家|(?<![居入])住(?=[：:])"
_LABELLED = rf"(?:{_HOME})(?:是|为|在)?(?P<sep> ?[：:]? ?){_VALUE}"
_LIVES = (
    rf"(?:家住|现住|住在|居住在|家在)于?(?P<id>(?:{_P}{{0,16}}?(?:[路街巷弄村镇乡屯]|小区|花园|社区|公寓|宿舍)){{1,4}}"
    rf"(?:\d{{1,5}}{_UNITS}){{0,4}}(?:\d{{1,4}}(?:-\d{{1,4}}){{1,3}})?(?:[东西南北]头)?{_TAIL})"
)
_vague = re.compile(r"[一某]|^(?:农|乡|山|小)?[村镇街乡]$|^(?:农村|乡镇|小镇|小区|社区)").search
_kinds = re.compile("[省市区县旗镇乡村路街巷号栋]").findall
# Whose address it is that stands behind "地址": that of a hospital is public.
_public = re.compile(
    r"(?:就诊|来院|医院|[我本][院校]|院址|诊所|门诊部?|药[店房]|卫生[院局室]?|疾控|中心|大学|学院|研究所|编辑部|出版社|协会|公司|网站|科室?|部|处|馆|查询|官方|机构"
    r"|委员会|网站地图|企业|厂)】?[^，。；\n]{0,4}\n? ?$"
).search


def _address(match: re.Match[str]) -> bool:
    start = match.start()
    if _public(match.string, max(0, start - 20), start) or re.search("委员会|政府|卫生局|医院$", match["id"]):
        return False
    # Without a colon or space behind the cue ("地址是…") it takes more to be an address than one such word.
    return len(_kinds(match["id"])) >= (1 if match["sep"] else 2)


PLACE_GROUPS = (
    # The label first: what follows it goes as a whole.
    group("址|住[：:]|所在地|籍|现居|老家", Rule("地址", by(_LABELLED, _address))),
    group(
        each("路街巷弄道同区园苑寓村舍里", _STREET_AT.partition("]")[2]), Rule("地址", _home_at(_STREET_AT, _STREET))
    ),
    group(each("县旗镇乡道", _RURAL_AT.partition("]")[2]), Rule("地址", _home_at(_RURAL_AT, _RURAL))),
    group("村", Rule("地址", _home_at(_VILLAGE_AT, _VILLAGE))),
    group(
        each(_ESTATE_ENDS, r"[A-Z]?\d{1,3}-"),
        Rule("地址", _home_at(_HOUSES, f"(?P<id>{_ESTATE})")),
    ),
    group(
        "址|家住|现住|住在|家在|住哪",
        # "住在一个安全的社区" and "家住农村" tell nobody where.
        Rule("地址", by(_LIVES, lambda match: not _vague(match["id"]))),
        Rule("地址", answered("住址|地址|住哪|住在哪", _VALUE, lambda match: len(_kinds(match["id"])) >= 2)),
    ),
)
