"""Every row of the paper's Tables 1-3 in its published form, read by `units`; the overview of a raw folder."""

from __future__ import annotations

import json
import re

import pytest
from raw_files import jsonl, put, units_of

from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Dialogue, Disease, Passage, Preference, Record


def read(tmp_path, name, files, sets=sources.SETS):
    """(file, line, payload or rejection reason) of every unit of source `name`."""
    reads = units_of(put(tmp_path / name, files).parent, name, sets=sets)
    return [(r.file, r.line, r.payload if isinstance(r, Record) else r.reason) for r in reads]


def array(rows):
    return json.dumps(rows, ensure_ascii=False, indent=1)


QA = Dialogue(("问", "答"))


@pytest.mark.parametrize("name", ["huatuo_encyclopedia_qa", "huatuo_knowledge_graph_qa", "huatuo26m_test"])
@pytest.mark.parametrize(
    "row, what",
    [
        ({"questions": [["问", "又问"]], "answers": ["答"]}, Dialogue(("问", "答"), wordings=("又问",))),
        ({"questions": ["问"], "answers": ["答"]}, QA),
        ({"questions": "问", "answers": "答"}, QA),
        # Tables whose lists a CSV file has made texts of.
        ({"questions": "[['问', '又问']]", "answers": '["答"]'}, Dialogue(("问", "答"), wordings=("又问",))),
        ({"questions": "['问' '又问']", "answers": "['答']"}, "unknown form"),
        ({"questions": "[问]", "answers": "['答']是"}, Dialogue(("[问]", "['答']是"))),
        ({"id": "", "instruction": ["问"], "input": "", "output": ["答"]}, QA),
        ({"questions": [[""]], "answers": ["答"]}, "empty field"),
        ({"questions": [], "answers": ["答"]}, "empty field"),
        ({"questions": ["问"], "answers": ["nan"]}, "empty field"),
        ({"question": "问"}, "missing field"),
    ],
)
def test_huatuo_files_hold_nested_question_lists(tmp_path, name, row, what):
    file = "train_datasets.jsonl"
    assert read(tmp_path, name, {file: jsonl([row])}) == [(file, 1, what)]


BOOK = "肺炎是肺实质的炎症。\n"
ASTHMA = Disease("哮喘", (("症状", ("喘", "咳")),))
XYWY = [
    {"_id": {}, "name": "哮喘", "category": ["疾病百科", "内科"], "cause": "过敏", "symptom": ["喘", "咳", "喘"]},
    {"name": "湿疹", "category": ["疾病百科"], "cost_money": ""},
    {"desc": "?"},
]
TRIPLES = [{"head": "哮喘", "relation": "症状", "tail": tail, "triple_id": "9"} for tail in "喘咳"]
SPOKEN = ["病人：头痛", "医生：多久", "病人: 三天", "医生：休息"]
TALK = Dialogue(("头痛", "多久", "三天", "休息"))
TURNS = [{"speaker": ("病人", "医生")[n % 2], "utterance": said} for n, said in enumerate(TALK.turns)]
MEDDIALOG = [
    SPOKEN,
    {"utterances": SPOKEN},
    {"dialogue_turns": {"speaker": ["病人", "医生"] * 2, "utterance": list(TALK.turns)}, "dialogue_id": 1},
    {"dialogue_turns": {"speaker": [0, 1, 0, 1], "utterance": list(TALK.turns)}},
    {"dialogue_turns": TURNS},
]
MEDDIALOG_TEXT = """\ufeff
id=1
https://example.invalid/1
Doctor faculty
某医院 内科

Description
咳嗽三天怎么办

Dialogue
病人：
咳嗽三天
还有痰
医生：
发热吗？
病人： 不发热
医生：
多喝水。

Diagnosis and suggestions
上呼吸道感染

id=2
https://example.invalid/2
Description
没有对话
id=3
Dialogue
医生：您好
病人：
"""


def spoken(*speakers):
    return {"conversations": [{"from": who, "value": f"{who}{n}"} for n, who in enumerate(speakers)]}


RELEASE = [spoken("input", "output"), spoken("input", "output", "input"), spoken("human", "gpt"), spoken("output"), {}]
CMTMEDQA = [
    {"id": "1", "instruction": "再问", "input": "", "output": "再答", "history": [["问", "答"]]},
    {"instruct": "问", "output": "答"},
]


