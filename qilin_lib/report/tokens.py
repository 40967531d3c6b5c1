"""Showing conversations, pairs and packed blocks in notebooks: what the model reads and what it learns from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from qilin_lib.report.layout import Table
from qilin_lib.report.markup import CASE_STYLE, Html, escape, styled
from qilin_lib.tokens.pack import Blocks
from qilin_lib.tokens.template import IGNORE, Message, Template


def conversation(messages: list[Message], template: Template, tokenizer: Any) -> Html:
    """The tokens of a conversation in the template; those with loss are shaded."""
    ids, labels = template.encode_with_labels(messages, tokenizer)
    spans = "".join(
        _token(tokenizer.decode([token]), label != IGNORE) for token, label in zip(ids, labels, strict=True)
    )
    counted = sum(label != IGNORE for label in labels)
    counts = f"{len(ids)} tokens, {counted} with loss (shaded)"
    head = f"<div class='head'>template {escape(template.name)}<span>{counts}</span></div>"
    return styled(CASE_STYLE, f"<div class='qm-case'>{head}<div class='box'>{spans}</div></div>")


def _token(text: str, learned: bool) -> str:
    shade = "#cfe8f7" if learned else "#ffffff"
    shown = escape(text.replace("\n", "⏎")) or "·"
    style = f"background:{shade};border:1px solid #d8dde5;border-radius:3px;padding:0 .2rem;margin:1px"
    return f"<span style='{style}'>{shown}</span>"


def messages(row: dict[str, Any]) -> Html:
    """One conversation of sft.jsonl."""
    return styled(CASE_STYLE, card(row["id"], row["messages"]))


def pair(row: dict[str, Any]) -> Html:
    """One triplet of dpo.jsonl: prompt above, chosen and rejected side by side."""
    answers = [box(side, row[side][-1]["content"]) for side in ("chosen", "rejected")]
    return styled(CASE_STYLE, card(row["id"], row["prompt"], answers))


def card(title: str, turns: Iterable[Mapping[str, str]], answers: Iterable[str] = (), aside: str = "") -> str:
    """The turns of a conversation below each other, then boxes of answers side by side."""
    told = "".join(box(turn["role"], turn["content"]) for turn in turns)
    head = f"<div class='head'>{escape(title)}<span>{escape(aside)}</span></div>"
    return f"<div class='qm-case'>{head}{told}<div class='answers'>{''.join(answers)}</div></div>"


def box(title: str, text: str) -> str:
    """A titled box of text for a card; both are escaped."""
    return f"<div class='box'><div class='title'>{escape(title)}</div><div class='text'>{escape(text)}</div></div>"


def block(blocks: Blocks, number: int, tokenizer: Any, most: int = 8) -> Table:
    """The documents inside one packed block: where each starts, how long its part is, how it begins."""
    if number >= len(blocks.ids):
        return Table("", f"Block {number}", pd.DataFrame(), [f"there are {len(blocks.ids)} blocks"])
    starts = [i for i, position in enumerate(blocks.positions[number]) if position == 0]
    ends = [*starts[1:], blocks.ids.shape[1]]
    rows = [
        [
            str(start),
            str(end - start),
            tokenizer.decode(blocks.ids[number, start:end][:20], skip_special_tokens=True) + " …",
        ]
        for start, end in zip(starts[:most], ends, strict=False)
    ]
    notes = [f"{len(starts)} documents or parts of documents in this block of {blocks.ids.shape[1]} tokens"]
    return Table("", f"Block {number}", pd.DataFrame(rows, columns=["First token", "Tokens", "Begins with"]), notes)
