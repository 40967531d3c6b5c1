"""Books, guidelines, prose and knowledge graphs: what a reader makes of hand-written files."""

from __future__ import annotations

import json

import pytest

from qilin_lib.chimed.readers import exam, kg, text
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.records import Disease, Passage


def read(reader, content, file="f.json"):
    """(line, payload or rejection reason) of each unit."""
    if not isinstance(content, str):
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
    return [(line, getattr(one, "reason", one)) for line, one in reader(file, Stream.of(content))]


HEADER39 = "name,alias,infection,symptom,checklist,treatment,drug,rate,money,,,\n"


def health39(*rows):
    cells = HEADER39.count(",") + 1
    return read(kg.health39, HEADER39 + "".join(",".join(row + [""] * (cells - len(row))) + "\n" for row in rows))


def test_39health_cells_are_split_where_the_site_separates_outside_brackets_and_what_it_cut_off_is_not_stated():
    alias = '"赤(扁)虫病,SLE, 狼疮，第3、4对咽囊综合征、阴癣;ovarian tumor；战栗 鼓栗；"'
    symptom = "三怕(水声、光、风)现象 杵状指（趾） 单纯疱疹病毒（HSV 1） 发热伴咳... 结核菌素试验（OT [详细]"
    checks = "肝、胆、脾CT 肝、胆、胰、脾MRI 核磁共振成像(... 耳、鼻、咽拭..."
    treatment = '"药物治疗、手术治疗（洗胃、催吐）， 支持治疗；一旦发生立..."'
    drugs, rate, money = "西地那非... 他达拉非片 [详细]", "暂无相关资料", "约（5000元）;"
    ((_, found),) = health39(["甲病 [详细]", alias, "", f'"{symptom}"', checks, treatment, drugs, rate, money])
    assert found == Disease(
        "甲病",
        (
            ("别名", ("赤(扁)虫病", "SLE", "狼疮", "第3、4对咽囊综合征", "阴癣", "ovarian tumor", "战栗", "鼓栗")),
            ("症状", ("三怕(水声、光、风)现象", "杵状指（趾）", "单纯疱疹病毒（HSV 1）", "结核菌素试验")),
            ("检查", ("肝、胆、脾CT", "肝、胆、胰、脾MRI", "核磁共振成像")),
            ("治疗方法", ("药物治疗", "手术治疗（洗胃、催吐）", "支持治疗")),
            ("常用药物", ("他达拉非片",)),
            ("治疗费用", ("约（5000元）",)),
        ),
    )


@pytest.mark.parametrize("name", ["甲状腺功能亢...", "甲状腺功能亢…", " 强直性... [详细]", "克汀（呆小..."])
def test_a_disease_whose_name_is_cut_is_rejected_by_name(name):
    assert health39([name, "", "", "心悸"]) == [(2, "cut name")]
    assert read(kg.xywy, [{"name": name, "cause": "不明"}]) == [(1, "cut name")]
    assert read(kg.cpubmed, f"{name.removesuffix(' [详细]')}@@疾病\t症状\t喘\n", "a.txt") == [(1, "cut name")]


def test_a_shifted_row_is_rejected_by_name():
    shifted = "2-10天,,,成人,无传染性,,内科,颅脑CT,头痛 沮丧,示例面痛病,,\n"
    found = read(kg.health39, HEADER39 + shifted + "甲病,,,咳嗽,,,,,,,,\n")
    assert [what for _, what in found] == ["shifted row", Disease("甲病", (("症状", ("咳嗽",)),))]
    assert read(exam.cmmlu, ",Question,A,B,C,D,Answer\n0,题,甲,乙,丙,丁,A\n")[0][1].question == "题"


def test_values_of_nested_lists_are_stated():
    row = {"name": "甲病", "symptom": [["咳", ["喘"]], "热"], "check": [["胸片"]]}
    wanted = Disease("甲病", (("症状", ("咳", "喘", "热")), ("检查", ("胸片",))))
    assert read(kg.xywy, [row]) == [(1, wanted)]


def test_fields_of_a_graph_that_nothing_uses_are_named_once():
    rows = [
        {"name": "甲病", "cause": "敏", "drug_detail": ["x"], "_id": {}},
        {"name": "乙病", "cause": "敏", "symptoms": []},
    ]
    *records, (line, note) = kg.xywy("m.json", Stream.of("\n".join(json.dumps(row) for row in rows)))
    assert len(records) == 2 and all(isinstance(record, Disease) for _, record in records)
    assert (line, note.reason, note.detail) == (0, "fields not used", "drug_detail, symptoms")
    *_, (line, note) = kg.health39("d.csv", Stream.of("name,symptom,nursing\n甲病,咳,卧床\n"))
    assert (line, note.reason, note.detail) == (0, "fields not used", "nursing")


