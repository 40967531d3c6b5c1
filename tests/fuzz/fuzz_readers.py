"""Feed mutated files to every reader through `units`: rejections are allowed, exceptions are not.

Not collected by pytest: python tests/fuzz/fuzz_readers.py --seconds 600 --seed 1
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import zstandard
from pyarrow import parquet

from qilin_lib.chimed import sources
from qilin_lib.chimed.readers import stream
from qilin_lib.chimed.readers.json_text import json_items
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.chimed.records import Record, Rejection, strings
from qilin_lib.sample import raw_dir

MOST = 60_000
TOKENS = [b"\n", b"\r", b"\r\n", b"\0", b'"', b'""', b",", b"[", b"]", b"{", b"}", b":", b"\\", b"\\u", b"\t", b"NaN"]
TOKENS += [b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xe4", b"\x81", b"null", b"1e999", b"[[", b'{"a":', "医".encode()]
TOKENS += ["病人：".encode(), b"<|", "😀𠀀\u202e".encode(), b"\\ud800", b"-", b"9" * 5000, b"[" * 2000]


def pool(folder: Path) -> dict[str, list[tuple[str, bytes]]]:
    """{source: [(file, its bytes)]} of a raw folder, and a made-up file where it has none."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for source in sources.REGISTRY:
        for feed in source.feeds:
            paths = sorted(path for path in (folder / source.name).glob(feed.glob) if path.is_file())
            files = [(str(path.relative_to(folder / source.name)), path.read_bytes()) for path in paths]
            found.setdefault(source.name, []).extend(files or [(made_up(feed.glob), b"")])
    everything = [raw for files in found.values() for _, raw in files if raw]
    # A source without a sample gets the files of the others: their rows are wrong for it, which is the point.
    return {
        name: [(file, raw or everything[n % len(everything)]) for n, (file, raw) in enumerate(files)]
        for name, files in found.items()
    }


def made_up(pattern: str) -> str:
    return pattern.replace("**/", "").replace("*", "x")


