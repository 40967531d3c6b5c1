"""What must go, what must stay. Identity numbers here have a valid check digit and an area code that does not exist."""

from __future__ import annotations

import time
from collections import Counter
from unicodedata import normalize

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qilin_lib.chimed.deid_model import odds
from qilin_lib.chimed.deid_numbers import valid_identity_number
from qilin_lib.chimed.deid_score import labelled_cases
from qilin_lib.chimed.deidentify import GROUPS, deidentify, deidentify_all, find
from tests.helpers.personal import check_digit

GOES = [
    ("打我电话13912345678吧", "打我电话[电话]吧"),
    ("手机号：139-1234-5678", "手机号：[电话]"),
    ("手机139 1234 5678", "手机[电话]"),
    ("+86 13912345678", "[电话]"),
    ("(021)65432100", "[电话]"),
    ("联系方式：65432100", "联系方式：[电话]"),
    ("身份证号170101196409168710", "身份证号[身份证号]"),
    ("证件570307200501252416。", "证件[身份证号]。"),
    ("身份证：110105491231002", "身份证：[身份证号]"),
    ("发到wen.yi-7@example.com谢谢", "发到[邮箱]谢谢"),
    ("邮箱a_b@mail.example.com.cn", "邮箱[邮箱]"),
    ("加我QQ：9999027436", "加我QQ：[账号]"),
    ("qq号9999027436", "qq号[账号]"),
    ("微信号：yangben_35", "微信号：[账号]"),
    ("vx abc12345", "vx [账号]"),
    ("加微信yangben_3519发图", "加微信[账号]发图"),
    ("银行卡号6222021234567890123", "银行卡号[账号]"),
    ("住院号：ZY20230012", "住院号：[病历号]"),
    ("门诊号123456", "门诊号[病历号]"),
    ("病理号：B-20231", "病理号：[病历号]"),
    ("床号：12", "床号：[床号]"),
    ("住在内科12床，", "住在内科[床号]，"),
    ("住院号：166302，12床。", "住院号：[病历号]，[床号]。"),
    ("出生日期：1985-03-04", "出生日期：[出生日期]"),
    ("我是1991年8月5日出生的", "我是[出生日期]出生的"),
    ("生于1985年3月", "生于[出生日期]"),
    ("生日：1959.10.25", "生日：[出生日期]"),
    ("家庭住址：云山省青河市样本区白杨街162号14栋521室", "家庭住址：[地址]"),
    ("家住望潮市样本区青石路188号14栋1556室", "家住[地址]"),
    ("我在青河市示例区听雨巷64号1栋等你", "我在[地址]等你"),
    ("地址: 青河市青石路2号", "地址: [地址]"),
    ("我叫王小明，今年三岁", "我叫[姓名]，今年三岁"),
    ("患者姓名：冯思远。", "患者姓名：[姓名]。"),
    ("姓名：欧阳静 性别：女", "姓名：[姓名] 性别：女"),
    ("患者李建国，男，54岁", "患者[姓名]，男，54岁"),
    ("病人赵念慈 女 30岁", "病人[姓名] 女 30岁"),
    ("患者孙怀瑾，情况就是这样", "患者[姓名]，情况就是这样"),
    ("请问李医生", "请问[姓名]医生"),
    ("谢谢刘大夫", "谢谢[姓名]大夫"),
    ("上次是钱云帆医生看的", "上次是[姓名]医生看的"),
    ("主治医生：赵子衿，他", "主治医生：[姓名]，他"),
    ("陈主任您好", "[姓名]主任您好"),
    ("找张伟主任医师", "找[姓名]主任医师"),
    ("家属电话0571-87654321/87654322。", "家属电话[电话]/[电话]。"),
    ("联系电话：010-62345678、62345679", "联系电话：[电话]、[电话]"),
    ("加我q信：zhangsan888", "加我q信：[账号]"),
    ("几床？\n12", "几床？\n[床号]"),
    ("家住杭州市西湖区文三路", "家住[地址]"),
]

