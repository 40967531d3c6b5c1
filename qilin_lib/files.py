"""The rim: every file the kit writes is written under a temporary name, synced, and renamed into place."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from qilin_lib.errors import QilinError

# What a disk says when it takes no more, or has a file where a folder is to be: that is for the user to mend.
REFUSALS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG),
    *(errno.ENOTDIR, errno.EEXIST),
)
# json.dumps makes a new encoder a call.
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode


def sha256_text(text: str) -> str:
    """Hex sha256 of the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def regular(path: str | Path) -> Path:
    """`path`; QilinError if a pipe or a device is there: whoever opens one may wait for ever."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise QilinError(f"{path} is no regular file; nearest valid: the file itself, as published")
    return path


def sha256_file(path: str | Path) -> str:
    """Hex sha256 of a file's bytes, read as a stream."""
    with open(regular(path), "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sha256_once(path: str | Path) -> str:
    """`sha256_file`, read once per process while the file keeps its size and time: weights are gigabytes."""
    state = os.stat(path)
    return _sha256_at(Path(path), state.st_size, state.st_mtime_ns)


@functools.cache
def _sha256_at(path: Path, size: int, mtime_ns: int) -> str:
    return sha256_file(path)


@contextlib.contextmanager
def atomic(path: str | Path, binary: bool = False) -> Iterator[IO[Any]]:
    """A handle (text, or bytes) whose content appears under `path` only when the block ends without an error."""
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    form: dict[str, Any] = {"mode": "wb"} if binary else {"mode": "w", "encoding": "utf-8", "newline": "\n"}
    try:
        with naming(path), open(temporary, **form) as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Around writes to `path`: a full disk, a read-only folder and the like become a QilinError that names it."""
    try:
        yield
    except OSError as reason:
        # What could not be read elsewhere while `path` was written is another matter.
        named = Path(path if reason.filename is None else os.fsdecode(reason.filename))
        elsewhere = not (Path(path).is_relative_to(named.parent) or named.is_relative_to(path))
        if reason.errno not in REFUSALS or elsewhere:
            raise
        raise QilinError(
            f"{path} cannot be written: {reason.strerror}; make room or allow writing there, and run it again"
        ) from reason


def write_text(path: str | Path, text: str) -> None:
    """Write `text` atomically."""
    with atomic(path) as handle:
        handle.write(text)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as readable JSON, Chinese characters as they are."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: str | Path, rows: Iterable[dict]) -> int:
    """Write one JSON object a line; returns how many."""
    count = 0
    with atomic(path) as handle:
        for row in rows:
            handle.write(_ENCODE(row) + "\n")
            count += 1
    return count


def read_json(path: str | Path) -> Any:
    """Read a JSON file; QilinError names the file, line and reason when it is missing or broken."""
    try:
        return json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise QilinError(f"{path} does not exist") from None
    except (ValueError, RecursionError) as reason:
        raise QilinError(f"{path} is not valid JSON: {reason}") from None


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """Yield the objects of a JSON-lines file; QilinError names the file and line of a broken one."""
    path = regular(path)
    if not path.exists():
        raise QilinError(f"{path} does not exist")
    with open(path, "rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                yield json.loads(line.decode())
            except (ValueError, RecursionError) as reason:
                raise QilinError(f"{path}, line {number}: not valid JSON ({reason})") from None


def hashes(paths: dict[str, Path]) -> dict[str, str]:
    """sha256 per file; one that cannot be read has its reason instead: whoever reads it counts it as a rejection."""
    found: dict[str, str] = {}
    for name, path in sorted(paths.items()):
        try:
            found[name] = sha256_once(path)
        except OSError as reason:
            found[name] = f"unreadable: {reason.strerror}"
    return found
