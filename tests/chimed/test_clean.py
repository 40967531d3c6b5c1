"""Cleaning removes markup and keeps medicine, twice as once, in linear time; what comes to light only behind it."""

from __future__ import annotations

import csv
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import jsonl, put

from qilin_lib.chimed.clean import clean, clean_general
from qilin_lib.evaluate.benchmarks.cmexam import cmexam_items
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items

GOES = [
    ("头痛<br/>发热", "头痛\n发热"), ("<p class='x'>头痛</p>", "头痛"), ("头痛&nbsp;&lt;3天", "头痛 <3天"),
    ("早泄 不育 [详细]", "早泄 不育"), ("救命！！！！", "救命！"), ("等等。。。。。", "等等……"), ("e\u0301", "é"),
    ("a\u200b\ufeffb\x07c", "abc"), ("  头痛 \u3000 三天  \n\n\n\n好 ", "头痛 三天\n\n好"), ("一\r\n二", "一\n二"),
    ("HBV&ndash;DNA", "HBV–DNA"), ("E/A比值&lt;1", "E/A比值<1"), ("每天有&frac14;的时间", "每天有¼的时间"),
    ("&#60;3天，&#x3C;3天，&#X3c;3天", "<3天，<3天，<3天"), ("一&lt；二", "一<二"), ("甲&#10;乙&#0;丙", "甲\n乙丙"),
    ("一&amp;lt;二，&amp;amp;lt;二，&#38;lt;二，&#38;#38;lt;二", "一<二，<二，<二，<二"),
    ("倍增&lt。6个月", "倍增<6个月"), ("P&lt0.05，体温&gt38℃，一&nbsp二", "P<0.05，体温>38℃，一 二"),
    ("头痛&lt;br&gt;发热", "头痛\n发热"), ("擦药后&65533;&65533;请复查，一&#65533;二", "擦药后请复查，一二"),
    ("&lt;sup&gt;9&lt;/sup&gt;", "^9"), ("白细胞4×10<sup>9</sup>/L", "白细胞4×10^9/L"),
    ("Ca<SUP>2+</SUP>，10<sup class='x'>-3</sup>", "Ca^2+，10^-3"), ("H<sub>2</sub>O", "H2O"),
    ("有效<sup>[3]</sup>，商标<sup>®</sup>，10<sup></sup>", "有效[3]，商标®，10"), ("<b><i>重</i></b>要", "重要"),
    ("血糖３．９１mmol/L，Ｂ超，１０％", "血糖3.91mmol/L，B超，10%"), ("？", "？"),
    ("甲<script>var im=new Image();im.src='x';</script>乙<style>p{color:red}</style>丙<!-- 注 -->丁", "甲乙丙丁"),
    ("掌握该知识点。im=newImage。im。src=http://a.b/c。", "掌握该知识点。"), ("，您好，请复查。", "您好，请复查。"),
    ("第一点。\\n第二点。\\r\\n第三点", "第一点。\n第二点。\n第三点"),
    ("<table><tr><th>WBC</th><td>5.0</td><td>4.0-10.0</td></tr><tr><td>P</td><td> 80 </td></tr></table>",
     "WBC 5.0 4.0-10.0\nP 80"),
    ("<h3>病因</h3>感染<dl><dt>症状</dt><dd>咳嗽</dd></dl><ul><li>休息<li>饮水</ul>",
     "病因\n感染\n症状\n咳嗽\n休息\n饮水"),
    ("\uf06c 身高，\uf0b7体重，\uf061\uf0b35", "身高，体重，α≥5"),
]  # fmt: skip
STAYS = [
    "白细胞12.5×10^9/L，P<0.05，a<b>c", "尿蛋白+++，隐血++", "阿司匹林100mg qd po", "体温38.5～39.2℃",
    "ICD-10：J45.901", "血压160/100mmHg（21/13kPa）", "Na+ 140 & K+ 4.0", "李**，男", "①②③ Ⅲ级 α1-抗胰蛋白酶",
    "a<b，b>c", "$\\nu=3$", "C:\\new", "甲（乙）．丙", "image为影像", "ｶﾞ", "R&D部", "AT&T 与 Q&A", "a&b;c",
    "&hello;", "?a=1&lt=5&copy=2", "&B点", "5 & 6;", "&",
]  # fmt: skip


@pytest.mark.parametrize("raw, wanted", GOES)
def test_noise_goes(raw, wanted):
    assert clean(raw) == wanted


@pytest.mark.parametrize("text", STAYS)
def test_clinical_content_and_what_only_looks_like_markup_stay(text):
    assert clean(text) == text == clean_general(text)


PIECES = st.sampled_from(
    "<br/> </p> <b> </b> <a\u00a0href=x> </A> <sub> <sup> </sup> < > <script> </script> <!-- &nbsp; &amp; lt; &#10; "
    "&#12288; &#x26; & &lt。 [详细] [ \\n \\r e １ Ｂ ． ％ ！ ？ ， ～ ! ; . 。 … 病 é a 7 ^ = im".split(" ")
    + [" ", "  ", "\r\n", "\r", "\n", "\t", "\u2003", "\u200b", "\u2028", "\ufeff", "\x07", "\x85", "\u0301", "\uf06c"]
)


@given(st.lists(st.tuples(PIECES, st.integers(1, 4)), max_size=20).map(lambda p: "".join(s * n for s, n in p)))
@settings(max_examples=600, deadline=None)
def test_cleaning_twice_changes_nothing_whatever_the_text(text):
    assert clean(clean(text)) == clean(text) and clean_general(clean_general(text)) == clean_general(text)


@pytest.mark.parametrize(
    "piece",
    ["<a>", "<b><i>", "<br", "<br ", "&", "&#38;", "&#0", "&#59", "<script>", "<!--", "</style><script>", " ", "\u00a0"]
    + ["[详细", "。", "。…", "\\n", "im=", "<sup>", "<p "],
)
def test_time_is_linear(piece):
    text = piece * (300_000 // len(piece)) + "[详细]"
    began = time.process_time()
    clean(text), clean_general(text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "code", ["用法：\n    <div>......</div>\n\tif a  <  b:", "<p>&nbsp;&lt;</p>", "`&amp;` 是转义"]
)
def test_general_text_keeps_code_and_is_resolved_where_it_was_escaped_as_a_whole(code):
    assert clean_general(code + "\u200b") == code
    escaped = "print(&quot;你好&quot;) &lt;br&gt; a &gt; b &#39;c&#39;"
    assert clean_general(escaped) == "print(\"你好\") <br> a > b 'c'"


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
