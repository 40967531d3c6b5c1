"""Each reader on a few hand-written rows, good and broken."""

from __future__ import annotations

import json
import time

import pytest

from qilin_lib.chimed.readers import dialogue, exam, general, kg, preference, qa, text
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.records import Dialogue, Disease, Exam, Passage, Preference, Record, Rejection


def read(reader, content, file="f.json"):
    """(line, payload or rejection reason) of each unit."""
    if not isinstance(content, str):
        content = "\n".join(json.dumps(row, ensure_ascii=False) for row in content)
    return [(u.line, u.payload if isinstance(u, Record) else u.reason) for u in reader("s", file, Stream.of(content))]


def test_units_carry_source_and_file():
    good, bad = qa.huatuo("src", "a/b.jsonl", Stream.of('{"questions": ["问"], "answers": ["答"]}\n{'))
    assert (good.source, good.file, good.line) == ("src", "a/b.jsonl", 1)
    assert isinstance(bad, Rejection) and (bad.source, bad.file, bad.line) == ("src", "a/b.jsonl", 2)


@pytest.mark.parametrize(
    "row",
    [
        {"questions": [["问", "又问"]], "answers": ["答"]},
        {"questions": ["问"], "answers": ["答"]},
        {"questions": "问", "answers": "答"},
        {"id": "", "instruction": ["问"], "input": "", "output": ["答"]},
    ],
)
def test_huatuo_layouts(row):
    assert read(qa.huatuo, [row]) == [(1, Dialogue(("问", "答")))]


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"questions": [], "answers": ["答"]}, "empty field"),
        ({"questions": ["问"], "answers": ["nan"]}, "empty field"),
        ({"question": "问"}, "missing field"),
        (["问", "答"], "unknown form"),
        (7, "unknown form"),
    ],
)
def test_huatuo_broken_rows(row, reason):
    assert read(qa.huatuo, [{"questions": "问", "answers": "答"}, row])[1] == (2, reason)


CMEXAM = "\ufeffQuestion,Options,Answer,Explanation\n"


@pytest.mark.parametrize("options", ['"A 甲\nB 乙\nC 丙"', "A 甲\\nB 乙\\nC 丙", '"A. 甲\nB. 乙\nC. 丙"'])
def test_cmexam_options_by_real_and_literal_newline(options):
    wanted = Exam("题", (("A", "甲"), ("B", "乙"), ("C", "丙")), "AC", "因为")
    assert read(exam.cmexam, CMEXAM.lstrip("\ufeff") + f"题,{options},CA,因为\n") == [(2, wanted)]


@pytest.mark.parametrize(
    "answer, reason",
    [
        ("nan", "no answer"),
        ("", "no answer"),
        ("F", "answer is no option"),
        ("甲", "unknown answer"),
    ],
)
def test_cmexam_bad_answers(answer, reason):
    assert read(exam.cmexam, CMEXAM[1:] + f'题,"A 甲\nB 乙",{answer},x\n') == [(2, reason)]


def test_cmexam_explanation_nan_is_empty_and_an_option_may_be_the_word_none():
    ((_, payload),) = read(exam.cmexam, CMEXAM[1:] + '题,"A none\nB nan",A,nan\n')
    assert payload.explanation == "" and payload.options == (("A", "none"), ("B", "nan"))


def test_ceval_with_and_without_answer():
    assert read(exam.ceval, "id,question,A,B,C,D,answer\n0,题,1,2,3,4,B\n")[0][1].answer == "B"
    assert read(exam.ceval, "id,question,A,B,C,D\n0,题,1,2,3,4\n")[0][1].answer == ""
    assert read(exam.ceval, "id,question,A,B,C,D,answer\n0,题,1,2,3,4,E\n0,题,1,,,,A\n") == [
        (2, "answer is no option"),
        (3, "broken options"),
    ]