def test_textbook_sections_are_unwrapped():
    wrapped = "内容：《记》曰医不三世不服其药郑康成曰慎物齐也孔冲远引旧说云 \n三世者，一曰《黄帝针灸》。\n<目录>\n"
    book = f"<篇名>本草\n书名：本草\n作者：某\n<目录>\n<篇名>邵序\n{wrapped}<篇名>上品\n属性：甘平。\n"
    joined = wrapped.removeprefix("内容：").replace(" \n", "").removesuffix("\n<目录>\n")
    wanted = [(6, Passage("《本草》邵序", joined)), (10, Passage("《本草》上品", "甘平。"))]
    assert read(text.textbook, book, "d/000-本草.txt") == wanted


@pytest.mark.parametrize(
    "before, behind, between",
    [
        ("an angiotensin", "receptor", " "),
        ("fell by 10", "mm Hg", " "),
        ("hypertension,", "and", " "),
        ("hypertension", "(see below)", " "),
        ("heart failure of grade", "3", " "),
        ("阿托伐他汀", "calcium", ""),
        ("atorvastatin", "钙片", ""),
        ("首剂量为1", "00mg", ""),
        ("维生素B", "12", ""),
        ("long-", "term", ""),
    ],
)
def test_words_of_a_wrapped_sentence_are_not_glued(before, behind, between):
    wrapped = f"成人原发性高血压患者在生活方式干预的基础上可以使用如下药物：{before}\n{behind}连用四周。"
    assert guideline(wrapped) == wrapped.replace("\n", between)


def test_a_book_in_english_is_cut_at_its_sentences():
    page = "The patient was treated with an angiotensin receptor\nblocker and was followed for two years.\n"
    found = [one for _, one in read(text.textbook, page * 100, "a.txt")]
    assert " ".join(one.body for one in found) == (page * 100).replace("\n", " ").strip()
    assert max(len(one.body) for one in found) < text.PASSAGE_CHARS + 100


