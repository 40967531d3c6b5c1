"""Held-out likelihoods: per document and per pair, so that every difference can carry an interval."""

from __future__ import annotations

from typing import Any

import numpy as np

from qilin_lib.tokens.template import IGNORE


def sequence_logprobs(model: Any, sequences: list[tuple[list[int], list[int]]], batch_size: int = 8) -> np.ndarray:
    """Summed log-probability of the labelled tokens of each (ids, labels); float64, shape (n,).

    Right-padded batches sorted by length; labels as in training (IGNORE = no loss; the first token never counts).
    """
    import torch

    model.eval()
    device = next(model.parameters()).device
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i][0]))
    sums = np.zeros(len(sequences))
    with torch.no_grad():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(sequences[i][0]) for i in rows)
            ids = torch.zeros(len(rows), width, dtype=torch.long)
            labels = torch.full((len(rows), width), IGNORE)
            for row, i in enumerate(rows):
                ids[row, : len(sequences[i][0])] = torch.tensor(sequences[i][0])
                labels[row, : len(sequences[i][1])] = torch.tensor(sequences[i][1])
            logits = model(input_ids=ids.to(device), use_cache=False).logits[:, :-1].float()
            targets = labels[:, 1:].to(device)
            losses = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), targets, ignore_index=IGNORE, reduction="none"
            )
            sums[rows] = -losses.double().sum(1).cpu().numpy()
    return sums


def label_count(labels: list[int]) -> int:
    """Tokens that count in `sequence_logprobs`."""
    return int(sum(label != IGNORE for label in labels[1:]))


def documents(texts: list[str], tokenizer: Any, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Texts as (ids, labels): text + EOS, cut to `max_length` tokens, every token but the first predicted."""
    # A tokenizer takes no empty list.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    cut = [[*ids, tokenizer.eos_token_id][:max_length] for ids in encoded]
    return [(ids, list(ids)) for ids in cut]