def test_xywy_row_becomes_a_disease():
    row = {
        "_id": {"$oid": "x"},
        "name": "哮喘",
        "category": ["疾病百科", "内科"],
        "cause": "过敏",
        "symptom": ["喘", "咳", "喘"],
        "cost_money": "",
    }
    ((_, found), empty, nameless) = read(kg.xywy, [row, {"name": "湿疹"}, {"desc": "?"}])
    assert found == Disease("哮喘", (("分类", ("内科",)), ("病因", ("过敏",)), ("症状", ("喘", "咳"))))
    assert empty == (2, "no features") and nameless == (3, "missing field")


def test_39health_row_loses_detail_tails_and_cuts():
    cells = {
        "name": "阳痿",
        "alias": '"勃起障碍,阳萎"',
        "department": "男科 生殖健康",
        "symptom": "早泄 不育 [详细]",
        "treatment": "药物治疗 [详细]",
        "drug": "西地那非... 西地那非... 他达拉非片 [详细]",
        "rate": "暂无相关资料",
    }
    ((_, found),) = read(kg.health39, f"{','.join(cells)},,,\n{','.join(cells.values())},,,\n")
    features = dict(found.features)
    assert features["症状"] == ("早泄", "不育") and features["常用药物"] == ("他达拉非片",), "a cut name is no drug"
    assert features["治疗方法"] == ("药物治疗",) and features["别名"] == ("勃起障碍", "阳萎")
    assert "治愈率" not in features and "[详细]" not in str(found)


HEADER39 = "name,alias,infection,symptom,checklist,treatment,drug,rate,money,,,\n"


def health39(*rows):
    cells = HEADER39.count(",") + 1
    return read(kg.health39, HEADER39 + "".join(",".join(row + [""] * (cells - len(row))) + "\n" for row in rows))


def test_39health_cells_are_split_where_the_site_separates_and_outside_brackets():
    alias = '"赤(扁)虫病,SLE, 狼疮，第3、4对咽囊综合征、阴癣;ovarian tumor；战栗 鼓栗"'
    symptom = "三怕(水声、光、风)现象 排尿时灼热、瘙痒或疼痛 杵状指（趾） 单纯疱疹病毒（HSV 1） [详细]"
    ((_, found),) = health39(
        ["甲病", alias, "", f'"{symptom}"', "肝、胆、脾CT 肝、胆、胰、脾MRI", "药物治疗、手术治疗（洗胃、催吐）"]
    )
    assert dict(found.features) == {
        "别名": ("赤(扁)虫病", "SLE", "狼疮", "第3、4对咽囊综合征", "阴癣", "ovarian tumor", "战栗", "鼓栗"),
        "症状": ("三怕(水声、光、风)现象", "排尿时灼热、瘙痒或疼痛", "杵状指（趾）", "单纯疱疹病毒（HSV 1）"),
        "检查": ("肝、胆、脾CT", "肝、胆、胰、脾MRI"),
        "治疗方法": ("药物治疗", "手术治疗（洗胃、催吐）"),
    }


def test_what_the_site_cut_off_is_not_stated():
    cut = [
        "甲病",
        "",
        "",
        "咳嗽 发热伴咳... 结核菌素试验（OT",
        "核磁共振成像(... 血常规 耳、鼻、咽拭...",
        '"以预防为主，一旦发生立..."',
        "甘精胰岛素注射...",
    ]
    ((_, found),) = health39(cut)
    assert dict(found.features) == {
        "症状": ("咳嗽", "结核菌素试验"),
        "检查": ("核磁共振成像", "血常规"),
        "治疗方法": ("以预防为主",),
    }
    ((_, found),) = read(
        kg.xywy, [{"name": "乙病", "desc": "发热伴咳嗽。咯...。", "cause": "不明...", "check": ["肺功能…"]}]
    )
    assert found == Disease("乙病", (("简介", ("发热伴咳嗽。",)),))


def test_a_separator_at_the_end_of_a_value_is_no_part_of_it():
    ((_, found),) = health39(["甲病", "甲甲症；", "", "", "", "戒酒， 支持治疗；", "", "", "约（5000元）;"])
    assert found.features == (
        ("别名", ("甲甲症",)),
        ("治疗方法", ("戒酒", "支持治疗")),
        ("治疗费用", ("约（5000元）",)),
    )


