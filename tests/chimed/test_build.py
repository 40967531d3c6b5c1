"""The build, end to end, on a raw folder small enough to know every record."""

from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from raw_files import jsonl, put

from qilin_lib.chimed.build import build_sets
from qilin_lib.errors import QilinError

FILES = ("cpt.jsonl", "sft.jsonl", "dpo.jsonl", "general.jsonl", "ledger.json", "dropped.jsonl")


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(params, raw, out):
    ledger = build_sets(params, raw, out, progress=lambda line: None)
    return ledger, {name.split(".")[0]: lines(out / name) for name in FILES if name.endswith("jsonl")}


def test_fate_of_every_planted_flaw(params, tiny_raw, tmp_path):
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    row = ledger.rows["huatuo_encyclopedia_qa", "sft"]
    assert (row.read, row.kept, dict(row.rejected), row.contaminated) == (8, 6, {"broken JSON": 1}, 1)
    assert ledger.rows["cmd", "sft"].rejected == {"no answer": 1}
    assert ledger.rows["medicalgpt_sft", "cpt"].duplicate == 1
    assert ledger.hits == {"huatuo_encyclopedia_qa": {"cmexam": 1}}
    assert ledger.rows["toyhom_dialogue", "sft"].deidentified == {"电话": 1}
    assert ledger.rows["cmexam", "eval"].kept == 1
    assert not any("13912345678" in json.dumps(made[name], ensure_ascii=False) for name in ("cpt", "sft", "dpo"))
    reasons = Counter((d["source"], d["set"], d["reason"]) for d in made["dropped"])
    assert (
        reasons["huatuo_encyclopedia_qa", "cpt", "contaminated"] == 1
        and reasons["medicalgpt_sft", "sft", "duplicate"] == 1
    )
    (broken,) = (d for d in made["dropped"] if d["reason"] == "broken JSON" and d["set"] == "cpt")
    assert (broken["file"], broken["line"]) == ("train_datasets.jsonl", 7)


def test_dropped_lines_explain_the_ledger(params, tiny_raw, tmp_path):
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    lost = Counter((d["source"], d["set"]) for d in made["dropped"])
    for key, row in ledger.rows.items():
        assert lost[key] == row.read - row.kept
        if key[1] != "eval":
            kept = [record for record in made[key[1]] if record["source"] == key[0]]
            assert len(kept) == row.kept
            texts = [
                r["text"]
                if "text" in r
                else "".join(m["content"] for k in ("messages", "prompt", "chosen", "rejected") for m in r.get(k, []))
                for r in kept
            ]
            assert sum(map(len, texts)) == row.chars_kept and sum(len(t.encode()) for t in texts) == row.bytes_kept


