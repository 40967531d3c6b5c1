"""C-Eval (Huang et al. 2023, arXiv 2305.08322): 52 subjects, five dev shots, the likeliest of A-D (Table 4)."""

from __future__ import annotations

import json
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from qilin_lib import strict_yaml
from qilin_lib.chimed.readers.exam import exam_row
from qilin_lib.errors import QilinError, nearest
from qilin_lib.evaluate import released
from qilin_lib.evaluate.benchmarks.answers import Choices, examples
from qilin_lib.evaluate.benchmarks.exams import file_items
from qilin_lib.evaluate.intervals import Statistic, proportion
from qilin_lib.evaluate.items import Item, Reading, cap, files_of, there
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, RELEASED, Task
from qilin_lib.evaluate.prompts import Messages, Prompt, ceval_messages
from qilin_lib.evaluate.replies import failures, unread
from qilin_lib.evaluate.scores import Table
from qilin_lib.files import read_json, write_json

_SUBJECTS = strict_yaml.read(Path(__file__).parents[1] / "data" / "ceval_subjects.yaml")
NAMES: dict[str, str] = {subject: facts["name"] for subject, facts in _SUBJECTS.items()}
CATEGORIES: dict[str, frozenset[str]] = {
    category: frozenset(subject for subject, facts in _SUBJECTS.items() if facts["category"] == category)
    for category in ("stem", "social_science", "humanities", "other")
}
TEST_QUESTIONS: dict[str, int] = {subject: facts["test"] for subject, facts in _SUBJECTS.items()}
"""Questions of the test split, numbered from 0 in each subject."""
HARD = frozenset(subject for subject, facts in _SUBJECTS.items() if facts.get("hard"))
"""C-Eval Hard: the eight subjects of the paper's second average."""
MEDICAL = ("clinical_medicine", "physician", "basic_medicine")
"""The three medical columns of Table 4, in the paper's order."""
# What ChiMed-GPT calls C-Eval: these two, all their items in one pot (41 in the validation split; FACTS 5.3).
CHIMED_GPT = ("basic_medicine", "clinical_medicine")
NO_CATEGORY = "(no category)"
UNPARSED = "-"


