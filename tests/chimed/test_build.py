"""The build, end to end, on a raw folder small enough to know every record."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from raw_files import LEAK, jsonl, put, talk

from qilin_lib.errors import QilinError

SETS = ("cpt", "sft", "dpo", "general")


def test_fate_of_every_planted_flaw(build_of, tiny_raw, tmp_path):
    made = build_of(tiny_raw, tmp_path / "out")
    row = made.rows["huatuo_encyclopedia_qa", "sft"]
    assert (row.read, row.kept, row.rejected, row.contaminated) == (8, 6, {"broken JSON": 1}, 1)
    assert made.rows["cmd", "sft"].rejected == {"no answer": 1} and made.rows["medicalgpt_sft", "cpt"].duplicate == 1
    assert made.ledger["hits"] == {"huatuo_encyclopedia_qa": {"cmexam": 1}}
    assert made.rows["cmexam", "eval"].kept == 1 and made.rows["toyhom_dialogue", "sft"].deidentified == {"电话": 1}
    assert "13912345678" not in json.dumps([getattr(made, name) for name in SETS], ensure_ascii=False)
    reasons = Counter((d["source"], d["set"], d["reason"]) for d in made.dropped)
    assert reasons["huatuo_encyclopedia_qa", "cpt", "contaminated"] == 1
    assert reasons["medicalgpt_sft", "sft", "duplicate"] == 1
    (broken,) = (d for d in made.dropped if d["reason"] == "broken JSON" and d["set"] == "cpt")
    assert (broken["file"], broken["line"]) == ("train_datasets.jsonl", 7)


def test_lines_have_the_agreed_keys_and_dropped_ones_explain_the_ledger(build_of, tiny_raw, tmp_path, monkeypatch):
    monkeypatch.setattr("qilin_lib.chimed.build.BATCH_UNITS", 3)
    made = build_of(tiny_raw, tmp_path / "out")
    own = {"cpt": "type text", "sft": "part messages", "dpo": "part prompt chosen rejected", "general": "text"}
    for name, keys in own.items():
        records = getattr(made, name)
        assert set(records[0]) == {"id", "source", "licence", "split", *keys.split()}
        splits = Counter(record["split"] for record in records)
        assert 0 < splits["heldout"] < splits["train"]
        assert len({record["id"] for record in records}) == len(records)
    assert all([m["role"] for m in record["messages"]] == ["user", "assistant"] for record in made.sft)
    lost = Counter((d["source"], d["set"]) for d in made.dropped)
    for (source, name), row in made.rows.items():
        assert lost[source, name] == row.read - row.kept
        kept = [record for record in getattr(made, name, ()) if record["source"] == source]
        turns = ("messages", "prompt", "chosen", "rejected")
        texts = [r.get("text") or "".join(m["content"] for key in turns for m in r.get(key, [])) for r in kept]
        if name != "eval":
            sizes = (len(kept), sum(map(len, texts)), sum(len(text.encode()) for text in texts))
            assert sizes == (row.kept, row.chars_kept, row.bytes_kept)


def test_exam_questions_with_one_explanation_are_as_many_as_they_are(build_of, tmp_path):
    why = (
        "利福平可使肝药酶活性增强而加速其他药物的代谢，异烟肼主要损害周围神经和肝脏，宜同服维生素B6；链霉素有耳毒性和肾毒性，"
        "听力减退者停用；吡嗪酰胺使尿酸升高，可诱发痛风；乙胺丁醇可致球后视神经炎，用药前后查视力和视野；对氨基水杨酸胃肠道反应重，"
        "饭后服用；卷曲霉素注射处疼痛，须监测血钾。抗结核治疗讲求早期、联用、适量、规律和全程，初治涂阳者强化期两个月、巩固期四个月。"
    )
    asked = {"可引起周围神经炎的抗结核药物是": "B", "具有肝药酶诱导作用的抗结核药物是": "A"}
    rows = [f'"{text}","A 利福平\nB 异烟肼\nC 链霉素\nD 吡嗪酰胺",{letter},{why}\n' for text, letter in asked.items()]
    text = "".join(["Question,Options,Answer,Explanation\n", *rows, rows[0]])
    row = build_of(put(tmp_path / "raw", {"cmexam/train.csv": text}), tmp_path / "out").rows["cmexam", "cpt"]
    assert (row.kept, row.duplicate) == (2, 1)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.8, 1.0])
def test_general_share(build_of, tiny_raw, tmp_path, share):
    made = build_of(tiny_raw, tmp_path / "out", general_share=share)
    parts = Counter(record["part"] for record in made.sft)
    # To the nearest whole record of the side that is cut.
    assert abs(parts["general"] * (1 - share) - parts["medical"] * share) <= 0.5
    left_out = sum(row.excluded for (_, name), row in made.rows.items() if name == "sft")
    assert left_out == sum(d["reason"] == "mixing ratio" for d in made.dropped) > 0


def test_only_named_sources_are_read_but_benchmarks_always_and_held_out_records_do_not_move(
    build_of, tiny_raw, tmp_path
):
    """The draw is by text: without other sources, and behind a row more, every record stands at another place."""
    shares = {"heldout_share_sft": 0.4, "heldout_share_cpt": 0.4}
    both = build_of(tiny_raw, tmp_path / "one", **shares)
    some = build_of(tiny_raw, tmp_path / "two", sources=["cmd"], **shares)
    assert set(some.rows) == {("cmexam", "eval"), ("cmd", "cpt"), ("cmd", "sft")}
    cpt, sft = ({r["id"]: r["split"] for r in records} for records in (both.cpt, both.sft))
    assert all(cpt[own] == split for own, split in sft.items() if own in cpt)
    assert all(sft[r["id"]] == r["split"] for r in some.sft) and len({*sft.values()}) == 2
    put(tiny_raw, {"cmd/cmd.jsonl": jsonl([{"x": 1}]) + (tiny_raw / "cmd/cmd.jsonl").read_text(encoding="utf-8")})
    moved = build_of(tiny_raw, tmp_path / "moved", sources=["cmd"], **shares).sft
    assert [(r["messages"], r["split"]) for r in moved] == [(r["messages"], r["split"]) for r in some.sft]
    assert [r["id"] for r in moved] != [r["id"] for r in some.sft]


@pytest.mark.parametrize(
    "question, answer, reason, detail",
    [("痛", "忍", "too short", "3"), ("头痛怎么办呢医生", "休息\ud800几天", "undecodable characters", "U+D800")]
    + [("心绞痛怎么办", f"可用{c}", "undecodable characters", f"U+{ord(c):04X}") for c in "\ufffd\ue006\U000f1234"],
)
def test_undecodable_and_short_records_are_rejected_by_name(build_of, tmp_path, question, answer, reason, detail):
    row = json.dumps({"questions": [question], "answers": [answer]})
    raw = put(tmp_path / "raw", {"huatuo_knowledge_graph_qa/train_datasets.jsonl": row})
    dropped = build_of(raw, tmp_path / "out").dropped
    assert {(line["reason"], detail in line["detail"]) for line in dropped} == {(reason, True)}


@pytest.mark.parametrize("source", ["huatuo_knowledge_graph_qa", "general_zh"])
def test_an_escape_that_is_left_in_a_text_is_read_and_half_a_one_rejected(build_of, tmp_path, source):
    """Of text that was made JSON twice: a backslash, u and four digits."""
    rows = [
        {
            "question": "我\\u60a3\\u8005有糖尿病怎么办",
            "answer": "\\u8bf7\\u5230\\u5185\\u5206\\u6ccc\\u79d1\\ud83d\\ude00。",
        },
        {"question": "头痛三天了怎么办", "answer": "请到医院\\ud83d检查。"},
        {"question": "这个式子是什么意思呢", "answer": "是 \\underline{x} 和 \\mu_0，\\\\u60a3 不变。"},
    ]
    made = build_of(put(tmp_path / "raw", {f"{source}/a.jsonl": jsonl(rows)}), tmp_path / "out")
    said = [[message["content"] for message in record["messages"]] for record in made.sft]
    assert said == [["我患者有糖尿病怎么办", "请到内分泌科😀。"], list(rows[2].values())]
    assert {line["reason"] for line in made.dropped} == {"undecodable characters"}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sources": ["remedi"]}, "get it from"),
        (
            {"sources": []},
            r"sources = \[\]: none of them feeds training; there are huatuo_encyclopedia_qa, cmexam, cmd",
        ),
        ({"exclude_licences": ["MTI"]}, "did you mean 'MIT'"),
        # Another Creative Commons licence is no neighbour of the one that was meant.
        ({"exclude_licences": ["CC BY-NC-ND"]}, "the licences are .*CC BY-ND 4.0"),
        ({"exclude_licences": ["CC0"]}, "the licences are"),
        ({}, "no training source"),
    ],
)
def test_bad_parameters_and_an_empty_folder_are_one_sentence(build_of, tiny_raw, tmp_path, change, said):
    with pytest.raises(QilinError, match=said) as no:
        build_of(tiny_raw if change else tiny_raw / "cmd", tmp_path / "out", **change)
    assert ("did you mean" in str(no.value)) == ("did you mean" in said)


def test_folders_with_other_names_are_named_where_there_is_no_source(build_of, tmp_path):
    raw = put(tmp_path / "raw", {"CMExam/train.csv": "x", "toyhom/a.csv": "x"})
    with pytest.raises(QilinError, match="CMExam: no source .did you mean 'cmexam'.*toyhom: .*'toyhom_dialogue'"):
        build_of(raw, tmp_path / "out")


@pytest.mark.parametrize("words", ["CC BY-ND", "cc-by-nd 4.0", "BY-ND", "ND"])
def test_a_licence_is_excluded_by_a_part_of_its_name(build_of, tmp_path, words):
    triples, health39 = "哮喘@@疾病\t症状\t反复发作的喘息和胸闷@@症状\n", "name,symptom\n哮喘,喘息 气急 胸闷 咳嗽\n"
    raw = put(tmp_path / "raw", {"kg_cpubmed/a.txt": triples, "kg_39health/d.csv": health39})
    rows = build_of(raw, tmp_path / "out", exclude_licences=[words]).rows
    assert (rows["kg_cpubmed", "cpt"].excluded, rows["kg_39health", "cpt"].kept) == (1, 1)


def test_left_out_records_are_counted(build_of, tiny_raw, tmp_path):
    made = build_of(tiny_raw, tmp_path / "out", max_records_per_source=3, exclude_licences=["MIT", "Apache"])
    assert made.rows["toyhom_dialogue", "sft"].excluded == 1 and made.rows["toyhom_dialogue", "sft"].kept == 0
    assert made.rows["general_zh", "sft"].kept == 0, "a licence combined with others is excluded by each of its parts"
    assert made.rows["cmd", "cpt"].excluded == 3
    assert {d["reason"] for d in made.dropped} >= {"record limit", "licence"}


def test_a_book_of_the_user_has_no_stated_licence_and_the_known_ones_have_theirs(build_of, tmp_path):
    entries = [{"title": "规范", "content": "各级医院应当设立发热门诊并登记。"}]
    raw = {
        "内科学.txt": "第一章讲病史采集的方法与顺序，第一节讲现病史的写法，医生应当逐项询问并如实记录。",
        "tcm_ancient_books/001-本草.txt": "<篇名>根\n内容：气味苦，平，无毒，主治咳嗽上气，喉中如有水声。",
        "nhc_guides/g.json": json.dumps({"entries": entries}),
    }
    folder = put(tmp_path / "raw" / "plain_text", raw).parent
    made = build_of(folder, tmp_path / "out")
    licences = {record["text"][-5:-1]: record["licence"] for record in made.cpt}
    assert licences["如实记录"] == "not stated" and "not stated" in made.rows["plain_text", "cpt"].licence
    assert "out of copyright" in licences["如有水声"] and "official" in licences["诊并登记"]
    made = build_of(folder, tmp_path / "some", exclude_licences=["not stated"])
    assert len(made.cpt) == 2 and [d["detail"] for d in made.dropped] == ["not stated"]


# Letters that no name is made of.
NOTICE = "".join(chr(0x3400 + 7 * number) for number in range(80)) + "。"


def test_later_copies_of_a_long_substring_are_cut_out_but_no_heading_or_nothing_happens(build_of, tmp_path):
    books = {
        "a.txt": "内科学总论\n本书第一章讲病史采集的方法与顺序。" + NOTICE,
        "b.txt": NOTICE + "本书第二章讲体格检查：视诊、触诊、叩诊和听诊四步依次进行，不可颠倒。",
        "c.txt": NOTICE + "完。",
        "d/1-本草.txt": f"<篇名>总论\n内容：{NOTICE}根味苦，平，无毒，主治咳嗽上气。",
        "e/只有题目还在的论述要旨.txt": NOTICE,
    }
    raw = put(tmp_path / "raw" / "plain_text", books).parent
    made = build_of(raw, tmp_path / "out", near_dup_threshold=0.99)
    row = made.rows["plain_text", "cpt"]
    assert (row.read, row.kept, row.duplicate) == (5, 3, 2) and row.substring_chars >= 2 * len(NOTICE)
    first, second, third = (record["text"] for record in made.cpt)
    assert NOTICE in first and NOTICE[:40] not in second and "视诊、触诊、叩诊和听诊" in second
    assert third == "《本草》总论\n根味苦，平，无毒，主治咳嗽上气。"
    lost = [(line["file"][0], line["reason"]) for line in made.dropped]
    assert lost == [("c", "repeated substring"), ("e", "repeated substring")]
    row = build_of(raw, tmp_path / "none", exact_substrings=None, near_dup_threshold=0.99).rows["plain_text", "cpt"]
    assert (row.kept, row.duplicate, row.substring_chars) == (5, 0, 0)


def test_only_running_text_is_cut(build_of, tmp_path):
    price = "根据不同医院收费标准不一致且按病情轻重与住院天数另计护理床位检查化验药品材料等各项费用，" * 2
    rows = [f'题{name}怎么办，{NOTICE}此时最恰当的是,"A 甲\nB 乙",A,因为{name}。{NOTICE}' for name in ("子", "丑")]
    files = {
        "cmd/a.jsonl": jsonl([talk(f"我得了{name}怎么办", NOTICE + name) for name in ("甲病", "乙病")]),
        "huatuo_encyclopedia_qa/a.jsonl": jsonl([{"questions": f"{n}是什么", "answers": n + NOTICE} for n in "天地"]),
        "cmexam/train.csv": "Question,Options,Answer,Explanation\n" + "\n".join(rows),
        "kg_39health/d.csv": f"name,symptom,money\n甲病,甲咳,{price}\n乙病,乙痛,{price}\n",
    }
    made = build_of(put(tmp_path / "raw", files), tmp_path / "out", near_dup_threshold=0.99)
    uncut = build_of(tmp_path / "raw", tmp_path / "none", near_dup_threshold=0.99, exact_substrings=None)
    assert made.cpt == uncut.cpt and len(uncut.cpt) == 8
    assert not any(row.substring_chars for row in made.rows.values())


def test_entities_of_several_graphs_are_one_record_with_provenance(build_of, tmp_path):
    xywy = [
        {"name": "哮喘", "cause": "过敏原和感染", "symptom": ["喘息", "咳嗽"]},
        {"name": "哮喘", "symptom": ["咳嗽"]},
        {"name": "痛风", "cause": "尿酸过高，结晶沉积在关节", "symptom": ["关节红肿热痛"]},
        *[{"name": "湿疹", "symptom": ["皮肤发红渗出瘙痒"]}] * 2,
    ]
    health39 = "name,alias,symptom,drug\n哮喘 [详细],支气管哮喘 [详细],喘息 气急 [详细],沙丁胺醇 [详细]\n"
    raw = put(tmp_path / "raw", {"kg_39health/disease.csv": health39, "kg_xywy/medical.json": jsonl(xywy)})
    made = build_of(raw, tmp_path / "out")
    graphs = [made.rows[name, "cpt"] for name in ("kg_39health", "kg_xywy")]
    # A disease that its own graph repeats is merged, but not counted as one that stands elsewhere.
    assert [(r.read, r.kept, r.merged, r.elsewhere) for r in graphs] == [(1, 1, 0, 0), (5, 2, 3, 1)]
    asthma = next(record for record in made.cpt if "哮喘" in record["text"])
    assert "咳嗽" in asthma["text"] and "过敏原" in asthma["text"] and asthma["text"].count("喘息") < 4
    assert asthma["graphs"]["症状"] == ["kg_39health", "kg_xywy"] and asthma["graphs"]["病因"] == ["kg_xywy"]
    assert Counter(lost["reason"] for lost in made.dropped) == {"merged": 1, "repeated": 2}
    assert all("kg_39health" in lost["detail"] or "kg_xywy" in lost["detail"] for lost in made.dropped)


def test_a_system_text_is_judged_as_any_other(build_of, tiny_raw, tmp_path):
    """It is de-identified, and a test question in it makes the record contaminated."""
    told = "你是药师，咨询者的电话是13912345678，姓名：安晓红。"
    rows = [talk("孩子怎么了，要去医院吗？", "请到儿科就诊，拍片检查。", system=told)]
    rows += [talk("皮疹三天了怎么办？", "外用炉甘石洗剂，避免抓挠。", system=f"题目：{LEAK}")]
    made = build_of(put(tiny_raw, {"medicalgpt_sft/b.jsonl": jsonl(rows)}), tmp_path / "out")
    (kept,) = [line["messages"][0]["content"] for line in made.sft if line["messages"][0]["role"] == "system"]
    assert "139" not in kept and "安晓红" not in kept and "药师" in kept
    assert made.rows["medicalgpt_sft", "sft"].contaminated == 1


def test_the_pairs_of_a_ranked_list_all_stay_and_are_held_out_together(build_of, tmp_path):
    """They share a long question and an answer: taken for near-duplicates five of six went, and those of one question
    stood on both sides of the split."""
    draw = random.Random(4)

    def words(count):
        return "".join(chr(0x3400 + draw.randrange(3000)) for _ in range(count))

    asked = [{"instruction": words(150), "output": [words(20) for _ in range(4)]} for _ in range(12)]
    # An answer that stands twice in its list makes equal pairs, of which one stays.
    asked[0]["output"][2] = asked[0]["output"][1]
    raw = put(tmp_path / "raw", {"zhongjing_rlhf/a.json": jsonl(asked)})
    made = build_of(raw, tmp_path / "out", ranked_answers="all_pairs", heldout_share_dpo=0.4)
    found = Counter(row["prompt"][0]["content"] for row in made.dpo)
    assert sorted(found.values()) == [3] + [6] * 11
    splits = {(row["prompt"][0]["content"], row["split"]) for row in made.dpo}
    assert len(splits) == 12 and {split for _, split in splits} == {"train", "heldout"}
