from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

from qilin_lib.sample.knowledge import load
from qilin_lib.sample.personal import AREAS, MAKERS, check_digit

Rendered = tuple[Path, dict[str, int]]
KINDS = {"exact_duplicate", "near_duplicate", "test_leak", "personal_data", "broken_row"}
TRAINING = (
    "cmexam/train.csv", "huatuo_encyclopedia_qa", "huatuo_knowledge_graph_qa", "kg_xywy", "kg_39health", "kg_cpubmed",
    "plain_text", "toyhom_dialogue", "meddialog_cn", "cmd", "cmtmedqa", "remedi", "medicalgpt_sft", "zhongjing_rlhf",
    "medicalgpt_reward", "dpo_zh", "general_zh",
)  # fmt: skip
# Folders that notebook 01 makes nothing of; their own wrong rows are the readers' of notebook 06 to list.
EVALUATION = ("ceval", "cmeee_v2", "ccks2019", "cmmlu", "medqa", "mc")


def text_of(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("gb18030")


def planted(folder: Path) -> list[dict[str, str]]:
    return json.loads((folder / "planted.json").read_text("utf-8"))


def questions_of_the_tests(folder: Path) -> list[str]:
    lines = (folder / "huatuo26m_test/test_datasets.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line)["questions"] for line in lines]
    with open(folder / "cmexam/test.csv", encoding="utf-8-sig", newline="") as handle:
        found += [row["Question"] for row in csv.DictReader(handle)]
    return found + [item["question"] for item in load().ceval if item["split"] != "dev"]


def test_every_planted_flaw_is_in_its_file(rendered: Rendered) -> None:
    files: dict[str, str] = {}
    for item in planted(rendered[0]):
        assert set(item) == {"source", "kind", "file", "detail", "text"} and item["kind"] in KINDS
        assert item["file"].startswith(item["source"] + "/") and item["text"]
        text = files.setdefault(item["file"], text_of(rendered[0] / item["file"]))
        assert item["text"] in text, item


def test_copies_really_occur_twice(rendered: Rendered) -> None:
    for item in planted(rendered[0]):
        if item["kind"] == "exact_duplicate":
            other = item["detail"].removeprefix("copy of a record of ")
            here = text_of(rendered[0] / item["file"]).count(item["text"])
            there = 0 if other == item["file"] else text_of(rendered[0] / other).count(item["text"])
            assert here + there >= 2, item


def test_flaws_are_many_kinds_in_many_sources(rendered: Rendered) -> None:
    folder, counts = rendered
    items = planted(folder)
    assert {item["kind"] for item in items} == KINDS
    assert len({item["source"] for item in items}) >= 12
    leaks = [item for item in items if item["kind"] == "test_leak"]
    assert {item["detail"].split()[0].rstrip(":") for item in leaks} == {"huatuo", "cmexam", "ceval"}
    records = sum(count for path, count in counts.items() if path.split("/")[0] not in (*EVALUATION, "plain_text"))
    assert 0.03 <= len(items) / records <= 0.05


def test_test_questions_occur_in_no_training_source_but_where_planted(rendered: Rendered) -> None:
    folder = rendered[0]
    leaked = [item for item in planted(folder) if item["kind"] == "test_leak"]
    allowed = Counter(item["file"] for item in leaked)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        name = path.relative_to(folder).as_posix()
        if not name.startswith(TRAINING):
            continue
        text = text_of(path).replace("（　　）", "____").replace("\\n", "\n").replace('\\"', '"').replace('""', '"')
        hits = [question for question in questions_of_the_tests(folder) if question in text]
        assert len(hits) <= allowed[name], (name, hits)


def test_personal_data_is_of_every_type_and_nobodys(rendered: Rendered) -> None:
    items = [item for item in planted(rendered[0]) if item["kind"] == "personal_data"]
    assert {item["detail"] for item in items} == set(MAKERS)
    for item in items:
        if item["detail"] == "identity_number":
            assert item["text"].startswith(AREAS) and check_digit(item["text"][:17]) == item["text"][17]
        if item["detail"] == "email":
            assert item["text"].endswith("@example.com")


def test_check_digit_of_the_standards_example() -> None:
    # GB 11643-1999, appendix: 11010519491231002X.
    assert check_digit("11010519491231002") == "X"


def test_broken_rows_are_broken(rendered: Rendered) -> None:
    folder = rendered[0]
    truncated = [item for item in planted(folder) if item["detail"] == "truncated JSON line"]
    assert len(truncated) >= 8
    for item in truncated:
        lines = text_of(folder / item["file"]).splitlines()
        assert item["text"] in lines
        good = [line for line in lines if line != item["text"]]
        assert all(json.loads(line) for line in good)
