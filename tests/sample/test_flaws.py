"""What was planted is there, and nothing else of its kind."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from qilin_lib.evaluate.benchmarks.ceval import ceval_items
from qilin_lib.sample import raw_dir

RAW = raw_dir()
PLANTED = json.loads(Path(__file__).with_name("planted.json").read_text(encoding="utf-8"))
TRAINING = (
    "cmexam/train.csv", "huatuo_encyclopedia_qa", "huatuo_knowledge_graph_qa", "kg_xywy", "kg_39health", "kg_cpubmed",
    "plain_text", "toyhom_dialogue", "meddialog_cn", "cmd", "cmtmedqa", "remedi", "medicalgpt_sft", "zhongjing_rlhf",
    "medicalgpt_reward", "dpo_zh", "general_zh",
)  # fmt: skip


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("gb18030")


def planted(kind: str) -> list[dict[str, str]]:
    return [flaw for flaw in PLANTED if flaw["kind"] == kind]


def questions_of_the_tests() -> list[str]:
    lines = text_of(RAW / "huatuo26m_test/test_datasets.jsonl").splitlines()
    questions = [json.loads(line)["questions"] for line in lines]
    with open(RAW / "cmexam/test.csv", encoding="utf-8-sig", newline="") as handle:
        questions += [row["Question"] for row in csv.DictReader(handle)]
    for split in ("val", "test"):
        questions += [item.question for item in ceval_items(RAW, split)[0]]
    return questions


def test_every_planted_flaw_is_in_its_file() -> None:
    for flaw in PLANTED:
        assert flaw["file"].startswith(flaw["source"] + "/") and flaw["text"] in text_of(RAW / flaw["file"]), flaw
    assert len({flaw["source"] for flaw in PLANTED}) >= 12


def test_test_questions_occur_in_no_training_source_but_where_planted() -> None:
    allowed, questions = Counter(flaw["file"] for flaw in planted("test_leak")), questions_of_the_tests()
    assert len(questions) > 300
    for path in (path for path in sorted(RAW.rglob("*")) if path.is_file()):
        name = path.relative_to(RAW).as_posix()
        if name.startswith(TRAINING):
            text = text_of(path).replace("（　　）", "____").replace("\\n", "\n").replace('\\"', '"').replace('""', '"')
            hits = [question for question in questions if question in text]
            assert len(hits) <= allowed[name], (name, hits)


def test_broken_lines_are_broken_and_no_others() -> None:
    truncated = [flaw for flaw in planted("broken_row") if flaw["detail"] == "truncated JSON line"]
    assert len(truncated) == 9
    for flaw in truncated:
        lines = text_of(RAW / flaw["file"]).splitlines()
        with pytest.raises(json.JSONDecodeError):
            json.loads(flaw["text"])
        assert flaw["text"] in lines and all(json.loads(line) for line in lines if line != flaw["text"])
