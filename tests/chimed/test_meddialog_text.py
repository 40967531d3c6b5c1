"""MedDialog's text files as they are downloaded, in 01 and in 06."""

from __future__ import annotations

from raw_files import put

from qilin_lib.chimed import sources
from qilin_lib.chimed.readers import stream
from qilin_lib.chimed.records import Record
from qilin_lib.evaluate.dialogue import dialogue_items

DOWNLOADED = """id=1
https://example.invalid/1
Doctor faculty
某医院 内科

Description
咳嗽三天怎么办

Dialogue
病人：
咳嗽三天
还有痰
医生：
发热吗？
病人： 不发热
医生：
多喝水。

Diagnosis and suggestions
上呼吸道感染

id=2
https://example.invalid/2
Description
没有对话
id=3
Dialogue
医生：您好
病人：
"""


def test_meddialog_text_as_downloaded(tmp_path):
    put(
        tmp_path / "meddialog_cn", {"COVID-Dialogue-Dataset-Chinese.txt": "\ufeff\n" + DOWNLOADED.replace("\n", "\r\n")}
    )
    reads = [unit.read for unit in sources.units(sources.BY_NAME["meddialog_cn"], tmp_path)]
    assert [(one.line, one.payload.turns if isinstance(one, Record) else one.reason) for one in reads] == [
        (2, ("咳嗽三天\n还有痰", "发热吗？", "不发热", "多喝水。")),
        (23, "no dialogue"),
        (27, "the assistant speaks first"),
    ]


def test_a_meddialog_text_without_end_is_not_kept_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "MAX_LINE", 1000)
    endless = "id=1\nDialogue\n病人：\n" + "咳嗽三天怎么办\n" * 500
    put(tmp_path / "meddialog_cn", {"2020.txt": endless + DOWNLOADED})
    reads = [unit.read for unit in sources.units(sources.BY_NAME["meddialog_cn"], tmp_path)]
    assert [(one.line, one.reason) for one in reads if not isinstance(one, Record)][0] == (1, "dialogue too long")
    assert [one.line for one in reads if isinstance(one, Record)] == [504]


def test_06_asks_what_a_meddialog_text_says_last(tmp_path):
    put(tmp_path / "meddialog_cn", {"2020.txt": DOWNLOADED})
    items, invalid = dialogue_items("meddialog", tmp_path / "meddialog_cn", None)
    assert [(item.history, item.question, item.reference) for item in items] == [
        ((("咳嗽三天\n还有痰", "发热吗？"),), "不发热", "多喝水。")
    ]
    assert [bad["detail"].partition(":")[0] for bad in invalid] == ["no dialogue", "the assistant speaks first"]
