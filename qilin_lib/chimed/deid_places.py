"""Addresses down to the door, the village or the group, and what stands beside 住址. Those of institutions stay."""

from __future__ import annotations

import re

from qilin_lib.chimed.deid_base import HAN, Finder, Rule, Spans, answered, by, each, group, near

_HAN = "[\u3400-\u9fa5]"
# The name of a place holds none of the words that lead up to it: "我去天津市和平路26号" keeps its "我去".
# But 回民区, 从化, 于洪, 无为, 得荣, 自贡 and what is autonomous hold one.
_LEADS = "[的在去位我你他她到至住是往寄与及或被把给说您这吗呢吧但因很就请了着写系]|自(?![贡治流])|回(?![民族龙])"
_LEADS += "|从(?![化江])|于(?![洪都田])|为(?![市县])|得(?!荣)"
_P = f"(?:(?!{_LEADS}){_HAN})"
# Behind a first level a name may hold some of them: "昌平区回龙观", "上思县在妙镇".
_Q = f"(?:(?![的住是我你他她把给说您吗呢吧但因为很就请了患诊某病症痛]|[药医科]院|出现|入院|发热){_HAN})"
_CN = "[一二三四五六七八九十]"
_N = rf"(?:[附甲乙丙丁副]?\d{{1,5}}|[甲乙丙丁]|[A-Za-z]\d{{0,3}}|{_CN}{{1,3}})"
_STATES = "省|自治区|市|州|盟|县|区|旗"
_TOWNS = "街道|镇|乡|[农林]场"
_LEVEL = f"(?:{_STATES}|{_TOWNS})"
_AREA = f"(?>{_P}{{2,7}}?(?:{_STATES}|{_TOWNS}|村|社区))"
_UNITS = "(?:号院|号楼|号|支?弄|栋|幢|座|单元|楼|层阁?|室|房|门|组|社|队|舍|排|街坊)"
_ESTATES = "(?:小区|花园|家园|苑|公寓|新村|社区|宿舍|家属[院区楼]|里)"
_DOOR = rf"(?:{_P}{{0,4}}?{_ESTATES}?{_N}{_UNITS})"
_NO_MEASURE = r"(?![\d.]| ?(?:[mμ]?g|m?[lL]|元|次|例|之间))"
# What leads on from a door or a village to one household: "西头第三户", "往上走第三户", "后院".
_TAIL = (
    rf"(?:{HAN}{{0,12}}?第[一二三四五六七八九十\d]{{1,3}}[家户]|[东西南北前后]?门?往?[东西南北]?第{_CN}[栋幢排]"
    rf"|[前后][院楼]|亭子间|三层阁|顶楼|架空层|[东西南北村路街巷][头尾口]|{_Q}{{0,5}}?(?:[后对]面|院内|旁(?!边)))?"
)
_END = (
    rf"(?:之[一二三四五六七八九十\d]{{1,2}})?(?:(?:地下室|[东西南北前后]门|[东西中]户)[A-Za-z]?\d{{0,3}}"
    rf"|(?:\d{{1,2}}-){{1,2}}\d{{1,4}}|(?:梯\d ?|-)?[A-Z]?\d{{2,4}}(?!\d|\.\d)[A-F室房户]?|-\d)?{_TAIL}"
)
# "松花里6-102", "水木年华11-904": a house and a flat of it.
_ESTATE_ENDS = "里苑园湾馆城庭府居庄寓村区厦轩阁华舍庐邸期"
_HOUSES = rf"[{_ESTATE_ENDS}][A-Z]?\d{{1,3}}-(?:\d{{1,3}}-|[甲乙丙丁]-)?\d{{3,4}}{_NO_MEASURE}"
_ESTATE = rf"{_AREA}{{0,4}}(?:{_P}|\d(?=期)){{1,8}}?{_HOUSES}"
_ROAD = rf"(?:路(?<![通尿线电思气回旁套管道]路)|街|巷|弄|大道|胡同)(?:[东西南北中]|[东西南北中]?{_CN}?段)?"
# A part of an estate: "二期", "东四区", "B区".
_PART = rf"(?:(?:[东西南北中]?{_CN}|[A-Z\d]{{1,2}}|[东西南北中])[期区])"
_STREET_ENDS = "路街巷弄道同区园苑寓村舍里段居期湾郡府庭轩阁墅"
_STREET_AT = r"[东西南北中]?(?:[甲乙丙丁附副]?\d{1,5}|[A-Z])[号弄院栋幢座排]"
# Two levels or more go as a whole, whatever stands between them and the last door.
_IN = "[村镇乡委屯庄寨道场队]"
_DOORS = (
    r"(?:[附副]?\d{1,5}(?:号[楼院]?|弄|栋|幢|座|单元|连|排|楼(?=\d)"
    rf"|(?<={_IN}\d)[组社队]|(?<={_IN}\d\d)[组社队])"
    rf"|[A-Z]?\d{{1,3}}-\d{{1,3}}-\d{{3,4}}{_NO_MEASURE}|[A-Z][座栋幢]|{_CN}(?:号楼|[栋幢巷]))"
)
_DEEP_AT = rf"[市州县区旗镇乡道团](?:{_HAN}|[A-Z\d]){{2,18}}?{_DOORS}"
_DEEP = rf"(?P<id>{_AREA}{{1,5}}(?:{_Q}|[A-Za-z\d]){{2,30}}?{_DOORS}(?:{_Q}{{0,10}}?{_N}{_UNITS}){{0,6}}{_END})"
# A house and a door of it, without the street.
_DOOR_PAIR = (
    r"(?<![\dA-Za-z.院部科楼])(?P<id>\d{1,4}(?:号楼?|[栋幢座])\d{1,3}(?:栋|幢|单元|门(?!诊))(?:\d{2,4}[室户]?)?)"
)
# Of the Xinjiang corps: division, regiment, company.
_CORPS_AT = r"师[〇零一二三四五六七八九十\d]{1,4}团"
_CORPS = rf"(?P<id>[农第]?{_CN}{{1,3}}{_CORPS_AT}{HAN}{{0,4}}?(?:\d{{1,2}}|{_CN}{{1,3}})连)"
_STREET = (
    rf"(?P<id>{_AREA}{{0,6}}(?:{_P}{{1,8}}?{_ROAD}[甲乙丙丁附副]?\d{{1,5}}(?:号[院楼]?|弄|院)"
    rf"|(?:{_P}{{1,8}}?{_ROAD})?{_P}{{2,8}}?(?:{_ESTATES}{_PART}?|居{_PART}|[湾郡府庭轩阁墅])(?:[A-Z]|\d{{1,4}})"
    rf"(?:号楼|号院|栋|幢|座|排|(?:-\d{{1,4}}){{2}})|{_P}{{2,4}}?村\d{{1,4}}号院?)"
    rf"(?:{_DOOR}){{0,5}}(?:{_ESTATE}|{_END}))"
)
_GROUP = rf"(?:{_P}{{1,4}}?|{_N})(?:组|社|队|屯|寨|庄台?)(?![会织区])|{_N}{_UNITS}"
_RURAL_AT = rf"[县旗镇乡道场]{_HAN}{{0,8}}?(?:[村庄屯寨组社队区]|嘎查|\d)"
_RURAL = (
    rf"(?P<id>(?>{_P}{{2,7}}?{_LEVEL})(?>{_Q}{{1,7}}?{_LEVEL}){{1,4}}"
    rf"(?:{_Q}{{1,6}}?(?:[庄屯寨]?村|庄|屯|寨|社区|嘎查|工区)(?!卫生)(?:{_GROUP}){{0,4}}|(?<=[镇乡道场])(?:{_GROUP}){{1,4}})"
    rf"(?:\d{{2,4}}(?!\d))?{_TAIL})"
)
_HOUSE = r"(?:第[一二三四五六七八九十\d]{1,3}[家户])"
_VILLAGE_AT = rf"[镇乡]{HAN}{{1,6}}村(?![医委级民务]|卫生)"
_VILLAGE_AT += rf"|村(?:{HAN}{{0,14}}第[一二三四五六七八九十\d]{{1,3}}[家户]|[一二三四五六七八九十\d]{{1,3}}[组社队])"
_VILLAGE = (
    rf"(?P<id>{_P}{{2,5}}[镇乡]{_P}{{1,6}}?村(?:{_N}[组社队]|[东西南北]头|{_P}{{1,4}}?屯)?(?:{HAN}{{0,14}}?{_HOUSE})?)"
)
# What leads up to an address and is no part of it: "现居".
_home = re.compile("[现新原旧]?(?:居住?|址)|老家|籍贯|户[籍口]|家").match
_institution = re.compile(
    r"(?:医院|[我本]院|院区[)）]?|店[)）]?|诊所|门诊部?|药[店房]|卫生院|疾控|中心|大学|学院|研究所|编辑部|出版社|协会|公司|网站地图|机构|科|委员会|政府|企业|厂)】?"
    r"(?:的?(?:地 ?址|位于|坐落于|在|设在))?[^，。；\n]{0,3}\n?(?:地址)?[：: ]{0,2}$"
    r"|(?:委员会|政府|网站地图)[，, ]{0,2}$|(?:[店院区楼厅厦]|大厦[^，。；\n]{0,3})[(（]$|(?<!家)(?:位|坐落)于$"
    r"|(?:医院|药业|服务[站中]心?|卫生[院室站]|药[店房]|配送)[，,]$|(?:[站局馆会]|献血屋|卫生室|(?:采样|监测|接种|义诊地|会议地)点?|派出所|持有人|药业)(?:地[址点])?[：:(（]$"
).search
_hospital = re.compile(f"(?:的|这家|那家)?{HAN}{{0,8}}(?:医院|诊所|卫生院)|[ ，,(（]?(?:公交|地铁|乘车)").match
_postcode = re.compile("[ ，,]?邮编").match