def test_lines_have_the_agreed_keys(params, tiny_raw, tmp_path):
    _, made = run(params, tiny_raw, tmp_path / "out")
    assert set(made["cpt"][0]) == {"id", "source", "type", "licence", "text", "split"}
    assert set(made["sft"][0]) == {"id", "source", "part", "licence", "messages", "split"}
    assert set(made["dpo"][0]) == {"id", "source", "part", "licence", "prompt", "chosen", "rejected", "split"}
    assert set(made["general"][0]) == {"id", "source", "licence", "text", "split"}
    for name in ("cpt", "sft", "dpo", "general"):
        assert {record["split"] for record in made[name]} == {"train", "heldout"}
        assert len({record["id"] for record in made[name]}) == len(made[name])
    for record in made["sft"]:
        roles = [message["role"] for message in record["messages"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2)


def test_same_input_same_bytes(params, tiny_raw, tmp_path):
    for name in ("one", "two"):
        build_sets(params, tiny_raw, tmp_path / name, progress=lambda line: None)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_report_counts_and_keeps(params, tiny_raw, tmp_path):
    params.decontaminate = "report"
    ledger, _ = run(params, tiny_raw, tmp_path / "out")
    assert (
        ledger.hits == {"huatuo_encyclopedia_qa": {"cmexam": 1}}
        and sum(row.contaminated for row in ledger.rows.values()) == 0
    )
    params.decontaminate = False
    assert run(params, tiny_raw, tmp_path / "off")[0].hits == {}


def test_left_out_records_are_counted(params, tiny_raw, tmp_path):
    params.max_records_per_source, params.exclude_licences = 3, ["MIT"]
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    assert ledger.rows["huatuo_encyclopedia_qa", "cpt"].excluded == 4
    assert ledger.rows["toyhom_dialogue", "sft"].excluded == 1 and ledger.rows["toyhom_dialogue", "sft"].kept == 0
    assert {d["reason"] for d in made["dropped"]} >= {"record limit", "licence"}


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_general_share(params, tiny_raw, tmp_path, share):
    params.general_share = share
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    general = sum(record["part"] == "general" for record in made["sft"])
    assert general / len(made["sft"]) == pytest.approx(share, abs=0.06)
    left_out = sum(row.excluded for key, row in ledger.rows.items() if key[1] == "sft")
    assert left_out == sum(d["reason"] == "mixing ratio" for d in made["dropped"]) > 0


def test_a_system_text_is_judged_as_any_other(params, tiny_raw, tmp_path):
    """It is de-identified, and a test question in it makes the record contaminated."""
    stem = "患儿咳嗽三天伴发热，听诊双肺有湿啰音，最可能的诊断是"
    turns = [
        {"from": "human", "value": "孩子怎么了，要去医院吗？"},
        {"from": "gpt", "value": "请到儿科就诊，拍片检查。"},
    ]
    told = {"conversations": turns, "system": "你是药师，咨询者的电话是13912345678，姓名：安晓红。"}
    other = [{"from": "human", "value": "皮疹三天了怎么办？"}, {"from": "gpt", "value": "外用炉甘石洗剂，避免抓挠。"}]
    asked = {"conversations": other, "system": f"题目：{stem}"}
    put(tiny_raw, {"medicalgpt_sft/b.jsonl": jsonl([told, asked])})
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    (kept,) = [line["messages"] for line in made["sft"] if line["messages"][0]["role"] == "system"]
    assert "139" not in kept[0]["content"] and "安晓红" not in kept[0]["content"] and "药师" in kept[0]["content"]
    assert ledger.rows["medicalgpt_sft", "sft"].contaminated == 1


RANKED = ["先测体温，多喝温水，超过三天请到儿科就诊。", "喝水就好，不用管它，过几天自己会好。", "不知道。"]


@pytest.mark.parametrize("ranked, pairs", [("best_two", [(0, 1)]), ("all_pairs", [(0, 1), (0, 2), (1, 2)])])
def test_a_ranked_list_of_answers(params, tmp_path, ranked, pairs):
    history = [["孩子两岁，从昨天夜里开始发热。", "量体温了吗？"]]
    row = {"instruction": "量了，三十八度五，怎么办？", "input": "", "output": RANKED, "history": history}
    put(tmp_path / "raw", {"zhongjing_rlhf/a.json": json.dumps([row], ensure_ascii=False)})
    params.ranked_answers, params.near_dup_threshold = ranked, 1.0
    ledger, made = run(params, tmp_path / "raw", tmp_path / "out")
    sides = [(line["chosen"][0]["content"], line["rejected"][0]["content"]) for line in made["dpo"]]
    assert sides == [(RANKED[better], RANKED[worse]) for better, worse in pairs]
    prompt = [*history[0], row["instruction"]]
    assert all([turn["content"] for turn in line["prompt"]] == prompt for line in made["dpo"])
    assert ledger.rows["zhongjing_rlhf", "dpo"].read == len(pairs)


def test_only_named_sources_are_read_but_benchmarks_always(params, tiny_raw, tmp_path):
    params.sources = ["cmd"]
    ledger, _ = run(params, tiny_raw, tmp_path / "out")
    assert set(ledger.rows) == {("cmexam", "eval"), ("cmd", "cpt"), ("cmd", "sft")}


def test_held_out_records_do_not_move_when_others_come(params, tiny_raw, tmp_path):
    params.heldout_share_sft = params.heldout_share_cpt = 0.4
    before = {r["id"]: r["split"] for r in run(params, tiny_raw, tmp_path / "one")[1]["sft"]}
    # Without the first source every record of the others stands at another place.
    params.sources = ["cmd", "toyhom_dialogue"]
    made = run(params, tiny_raw, tmp_path / "two")[1]
    assert all(before[r["id"]] == r["split"] for r in made["sft"]) and {r["split"] for r in made["sft"]} == {
        "train",
        "heldout",
    }
    splits = {r["id"]: r["split"] for r in made["cpt"]}
    assert all(splits[r["id"]] == r["split"] for r in made["sft"])


def test_undecodable_and_short_records_are_rejected(params, tiny_raw, tmp_path):
    broken = '{"questions": ["头痛怎么办呢医生"], "answers": ["休息\\ud800几天"]}\n'
    short = '{"questions": ["痛"], "answers": ["忍"]}\n'
    folder = tiny_raw / "huatuo_knowledge_graph_qa"
    folder.mkdir()
    (folder / "train_datasets.jsonl").write_text(broken + short, encoding="utf-8")
    ledger, _ = run(params, tiny_raw, tmp_path / "out")
    assert ledger.rows["huatuo_knowledge_graph_qa", "cpt"].rejected == {"undecodable characters": 1, "too short": 1}


@pytest.mark.parametrize("lost", ["\ufffd", "\ue006", "\uf8ff", "\U000f1234"])
def test_a_record_with_a_lost_character_is_rejected_by_name(params, tiny_raw, tmp_path, lost):
    rows = [{"questions": ["心绞痛吃什么药"], "answers": [f"可以吃盐酸地尔硫{lost}片"]}]
    put(tiny_raw / "huatuo_knowledge_graph_qa", {"train_datasets.jsonl": jsonl(rows)})
    ledger, made = run(params, tiny_raw, tmp_path / "out")
    assert ledger.rows["huatuo_knowledge_graph_qa", "cpt"].rejected == {"undecodable characters": 1}
    (dropped,) = (d for d in made["dropped"] if d["source"] == "huatuo_knowledge_graph_qa" and d["set"] == "cpt")
    assert f"U+{ord(lost):04X}" in dropped["detail"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"sources": ["cmdd"]}, "did you mean 'cmd'"),
        ({"sources": ["remedi"]}, "get it from"),
        ({"exclude_licences": ["MTI"]}, "did you mean 'MIT'"),
        ({"exclude_licences": ["CC BY-NC-ND"]}, "the licences are .*CC BY-ND 4.0"),
        ({"sources": ["cmexam"]}, None),
    ],
)
def test_bad_parameters_are_one_sentence(params, tiny_raw, tmp_path, change, said):
    vars(params).update(change)
    if said is None:
        build_sets(params, tiny_raw, tmp_path / "out", progress=lambda line: None)
        return
    with pytest.raises(QilinError, match=said):
        build_sets(params, tiny_raw, tmp_path / "out")


