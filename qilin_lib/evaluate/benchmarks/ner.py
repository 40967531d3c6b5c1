"""Named entities of CMeEE-V2, CCKS-2019 and ChiMST: the model lists them, zero-shot (ChiMed-GPT, arXiv 2311.06025).

Scored as ChiMed-GPT's code does: micro F1 over the distinct (type, mention) pairs of each text. A mention that is not
in the text and one of an unknown type are wrong answers; a reply that cannot be read holds none, and its share is
shown. Other than there (generate.py of Fengshenbang-LM's dev_bio): replies are greedy, not sampled; a pair is read from
"类型：实体", not from the first two words of a line, so that an empty line is nothing and not an entity on both sides;
and the texts are a seeded sample, not the first 100 of ChiMST and 200 of CCKS-2019.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib.evaluate import entities
from qilin_lib.evaluate.benchmarks.answers import Written
from qilin_lib.evaluate.entities import KINDS, gold, located, parse, types_of
from qilin_lib.evaluate.intervals import Statistic
from qilin_lib.evaluate.items import Item, cap
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Messages
from qilin_lib.evaluate.replies import Reply, failures, spoken
from qilin_lib.evaluate.scores import Table

ASKED = (
    "请找出下面文本中的医学命名实体。实体类型有：{types}。\n"
    "每行写一个实体，格式为“类型：实体”。实体须与原文完全一致，相同的只写一次；没有实体时只写“无”。\n\n"
    "文本：{text}"
)


@dataclass(frozen=True)
class Entities(Written):
    """`types` {code: Chinese name}: all types of the file, whatever is asked of it."""

    types: dict[str, str]

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        """Where the context is too short the text loses its beginning, never the instruction."""
        named = "、".join(name if name == code else f"{name}（{code}）" for code, name in self.types.items())
        return [{"role": "user", "content": ASKED.format(types=named, text=question)}]

    def read(self, item: Item, reply: Reply) -> dict[str, Any]:
        return understood(item, reply.text, self.types)

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records, tuple(self.types))


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The task of a folder of annotated texts (entities.read says which files, and which QilinError); notebook 01 makes
    no training data of these folders."""
    split, (items, invalid) = entities.read(name, folder)
    limit, new = params.max_items_further, {"max_new_tokens": params.max_new_tokens_ner}
    return [Entities(name, FIXED, split, limit, cap(items, limit, params.seed), invalid, new, types_of(items))]


def understood(item: Item, output: str, types: Mapping[str, str]) -> dict[str, Any]:
    """`predicted` [[type, mention], …], `located` [[type, begin, end], …] (below 0: no such place), `lines` {kind
    of entry: how many}, `unparsed`."""
    reply = parse(spoken(output), types, item.question)
    return {
        "predicted": [list(pair) for pair in reply.pairs],
        "located": [list(span) for span in located(reply.pairs, item.question)],
        "lines": reply.lines,
        "unparsed": reply.unparsed,
    }


def statistics(records: Sequence[dict], types: Sequence[str]) -> Table:
    """Micro F1, precision and recall over distinct (type, mention) pairs, and FAILURES.

    Under "spans" the same over places (type, begin, end), every occurrence of a mention predicted; under "types" by
    type, over the texts that have it (gold or predicted); under "lines" what the entries of the replies were, in
    percent of all entries.
    """
    annotated = [gold(record["reference"]) for record in records]
    truth = [{(kind, mention) for kind, mention, _, _ in found} for found in annotated]
    guess = [{(kind, mention) for kind, mention in record["predicted"]} for record in records]
    places = [{(kind, begin, end) for kind, _, begin, end in found} for found in annotated]
    placed = [{tuple(span) for span in record["located"]} for record in records]
    table: Table = _scores(_rows(truth, guess))
    table |= failures(records, lambda record: record["unparsed"])
    table["spans"] = _scores(_rows(places, placed))
    table["types"] = {}
    for kind in types:
        own = ([{pair for pair in pairs if pair[0] == kind} for pairs in sets] for sets in (truth, guess))
        rows = _rows(*own)
        # Texts without a type say nothing of it; counted as items they would make its interval look certain.
        table["types"][kind] = _scores(rows[rows.any(axis=1)])
    lines = np.array([[record["lines"][kind] for kind in KINDS] for record in records], dtype=float)
    rows = lines.reshape(-1, len(KINDS))
    table["lines"] = {
        kind: Statistic(rows, lambda sums, column=column: _percent(sums[..., column], sums.sum(axis=-1)))
        for column, kind in enumerate(KINDS)
    }
    return table


def _rows(gold_sets: Sequence[set], predicted: Sequence[set]) -> np.ndarray:
    """Right, predicted and gold ones of each text -> [N, 3]."""
    rows = [(len(g & p), len(p), len(g)) for g, p in zip(gold_sets, predicted, strict=True)]
    return np.array(rows, dtype=float).reshape(-1, 3)


def _scores(rows: np.ndarray) -> Table:
    return {
        "f1": Statistic(rows, lambda sums: _percent(2 * sums[..., 0], sums[..., 1] + sums[..., 2])),
        "precision": Statistic(rows, lambda sums: _percent(sums[..., 0], sums[..., 1])),
        "recall": Statistic(rows, lambda sums: _percent(sums[..., 0], sums[..., 2])),
    }


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 * part / whole; 0 where there is nothing (a model that names no entity has neither precision nor F1)."""
    return 100 * np.divide(part, whole, out=np.zeros_like(part, dtype=float), where=whole != 0)
