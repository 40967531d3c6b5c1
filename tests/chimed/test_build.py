"""The build, end to end, on a raw folder small enough to know every record."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from raw_files import jsonl, put

from qilin_lib.chimed.build import build_sets
from qilin_lib.errors import QilinError

SETS = ("cpt", "sft", "dpo", "general")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(params, raw, out, **changed):
    vars(params).update(changed)
    ledger = build_sets(params, raw, out, progress=lambda line: None)
    return ledger.rows, {name: lines(out / f"{name}.jsonl") for name in (*SETS, "dropped")}, ledger


def talk(question, answer, **more):
    return {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]} | more


def test_fate_of_every_planted_flaw(params, tiny_raw, tmp_path):
    rows, made, ledger = run(params, tiny_raw, tmp_path / "out")
    row = rows["huatuo_encyclopedia_qa", "sft"]
    assert (row.read, row.kept, dict(row.rejected), row.contaminated) == (8, 6, {"broken JSON": 1}, 1)
    assert rows["cmd", "sft"].rejected == {"no answer": 1} and rows["medicalgpt_sft", "cpt"].duplicate == 1
    assert ledger.hits == {"huatuo_encyclopedia_qa": {"cmexam": 1}} and rows["cmexam", "eval"].kept == 1
    assert rows["toyhom_dialogue", "sft"].deidentified == {"电话": 1}
    assert "13912345678" not in json.dumps([made[name] for name in SETS], ensure_ascii=False)
    reasons = Counter((d["source"], d["set"], d["reason"]) for d in made["dropped"])
    assert (
        reasons["huatuo_encyclopedia_qa", "cpt", "contaminated"] == 1 == reasons["medicalgpt_sft", "sft", "duplicate"]
    )
    (broken,) = (d for d in made["dropped"] if d["reason"] == "broken JSON" and d["set"] == "cpt")
    assert (broken["file"], broken["line"]) == ("train_datasets.jsonl", 7)


def test_lines_have_the_agreed_keys_and_dropped_ones_explain_the_ledger(params, tiny_raw, tmp_path, monkeypatch):
    monkeypatch.setattr("qilin_lib.chimed.build.BATCH_UNITS", 3)
    rows, made, _ = run(params, tiny_raw, tmp_path / "out")
    own = {"cpt": "type text", "sft": "part messages", "dpo": "part prompt chosen rejected", "general": "text"}
    for name in SETS:
        assert set(made[name][0]) == {"id", "source", "licence", "split", *own[name].split()}
        splits = Counter(record["split"] for record in made[name])
        assert 0 < splits["heldout"] < splits["train"]
        assert len({record["id"] for record in made[name]}) == len(made[name])
    assert all([m["role"] for m in record["messages"]] == ["user", "assistant"] for record in made["sft"])
    lost = Counter((d["source"], d["set"]) for d in made["dropped"])
    for (source, name), row in rows.items():
        assert lost[source, name] == row.read - row.kept
        kept = [record for record in made.get(name, ()) if record["source"] == source]
        turns = ("messages", "prompt", "chosen", "rejected")
        texts = [r.get("text") or "".join(m["content"] for key in turns for m in r.get(key, [])) for r in kept]
        if name != "eval":
            sizes = (len(kept), sum(map(len, texts)), sum(len(text.encode()) for text in texts))
            assert sizes == (row.kept, row.chars_kept, row.bytes_kept)


def test_exam_questions_with_one_explanation_are_as_many_as_they_are(params, tmp_path):
    why = (
        "利福平可使肝药酶活性增强而加速其他药物的代谢，异烟肼主要损害周围神经和肝脏，宜同服维生素B6；链霉素有耳毒性和肾毒性，"
        "听力减退者停用；吡嗪酰胺使尿酸升高，可诱发痛风；乙胺丁醇可致球后视神经炎，用药前后查视力和视野；对氨基水杨酸胃肠道反应重，"
        "饭后服用；卷曲霉素注射处疼痛，须监测血钾。抗结核治疗讲求早期、联用、适量、规律和全程，初治涂阳者强化期两个月、巩固期四个月。"
    )
    header = "Question,Options,Answer,Explanation\n"
    rows = [f'"{asked}","A 利福平\nB 异烟肼\nC 链霉素\nD 吡嗪酰胺",{letter},{why}' for asked, letter in
            (("可引起周围神经炎的抗结核药物是", "B"), ("具有肝药酶诱导作用的抗结核药物是", "A"),
             ("可引起周围神经炎的抗结核药物是", "B"))]  # fmt: skip
    put(tmp_path / "raw" / "cmexam", {"train.csv": header + "\n".join(rows) + "\n"})
    ledger, made, _ = run(params, tmp_path / "raw", tmp_path / "out")
    assert ledger["cmexam", "cpt"].kept == 2 and ledger["cmexam", "cpt"].duplicate == 1


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_general_share(params, tiny_raw, tmp_path, share):
    rows, made, _ = run(params, tiny_raw, tmp_path / "out", general_share=share)
    general = sum(record["part"] == "general" for record in made["sft"])
    assert general / len(made["sft"]) == pytest.approx(share, abs=0.06)
    left_out = sum(row.excluded for (_, name), row in rows.items() if name == "sft")
    assert left_out == sum(d["reason"] == "mixing ratio" for d in made["dropped"]) > 0


def test_only_named_sources_are_read_but_benchmarks_always_and_held_out_records_do_not_move(params, tiny_raw, tmp_path):
    """The draw is by text: without other sources, and behind a row more, every record stands at another place."""
    both = run(params, tiny_raw, tmp_path / "one", heldout_share_sft=0.4, heldout_share_cpt=0.4)[1]
    rows, some, _ = run(params, tiny_raw, tmp_path / "two", sources=["cmd"])
    assert set(rows) == {("cmexam", "eval"), ("cmd", "cpt"), ("cmd", "sft")}
    splits = {name: {r["id"]: r["split"] for r in both[name]} for name in ("cpt", "sft")}
    assert all(splits["cpt"][own] == split for own, split in splits["sft"].items() if own in splits["cpt"])
    assert all(splits["sft"][r["id"]] == r["split"] for r in some["sft"]) and len({*splits["sft"].values()}) == 2
    put(tiny_raw, {"cmd/cmd.jsonl": jsonl([{"x": 1}]) + (tiny_raw / "cmd/cmd.jsonl").read_text(encoding="utf-8")})
    moved = run(params, tiny_raw, tmp_path / "moved")[1]["sft"]
    assert [(r["messages"], r["split"]) for r in moved] == [(r["messages"], r["split"]) for r in some["sft"]]
    assert [r["id"] for r in moved] != [r["id"] for r in some["sft"]]


@pytest.mark.parametrize(
    "question, answer, reason, detail",
    [("痛", "忍", "too short", "3"), ("头痛怎么办呢医生", "休息\ud800几天", "undecodable characters", "U+D800")]
    + [("心绞痛怎么办", f"可用{c}", "undecodable characters", f"U+{ord(c):04X}") for c in "\ufffd\ue006\U000f1234"],
)
def test_undecodable_and_short_records_are_rejected_by_name(params, tmp_path, question, answer, reason, detail):
    row = json.dumps({"questions": [question], "answers": [answer]})
    raw = put(tmp_path / "raw", {"huatuo_knowledge_graph_qa/train_datasets.jsonl": row})
    _, made, _ = run(params, raw, tmp_path / "out")
    assert {(line["reason"], detail in line["detail"]) for line in made["dropped"]} == {(reason, True)}


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sources": ["cmdd"]}, "did you mean 'cmd'"),
        ({"sources": ["remedi"]}, "get it from"),
        ({"exclude_licences": ["MTI"]}, "did you mean 'MIT'"),
        ({"exclude_licences": ["CC BY-NC-ND"]}, "the licences are .*CC BY-ND 4.0"),
        ({"exclude_licences": ["CC0"]}, "the licences are"),
    ],
)
def test_bad_parameters_are_one_sentence(params, tiny_raw, tmp_path, change, said):
    with pytest.raises(QilinError, match=said) as no:
        run(params, tiny_raw, tmp_path / "out", **change)
    # Another Creative Commons licence is no neighbour of the one that was meant.
    assert ("did you mean" in str(no.value)) == ("did you mean" in said)


def test_an_empty_raw_folder_is_an_error(params, tmp_path):
    with pytest.raises(QilinError, match="no training source"):
        build_sets(params, tmp_path, tmp_path / "out")


@pytest.mark.parametrize("words", ["CC BY-ND", "cc-by-nd 4.0", "BY-ND", "ND"])
def test_a_licence_is_excluded_by_a_part_of_its_name(params, tmp_path, words):
    triples, health39 = "哮喘@@疾病\t症状\t反复发作的喘息和胸闷@@症状\n", "name,symptom\n哮喘,喘息 气急 胸闷 咳嗽\n"
    raw = put(tmp_path / "raw", {"kg_cpubmed/a.txt": triples, "kg_39health/d.csv": health39})
    rows = run(params, raw, tmp_path / "out", exclude_licences=[words])[0]
    assert (rows["kg_cpubmed", "cpt"].excluded, rows["kg_39health", "cpt"].kept) == (1, 1)


def test_left_out_records_are_counted(params, tiny_raw, tmp_path):
    rows, made, _ = run(
        params, tiny_raw, tmp_path / "out", max_records_per_source=3, exclude_licences=["MIT", "Apache"]
    )
    assert rows["toyhom_dialogue", "sft"].excluded == 1 and rows["toyhom_dialogue", "sft"].kept == 0
    assert rows["general_zh", "sft"].kept == 0, "a licence combined with others is excluded by each of its parts"
    assert rows["cmd", "cpt"].excluded == 3 and {d["reason"] for d in made["dropped"]} >= {"record limit", "licence"}


def test_a_book_of_the_user_has_no_stated_licence_and_the_known_ones_have_theirs(params, tmp_path):
    entries = [{"title": "规范", "content": "各级医院应当设立发热门诊并登记。"}]
    raw = {
        "内科学.txt": "第一章讲病史采集的方法与顺序，第一节讲现病史的写法，医生应当逐项询问并如实记录。",
        "tcm_ancient_books/001-本草.txt": "<篇名>根\n内容：气味苦，平，无毒，主治咳嗽上气，喉中如有水声。",
        "nhc_guides/g.json": json.dumps({"entries": entries}),
    }
    folder = put(tmp_path / "raw" / "plain_text", raw).parent
    rows, made, _ = run(params, folder, tmp_path / "out")
    licences = {record["text"][-5:-1]: record["licence"] for record in made["cpt"]}
    assert licences["如实记录"] == "not stated" and "not stated" in rows["plain_text", "cpt"].licence
    assert "out of copyright" in licences["如有水声"] and "official" in licences["诊并登记"]
    made = run(params, folder, tmp_path / "some", exclude_licences=["not stated"])[1]
    assert len(made["cpt"]) == 2 and [d["detail"] for d in made["dropped"]] == ["not stated"]


NOTICE = "".join(chr(0x4E00 + 7 * number) for number in range(80)) + "。"


def test_later_copies_of_a_long_substring_are_cut_out_or_nothing_happens(params, tmp_path):
    books = {
        "a.txt": "内科学总论\n本书第一章讲病史采集的方法与顺序。" + NOTICE,
        "b.txt": NOTICE + "本书第二章讲体格检查：视诊、触诊、叩诊和听诊四步依次进行，不可颠倒。",
        "c.txt": NOTICE + "完。",
    }
    raw = put(tmp_path / "raw" / "plain_text", books).parent
    rows, made, _ = run(params, raw, tmp_path / "out", near_dup_threshold=0.99)
    row = rows["plain_text", "cpt"]
    assert (row.read, row.kept, row.duplicate) == (3, 2, 1) and row.substring_chars >= len(NOTICE)
    first, second = (record["text"] for record in made["cpt"])
    assert NOTICE in first and NOTICE[:40] not in second and "视诊、触诊、叩诊和听诊" in second
    (lost,) = made["dropped"]
    assert lost["file"] == "c.txt" and lost["reason"] == "repeated substring"
    row = run(params, raw, tmp_path / "none", exact_substrings=None)[0]["plain_text", "cpt"]
    assert (row.kept, row.duplicate, row.substring_chars) == (3, 0, 0)


def test_the_heading_of_a_passage_is_not_cut(params, tmp_path):
    section = "<篇名>总论\n内容：" + NOTICE
    books = {
        "a/1-本草.txt": section + "根味苦，平，无毒，主治咳嗽上气。",
        "b/2-本草.txt": section + "叶味甘，寒，有小毒，主治头风。",
    }
    raw = put(tmp_path / "raw" / "plain_text", books).parent
    _, made, _ = run(params, raw, tmp_path / "out", near_dup_threshold=0.99)
    first, second = (record["text"] for record in made["cpt"])
    assert NOTICE in first and second == "《本草》总论\n叶味甘，寒，有小毒，主治头风。"


def test_only_running_text_is_cut(params, tmp_path):
    price = "根据不同医院收费标准不一致且按病情轻重与住院天数另计护理床位检查化验药品材料等各项费用，" * 2
    rows = [f'题{name}怎么办，{NOTICE}此时最恰当的是,"A 甲\nB 乙",A,因为{name}。{NOTICE}' for name in ("子", "丑")]
    files = {
        "cmd/a.jsonl": jsonl([talk(f"我得了{name}怎么办", NOTICE + name) for name in ("甲病", "乙病")]),
        "huatuo_encyclopedia_qa/a.jsonl": jsonl([{"questions": f"{n}是什么", "answers": n + NOTICE} for n in "天地"]),
        "cmexam/train.csv": "Question,Options,Answer,Explanation\n" + "\n".join(rows),
        "kg_39health/d.csv": f"name,symptom,money\n甲病,甲咳,{price}\n乙病,乙痛,{price}\n",
    }
    rows, whole, _ = run(params, put(tmp_path / "raw", files), tmp_path / "out", near_dup_threshold=0.99)
    uncut = run(params, tmp_path / "raw", tmp_path / "none", exact_substrings=None)[1]
    assert whole["cpt"] == uncut["cpt"] and len(uncut["cpt"]) == 8
    assert not any(row.substring_chars for row in rows.values())


def test_a_passage_of_which_only_the_heading_is_left_is_lost(params, tmp_path):
    names = {"一/甲篇论述要旨概要.txt": NOTICE[::-1] + "余。", "二/乙篇论述要旨概要.txt": NOTICE[:-1] + "。"}
    raw = put(tmp_path / "raw" / "plain_text", {name: NOTICE + text for name, text in names.items()}).parent
    _, made, _ = run(params, raw, tmp_path / "out", near_dup_threshold=0.99)
    (record,) = made["cpt"]
    assert record["text"].startswith("甲篇") and made["dropped"][0]["reason"] == "repeated substring"


def test_entities_of_several_graphs_are_one_record_with_provenance(params, tmp_path):
    xywy = [
        {"name": "哮喘", "cause": "过敏原和感染", "symptom": ["喘息", "咳嗽"]},
        {"name": "哮喘", "symptom": ["咳嗽"]},
        {"name": "痛风", "cause": "尿酸过高，结晶沉积在关节", "symptom": ["关节红肿热痛"]},
        *[{"name": "湿疹", "symptom": ["皮肤发红渗出瘙痒"]}] * 2,
    ]
    health39 = "name,alias,symptom,drug\n哮喘 [详细],支气管哮喘 [详细],喘息 气急 [详细],沙丁胺醇 [详细]\n"
    raw = put(tmp_path / "raw", {"kg_39health/disease.csv": health39, "kg_xywy/medical.json": jsonl(xywy)})
    rows, made, _ = run(params, raw, tmp_path / "out")
    graphs = {name: rows[name, "cpt"] for name in ("kg_39health", "kg_xywy")}
    # A disease that its own graph repeats is merged, but not counted as one that stands elsewhere.
    assert [(r.read, r.kept, r.merged, r.elsewhere) for r in graphs.values()] == [(1, 1, 0, 0), (5, 2, 3, 1)]
    asthma = next(record for record in made["cpt"] if "哮喘" in record["text"])
    assert "咳嗽" in asthma["text"] and "过敏原" in asthma["text"] and asthma["text"].count("喘息") < 4
    assert asthma["graphs"]["症状"] == ["kg_39health", "kg_xywy"] and asthma["graphs"]["病因"] == ["kg_xywy"]
    assert Counter(lost["reason"] for lost in made["dropped"]) == {"merged": 1, "repeated": 2}
    assert all("kg_39health" in lost["detail"] or "kg_xywy" in lost["detail"] for lost in made["dropped"])


def test_a_system_text_is_judged_as_any_other(params, tiny_raw, tmp_path):
    """It is de-identified, and a test question in it makes the record contaminated."""
    told = "你是药师，咨询者的电话是13912345678，姓名：安晓红。"
    asked = "题目：患儿咳嗽三天伴发热，听诊双肺有湿啰音，最可能的诊断是"
    rows = [talk("孩子怎么了，要去医院吗？", "请到儿科就诊，拍片检查。", system=told)]
    rows += [talk("皮疹三天了怎么办？", "外用炉甘石洗剂，避免抓挠。", system=asked)]
    put(tiny_raw, {"medicalgpt_sft/b.jsonl": jsonl(rows)})
    rows, made, _ = run(params, tiny_raw, tmp_path / "out")
    (kept,) = [line["messages"][0]["content"] for line in made["sft"] if line["messages"][0]["role"] == "system"]
    assert "139" not in kept and "安晓红" not in kept and "药师" in kept
    assert rows["medicalgpt_sft", "sft"].contaminated == 1


def test_the_pairs_of_a_ranked_list_all_stay_and_are_held_out_together(params, tmp_path):
    """They share a long question and an answer: taken for near-duplicates five of six went, and those of one question
    stood on both sides of the split."""
    draw = random.Random(4)

    def words(count):
        return "".join(chr(0x4E00 + draw.randrange(3000)) for _ in range(count))

    asked = [{"instruction": words(150), "output": [words(20) for _ in range(4)]} for _ in range(12)]
    # An answer that stands twice in its list makes equal pairs, of which one stays.
    asked[0]["output"][2] = asked[0]["output"][1]
    raw = put(tmp_path / "raw", {"zhongjing_rlhf/a.json": jsonl(asked)})
    _, made, _ = run(params, raw, tmp_path / "out", ranked_answers="all_pairs", heldout_share_dpo=0.4)
    found = Counter(row["prompt"][0]["content"] for row in made["dpo"])
    assert sorted(found.values()) == [3] + [6] * 11
    splits = {(row["prompt"][0]["content"], row["split"]) for row in made["dpo"]}
    assert len(splits) == 12 and {split for _, split in splits} == {"train", "heldout"}