def test_no_other_creative_commons_licence_is_offered_in_place_of_the_one_that_was_meant(params, tiny_raw, tmp_path):
    for meant in ("CC BY-NC-ND", "CC BY-NC-ND 4.0", "CC0"):
        params.exclude_licences = [meant]
        with pytest.raises(QilinError) as no:
            build_sets(params, tiny_raw, tmp_path / "out")
        assert "did you mean" not in str(no.value)


def test_a_book_of_the_user_has_no_stated_licence_and_the_known_ones_have_theirs(params, tmp_path):
    text = "第一章讲病史采集的方法与顺序，第{}节讲现病史的写法，医生应当逐项询问并如实记录。"
    raw = {
        "内科学.txt": text.format("一"),
        "tcm_ancient_books/001-本草.txt": "<篇名>根\n内容：气味苦，平，无毒，主治咳嗽上气，喉中如有水声。",
        "nhc_guides/g.json": json.dumps(
            {"entries": [{"title": "规范", "content": "各级医院应当设立发热门诊并登记。"}]}
        ),
    }
    folder = put(tmp_path / "raw" / "plain_text", raw).parent
    ledger, made = run(params, folder, tmp_path / "out")
    licences = {record["text"][-5:-1]: record["licence"] for record in made["cpt"]}
    assert licences["如实记录"] == "not stated"
    assert "out of copyright" in licences["如有水声"] and "official" in licences["诊并登记"]
    assert "not stated" in ledger.rows["plain_text", "cpt"].licence
    params.exclude_licences = ["not stated"]
    ledger, made = run(params, folder, tmp_path / "some")
    assert (len(made["cpt"]), ledger.rows["plain_text", "cpt"].excluded) == (2, 1)
    assert [d["detail"] for d in made["dropped"]] == ["not stated"]


@pytest.mark.parametrize("words", ["CC BY-ND", "cc-by-nd 4.0", "BY-ND", "ND"])
def test_a_licence_is_excluded_by_a_part_of_its_name(params, tmp_path, words):
    triples = "哮喘@@疾病\t症状\t反复发作的喘息和胸闷@@症状\n"
    health39 = "name,symptom\n哮喘,喘息 气急 胸闷 咳嗽\n"
    raw = put(tmp_path / "raw", {"kg_cpubmed/a.txt": triples, "kg_39health/d.csv": health39})
    params.exclude_licences = [words]
    ledger, _ = run(params, raw, tmp_path / "out")
    assert (ledger.rows["kg_cpubmed", "cpt"].excluded, ledger.rows["kg_39health", "cpt"].kept) == (1, 1)


