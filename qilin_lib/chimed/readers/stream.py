"""A raw file as a stream of decoded text, in bounded memory, whatever its packing and encoding; else a `Reject`."""

from __future__ import annotations

import bz2
import codecs
import errno
import gzip
import io
import itertools
import json
import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import pyarrow
from pyarrow import parquet

from qilin_lib.chimed.shingles import code_points

# A line of JSON lines or CSV, or one element of a JSON array: 32 M characters are ten thousand book pages.
MAX_LINE = 1 << 25
PACKINGS = (".gz", ".bz2", ".xz", ".zst")


def suffix(file: str) -> str:
    """The compression suffix of a file name in lower case, "" when it has none."""
    return next((suffix for suffix in PACKINGS if file.lower().endswith(suffix)), "")


def plain_name(file: str) -> str:
    """`file` without a compression suffix: a.json.gz -> a.json."""
    return file[: len(file) - len(suffix(file))]


class Reject(Exception):
    """Raised by a row parser for a row it cannot use, and by the readers of files for one that cannot be read.

    shown: the row, where it could be read. note: it says something of a whole file, and is no row of it.
    """

    def __init__(self, reason: str, detail: str = "", shown: str = "", note: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.detail, self.shown, self.note = reason, detail, shown, note


class Stream:
    """The decoded text of one raw file; `pieces` and `lines` begin at the start each time they are called.

    `broken`, once the text is read: what ended it before the file's end; what stands before that is given.
    """

    def __init__(self, texts: Callable[[], Iterator[str]]) -> None:
        self._texts = texts
        self.broken: Reject | None = None

    @classmethod
    def of(cls, content: str | bytes) -> Stream:
        """A stream of text, or of a file's bytes, in memory."""
        return cls(lambda: iter([content]) if isinstance(content, str) else decoded([content]))

    def pieces(self) -> Iterator[str]:
        """Text in pieces; newlines are "\\n", NUL is removed."""
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        try:
            for text in self._texts():
                yield newlines.decode(text.replace("\0", ""))
        except Reject as reason:
            self.broken = reason
        yield newlines.decode("", final=True)

    def lines(self) -> Iterator[tuple[int, str | Reject]]:
        """(number from 1, line without its newline); a line over MAX_LINE characters is a Reject.

        A last line without a newline that a break has cut is not given: half a row can look like a whole one.
        """
        number, held, too_long = 1, "", Reject("line too long", f"more than {MAX_LINE} characters")
        for piece in self.pieces():
            first, *others = piece.split("\n")
            held += first if len(held) <= MAX_LINE else ""
            for line in others:
                yield number, held if len(held) <= MAX_LINE else too_long
                number, held = number + 1, line
        if held and not self.broken:
            yield number, held if len(held) <= MAX_LINE else too_long


# Chinese text shrinks to a third, highly regular JSON to a thirtieth; small files may shrink as they like.
BOMB_RATIO, BOMB_FLOOR = 200, 100_000_000
# Bytes that are read in one go: what stands before a fault in them may be lost with it.
_READ = 1 << 16
# Rows of a table that are in memory together.
_ROWS = 256
TABLES = (".parquet", ".arrow")
# Also ValueError: most of Arrow's errors, and names that no file can have. RuntimeError: of zipfile,
# encrypted or compressed by an unknown method.
FAULTS = (OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError)
FAULTS += (zipfile.BadZipFile, tarfile.TarError)
Opener = Callable[[], IO[bytes]]


# Not fsspec's: its zstd wants a package that is not installed with the kit.
_UNPACK = {"": lambda handle: handle, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNPACK[".zst"] = lambda handle: pyarrow.CompressedInputStream(handle, "zstd")


# How files begin that are no text and no table, whatever their names say.
_NO_TEXT = {
    b"version https://git-lfs": "only a pointer to Git LFS; get the file itself, for example by git lfs pull",
    b"PK\x03\x04": "a .zip archive or an Office document by its content; name it so",
    b"\x1f\x8b": "packed by gzip; let its name end in .gz",
    b"%PDF-": "a PDF, no text",
}


def unpacked(opener: Opener, packing: str) -> Iterator[bytes]:
    """The bytes of what `opener` opens, expanded as the suffix `packing` says."""
    made = 0
    try:
        with opener() as handle:
            source = _UNPACK[packing](handle)
            while block := source.read1(_READ):
                made += len(block)
                if packing and (unsafe := bomb(made, handle.tell())):
                    raise unsafe
                for head, what in _NO_TEXT.items() if made == len(block) else ():
                    if block.startswith(head):
                        raise Reject("unreadable file", what)
                yield block
            if packing and not handle.tell():
                raise EOFError("an empty file")
    except FAULTS as reason:
        raise unreadable(reason) from None


def unreadable(reason: Exception) -> Reject:
    """The Reject for an error of the file system, a decompressor or Arrow."""
    if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
        raise reason  # of the temporary file, no fault of this one
    said = getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(reason).__name__
    return Reject("unreadable file", said)


def bomb(made: int, eaten: int) -> Reject | None:
    """The Reject for `eaten` bytes of an archive that make `made` bytes of content, when no text does so."""
    if made > BOMB_FLOOR and made > BOMB_RATIO * eaten:
        return Reject("unsafe archive", f"{eaten} bytes expand to more than {BOMB_RATIO} times as many")
    return None


def seekable(opener: Opener, packing: str) -> IO[bytes]:
    """The content as a file that can be gone back in: itself, or a temporary copy of what is packed."""
    if not packing and isinstance(handle := opener(), io.BufferedReader):
        return handle
    copy = tempfile.TemporaryFile()
    copy.writelines(unpacked(opener, packing))
    copy.seek(0)
    return copy


def table(opener: Opener, packing: str, kind: str) -> Iterator[str]:
    """The rows of a table of suffix `kind` as JSON lines; the lines of a row are its number."""
    try:
        with seekable(opener, packing) as handle:
            for batch in _batches(handle, kind):
                batch.validate(full=True)
                for start in range(0, batch.num_rows, _ROWS):
                    rows = map(_filled, batch.slice(start, _ROWS).to_pylist())
                    yield "".join(json.dumps(row, ensure_ascii=False, default=_shown) + "\n" for row in rows)
    # MemoryError: a damaged table may ask for terabytes.
    except (*FAULTS, pyarrow.ArrowException, MemoryError) as reason:
        raise unreadable(reason) from None


def _shown(value: Any) -> str:
    """What JSON has no form for: bytes are text that its table has no type for."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _filled(value: Any) -> Any:
    """Without the fields that are null: a column, and a field of a structure, is there for every row."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _batches(handle: IO[bytes], kind: str) -> Iterator[Any]:
    """Record batches of a Parquet file, an Arrow file, or an Arrow stream, which is what `datasets` writes."""
    if kind == ".parquet":
        return parquet.ParquetFile(handle, pre_buffer=False).iter_batches(batch_size=_ROWS)
    try:
        reader = pyarrow.ipc.open_file(handle)
    except pyarrow.ArrowInvalid:
        handle.seek(0)
        return pyarrow.ipc.open_stream(handle)
    return map(reader.get_batch, range(reader.num_record_batches))


# Marks and frequent characters of Chinese old and new, in both scripts: a fifth of any Chinese text, and next to none
# of one decoded as what it is not. Of 20 characters 99.2 % are read right, of 60 99.9 %; charset-normalizer 3.5.2 with
# these four encodings to choose from reads GB18030 right in 45 to 47 %, Big5 in 47 to 58 %.
_FREQUENT = re.compile(
    "[，。、：；？（）的一是不了在人有我他你您大小中上下为為以于於之者其而也可用个個这這来來时時会會能要说說地出就"
    "对對生年日月水血气氣病痛症治药藥方主无無心如后後所同自此好医醫患天食热熱头頭身多及或与與因分服两兩二三十]"
)
_STRANGE, _BEYOND = re.compile("[\ufffd\ue000-\uf8ff]"), re.compile("[^\\x00-\\x7f]")
_UNMARKED = ("gb18030", "big5hkscs", "utf-16-le", "utf-16-be")
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_ASCII = bytes(range(128))
# The choice rests on so many bytes beyond ASCII, or on what there is of them in _MOST bytes: on the bytes from the
# first of them on, for UTF-8 and between the others.
_EVIDENCE, _MOST, _SAMPLE, _FEW = 1000, 1 << 22, 1 << 16, 1 << 12


def decoded(blocks: Iterable[bytes]) -> Iterator[str]:
    """Text of a file's bytes; what stands before a Reject that `blocks` ends in is given.

    UTF-8 or UTF-16 by the byte-order mark, else UTF-8, else the likeliest of GB18030, Big5 and UTF-16. A byte that does
    not fit becomes a lone surrogate, so that only the record that holds it is lost.
    """
    head, evidence, fault, blocks = bytearray(), 0, None, iter(blocks)
    try:
        for block in blocks:
            head += block
            evidence += len(block.translate(None, _ASCII))
            if evidence >= _EVIDENCE or len(head) >= _MOST:
                break
    except Reject as reason:
        fault = reason
    encoding = encoding_of(bytes(head))
    lost = "\udcfd" if encoding.startswith("utf-16") else ""
    decoder = codecs.getincrementaldecoder(encoding)("replace" if lost else "surrogateescape")
    for block in itertools.chain([head], blocks if fault is None else (), [b""]):
        text = decoder.decode(block, final=not block and fault is None)
        yield text.replace("\ufffd", lost) if lost else text
    if fault:
        raise fault


def encoding_of(head: bytes) -> str:
    """The codec for a file that begins with `head`."""
    marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), "") or _wide(head)
    first = _NOT_ASCII.search(head)
    if marked or first is None:
        return marked or "utf-8"
    sample = head[first.start() : first.start() + _SAMPLE]
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(sample)
    # U+FFFD may also stand in the file itself. Characters of three bytes and more speak for UTF-8; nearly any two bytes
    # of GB18030 can be one of two.
    lost = text.count("\ufffd")
    broken, clear = lost - sample.count(b"\xef\xbf\xbd"), int((code_points(text) >= 0x800).sum()) - lost
    if clear > 0 and clear >= broken:
        return "utf-8"
    begin = first.start() // 2 * 2
    sample = head[begin : begin + _FEW]
    likeness = {encoding: _likeness(sample, encoding) for encoding in _UNMARKED}
    best = max(likeness, key=likeness.__getitem__)
    return best if likeness[best] > 0.1 else "gb18030" if broken else "utf-8"


def _wide(head: bytes) -> str:
    """UTF-16 without a mark, known by the zero bytes of its ASCII characters, which all stand on one side; else ""."""
    sample = head[:_SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 10 < len(sample) or min(even, odd) * 20 > max(even, odd) or not sample:
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _likeness(sample: bytes, encoding: str) -> float:
    """Share of frequent characters beyond ASCII, less three for each that is none in this encoding or private."""
    text = sample.decode(encoding, "replace")
    return (len(_FREQUENT.findall(text)) - 3 * len(_STRANGE.findall(text))) / (len(_BEYOND.findall(text)) or 1)
