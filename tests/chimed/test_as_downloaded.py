"""Files as they are downloaded: layouts, packings and encodings of the wild through `units`, and what is not read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import raw_files
import zstandard
from raw_files import jsonl, payloads, put, reads, units_of

from qilin_lib.chimed import sources
from qilin_lib.chimed.build import build_sets
from qilin_lib.chimed.records import Passage, Record, lost_character
from qilin_lib.report import data

NAME = "huatuo_encyclopedia_qa"
ASKED = ["头痛三天怎么办", "发热一天吃什么药", "咳嗽有痰要紧吗"]
ROWS = [{"questions": [[question]], "answers": ["请到医院检查。"]} for question in ASKED]


def read(raw: Path, file: str, text: str | bytes, name: str = NAME):
    return raw_files.read(raw, file, text, name)


def dump(value, **how) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


# --- layouts ----------------------------------------------------------------------------------------------------------

LAYOUTS = {
    "lines": jsonl(ROWS),
    "lines that end in commas": "".join(dump(row) + ",\n" for row in ROWS),
    "array": dump(ROWS),
    "array with a trailing comma": "[" + ",".join(map(dump, ROWS)) + ",]",
    "array over lines": "[\n" + ",\n".join(map(dump, ROWS)) + ",\n]\n",
    "pretty-printed": dump(ROWS, indent=4),
    "trailing commas inside": dump(ROWS, indent=2).replace('"\n    ]\n', '",\n    ],\n'),
    "objects one after another": " ".join(map(dump, ROWS)),
    "objects without a gap": "".join(map(dump, ROWS)),
    "pretty objects one after another": "\n".join(dump(row, indent=2) for row in ROWS),
    "pretty objects with commas": ",\n".join(dump(row, indent=2) for row in ROWS),
    "under a key": dump({"version": "1.0", "data": ROWS}, indent=1),
    "under a key, minified": dump({"data": ROWS, "count": 3}),
    "dict of records": dump({f"id{n}": row for n, row in enumerate(ROWS)}),
    "dict of records, pretty": dump({f"id{n}": row for n, row in enumerate(ROWS)}, indent=2),
    "dict of lists": dump({"外科": ROWS[:2], "内科": ROWS[2:]}, indent=2),
    "arrays one after another": dump(ROWS[:1]) + "\n" + dump(ROWS[1:]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_layout_of_json(tmp_path, layout, newline):
    text = LAYOUTS[layout].replace("\n", newline)
    assert read(tmp_path, "train.json", text) == (ASKED, {})


def test_newlines_of_several_systems_in_one_file(tmp_path):
    text = dump(ROWS[0]) + "\r\n" + dump(ROWS[1]) + "\r" + dump(ROWS[2]) + "\n"
    assert read(tmp_path, "a.jsonl", text) == (ASKED, {})


HAS = "请到医院检查。"
UNDER_DATA = {
    "instructions": [{"instruction": asked, "input": "", "output": HAS} for asked in ASKED],
    "questions": [{"question": asked, "answer": HAS} for asked in ASKED],
    "pairs": [[asked, HAS] for asked in ASKED],
    "chats": [{"data": [f"问：{asked}", f"答：{HAS}"]} for asked in ASKED],
}


@pytest.mark.parametrize("form", UNDER_DATA)
@pytest.mark.parametrize("indent", [None, 2])
def test_rows_under_data_are_no_conversation(tmp_path, form, indent):
    assert read(tmp_path, "a.json", dump({"version": 1, "data": UNDER_DATA[form]}, indent=indent)) == (ASKED, {})


@pytest.mark.parametrize("cut", [15, 20, 34, 40, 45])
def test_a_first_line_that_is_cut_costs_itself(tmp_path, cut):
    assert read(tmp_path, "a.jsonl", dump(ROWS[0])[:cut] + "\n" + jsonl(ROWS)) == (ASKED, {"broken JSON": 1})


def test_quotes_behind_backslashes_as_databases_write_them(tmp_path):
    text = 'department,title,ask,answer\n内科,"他说\\"疼\\"，很久",,"\\"好\\"\n休息"\n' + "".join(
        f"内科,{asked},,休息\n" for asked in ASKED
    )
    assert read(tmp_path, "a.csv", text, "toyhom_dialogue") == (['他说"疼"，很久', *ASKED], {})
    assert payloads(tmp_path, "toyhom_dialogue")[0].turns[1] == '"好"\n休息'


@pytest.mark.parametrize("indent", [None, 2])
def test_a_broken_record_of_a_dict_is_named_and_the_others_are_read(tmp_path, indent):
    text = dump({"data": ROWS}, indent=indent).replace(f'"{ASKED[2]}"', "oops")
    assert read(tmp_path, "a.json", text) == (ASKED[:2], {"broken JSON": 1})


def test_a_csv_source_published_as_json_and_the_other_way_round(tmp_path):
    rows = [{"department": "内科", "title": asked, "ask": "", "answer": "休息"} for asked in ASKED]
    assert read(tmp_path, "a.json", dump(rows), "toyhom_dialogue") == (ASKED, {})
    text = "question,response_chosen,response_rejected\n" + "".join(f"{asked},好,坏\n" for asked in ASKED)
    assert read(tmp_path, "a.csv", text, "medicalgpt_reward") == (ASKED, {})


@pytest.mark.parametrize("file", ["a.tsv", "a.TSV.gz"])
def test_a_table_with_tabs_is_read_like_csv(tmp_path, file):
    text = "department\ttitle\task\tanswer\n" + "".join(f'内科\t{asked}\t\t休息, "好"\n' for asked in ASKED)
    text += '内科\t5" 长\t"引 ""号""\n两行"\t休息\n'
    raw = gzip.compress(text.encode()) if file.endswith("gz") else text
    assert read(tmp_path, file, raw, "toyhom_dialogue") == ([*ASKED, '5" 长'], {})
    rows = "question\tresponse_chosen\tresponse_rejected\n" + "".join(f"{asked}\t好\t坏\n" for asked in ASKED)
    assert read(tmp_path, "b.tsv", rows, "medicalgpt_reward") == (ASKED, {})


# --- parquet and arrow ------------------------------------------------------------------------------------------------


def parquet(rows) -> bytes:
    raw = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), raw, row_group_size=2)
    return raw.getvalue()


def arrow(rows, new) -> bytes:
    raw, table = io.BytesIO(), pa.Table.from_pylist(rows)
    with new(raw, table.schema) as writer:
        writer.write_table(table)
    return raw.getvalue()


TABLES = {
    "train.parquet": parquet(ROWS),
    "data/train-00000-of-00001.parquet": parquet(ROWS),
    "file.arrow": arrow(ROWS, pa.ipc.new_file),
    "stream.arrow": arrow(ROWS, pa.ipc.new_stream),
    "train.parquet.gz": gzip.compress(parquet(ROWS)),
}


@pytest.mark.parametrize("file", TABLES)
def test_parquet_and_arrow_are_rows(tmp_path, file):
    assert read(tmp_path, file, TABLES[file]) == (ASKED, {})
    assert [one.line for one in units_of(tmp_path, NAME)] == [1, 2, 3]


def test_text_that_a_table_holds_as_bytes_is_text(tmp_path):
    rows = [{"questions": asked.encode(), "answers": "请到医院检查。".encode()} for asked in ASKED]
    rows.append({"questions": ASKED[0].encode("gb18030"), "answers": b"x"})
    asked, lost = read(tmp_path, "a.parquet", parquet(rows))
    assert asked[:3] == ASKED and lost_character(asked[3]) and not lost


@pytest.mark.parametrize("file", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("raw", [b"", b"PAR1 no table", parquet(ROWS)[:200]])
def test_a_damaged_table_is_one_rejection(tmp_path, file, raw):
    assert read(tmp_path, file, raw) == ([], {"unreadable file": 1})


# --- packed -----------------------------------------------------------------------------------------------------------


def zipped(members: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


LINES = jsonl(ROWS).encode()
PACKED = {
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.zip": zipped({"a.jsonl": LINES}),
    "b.zip": zipped({"data/a.parquet": parquet(ROWS)}),
    "c.zip": zipped({"a.jsonl.gz": gzip.compress(LINES)}),
    "a.tar": tarred({"a.jsonl": LINES}),
    "a.tar.gz": tarred({"data/a.jsonl": LINES, "README.md": b"x"}, "w:gz"),
    "a.tgz": tarred({"a.jsonl": LINES}, "w:gz"),
    "a.tar.bz2": tarred({"a.jsonl": LINES}, "w:bz2"),
    "a.tar.xz": tarred({"a.jsonl": LINES}, "w:xz"),
    "a.tar.zst": zstandard.compress(tarred({"a.jsonl": LINES})),
}


@pytest.mark.parametrize("file", PACKED)
def test_every_packing(tmp_path, file):
    assert read(tmp_path, file, PACKED[file]) == (ASKED, {})
    assert read(tmp_path / "upper", file.upper(), PACKED[file]) == (ASKED, {})


# --- encodings --------------------------------------------------------------------------------------------------------

TRADITIONAL = "主治傷寒中風，頭痛發熱，無汗而喘者。此方以麻黃為君，桂枝為臣。"


@pytest.mark.parametrize("encoding", ["big5", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig"])
def test_books_in_every_encoding(tmp_path, encoding):
    put(tmp_path / "plain_text", {"傷寒.txt": f"{TRADITIONAL}\n".encode(encoding)})
    assert payloads(tmp_path, "plain_text") == [Passage("傷寒", TRADITIONAL)]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("packing", ["", ".gz"])
def test_rows_in_every_encoding(tmp_path, encoding, packing):
    raw = jsonl(ROWS).encode(encoding)
    assert read(tmp_path, f"a.jsonl{packing}", gzip.compress(raw) if packing else raw) == (ASKED, {})


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "ceval-exam/"])
def test_a_benchmark_one_folder_deeper(tmp_path, prefix):
    text = "id,question,A,B,C,D,answer\n0,下列正确的是,甲,乙,丙,丁,A\n"
    assert read(tmp_path, f"{prefix}val/physician_val.csv", text, "ceval") == (["下列正确的是"], {})


def test_links_inside_the_raw_folder_are_read_and_links_out_of_it_are_not(tmp_path):
    raw, outside = tmp_path / "raw", put(tmp_path / "outside", {"secret.jsonl": LINES, "folder/x.jsonl": LINES})
    put(raw / "store", {"a.jsonl": LINES})
    folder = raw / "huatuo_encyclopedia_qa"
    folder.mkdir()
    (folder / "in.jsonl").symlink_to("../store/a.jsonl")
    (folder / "out.jsonl").symlink_to(outside / "secret.jsonl")
    (folder / "deep").symlink_to(outside / "folder")
    (folder / "environ.jsonl").symlink_to("/proc/self/environ")
    assert reads(raw, folder.name) == (ASKED, {"unreadable file": 3})
    details = {one.detail.split(";")[0] for one in units_of(raw, folder.name) if not isinstance(one, Record)}
    assert details == {"a symbolic link that leads out of the raw folder"}


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"


@pytest.mark.parametrize("name, file", [(NAME, "a.jsonl"), ("toyhom_dialogue", "a.csv"), ("plain_text", "a.txt")])
@pytest.mark.parametrize(
    "raw, what",
    [
        (POINTER, "Git LFS"),
        (zipped({"xl/workbook.xml": b"<x/>"}), ".zip"),
        (gzip.compress(LINES), "gzip"),
        (b"%PDF-1.7\n1 0 obj", "PDF"),
    ],
)
def test_what_is_no_text_is_one_rejection_that_says_what_it_is(tmp_path, name, file, raw, what):
    put(tmp_path / name, {file: raw})
    (one,) = units_of(tmp_path, name)
    assert one.reason == "unreadable file" and what in one.detail


# --- what is not read -------------------------------------------------------------------------------------------------


def test_what_is_not_read_is_named_in_ledger_and_notebook(tmp_path, params):
    raw = put(
        tmp_path / "raw",
        {
            "huatuo_encyclopedia_qa/train.jsonl": LINES,
            "huatuo_encyclopedia_qa/notes.xlsx": b"x",
            "huatuo_encyclopedia_qa/more.zip": zipped({"readme.md": b"x", "inner.zip": b"x"}),
            "huatuo_encyclopedia_qa/part.zip": zipped({"b.jsonl": LINES, "b.md": b"x"}),
            "huatuo_encyclopedia_qa/a/b/c/far.jsonl": LINES,
            "meddialog_cn/COVID.docx": b"x",
        },
    )
    ledger = build_sets(params, raw, tmp_path / "out", lambda text: None).as_dict()
    unread = ledger["unread"]
    assert set(unread["huatuo_encyclopedia_qa"]) == {"notes.xlsx", "more.zip", "part.zip/b.md", "a/b/c/far.jsonl"}
    assert set(unread["meddialog_cn"]) == {"COVID.docx"}
    assert all(reason for files in unread.values() for reason in files.values())
    assert ledger == json.loads((tmp_path / "out" / "ledger.json").read_text(encoding="utf-8"))
    table = data.sources_table(raw)
    states = dict(zip(table.frame["Dataset"], table.frame["Status"], strict=True))
    assert states["meddialog_cn"] == "nothing read" and states["huatuo_encyclopedia_qa"] == "present, 4 files not read"
    assert states["remedi"] == "missing"
    shown = "\n".join(table.notes)
    assert "meddialog_cn: COVID.docx" in shown and "notes.xlsx" in shown
    assert "far.jsonl (too deep" in shown


def test_names_that_would_act_on_a_terminal_are_shown_escaped(tmp_path, capsys):
    put(tmp_path, {"evil\x1b]0;title\x07/a.txt": b"x", "cmd/x\x1b[2J\u202e.docx": b"x"})
    put(tmp_path, {"cmd/a.zip": zipped({"\x1b[31m.jsonl": b"{"})})
    assert sources.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(shown) and "\\x1b[2J" in shown


# --- time -------------------------------------------------------------------------------------------------------------

BROKEN = {
    "broken elements": ("[", '{"a":},\n'),
    "broken lines": ("", '{"a":\n'),
    "unclosed strings": ("[", '{"a": "x},\n'),
    "opened objects": ("", '{"a": [\n'),
    "trailing commas": ("[", '{"a": [1,],},\n'),
    "one line": ("[", '{"a":},'),
    "one line of brackets": ("[", "{"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_time_grows_with_a_broken_file_and_not_with_its_square(tmp_path, kind):
    head, part = BROKEN[kind]

    def seconds(size: int) -> float:
        put(tmp_path / "cmd", {"a.json": head + part * (size // len(part))})
        begun = time.process_time()
        reads(tmp_path, "cmd")
        return time.process_time() - begun

    # Ten times the size: ten times the time, or a hundred. The least of two, for what else a machine does.
    small, large = (min(seconds(size) for _ in range(2)) for size in (60_000, 600_000))
    assert large < 35 * max(small, 0.02), (small, large)


@pytest.mark.parametrize("name", ["../evil.jsonl", "/etc/evil.jsonl"])
def test_a_member_of_a_tar_that_leads_out_of_it(tmp_path, name):
    assert read(tmp_path, "a.tar", tarred({"good.jsonl": LINES, name: LINES})) == (ASKED, {"unsafe archive": 1})


def test_a_link_and_a_pipe_in_a_tar(tmp_path):
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, kind in (("a.jsonl", tarfile.SYMTYPE), ("b.jsonl", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    assert read(tmp_path, "a.tar", raw.getvalue()) == ([], {"unsafe archive": 2})