def test_links_and_zero_rates_are_no_facts():
    ((_, found),) = health39(["甲病", "", "", "咳嗽", "", "", ">> 应该如何用药？用什么药？ [详细]", "0.00%"])
    assert found.features == (("症状", ("咳嗽",)),)


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


def test_fields_of_a_graph_that_nothing_uses_are_named_once():
    rows = [
        {"name": "甲病", "cause": "敏", "drug_detail": ["x"], "_id": {}},
        {"name": "乙病", "cause": "敏", "symptoms": []},
    ]
    *records, note = kg.xywy("kg_xywy", "m.json", Stream.of("\n".join(json.dumps(row) for row in rows)))
    assert len(records) == 2 and all(isinstance(record, Record) for record in records)
    assert (note.line, note.reason, note.detail) == (0, "fields not used", "drug_detail, symptoms")
    *_, note = kg.health39("kg_39health", "d.csv", Stream.of("name,symptom,nursing\n甲病,咳,卧床\n"))
    assert (note.line, note.reason, note.detail) == (0, "fields not used", "nursing")


def test_cpubmed_triples_are_grouped_and_bad_ones_rejected():
    rows = "哮喘@@疾病\t症状\t喘@@症状\n痛风@@疾病\t病因\t尿酸@@x\n哮喘@@疾病\t症状\t咳@@症状\n"
    rows += "断了\t症状\n阿司匹林@@药物\t治\t痛@@症状\n"
    assert read(kg.cpubmed, rows, "a.txt") == [
        (1, Disease("哮喘", (("症状", ("喘", "咳")),))),
        (2, Disease("痛风", (("病因", ("尿酸",)),))),
        (4, "not a triple"),
        (5, "head is not a disease"),
    ]


def test_cpubmed_v1_header_and_json_sample():
    assert read(kg.cpubmed, "head\trelation\ttail\n哮喘\t症状\t喘\n", "a.txt") == [
        (2, Disease("哮喘", (("症状", ("喘",)),)))
    ]
    sample = '[\n{"head": "哮喘", "relation": "检查", "tail": "肺功能", "triple_id": "1"}]'
    assert read(kg.cpubmed, sample) == [(2, Disease("哮喘", (("检查", ("肺功能",)),)))]


def test_toyhom_title_is_said_once():
    head = "department,title,ask,answer\n"
    assert read(dialogue.toyhom, head + "内科,头痛,头痛三天了,休息\n")[0][1] == Dialogue(("头痛三天了", "休息"))
    assert read(dialogue.toyhom, head + "内科,头痛,无,休息\n")[0][1] == Dialogue(("头痛", "休息"))
    assert read(dialogue.toyhom, head + "内科,头痛,三天了,休息\n")[0][1] == Dialogue(("头痛\n三天了", "休息"))
    assert read(dialogue.toyhom, head + "内科,头痛,三天,nan\n内科,,nan,好\n内科,头痛\n") == [
        (2, "empty field"),
        (3, "empty field"),
        (4, "wrong number of columns"),
    ]


def test_meddialog_both_forms():
    talk = ["病人：头痛", "医生：多久了", "病人：三天", "病人：还吐", "医生：来看看"]
    assert read(dialogue.meddialog, json.dumps([talk], ensure_ascii=False)) == [
        (1, Dialogue(("头痛", "多久了", "三天\n还吐", "来看看")))
    ]
    assert read(
        dialogue.meddialog, [{"id": 1, "medical_case": "疾病：x", "doctor_diagnosis": "建议", "Department": "内科"}]
    ) == [(1, Dialogue(("疾病：x", "建议")))]
    bad = [["护士：你好"], ["医生：你好", "病人：好"], ["病人：在吗"]]
    assert [r for _, r in read(dialogue.meddialog, json.dumps(bad, ensure_ascii=False))] == [
        "unknown speaker",
        "the assistant speaks first",
        "no answer",
    ]