# --- what is asked ----------------------------------------------------------------------------------------------------


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
    answer outside A-D, or of several letters, is unusable. A subject is the name of <subject>_<split>.csv, else that of
    the folder of <split>-….parquet; `subjects` None: every file of the split. Raises Unreadable when the split has no
    file, or one cannot be used, and QilinError when a named subject has none.
    """
    folder = there(raw_dir) / "ceval"
    items, invalid, files = [], [], {}
    without = "; or set eval.shots to 0" * (split == "dev")
    advice = f"C-Eval's splits are dev, val and test{without}"
    with files_of(folder, f"{split}/*_{split}.csv", f"*/{split}.csv", advice=advice) as found:
        for file in reversed(found):
            place = PurePosixPath(file.place.lower())
            stem = place.name.split(".")[0]
            files[stem.removesuffix(f"_{split}") if stem.endswith(f"_{split}") else place.parent.name] = file
        for subject in subjects or ():
            if subject not in files:
                near = nearest(subject, files) or f"; the folder has {', '.join(sorted(files))}"
                raise QilinError(
                    f"C-Eval subject '{subject}' has no file {subject}_{split}.csv in {folder}{near}{without}"
                )
        for subject in sorted(subjects or files):
            kept, bad = file_items(folder, files[subject], exam_row, "ceval", subject, split)
            items += kept
            invalid += bad
    return items, invalid


def ceval_dev(raw_dir: str | Path, shots: int = 5, subjects: list[str] | None = None) -> dict[str, list[Item]]:
    """The first `shots` dev examples of each subject; {} for no shots. Raises what `examples` does."""
    if shots == 0:
        return {}
    items, invalid = ceval_items(raw_dir, "dev", subjects)
    dev = {}
    for subject in dict.fromkeys(item.subject for item in items):
        file = Path(raw_dir) / "ceval" / "dev" / f"{subject}_dev.csv"
        own = [item for item in items if item.subject == subject]
        dev[subject] = examples(own, [bad for bad in invalid if bad["file"] == file.name], shots, file)
    return dev


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """C-Eval under both protocols, with as many examples as any model is shown."""
    items, invalid = ceval_items(folder.parent, params.ceval_split, params.ceval_subjects)
    shots = max([params.shots, *(line.shots or 0 for line in params.baselines.values())])
    dev = ceval_dev(folder.parent, shots, sorted({item.subject for item in items}))
    limit = params.max_items_ceval_per_subject
    kept, names = cap(items, limit, params.seed), ceval_names(folder.parent)
    return [
        kind(name, protocol, params.ceval_split, limit, kept, invalid, {}, dev, names)
        for kind, protocol in ((CEval, FIXED), (ReleasedCEval, RELEASED))
    ]


# --- what is counted --------------------------------------------------------------------------------------------------


def statistics(records: Sequence[dict]) -> Table:
    """The columns of Table 4, categories and subjects over the records with a gold answer; FAILURES over all.

    Averages weigh every subject alike, as C-Eval's own do; under "chimed_gpt" every item of its two subjects weighs
    alike, as ChiMed-GPT counts. A column or category without such records is an empty Statistic; subjects that are not
    C-Eval's own (mapping.json may add some) stand under the category NO_CATEGORY.
    """
    known = [record for record in records if record["gold"] is not None]

    def average(subjects: Container[str]) -> Statistic:
        mine = [record for record in known if record["subject"] in subjects]
        return proportion([record["correct"] for record in mine], [record["subject"] for record in mine])

    subjects = sorted({record["subject"] for record in records})
    table: Table = {"average": average(subjects), "average_hard": average(HARD)}
    table |= {subject: average({subject}) for subject in MEDICAL}
    table["subjects"] = {subject: average({subject}) for subject in subjects}
    table["categories"] = {name: average(members) for name, members in CATEGORIES.items()}
    if strange := {record["subject"] for record in known} - set(NAMES):
        table["categories"][NO_CATEGORY] = average(strange)
    two = [record for record in records if record["subject"] in CHIMED_GPT]
    correct = [record["correct"] for record in two if record["gold"] is not None]
    table["chimed_gpt"] = {"accuracy": proportion(correct), **failures(two, unread)}
    return table | failures(records, unread)


def write_submission(records: Sequence[dict], path: str | Path) -> None:
    """Write one model's C-Eval test records as {subject: {id: letter or UNPARSED}}, for its authors' server.

    Form: github.com/hkust-nlp/ceval, "How to submit". The server reports "mismatched questions" for a missing or extra
    id (issue 43) and computes nothing for a subject with fewer than 50 (issues 79, 85), so the file is written whole or
    not at all. "-" is what C-Eval's own evaluators put for an answer that could not be read: it is no option, so it
    counts as wrong, and no answer is guessed. Raises QilinError, naming the first that is missing or strange, unless
    they are the test split's 12,342 questions.
    """
    wanted = [f"{subject}-{n}" for subject, count in sorted(TEST_QUESTIONS.items()) for n in range(count)]
    given = {record["id"]: record["prediction"] or UNPARSED for record in records if record["split"] == "test"}
    missing, strange = [name for name in wanted if name not in given], sorted(given.keys() - set(wanted))
    if missing or strange:
        named = f"{len(missing)} have no test record" if missing else f"{len(strange)} are no questions of it"
        raise QilinError(
            f"a C-Eval submission needs the {len(wanted)} questions of the test split, but {named}, e.g. "
            f"{(missing or strange)[0]}; set eval.ceval_split to 'test', eval.ceval_subjects and "
            "eval.max_items_ceval_per_subject to null"
        )
    answers: dict[str, dict[str, str]] = {}
    for name in wanted:
        subject, _, number = name.rpartition("-")
        answers.setdefault(subject, {})[number] = given[name]
    write_json(path, answers)


@dataclass(frozen=True)
class CEval(Choices):
    """`names`: the subjects in Chinese."""

    names: dict[str, str]
    statistics = staticmethod(statistics)

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        """QilinError when a subject has no Chinese name."""
        if item.subject not in self.names:
            near = nearest(item.subject or "", self.names)
            raise QilinError(f"C-Eval subject '{item.subject}' has no Chinese name{near}; add it to mapping.json")
        return ceval_messages(question, item, shots, self.names[item.subject])


@dataclass(frozen=True)
class ReleasedCEval(CEval):
    """As the authors' evaluator asks. It writes one accuracy a subject; the means are those of C-Eval's own site."""

    likelihood = False
    answer = staticmethod(released.ceval_answer)

    def prompts(self, items: Sequence[Item], backend: Any, shots: int) -> list[Prompt]:
        return released.ceval_prompts(items, backend, self.dev, shots)
