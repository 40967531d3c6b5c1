"""Encodings and row splitting: broken places cost their own row only."""

from __future__ import annotations

import csv
import io
import random

import pytest

from qilin_lib.chimed.readers.decode import Reject, csv_rows, decode, json_items, string

TEXT = "头痛，发热38.5℃\n第二行"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_every_encoding_of_the_wild_gives_the_same_text(encoding):
    assert decode(TEXT.encode(encoding)) == TEXT


def test_newlines_and_nul_are_normalised():
    assert decode(b"a\r\nb\rc\0d") == "a\nb\ncd"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_a_broken_byte_spoils_its_own_line_only(encoding):
    raw = "好的医生谢谢\n".encode(encoding) * 20 + b"\xff\xff\n" + "再见了医生\n".encode(encoding)
    lines = decode(raw).split("\n")
    assert lines[0] == "好的医生谢谢" and lines[21] == "再见了医生"
    assert any("\ud800" <= char <= "\udfff" for char in lines[20])


def rows_of(items):
    return [(line, "reject" if isinstance(row, Reject) else row) for line, row in items]


def test_json_lines_with_a_truncated_line():
    text = '{"a": 1}\n\n{"a": \n{"a": 3}\n'
    assert rows_of(json_items(text)) == [(1, {"a": 1}), (3, "reject"), (4, {"a": 3})]


def test_json_array_lines_are_those_of_the_elements():
    text = '[\n  {"a": 1},\n  {\n    "a": 2\n  },\n  {"a": 3}\n]\n'
    assert rows_of(json_items(text)) == [(2, {"a": 1}), (3, {"a": 2}), (6, {"a": 3})]


def test_a_broken_element_of_an_array_is_skipped():
    text = '[\n{"a": 1},\n{"a": oops},\n{"a": 3}\n]'
    assert rows_of(json_items(text)) == [(2, {"a": 1}), (3, "reject"), (4, {"a": 3})]


def test_an_array_cut_off_says_so():
    assert rows_of(json_items('[{"a": 1},\n{"a": 2}')) == [(1, {"a": 1}), (2, {"a": 2}), (2, "reject")]
    assert rows_of(json_items('[{"a": 1},\n{"a": "cu')) == [(1, {"a": 1}), (2, "reject")]


def test_array_under_a_key():
    assert rows_of(json_items('{"source": "x", "entries": [\n{"t": 1}, {"t": 2}]}', "entries")) == [
        (2, {"t": 1}),
        (2, {"t": 2}),
    ]


def test_csv_cells_with_newlines_keep_their_first_line_number():
    text = 'a,b\n1,"x\ny"\n2,z\n'
    assert rows_of(csv_rows(text)) == [(1, ["a", "b"]), (2, ["1", "x\ny"]), (4, ["2", "z"])]


def test_an_unclosed_quote_costs_one_row():
    text = 'a,b\n1,"never closed\n' + "".join(f"{n},good\n" for n in range(2, 900))
    rows = rows_of(csv_rows(text))
    assert rows[1] == (2, "reject") and len(rows) == 900 and rows[-1] == (900, ["899", "good"])


def test_wrong_number_of_columns_is_rejected_in_place():
    assert rows_of(csv_rows("a,b\n1\n1,2\n1,2,3\n\n4,5\n")) == [
        (1, ["a", "b"]),
        (2, "reject"),
        (3, ["1", "2"]),
        (4, "reject"),
        (6, ["4", "5"]),
    ]


def test_csv_agrees_with_the_standard_library_on_random_tables():
    dice = random.Random(3)
    for _ in range(20):
        table = [
            ["".join(dice.choice('医a,"\n ') for _ in range(dice.randint(1, 6))) + "x" for _ in range(3)]
            for _ in range(700)
        ]
        handle = io.StringIO()
        csv.writer(handle, lineterminator="\n").writerows(table)
        assert [row for _, row in csv_rows(handle.getvalue())] == table


@pytest.mark.parametrize("value", [None, float("nan"), "nan", " NaN ", "null", "", [], {}])
def test_what_stands_for_nothing_is_empty(value):
    assert string(value) == ""


def test_numbers_are_text():
    assert (string(3), string(" 好 ")) == ("3", "好")