def test_cmtmedqa_both_schemas():
    rows = [
        {"id": "1", "instruction": "谢谢", "input": "", "output": "不客气", "history": [["问", "答"]]},
        {"instruct": "问", "output": "答"},
    ]
    assert [p for _, p in read(dialogue.cmtmedqa, rows)] == [
        Dialogue(("问", "答", "谢谢", "不客气")),
        Dialogue(("问", "答")),
    ]
    assert read(dialogue.cmtmedqa, [{"instruction": "问", "output": "答", "history": [["单"]]}]) == [
        (1, "unknown form")
    ]


def test_conversations_of_both_dialects():
    for user, assistant in (("human", "gpt"), ("input", "output")):
        row = {
            "conversations": [
                {"from": user, "value": "问"},
                {"from": assistant, "value": "答"},
                {"from": user, "value": "再问"},
            ]
        }
        assert read(dialogue.conversations, [row]) == [(1, Dialogue(("问", "答", "再问")))]
    assert read(dialogue.conversations, [{"conversations": "x"}, {"x": 1}]) == [
        (1, "unknown form"),
        (2, "missing field"),
    ]


def remedi_line(context, current, response):
    said = "".join(f"<|user|> {u} <|system|> {s}" for u, s in context)
    return (
        f"<|endoftext|> <|context|> {said}<|endofcontext|> <|currentuser|> {current} <|endofcurrentuser|> "
        "<|intent|> x <|endofintent|> <|knowledge|> <|k|>甲 症状 乙 <|endofknowledge|> "
        f"<|response|> {response} <|endofresponse|>  <|endoftext|>"
    )


def test_remedi_counts_only_the_longest_prefix():
    lines = [
        remedi_line([], "头痛", "多久"),
        remedi_line([("头痛", "多久")], "三天", "休息"),
        remedi_line([], "咳嗽", "喝水"),
        "坏行 <|user|>",
    ]
    assert read(dialogue.remedi, "\n".join(lines), "a.txt") == [
        (2, Dialogue(("头痛", "多久", "三天", "休息"))),
        (3, Dialogue(("咳嗽", "喝水"))),
        (4, "broken tags"),
    ]


def test_textbook_sections_are_unwrapped():
    wrapped = "内容：《记》曰医不三世不服其药郑康成曰慎物齐也孔冲远引旧说云 \n三世者，一曰《黄帝针灸》。\n<目录>\n"
    book = f"<篇名>本草\n书名：本草\n作者：某\n<目录>\n<篇名>邵序\n{wrapped}<篇名>上品\n属性：甘平。\n"
    assert read(text.textbook, book, "d/000-本草.txt") == [
        (
            6,
            Passage("《本草》邵序", "《记》曰医不三世不服其药郑康成曰慎物齐也孔冲远引旧说云三世者，一曰《黄帝针灸》。"),
        ),
        (10, Passage("《本草》上品", "甘平。")),
    ]


def test_long_text_is_cut_at_paragraph_ends_and_nothing_is_lost():
    lines = [f"第{n}段，" + "内容" * 60 + "。" for n in range(60)]
    found = [p for _, p in read(text.prose, "\n".join(lines), "a.txt")]
    assert len(found) > 3 and "\n".join(p.body for p in found) == "\n".join(lines)


def test_guideline_entries():
    book = {
        "source": "x",
        "entries": [{"title": "规范", "content": "第一条。\n- 1 -\n第二条。"}, {"title": "空", "content": ""}],
    }
    assert read(text.textbook, json.dumps(book, ensure_ascii=False)) == [
        (1, Passage("规范", "第一条。\n第二条。")),
        (1, "empty field"),
    ]


def pages(count, lines=4, form="{}", tail="\n"):
    """Text as a PDF gives it, sentences running over from page to page, and all its words."""
    words = [
        f"第{n}条规定病人应当在医生指导下按时按量服药并定期复查肝肾功能，不得自行停药" for n in range(count * lines)
    ]
    blocks = ["，\n".join(words[n * lines : (n + 1) * lines]) for n in range(count)]
    return "".join(f"{form.format(n)}\n{block}{tail}" for n, block in enumerate(blocks, start=1)), "".join(words)


