"""De-identification of notes and consultations: what stands beside its label goes, what was done and felt stays."""

from __future__ import annotations

import json
import random

import pytest
from raw_files import jsonl, put

from qilin_lib.chimed.build import build_sets
from qilin_lib.chimed.deidentify import deidentify
from tests.helpers.personal import MAKERS, invented

# Rare surnames, given names of small words, three and four syllables, names of minorities, spaced and Latin ones.
NAMES = "张和平 安晓红 庞建国 莫晓红 柴玉兰 尚文杰 卓玛 阿依古丽 李来福 王有才 陈同生 赵其昌 李是 王由之 褚清和"
NAMES = [*NAMES.split(), "买买提·吐尔逊", "李 明", "王 小 明", "Zhang Wei", "ZHANG WEI", "Anna Maria Rossi", "欧阳娜娜"]
LABELS = "姓名 患者姓名 姓 名 联系人 紧急联系人 收件人 家属姓名 医师签名 记录者 主治医师 责任护士 术者 家属签字 委托人"
LABELS = LABELS.replace("姓 名", "姓_名").split()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("label", LABELS)
def test_a_name_beside_its_label_goes_whatever_it_is(label, name):
    label = label.replace("_", " ")
    for end in ("。", "，男，45岁", " 性别：女", "\n", "（签字）"):
        assert deidentify(f"{label}：{name}{end}")[0] == f"{label}：[姓名]{end}"


@pytest.mark.parametrize(
    "value", "不详 无 未知 性别：男 年龄：45岁 暂无 未填 保密 ______ /".split() + ["", "\n性别：女"]
)
@pytest.mark.parametrize("label", LABELS[:5])
def test_a_label_without_a_value_keeps_what_follows(label, value):
    text = f"入院登记。{label.replace('_', ' ')}：{value}\n主诉：胸痛2小时。"
    assert deidentify(text) == (text, {})


GOES = [
    ("姓名：周永和性别：男", "姓名：[姓名]性别：男"),
    ("姓名：孙立女46岁", "姓名：[姓名]女46岁"),
    ("【姓名】何其", "【姓名】[姓名]"),
    ("姓名（必填）：施由美", "姓名（必填）：[姓名]"),
    ("Name: Li Na, F, 30", "Name: [姓名], F, 30"),
    ("我是方示同博士，下午出诊", "我是[姓名]博士，下午出诊"),
    ("江博士，我夜里总做梦", "[姓名]博士，我夜里总做梦"),
    ("上周流产了张医生，今早又查了一次", "上周流产了[姓名]医生，今早又查了一次"),
    ("想问问胡医生这是什么病", "想问问[姓名]医生这是什么病"),
    ("腿一直麻王大夫我想咨询一下", "腿一直麻[姓名]大夫我想咨询一下"),
    ("谢谢您任医生，再见", "谢谢您[姓名]医生，再见"),
    ("帮我看看吧黄主任。", "帮我看看吧[姓名]主任。"),
    ("那朱主任，肝炎怎么传染", "那[姓名]主任，肝炎怎么传染"),
    ("还有范护士长，周末能换药吗", "还有[姓名]护士长，周末能换药吗"),
    ("患者林佳禾，女，8岁，弱视", "患者[姓名]，女，8岁，弱视"),
    ("隔壁病房的唐小雨已经出院了", "隔壁病房的[姓名]已经出院了"),
    ("以上情况已知晓。罗文斌 2023.4.12", "以上情况已知晓。[姓名] 2023.4.12"),
    ("手机13800 138000", "手机[电话]"),
    ("打 138 001 38000", "打 [电话]"),
    ("138-001-38000找我", "[电话]找我"),
    ("电话：1 3 8 0 0 1 3 8 0 0 0", "电话：[电话]"),
    ("１３８.００１３.８０００", "[电话]"),
    ("加薇：abc12345", "加薇：[账号]"),
    ("加v：liming1985", "加v：[账号]"),
    ("薇信 lm_1985", "薇信 [账号]"),
    ("加v信 xiaoming88", "加v信 [账号]"),
    ("身份证 1701011964091 6871 0", "身份证 [身份证号]"),
    ("170101-19640916-8710", "[身份证号]"),
    ("身份证号：1701 0119 6409 1687 10", "身份证号：[身份证号]"),
    ("出生日期：八五年三月", "出生日期：[出生日期]"),
    ("生于一九八五年三月十二日", "生于[出生日期]"),
    ("我是1985年出生", "我是[出生日期]出生"),
    ("车牌粤B12345", "车牌[车牌]"),
    ("停在楼下的沪A·D12345", "停在楼下的[车牌]"),
    ("护照号：E12345678", "护照号：[证件号]"),
    ("军官证 南字第0382216号", "军官证 [证件号]"),
    ("我的博客 https://blog.example.com/u/liming", "我的博客 [网址]"),
    ("看 weibo.com/u/1234567890", "看 [网址]"),
]


