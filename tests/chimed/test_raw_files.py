"""Files as they are downloaded, good and bad: what is read of each, what is counted as lost, and what is not read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard
from raw_files import jsonl, payloads, put, read, reads, units_of

from qilin_lib.chimed import sources
from qilin_lib.chimed.records import Passage, Record, lost_character
from qilin_lib.report import data

NAME, TOYHOM = "huatuo_encyclopedia_qa", "toyhom_dialogue"
ASKED = ["头痛三天怎么办", "发热一天吃什么药", "咳嗽有痰要紧吗"]
HAS = "请到医院检查。"
ROWS = [{"questions": [[asked]], "answers": [HAS]} for asked in ASKED]
LINES = jsonl(ROWS).encode()
HEAD = "department,title,ask,answer\n"


def dump(value, **how) -> str:
    return json.dumps(value, ensure_ascii=False, **how)


def parquet(rows=ROWS) -> bytes:
    raw = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), raw, row_group_size=2)
    return raw.getvalue()


def arrow(new) -> bytes:
    raw, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with new(raw, table.schema) as writer:
        writer.write_table(table)
    return raw.getvalue()


def zipped(members: dict[str, str | bytes], external_attr: int = 0) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, external_attr
            archive.writestr(info, content)
    return raw.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w", kind: bytes = tarfile.REGTYPE) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content), kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return raw.getvalue()


def encrypted(raw: bytes) -> bytes:
    """An archive of one member with the marks of encryption in its two headers."""
    marked, at = bytearray(raw), raw.rindex(b"PK\1\2")
    marked[6] |= 1
    marked[at + 8] |= 1
    return bytes(marked)


# --- what is read -----------------------------------------------------------------------------------------------------

UNDER_DATA = {
    "instructions": [{"instruction": asked, "input": "", "output": HAS} for asked in ASKED],
    "questions": [{"question": asked, "answer": HAS} for asked in ASKED],
    "pairs": [[asked, HAS] for asked in ASKED],
    "chats": [{"data": [f"问：{asked}", f"答：{HAS}"]} for asked in ASKED],
}
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
    "newlines of several systems": dump(ROWS[0]) + "\r\n" + dump(ROWS[1]) + "\r" + dump(ROWS[2]) + "\n",
}
# Rows under "data" are no conversation.
LAYOUTS |= {
    f"{form} under data, indented by {indent}": dump({"version": 1, "data": rows}, indent=indent)
    for form, rows in UNDER_DATA.items()
    for indent in (None, 2)
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_layout_of_json(tmp_path, layout, newline):
    assert read(tmp_path, "train.json", LAYOUTS[layout].replace("\n", newline), NAME) == (ASKED, {})


FILES = {
    "train.parquet": parquet(),
    "data/train-00000-of-00001.parquet": parquet(),
    "file.arrow": arrow(pa.ipc.new_file),
    "stream.arrow": arrow(pa.ipc.new_stream),
    "train.parquet.gz": gzip.compress(parquet()),
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.xz": lzma.compress(LINES),
    "a.jsonl.bz2": bz2.compress(LINES),
    "a.jsonl.zst": zstandard.compress(LINES),
    "a.zip": zipped({"a.jsonl": LINES}),
    "b.zip": zipped({"data/a.parquet": parquet()}),
    "c.zip": zipped({"a.jsonl.gz": gzip.compress(LINES)}),
    "a.tar": tarred({"a.jsonl": LINES}),
    "a.tar.gz": tarred({"data/a.jsonl": LINES, "README.md": b"x"}, "w:gz"),
    "a.tgz": tarred({"a.jsonl": LINES}, "w:gz"),
    "a.tar.bz2": tarred({"a.jsonl": LINES}, "w:bz2"),
    "a.tar.xz": tarred({"a.jsonl": LINES}, "w:xz"),
    "a.tar.zst": zstandard.compress(tarred({"a.jsonl": LINES})),
}
ENCODINGS = ("gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig")
FILES |= {f"{encoding}.jsonl": LINES.decode().encode(encoding) for encoding in ENCODINGS}
FILES |= {f"{encoding}.jsonl.gz": gzip.compress(FILES[f"{encoding}.jsonl"]) for encoding in ENCODINGS}


@pytest.mark.parametrize("file", FILES)
def test_every_packing_table_and_encoding(tmp_path, file):
    assert read(tmp_path, file, FILES[file], NAME) == (ASKED, {})
    assert [one.line for one in units_of(tmp_path, NAME)] == [1, 2, 3]
    assert read(tmp_path / "upper", file.upper(), FILES[file], NAME) == (ASKED, {})


TRADITIONAL = "主治傷寒中風，頭痛發熱，無汗而喘者。此方以麻黃為君，桂枝為臣。"


@pytest.mark.parametrize("encoding", ["big5", "utf-8", *ENCODINGS])
def test_books_in_every_encoding(tmp_path, encoding):
    put(tmp_path / "plain_text", {"傷寒.txt": f"{TRADITIONAL}\n".encode(encoding)})
    assert payloads(tmp_path, "plain_text") == [Passage("傷寒", TRADITIONAL)]


TABBED = "department\ttitle\task\tanswer\n" + "".join(f'内科\t{asked}\t\t休息, "好"\n' for asked in ASKED)
TABBED += '内科\t5" 长\t"引 ""号""\n两行"\t休息\n'
PAIRS = "question,response_chosen,response_rejected\n" + "".join(f"{asked},好,坏\n" for asked in ASKED)
TITLED = [{"department": "内科", "title": asked, "ask": "", "answer": "休息"} for asked in ASKED]
# Quotes behind backslashes, as databases write them.
QUOTED = HEAD + '内科,"他说\\"疼\\"，很久",,"\\"好\\"\n休息"\n'
EXAM = "id,question,A,B,C,D,answer\n0,下列正确的是,甲,乙,丙,丁,A\n"
COMMAS = HEAD + "".join(f'内科,{asked},,"休息; 多喝水"\n' for asked in ASKED)
CAPITALS = [{"Question": asked, "Answer": HAS} for asked in ASKED]


@pytest.mark.parametrize(
    "name, file, raw, asked",
    [
        (TOYHOM, "a.json", dump(TITLED), ASKED),
        (TOYHOM, "a.tsv", TABBED, [*ASKED, '5" 长']),
        (TOYHOM, "a.TSV.gz", gzip.compress(TABBED.encode()), [*ASKED, '5" 长']),
        (TOYHOM, "a.csv", QUOTED, ['他说"疼"，很久']),
        (TOYHOM, "a.csv", TABBED, [*ASKED, '5" 长']),
        (TOYHOM, "a.tsv", COMMAS, ASKED),
        *((TOYHOM, "a.csv", COMMAS.replace("; ", "，").replace(",", mark), ASKED) for mark in ";|"),
        (TOYHOM, "a.csv", COMMAS.replace(HEAD, HEAD.title()), ASKED),
        ("general_zh", "a.json", dump(CAPITALS), ASKED),
        ("medicalgpt_reward", "b.csv", PAIRS.replace("response", "Response").replace("q", "Q"), ASKED),
        ("cmmlu", "test/a.csv", EXAM.replace(",", ";").title(), ["下列正确的是"]),
        ("medicalgpt_reward", "a.csv", PAIRS, ASKED),
        ("medicalgpt_reward", "b.tsv", PAIRS.replace(",", "\t"), ASKED),
        ("ceval", "val/physician_val.csv", EXAM, ["下列正确的是"]),
        ("ceval", "ceval-exam/val/physician_val.csv", EXAM, ["下列正确的是"]),
    ],
)
def test_rows_in_another_form_or_folder_than_they_are_published_in(tmp_path, name, file, raw, asked):
    assert read(tmp_path, file, raw, name) == (asked, {})
    if raw == QUOTED:
        assert payloads(tmp_path, name)[0].turns[1] == '"好"\n休息'


def test_text_that_a_table_holds_as_bytes_is_text(tmp_path):
    rows = [{"questions": asked.encode(), "answers": HAS.encode()} for asked in ASKED]
    rows.append({"questions": ASKED[0].encode("gb18030"), "answers": b"x"})
    asked, lost = read(tmp_path, "a.parquet", parquet(rows), NAME)
    assert asked[:3] == ASKED and lost_character(asked[3]) and not lost


# --- what is lost -----------------------------------------------------------------------------------------------------

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n"
NO_TEXT = {
    "Git LFS": POINTER,
    ".zip": zipped({"xl/workbook.xml": b"<x/>"}),
    "gzip": gzip.compress(LINES),
    "PDF": b"%PDF-1.7\n1 0 obj",
}
ZIP = zipped({"a.jsonl": LINES * 50})
LEADING_OUT = ["../evil.jsonl", "a/../../evil.jsonl", "/etc/evil.jsonl", "C:\\evil.jsonl", "..\\e.jsonl"]
ZEROS = bytes(120_000_000)
HALVES = (dump({"data": ROWS}, indent=indent).replace(f'"{ASKED[2]}"', "oops") for indent in (None, 2))
# Source, file, its bytes, what is read of it, {reason: how many are lost}, and what the details say.
BAD = [
    (TOYHOM, "a.csv", "department,title,ask,reply\n" + "内科,头痛,三天,休息\n" * 5, [], {"missing field": 5},
     "answer; found department, title, ask, reply"),
    (TOYHOM, "a.csv", 'department,"title,ask,answer\n内科,头痛,三天,休息\n', [], {"unreadable file": 1, "no header": 1},
     "no header row"),
    *((TOYHOM, "a.csv", raw, [], {"empty file": 1}, "no rows")
      for raw in (b"", b"\n \n", b"\xef\xbb\xbf", b"\0", b"[]", HEAD)),
    *((NAME, "a.jsonl", dump(ROWS[0])[:cut] + "\n" + jsonl(ROWS), ASKED, {"broken JSON": 1}, "")
      for cut in (15, 20, 34, 40, 45)),
    *((NAME, "a.json", raw, ASKED[:2], {"broken JSON": 1}, "") for raw in HALVES),
    (NAME, "a.jsonl", "1" * 10_000, [], {"broken JSON": 1}, "Exceeds the limit"),
    *((NAME, f"a.{kind}", raw, [], {"unreadable file": 1}, "")
      for kind in ("parquet", "arrow") for raw in (b"", b"PAR1 no table", parquet()[:200])),
    *((name, file, raw, [], {"unreadable file": 1}, what)
      for name, file in ((NAME, "a.jsonl"), (TOYHOM, "a.csv"), ("plain_text", "a.txt"))
      for what, raw in NO_TEXT.items()),
    *((NAME, "a.zip", raw, [], {"unreadable file": 1}, "")
      for raw in (ZIP[:-30], b"", b"PK\3\4 no archive", ZIP[:50] + bytes(20) + ZIP[70:])),
    *((NAME, "a.zip", zipped({"good.jsonl": LINES, out: LINES}), ASKED, {"unsafe archive": 1}, "leads out")
      for out in LEADING_OUT),
    *((NAME, "a.tar", tarred({"good.jsonl": LINES, out: LINES}), ASKED, {"unsafe archive": 1}, "leads out")
      for out in LEADING_OUT[:3]),
    (NAME, "a.zip", zipped({"good.jsonl": "/etc/passwd"}, 0o120777 << 16), [], {"unsafe archive": 1}, "link"),
    *((NAME, "a.tar", tarred({"a.jsonl": b""}, kind=kind), [], {"unsafe archive": 1}, "link, pipe")
      for kind in (tarfile.SYMTYPE, tarfile.FIFOTYPE)),
    (NAME, "a.zip", encrypted(zipped({"a.jsonl": LINES})), [], {"unreadable file": 1}, "encrypted"),
    (NAME, "a.jsonl.gz", gzip.compress(ZEROS, 1), [], {"unsafe archive": 1}, "times as many"),
    (NAME, "a.zip", zipped({"a.jsonl": ZEROS}), [], {"unsafe archive": 1}, "times as many"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(BAD)), ids=lambda at: f"{at}-{BAD[at][1]}-{'-'.join(BAD[at][4])}")
def test_what_is_bad_is_counted_by_name_and_the_rest_is_read(tmp_path, case):
    name, file, raw, asked, lost, said = BAD[case]
    assert read(tmp_path, file, raw, name) == (asked, lost)
    assert said in details(tmp_path, name)


def details(raw: Path, name: str = NAME) -> str:
    return "; ".join(one.detail for one in units_of(raw, name) if not isinstance(one, Record))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[" + "[" * 5_000 + "]" * 5_000 + "]"])
def test_what_breaks_a_json_parser(tmp_path, text):
    asked, lost = read(tmp_path, "a.jsonl", text, NAME)
    assert not asked and lost.total() >= 1


def test_a_line_of_200_megabytes_in_bounded_memory(tmp_path):
    put(tmp_path / NAME, {"a.jsonl": jsonl(ROWS[:1])})
    with open(tmp_path / NAME / "a.jsonl", "ab") as handle:
        for _ in range(200):
            handle.write(b'"' * (1 << 20))
        handle.write(b"\n" + jsonl(ROWS[1:]).encode())
    tracemalloc.start()
    try:
        assert reads(tmp_path, NAME) == (ASKED, {"line too long": 1})
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_fails_while_it_is_read_keeps_what_was_read(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read1(self, size=-1):
            if not self.tell():
                return super().read1(len(jsonl(ROWS[:1]).encode()) + 5)
            raise OSError(5, "Input/output error")

    read(tmp_path, "a.jsonl", "x", NAME)
    monkeypatch.setattr(Path, "open", lambda self, *_: Failing(LINES))
    assert reads(tmp_path, NAME) == (ASKED[:1], {"unreadable file": 1})


def test_links_inside_the_raw_folder_are_read_and_what_leads_out_or_back_or_is_no_file_is_named(tmp_path):
    raw = tmp_path / "raw"
    put(tmp_path / "outside", {"secret.jsonl": LINES, "folder/x.jsonl": LINES})
    put(raw, {"store/a.jsonl": jsonl(ROWS[:1]), "shelf/b.jsonl": jsonl(ROWS[1:2]), f"{NAME}/z.jsonl": jsonl(ROWS[2:])})
    folder = raw / NAME
    (folder / "folder.jsonl").mkdir()
    os.mkfifo(folder / "pipe.jsonl")
    links = {"a.jsonl": "../store/a.jsonl", "shelf": "../shelf", "loop": ".", "gone.jsonl": "nowhere"}
    links |= {"self.jsonl": "self.jsonl", "out.jsonl": "../../outside/secret.jsonl", "deep": "../../outside/folder"}
    for name, target in (links | {"environ.jsonl": "/proc/self/environ"}).items():
        (folder / name).symlink_to(target)
    asked, lost = reads(raw, NAME)
    assert sorted(asked) == sorted(ASKED) and lost == {"unreadable file": 8}
    said = details(raw)
    assert said.count("a symbolic link that leads out of the raw folder") == 3
    for why in ("a folder", "a pipe", "No such file", "symbolic links", "a symbolic link to a folder above it"):
        assert why in said


# --- what is not read -------------------------------------------------------------------------------------------------


FAR = ("a/b/c/far.jsonl", "deep.zip/a/b/c/far.jsonl")
INNER = ("more.zip/inner.zip", "part.zip/c.tgz")


def test_what_is_not_read_is_named_in_ledger_and_notebook(tmp_path, build_of):
    raw = put(
        tmp_path / "raw",
        {
            "huatuo_encyclopedia_qa/train.jsonl": LINES,
            "huatuo_encyclopedia_qa/notes.xlsx": b"x",
            "huatuo_encyclopedia_qa/more.zip": zipped({"readme.md": b"x", "inner.zip": b"x"}),
            "huatuo_encyclopedia_qa/part.zip": zipped({"b.jsonl": LINES, "b.md": b"x", "c.tgz": b"x"}),
            "huatuo_encyclopedia_qa/a/b/c/far.jsonl": LINES,
            "huatuo_encyclopedia_qa/deep.zip": zipped({"a/b/c/far.jsonl": LINES}),
            "meddialog_cn/COVID.docx": b"x",
            "medical.json": LINES,
            ".DS_Store": b"x",
            "CMExam/train.csv": b"x",
        },
    )
    unread = build_of(raw, tmp_path / "out").ledger["unread"]
    assert set(unread[NAME]) == {"notes.xlsx", "more.zip", "part.zip/b.md", *FAR, *INNER}
    assert all("too deep" in unread[NAME][name] for name in FAR)
    assert all("unpack the outer one" in unread[NAME][name] for name in INNER)
    assert set(unread["meddialog_cn"]) == {"COVID.docx"}
    assert unread["."] == {"medical.json": "in no source's folder"}
    assert all(reason for files in unread.values() for reason in files.values())
    table = data.sources_table(raw)
    states = dict(zip(table.frame["Dataset"], table.frame["Status"], strict=True))
    assert states["meddialog_cn"] == "nothing read" and states[NAME] == "present, 7 files not read"
    assert states["remedi"] == "missing" and states["CMExam"] == "unknown (did you mean 'cmexam'?)"
    assert any("CMExam" in line and "did you mean 'cmexam'?" in line for line in sources.overview(raw))
    shown = "\n".join(table.notes)
    assert (
        "medical.json (in no source's folder)" in shown
        and "meddialog_cn: COVID.docx" in shown
        and "notes.xlsx" in shown
        and "far.jsonl (too deep" in shown
    )


def test_names_that_would_act_on_a_terminal_are_shown_escaped(tmp_path, capsys):
    put(tmp_path, {"evil\x1b]0;title\x07/a.txt": b"x", "cmd/x\x1b[2J\u202e.docx": b"x"})
    put(tmp_path, {"cmd/a.zip": zipped({"\x1b[31m.jsonl": b"{"})})
    assert sources.main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e"} & set(shown) and "\\x1b[2J" in shown
