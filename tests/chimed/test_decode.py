"""Row splitting: broken places cost their own row only, wherever the pieces of a stream are cut."""

from __future__ import annotations

import csv
import io
import json
import random

import pytest

from qilin_lib.chimed.readers import decode, dialogue, exam, json_text, kg, stream
from qilin_lib.chimed.readers.decode import Reject
from qilin_lib.chimed.readers.stream import Stream


def json_items(text, *key):
    """The items of a text, which must not depend on where the stream cuts it."""
    found = [rows_of(json_text.json_items(pieces(text, size), *key)) for size in (1, 2, 7, 10**6)]
    assert found[0] == found[1] == found[2] == found[3]
    return list(json_text.json_items(Stream.of(text), *key))


def csv_rows(text):
    found = [rows_of(decode.csv_rows(pieces(text, size))) for size in (1, 5, 10**6)]
    assert found[0] == found[1] == found[2]
    return decode.csv_rows(Stream.of(text))


def pieces(text, size):
    return Stream(lambda: (text[start : start + size] for start in range(0, len(text), size)))


def rows_of(items):
    return [(line, "reject" if isinstance(row, Reject) else row) for line, row in items]


A1, A2, A3, BAD = {"a": 1}, {"a": 2}, {"a": 3}, "reject"


@pytest.mark.parametrize(
    "text, rows",
    [
        # The line of an element is that where it begins.
        ('[\n  {"a": 1},\n  {\n    "a": 2\n  },\n  {"a": 3}\n]\n', [(2, A1), (3, A2), (6, A3)]),
        ('[\n{"a": 1},\n{"a": oops},\n{"a": 3}\n]', [(2, A1), (3, BAD), (4, A3)]),
        # An array cut off between two elements, or inside one.
        ('[{"a": 1},\n{"a": 2}', [(1, A1), (2, A2), (2, BAD)]),
        ('[{"a": 1},\n{"a": "cu', [(1, A1), (2, BAD)]),
        ('[{"a": 1}]\nnonsense\n{"a": 2}\n', [(1, A1), (2, BAD), (3, A2)]),
        ('{"a": oops\n{"a": 1}\n\n{"a": \n{"a": 3}\n', [(1, BAD), (2, A1), (4, BAD), (5, A3)]),
        # Lists are elements of a list, and lists of texts are rows.
        ('[["a","b"],["c"]]', [(1, ["a", "b"]), (1, ["c"])]),
        ('["a","b"]\n["c"]', [(1, ["a", "b"]), (2, ["c"])]),
        ("[[12345], [-1.5e10], [true]]", [(1, [12345]), (1, [-1.5e10]), (1, [True])]),
    ],
)
def test_rows_of_json_with_their_lines(text, rows):
    assert rows_of(json_items(text)) == rows


@pytest.mark.parametrize("size", [100, 101, 130, 390, 5000])
@pytest.mark.parametrize("piece", [30, 10**6])
def test_an_element_longer_than_the_limit_costs_itself(monkeypatch, size, piece):
    monkeypatch.setattr(stream, "MAX_LINE", 100)
    rows = [[{"a": "x" * 20}], {"a": "y" * (size - 9)}, {"a": "z"}]
    found = list(json_text.json_items(pieces(",\n".join(map(json.dumps, rows)), piece)))
    assert [value.reason if isinstance(value, Reject) else value for _, value in found] == [
        {"a": "x" * 20},
        rows[1] if size == 100 else "element too long",
        {"a": "z"},
    ]


@pytest.mark.parametrize(
    "text, rows",
    [
        ('a,b\n1,"x\ny"\n2,z\n', [(1, ["a", "b"]), (2, ["1", "x\ny"]), (4, ["2", "z"])]),
        ("a,b\n1\n1,2\n1,2,3\n\n4,5\n", [(1, ["a", "b"]), (2, BAD), (3, ["1", "2"]), (4, BAD), (6, ["4", "5"])]),
    ],
)
def test_rows_of_csv_with_their_first_lines(text, rows):
    assert rows_of(csv_rows(text)) == rows


def test_an_unclosed_quote_costs_one_row():
    text = 'a,b\n1,"never closed\n' + "".join(f"{n},good\n" for n in range(2, 900))
    rows = rows_of(csv_rows(text))
    assert rows[1] == (2, "reject") and len(rows) == 900 and rows[-1] == (900, ["899", "good"])


def test_csv_agrees_with_the_standard_library_on_random_tables():
    dice = random.Random(3)
    for _ in range(20):
        table = [
            ["".join(dice.choice('医a,"\n ') for _ in range(dice.randint(1, 6))) + "x" for _ in range(3)]
            for _ in range(700)
        ]
        handle = io.StringIO()
        csv.writer(handle, lineterminator="\n").writerows(table)
        assert [row for _, row in decode.csv_rows(Stream.of(handle.getvalue()))] == table


LISTS = {
    "[['头痛', \"it's\"]]": [["头痛", "it's"]],
    '[["头痛", null]]': [["头痛", None]],
    "['头痛', None]": ["头痛", None],
    "[]": [],
    "['头痛' '发热']": BAD,
    "[array(['头痛'], dtype=object)]": BAD,
    "[{'role': 'user'} {'role': 'user'}]": BAD,
    "[1]头痛": "[1]头痛",
    "[头痛]": "[头痛]",
}


@pytest.mark.parametrize("cell", LISTS)
def test_a_list_that_a_program_wrote_into_a_cell_is_a_list(cell):
    handle = io.StringIO()
    csv.writer(handle).writerows([["a", "b"], [cell, "x"]])
    found = rows_of(decode.rows("a.csv", Stream.of(handle.getvalue())))
    assert found == [(2, BAD if LISTS[cell] == BAD else {"a": LISTS[cell], "b": "x"})]


NOTHING = ["nan", "NaN", "None", "null", "NULL", "N/A", "<NA>", "无", "暂无", "无。", "暂无相关资料", "无相关资料"]
NOTHING += ["尚无数据", "暂无解析", "-", "——", "/", "…", "无 "]


@pytest.mark.parametrize("word", NOTHING)
def test_a_field_that_holds_a_word_for_nothing_is_empty_in_every_reader(word):
    rows = ["Question,Options,Answer,Explanation", f'题,"A 甲\nB 乙",A,{word}']
    ((_, question),) = exam.cmexam("train.csv", Stream.of("\n".join(rows)))
    assert question.explanation == ""
    ((_, disease),) = kg.health39("d.csv", Stream.of(f"name,symptom,rate\n哮喘,喘 {word},{word}"))
    assert disease.features == (("症状", ("喘",)),)
    ((_, disease),) = kg.xywy("m.json", Stream.of(json.dumps({"name": "哮喘", "cause": "敏", "symptom": [word]})))
    assert disease.features == (("病因", ("敏",)),)
    ((_, lost),) = dialogue.instructions("a.jsonl", Stream.of(json.dumps({"questions": "痛吗", "answers": word})))
    assert lost.reason == "empty field"


def test_random_arrays_agree_with_the_standard_library():
    dice = random.Random(5)
    for indent in (None, 1, 4):
        rows = [
            {"a": '医\\"\n[]{},' * dice.randint(0, 9), "b": [{"c": [dice.random()] * dice.randint(0, 3)}]}
            for _ in range(60)
        ]
        found = json_items(json.dumps(rows, indent=indent, ensure_ascii=dice.random() < 0.5))
        assert [row for _, row in found] == rows
