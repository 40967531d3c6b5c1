"""C-Eval (Huang et al. 2023, arXiv 2305.08322): 52 subjects, five dev shots, the likeliest of A-D (Table 4)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.exam import letters_of
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import released
from qilin_lib.evaluate.benchmark_files import files_of, subject_of
from qilin_lib.evaluate.breakdown import categories
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import CEVAL_LETTERS, Item, Reading, cap, part, reference_of, table_rows, there
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, RELEASED, Task
from qilin_lib.evaluate.prompts import REPLY_PREFIX, Messages, Prompt, asking, ceval_messages, fit
from qilin_lib.evaluate.replies import Reply, failures, letters, unread
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.subjects import HARD, MEDICAL, NAMES
from qilin_lib.files import read_json

FORCED_TOKENS, FREE_TOKENS = 10, 512
# What ChiMed-GPT calls C-Eval: these two, all their items in one pot (41 in the validation split; FACTS 5.3).
CHIMED_GPT = ("basic_medicine", "clinical_medicine")


@dataclass(frozen=True)
class CEval(Task):
    """`dev`: the examples of each subject, in file order; `names`: the subjects in Chinese."""

    dev: dict[str, list[Item]]
    names: dict[str, str]
    likelihood = True

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        return prompts(items, backend, self.dev, self.names, shots)

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        return answer(items, asked, backend)

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records)


@dataclass(frozen=True)
class ReleasedCEval(CEval):
    """As the authors' evaluator asks. It writes one accuracy a subject; the means are those of C-Eval's own site."""

    likelihood = False

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        return released.ceval_prompts(items, backend, self.dev, shots)

    def answer(self, items: Sequence[Item], asked: Sequence[Prompt], backend: Any) -> list[dict]:
        return released.ceval_answer(items, asked, backend)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """C-Eval under both protocols, with as many examples as any model is shown."""
    items, invalid = ceval_items(folder.parent, params.ceval_split, params.ceval_subjects)
    shots = max([params.shots, *(line.shots or 0 for line in params.baselines.values())])
    dev, limit = ceval_dev(folder.parent, shots, params.ceval_subjects), params.max_items_ceval_per_subject
    kept, names = cap(items, limit, params.seed), ceval_names(folder.parent)
    return [
        kind(name, protocol, params.ceval_split, limit, kept, invalid, {}, dev, names)
        for kind, protocol in ((CEval, FIXED), (ReleasedCEval, RELEASED))
    ]


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


def ceval_items(raw_dir: str | Path, split: str, subjects: list[str] | None = None) -> Reading:
    """C-Eval's questions of one split (dev, val or test), subjects in alphabetical order, rows in file order.

    An absent or empty answer column gives `gold=None` (the test split until its labels were published in 2025); an
    answer outside A-D is unusable. `subjects` None: every file of the split. Raises Unreadable when the split has no
    file, or one cannot be used, and QilinError when a named subject has none.
    """
    folder = there(raw_dir) / "ceval"
    items, invalid = [], []
    advice = "C-Eval's splits are dev, val and test"
    with files_of(folder, f"{split}/*_{split}.csv", f"*/{split}.csv", advice=advice) as found:
        files = {subject_of(file, split): file for file in reversed(found)}
        for subject in subjects or ():
            if subject not in files:
                near = nearest(subject, files) or f"; the folder has {', '.join(sorted(files))}"
                raise QilinError(f"C-Eval subject '{subject}' has no file {subject}_{split}.csv in {folder}{near}")
        for subject in sorted(subjects or files):
            rows = table_rows(folder, files[subject], ("id", "question", *CEVAL_LETTERS))
            judged = ((line, broken, *_item(subject, split, row)) for line, broken, row in rows)
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


def _item(subject: str, split: str, row: dict[str, str]) -> tuple[str, Item]:
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


def prompts(
    items: Sequence[Item], backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int
) -> list[Prompt]:
    """One prompt an item, with the first `shots` dev examples of its subject, fewer where the context is too short.

    Raises QilinError when a subject has no Chinese name.
    """
    return [_prompt(item, backend, dev, names, shots) for item in items]


def answer(
    items: Sequence[Item], asked: Sequence[Prompt], backend: Any, choices: Sequence[str] = tuple(CEVAL_LETTERS)
) -> list[dict]:
    """The likeliest of `choices` (the first of equals) with all their log-probabilities.

    A backend that gives no probabilities (an endpoint, an encoder-decoder) writes instead, and the letter is read.
    """
    if not backend.likelihood:
        replies = backend.generate(asked, new_tokens(backend))
        return [_written(item, reply) for item, reply in zip(items, replies, strict=True)]
    scores = backend.choice_logprobs(asked, list(choices))
    return [_scored(item, row) for item, row in zip(items, scores, strict=True)]


def new_tokens(backend: Any) -> int:
    """How much a backend may write for a letter: nothing where letters are scored."""
    return 0 if backend.likelihood else written_tokens(backend)


def written_tokens(backend: Any) -> int:
    """What a backend that writes its letters may write: they stand behind the forced words, or it comes to them."""
    if backend.tokenizer is None:
        return FREE_TOKENS
    return min(FREE_TOKENS, backend.context // 2) if asking(backend).thinks else FORCED_TOKENS


def _scored(item: Item, row: dict[str, float] | Reply) -> dict:
    # A prompt that a server refuses has no scores, but a reply that says why.
    return _written(item, row) if isinstance(row, Reply) else _answer(item, "", _likeliest(row)) | {"scores": row}


def _written(item: Item, reply: Reply) -> dict:
    letter = letters(reply, item.options or {}, multiple=False)
    return _answer(item, reply.text, letter) | reply.ending


def _answer(item: Item, output: str, letter: str | None) -> dict:
    correct = None if item.gold is None else letter == item.gold
    return {"output": output, "prediction": letter, "correct": correct}


def _likeliest(logprobs: dict[str, float]) -> str | None:
    whole = all(value == value for value in logprobs.values())
    return max(logprobs, key=logprobs.get) if whole else None


def statistics(records: Sequence[dict]) -> Table:
    """The columns of Table 4, categories and subjects over the records with a gold answer; FAILURES over all.

    Averages weigh every subject alike, as C-Eval's own do; under "chimed_gpt" every item of its two subjects weighs
    alike, as ChiMed-GPT counts. A column without such records is an empty Statistic.
    """
    known = [record for record in records if record["gold"] is not None]
    table: Table = {
        "average": _average(known),
        "average_hard": _average([r for r in known if r["subject"] in HARD]),
    }
    table |= {subject: _accuracy(known, subject) for subject in MEDICAL}
    subjects = sorted({record["subject"] for record in records})
    table["subjects"] = {subject: _accuracy(known, subject) for subject in subjects}
    table["categories"] = categories(known)
    table["chimed_gpt"] = _chimed_gpt(records)
    return table | failures(records, unread)


def _chimed_gpt(records: Sequence[dict]) -> Table:
    mine = [record for record in records if record["subject"] in CHIMED_GPT]
    correct = [record["correct"] for record in mine if record["gold"] is not None]
    return {"accuracy": proportion(correct), **failures(mine, unread)}


def _prompt(item: Item, backend: Any, dev: dict[str, list[Item]], names: dict[str, str], shots: int) -> Prompt:
    subject = item.subject or ""
    if subject not in names:
        near = nearest(subject, names)
        raise QilinError(f"C-Eval subject '{subject}' has no Chinese name{near}; add it to mapping.json")
    examples = dev.get(subject, [])[:shots]

    def build(question: str, left: Sequence[Item]) -> Messages:
        return ceval_messages(question, item, left, names[subject])

    return fit(build, item, examples, REPLY_PREFIX, backend, new_tokens(backend))


def _average(records: Sequence[dict]) -> Statistic:
    return proportion([record["correct"] for record in records], [record["subject"] for record in records])


def _accuracy(records: Sequence[dict], subject: str) -> Statistic:
    return proportion([record["correct"] for record in records if record["subject"] == subject])
