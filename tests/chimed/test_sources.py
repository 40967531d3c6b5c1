"""The registry: its facts, and the overview of a raw folder."""

from __future__ import annotations

import re

from qilin_lib.chimed import sources

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