@pytest.mark.parametrize("raw, wanted", GOES)
def test_identifiers_go(raw, wanted):
    assert deidentify(raw)[0] == wanted


# Numbers behind a label that is not followed by 号, beds by ward and number, houses by estate and number.
NUMBERED = [
    ("上报人工号E00557", "上报人工号[证件号]"),
    ("民警（警号005531）陪送", "民警（警号[证件号]）陪送"),
    ("工作证No.0055-B", "工作证No.[证件号]"),
    ("passport E55500012, chest pain", "passport [证件号], chest pain"),
    ("学籍号：G380055512", "学籍号：[证件号]"),
    ("产妇（ID FC-0551）娩出胎盘", "产妇（ID [病历号]）娩出胎盘"),
    ("ID 700215，因黑便入院", "ID [病历号]，因黑便入院"),
    ("患者ID0008812", "患者ID[病历号]"),
    ("MRN 00557781", "MRN [病历号]"),
    ("病案38-550-02。", "病案[病历号]。"),
    ("病例号D-0055归档", "病例号[病历号]归档"),
    ("档案号680055-017", "档案号[病历号]"),
    ("补打化验单55003821", "补打化验单[病历号]"),
    ("冰冻编号FZ240055", "冰冻编号[病历号]"),
    ("受试者编号0103今日到访", "受试者编号[病历号]今日到访"),
    ("随机号R0173", "随机号[病历号]"),
    ("签约编号：JY-3800-55", "签约编号：[病历号]"),
    ("保单号BX-5500-000721", "保单号[账号]"),
    ("转至6217 0055 5000 1200 3", "转至[账号]"),
    ("入账 6230555000010088（本人）", "入账 [账号]（本人）"),
    ("赔付至6215-5500-0000-2281。", "赔付至[账号]。"),
    ("划入您尾号0555的账户", "划入您尾号[账号]的账户"),
    ("下单人 panda_xia0055", "下单人 [账号]"),
    ("用户名：shengming_0555", "用户名：[账号]"),
    ("住乳腺科08床", "住乳腺科[床号]"),
    ("妇科7床已签字", "妇科[床号]已签字"),
    ("高危妊娠6床第19天", "高危妊娠[床号]第19天"),
    ("换至43床。", "换至[床号]。"),
    ("脊髓2-2床，周末请假", "脊髓[床号]，周末请假"),
    ("17-2床，糖尿病", "[床号]，糖尿病"),
    ("to neuro ICU bed 7, q1h", "to neuro ICU bed [床号], q1h"),
    ("十七床术后第二天", "[床号]术后第二天"),
    ("住：开发区映月湖二期4号楼2202", "住：[地址]"),
    ("孩子接到松花里6-102", "孩子接到[地址]"),
    ("寄到丹桂公馆3-1901，", "寄到[地址]，"),
    ("收件 紫云路200号水木年华11-904", "收件 [地址]"),
    ("自措热乡塔林村骑马来", "自[地址]骑马来"),
    ("住河湾乡大柳树村东头", "住[地址]"),
    ("姓名王小明 男 1998-10-01", "姓名[姓名] 男 [出生日期]"),
]
NUMBERED += [
    ("床号：妇科18", "床号：[床号]"),
    ("床号　神外36　右侧颅骨", "床号　[床号]　右侧颅骨"),
    ("床位：内三-08", "床位：[床号]"),
    ("床号：2-31　编号：ECG0055127", "床号：[床号]　编号：[病历号]"),
    ("床位\t6\n肝", "床位\t[床号]\n肝"),
    ("ICU7 CRRT第2天", "[床号] CRRT第2天"),
    ("守在CCU-6门口", "守在[床号]门口"),
    ("（神三-19），脑桥梗死", "（[床号]），脑桥梗死"),
    ("住脊髓2-2。", "住[床号]。"),
    ("肿瘤科21-1，输血浆", "[床号]，输血浆"),
    ("21-B床 糖尿病足", "[床号] 糖尿病足"),
    ("超声号\tU0551738\t科室", "超声号\t[病历号]\t科室"),
    ("骨髓号：BM-24-0155", "骨髓号：[病历号]"),
    ("X光号5500178", "X光号[病历号]"),
    ("编号SY0055123　孕妇", "编号[病历号]　孕妇"),
    ("带B超单（编号E-5550）", "带B超单（编号[病历号]）"),
    ("附：检查US20249955", "附：检查[病历号]"),
    ("推送样本20240603-0551 已上机", "推送样本[病历号] 已上机"),
    ("学号S2155009）", "学号[证件号]）"),
    ("进修证号：JX23055", "进修证号：[证件号]"),
    ("低保证号DB0550-77", "低保证号[证件号]"),
    ("会员卡VIP0055032领取", "会员卡[账号]领取"),
    ("微信\txjg0005500\t咳嗽", "微信\t[账号]\t咳嗽"),
    ("卡号后四位5512）", "卡号后四位[账号]）"),
    ("出生日期　1949年2月30日　身份证", "出生日期　[出生日期]　身份证"),
    ("出生日期*：2019年11月20日", "出生日期*：[出生日期]"),
    ("女　1948-02-19　农民", "女　[出生日期]　农民"),
    ("住址：环江县洛阳镇永安村下屯12号　电话", "住址：[地址]　电话"),
    ("家庭住址龙潭乡下坪村上寨组23号，", "家庭住址[地址]，"),
    ("63 下坳镇加旦村加荣屯\n腰痛", "63 [地址]\n腰痛"),
    ("家住红渡镇马安村板河屯　联系人", "家住[地址]　联系人"),
]
NUMBERED_STAYS = """
国标编号12345 设备编号：SN20230088 产品批号E00557 病例3例 病例对照研究2019 标本量1500ml 化验单第2页
片长100 加3床位 共40床 开放床位120床 每床2人 维生素里6-10mg 第3-101条 血糖在6-102之间 编号1234567
尾号限行 工号牌 ID证 随机数字表 随机100例 乡镇卫生院村医 农村乡镇村级 贫困村 3-5张床 起床 十床 bedside
6217例 保险号
""".split()
NUMBERED_STAYS += [
    "剂量范围6-102 mg",
    "the bed 2 weeks",
    "ID 卡",
    "病案100例",
    "档案2019年建立",
    "呼吸20，血压120/80",
    "（胸12，腰1）",
    "入ICU3天",
    "检查2024-06-03",
    "样本2024-06-03采集",
    "女 2023-05-01就诊",
    "化验单2023年5月",
    "MRN检查",
]


