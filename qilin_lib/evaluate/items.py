"""What is asked, as items. A reader returns the items and, beside them, every row it could not use."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.readers.decode import field_text, parsed_rows, string
from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.chimed.records import Exam, excerpt
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.benchmark_files import Unreadable, label, opened, said
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


def there(raw_dir: str | Path) -> Path:
    """The raw folder. QilinError if it is gone."""
    if not Path(raw_dir).is_dir():
        raise QilinError(
            f"{raw_dir}: the raw folder is not there any more, and benchmarks are read from it; put it back, or run "
            "notebooks/01_build_chimed.ipynb again with another raw_dir"
        )
    return Path(raw_dir)


def unusable(
    benchmark: str, file: str, line: int, detail: str, text: str, reason: str = "unusable benchmark row"
) -> dict[str, Any]:
    """A row that is not asked, in the form of dropped.jsonl; of `text` its beginning is shown."""
    place = {"source": benchmark, "set": "eval", "file": file, "line": line}
    return place | {"reason": reason, "detail": detail, "excerpt": text[:80]}


def cap(items: list[Item], n: int | None, seed: int) -> list[Item]:
    """At most `n` items a subject (a benchmark without subjects is one group), in their own order; None keeps all.

    Ranked by a hash of seed and id: a larger `n` keeps what a smaller one had, and no subject moves another's sample.
    """
    if n is None:
        return list(items)
    groups: dict[str | None, list[Item]] = {}
    for item in items:
        groups.setdefault(item.subject, []).append(item)
    kept = {
        item.id
        for group in groups.values()
        for item in sorted(group, key=lambda i: sha256_text(f"{seed}:{i.benchmark}:{i.id}"))[:n]
    }
    return [item for item in items if item.id in kept]


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

    def judged() -> Iterator[tuple[int, str, str, Item]]:
        for place, (line, read) in enumerate(parsed_rows(lambda raw: (row(raw), raw), file.file, stream, tabular)):
            if isinstance(read, Reject):
                shown = Item(benchmark, f"{file.file}-{place}", "", None, excerpt(read.shown), None, None, "")
                yield line, said(read), "", shown
            else:
                yield line, "", *item(place, *read)
        if stream.broken:
            yield 0, said(stream.broken), "", Item(benchmark, "", "", None, "", None, None, "")

    return part(folder, file, judged())


def part(folder: Path, file: Found, judged: Iterable[tuple[int, str, str, Item]]) -> Reading:
    """Part (line, broken, reason, item) into the items with nothing against them and the others, with their place.

    Unreadable when not one row is usable: such a file is of another kind.
    """
    items, invalid, seen = [], [], set()
    for line, broken, reason, item in judged:
        detail = broken or reason or (f"id {item.id} came before" if item.id in seen else "")
        seen.add(item.id)
        if not detail:
            items.append(item)
            continue
        invalid.append(unusable(item.benchmark, label(file), line, detail, item.question))
    if not items:
        first = f", the first (line {invalid[0]['line']}) because: {invalid[0]['detail']}" if invalid else ""
        raise Unreadable(folder / file.file, f"has no usable row among {len(invalid)}{first}")
    return items, invalid
