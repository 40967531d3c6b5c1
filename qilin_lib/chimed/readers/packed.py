"""The bytes of packed files, and the rows of tables (Parquet, Arrow) as the text of JSON lines, in bounded memory.

What cannot be read is a `Reject` with the reason; what was read before it is given.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from qilin_lib.chimed.readers.stream import Reject

# Chinese text shrinks to a third, highly regular JSON to a thirtieth; small files may shrink as they like.
BOMB_RATIO, BOMB_FLOOR, BOMB_TOTAL = 200, 100_000_000, 64_000_000_000
# Bytes that are read in one go: what stands before a fault in them may be lost with it.
_READ = 1 << 16
# Rows of a table that are in memory together.
_ROWS = 256
TABLES = (".parquet", ".arrow")
# Also ValueError: most of Arrow's errors, and names that no file can have. RuntimeError: encrypted, of zipfile.
# NotImplementedError: an unknown compression method.
FAULTS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError)
FAULTS += (zipfile.BadZipFile, tarfile.TarError)
Opener = Callable[[], IO[bytes]]


def _zstandard(handle: IO[bytes]) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(handle, "zstd")


# Not fsspec's: its zstd wants a package that is not installed with the kit.
_UNPACK = {"": lambda handle: handle, ".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstandard}


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
                yield block
            if packing and not handle.tell():
                raise EOFError("an empty file")
    except FAULTS as reason:
        raise unreadable(reason, made if packing else 0) from None


def unreadable(reason: Exception, made: int = 0) -> Reject:
    """The Reject for an error of the file system, a decompressor or Arrow, after `made` bytes of content."""
    if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
        raise reason  # of the temporary file, no fault of this one
    said = getattr(reason, "strerror", None) or " ".join(str(reason).split()) or type(reason).__name__
    return Reject("unreadable file", f"{said}, after {made} bytes of content" if made else said)


def bomb(made: int, eaten: int) -> Reject | None:
    """The Reject for `eaten` bytes of an archive that make `made` bytes of content, when no text does so."""
    if made > BOMB_TOTAL:
        return Reject("unsafe archive", f"more than {BOMB_TOTAL} bytes of content")
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
    import pyarrow

    try:
        with seekable(opener, packing) as handle:
            for batch in _parquet(handle) if kind == ".parquet" else _arrow(handle):
                for start in range(0, batch.num_rows, _ROWS):
                    rows = map(_filled, batch.slice(start, _ROWS).to_pylist())
                    yield "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    # MemoryError: a damaged table may ask for terabytes.
    except (*FAULTS, pyarrow.ArrowException, MemoryError) as reason:
        raise unreadable(reason) from None


def _filled(value: Any) -> Any:
    """Without the fields that are null: a column, and a field of a structure, is there for every row."""
    if isinstance(value, dict):
        return {key: _filled(inner) for key, inner in value.items() if inner is not None}
    return [_filled(inner) for inner in value] if isinstance(value, list) else value


def _parquet(handle: IO[bytes]) -> Iterator[Any]:
    from pyarrow import parquet

    return parquet.ParquetFile(handle, pre_buffer=False).iter_batches(batch_size=_ROWS)


def _arrow(handle: IO[bytes]) -> Iterator[Any]:
    """Record batches of an Arrow file, or of an Arrow stream, which is what `datasets` writes."""
    import pyarrow

    try:
        reader = pyarrow.ipc.open_file(handle)
    except pyarrow.ArrowInvalid:
        handle.seek(0)
        return pyarrow.ipc.open_stream(handle)
    return map(reader.get_batch, range(reader.num_record_batches))