@pytest.mark.parametrize(
    "sentence", ["患者应当休息并多饮水，必要时到医院就诊。", "Take rest and drink plenty of water. ", "长"]
)
@pytest.mark.parametrize("file", ["书.txt", "书.jsonl"])
def test_a_book_without_lines_is_cut_into_passages(file, sentence):
    book = sentence * (300_000 // len(sentence))
    found = read(text.textbook, book if file == "书.txt" else [{"text": book}], file)
    bodies = [one.body for _, one in found]
    assert {line for line, _ in found} == {1} and "".join(bodies).replace(" ", "") == book.replace(" ", "")
    assert max(map(len, bodies)) < (text.OPEN_CHARS if sentence == "长" else text.PASSAGE_CHARS) + 10_000
    assert all(body.endswith(sentence.strip()) for body in bodies)


def guideline(content):
    """The body of a guideline's entry."""
    entries = [{"title": "规范", "content": content}, {"title": "空", "content": ""}]
    found, empty = read(text.textbook, json.dumps({"entries": entries}))
    assert found[1].title == "规范" and empty == (1, "empty field")
    return found[1].body


def pages(count, lines=4, form="{}", tail="\n"):
    """Text as a PDF gives it, sentences running over from page to page, and all its words."""
    words = [
        f"第{n}条规定病人应当在医生指导下按时按量服药并定期复查肝肾功能，不得自行停药" for n in range(count * lines)
    ]
    blocks = ["，\n".join(words[n * lines : (n + 1) * lines]) for n in range(count)]
    return "".join(f"{form.format(n)}\n{block}{tail}" for n, block in enumerate(blocks, start=1)), "".join(words)


FORMS = ["{}", " {} ", "- {} -", "—{}-", "— {}", "·{}·", "第 {} 页", "第{}页 共9页", "Page {} of 9", "{} / 9", "{}/9"]


@pytest.mark.parametrize("form", FORMS)
def test_page_numbers_of_a_guideline_and_of_a_book_go(form):
    content, words = pages(9, form=form)
    body = guideline(content)
    assert body.replace("，\n", "").replace("，", "") == words.replace("，", "")
    assert [found for _, found in read(text.textbook, content, "规范.txt")] == [Passage("规范", body)]


def test_page_numbers_go_where_pages_are_missing_and_a_dose_is_not_joined_with_one():
    content, _ = pages(20, lines=6)
    content = content.replace("\n7\n", "\n").replace("\n12\n", "\n12\n\n3\n").replace("第50条", "\n44\n第50条")
    numbers = [line.strip() for line in guideline(content).split("\n") if line.strip().isdigit()]
    assert set(numbers) <= {"3", "44"}
    body = guideline(pages(8, lines=6, tail="，首剂量为每公斤体重静脉注射37.5～\n")[0])
    assert "37.5～第6条" in body and "37.5～\n" not in body


WEB = "潜伏期为\n3\n～\n7\n天，体温可达\n39\n℃，持续\n1\n周，\n2\n次阴性，\n3\n日后出院，约\n4\n成，\n5\n人"


@pytest.mark.parametrize(
    "content, body",
    [
        ("第一条。\n- 1 -\n第二条。", "第一条。\n第二条。"),
        # Numbers on lines of their own that are no page numbers.
        (WEB, WEB),
        # A web page that broke its lines inside sentences.
        (
            "一、病原学\n甲\n病毒\n属于披膜病毒科\n，\n直径为\n6\n0\n～\n70nm\n，\n有\n1\n个血清型。基因组为\nRNA\n。\n"
            "二、临床表现\n潜伏期\n（\n3\n～\n7\n）\n天\n，\n体温\n39\n℃\n；\n可有皮疹",
            "一、病原学\n甲病毒属于披膜病毒科，直径为60～70nm，有1个血清型。基因组为RNA。\n"
            "二、临床表现\n潜伏期（3～7）天，体温39℃；可有皮疹",
        ),
        # The contents of a PDF.
        ("目录\n1.软骨发育不全 ......................... 1\n2.痛风…………………12\n正文。分数……3\n", "目录\n正文。分数……3"),
    ],
)
def test_the_text_of_a_guideline(content, body):
    assert guideline(content) == body


@pytest.mark.parametrize(
    "row, found",
    [
        ({"title": "规范", "content": None, "text": "第一条。"}, Passage("规范", "第一条。")),
        ({"Title": "规范", "Content": "第一条。"}, Passage("规范", "第一条。")),
        ({"title": "规范", "content": ["第一条。", "第二条。"]}, Passage("规范", "第一条。\n第二条。")),
        (
            {"title": "规范", "content": [{"text": "第一条。"}, {"text": "第二条。"}]},
            Passage("规范", "第一条。\n第二条。"),
        ),
        ({"title": "规范", "content": ["第一条。", {"table": [1]}]}, "content that is not text"),
        ({"title": "规范", "content": " "}, "empty field"),
        ({"title": "规范", "body": "第一条。"}, "missing field"),
    ],
)
def test_all_that_an_entry_says_is_read(row, found):
    assert read(text.textbook, [row, row]) == [(1, found), (2, found)]


@pytest.mark.parametrize(
    "line", ["[1] 张仲景。伤寒论。", "[宋] 陈自明", "[图1] 经络", "{甲} 正文。", '"引言"', "[] 空"]
)
def test_a_book_may_begin_with_a_bracket(line):
    assert read(text.textbook, f"{line}\n正文。\n", "书.txt") == [(1, Passage("书", f"{line}\n正文。"))]


TOLD = [
    "年份：2019年发病率上升。",
    "作者：认为本病与饮食有关，应当限制钠盐的摄入并且每天坚持运动三十分钟以上，同时规律服药、定期复查血压",
]


@pytest.mark.parametrize("line", TOLD)
def test_a_sentence_behind_a_word_of_a_book_s_head_stays(line):
    book = f"书名：本草\n作者：某\n年份：\n{line}。\n正文。\n"
    assert read(text.textbook, book, "书.txt") == [(4, Passage("书", f"{line}。\n正文。"))]


def test_marks_of_a_book_collection_go_and_captions_stay():
    book = "<篇名>椰子\n内容：\\r椰子\\ph391.bmp\\r，出安南。\n\\x根\\x\n气味苦，平。\n"
    book += "\\r图\\p03-b26a4.bmp\\r \n\\x流珠\n形。\\x\n"
    assert read(text.textbook, book, "001-本草.txt") == [
        (2, Passage("《本草》椰子", "椰子，出安南。\n根\n气味苦，平。\n流珠\n形。"))
    ]
    code = "公式 \\xi 与 \\rho，路径 C:\\pics\\a.bmp 不变。"
    assert read(text.textbook, code, "a.txt")[0][1].body == code and read(text.prose, "\\x根\\x。", "a.txt")[0][1].body
