"""The three benchmarks as items. A reader returns the items and, beside them, every row it could not use."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.readers.decode import field_text, string, text_cells
from qilin_lib.chimed.readers.exam import letters_of, options_of
from qilin_lib.chimed.readers.find import Found
from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.benchmark_files import Unreadable, files_of, label, records, said, subject_of
from qilin_lib.evaluate.subjects import NAMES
from qilin_lib.files import read_json, sha256_text

BENCHMARKS = ("ceval", "cmexam", "huatuo")
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


def ceval_names(raw_dir: str | Path) -> dict[str, str]:
    """Chinese name of each C-Eval subject: the official 52, and what `ceval/mapping.json` of the raw folder says.

    Raises QilinError when that file is not JSON of the form {subject: {"name": Chinese name, …}}.
    """
    path = Path(raw_dir) / "ceval" / "mapping.json"
    mapping = read_json(path) if path.exists() else {}
    wanted = '{"subject": {"name": Chinese name, "category": …}}'
    if not isinstance(mapping, dict):
        raise QilinError(f"{path} holds a {type(mapping).__name__}, not an object of the form {wanted}")
    for subject, entry in mapping.items():
        if not (isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"].strip()):
            raise QilinError(f"{path}: subject '{subject}' is {json.dumps(entry)}, which has no name; write {wanted}")
    return NAMES | {subject: entry["name"] for subject, entry in mapping.items()}


def _raw(raw_dir: str | Path) -> Path:
    if not Path(raw_dir).is_dir():
        raise QilinError(
            f"{raw_dir}: the raw folder is not there any more, and benchmarks are read from it; put it back, or run "
            "notebooks/01_build_chimed.ipynb again with another raw_dir"
        )
    return Path(raw_dir)


def ceval_items(raw_dir: str | Path, split: str, subjects: list[str] | None = None) -> Reading:
    """C-Eval's questions of one split (dev, val or test), subjects in alphabetical order, rows in file order.

    An absent or empty answer column gives `gold=None` (the test split until its labels were published in 2025); an
    answer outside A-D is unusable. `subjects` None: every file of the split. Raises Unreadable when the split has no
    file, or one cannot be used, and QilinError when a named subject has none.
    """
    folder = _raw(raw_dir) / "ceval"
    items, invalid = [], []
    advice = "C-Eval's splits are dev, val and test"
    with files_of(folder, f"{split}/*_{split}.csv", f"*/{split}.csv", advice=advice) as there:
        files = {subject_of(file, split): file for file in reversed(there)}
        for subject in subjects or ():
            if subject not in files:
                near = nearest(subject, files) or f"; the folder has {', '.join(sorted(files))}"
                raise QilinError(f"C-Eval subject '{subject}' has no file {subject}_{split}.csv in {folder}{near}")
        for subject in sorted(subjects or files):
            rows = _rows(folder, files[subject], ("id", "question", *CEVAL_LETTERS))
            judged = ((line, broken, *_ceval_item(subject, split, row)) for line, broken, row in rows)
            kept, bad = part(folder, files[subject], judged)
            items += kept
            invalid += bad
    return items, invalid


def ceval_dev(raw_dir: str | Path, shots: int = 5, subjects: list[str] | None = None) -> dict[str, list[Item]]:
    """The dev examples of each subject in file order, at least `shots` of them; {} for no shots.

    Raises QilinError for a row that is incomplete, or a subject with too few.
    """
    if shots == 0:
        return {}
    items, invalid = ceval_items(raw_dir, "dev", subjects)
    for bad in invalid:
        raise QilinError(f"{bad['file']}, line {bad['line']}: {bad['detail']}; a dev example must be complete")
    dev: dict[str, list[Item]] = {}
    for item in items:
        if item.gold is None:
            raise QilinError(f"C-Eval dev example {item.id} has no answer; a shot needs one")
        dev.setdefault(item.subject or "", []).append(item)
    for subject, examples in dev.items():
        if len(examples) < shots:
            raise QilinError(
                f"C-Eval's {subject}_dev.csv has {len(examples)} rows, fewer than shots = {shots}; set eval.shots to "
                f"{len(examples)} at most, or take C-Eval's own file of five"
            )
    return dev


def cmexam_items(raw_dir: str | Path, split: str = "test") -> Reading:
    """CMExam's questions of one split. Options come joined by real newlines or by a literal backslash-n: both are read.

    Reads `cmexam/<split>_with_annotations.csv` (the same rows, with GROUPS), else `<split>.csv`. Unusable: no question,
    no lettered options, no answer, or one such as "nan" or with a letter that is not among the options. Raises
    Unreadable when there is no such file, or it cannot be used.
    """
    folder = _raw(raw_dir) / "cmexam"
    with files_of(folder, f"{split}_with_annotations.csv", f"{split}.csv") as (file, *_):
        rows = enumerate(_rows(folder, file, ("Question", "Options", "Answer")))
        judged = ((line, broken, *_cmexam_item(f"{split}-{n:05d}", split, row)) for n, (line, broken, row) in rows)
        return part(folder, file, judged)


def huatuo_items(raw_dir: str | Path) -> Reading:
    """Huatuo-26M's test questions: `test_datasets.jsonl` {questions, answers} or `huatuo26M_test.json` (instructions).

    Unusable: not exactly one question and one answer, or an empty one. Raises Unreadable when there is no such file, or
    it has another form.
    """
    folder = _raw(raw_dir) / "huatuo26m_test"
    with files_of(folder, "test_datasets.jsonl", "huatuo26M_test.json", "test.jsonl") as (file, *_):
        rows = enumerate(records(folder, file))
        return part(folder, file, ((line, *_huatuo_item(f"test-{n:05d}", row)) for n, (line, row) in rows))


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


def _rows(folder: Path, file: Found, columns: tuple[str, ...]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line where the record begins, what is wrong with it, row) of a table. Unreadable when it lacks a column."""
    empty, wanted = dict.fromkeys(columns, ""), f"the header must have {', '.join(columns)}"
    found = records(folder, file, tabular=True)
    if not found:
        raise Unreadable(folder / file.file, f"has no row below a header; {wanted}")
    # A row of a table has only the columns in which it holds something.
    known = dict.fromkeys(name for _, row in found if isinstance(row, dict) for name in row)
    for name in columns:
        if known and name not in known:
            near = nearest(name, known)
            raise Unreadable(folder / file.file, f"no column '{name}' among {', '.join(known)}{near}; {wanted}")
    for line, row in found:
        try:
            if isinstance(row, Reject):
                raise row
            yield line, "", empty | text_cells(row)
        except Reject as fault:
            yield line, said(fault), empty