def excerpt_of(raw: bytes, dice: random.Random) -> bytes:
    """A piece of at most MOST bytes that begins at a line (the first line, which may be a header, comes along)."""
    if len(raw) <= MOST or dice.random() < 0.3:
        return raw[:MOST]
    head = raw[: raw.find(b"\n") + 1][:MOST]
    start = raw.find(b"\n", dice.randrange(len(raw) - MOST // 2)) + 1
    return head + raw[start : start + dice.randrange(MOST)]


def mutated(raw: bytes, others: list[bytes], dice: random.Random) -> bytes:
    for _ in range(dice.choice((0, 1, 1, 2, 4, 8))):
        at, end = sorted(dice.randrange(len(raw) + 1) for _ in range(2))
        match dice.randrange(9):
            case 0 if raw:
                at = min(at, len(raw) - 1)
                raw = raw[:at] + bytes([raw[at] ^ (1 << dice.randrange(8))]) + raw[at + 1 :]
            case 1:
                raw = raw[:at]
            case 2:
                raw = raw[:end] + raw[at:end] + raw[end:]
            case 3:
                other = dice.choice(others)
                raw = raw[:at] + other[dice.randrange(len(other)) :][:2000] + raw[at:]
            case 4:
                raw = raw[:at] + raw[min(end, at + 200) :]
            case 5:
                raw = raw[:at] + dice.randbytes(dice.randrange(40)) + raw[at:]
            case 6:
                raw = recoded(raw, dice)
            case _:
                raw = raw[:at] + dice.choice(TOKENS) * dice.choice((1, 1, 2, 50)) + raw[at:]
        raw = raw[: 4 * MOST]
    return raw if dice.random() > 0.02 else dice.randbytes(dice.randrange(3000))


def recoded(raw: bytes, dice: random.Random) -> bytes:
    text = raw.decode("utf-8", "replace")
    half = dice.choice((0, len(text) // 2))
    encoding = dice.choice(("gb18030", "utf-16", "utf-8-sig", "utf-32", "utf-16-le", "utf-16-be", "big5hkscs"))
    return text[:half].encode("utf-8") + text[half:].encode(encoding, "ignore")


def packed(file: str, raw: bytes, others: list[bytes], dice: random.Random) -> tuple[str, bytes]:
    place, pack = Path(file), {".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
    pack |= {".bz2": bz2.compress}
    match dice.randrange(18):
        case 0 | 1 | 2:
            suffix = dice.choice([*pack])
            file, raw = f"{file}{suffix}", pack[suffix](raw)
        case 3:
            held = io.BytesIO()
            with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(place.name, raw)
                archive.writestr(dice.choice(("../", "/", "a/", "")) + "b" + place.suffix, raw[:500])
            file, raw = str(place.with_name("x.zip")), held.getvalue()
        case 4:
            held, mode = io.BytesIO(), dice.choice(("", ":gz", ":xz", ":bz2"))
            with tarfile.open(fileobj=held, mode=f"w{mode}") as archive:
                info = tarfile.TarInfo(place.name)
                info.size = len(raw)
                archive.addfile(info, io.BytesIO(raw))
            file, raw = str(place.with_name(f"x.tar{mode.replace(':', '.')}")), held.getvalue()
        case 5 | 6 if place.suffix != ".txt":
            file, raw = str(place.with_suffix(".parquet")), table(raw)
        case _:
            return file, raw
    return file, mutated(raw, others, dice) if dice.random() < 0.5 else raw


def table(raw: bytes) -> bytes:
    """The rows of a file as a table, as far as there are any."""
    rows = [row for _, row in json_items(Stream.of(raw)) if isinstance(row, dict)][:50]
    held = io.BytesIO()
    with contextlib.suppress(pa.ArrowException, TypeError, ValueError):
        parquet.write_table(pa.Table.from_pylist([{"text": json.dumps(row)} for row in rows]), held)
    return held.getvalue()


def check(source: sources.Source, folder: Path) -> Counter:
    """Read twice; raises AssertionError or whatever a reader raises."""
    first, second = (list(sources.units(source, folder)) for _ in range(2))
    assert repr(first) == repr(second), "a second reading gives something else"
    assert first or sources.unread(source, folder), "a file was read without a trace"
    counts: Counter = Counter()
    for unit in first:
        read = unit.read
        assert unit.sets and read.source == source.name and isinstance(read.file, str) and isinstance(read.line, int)
        if isinstance(read, Record):
            assert read.line >= 1, "a record without a line"
            assert all(type(text) is str for text in strings(read.payload)), "not a str"
            counts["record"] += 1
        else:
            assert isinstance(read, Rejection) and read.line >= 0
            assert all(type(text) is str for text in (read.reason, read.detail, read.excerpt)) and read.reason
            (read.file + read.reason + read.detail + read.excerpt).encode("utf-8")
            counts[read.reason] += 1
    return counts


def fuzz(seconds: float, seed: int) -> int:
    """Mutate until the time is over or a case fails; the exit status."""
    dice, counts, runs = random.Random(seed), Counter(), Counter()
    files = pool(raw_dir())
    others = [raw for held in files.values() for _, raw in held]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        source = sources.BY_NAME[dice.choice(sorted(files))]
        file, raw = dice.choice(files[source.name])
        file, raw = packed(file, mutated(excerpt_of(raw, dice), others, dice), others, dice)
        stream.MAX_LINE = dice.choice((1 << 25, 1 << 25, 3000))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / source.name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(raw)
            try:
                counts += check(source, Path(folder))
            except Exception:
                kept = Path(tempfile.mkdtemp(prefix="fuzz_readers_")) / path.name
                kept.write_bytes(raw)
                traceback.print_exc()
                print(f"FAILED: source {source.name}, file {file}, MAX_LINE {stream.MAX_LINE}; kept as {kept}")
                return 1
        runs[source.name] += 1
    print(f"{runs.total()} files of {len(runs)} sources, seed {seed}: no exception")
    for reason, count in counts.most_common():
        print(f"{count:9d} {reason}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(fuzz(options.seconds, options.seed))
