"""Cleaning removes markup and keeps medicine."""

from __future__ import annotations

import pytest

from qilin_lib.chimed.clean import clean, clean_general


@pytest.mark.parametrize(
    "raw, wanted",
    [
        ("头痛<br/>发热", "头痛\n发热"),
        ("<p class='x'>头痛</p>", "头痛"),
        ("头痛&nbsp;&lt;3天", "头痛 <3天"),
        ("早泄 不育 [详细]", "早泄 不育"),
        ("救命！！！！", "救命！"),
        ("等等。。。。。", "等等……"),
        ("a\u200b\ufeffb\x07c", "abc"),
        ("  头痛 \u3000 三天  \n\n\n\n好 ", "头痛 三天\n\n好"),
        ("e\u0301", "é"),
        ("一\r\n二", "一\n二"),
    ],
)
def test_noise_goes(raw, wanted):
    assert clean(raw) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "白细胞12.5×10^9/L，P<0.05，a<b>c",
        "尿蛋白+++，隐血++",
        "阿司匹林100mg qd po",
        "体温38.5～39.2℃",
        "ICD-10：J45.901",
        "血压160/100mmHg（21/13kPa）",
        "Na+ 140 & K+ 4.0",
        "李**，男",
        "①②③ Ⅲ级 α1-抗胰蛋白酶",
    ],
)
def test_clinical_content_stays(text):
    assert clean(text) == text


def test_cleaning_twice_changes_nothing():
    raw = "<div>头痛！！！！&amp;nbsp;</div>。。。。 [详细]  x\n\n\n y"
    assert clean(clean(raw)) == clean(raw)


def test_general_text_keeps_code():
    code = "用法：\n    <div>......</div>\n\tif a  <  b:"
    assert clean_general(code + "\u200b") == code