def _home_at(anchor: str, pattern: str) -> Finder:
    """Matches of `pattern` around an anchor, without what leads up to them, but for those of institutions."""
    found = near(anchor, pattern, reach=40)

    def spans(text: str) -> Spans:
        for begin, end in found(text):
            lead = _home(text, begin)
            start = lead.end() if lead else begin
            public = _institution(text, max(0, start - 24), start) or _hospital(text, end) or _postcode(text, end)
            if not public and "某" not in text[start:end]:
                yield start, end

    return spans


_PLACE = r"[\u4e00-\u9fa5A-Za-z0-9（）()\-—]"
_VALUE = (
    rf"(?P<id>{_PLACE}{{3,60}}(?:{_UNITS}|[省市区县旗镇乡村庄路街巷道院苑园厦户]|嘎查|\d[A-F]?"
    r"|(?<=[路街巷村])[头尾口]|庄台|租屋)(?:(?<=梯\d) \d{3,4})?)"
)
_HOME = "住 ?址|地 ?址|户口所在地|户籍所在地|户籍(?:地址?)?|籍贯|现居(?!住)|老家|(?<![居入])住(?=[：:])"
_LABELLED = rf"(?:{_HOME})(?:是|为|在)?(?P<sep> ?[：:]? ?){_VALUE}"
# Behind a word for living or sending a run of names goes up to its last level, house or flat.
_LED_BY = f"(?:[于在到至往给达回]|其|本市|[：:]){{0,2}}? ?(?={_P}{{1,8}}[省市州县区旗镇乡村街路道场湾期苑园院庄])"
_LED_AT = f"住(?<![入收护留]住)(?![院着过进宿址]){_LED_BY}|回(?<=[已返]回){_LED_BY}|" + each(
    "居家搬寄邮递送达址", _LED_BY
)
_LED_AT += f"|点(?<=现场地点|接诊地点|出诊地点|上门地点|访视地点){_LED_BY}"
_LED_TO = (
    r"(?:[省市州县区旗镇乡村屯寨社组队里弄巷路街道苑庭院楼座栋幢号元室户连湾垸]|\d门|庄台?|[农林]场|花园|家园|公寓|宿舍|嘎查|平房|租[房屋]"
    r"|(?<=[路街巷村口])[头尾口]|\d{1,3}-\d{3,4})"
)
_LED = rf"(?:{_LED_AT})(?P<id>{_P}(?:{_Q}|[A-Za-z\d-]){{2,45}}{_LED_TO}{_END})"
_LIVES = (
    rf"(?:家住|现住|住在|居住在|家在)于?(?P<id>(?:{_P}{{0,16}}?(?:[路街巷弄村镇乡屯]|小区|花园|社区|公寓|宿舍)){{1,4}}"
    rf"(?:\d{{1,5}}{_UNITS}){{0,4}}(?:\d{{1,4}}(?:-\d{{1,4}}){{1,3}})?(?:[东西南北]头)?{_TAIL})"
)
_vague = re.compile(r"[一某]|^(?:农|乡|山|小)?[村镇街乡]$|^(?:农村|乡镇|小镇|小区|社区)").search
_kinds = re.compile("[省市区县旗镇乡村路街巷号栋]").findall
# Whose address it is that stands behind "地址": that of a hospital is public.
_public = re.compile(
    r"(?:就诊|来院|医院|[我本][院校]|院[址区]|店[)）]?|诊所|门诊部?|药[店房]|卫生[院局室]?|疾控|中心|大学|学院|研究所|编辑部|出版社|协会|公司|网站|科室?|部|处|馆|查询|官方|机构"
    r"|委员会|网站地图|企业|厂|血站|局|药业|持有人)】?[^，。；\n]{0,4}\n? ?$"
).search


