"""Shared by the tests of chimed: a tiny raw folder with one flaw of each kind, and a build of a raw folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from raw_files import LEAK, jsonl, put, settings, talk

from qilin_lib import files
from qilin_lib.chimed.build import build_sets

DISEASES = {
    "哮喘": "反复发作的喘息、气急和胸闷，夜间和清晨加重，吸入糖皮质激素是控制炎症的基础。",
    "痛风": "关节红肿热痛来得急，常在夜里发作，血尿酸升高，少吃动物内脏和海鲜，多饮水。",
    "贫血": "面色苍白、乏力、心慌，血红蛋白降低，缺铁者补充铁剂三个月以上并查找失血原因。",
    "湿疹": "皮肤发红、渗出、瘙痒，容易反复，外用激素药膏并坚持每天涂抹保湿霜。",
    "胃炎": "上腹部隐痛、饱胀、反酸，查幽门螺杆菌，阳性者用四联方案治疗两周。",
    "骨折": "局部肿胀、畸形、活动受限，拍片确诊，复位固定后按计划做康复训练。",
}


@pytest.fixture(scope="session")
def build_of() -> Callable[..., SimpleNamespace]:
    """A function of raw folder, output folder and changed parameters: the sets, dropped lines and ledger of a build.

    `rows` of what it returns is {(source, set): the ledger's row}.
    """

    def build(raw: Path, out: Path, **changed: Any) -> SimpleNamespace:
        build_sets(settings(**changed), raw, out, progress=lambda line: None)
        sets = {
            name: [*files.read_jsonl(out / f"{name}.jsonl")] for name in ("cpt", "sft", "dpo", "general", "dropped")
        }
        ledger = files.read_json(out / "ledger.json")
        rows = {(row["source"], row["set"]): SimpleNamespace(**row) for row in ledger["sources"]}
        return SimpleNamespace(raw=raw, ledger=ledger, rows=rows, **sets)

    return build


@pytest.fixture
def tiny_raw(tmp_path):
    """Six sources; planted.

    A broken JSON line, an empty answer, a duplicate across sources, a leak, a telephone number.
    """
    pairs = [{"questions": [[f"{name}有什么表现，平时怎么治？"]], "answers": [text]} for name, text in DISEASES.items()]
    chats = [talk(f"我好像得了{name}，要紧吗？", f"先不要紧张。{text}") for name, text in DISEASES.items()]
    chats.append({"conversations": [{"from": "input", "value": "在吗？"}]})
    leak = {"questions": [[LEAK]], "answers": ["应该考虑支气管肺炎。"]}
    copy = talk(pairs[0]["questions"][0][0], pairs[0]["answers"][0] + "祝好")
    phone = "asthma,喘得厉害怎么办？,我住得远，电话13912345678，夜里喘得睡不着觉。,请尽快到急诊吸入支气管扩张剂。\n"
    ranked = [
        {"question": f"{name}怎么办？", "response_chosen": text, "response_rejected": "不知道。"}
        for name, text in DISEASES.items()
    ]
    general = [
        {"instruction": f"请用{n}句话介绍第{n}个季节的风景。", "input": "", "output": "山水" * n + "很美，游人如织。"}
        for n in range(2, 9)
    ]
    exam = f'{LEAK},"A 支气管肺炎\nB 哮喘",A,湿啰音提示肺炎。\n一道没有选项的题,,A,无\n'
    return put(
        tmp_path / "raw",
        {
            "huatuo_encyclopedia_qa/train_datasets.jsonl": jsonl([*pairs, '{"questions": [["断了', leak]),
            "cmd/cmd.jsonl": jsonl(chats),
            "medicalgpt_sft/a.jsonl": jsonl([copy]),
            "toyhom_dialogue/内科/a.csv": ("department,title,ask,answer\n" + phone).encode("gb18030"),
            "medicalgpt_reward/train.json": jsonl(ranked),
            "general_zh/alpaca.json": json.dumps(general, ensure_ascii=False),
            "cmexam/test.csv": "\ufeffQuestion,Options,Answer,Explanation\n" + exam,
        },
    )
