"""What comes to light only behind the cleaning, and rows that are found only once."""

from __future__ import annotations

import csv
import io

import pytest
from raw_files import jsonl, put

from qilin_lib.evaluate.benchmarks.cmexam import cmexam_items
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items


@pytest.mark.parametrize(
    "source, row, reason",
    [
        *(
            ("medicalgpt_reward", {"question": question, "response_chosen": chosen, "response_rejected": other}, reason)
            for question, chosen, other, reason in [
                ("多久可以再吃一次药呢？", "很好的", "&nbsp;很好的<br>", "chosen equals rejected"),
                ("医生的电话是多少呢？", "电话13912345678", "电话13912345679", "chosen equals rejected"),
                ("心悸应该看什么科呢？", "心内科", "<p>无</p>", "empty after cleaning"),
                ("心悸应该看什么科呢？", "心内科", "暂无", "empty after cleaning"),
            ]
        ),
        *(
            ("medicalgpt_sft", {"instruction": "心悸应该看什么科呢？", "input": "", "output": answer}, reason)
            for answer, reason in [
                ("<p>无</p>", "empty after cleaning"),
                ("&nbsp;nan&nbsp;", "empty after cleaning"),
                ("暂无", "empty field"),
                ("——", "empty field"),
                # A lost character may be written as an entity.
                ("&#xe863;片口服，每日三次。", "undecodable characters"),
                ("&#59491;片口服，每日三次。", "undecodable characters"),
            ]
        ),
    ],
)
def test_a_record_is_judged_by_what_is_written(build_of, tmp_path, source, row, reason):
    built = build_of(put(tmp_path / "raw", {f"{source}/a.jsonl": jsonl([row])}), tmp_path / "out")
    assert not (built.dpo or built.sft or built.cpt) and {line["reason"] for line in built.dropped} == {reason}


def test_06_cleans_references_as_01_cleans_training_text(tmp_path):
    rows = [
        {"questions": [["咳嗽&gt;3周怎么办？<br>"]], "answers": [["白细胞10<sup>9</sup>/L&nbsp;偏高"]]},
        {"questions": "发热怎么办？", "answers": "<p>nan</p>"},
        {"questions": "头痛怎么办？", "answers": "&nbsp;"},
    ]
    table = io.StringIO()
    csv.writer(table).writerows(
        [["Question", "Options", "Answer", "Explanation"], ["题干如下", "A 甲\nB 乙", "A", "<p>10<sup>9</sup>/L</p>"],
         ["题干另外", "A 甲\nB 乙", "B", "&nbsp;暂无&nbsp;"]]
    )  # fmt: skip
    raw = put(tmp_path, {"huatuo26m_test/test_datasets.jsonl": jsonl(rows), "cmexam/test.csv": table.getvalue()})
    items, invalid = huatuo_items(raw)
    assert [(item.question, item.reference) for item in items] == [("咳嗽>3周怎么办？", "白细胞10^9/L 偏高")]
    assert len(invalid) == 2
    assert [item.reference for item in cmexam_items(raw)[0]] == ["10^9/L", ""]
