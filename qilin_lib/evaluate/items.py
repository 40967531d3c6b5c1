"""The three benchmarks as items. A reader returns the items and, beside them, every row it could not use."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.decode import field_text, string
from qilin_lib.chimed.readers.exam import letters_of, options_of
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.subjects import NAMES
from qilin_lib.files import read_json, read_jsonl, sha256_text

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
    answer outside A-D is unusable. `subjects` None: every file of the split. Raises QilinError when the split's folder
    is missing, a named subject has no file in it, or a file cannot be read.
    """
    folder = _raw(raw_dir) / "ceval" / split
    files = {path.name.removesuffix(f"_{split}.csv"): path for path in sorted(folder.glob(f"*_{split}.csv"))}
    if not files:
        raise QilinError(f"{folder} has no <subject>_{split}.csv: C-Eval's splits are dev, val and test")
    for subject in subjects or ():
        if subject not in files:
            near = nearest(subject, files) or f"; the folder has {', '.join(files)}"
            raise QilinError(f"C-Eval subject '{subject}' has no file {subject}_{split}.csv in {folder}{near}")
    items, invalid = [], []
    for subject in sorted(subjects or files):
        rows = _rows(files[subject], ("id", "question", *CEVAL_LETTERS))
        judged = ((line, ragged, *_ceval_item(subject, split, row)) for line, ragged, row in rows)
        kept, bad = part(files[subject], judged)
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
            path = Path(raw_dir) / "ceval" / "dev" / f"{subject}_dev.csv"
            raise QilinError(
                f"{path} has {len(examples)} rows, fewer than shots = {shots}; set eval.shots to "
                f"{len(examples)} at most, or take C-Eval's own file of five"
            )
    return dev


def cmexam_items(raw_dir: str | Path, split: str = "test") -> Reading:
    """CMExam's questions of one split. Options come joined by real newlines or by a literal backslash-n: both are read.

    Reads `cmexam/<split>_with_annotations.csv` (the same rows, with GROUPS), else `<split>.csv`. Unusable: no question,
    no lettered options, no answer, or one such as "nan" or with a letter that is not among the options. Raises
    QilinError when there is no such file, or it cannot be read.
    """
    folder = _raw(raw_dir) / "cmexam"
    found = [path for name in (f"{split}_with_annotations.csv", f"{split}.csv") if (path := folder / name).exists()]
    if not found:
        raise QilinError(f"{folder} has neither {split}.csv nor {split}_with_annotations.csv")
    rows = enumerate(_rows(found[0], ("Question", "Options", "Answer", "Explanation")))
    judged = ((line, bad, *_cmexam_item(f"{split}-{n:05d}", split, row)) for n, (line, bad, row) in rows)
    return part(found[0], judged)


def huatuo_items(raw_dir: str | Path) -> Reading:
    """Huatuo-26M's test questions: `test_datasets.jsonl` {questions, answers} or `huatuo26M_test.json` (instructions).

    Unusable: not exactly one question and one answer, or an empty one. Raises QilinError when there is no such file, or
    it has another form.
    """
    folder = _raw(raw_dir) / "huatuo26m_test"
    lines, listed = folder / "test_datasets.jsonl", folder / "huatuo26M_test.json"
    if lines.exists():
        path, rows, keys = lines, read_jsonl(lines), ("questions", "answers")
    elif listed.exists():
        path, rows, keys = listed, read_json(listed), ("instruction", "output")
    else:
        raise QilinError(f"{folder} has neither {lines.name} nor {listed.name}")
    if isinstance(rows, dict):
        raise QilinError(f"{path} holds one object, not a list of them with the fields {keys[0]} and {keys[1]}")
    return part(path, ((n + 1, "", *_huatuo_item(f"test-{n:05d}", row, keys)) for n, row in enumerate(rows)))


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


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, str, dict[str, str]]]:
    """(line where the record begins, what is wrong with its number of cells, row) of a CSV.

    Raises QilinError when it is empty, not UTF-8, broken, or its header lacks a column or has one twice.
    """
    # Strict: an unclosed quote would otherwise swallow the rest of the file as one cell.
    reader = csv.reader(io.StringIO(text_of(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header, columns)
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                wrong = len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :])
                ragged = f"{len(cells)} cells, but the header has {len(header)}" if wrong else ""
                yield line, ragged, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
            line = reader.line_num + 1
    except csv.Error as reason:
        raise QilinError(f"{path}, line {reader.line_num}: not a CSV record ({reason}); close every quote") from None


