"""What is asked, as items, and beside them every row that could not be used.

The files of a benchmark's raw folder are found, unpacked and decoded by the code with which notebook 01 reads them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.readers.decode import field_text, parsed_rows, rows, string
from qilin_lib.chimed.readers.find import Found, found, printable
from qilin_lib.chimed.readers.stream import Reject, Stream
from qilin_lib.chimed.records import Exam, excerpt
from qilin_lib.errors import QilinError
from qilin_lib.files import sha256_text

CEVAL_LETTERS = "ABCD"
GROUPS = {
    "Disease Group": "disease_group",
    "Area of Competency": "competency",
    "Clinical Department": "department",
    "Medical Discipline": "discipline",
    "Difficulty level": "difficulty",
}
"""CMExam's annotation columns (Liu et al. 2023, section 3.3) and their names in a record's `groups`."""
# What joins a file's name and what is said of it.
_BEGINS = {"has ": " ", "holds ": " ", "line ": ", "}


@dataclass(frozen=True)
class Item:
    """One question.

    `gold`: sorted letters (None: label not public); `reference`: the gold text ("": there is none); `groups`: column ->
    value of CMExam's annotations (GROUPS), {} where the file has none; `history`: what was said before the question,
    as (user, assistant) in order, () outside dialogues.
    """

    benchmark: str
    id: str
    split: str
    subject: str | None
    question: str
    options: dict[str, str] | None
    gold: str | None
    reference: str
    groups: dict[str, str] = field(default_factory=dict)
    history: tuple[tuple[str, str], ...] = ()


Reading = tuple[list[Item], list[dict]]
"""Items, and the unusable rows in the form of dropped.jsonl: source, set, file, line, reason, detail, excerpt."""


class Unreadable(QilinError):
    """A benchmark of which no item can be had: `file` (or its folder), and why. Other benchmarks can be asked."""

    def __init__(self, file: str | Path, detail: str) -> None:
        begins = next((mark for word, mark in _BEGINS.items() if detail.startswith(word)), ": ")
        super().__init__(f"{file}{begins}{detail}")
        self.file = str(file)


def there(raw_dir: str | Path) -> Path:
    """The raw folder. QilinError if it is gone."""
    if not Path(raw_dir).is_dir():
        raise QilinError(
            f"{raw_dir}: the raw folder is not there any more, and benchmarks are read from it; put it back, or run "
            "notebooks/01_build_chimed.ipynb again with another raw_dir"
        )
    return Path(raw_dir)


# --- files ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def files_of(folder: Path, *patterns: str, advice: str = "") -> Iterator[list[Found]]:
    """The files below `folder` and in its archives that fit the first of `patterns` that any file fits, no pattern all.

    Files come before members of archives, which may be their copies. Unreadable, with `advice`, names what there is
    when none fits, or the archive that cannot be opened.
    """
    with contextlib.ExitStack() as archives:
        all_there = found(folder, archives) if folder.is_dir() else []
        all_there.sort(key=lambda file: (bool(file.archive), file.file))
        plain = [file for file in all_there if not file.path.is_dir()]
        fitting = [[file for file in all_there if file.fits(pattern)] for pattern in patterns]
        chosen = next(filter(None, fitting), []) if patterns else plain
        if not chosen:
            for file in all_there:
                if file.always and file.fault:
                    raise Unreadable(folder / file.file, file.fault.detail)
            names = [file.file for file in plain]
            shown = f"; found {', '.join(names[:5])}{' …' * (len(names) > 5)}" if names else "; found no file"
            wanted = f"has no {' or '.join(patterns) or 'file'}, packed or not{shown}"
            raise Unreadable(folder, f"{wanted}; {advice}" if advice else wanted)
        yield chosen


def label(file: Found) -> str:
    """What a row's place calls the file: its name, in an archive with the archive's."""
    return file.file if file.archive else PurePosixPath(file.file).name


def opened(folder: Path, file: Found) -> Stream:
    """The file's text. Unreadable when it cannot be opened."""
    try:
        return file.stream()
    except Reject as fault:
        raise Unreadable(folder / file.file, fault.detail) from None


def records(folder: Path, file: Found, fits: Callable[[Any], bool] | None = None) -> list[tuple[int, Any]]:
    """(line, record, or the Reject of a broken one) of a file; `fits`: see decode.rows.

    What ends a damaged file early is a Reject on line 0. Unreadable when nothing of it can be read.
    """
    stream = opened(folder, file)
    content = list(rows(file.file, stream, fits))
    if stream.broken and not content:
        raise Unreadable(folder / file.file, stream.broken.detail)
    return [*content, (0, stream.broken)] if stream.broken else content


