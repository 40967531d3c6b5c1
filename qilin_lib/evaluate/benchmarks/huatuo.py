"""Huatuo-26M's test questions (Li et al. 2023, arXiv 2305.01526): a patient asks, the model answers (Table 6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib.chimed.readers.stream import Reject
from qilin_lib.evaluate.benchmarks.answers import Written, open_settings
from qilin_lib.evaluate.items import Item, Reading, cap, files_of, part, records, reference_of, said, there
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.evaluate.metrics import perplexity, text_statistics
from qilin_lib.evaluate.plan import FIXED, Task
from qilin_lib.evaluate.prompts import Messages
from qilin_lib.evaluate.replies import failures, spoken, unsaid
from qilin_lib.evaluate.scores import Table
from qilin_lib.evaluate.variants import variants


def huatuo_items(raw_dir: str | Path) -> Reading:
    """Huatuo-26M's test questions: `test_datasets.jsonl` {questions, answers} or `huatuo26M_test.json` (instructions).

    Unusable: not exactly one question and one answer, or an empty one. Raises Unreadable when there is no such file, or
    it has another form.
    """
    folder = there(raw_dir) / "huatuo26m_test"

    def judged(place: int, row: Any) -> tuple[str, Item]:
        known = row if isinstance(row, dict) else {}
        keys = ("instruction", "output") if "instruction" in known else ("questions", "answers")
        question, answer = (_only(known.get(key)) for key in keys)
        wrong = "" if question and answer else f"not exactly one question and one answer in {keys[0]} and {keys[1]}"
        item = Item("huatuo", f"test-{place:05d}", "test", None, question, None, None, answer)
        return said(row) if isinstance(row, Reject) else wrong, item

    with files_of(folder, "test_datasets.jsonl", "huatuo26M_test.json", "test.jsonl") as (file, *_):
        rows = enumerate(records(folder, file))
        return part(folder, file, ((line, *judged(place, row)) for place, (line, row) in rows))


def _only(value: Any) -> str:
    """The text of a str or of a list of one, cleaned; "" for anything else."""
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return reference_of(value) if isinstance(value, str) else ""


def statistics(records: Sequence[dict], how: str = "char") -> Table:
    """BLEU-1…4, GLEU, ROUGE-1/2/L and distinct-1/2 over all records, and FAILURES; `how`: the tokens, "char" or
    "jieba". Thoughts are left out.

    Under "variants" the same answers measured by other people's metric code; "perplexity" of the references where the
    records have it.
    """
    written, wanted = [spoken(record["output"]) for record in records], [record["reference"] for record in records]
    table = text_statistics(written, wanted, how) | failures(records, unsaid) | {"variants": variants(written, wanted)}
    if records and all("reference_logprob" in record for record in records):
        likely, sizes = zip(*((row["reference_logprob"], row["reference_characters"]) for row in records), strict=True)
        table["perplexity"] = perplexity(likely, sizes)
    return table


@dataclass(frozen=True)
class Huatuo(Written):
    """Huatuo-26M's questions; `tokenisation` of BLEU and ROUGE: "char" or "jieba"."""

    tokenisation: str

    def messages(self, item: Item, question: str, shots: Sequence[Item]) -> Messages:
        """The patient's question as it is."""
        return [{"role": "user", "content": question}]

    def statistics(self, records: Sequence[dict]) -> Table:
        return statistics(records, self.tokenisation)


def read(name: str, folder: Path, params: Any, trained: Lineage) -> list[Task]:
    """The one task of Huatuo-26M, which has no released evaluator."""
    items, invalid = huatuo_items(folder.parent)
    limit, new = params.max_items_huatuo, open_settings(params.max_new_tokens_huatuo, params)
    return [Huatuo(name, FIXED, "test", limit, cap(items, limit, params.seed), invalid, new, params.tokenisation)]
