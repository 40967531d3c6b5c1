"""The registry; and, with QILIN_RAW_DIR, every reader on the real files against a count by the standard library."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Record, Rejection, content

PAPER = {
    "cpt": {
        "Huatuo-26M-encyclopedias",
        "Huatuo-26M-medical_knowledge",
        "CMExam",
        "MedQA-textbooks",
        "CPubMed-KG",
        "39Health-KG",
        "Xywy-KG",
        "CMD",
        "Chinese-medical-dialogue-data",
        "Medical-Dialogue-System",
    },
    "dpo": {"Zhongjing_rlhf", "MedicalGPT"},
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
        assert mine == rows


def test_registry_is_complete():
    assert len(sources.BY_NAME) == len(sources.REGISTRY)
    for source in sources.REGISTRY:
        assert source.licence and source.citation and source.home.startswith("https://") or "cpubmed" in source.home
        assert {name for feed in source.feeds for name in feed.rows} <= set(sources.SETS)


def test_inventory(tmp_path, capsys):
    for name in ("cmd", "cmmlu", "mystery"):
        (tmp_path / name).mkdir()
    state = sources.inventory(tmp_path)
    assert (state["cmd"], state["cmmlu"], state["mystery"], state["remedi"]) == (
        "present",
        "not used by this profile",
        "unknown",
        "missing",
    )
    assert sources.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "get it: https://github.com/williamliujl/CMExam" in printed and "mystery" in printed
    assert sources.main([]) == 2 and sources.main([str(tmp_path / "none")]) == 2


def test_an_unreadable_file_is_one_rejection(tmp_path, monkeypatch):
    (tmp_path / "cmd").mkdir()
    (tmp_path / "cmd" / "a.jsonl").write_text("{}")

    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    (unit,) = sources.units(sources.BY_NAME["cmd"], tmp_path)
    assert (
        isinstance(unit.read, Rejection) and unit.read.reason == "unreadable file" and "Permission" in unit.read.detail
    )


RAW = os.environ.get("QILIN_RAW_DIR")
real = pytest.mark.skipif(not RAW, reason="QILIN_RAW_DIR is not set")


def of(name, *sets):
    units = list(sources.units(sources.BY_NAME[name], Path(RAW), sets or sources.SETS))
    return [u.read for u in units if isinstance(u.read, Record)], [
        u.read for u in units if isinstance(u.read, Rejection)
    ]


def json_count(path):
    text = path.read_text(encoding="utf-8-sig")
    return (
        len(json.loads(text))
        if text.lstrip().startswith("[")
        else sum(bool(line.strip()) for line in text.splitlines())
    )


def csv_count(path, encoding):
    with open(path, encoding=encoding, newline="") as handle:
        return sum(1 for _ in csv.DictReader(handle))


@real
@pytest.mark.parametrize(
    "name",
    [
        "cmtmedqa",
        "meddialog_cn",
        "medicalgpt_sft",
        "medicalgpt_reward",
        "dpo_zh",
        "general_zh",
        "huatuo26m_test",
        "kg_xywy",
    ],
)
def test_real_json_files(name):
    records, rejections = of(name)
    files = [p for p in (Path(RAW) / name).iterdir() if p.suffix in (".json", ".jsonl")]
    assert len(records) + len(rejections) == sum(map(json_count, files)) and len(rejections) <= len(records) // 100
    assert all(content(record.payload).strip() for record in records)


@real
@pytest.mark.parametrize(
    "name, encoding",
    [("kg_39health", "gb18030"), ("toyhom_dialogue", "gb18030"), ("cmexam", "utf-8-sig"), ("ceval", "utf-8-sig")],
)
def test_real_csv_files(name, encoding):
    records, rejections = of(name)
    files = sorted((Path(RAW) / name).rglob("*.csv"))
    wanted = {p.relative_to(Path(RAW) / name).as_posix(): csv_count(p, encoding) for p in files}
    assert Counter(read.file for read in records + rejections) == wanted
    assert [r.reason for r in rejections] == (["no answer"] if name == "cmexam" else [])


@real
def test_real_cmexam_letters_and_options():
    records, _ = of("cmexam")
    assert all(4 <= len(r.payload.options) <= 5 and set(r.payload.answer) <= set("ABCDE") for r in records)
    assert not any("\\n" in text or text.lower() == "" for r in records for _, text in r.payload.options)
    assert not any(r.payload.explanation.lower() == "nan" for r in records)


@real
def test_real_remedi_dialogues():
    records, rejections = of("remedi")
    lines = [p.read_text(encoding="utf-8") for p in (Path(RAW) / "remedi").glob("*.txt")]
    assert len(records) == sum(text.count("<|context|> <|endofcontext|>") for text in lines) and not rejections


@real
def test_real_books_keep_their_characters():
    records, rejections = of("plain_text")
    folder = Path(RAW) / "plain_text"
    raw = sum(len("".join(p.read_bytes().decode("gb18030").split())) for p in folder.rglob("*.txt"))
    kept = sum(len("".join(r.payload.body.split())) for r in records if r.file.endswith(".txt"))
    assert (
        not rejections and 0.93 < kept / raw <= 1 and len({r.file for r in records}) == len(list(folder.rglob("*.*")))
    )


@real
def test_real_cpubmed_sample():
    (record,), rejections = of("kg_cpubmed_sample")
    assert record.payload.name == "心律失常" and len(record.payload.features[0][1]) == 6 and not rejections


@real
def test_no_detail_tail_survives():
    records, _ = of("kg_39health")
    assert len(records) > 4000 and not any("[详细]" in content(record.payload) for record in records)
