"""The files of a source's folder, those in archives as if they were unpacked, and what is wrong with each."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from qilin_lib.chimed.readers import stream as streams
from qilin_lib.chimed.readers.stream import TABLES, Opener, Reject, Stream, plain_name, suffix, unreadable

# Forms in which rows are published. A pattern that ends in one fits the others too.
ROWS = (".jsonl", ".json", ".ndjson", ".jsonlines", ".csv", ".tsv", *TABLES)
_SHARD = re.compile(r"-\d+-of-\d+(?=\.)")
# What a .tar is called when it is packed.
_TARS = {".tar": "", ".tgz": ".gz", ".tbz2": ".bz2", ".txz": ".xz"}
# What `chimed.fetch` writes into a source's folder about its files; no data.
FETCHED = "fetched.json"


class Found(NamedTuple):
    """A file below a source's folder, or a member of an archive there.

    file: its name for the ledger, relative to the folder; `a.zip/b.csv` for a member. path: the file, or the archive
    that holds it. fault: why it cannot be read. always: the fault concerns every reader (a damaged archive), not only
    those whose pattern fits. archive: the name of the one that it is a member of, "" of a file.
    """

    file: str
    path: Path
    open: Opener
    fault: Reject | None = None
    always: bool = False
    archive: str = ""

    @property
    def place(self) -> str:
        """Where it stands, relative to the folder: a member where it would be unpacked."""
        inside = self.file.removeprefix(f"{self.archive}/")
        return str(PurePosixPath(self.archive).parent / inside) if self.archive else self.file

    def fits(self, pattern: str) -> bool:
        """Whether `pattern` names this file as pathlib's glob would, or one folder deeper than it stands there.

        In an archive it may be two: the repository's, and one in it. Capitals, a compression suffix, the number of a
        shard and the form of the rows (ROWS) do not matter.
        """
        deeper = 2 if self.archive else 1
        wanted = re.escape(_form(pattern)).replace(r"\*\*/", "(?:[^/]+/)*").replace(r"\*", "[^/]*")
        return bool(re.fullmatch(f"(?:[^/]+/){{0,{deeper}}}{wanted}", _form(plain_name(self.place))))

    def stream(self) -> Stream:
        """The file's text; raises Reject when the file has a fault."""
        if self.fault:
            raise self.fault
        kind, packing = PurePosixPath(plain_name(self.file)).suffix.lower(), suffix(self.file)
        if kind in TABLES:
            return Stream(functools.partial(streams.table, self.open, packing, kind))
        return Stream(lambda: streams.decoded(streams.unpacked(self.open, packing)))


def _form(name: str) -> str:
    stem, dot, last = _SHARD.sub("", name.lower()).rpartition(".")
    return f"{stem}.rows" if dot + last in ROWS else stem + dot + last


def printable(name: str) -> str:
    """`name` with the characters escaped that a terminal would act on or not show, and bytes that are no text."""
    return "".join(c if c.isprintable() or c == "\u3000" else c.encode("unicode_escape").decode() for c in name)


def is_archive(name: str) -> bool:
    """Whether files are looked for inside the file of this name."""
    return name.lower().endswith(".zip") or PurePosixPath(plain_name(name).lower()).suffix in _TARS