def _ceval_item(subject: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    options = {letter: row[letter].strip() for letter in CEVAL_LETTERS}
    gold = letters_of(row.get("answer", "")) or None
    question = row["question"].strip()
    item = Item(
        "ceval", f"{subject}-{row['id']}", split, subject, question, options, gold, reference_of(row.get("explanation"))
    )
    if not question:
        return "no question", item
    if gold is not None and gold not in tuple(CEVAL_LETTERS):
        return f"answer {row['answer']!r} is not one of A-D", item
    return "", item


def _cmexam_item(identity: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    question, gold = row["Question"].strip(), letters_of(string(row["Answer"]))
    lettered = options_of(row["Options"])
    options = dict(lettered)
    groups = {name: value for column, name in GROUPS.items() if (value := row.get(column, "").strip())}
    item = Item("cmexam", identity, split, None, question, options, gold, reference_of(row.get("Explanation")), groups)
    if not question:
        return "no question", item
    if len(options) < 2 or len(options) < len(lettered):
        return "options are not lines 'A text', each letter once", item
    if not gold:
        return f"no answer: {row['Answer']!r}" if row["Answer"].strip() else "no answer", item
    if not set(gold) <= set(options):
        return f"answer {row['Answer']!r} is not among the options {''.join(options)}", item
    return "", item


def _huatuo_item(identity: str, row: Any) -> tuple[str, str, Item]:
    """(what is wrong with the record, with the question or answer, the item)."""
    keys = ("instruction", "output") if isinstance(row, dict) and "instruction" in row else ("questions", "answers")
    question, answer = (_only(row.get(key)) if isinstance(row, dict) else "" for key in keys)
    item = Item("huatuo", identity, "test", None, question, None, None, answer)
    wrong = "" if question and answer else f"not exactly one question and one answer in {keys[0]} and {keys[1]}"
    return said(row) if isinstance(row, Reject) else "", wrong, item


def _only(value: Any) -> str:
    """The text of a str or of a list of one, cleaned; "" for anything else."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return reference_of(value) if isinstance(value, str) else ""


def reference_of(value: Any) -> str:
    """A reference as training text is cleaned, so that no answer is measured against markup; "": there is none."""
    return field_text(clean(string(value)))


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