def said(fault: Reject) -> str:
    """A Reject as one text."""
    return f"{fault.reason}: {printable(fault.detail)}"


# --- rows -------------------------------------------------------------------------------------------------------------


def unusable(
    benchmark: str, file: str, line: int, detail: str, text: str, reason: str = "unusable benchmark row"
) -> dict[str, Any]:
    """A row that is not asked, in the form of dropped.jsonl; of `text` its beginning is shown."""
    place = {"source": benchmark, "set": "eval", "file": file, "line": line}
    return place | {"reason": reason, "detail": detail, "excerpt": text[:80]}


def reference_of(value: Any) -> str:
    """A reference as training text is cleaned, so that no answer is measured against markup; "": there is none."""
    return field_text(clean(string(value)))


def questions(
    benchmark: str,
    folder: Path,
    file: Found,
    row: Callable[[Any], Exam],
    item: Callable[[int, Exam, Any], tuple[str, Item]],
    tabular: bool = False,
) -> Reading:
    """The items of a file of exam questions: what `row`, a reader's of notebook 01, makes of its rows.

    `item(place in the file, question, row)` gives (what is wrong with it, the item). Unreadable when none is usable.
    """
    stream = opened(folder, file)

    def judged() -> Iterator[tuple[int, str, Item]]:
        for place, (line, read) in enumerate(parsed_rows(lambda raw: (row(raw), raw), file.file, stream, tabular)):
            if isinstance(read, Reject):
                shown = Item(benchmark, f"{file.file}-{place}", "", None, excerpt(read.shown), None, None, "")
                yield line, said(read), shown
            else:
                yield line, *item(place, *read)
        if stream.broken:
            yield 0, said(stream.broken), Item(benchmark, "", "", None, "", None, None, "")

    return part(folder, file, judged())


def part(folder: Path, file: Found, judged: Iterable[tuple[int, str, Item]]) -> Reading:
    """Part (line, what is wrong, item) into the items with nothing against them and the others, with their place.

    Unreadable when not one row is usable: such a file is of another kind.
    """
    items, invalid, seen = [], [], set()
    for line, wrong, item in judged:
        detail = wrong or (f"id {item.id} came before" if item.id in seen else "")
        seen.add(item.id)
        if detail:
            invalid.append(unusable(item.benchmark, label(file), line, detail, item.question))
        else:
            items.append(item)
    if not items:
        first = f", the first (line {invalid[0]['line']}) because: {invalid[0]['detail']}" if invalid else ""
        raise Unreadable(folder / file.file, f"has no usable row among {len(invalid)}{first}")
    return items, invalid


def all_parts(
    folder: Path, files: Sequence[Found], judged: Callable[[str, Any], tuple[str, Item]], fits: Callable | None = None
) -> Reading:
    """`part` of every file, and an id that an earlier file had is unusable too.

    judged(place, row), with a place of its own for each row: (what is wrong, item); `fits`: as in `records`.
    """
    items, invalid, known = [], [], set()
    for number, file in enumerate(files):
        rows = [(line, *judged(f"{number}-{line}", row)) for line, row in records(folder, file, fits)]
        lines = {item.id: line for line, _, item in reversed(rows)}
        usable, bad = part(folder, file, rows)
        again = [item for item in usable if item.id in known]
        items += [item for item in usable if item.id not in known]
        invalid += bad
        invalid += [
            unusable(item.benchmark, label(file), lines[item.id], f"id {item.id} came before", item.question)
            for item in again
        ]
        known |= {item.id for item in usable}
    return items, invalid


def cap(items: list[Item], n: int | None, seed: int) -> list[Item]:
    """At most `n` items a subject (a benchmark without subjects is one group), in their own order; None keeps all.

    Ranked by a hash of seed and id: a larger `n` keeps what a smaller one had, and no subject moves another's sample.
    """
    if n is None:
        return list(items)
    kept, taken = set(), {}
    for item in sorted(items, key=lambda i: sha256_text(f"{seed}:{i.benchmark}:{i.id}")):
        taken[item.subject] = taken.get(item.subject, 0) + 1
        if taken[item.subject] <= n:
            kept.add(item.id)
    return [item for item in items if item.id in kept]
