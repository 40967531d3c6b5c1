"""The files of a benchmark's raw folder, found, unpacked and decoded by the code with which notebook 01 reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib.chimed.readers.decode import rows
from qilin_lib.chimed.readers.find import Found, found, printable
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.errors import QilinError

# What joins a file's name and what is said of it.
_BEGINS = {"has ": " ", "holds ": " ", "line ": ", "}


class Unreadable(QilinError):
    """A benchmark of which no item can be had: `file` (or its folder), and why. Other benchmarks can be asked."""

    def __init__(self, file: str | Path, detail: str) -> None:
        begins = next((mark for word, mark in _BEGINS.items() if detail.startswith(word)), ": ")
        super().__init__(f"{file}{begins}{detail}")
        self.file, self.detail = str(file), detail


@contextlib.contextmanager
def files_of(folder: Path, *patterns: str, advice: str = "") -> Iterator[list[Found]]:
    """The files below `folder` and in its archives that fit the first of `patterns` that any file fits, no pattern all.

    Files come before members of archives, which may be their copies. Unreadable, with `advice`, names what there is
    when none fits, or the archive that cannot be opened.
    """
    with contextlib.ExitStack() as archives:
        there = found(folder, archives) if folder.is_dir() else []
        there.sort(key=lambda file: (bool(file.archive), file.file))
        fitting = [[file for file in there if file.fits(pattern)] for pattern in patterns]
        chosen = next(filter(None, fitting), []) if patterns else [file for file in there if not file.path.is_dir()]
        if not chosen:
            for file in there:
                if file.always and file.fault:
                    raise Unreadable(folder / file.file, file.fault.detail)
            names = [file.file for file in there if not file.path.is_dir()]
            shown = f"; found {', '.join(names[:5])}{' …' * (len(names) > 5)}" if names else "; found no file"
            wanted = f"has no {' or '.join(patterns) or 'file'}, packed or not{shown}"
            raise Unreadable(folder, f"{wanted}; {advice}" if advice else wanted)
        yield chosen


def label(file: Found) -> str:
    """What a row's place calls the file: its name, in an archive with the archive's."""
    return file.file if file.archive else PurePosixPath(file.file).name


def subject_of(file: Found, split: str) -> str:
    """The subject in the name of <subject>_<split>.csv, else in that of the folder of <split>-….parquet."""
    place = PurePosixPath(file.place.lower())
    stem = place.name.split(".")[0]
    return stem.removesuffix(f"_{split}") if stem.endswith(f"_{split}") else place.parent.name


def opened(folder: Path, file: Found) -> Stream:
    """The file's text. Unreadable when it cannot be opened."""
    try:
        return file.stream()
    except Reject as fault:
        raise Unreadable(folder / file.file, fault.detail) from None


def records(
    folder: Path, file: Found, fits: Callable[[Any], bool] | None = None, tabular: bool = False
) -> list[tuple[int, Any]]:
    """(line, record, or the Reject of a broken one) of a file; `fits`, `tabular`: see decode.rows.

    What ends a damaged file early is a Reject on line 0. Unreadable when nothing of it can be read.
    """
    stream = opened(folder, file)
    content = list(rows(file.file, stream, fits, tabular))
    if stream.broken and not content:
        raise Unreadable(folder / file.file, stream.broken.detail)
    return [*content, (0, stream.broken)] if stream.broken else content


def said(fault: Reject) -> str:
    """A Reject as one text."""
    return f"{fault.reason}: {printable(fault.detail)}"