def remedi_line(context, current, response):
    said = "".join(f"<|user|> {u} <|system|> {s}" for u, s in context)
    return (
        f"<|endoftext|> <|context|> {said}<|endofcontext|> <|currentuser|> {current} <|endofcurrentuser|> "
        "<|intent|> x <|endofintent|> <|knowledge|> <|k|>甲 症状 乙 <|endofknowledge|> "
        f"<|response|> {response} <|endofresponse|>  <|endoftext|>\n"
    )


REMEDI = remedi_line([], "头痛", "多久") + remedi_line([("头痛", "多久")], "三天", "休息")
REMEDI += remedi_line([], "咳嗽", "喝水") + "坏行 <|user|>"
BELLE = {"instruction": "Human:你好\nAssistant:你好！\nHuman:天气\n如何\nAssistant:\n", "input": "", "output": "晴"}
BOOK_QA = array([["问", "答"], ["问", ""], ["问"]])

# Source, file, its content, and (line, what) of each of its units.
PUBLISHED = [
    ("medqa_textbooks", "textbooks/zh_paragraph/内科学.txt", BOOK, [(1, Passage("内科学", BOOK.strip()))]),
    ("medqa_textbooks", "textbooks/zh_paragraph/all_books.txt", BOOK * 3, [(0, "not one of the books")]),
    ("medqa_textbooks", "textbooks/zh_sentence/内科学.txt", BOOK, [(0, "not one of the books")]),
    ("medqa_textbooks", "textbooks/en/Anatomy_Gray.txt", "The body\n", [(0, "not one of the books")]),
    ("kg_cpubmed", "CPubMed-KGv1_1.txt", "头实体\t关系\t尾实体\n哮喘\t症状\t喘\n哮喘\t症状\t咳\n", [(2, ASTHMA)]),
    ("kg_cpubmed", "v2_0.txt", "哮喘@@疾病\t症状\t喘@@症状\n哮喘@@疾病\t症状\t咳@@症状\n", [(1, ASTHMA)]),
    ("kg_cpubmed_sample", "tail.json", json.dumps(TRIPLES), [(1, ASTHMA)]),
    ("kg_39health", "disease.csv", "name,alias,symptom,,\n哮喘,,喘 咳 [详细],,\n".encode("gb18030"), [(2, ASTHMA)]),
    ("kg_xywy", "medical.json", '{"_id": {"$oid": "5"}, "name": "哮喘", "symptom": ["喘", "咳"]}\n', [(1, ASTHMA)]),
    ("kg_xywy", "medical2.json.bak.json", jsonl([{"name": "哮喘", "symptom": ["喘", "咳"]}]), [(1, ASTHMA)]),
    (
        "kg_xywy",
        "medical.json",
        jsonl(XYWY),
        [
            (1, Disease("哮喘", (("分类", ("内科",)), ("病因", ("过敏",)), ("症状", ("喘", "咳"))))),
            (2, "no features"),
            (3, "missing field"),
        ],
    ),
    (
        "kg_cpubmed",
        "a.txt",
        "哮喘@@疾病\t症状\t喘@@症状\n痛风@@疾病\t病因\t尿酸@@x\n哮喘@@疾病\t症状\t咳@@症状\n"
        "断了\t症状\n阿司匹林@@药物\t治\t痛@@症状\n",
        [
            (1, ASTHMA),
            (2, Disease("痛风", (("病因", ("尿酸",)),))),
            (4, "not a triple"),
            (5, "head is not a disease"),
        ],
    ),
    *(
        (
            "toyhom_dialogue",
            "IM_内科/内科.csv",
            f"department,title,{column},answer\n内科,头痛,头痛三天,休息\n内科,头痛,无,nan\n".encode("gb18030"),
            [(2, Dialogue(("头痛三天", "休息"))), (3, "empty field")],
        )
        # As in the files, and as in the README.
        for column in ("ask", "question")
    ),
    *(("meddialog_cn", "train_data.json", array([row]), [(2, TALK)]) for row in MEDDIALOG),
    (
        "meddialog_cn",
        "COVID-Dialogue-Dataset-Chinese.txt",
        MEDDIALOG_TEXT.replace("\n", "\r\n"),
        [
            (2, Dialogue(("咳嗽三天\n还有痰", "发热吗？", "不发热", "多喝水。"))),
            (23, "no dialogue"),
            (27, "the assistant speaks first"),
        ],
    ),
    (
        "chimed_release",
        "cpt.txt",
        "第一篇。\n\n第二篇，一行一篇。\n",
        [(1, Passage("", "第一篇。")), (3, Passage("", "第二篇，一行一篇。"))],
    ),
    (
        "chimed_release",
        "sft.jsonl",
        jsonl(RELEASE),
        [
            (1, Dialogue(("input0", "output1"))),
            (2, "turns do not alternate"),
            (3, "unknown speaker"),
            (4, "the assistant speaks first"),
            (5, "missing field"),
        ],
    ),
    (
        "chimed_release",
        "dpo.json",
        jsonl([{"question": "问", "response_chosen": "好", "response_rejected": "坏"}, {"问": "好"}]),
        [(1, Preference(("问",), "好", "坏")), (2, "missing field")],
    ),
    ("cmtmedqa", "CMtMedQA.json", array(CMTMEDQA), [(2, Dialogue(("问", "答", "再问", "再答"))), (14, QA)]),
    # Of what grows line by line the longest counts.
    ("remedi", "a.txt", REMEDI, [(2, TALK), (3, Dialogue(("咳嗽", "喝水"))), (4, "broken tags")]),
    (
        "general_zh",
        "a.json",
        jsonl([{"instruction": "译", "input": "文", "output": "text"}]),
        [(1, Dialogue(("译\n文", "text")))],
    ),
    ("multiturn_chat", "a.json", jsonl([BELLE]), [(1, Dialogue(("你好", "你好！", "天气\n如何", "晴")))]),
    (
        "multiturn_chat",
        "a.json",
        jsonl([{"instruction": "Human何意", "input": "", "output": "人"}]),
        [(1, Dialogue(("Human何意", "人")))],
    ),
    (
        "instruct_chat",
        "a.jsonl",
        jsonl([{"input": ["问", "再问"], "output": ["答", "再答"]}]),
        [(1, Dialogue(("问", "答", "再问", "再答")))],
    ),
    ("safety_prompts", "a.json", jsonl([{"prompt": "问", "response": "答", "type": "Insult"}]), [(1, QA)]),
    # Rows of several turns that are broken are not guessed at.
    *(
        ("general_zh", "a.jsonl", jsonl([{"input": ["问", "再问"], "output": output}]), [(1, "unknown form")])
        for output in (None, ["答"], "答")
    ),
    # Lists of question and answer, made from books.
    *(
        (name, "book_qa.json", BOOK_QA, [(2, QA), (6, "empty field"), (10, "unknown form")])
        for name in ("plain_text", "apollo_book_qa")
    ),
]


