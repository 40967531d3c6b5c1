"""Bad files of every kind through `units`: a counted rejection each, what can be read is read, and no traceback."""

from __future__ import annotations

import gzip
import io
import json
import os
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import read, reads, units_of

from qilin_lib.chimed.records import Rejection

TOYHOM = "toyhom_dialogue"
HEAD = "department,title,ask,answer\n"


def row(question: str, **others) -> str:
    turns = [{"from": "input", "value": question}, {"from": "output", "value": "多喝水。"}]
    return json.dumps({**others, "conversations": turns}, ensure_ascii=False)


def details(folder: Path, name: str = "cmd") -> str:
    return "; ".join(one.detail for one in units_of(folder, name) if isinstance(one, Rejection))


# --- content ----------------------------------------------------------------------------------------------------------


def test_a_renamed_column_is_told_in_every_row(tmp_path):
    text = "department,title,ask,reply\n" + "内科,头痛,三天,休息\n" * 5
    assert read(tmp_path, "a.csv", text, TOYHOM) == ([], {"missing field": 5})
    assert "answer; found department, title, ask, reply" in details(tmp_path, TOYHOM)


def test_a_header_that_is_broken_costs_the_rows_and_counts_them(tmp_path):
    asked, lost = read(tmp_path, "a.csv", 'department,"title,ask,answer\n内科,头痛,三天,休息\n', TOYHOM)
    assert not asked and lost == {"unreadable file": 1, "no header": 1}


@pytest.mark.parametrize("raw", [b"", b"\n \n", b"\xef\xbb\xbf", b"\0\0\0", b"[]", HEAD])
def test_of_an_empty_file_there_is_one_note(tmp_path, raw):
    assert read(tmp_path, "a.csv", raw, TOYHOM) == ([], {"empty file": 1})


def test_a_line_of_200_megabytes_in_bounded_memory(tmp_path):
    path = tmp_path / "cmd" / "a.jsonl"
    path.parent.mkdir()
    with open(path, "wb") as handle:
        handle.write(row("前").encode() + b"\n")
        for _ in range(200):
            handle.write(b'"' * (1 << 20))
        handle.write(b"\n" + row("后").encode())
    tracemalloc.start()
    try:
        assert reads(tmp_path) == (["前", "后"], {"line too long": 1})
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" + "[" * 5_000 + "]" * 5_000 + "]", "1" * 10_000]
)
def test_what_breaks_a_json_parser(tmp_path, text):
    asked, lost = read(tmp_path, "a.jsonl", text)
    assert not asked and lost.total() >= 1


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_folder_a_pipe_and_a_link_to_nothing_among_the_files(tmp_path):
    folder = tmp_path / "cmd"
    (folder / "folder.jsonl").mkdir(parents=True)
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "gone.jsonl").symlink_to("nowhere")
    (folder / "self.jsonl").symlink_to("self.jsonl")
    assert read(tmp_path, "a.jsonl", row("一")) == (["一"], {"unreadable file": 4})
    for reason in ("a folder", "a pipe", "No such file", "symbolic links"):
        assert reason in details(tmp_path)


def test_a_file_that_fails_while_it_is_read_keeps_what_was_read(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read1(self, size=-1):
            if not self.tell():
                return super().read1(len(row("一").encode()) + 5)
            raise OSError(5, "Input/output error")

    read(tmp_path, "a.jsonl", "x")
    monkeypatch.setattr(Path, "open", lambda self, *_: Failing((row("一") + "\n" + row("二")).encode()))
    assert reads(tmp_path) == (["一"], {"unreadable file": 1})


# --- archives ---------------------------------------------------------------------------------------------------------


def archive(members: dict[str, str | bytes], external_attr: int = 0) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as handle:
        for name, text in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, external_attr
            handle.writestr(info, text)
    return raw.getvalue()


def test_an_archive_that_is_cut_damaged_or_of_another_kind(tmp_path):
    raw = archive({"a.jsonl": row("一") * 50})
    for broken in (raw[:-30], b"", b"PK\3\4 no archive"):
        assert read(tmp_path, "a.zip", broken) == ([], {"unreadable file": 1})
    damaged = raw[:60] + bytes(20) + raw[80:]
    asked, lost = read(tmp_path, "a.zip", damaged)
    assert not asked and lost["unreadable file"] == 1


# --- anything ---------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        row("一").encode(),
        row("二").encode("gb18030"),
        HEAD.encode(),
        b"[",
        b"]",
        b",",
        b"\n",
        b"\r",
        b'"',
        b"\0",
        b"\xff",
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(FRAGMENTS, st.binary(max_size=12)), max_size=14))
def test_no_bytes_make_a_reader_fail(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / "anything"
    for source, name in (("cmd", "a.jsonl"), (TOYHOM, "a.csv"), ("plain_text", "a.json")):
        first = read(folder, name, b"".join(parts), source)
        assert first == reads(folder, source) and (first[0] or first[1])


def test_links_to_folders_are_followed_unless_they_lead_back(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.csv").write_text(HEAD + "内科,乙,,好\n", encoding="utf-8")
    folder = tmp_path / "toyhom_dialogue"
    folder.mkdir()
    (folder / "loop").symlink_to(".")
    (folder / "there").symlink_to("../elsewhere")
    assert read(tmp_path, "a.csv", HEAD + "内科,甲,,好\n", TOYHOM) == (["甲", "乙"], {"unreadable file": 1})
    assert "a symbolic link to a folder above it" in details(tmp_path, TOYHOM)


@pytest.mark.parametrize(
    "name", ["../evil.jsonl", "a/../../evil.jsonl", "/etc/evil.jsonl", "C:\\evil.jsonl", "..\\e.jsonl"]
)
def test_a_member_that_leads_out_of_the_archive(tmp_path, name):
    raw = archive({"good.jsonl": row("一"), name: row("坏")})
    assert read(tmp_path, "a.zip", raw) == (["一"], {"unsafe archive": 1})


def test_a_member_that_is_a_link(tmp_path):
    raw = archive({"good.jsonl": "/etc/passwd"}, external_attr=0o120777 << 16)
    assert read(tmp_path, "a.zip", raw) == ([], {"unsafe archive": 1})


def test_an_encrypted_member(tmp_path):
    raw = bytearray(archive({"a.jsonl": row("一")}))
    at = raw.rindex(b"PK\1\2")
    raw[6], raw[at + 8] = raw[6] | 1, raw[at + 8] | 1
    assert read(tmp_path, "a.zip", bytes(raw)) == ([], {"unreadable file": 1})
    assert details(tmp_path) == "encrypted"


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.zip"])
def test_120_megabytes_of_zeros(tmp_path, name):
    zeros = bytes(120_000_000)
    raw = gzip.compress(zeros, 1) if name.endswith("gz") else archive({"a.jsonl": zeros})
    assert read(tmp_path, name, raw) == ([], {"unsafe archive": 1})