@pytest.mark.parametrize(
    "form", ["{}", " {} ", "- {} -", "—{}-", "— {}", "·{}·", "第 {} 页", "第{}页 共9页", "Page {} of 9"]
)
def test_page_numbers_of_a_guideline_and_of_a_book_go(form):
    content, words = pages(9, form=form)
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "规范", "content": content}]}))
    ((_, book),) = read(text.textbook, content, "规范.txt")
    assert entry.body.replace("，\n", "").replace("，", "") == words.replace("，", "") and book == entry


def test_a_dose_is_not_joined_with_the_page_number_that_cuts_it():
    content, _ = pages(8, lines=6, tail="，首剂量为每公斤体重静脉注射37.5～\n")
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "规范", "content": content}]}))
    assert "37.5～第6条" in entry.body and "37.5～\n" not in entry.body


def test_missing_pages_and_other_numbers_do_not_hide_the_page_numbers():
    content, _ = pages(20, lines=6)
    content = content.replace("\n7\n", "\n").replace("\n12\n", "\n12\n\n3\n").replace("第50条", "\n44\n第50条")
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "规范", "content": content}]}))
    numbers = [line for line in entry.body.split("\n") if line.strip().isdigit()]
    assert [n for n in numbers if n not in ("3", "44")] == []


def test_numbers_on_lines_of_their_own_stay_where_they_are_no_page_numbers():
    web = "潜伏期为\n3\n～\n7\n天，体温可达\n39\n℃，持续\n1\n周，\n2\n次阴性，\n3\n日后出院，约\n4\n成，\n5\n人"
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "方案", "content": web}]}))
    numbers = "".join(sign if sign.isdigit() else " " for sign in entry.body).split()
    assert numbers == list("37") + ["39"] + list("12345")


def test_a_text_whose_web_page_broke_its_lines_inside_sentences_is_put_together():
    web = "一、病原学\n甲\n病毒\n属于披膜病毒科\n，\n直径为\n6\n0\n～\n70nm\n，\n有\n1\n个血清型。基因组为\nRNA\n。\n"
    web += "二、临床表现\n潜伏期\n（\n3\n～\n7\n）\n天\n，\n体温\n39\n℃\n；\n可有皮疹"
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "方案", "content": web}]}))
    assert entry.body == (
        "一、病原学\n甲病毒属于披膜病毒科，直径为60～70nm，有1个血清型。基因组为RNA。\n"
        "二、临床表现\n潜伏期（3～7）天，体温39℃；可有皮疹"
    )


def test_the_contents_of_a_pdf_are_left_out():
    content = "目录\n1.软骨发育不全 ......................... 1\n2.痛风…………………12\n正文。分数……3\n"
    ((_, entry),) = read(text.textbook, json.dumps({"entries": [{"title": "指南", "content": content}]}))
    assert entry.body == "目录\n正文。分数……3"


def test_marks_of_a_book_collection_go_and_captions_stay():
    book = "<篇名>椰子\n内容：\\r椰子\\ph391.bmp\\r，出安南。\n\\x根\\x\n气味苦，平。\n"
    book += "\\r图\\p03-b26a4.bmp\\r \n\\x流珠\n形。\\x\n"
    assert read(text.textbook, book, "001-本草.txt") == [
        (2, Passage("《本草》椰子", "椰子，出安南。\n根\n气味苦，平。\n流珠\n形。"))
    ]
    code = "公式 \\xi 与 \\rho，路径 C:\\pics\\a.bmp 不变。"
    assert read(text.textbook, code, "a.txt")[0][1].body == code and read(text.prose, "\\x根\\x。", "a.txt")[0][1].body


