"""Leaks of every kind, end to end: what a record holds of a test item is judged by what would be written of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from raw_files import jsonl, put

CASE = "患儿女，四岁，发热两天后出现皮疹，伴有流涕和结膜充血，口腔颊黏膜可见灰白色小点，最可能的诊断是"
REPLY = "可以先停用含酒精的护肤品，每天用温水清洗两次，外涂一周保湿乳，仍然脱屑时再到皮肤科就诊。"
EXPLANATION = "肺循环的起点在右心室，血液经肺动脉到达肺泡毛细血管，完成气体交换以后由肺静脉流回左心房。"
LONG_CLOZE = "在成人静息状态下，每分钟由一侧心室射出的血液量约为____升，称为心输出量"

BENCHMARKS = {
    "huatuo26m_test/test_datasets.jsonl": jsonl(
        [
            {"questions": ["脚气真痒"], "answers": ["擦药。"]},
            {"questions": ["荨麻疹能洗澡吗？"], "answers": ["能洗，水温不要太高。"]},
            {"questions": ["脸上脱皮怎么办"], "answers": [REPLY]},
            {"questions": [["孩子打嗝停不下来怎么办？", "小孩一直打嗝咋整呢"]], "answers": ["喝几口温水。"]},
            {"questions": ["热射病的病因是什么？"], "answers": ["高温环境下体温调节失灵。"]},
            {"questions": ["血脂高，能吃蛋黄吗"], "answers": ["每天不超过一个。"]},
            {"questions": ["电话13912345678的患者王丽娟主诉牙龈出血三天应该看哪个科室"], "answers": ["口腔科。"]},
        ]
    ),
    "cmexam/test.csv": "\ufeffQuestion,Options,Answer,Explanation\n"
    f'{CASE},"A 麻疹\nB 风疹\nC 水痘\nD 猩红热",A,科氏斑是其特征。\n'
    f'肺循环起于,"A 左心室\nB 右心室\nC 左心房\nD 右心房",B,{EXPLANATION}\n'
    '关于口服补液盐叙述错误的是,"A 冲好后可隔日再服\nB 用温水冲开\nC 分次少量喝\nD 呕吐停后再喝",A,\n'
    '属于意志障碍的是,"A 意志增强\nB 情感淡漠\nC 思维奔逸\nD 定向不良",A,\n',
    "ceval/val/physician_val.csv": "id,question,A,B,C,D,answer\n"
    "0,指骨属于____。,短骨,长骨,扁骨,不规则骨,B\n"
    f"1,{LONG_CLOZE},3,5,9,12,B\n",
    "cmmlu/test/anatomy.csv": ",Question,A,B,C,D,Answer\n0,最大的唾液腺是,腮腺,舌下腺,下颌下腺,唇腺,A\n",
    "medqa/test.jsonl": jsonl(
        [
            {
                "question": "维持胃酸的细胞是",
                "options": {"A": "壁细胞", "B": "主细胞", "C": "颈黏液细胞", "D": "G细胞"},
                "answer": "壁细胞",
                "answer_idx": "A",
            }
        ]
    ),
    "cmtmedqa/CMtMedQA_test.json": json.dumps(
        [
            {
                "instruction": "吃药后嘴里发苦好不好",
                "output": "停药后会慢慢恢复，" + REPLY[::-1],
                "history": [["我父亲做完支架手术以后总是夜里出汗，需要去复查吗", "先量体温和血压，记录三天。"]],
            }
        ],
        ensure_ascii=False,
    ),
}
TOLD = yaml.safe_load(Path(__file__).with_name("leaks.yaml").read_text(encoding="utf-8"))
LEAKED, CLEAN = TOLD["leaked"], TOLD["clean"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, build_of: Callable) -> SimpleNamespace:
    """A build of one record for each kind: the lines of file a.jsonl that were contaminated, and the sets."""
    folder = tmp_path_factory.mktemp("leaks")
    said = [*LEAKED.values(), *CLEAN.values()]
    rows = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in said]
    graph = {"name": "热射病", "desc": "夏季高温作业时的急症。", "cause": "体温调节中枢失灵", "symptom": ["高热"]}
    pairs = [{"question": "脸上总是起皮有什么办法", "response_chosen": "多喝水，别熬夜。", "response_rejected": REPLY}]
    files = {"medicalgpt_sft/a.jsonl": jsonl(rows), "kg_xywy/medical.json": jsonl([graph])}
    raw = put(folder / "raw", BENCHMARKS | files | {"medicalgpt_reward/train.json": jsonl(pairs)})
    return build_of(raw, folder / "out")


def lost(judged: SimpleNamespace, source: str) -> set[int]:
    return {row["line"] for row in judged.dropped if row["source"] == source and row["reason"] == "contaminated"}


@pytest.mark.parametrize("kind", LEAKED)
def test_a_leak_of_each_kind_leaves_every_set(judged: SimpleNamespace, kind: str) -> None:
    line = [*LEAKED].index(kind) + 1
    assert line in lost(judged, "medicalgpt_sft")
    written = json.dumps([judged.cpt, judged.sft], ensure_ascii=False)
    assert json.dumps(LEAKED[kind][0], ensure_ascii=False)[1:-1] not in written


@pytest.mark.parametrize("kind", CLEAN)
def test_what_only_shares_words_with_an_item_stays(judged: SimpleNamespace, kind: str) -> None:
    assert len(LEAKED) + [*CLEAN].index(kind) + 1 not in lost(judged, "medicalgpt_sft")


def test_a_question_that_the_kit_composes_from_a_graph_is_compared(judged: SimpleNamespace) -> None:
    assert not any("热射病的病因是什么" in record["text"] for record in judged.cpt)
    assert lost(judged, "kg_xywy") == {1}


def test_removals_are_counted_by_source_and_rule(judged: SimpleNamespace) -> None:
    rules = judged.ledger["rules"]
    assert sum(rules["medicalgpt_sft"].values()) == len(lost(judged, "medicalgpt_sft")) == len(LEAKED)
    assert {"question", "options", "cloze", "13-gram", "answer"} == set(rules["medicalgpt_sft"])
    assert rules["kg_xywy"] == {"question": 1} and rules["medicalgpt_reward"] == {"answer": 1}


def test_report_counts_the_same_records_and_keeps_them(
    judged: SimpleNamespace, build_of: Callable, tmp_path: Path
) -> None:
    report = build_of(judged.raw, tmp_path / "report", decontaminate="report")
    assert report.ledger["hits"] == judged.ledger["hits"] and report.ledger["rules"] == judged.ledger["rules"]
    assert not any(row["reason"] == "contaminated" for row in report.dropped)