@pytest.mark.parametrize("raw, wanted", NUMBERED)
def test_numbers_go_behind_the_labels_of_other_hands(raw, wanted):
    assert deidentify(raw)[0] == wanted


@pytest.mark.parametrize("text", NUMBERED_STAYS)
def test_numbers_of_things_and_measures_stay(text):
    assert deidentify(text) == (text, {})


# Names and numbers beside a label or a cue, in the forms in which people outside write them.
FORMS = [
    ("签字：（患者）牛犇 （医师）尚可", "签字：（患者）[姓名] （医师）[姓名]"),
    ("手术者：关羽 助手：张飞、赵云 麻醉师：华佗", "手术者：[姓名] 助手：[姓名]、[姓名] 麻醉师：[姓名]"),
    ("就诊人：小宝（孙一诺），3岁", "就诊人：[姓名]（[姓名]），3岁"),
    ("患者家属（儿子）刘洋签字同意手术", "患者家属（儿子）[姓名]签字同意手术"),
    ("主诉由其妻子何翠花代述", "主诉由其妻子[姓名]代述"),
    ("新生儿（王芳之子）", "新生儿（[姓名]之子）"),
    ("本人姓沈名浪", "本人姓[姓名]名[姓名]"),
    ("大名吕秀才", "大名[姓名]"),
    ("Patient: WANG Wei", "Patient: [姓名]"),
    ("Dr. Zhang Wei 建议复查", "Dr. [姓名] 建议复查"),
    ("QQ：三七八九二一零零", "QQ：[账号]"),
    ("QQ号是 12345 67890", "QQ号是 [账号]"),
    ("tel:+86-10-8765-4321 转 803", "tel:[电话] 转 803"),
    ("标本条码：100023456789", "标本条码：[病历号]"),
    ("IP地址 192.168.1.23", "IP地址 [网址]"),
    ("请问孩子叫什么名字？\n鲁小满", "请问孩子叫什么名字？\n[姓名]"),
    ("哪天出生的？\n1992.8.16", "哪天出生的？\n[出生日期]"),
    ("怎么称呼您？\n叫我小柳就行，柳青青", "怎么称呼您？\n叫我小[姓名]就行，[姓名]"),
    ("微信多少？\nlucky_star_77", "微信多少？\n[账号]"),
    ("护士：伍日换药", "护士：伍日换药"),
    ("申请医师：见签名", "申请医师：见签名"),
    ("术者：见手术记录", "术者：见手术记录"),
]


@pytest.mark.parametrize("raw, wanted", FORMS)
def test_forms_that_people_outside_write(raw, wanted):
    assert deidentify(raw)[0] == wanted