@pytest.mark.parametrize("words", ["GPL-3", "Apache"])
def test_a_combined_licence_is_excluded_by_each_of_its_parts(params, tiny_raw, tmp_path, words):
    params.exclude_licences = [words]
    ledger, _ = run(params, tiny_raw, tmp_path / "out")
    assert (ledger.rows["general_zh", "sft"].kept == 0) == (words == "Apache")


def test_an_empty_raw_folder_is_an_error(params, tmp_path):
    with pytest.raises(QilinError, match="no training source"):
        build_sets(params, tmp_path, tmp_path / "out")


def repeated(raw, notice):
    """Two documents that share a long passage, one of them little more than that."""
    return put(
        raw,
        {
            "plain_text/a.txt": "内科学总论\n本书第一章讲病史采集的方法与顺序。" + notice,
            "plain_text/b.txt": notice + "本书第二章讲体格检查：视诊、触诊、叩诊和听诊四步依次进行，不可颠倒。",
            "plain_text/c.txt": notice + "完。",
        },
    )


NOTICE = "".join(chr(0x4E00 + 7 * number) for number in range(80)) + "。"


def test_later_copies_of_a_long_substring_are_cut_out(params, tmp_path):
    params.near_dup_threshold = 0.99
    ledger, made = run(params, repeated(tmp_path / "raw", NOTICE), tmp_path / "out")
    row = ledger.rows["plain_text", "cpt"]
    assert (row.read, row.kept, row.duplicate) == (3, 2, 1) and row.substring_chars >= len(NOTICE)
    first, second = (record["text"] for record in made["cpt"])
    assert NOTICE in first and NOTICE[:40] not in second and "视诊、触诊、叩诊和听诊" in second
    (lost,) = made["dropped"]
    assert lost["file"] == "c.txt" and lost["reason"] == "repeated substring"


def test_or_nothing_happens(params, tmp_path):
    params.near_dup_threshold, params.exact_substrings = 0.99, None
    row = run(params, repeated(tmp_path / "raw", NOTICE), tmp_path / "none")[0].rows["plain_text", "cpt"]
    assert (row.kept, row.duplicate, row.substring_chars) == (3, 0, 0)


def test_only_running_text_is_cut(params, tmp_path):
    params.near_dup_threshold = 0.99
    price = "根据不同医院收费标准不一致且按病情轻重与住院天数另计护理床位检查化验药品材料等各项费用，" * 2
    talk = [
        {"conversations": [{"from": "human", "value": f"我得了{name}怎么办"}, {"from": "gpt", "value": NOTICE + name}]}
        for name in ("甲病", "乙病")
    ]
    rows = [f'题{name}怎么办，{NOTICE}此时最恰当的是,"A 甲\nB 乙",A,因为{name}。{NOTICE}' for name in ("子", "丑")]
    files = {
        "cmd/a.jsonl": jsonl(talk),
        "huatuo_encyclopedia_qa/a.jsonl": jsonl([{"questions": f"{n}是什么", "answers": n + NOTICE} for n in "天地"]),
        "cmexam/train.csv": "Question,Options,Answer,Explanation\n" + "\n".join(rows),
        "kg_39health/d.csv": f"name,symptom,money\n甲病,甲咳,{price}\n乙病,乙痛,{price}\n",
    }
    whole = run(params, put(tmp_path / "raw", files), tmp_path / "out")
    params.exact_substrings = None
    uncut = run(params, tmp_path / "raw", tmp_path / "none")[1]["cpt"]
    assert [record["text"] for record in whole[1]["cpt"]] == [record["text"] for record in uncut] and len(uncut) == 8
    assert not any(row.substring_chars for row in whole[0].rows.values())


def sentences(text):
    return [part for line in text.split("\n") for part in re.findall("[^。！？]*[。！？]?", line) if part]