STAYS = [
    "科室010-68792114转3",
    "热线400-820-8820",
    "电话：4000322310",
    "2019年4月3日手术，4月10日拆线",
    "头孢呋辛0.25g每日2次，共14天",
    "血红蛋白128g/L，血小板230×10^9/L",
    "ICD-10编码J45.901",
    "国药准字H20123456",
    "病毒载量 13800000000 copies/ml",
    "HBV DNA 1.3912345678E+7",
    "对方医生说没事",
    "周围医生都忙",
    "请问医生怎么办",
    "请高级医生看看",
    "任何医生都可以",
    "高血压医生怎么说",
    "患者高血压，男，60岁",
    "患者黄疸，男，50岁",
    "和医生商量",
    "向医生咨询",
    "费用和医生的建议",
    "康复医生",
    "许多医生",
    "任教授不任教授",
    "家住农村，住在一个安全的社区",
    "住在医院里",
    "微信支付很方便",
    "QQ音乐",
    "卧床3天",
    "1床棉被",
    "12床位",
    "生日快乐",
    "出生时体重3.2kg",
    "每次5床",
    "体温37.5-38.5℃",
    "血压120-80",
    "房颤患者，男，60岁",
    "身高172cm体重65kg编号1234567",
    "2020-03-25填写",
    "按压合谷穴",
    "3号楼有电梯",
    "内科医生",
    "胃镜10-20分钟",
]


# Clinical expressions, none of which may change.
CLINICAL = [
    "阿司匹林肠溶片100mg qd po",
    "0.9%氯化钠注射液500ml+青霉素G钠640万U ivgtt q8h",
    "多西他赛75mg/m2 d1，卡铂AUC5 d1，q3w",
    "WBC 12.5×10^9/L，N% 82.3%",
    "HGB 92g/L，MCV 68fl，MCH 21pg",
    "NT-proBNP 13825.7pg/ml",
    "HBV-DNA 1.38×10^8 IU/ml",
    "HCV RNA 13500000000 IU/mL",
    "β-hCG 135000.00mIU/ml",
    "肌酐13812345umol/L",
    "CD4 350/ul，病毒载量15000000000copies/ml",
    "ICD-10：E11.900x001，I10.x00x002",
    "国药准字Z20123456，国药准字H10983075",
    "国械注准20193070123",
    "批号20230511，有效期至20250510",
    "血压138/86-150/95mmHg",
    "心率76-139次/分",
    "体温38.5-39.2℃，3-4天",
    "2023年5月3日入院，2023年5月10日出院",
    "末次月经2023-03-02，预产期2023-12-09",
    "LMP 20230302，孕12+3周",
    "2021.03.04行第3周期化疗",
    "右肺上叶结节13×9mm（Se3,Im139）",
    "pT2N1M0，ⅡB期",
    "Gleason评分4+3=7，PSA 138.01ng/ml",
    "TI-RADS 4a类，BI-RADS 3类",
    "GCS 15分（E4V5M6）",
    "血气：pH 7.35，PCO2 45mmHg，PO2 86mmHg",
    "NCT01234567",
    "ChiCTR2000029308",
    "登记号NCT04321096的试验",
    "PMID：31234567",
    "ISBN 9787117123456",
    "EGFR 19外显子缺失（c.2235_2249del）",
    "chr7:140453136 A>T",
    "染色体46,XY,t(9;22)(q34;q11)",
    "CAS 50-78-2，分子量180.16",
    "每次2片，一日3次，连服14天",
    "用药剂量400-800mg，疗程6-8周",
    "视力4.8/4.9，眼压15-21mmHg",
    "卧床3天，1床棉被，开放病床120张",
    "临床2期试验，第1床次",
    "取穴：足三里、三阴交、太冲，留针20-30分钟",
    "白细胞、高血压、黄疸、房颤、金黄色葡萄球菌",
    "张仲景《伤寒论》桂枝汤，李时珍《本草纲目》",
    "唐氏筛查1/1380",
    "帕金森病、阿尔茨海默病、桥本甲状腺炎",
    "条码6901234567892",
    "样本量13500例，随访2015-2020年",
    "信号通路PI3K/AKT，3号染色体",
]

# Cue words, identifiers, placeholders and small words, to be strung together at random.
PIECES = [
    *(piece for pair in GOES for piece in (pair[0], pair[1])),
    *"电话 手机 微信 QQ 身份证 住院号 床号 出生 生日 地址： 家住 姓名： 患者 我叫 医生 大夫 主任 王 李小明".split(),
    *"13912345678 5550123 010-55501234 12床 8号 1985-03-04 [电话] [姓名] [地址] [床号] 谢谢 请 的".split(),
    *"[ 。 ， / 、 1 86 女 ，男 岁 a@b.cc".split(),
    *"云山省 青河市 示例区 白杨街 1号 2栋 杨家村 3组 曰 先生 100200300 abc_1 \n".split(" "),
    "\ue000",
]


