"""The three benchmarks as items. A reader returns the items and, beside them, every row it could not use."""

from __future__ import annotations

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate.subjects import NAMES
from qilin_lib.files import read_json, read_jsonl, sha256_text

BENCHMARKS = ("ceval", "cmexam", "huatuo")
CEVAL_LETTERS = "ABCD"
# A lookahead for the letter keeps a literal backslash-n inside an option ("\nu") from being read as a line end.
_OPTION_BREAK = re.compile(r"(?:\r?\n|\\n)\s*(?=[A-Z][ .、．:：])")
_OPTION = re.compile(r"([A-Z])[ .、．:：]\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Item:
    """One question; `gold`: sorted letters (None: label not public), `reference`: the gold text ("": there is none)."""

    benchmark: str
    id: str
    split: str
    subject: str | None
    question: str
    options: dict[str, str] | None
    gold: str | None
    reference: str


Reading = tuple[list[Item], list[dict]]
"""Items, and the unusable rows in the form of dropped.jsonl: source, set, file, line, reason, detail, excerpt."""


def ceval_names(raw_dir: str | Path) -> dict[str, str]:
    """Chinese name of each C-Eval subject: the official 52, and what `ceval/mapping.json` of the raw folder says."""
    path = Path(raw_dir) / "ceval" / "mapping.json"
    extra = {key: entry["name"] for key, entry in read_json(path).items()} if path.exists() else {}
    return NAMES | extra


def ceval_items(raw_dir: str | Path, split: str, subjects: list[str] | None = None) -> Reading:
    """C-Eval's questions of one split, subjects in alphabetical order, rows in file order.

    An absent or empty answer column gives `gold=None` (the test split as published); an answer outside A-D is unusable.
    Raises QilinError when the split's folder is missing, or a named subject has no file in it.
    """
    folder = Path(raw_dir) / "ceval" / split
    files = {path.name.removesuffix(f"_{split}.csv"): path for path in sorted(folder.glob(f"*_{split}.csv"))}
    if not files:
        raise QilinError(f"{folder} has no <subject>_{split}.csv: C-Eval's splits are dev, val and test")
    for subject in subjects or ():
        if subject not in files:
            raise QilinError(f"C-Eval subject '{subject}' has no file in {folder}{nearest(subject, files)}")
    items, invalid = [], []
    for subject in sorted(subjects or files):
        rows = _rows(files[subject], ("id", "question", *CEVAL_LETTERS))
        kept, bad = _part(files[subject], ((line, *_ceval_item(subject, split, row)) for line, row in rows))
        items += kept
        invalid += bad
    return items, invalid


def ceval_dev(raw_dir: str | Path) -> dict[str, list[Item]]:
    """The five dev examples of each subject in file order: the shots. QilinError for a row without an answer."""
    items, invalid = ceval_items(raw_dir, "dev")
    for bad in invalid:
        raise QilinError(f"{bad['file']}, line {bad['line']}: {bad['detail']}; a dev example must be complete")
    shots: dict[str, list[Item]] = {}
    for item in items:
        if item.gold is None:
            raise QilinError(f"C-Eval dev example {item.id} has no answer; a shot needs one")
        shots.setdefault(item.subject or "", []).append(item)
    return shots


def cmexam_items(raw_dir: str | Path, split: str = "test") -> Reading:
    """CMExam's questions of one split. Options come joined by real newlines or by a literal backslash-n: both are read.

    Reads `cmexam/<split>.csv`, else `<split>_with_annotations.csv`. Unusable: no question, no lettered options, or an
    answer such as "nan" or with a letter that is not among the options. Raises QilinError when there is no file.
    """
    folder = Path(raw_dir) / "cmexam"
    found = [path for name in (f"{split}.csv", f"{split}_with_annotations.csv") if (path := folder / name).exists()]
    if not found:
        raise QilinError(f"{folder} has neither {split}.csv nor {split}_with_annotations.csv")
    rows = enumerate(_rows(found[0], ("Question", "Options", "Answer", "Explanation")))
    return _part(found[0], ((line, *_cmexam_item(f"{split}-{n:05d}", split, row)) for n, (line, row) in rows))


def huatuo_items(raw_dir: str | Path) -> Reading:
    """Huatuo-26M's test questions: `test_datasets.jsonl` {questions, answers} or `huatuo26M_test.json` (instructions).

    Unusable: not exactly one question and one answer, or an empty one. Raises QilinError when there is no file.
    """
    folder = Path(raw_dir) / "huatuo26m_test"
    lines, listed = folder / "test_datasets.jsonl", folder / "huatuo26M_test.json"
    if lines.exists():
        path, pairs = lines, ((row.get("questions"), row.get("answers")) for row in read_jsonl(lines))
    elif listed.exists():
        path, pairs = listed, ((row.get("instruction"), row.get("output")) for row in read_json(listed))
    else:
        raise QilinError(f"{folder} has neither {lines.name} nor {listed.name}")
    return _part(path, ((n + 1, *_huatuo_item(f"test-{n:05d}", *pair)) for n, pair in enumerate(pairs)))


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


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line where the record begins, row) of a CSV; QilinError when it is not UTF-8 or a column is missing."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise QilinError(f"{path} has no column '{missing[0]}', only {reader.fieldnames}")
            line = reader.line_num + 1
            for row in reader:
                yield line, {key: value or "" for key, value in row.items() if key is not None}
                line = reader.line_num + 1
    except (UnicodeDecodeError, csv.Error) as reason:
        raise QilinError(f"{path} is not a UTF-8 CSV file: {reason}") from None


