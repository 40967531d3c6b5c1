"""The files of a source's folder, those in archives as if they were unpacked, and what is wrong with each."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import functools
import os
import re
import stat
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from qilin_lib.chimed.readers.stream import (
    FAULTS,
    Reject,
    Stream,
    bomb,
    plain_name,
    streamed,
    suffix,
    unpacked,
    unreadable,
)

# What `chimed.fetch` writes into a source's folder about its files; no data.
FETCHED = "fetched.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A file below a source's folder, or a member of an archive there.

    file: its name for the ledger, relative to the folder; `a.zip/b.csv` for a member. place: where it would stand if it
    were unpacked, without a compression suffix. fault: why it cannot be read. always: the fault concerns every reader
    (a damaged archive), not only those whose pattern fits `place`.
    """

    file: str
    place: str
    open: Callable[[], BinaryIO]
    fault: Reject | None = None
    always: bool = False

    def fits(self, pattern: str) -> bool:
        """Whether `place` is among what pathlib's glob would give for `pattern`."""
        return _fits(self.place.split("/"), pattern.split("/"))

    def stream(self) -> Stream:
        """The file's text; raises Reject when there is none to be had."""
        if self.fault:
            raise self.fault
        return streamed(functools.partial(unpacked, self.open, suffix(self.file)))


def _fits(parts: list[str], pattern: list[str]) -> bool:
    if not (parts and pattern):
        return not parts and not pattern
    if pattern[0] == "**":
        return any(_fits(parts[skipped:], pattern[1:]) for skipped in range(len(parts)))
    return fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])


def found(folder: Path, patterns: Sequence[str], stack: contextlib.ExitStack) -> list[Found]:
    """All files below `folder` and all members of .zip archives there, in name order; `stack` closes the archives.

    Hidden files and __MACOSX are skipped, links to folders followed unless they lead back. An archive of which nothing
    fits `patterns` is a fault: somebody put it there to be read.
    """
    return sorted(_walk(folder, PurePosixPath(), frozenset(), patterns, stack), key=lambda entry: entry.file)


def _walk(
    folder: Path, below: PurePosixPath, above: frozenset, patterns: Sequence[str], stack: contextlib.ExitStack
) -> Iterator[Found]:
    try:
        here = folder.stat()
        entries = list(os.scandir(folder))
    except OSError as reason:
        yield _faulty(str(below), unreadable(reason))
        return
    above = above | {(here.st_dev, here.st_ino)}
    for entry in entries:
        path, place = folder / entry.name, below / os.fsencode(entry.name).decode("utf-8", "backslashreplace")
        if _hidden(place.name) or place == PurePosixPath(FETCHED):
            continue
        file, fault = str(place), None
        try:
            state = path.stat()
        except OSError as reason:
            yield Found(file, plain_name(file), path.open, unreadable(reason))
            continue
        if stat.S_ISDIR(state.st_mode):
            fault = Reject("unreadable file", "a folder, not a file")
            if (state.st_dev, state.st_ino) in above:
                yield _faulty(file, Reject("unreadable file", "a symbolic link to a folder above it"))
                continue
            yield from _walk(path, place, above, patterns, stack)
        elif not stat.S_ISREG(state.st_mode):
            fault = Reject("unreadable file", "a pipe, socket or device, not a file")
        elif file.endswith(".zip"):
            yield from _members(path, place, patterns, stack)
            continue
        yield Found(file, plain_name(file), functools.partial(path.open, "rb"), fault)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _faulty(file: str, fault: Reject) -> Found:
    return Found(file, file, _nothing, fault, always=True)


def _nothing() -> BinaryIO:
    raise FileNotFoundError


def _members(path: Path, place: PurePosixPath, patterns: Sequence[str], stack: contextlib.ExitStack) -> Iterator[Found]:
    try:
        archive = stack.enter_context(_zip(path))
    except FAULTS as reason:
        yield _faulty(str(place), unreadable(reason))
        return
    content = [member for member in archive.infolist() if not member.is_dir()]
    if unsafe := bomb(sum(member.file_size for member in content), path.stat().st_size):
        yield _faulty(str(place), unsafe)
        return
    used = False
    for member in content:
        name = str(PurePosixPath(member.filename.replace("\\", "/")))
        if any(_hidden(part) and part != ".." for part in name.split("/")):
            continue
        fault = _member_fault(member, name)
        opener = functools.partial(archive.open, member)
        entry = Found(f"{place}/{name}", plain_name(str(place.parent / name)), opener, fault, fault is not None)
        used = used or entry.always or any(map(entry.fits, patterns))
        yield entry
    if not used:
        wanted = ", ".join(dict.fromkeys(patterns))
        yield _faulty(str(place), Reject("unused archive", f"of its {len(content)} files none fits {wanted}"))


def _zip(path: Path) -> zipfile.ZipFile:
    # Archives made on Chinese Windows hold names in GBK, those made on macOS in UTF-8, neither says so.
    for encoding in ("utf-8", "gb18030"):
        with contextlib.suppress(UnicodeDecodeError):
            return zipfile.ZipFile(path, metadata_encoding=encoding)
    return zipfile.ZipFile(path)


def _member_fault(member: zipfile.ZipInfo, name: str) -> Reject | None:
    if name.startswith("/") or ".." in name.split("/") or re.match("[A-Za-z]:", name):
        return Reject("unsafe archive", "the name leads out of the archive's folder")
    if stat.S_ISLNK(member.external_attr >> 16):
        return Reject("unsafe archive", "a symbolic link")
    if member.flag_bits & 1:
        return Reject("unreadable file", "encrypted")
    return bomb(member.file_size, member.compress_size)
