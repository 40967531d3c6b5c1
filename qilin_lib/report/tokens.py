"""Showing conversations, pairs and packed blocks in notebooks: what the model reads and what it learns from."""

from __future__ import annotations

from typing import Any

from qilin_lib.report.markup import Box, Html, card, conversation_card, joined, macro
from qilin_lib.report.render import Table, table
from qilin_lib.tokens.pack import Blocks
from qilin_lib.tokens.template import IGNORE, Message, Template


def conversation(messages: list[Message], template: Template, tokenizer: Any) -> Html:
    """The tokens of a conversation in the template; those with loss are shaded."""
    ids, labels = template.encode_with_labels(messages, tokenizer)
    learned = [label != IGNORE for label in labels]
    shown = [tokenizer.decode([token]).replace("\n", "⏎") or "·" for token in ids]
    spans = joined(macro("token", text, with_loss) for text, with_loss in zip(shown, learned, strict=True))
    counts = f"{len(ids)} tokens, {sum(learned)} with loss (shaded)"
    return card(f"template {template.name}", [Box("", spans)], aside=counts)


def messages(row: dict[str, Any]) -> Html:
    """One conversation of sft.jsonl."""
    return conversation_card(row["id"], row["messages"])


def pair(row: dict[str, Any]) -> Html:
    """One triplet of dpo.jsonl: prompt above, chosen and rejected side by side."""
    answers = [Box(side, row[side][-1]["content"]) for side in ("chosen", "rejected")]
    return conversation_card(row["id"], row["prompt"], answers=answers)


def block(blocks: Blocks, number: int, tokenizer: Any, most: int = 8) -> Table:
    """The documents inside one packed block: where each starts, how long its part is, how it begins."""
    if number >= len(blocks.ids):
        return table(f"Block {number}", [], [], [f"there are {len(blocks.ids)} blocks"])
    starts = [i for i, position in enumerate(blocks.positions[number]) if position == 0]
    ends = [*starts[1:], blocks.ids.shape[1]]
    rows = [
        [start, end - start, tokenizer.decode(blocks.ids[number, start:end][:20], skip_special_tokens=True) + " …"]
        for start, end in zip(starts[:most], ends, strict=False)
    ]
    notes = [f"{len(starts)} documents or parts of documents in this block of {blocks.ids.shape[1]} tokens"]
    return table(f"Block {number}", rows, ["First token", "Tokens", "Begins with"], notes)
