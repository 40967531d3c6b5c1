"""Mutated files of every source, packed or not, through `units`: rejections are allowed, exceptions are not."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet
from raw_files import put

from qilin_lib.chimed import sources
from qilin_lib.chimed.readers import stream
from qilin_lib.chimed.readers.json_text import json_items
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.records import Record, strings
from qilin_lib.sample import raw_dir

MOST = 60_000
TOKENS = [b"\n", b"\r", b"\r\n", b"\0", b'"', b'""', b",", b"[", b"]", b"{", b"}", b":", b"\\", b"\\u", b"\t", b"NaN"]
TOKENS += [b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xe4", b"\x81", b"null", b"1e999", b"[[", b'{"a":', "医".encode()]
TOKENS += ["病人：".encode(), b"<|", "😀𠀀\u202e".encode(), b"\\ud800", b"-", b"9" * 5000, b"[" * 2000]
ENCODINGS = ("gb18030", "utf-16", "utf-8-sig", "utf-32", "utf-16-le", "utf-16-be", "big5hkscs")
PACKERS = {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress, ".bz2": bz2.compress}


def sample_files() -> dict[str, list[tuple[str, bytes]]]:
    """{source: [(file, its bytes)]} of the sample; a source without one gets another's, whose rows are wrong for it."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for source in sources.REGISTRY:
        folder = raw_dir() / source.name
        globs = [feed.glob for feed in source.feeds]
        paths = sorted(path for glob in globs for path in folder.glob(glob) if path.is_file())
        found[source.name] = [(str(path.relative_to(folder)), path.read_bytes()) for path in paths]
        found[source.name] += [(glob.replace("**/", "").replace("*", "x"), b"") for glob in globs if not paths]
    everything = [raw for files in found.values() for _, raw in files if raw]
    return {
        name: [(file, raw or everything[n % len(everything)]) for n, (file, raw) in enumerate(files)]
        for name, files in found.items()
    }


def piece_of(raw: bytes, dice: random.Random) -> bytes:
    """At most MOST bytes that begin at a line; the first line, which may be a header, comes along."""
    if len(raw) <= MOST or dice.random() < 0.3:
        return raw[:MOST]
    head = raw[: raw.find(b"\n") + 1][:MOST]
    start = raw.find(b"\n", dice.randrange(len(raw) - MOST // 2)) + 1
    return head + raw[start : start + dice.randrange(MOST)]


def mutated(raw: bytes, others: list[bytes], dice: random.Random) -> bytes:
    for _ in range(dice.choice((0, 1, 1, 2, 4, 8))):
        at, end = sorted(dice.randrange(len(raw) + 1) for _ in range(2))
        before, inside, behind = raw[:at], raw[at:end], raw[end:]
        match dice.randrange(9):
            case 0 if inside:
                raw = before + bytes([inside[0] ^ (1 << dice.randrange(8))]) + inside[1:] + behind
            case 1:
                raw = before
            case 2:
                raw = before + inside * 2 + behind
            case 3:
                other = dice.choice(others)
                raw = before + other[dice.randrange(len(other)) :][:2000] + inside + behind
            case 4:
                raw = before + inside[200:] + behind
            case 5:
                raw = before + dice.randbytes(dice.randrange(40)) + inside + behind
            case 6:
                text, half = raw.decode("utf-8", "replace"), dice.choice((0, len(raw) // 6))
                raw = text[:half].encode("utf-8") + text[half:].encode(dice.choice(ENCODINGS), "ignore")
            case _:
                raw = before + dice.choice(TOKENS) * dice.choice((1, 1, 2, 50)) + inside + behind
        raw = raw[: 4 * MOST]
    return raw if dice.random() > 0.02 else dice.randbytes(dice.randrange(3000))


def packed(file: str, raw: bytes, dice: random.Random) -> tuple[str, bytes]:
    """The file as it is, more often than not; else compressed, in an archive, or as a table."""
    place, held = Path(file), io.BytesIO()
    match dice.randrange(18):
        case 0 | 1 | 2:
            suffix = dice.choice([*PACKERS])
            return f"{file}{suffix}", PACKERS[suffix](raw)
        case 3:
            with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(place.name, raw)
                archive.writestr(dice.choice(("../", "/", "a/", "")) + "b" + place.suffix, raw[:500])
            return str(place.with_name("x.zip")), held.getvalue()
        case 4:
            packing = dice.choice(("", "gz", "xz", "bz2"))
            with tarfile.open(fileobj=held, mode=f"w:{packing}") as archive:
                info = tarfile.TarInfo(place.name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
            return str(place.with_name(f"x.tar.{packing}".rstrip("."))), held.getvalue()
        case 5 | 6 if place.suffix != ".txt":
            rows = [row for _, row in json_items(Stream.of(raw)) if isinstance(row, dict)][:50]
            with contextlib.suppress(pa.ArrowException, TypeError, ValueError):
                parquet.write_table(pa.Table.from_pylist([{"text": json.dumps(row)} for row in rows]), held)
            return str(place.with_suffix(".parquet")), held.getvalue()
    return file, raw


@pytest.mark.parametrize("files", [150, pytest.param(10_000, marks=pytest.mark.extended)])
def test_no_file_makes_a_reader_fail(tmp_path, monkeypatch, files):
    dice, held = random.Random(1), sample_files()
    others = [raw for own in held.values() for _, raw in own]
    records = rejections = 0
    for number in range(files):
        source = sources.BY_NAME[dice.choice(sorted(held))]
        file, raw = dice.choice(held[source.name])
        file, raw = packed(file, mutated(piece_of(raw, dice), others, dice), dice)
        raw = mutated(raw, others, dice) if dice.random() < 0.2 else raw
        monkeypatch.setattr(stream, "MAX_LINE", dice.choice((1 << 25, 1 << 25, 3000)))
        folder = put(tmp_path / str(number) / source.name, {file: raw}).parent
        first, second = (list(sources.units(source, folder)) for _ in range(2))
        assert repr(first) == repr(second), "a second reading gives something else"
        assert first or sources.unread(source, folder), "a file was read without a trace"
        for unit in first:
            read = unit.read
            if isinstance(read, Record):
                assert read.line >= 1, "a record without a line"
                assert all(type(text) is str for text in strings(read.payload)), "not a str"
                records += 1
            else:
                assert read.line >= 0 and read.reason
                (read.file + read.reason + read.detail + read.excerpt).encode("utf-8")
                rejections += 1
        (folder / source.name / file).unlink()
    assert records > files and rejections > files