def test_what_is_cut_are_whole_sentences_and_lines(params, tmp_path):
    params.near_dup_threshold = 0.99
    dice = random.Random(5)
    words = ["".join(chr(0x4E00 + dice.randrange(4000)) for _ in range(24)) for _ in range(90)]
    shared = [f"{word}37.5℃至{n}.{n}mg。" for n, word in enumerate(words[:40])]
    own = [f"{word}为{n}.25mg，并{word[::-1]}{'。' if n % 3 else ''}" for n, word in enumerate(words[40:])]
    books = []
    for number in range(8):
        start = 5 * number % 30
        lines = [
            own[6 * number],
            "".join(shared[start : start + 3]),
            own[6 * number + 1] + "".join(shared[start + 3 : start + 7]),
        ]
        lines += ["".join(shared[start + 7 : start + 9]) + own[6 * number + 2], *shared[start + 9 : start + 11]]
        books.append("\n".join([*lines, shared[start][4:] + own[6 * number + 3], own[6 * number + 4]]))
    raw = put(tmp_path / "raw" / "plain_text", {f"{number}.txt": book for number, book in enumerate(books)}).parent
    ledger, made = run(params, raw, tmp_path / "out")
    params.exact_substrings = None
    before = {record["id"]: record["text"] for record in run(params, raw, tmp_path / "none")[1]["cpt"]}
    assert ledger.rows["plain_text", "cpt"].substring_chars > 500
    for record in made["cpt"]:
        text, original = record["text"], before[record["id"]]
        assert not re.search(r"\n\n|\n$|^\n", text)
        assert text.split("\n")[0] == original.split("\n")[0], "a heading stays"
        # What stands on one line now stood on one line before, in the same order.
        rest = iter(original.split("\n"))
        for line in text.split("\n"):
            assert any(is_part(sentences(line), sentences(other)) for other in rest), line


def is_part(some, others):
    rest = iter(others)
    return all(sentence in rest for sentence in some)


def test_a_passage_of_which_only_the_heading_is_left_is_lost(params, tmp_path):
    params.near_dup_threshold = 0.99
    both = {
        "一/甲篇论述要旨概要.txt": f"{NOTICE}{NOTICE[::-1]}余。",
        "二/乙篇论述要旨概要.txt": f"{NOTICE}{NOTICE[:-1]}。",
    }
    ledger, made = run(params, put(tmp_path / "raw" / "plain_text", both).parent, tmp_path / "out")
    (record,) = made["cpt"]
    assert record["text"].startswith("甲篇") and made["dropped"][0]["reason"] == "repeated substring"


def test_a_disease_that_its_own_graph_repeats_is_not_counted_twice(params, tmp_path):
    health39 = "name,symptom\n哮喘,喘息 气急 胸闷\n痛风,关节红肿热痛\n"
    xywy = [{"name": name, "symptom": ["咳嗽咳痰"]} for name in ("哮喘", "哮喘", "痛风", "湿疹", "湿疹")]
    raw = put(tmp_path / "raw", {"kg_39health/disease.csv": health39, "kg_xywy/medical.json": jsonl(xywy)})
    row = run(params, raw, tmp_path / "out")[0].rows["kg_xywy", "cpt"]
    assert (row.read, row.kept, row.merged, row.elsewhere) == (5, 1, 4, 2)


def test_a_graph_s_entity_in_two_graphs_is_one_record_with_provenance(params, tmp_path):
    xywy = [
        {"name": "哮喘", "cause": "过敏原和感染", "symptom": ["喘息", "咳嗽"]},
        {"name": "痛风", "cause": "尿酸过高，结晶沉积在关节", "symptom": ["关节红肿热痛"]},
    ]
    header = "name,alias,symptom,drug\n"
    health39 = header + "哮喘 [详细],支气管哮喘 [详细],喘息 气急 [详细],沙丁胺醇 [详细]\n"
    raw = put(tmp_path / "raw", {"kg_39health/disease.csv": health39, "kg_xywy/medical.json": jsonl(xywy)})
    ledger, made = run(params, raw, tmp_path / "out")
    graphs = {name: ledger.rows[name, "cpt"] for name in ("kg_39health", "kg_xywy")}
    assert [(r.read, r.kept, r.merged, r.elsewhere) for r in graphs.values()] == [(1, 1, 0, 0), (2, 1, 1, 1)]
    asthma = next(record for record in made["cpt"] if "哮喘" in record["text"])
    assert "咳嗽" in asthma["text"] and "过敏原" in asthma["text"] and asthma["text"].count("喘息") < 4
    assert asthma["graphs"]["症状"] == ["kg_39health", "kg_xywy"] and asthma["graphs"]["病因"] == ["kg_xywy"]
    (lost,) = made["dropped"]
    assert lost["reason"] == "merged" and "kg_39health" in lost["detail"]
