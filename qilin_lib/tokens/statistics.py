"""Token counts for Tables 1-3: by set and by source, with the tokenizer named."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def text_of(row: dict[str, Any]) -> str:
    """All the text of one ChiMed row: a document, a conversation, or a prompt with both answers."""
    if "text" in row:
        return row["text"]
    turns = row["messages"] if "messages" in row else row["prompt"] + row["chosen"] + row["rejected"]
    return "\n".join(turn["content"] for turn in turns)


def count_tokens(rows: Iterable[dict[str, Any]], tokenizer: Any, batch: int = 1000) -> dict[str, dict[str, int]]:
    """{source: {samples, tokens, chars, bytes}}; tokens of the text alone, without template or EOS."""
    counts: dict[str, dict[str, int]] = {}
    waiting: list[tuple[str, str]] = []
    for row in rows:
        waiting.append((row["source"], text_of(row)))
        if len(waiting) == batch:
            _add(counts, waiting, tokenizer)
            waiting = []
    _add(counts, waiting, tokenizer)
    return counts


def _add(counts: dict[str, dict[str, int]], texts: list[tuple[str, str]], tokenizer: Any) -> None:
    if not texts:
        return
    encoded = tokenizer([text for _, text in texts], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    for (source, text), ids in zip(texts, encoded, strict=True):
        entry = counts.setdefault(source, {"samples": 0, "tokens": 0, "chars": 0, "bytes": 0})
        for name, amount in (("samples", 1), ("tokens", len(ids)), ("chars", len(text)), ("bytes", len(text.encode()))):
            entry[name] += amount
