"""The build, end to end, on a raw folder small enough to know every record."""

from __future__ import annotations

import json
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


def test_or_their_documents_are_dropped_or_nothing_happens(params, tmp_path):
    params.near_dup_threshold, params.exact_substrings = 0.99, "drop"
    raw = repeated(tmp_path / "raw", NOTICE)
    row = run(params, raw, tmp_path / "drop")[0].rows["plain_text", "cpt"]
    assert (row.kept, row.duplicate, row.substring_chars) == (1, 2, 0)
    params.exact_substrings = None
    row = run(params, raw, tmp_path / "none")[0].rows["plain_text", "cpt"]
    assert (row.kept, row.duplicate, row.substring_chars) == (3, 0, 0)


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
    assert [(r.read, r.kept, r.merged) for r in graphs.values()] == [(1, 1, 0), (2, 1, 1)]
    asthma = next(record for record in made["cpt"] if "哮喘" in record["text"])
    assert "咳嗽" in asthma["text"] and "过敏原" in asthma["text"] and asthma["text"].count("喘息") < 4
    assert asthma["graphs"]["症状"] == ["kg_39health", "kg_xywy"] and asthma["graphs"]["病因"] == ["kg_xywy"]
    (lost,) = made["dropped"]
    assert lost["reason"] == "merged" and "kg_39health" in lost["detail"]