@pytest.mark.parametrize("case", range(len(PUBLISHED)), ids=lambda at: f"{at}-{PUBLISHED[at][0]}")
def test_every_source_in_its_published_form(tmp_path, case):
    name, file, content, wanted = PUBLISHED[case]
    assert read(tmp_path, name, {file: content}) == [(file, *one) for one in wanted]


@pytest.mark.parametrize("name", ["3-7天", "50%", "3000元", "约1000～3000元", "1-2个月", "2周", "0.5％", "12"])
def test_a_number_is_no_disease(tmp_path, name):
    text = f"name,symptom,drug\n{name},喘,\n21三体综合征,喘,\n"
    assert [what for *_, what in read(tmp_path, "kg_39health", {"disease.csv": text})] == [
        "no disease name",
        Disease("21三体综合征", (("症状", ("喘",)),)),
    ]


@pytest.mark.parametrize("indent", [None, 2])
def test_safety_prompts_by_category(tmp_path, indent):
    rows = [{"prompt": f'问{n}], "x": [{{', "response": "答", "type": "t"} for n in range(4)]
    content = {"Insult": rows[:2], "Mental_Health": [rows[2], {"prompt": "问"}], "Physical_Harm": rows[3:]}
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    found = read(tmp_path, "safety_prompts", {"typical_safety_scenarios.json": text})
    wanted = [Dialogue((row["prompt"], "答")) for row in rows]
    assert [what for *_, what in found] == [*wanted[:3], "missing field", wanted[3]]
    lines = text.split("\n")
    assert all(indent is None and line == 1 or lines[line - 1].strip() == "{" for _, line, _ in found)


