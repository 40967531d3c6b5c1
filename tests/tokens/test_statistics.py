"""Token counts for Tables 1-3."""

from __future__ import annotations

from typing import Any

import pytest

from qilin_lib.tokens.statistics import count_tokens, text_of

ROWS = [
    {"source": "a", "text": "咳嗽"},
    {"source": "b", "messages": [{"role": "user", "content": "头痛"}, {"role": "assistant", "content": "休息"}]},
    {"source": "a", "text": "多喝水 ok"},
    {
        "source": "c",
        "prompt": [{"role": "user", "content": "问"}],
        "chosen": [{"role": "assistant", "content": "好"}],
        "rejected": [{"role": "assistant", "content": "坏"}],
    },
]


def test_text_of_each_kind_of_row() -> None:
    assert [text_of(row) for row in ROWS] == ["咳嗽", "头痛\n休息", "多喝水 ok", "问\n好\n坏"]


@pytest.mark.parametrize("batch", [1, 2, 4, 1000])
def test_counts_by_source_do_not_depend_on_the_batch(batch: int, tiny_tokenizer: Any) -> None:
    counts = count_tokens(iter(ROWS), tiny_tokenizer, batch)
    assert list(counts) == ["a", "b", "c"]
    assert counts["a"]["samples"] == 2 and counts["a"]["chars"] == 8 and counts["a"]["bytes"] == 18
    for source, entry in counts.items():
        texts = [text_of(row) for row in ROWS if row["source"] == source]
        assert entry["tokens"] == sum(len(tiny_tokenizer.encode(t, add_special_tokens=False)) for t in texts)


def test_no_rows_no_counts(tiny_tokenizer: Any) -> None:
    assert count_tokens([], tiny_tokenizer) == {}