@pytest.mark.parametrize("raw, wanted", GOES)
def test_identifiers_go(raw, wanted):
    text, counts = deidentify(raw)
    assert text == wanted and counts.total() == wanted.count("[")


@pytest.mark.parametrize("text", [*STAYS, *CLINICAL])
def test_clinical_and_everyday_text_stays(text):
    assert deidentify(text) == (text, {})


@pytest.mark.parametrize("text", [case.text for case in labelled_cases("tune") if not case.spans])
def test_hard_negatives_stay(text):
    assert deidentify(text) == (text, {})


@example("王电话证件570307200501252416。王电话王", True)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
def test_twice_changes_nothing(raw, medical):
    text, _ = deidentify(raw, medical)
    assert deidentify(text, medical) == (text, {})


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=12).map("".join), st.booleans())
def test_the_text_is_what_find_finds(raw, medical):
    spans = find(raw, medical)
    text, counts = deidentify(raw, medical)
    borders = [place for start, end, _ in spans for place in (start, end)]
    assert borders == sorted(borders) and all(start < end <= len(raw) for start, end, _ in spans)
    for start, end, kind in reversed(spans):
        raw = f"{raw[:start]}[{kind}]{raw[end:]}"
    assert text == raw and counts == Counter(kind for *_, kind in spans)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.rules[0].kind)
def test_a_text_without_a_hint_has_no_match(group):
    # The rules see full-width digits and letters as plain ones.
    texts = [
        normalize("NFKC", text) for text in (*(raw for raw, _ in GOES), *(case.text for case in labelled_cases("tune")))
    ]
    assert not [
        text for text in texts if not group.search(text) and any(list(rule.spans(text)) for rule in group.rules)
    ]


REPEATED = (
    "姓名： 姓名\n 身份证\n 1- http:// www. 粤B 一三 ，男， （妻） 微信a QQ1 医保号1- 出生 王·王 "
    "Zhang_ 病人： [姓名]、王明 "
    "，王明[电话] 镇村 名下 住址： 陈述者 "
    "区 村 路1号 区路1号 1床 王 13 0 地址：区 a@a. 患者王 号1 王医生 姓名王明 /5550123 电话5550123/5550124".split()
)


@pytest.mark.parametrize("bit", REPEATED)
def test_long_repetitions_take_no_long_time(bit):
    start = time.process_time()
    deidentify(bit * (40_000 // len(bit)))
    assert time.process_time() - start < 5


def test_a_number_without_cue_needs_its_check_digit():
    assert valid_identity_number("570307200501252416") and not valid_identity_number("570307200501252417")
    assert not valid_identity_number("570307200513252416")
    seventeen = ("97030720050125241", "07030720050125241")
    assert [valid_identity_number(digits + check_digit(digits)) for digits in seventeen] == [True, False]
    assert deidentify("编号570307200501252417")[1] == {}


def test_counts_by_type():
    _, counts = deidentify("我叫王小明，电话13912345678或13987654321，请李医生回复。")
    assert counts == {"姓名": 2, "电话": 2}


def test_general_text_keeps_public_people():
    text = "出生于1926年6月1日的演员，地址：北京市东城区景山前街4号，杨教授"
    assert deidentify(text, medical=False) == (text, {})
    assert deidentify("写信到a@example.com", medical=False)[0] == "写信到[邮箱]"


@pytest.mark.parametrize(
    "text, name, reads",
    [
        ("患者何时雨因", "何时雨", True),
        ("家属查小暖要求", "查小暖", True),
        ("患者易疲劳，", "易疲劳", False),
        ("病人于昨日因", "于昨日", False),
    ],
)
def test_a_name_reads_better_as_one_than_as_words(text, name, reads):
    start = text.index(name)
    assert (odds(text, start, start + len(name)) > -1) == reads


@pytest.mark.parametrize(
    ("texts", "gone"),
    [
        (["电话：647-717-5780，下午在。", "请通过647-717-5780与我联系。"], "5780"),
        (["姓名：褚清和", "后来褚清和又来问过一次剂量。"], "褚清和"),
        (["微信：lm_1985a", "上次那个lm_1985a没有通过。"], "1985"),
    ],
)
def test_a_value_goes_wherever_it_stands_in_its_record(texts: list[str], gone: str) -> None:
    assert gone not in "".join(deidentify_all(texts)[0])


def test_a_short_name_that_is_a_word_stays_a_word_elsewhere() -> None:
    texts, _ = deidentify_all(["姓名：高兴", "家属对疗效很高兴。"])
    assert texts == ["姓名：[姓名]", "家属对疗效很高兴。"]