STAYS = [
    "患者于昨日因胸痛入院", "患者于凌晨因呼吸困难就诊", "患者于上周因腹泻来诊", "患者曾反复因胸闷住院",
    "患者易疲劳，食欲差", "患者易出汗，夜间为甚", "患者常失眠，多梦", "患者常腹痛，便后缓解", "患者曾手术，恢复好",
    "患者曾呕血，量少", "患者于餐后，出现上腹胀", "病人毛发稀，皮肤干", "患者高热不退，予物理降温",
    "患者温水擦浴后，体温下降", "患者时有头晕，", "患者项强，转侧不利",
    "骨折发生于2019年3月5日", "主治医生于2021年5月6日为其行阑尾切除术", "学生于2020年9月发病",
    "剂量递增400-800-1200mg/d", "剂量400-800-1200 mg", "病房共设 60床，开放 45床", "医保账户12000元",
    "输液管路2号接口", "祝医生工作顺利", "祝主任身体健康", "唐之大夫多服丹石", "古之医生，",
    "我院地址：青河市样本区白杨街87号", "医院总机：0571-55501234", "预约电话：400-810-5566",
    "咨询热线：800-810-5566", "青河市第一医院地址：样本路5号", "地址：样本市卫生健康委员会，长青路1号",
    "于某些患者而言，获益大于风险", "家属：拒绝签字", "联系人：女儿", "父亲：体健，母亲：高血压", "配偶：体健",
    "家属要求出院，签字为证", "姓名要和身份证一致", "签名后生效", "医生：您好，请讲", "患者：肚子疼",
    "谭某，女，39岁，颜面浮肿", "孙思邈医生以大医精诚闻名", "籍贯是云台青河市",
    "肺炎诊疗指南（2023年版）\n专家：王建国、李晓梅\n联系人：张丽华", "王建国、李晓梅（按姓氏笔画排序）",
    "两浙张大夫，病喘二十年，每至冬而剧，其痰白而稠，医者治之不效，乃服此方，三月而愈矣。",
    "从样本市白杨街87号人民医院转来", "内分泌科查甲功，产科查潜血", "昨日帕金森病医生出诊",
    "请翻译：Could you please speak slowly",
    "您好，我是仲景智能医学助手", "治疗者常于20岁前发病", "损伤者应减量", "（母丁香）与丁香同用", "患者易惊，夜寐不安",
    "2015年出生的儿童中患病率为3%", "详见 https://www.who.int/zh/news", "新B12缺乏", "电话随访，联系方式见首页",
]  # fmt: skip


@pytest.mark.parametrize("text", STAYS)
def test_clinical_and_public_text_stays(text):
    assert deidentify(text) == (text, {})


TURNS = [
    ("患者姓名？", "王丽娟", "[姓名]"),
    ("请问怎么称呼，姓名和年龄是多少？", "阿依古丽，35岁", "[姓名]，35岁"),
    ("身份证号发一下", "110105491231002", "[身份证号]"),
    ("怎么联系您？", "5550123，白天都在", "[电话]，白天都在"),
    ("方便留个微信号吗？", "好的，abc12345", "好的，[账号]"),
    ("住院号是多少？", "166302", "[病历号]"),
    ("孩子的出生日期？", "2015年6月1日", "[出生日期]"),
    ("家庭住址写一下", "青河市样本区白杨街", "[地址]"),
    ("患者姓名？", "不详", "不详"),
    ("患者姓名？", "好的，稍等", "好的，稍等"),
]


@pytest.mark.parametrize("asked, answer, wanted", TURNS)
def test_a_cue_in_one_turn_covers_the_next(params, tmp_path, asked, answer, wanted):
    said = ["医生您好，想咨询一下胃胀的问题。", asked, answer, "好，我记下了，请继续说您的情况。"]
    roles = ["human", "gpt"] * 2
    rows = [{"conversations": [{"from": role, "value": text} for role, text in zip(roles, said, strict=True)]}]
    raw = put(tmp_path / "raw", {"medicalgpt_sft/a.jsonl": jsonl(rows)})
    build_sets(params, raw, tmp_path / "out", progress=lambda line: None)
    (record,) = map(json.loads, (tmp_path / "out" / "sft.jsonl").read_text(encoding="utf-8").splitlines())
    assert [turn["content"] for turn in record["messages"]] == [said[0], said[1], wanted, said[3]]


@pytest.mark.parametrize("asked, answer, wanted", TURNS)
def test_a_cue_in_one_line_covers_the_next(asked, answer, wanted):
    assert deidentify(f"{asked}\n{answer}\n谢谢")[0] == f"{asked}\n{wanted}\n谢谢"


def test_no_invented_value_survives():
    left = []
    for seed in range(300):
        dice = random.Random(seed)
        for kind in MAKERS:
            value, sentence = invented(kind, dice)
            if value in deidentify(sentence)[0]:
                left.append((seed, sentence))
    assert not left