@pytest.mark.parametrize(
    "piece", [".", "…", "(", "（", "(a", " ", "、", "1、", "a ", "。.", "图\\r", "9\n", "，\n", "第", "- 1"]
)
def test_time_is_linear_in_whatever_a_graph_s_cell_or_a_book_holds(piece):
    many = piece * (60_000 // len(piece))
    began = time.process_time()
    for cell in (many, many + "x", f"(x){many}..."):
        list(text.textbook("s", "a.txt", Stream.of(cell)))
        rows = health39(["甲病", *['"' + cell.replace("\n", " ") + '"'] * 8])
        rows += read(kg.xywy, [{"name": "甲病", "cause": cell, "symptom": [cell]}])
        assert len(rows) == 2
    assert time.process_time() - began < 4


def test_preference_readers():
    assert read(
        preference.medicalgpt_reward, [{"question": "问", "response_chosen": "好", "response_rejected": "坏"}]
    ) == [(1, Preference(("问",), "好", "坏"))]
    assert read(preference.zhongjing_rlhf, [{"instruction": "问", "output": ["好", "坏", "更坏"]}])[0][1] == Preference(
        ("问",), "好", "坏"
    )
    prompt = [{"from": "system", "value": "你是"}, {"from": "human", "value": "问"}]
    for chosen in ("好", {"from": "gpt", "value": "好"}):
        row = {"conversations": prompt, "chosen": chosen, "rejected": "坏"}
        assert read(preference.pairs, [row]) == [(1, Preference(("你是\n问",), "好", "坏"))]


@pytest.mark.parametrize(
    "reader, row, reason",
    [
        (
            preference.medicalgpt_reward,
            {"question": "问", "response_chosen": "同", "response_rejected": "同"},
            "chosen equals rejected",
        ),
        (
            preference.medicalgpt_reward,
            {"question": "问", "response_chosen": "", "response_rejected": "坏"},
            "empty field",
        ),
        (preference.zhongjing_rlhf, {"instruction": "问", "output": ["好"]}, "fewer than two answers"),
        (
            preference.pairs,
            {"conversations": [{"from": "gpt", "value": "x"}], "chosen": "a", "rejected": "b"},
            "unknown form",
        ),
    ],
)
def test_preference_broken_rows(reader, row, reason):
    assert read(reader, [row]) == [(1, reason)]


def test_general_rows_of_three_kinds():
    rows = [
        {"instruction": "问", "input": "料", "output": "答"},
        {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
    ]
    assert [p for _, p in read(general.instructions, rows)] == [Dialogue(("问\n料", "答")), Dialogue(("问", "答"))]


JUNK = [None, True, 3, 2.5, "", "x", [], ["x"], [[]], {}, {"from": 1}, [{"from": "human", "value": None}], [[1, 2, 3]]]
JSON_ROWS = [
    (qa.huatuo, {"questions": ["问"], "answers": ["答"]}),
    (kg.xywy, {"name": "哮喘", "symptom": ["喘"]}),
    (kg.cpubmed, {"head": "哮喘", "relation": "症状", "tail": "喘"}),
    (dialogue.meddialog, {"medical_case": "问", "doctor_diagnosis": "答"}),
    (dialogue.cmtmedqa, {"instruction": "问", "input": "", "output": "答", "history": [["问", "答"]]}),
    (dialogue.conversations, {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]}),
    (preference.medicalgpt_reward, {"question": "问", "response_chosen": "好", "response_rejected": "坏"}),
    (preference.zhongjing_rlhf, {"instruction": "问", "output": ["好", "坏"]}),
    (preference.pairs, {"conversations": [{"from": "human", "value": "问"}], "chosen": "好", "rejected": "坏"}),
    (general.instructions, {"instruction": "问", "input": "", "output": "答"}),
    (text.textbook, {"title": "题", "content": "文"}),
]


@pytest.mark.parametrize("reader, row", JSON_ROWS)
def test_no_reader_raises_whatever_a_field_holds(reader, row):
    rows = [row | {name: junk} for name in row for junk in JUNK] + [
        {k: v for k, v in row.items() if k != name} for name in row
    ]
    units = read(reader, json.dumps([*rows, *JUNK, row], ensure_ascii=False))
    assert units and any(isinstance(found, str) for _, found in units) and not isinstance(units[0][1], BaseException)