def files_below(folder: Path) -> Iterator[Found]:
    """All files below `folder`, archives as they are; hidden files, __MACOSX and the record FETCHED are skipped.

    Links are followed inside the raw folder, whose child `folder` is, or inside `folder`, wherever its user has linked
    it to; not back to a folder above them, and not elsewhere: who can write there would have any file read.
    """
    homes = [folder.parent.resolve(), folder.resolve()]
    todo: list[tuple[Path, PurePosixPath, frozenset[Path]]] = [(folder, PurePosixPath(), frozenset())]
    while todo:
        here, below, above = todo.pop()
        try:
            names = os.listdir(here)
        except OSError as reason:
            yield Found(str(below), here, here.open, unreadable(reason), always=True)
            continue
        above |= {here.resolve()}
        for name in names:
            path, place = here / name, below / printable(name)
            if _hidden(name) or place == PurePosixPath(FETCHED):
                continue
            fault, is_folder = _fault(path, homes, above), path.is_dir()
            always = fault is not None and is_folder
            if is_folder and fault is None:
                todo.append((path, place, above))
                fault = Reject("unreadable file", "a folder, not a file")
            yield Found(str(place), path, functools.partial(path.open, "rb"), fault, always)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _fault(path: Path, homes: list[Path], above: frozenset[Path]) -> Reject | None:
    try:
        mode, target, why = path.stat().st_mode, path.resolve(), ""
    except (OSError, RuntimeError) as reason:
        return unreadable(reason)
    if path.is_symlink() and target in above:
        why = "a symbolic link to a folder above it"
    elif path.is_symlink() and not any(target.is_relative_to(home) for home in homes):
        why = "a symbolic link that leads out of the raw folder; copy the file, or make the source's folder the link"
    elif not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        why = "a pipe, socket or device, not a file"
    return Reject("unreadable file", why) if why else None


def found(folder: Path, stack: contextlib.ExitStack) -> list[Found]:
    """All files below `folder` and all members of .zip and .tar archives there, in name order; `stack` closes them."""
    entries: list[Found] = []
    for entry in files_below(folder):
        if entry.fault or not is_archive(entry.file):
            entries.append(entry)
            continue
        try:
            for name, opener, fault in (_zipped if entry.file.lower().endswith(".zip") else _tarred)(entry, stack):
                name = str(PurePosixPath(printable(name.replace("\\", "/"))))
                if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
                    fault = Reject("unsafe archive", "the name leads out of the archive's folder")
                if not any(_hidden(part) and part != ".." for part in name.split("/")):
                    file = f"{entry.file}/{name}"
                    entries.append(Found(file, entry.path, opener, fault, fault is not None, entry.file))
        except (Reject, *streams.FAULTS) as reason:
            fault = reason if isinstance(reason, Reject) else unreadable(reason)
            entries.append(Found(entry.file, entry.path, entry.open, fault, always=True))
    return sorted(entries, key=lambda entry: entry.file)


# (name in the archive, how it is opened, its fault)
Members = Iterator[tuple[str, Opener, Reject | None]]


def _tarred(entry: Found, stack: contextlib.ExitStack) -> Members:
    packing, state = suffix(entry.file) or _TARS[PurePosixPath(entry.file).suffix.lower()], entry.path.stat()
    handle = _whole(entry.path, packing, state.st_size, state.st_mtime_ns) if packing else entry.open()
    handle.seek(0)
    archive = stack.enter_context(tarfile.open(fileobj=handle, mode="r:"))
    for member in archive:
        if not member.isdir():
            fault = None if member.isfile() else Reject("unsafe archive", "a link, pipe or device")
            yield member.name, functools.partial(archive.extractfile, member), fault


@functools.lru_cache(maxsize=2)
def _whole(path: Path, packing: str, size: int, mtime_ns: int) -> IO[bytes]:
    """A packed .tar as it is inside, in a temporary file: to go back in a packed one is to unpack it again."""
    return streams.seekable(functools.partial(path.open, "rb"), packing)


def _zipped(entry: Found, stack: contextlib.ExitStack) -> Members:
    # Archives made on Chinese Windows hold names in GBK, those made on macOS in UTF-8, neither says so.
    for encoding in ("utf-8", "gb18030", None):
        with contextlib.suppress(UnicodeDecodeError):
            archive = stack.enter_context(zipfile.ZipFile(entry.path, metadata_encoding=encoding))
            break
    for member in archive.infolist():
        fault = streams.bomb(member.file_size, member.compress_size)
        if stat.S_ISLNK(member.external_attr >> 16):
            fault = Reject("unsafe archive", "a symbolic link")
        elif member.flag_bits & 1:
            fault = Reject("unreadable file", "encrypted")
        if not member.is_dir():
            yield member.filename, functools.partial(archive.open, member), fault