def _ceval_item(subject: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    options = {letter: row[letter].strip() for letter in CEVAL_LETTERS}
    gold = _letters(row.get("answer", "")) or None
    question = row["question"].strip()
    item = Item("ceval", f"{subject}-{row['id']}", split, subject, question, options, gold, row.get("explanation", ""))
    if not question:
        return "no question", item
    if gold is not None and gold not in tuple(CEVAL_LETTERS):
        return f"answer {row['answer']!r} is not one of A-D", item
    return "", item


def _cmexam_item(identity: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
    question, gold = row["Question"].strip(), _letters(row["Answer"])
    options = _options(row["Options"])
    item = Item("cmexam", identity, split, None, question, options, gold, row["Explanation"].strip())
    if not question:
        return "no question", item
    if not options:
        return "options are not lines 'A text', each letter once", item
    if not gold or not set(gold) <= set(options):
        return f"answer {row['Answer']!r} is not among the options {''.join(options)}", item
    return "", item


def _huatuo_item(identity: str, question: Any, answer: Any) -> tuple[str, Item]:
    item = Item("huatuo", identity, "test", None, _only(question), None, None, _only(answer))
    return "" if item.question and item.reference else "not exactly one question and one answer", item


def _options(text: str) -> dict[str, str]:
    """{"A": text, …} of CMExam's option lines; empty when a line has no letter or a letter comes twice."""
    found = [_OPTION.fullmatch(part.strip()) for part in _OPTION_BREAK.split(text.strip())]
    options = {match[1]: match[2].strip() for match in found if match}
    return options if len(options) == len(found) else {}


def _letters(text: str) -> str:
    """Sorted distinct capitals of an answer cell (full-width or separated, too); any other text as it stands."""
    plain = re.sub(r"[\s,、;]", "", unicodedata.normalize("NFKC", text))
    return "".join(sorted(set(plain))) if re.fullmatch(r"[A-Z]+", plain) else plain


def _only(value: Any) -> str:
    """The text of a str or of a one-element list; "" for anything else."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value.strip() if isinstance(value, str) else ""


def _part(path: Path, judged: Iterable[tuple[int, str, Item]]) -> Reading:
    """Part (line, reason, item) into the items with no reason against them and the others, with their place."""
    items, invalid = [], []
    for line, reason, item in judged:
        if not reason:
            items.append(item)
            continue
        place = {"source": item.benchmark, "set": "eval", "file": path.name, "line": line}
        invalid.append(place | {"reason": "unusable benchmark row", "detail": reason, "excerpt": item.question[:80]})
    return items, invalid