JUNK = [None, True, 3, 2.5, "", "x", [], ["x"], [[]], {}, {"from": 1}, [{"from": "human", "value": None}], [[1, 2, 3]]]
JSON_ROWS = {
    "huatuo26m_test": {"questions": ["问"], "answers": ["答"]},
    "kg_xywy": {"name": "哮喘", "symptom": ["喘"]},
    "kg_cpubmed_sample": {"head": "哮喘", "relation": "症状", "tail": "喘"},
    "meddialog_cn": {"medical_case": "问", "doctor_diagnosis": "答", "utterances": ["病人：问", "医生：答"]},
    "general_zh": {"instruction": "问", "input": "", "output": "答", "history": [["问", "答"]], "system": "您"},
    "chatmed": {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}], "tools": ""},
    "medicalgpt_reward": {"prompt": "问", "chosen": "好", "rejected": "坏", "history": []},
    "zhongjing_rlhf": {"instruction": "问", "output": ["好", "坏", "更坏"]},
    "dpo_zh": {"conversations": [{"from": "human", "value": "问"}], "chosen": "好", "rejected": "坏"},
    "cmb": {"question": "题", "option": {"A": "甲", "B": "乙"}, "answer": "A", "QA_pairs": None},
    "plain_text": {"title": "题", "content": "文"},
}


@pytest.mark.parametrize("name", JSON_ROWS)
def test_no_reader_raises_whatever_a_field_holds(tmp_path, name):
    row = JSON_ROWS[name]
    rows = [row | {field: junk} for field in row for junk in JUNK]
    rows += [{key: value for key, value in row.items() if key != field} for field in row]
    found = read(tmp_path, name, {"CMB-test.json" if name == "cmb" else "a.json": array([*rows, *JUNK, row])})
    assert {isinstance(what, str) for *_, what in found} == {True, False}


PAPER = {
    "cpt": "Huatuo-26M-encyclopedias Huatuo-26M-medical_knowledge CMExam MedQA-textbooks CPubMed-KG 39Health-KG "
    "Xywy-KG CMD Chinese-medical-dialogue-data Medical-Dialogue-System",
    "sft": "Instruct_chat Safety-Prompts Multiturn_chat CMExam-explanation Medical-Dialogue-System CMD",
    "dpo": "Zhongjing_rlhf MedicalGPT",
}


def test_every_row_of_the_papers_tables_has_a_source():
    for name, rows in PAPER.items():
        mine = {
            feed.rows[name]
            for s in sources.REGISTRY
            if s.standing != "addition"
            for feed in s.feeds
            if name in feed.rows
        }
        # The paper prints an ellipsis behind the rows of Table 2; we feed further rows of Table 1 to SFT.
        assert mine >= set(rows.split()) if name == "sft" else mine == set(rows.split())


def test_a_file_that_fits_two_patterns_feeds_once(tmp_path):
    folder = tmp_path / "cmtmedqa"
    folder.mkdir()
    for name, said in (("CMtMedQA.json", "练"), ("CMtMedQA_test.json", "考")):
        (folder / name).write_text(f'[{{"instruct": "{said}", "output": "答"}}]', encoding="utf-8")
    found = [(unit.sets, unit.read.file) for unit in sources.units(sources.BY_NAME["cmtmedqa"], tmp_path)]
    assert found == [(("cpt", "sft"), "CMtMedQA.json"), (("eval",), "CMtMedQA_test.json")]
    assert not sources.unread(sources.BY_NAME["cmtmedqa"], tmp_path)


def test_overview_says_what_is_there_and_where_the_rest_is(tmp_path, capsys):
    for name in ("cmd", "cmeee_v2", "mystery"):
        (tmp_path / name).mkdir()
    talk = '{"conversations": [{"from": "input", "value": "问"}, {"from": "output", "value": "答"}]}\n'
    (tmp_path / "cmd" / "a.jsonl").write_text(talk * 2 + "{\n", encoding="utf-8")
    (tmp_path / "cmd" / "notes.xlsx").write_bytes(b"x")
    assert sources.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = {line.split()[1]: re.split(r"\s{2,}", line) for line in lines if not line.startswith(" ")}
    assert cells["cmd"] == ["present", "cmd", "1", "2", "1", "cpt,sft", "not stated"]
    assert lines[_at(lines, "cmd") + 1].strip().startswith("not read: notes.xlsx (not *.jsonl")
    assert lines[_at(lines, "cmexam") + 1].strip() == "get it: https://github.com/williamliujl/CMExam"
    assert cells["mystery"][0] == "unknown" and cells["cmeee_v2"][0] == "unused"
    start = lines[0].index("licence")
    assert all(line[start - 2 : start] == "  " for line in lines if line.startswith(("present", "missing")))


def _at(lines, folder):
    return next(number for number, line in enumerate(lines) if line.split()[1:2] == [folder])
