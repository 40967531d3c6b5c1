"""Bytes to text as a stream: encodings, newlines, compressed forms, whatever the blocks; and in bounded memory."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import json
import lzma
import subprocess
import sys
import zipfile

import pytest
import zstandard

from qilin_lib.chimed.readers import stream
from qilin_lib.chimed.readers.find import found
from qilin_lib.chimed.readers.stream import Reject, Stream, decoded

PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}


def text_of(raw: bytes, size: int = 1 << 20) -> str:
    return "".join(Stream(lambda: decoded(raw[at : at + size] for at in range(0, len(raw), size))).pieces())


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_newlines_and_nul_are_normalised_across_blocks(size):
    assert text_of(b"a\r\nb\rc\0d\r\0\n\r\r\ne\r", size) == "a\nb\ncd\n\n\ne\n"


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
@pytest.mark.parametrize("size", [1, 50, 1 << 20])
def test_a_broken_byte_spoils_its_own_line_only(encoding, size):
    raw = "好的医生谢谢\n".encode(encoding) * 20 + b"\xff\xff\n" + "再见了医生\n".encode(encoding)
    lines = text_of(raw, size).split("\n")
    assert lines[0] == "好的医生谢谢" and lines[21] == "再见了医生"
    assert any("\ud800" <= char <= "\udfff" for char in lines[20])


@pytest.mark.parametrize(
    "raw, text",
    [
        ("好".encode("utf-16") + b"\x01", "好\udcfd"),
        # One broken byte in a single line of UTF-8 does not make it GB18030.
        ("好的医生谢谢".encode() * 50 + b"\xff" + "再见".encode(), "好的医生谢谢" * 50 + "\udcff再见"),
        # Replacement characters in the file are no evidence against UTF-8.
        ("\ufffd\ufffd".encode(), "\ufffd\ufffd"),
    ],
)
def test_what_cannot_be_decoded_is_a_lone_surrogate(raw, text):
    assert text_of(raw) == text_of(raw, 1) == text


@pytest.mark.parametrize("cut", [1, 3, 1000])
def test_a_line_over_the_limit_is_one_reject_and_the_rest_is_read(monkeypatch, cut):
    monkeypatch.setattr(stream, "MAX_LINE", 10)
    text = "ok\n" + "x" * 11 + "\n" + "y" * 10 + "\n" + "z" * 500
    lines = Stream(lambda: (text[at : at + cut] for at in range(0, len(text), cut))).lines()
    shown = [(number, line.reason if isinstance(line, Reject) else line) for number, line in lines]
    assert shown == [(1, "ok"), (2, "line too long"), (3, "y" * 10), (4, "line too long")]


# --- compressed -------------------------------------------------------------------------------------------------------

ROWS = "".join(f'{{"n": {n}, "t": "第{n}行，{n * 7919 % 10007}"}}\n' for n in range(30_000))


@pytest.mark.parametrize("suffix", PACKERS)
def test_what_stands_before_a_cut_is_kept_and_the_cut_reported(tmp_path, suffix):
    packed = PACKERS[suffix](ROWS.encode())
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed[: len(packed) * 4 // 5])
    with contextlib.ExitStack() as stack:
        (entry,) = found(tmp_path, stack)
    text = entry.stream()
    lines = [line for _, line in text.lines()]
    assert text.broken.reason == "unreadable file" and text.broken.detail
    assert len(lines) > 5_000 and lines == ROWS.split("\n")[: len(lines)]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_member_names_of_archives_that_do_not_name_their_encoding(tmp_path, encoding):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("AAAAAAAAAAAA"[: len("内科.csv".encode(encoding))], "a,b\n")
    raw = (tmp_path / "a.zip").read_bytes()
    name = "内科.csv".encode(encoding)
    (tmp_path / "a.zip").write_bytes(raw.replace(b"A" * len(name), name))
    with contextlib.ExitStack() as stack:
        (entry,) = found(tmp_path, stack)
        assert (entry.file, list(entry.stream().lines())) == ("a.zip/内科.csv", [(1, "a,b")])


def test_patterns_mean_what_they_mean_to_pathlib_here_and_one_folder_deeper(tmp_path):
    names = ("a.csv", "b/a.csv", "b/c/a.csv", "b/c/d/a.csv", "b/test_a.csv", "test.csv", "a.txt")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    with contextlib.ExitStack() as stack:
        entries = [entry for entry in found(tmp_path, stack) if not entry.fault]
    assert [entry.file for entry in entries] == sorted(names)
    for pattern in ("*.csv", "**/*.csv", "*/*.csv", "test*.csv", "b/**/*.csv", "a.csv", "**/test*.csv"):
        paths = {*tmp_path.glob(pattern), *tmp_path.glob(f"*/{pattern}")}
        wanted = sorted(str(path.relative_to(tmp_path)) for path in paths)
        assert [entry.file for entry in entries if entry.fits(pattern)] == wanted, pattern


# --- memory -----------------------------------------------------------------------------------------------------------

MEASURED = """
import resource, sys
from pathlib import Path
from qilin_lib.chimed import sources
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
count = sum(1 for _ in sources.units(sources.BY_NAME["cmd"], Path(sys.argv[1])))
print(count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_sixty_megabytes_are_read_in_twenty(tmp_path):
    (tmp_path / "cmd").mkdir()
    turns = [{"from": who, "value": "第1个问题的话" * 20} for who in ("input", "output")]
    row = json.dumps({"conversations": turns}, ensure_ascii=False)
    count = 60_000_000 // len(row.encode())
    (tmp_path / "cmd" / "a.jsonl").write_text("[" + ",".join([row] * count) + "]", encoding="utf-8")
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(output[0]) == count and int(output[1]) < 20, output
