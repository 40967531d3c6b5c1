"""All records of a run, to be searched in report.html and in notebook 07 by the same script, templates/browse.js.

The records travel inside the page as JSON, deflated and in base64 (no "<" in it, so no text of a model can end the
script element); the browser's own DecompressionStream opens them.
"""

from __future__ import annotations

import base64
import json
import math
import os
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from qilin_lib.report import records
from qilin_lib.report.case_study import Record
from qilin_lib.report.cells import sentences
from qilin_lib.report.markup import TEMPLATES, Html, macro, render
from qilin_lib.runs import Stage

SCRIPT = (TEMPLATES / "browse.js").read_text(encoding="utf-8")
# Bytes of packed data in the page: as much as all else in it.
BUDGET = 2_400_000


@dataclass(frozen=True)
class Row:
    """One record with what it is filtered by, `model` as the tables call it.

    `path`: its file under predictions/. `beginning`: the prompt's few-shot part, equal for a whole subject.
    """

    path: str
    task: str
    model: str
    record: Record
    beginning: str

    @property
    def item(self) -> tuple[str, str]:
        return self.task, self.record["id"]

    @property
    def question(self) -> str:
        return self.record["prompt"][len(self.beginning) :]


def load(eval_dir: str | Path) -> list[Row]:
    """Every record under `eval_dir`/predictions/<protocol>/<benchmark>/<model>.jsonl, task by task, item by item.

    Raises QilinError for a file without records.
    """
    rows = []
    for folder in sorted(Path(eval_dir, "predictions").glob("*/*")):
        protocol, benchmark = folder.parts[-2:]
        names = records.names_of(eval_dir, records.models_of(eval_dir, benchmark, protocol))
        items = defaultdict(list)
        for model, name in names.items():
            path, task = f"{protocol}/{benchmark}/{model}.jsonl", f"{benchmark} ({protocol})"
            answers = records.read(eval_dir, protocol, benchmark, model)
            for record, beginning in zip(answers, beginnings(answers), strict=True):
                items[record["id"]].append(Row(path, task, name, record, beginning))
        rows += [row for item in items.values() for row in item]
    return rows


def beginnings(answers: Sequence[Record]) -> list[str]:
    """What each prompt shares with all others of its subject that have as many shots; "" for a prompt without shots.

    Cut back to the last line break, colon or bracket, so that questions which begin alike stay whole.
    """
    groups = defaultdict(set)
    for record in answers:
        groups[record.get("subject"), record.get("shots")].add(record["prompt"])
    shared = {}
    for (subject, shots), prompts in groups.items():
        common = os.path.commonprefix(sorted(prompts)) if shots and len(prompts) > 1 else ""
        shared[subject, shots] = re.match(r"(.*[\n：:>\]])?", common, re.DOTALL)[0]
    return [shared[record.get("subject"), record.get("shots")] for record in answers]


def pack(rows: Iterable[Row]) -> str:
    """Rows as base64 of deflated JSON: [{"task", "model", "record"}, …], in the order of the page.

    A prompt is split into prompt_beginning (its few-shot part) and prompt. What repeats from model to model and within
    a subject stands within reach of deflate's 32 KB.
    """

    def finite(value: Any) -> Any:
        # JSON knows no infinity; a choice's log-probability can be one, and is then packed as the text "-inf".
        if isinstance(value, dict):
            return {name: finite(inner) for name, inner in value.items()}
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    packed = []
    for row in rows:
        record = row.record | {"prompt": row.question, "prompt_beginning": row.beginning}
        packed.append({"task": row.task, "model": row.model, "record": finite(record)})
    data = json.dumps(packed, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(data.encode("utf-8", "surrogatepass"), 9)).decode("ascii")


def fitted(rows: Sequence[Row], seed: int, budget: int) -> tuple[str, list[Row]]:
    """(packed data of at most `budget` bytes, the rows in it): all rows, or the same share of every task's items.

    Items come whole, with every model's record, and are drawn with `seed`.
    """
    items = defaultdict(list)
    for item in sorted({row.item for row in rows}):
        items[item[0]].append(item)
    drawn = {task: random.Random(seed).sample(here, len(here)) for task, here in items.items()}
    share, data, kept = 1.0, pack(rows), list(rows)
    while len(data) > budget and kept:
        share *= 0.97 * budget / len(data)
        chosen = {item for here in drawn.values() for item in here[: int(share * len(here))]}
        kept = [row for row in rows if row.item in chosen]
        data = pack(kept)
    return data, kept


def section(stage: Stage, budget: int = BUDGET, prefix: str = "../") -> Html:
    """The search over a run's records: at most `budget` bytes of inline data, inline script, nothing fetched.

    `prefix` leads from the page to the run's folder: "../" from a stage's folder, "" from an executed notebook.
    """
    folder, seed = stage.parent("06_eval"), stage.parameters.seed
    rows = load(folder)
    if not rows:
        return macro("paragraph", "This run has no records: nothing to search.")
    data, kept = fitted(rows, seed, budget)
    holds = f"All {len(rows):,} records of this run are in this page."
    if len(kept) < len(rows):
        (holds,) = sentences("browse", "part", kept=len(kept), rows=len(rows), seed=seed)
    total, here = (Counter(row.path for row in some) for some in (rows, kept))
    files = [
        {"link": prefix + quote(f"{folder.name}/predictions/{path}"), "path": path, "here": here[path], "total": number}
        for path, number in total.items()
    ]
    search = render("browse.html.j2", holds=holds, files=files, data=data, script=Html(SCRIPT))
    search.scripts = (SCRIPT,)
    return search