def _check_header(path: Path, header: list[str], columns: tuple[str, ...]) -> None:
    wanted = f"the header must have {', '.join(columns)}"
    if not header:
        raise QilinError(f"{path} is empty; {wanted}")
    for name in columns:
        if name not in header:
            near = nearest(name, header)
            raise QilinError(f"{path}, line 1: no column '{name}' among {', '.join(header)}{near}; {wanted}")
    twice = [name for name in header if name and header.count(name) > 1]
    if twice:
        raise QilinError(f"{path}, line 1: column '{twice[0]}' comes {header.count(twice[0])} times; keep one of them")


def text_of(path: Path) -> str:
    """Text of a file in UTF-8, with a mark or without; QilinError names line and likely encoding otherwise."""
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as reason:
        line = data.count(b"\n", 0, reason.start) + 1
        marked = data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        likely, code = ("UTF-16", "UTF-16") if marked else ("GBK", "GB18030")
        raise QilinError(
            f"{path}, line {line}: byte 0x{data[reason.start]:02x} is not UTF-8, likely {likely}; "
            f"convert the file with: iconv -f {code} -t UTF-8"
        ) from None


def _ceval_item(subject: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    options = {letter: row[letter].strip() for letter in CEVAL_LETTERS}
    gold = letters_of(row.get("answer", "")) or None
    question = row["question"].strip()
    item = Item(
        "ceval", f"{subject}-{row['id']}", split, subject, question, options, gold, field_text(row.get("explanation"))
    )
    if not question:
        return "no question", item
    if gold is not None and gold not in tuple(CEVAL_LETTERS):
        return f"answer {row['answer']!r} is not one of A-D", item
    return "", item


def _cmexam_item(identity: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    question, gold = row["Question"].strip(), letters_of(string(row["Answer"]))
    options = dict(options_of(row["Options"]))
    once = len(options) == len(options_of(row["Options"]))
    groups = {name: value for column, name in GROUPS.items() if (value := row.get(column, "").strip())}
    item = Item("cmexam", identity, split, None, question, options, gold, field_text(row["Explanation"]), groups)
    if not question:
        return "no question", item
    if len(options) < 2 or not once:
        return "options are not lines 'A text', each letter once", item
    if not gold:
        return f"no answer: {row['Answer']!r}" if row["Answer"].strip() else "no answer", item
    if not set(gold) <= set(options):
        return f"answer {row['Answer']!r} is not among the options {''.join(options)}", item
    return "", item


def _huatuo_item(identity: str, row: Any, keys: tuple[str, str]) -> tuple[str, Item]:
    question, answer = (_only(row.get(key)) if isinstance(row, dict) else "" for key in keys)
    item = Item("huatuo", identity, "test", None, question, None, None, answer)
    return "" if question and answer else f"not exactly one question and one answer in {keys[0]} and {keys[1]}", item


def _only(value: Any) -> str:
    """The text of a str or of a one-element list; "" for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return field_text(value) if isinstance(value, str) else ""


def part(path: Path, judged: Iterable[tuple[int, str, str, Item]]) -> Reading:
    """Part (line, ragged, reason, item) into the items with nothing against them and the others, with their place.

    QilinError when not one row is usable: such a file is of another kind.
    """
    items, invalid, seen = [], [], set()
    for line, ragged, reason, item in judged:
        detail = ragged or reason or (f"id {item.id} came before" if item.id in seen else "")
        seen.add(item.id)
        if not detail:
            items.append(item)
            continue
        invalid.append(unusable(item.benchmark, path.name, line, detail, item.question))
    if not items:
        first = f", the first (line {invalid[0]['line']}) because: {invalid[0]['detail']}" if invalid else ""
        raise QilinError(f"{path} has no usable row among {len(invalid)}{first}")
    return items, invalid
