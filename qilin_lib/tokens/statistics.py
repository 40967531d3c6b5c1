"""Token counts for Tables 1-3: by set and by source, with the tokenizer named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, tee
from typing import Any

import numpy as np


def text_of(row: dict[str, Any]) -> str:
    """All the text of one ChiMed row: a document, a conversation, or a prompt with both answers."""
    if "text" in row:
        return row["text"]
    turns = row["messages"] if "messages" in row else row["prompt"] + row["chosen"] + row["rejected"]
    return "\n".join(turn["content"] for turn in turns)


def encoded(texts: Iterable[str], tokenizer: Any, batch: int = 1000) -> Iterator[np.ndarray]:
    """Token ids (int32) of each text, without template or EOS. In batches, which the tokenizer works on in parallel;
    as arrays, because a list of Python numbers takes nine times their space."""
    for start in batches(texts, batch):
        for ids in tokenizer(start, add_special_tokens=False, split_special_tokens=True)["input_ids"]:
            yield np.asarray(ids, dtype=np.int32)


def batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size` items, the last one shorter."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def count_tokens(rows: Iterable[dict[str, Any]], tokenizer: Any, batch: int = 1000) -> dict[str, dict[str, int]]:
    """{source: {samples, tokens, chars, bytes}}; tokens of the text alone, without template or EOS."""
    counts: dict[str, dict[str, int]] = {}
    first, second = tee(rows)
    for row, ids in zip(first, encoded(map(text_of, second), tokenizer, batch), strict=True):
        text = text_of(row)
        entry = counts.setdefault(row["source"], {"samples": 0, "tokens": 0, "chars": 0, "bytes": 0})
        for name, amount in (("samples", 1), ("tokens", len(ids)), ("chars", len(text)), ("bytes", len(text.encode()))):
            entry[name] += amount
    return counts