def _address(match: re.Match[str]) -> bool:
    start = match.start()
    public = _public(match.string, max(0, start - 20), start) or _hospital(match.string, match.end())
    if public or re.search("委员会|政府|卫生局|医院$|公交|地铁|药[店房]", match["id"]):
        return False
    # Without a colon or space behind the cue ("地址是…") it takes more to be an address than one such word.
    return len(_kinds(match["id"])) >= (1 if match["sep"] else 2)


_public_place = re.compile("医院|卫生|门诊|病[区房]|[内外儿产妇]科|诊所|中心|窗口|药[店房]").search
_levels = re.compile(
    "省|市|县|区|旗|镇|乡|村|路|街|巷|大道|弄|号|栋|幢|座|单元|屯|组|苑|里|[农林]场|小区|花园|家园|公寓|宿舍|家属|养老院|\\d[楼房]|\\d-\\d"
).findall


def _led(match: re.Match[str]) -> bool:
    start = match.start()
    if match[0][0] == "址" and _public(match.string, max(0, start - 20), start) or _hospital(match.string, match.end()):
        return False
    levels = set(_levels(match["id"]))
    # A mere province, city or county stays.
    return len(levels) > 1 and not levels <= set("省市县区旗") and not _public_place(match["id"])


PLACE_GROUPS = (
    # The label first: what follows it goes as a whole.
    group("址|住[：:]|所在地|籍|现居|老家", Rule("地址", by(_LABELLED, _address))),
    group(_LED_AT, Rule("地址", by(_LED, _led))),
    group(_CORPS_AT, Rule("地址", by(_CORPS))),
    group(each("市州县区旗镇乡道团", _DEEP_AT.partition("]")[2]), Rule("地址", _home_at(_DEEP_AT, _DEEP))),
    group(
        each(_STREET_ENDS, _STREET_AT),
        Rule("地址", _home_at(f"[{_STREET_ENDS}]{_STREET_AT}", _STREET)),
    ),
    group(each("县旗镇乡道场", _RURAL_AT.partition("]")[2]), Rule("地址", _home_at(_RURAL_AT, _RURAL))),
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
    group(each("号栋幢座", r"楼?\d{1,3}(?:栋|幢|单元|门)"), Rule("地址", by(_DOOR_PAIR))),
)
