"""Held-out likelihoods: per document and per pair, so that every difference can carry an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from qilin_lib.models.adapters import is_adapter, load_trained, trained
from qilin_lib.tokens.template import IGNORE, text_begin
from qilin_lib.train import launch

# Tokens whose logits are in float32 at a time.
SLICE = 512


def moments(job: Any, measure: Callable[[Any, str], Any]) -> dict[str, Any]:
    """{"before": ..., "after": ...} of `measure(model, moment)` on the model that a training started from and on the
    one that it left (with an adapter: off and on); never two in memory. Under QLoRA "unquantised_before" and
    "unquantised_after" are the same on the weights that were quantised."""
    folder, parameters = trained(job.out), job.parameters
    device = launch.device(parameters)
    result = {}
    if not is_adapter(folder):
        for moment, path in (("before", job.paths.weights), ("after", folder)):
            result[moment] = measure(load_trained(path, parameters.dtype, device)[0], moment)
        return result
    kinds = {"": True, "unquantised_": False} if parameters.finetuning == "qlora" else {"": False}
    for kind, quantised in kinds.items():
        model, off = load_trained(folder, parameters.dtype, device, quantised)
        with off():
            result[f"{kind}before"] = measure(model, f"{kind}before")
        result[f"{kind}after"] = measure(model, f"{kind}after")
        del model, off
    return result


def measured(job: Any, sequences: Mapping[str, list], entries: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """`entries` by part, with the log-probabilities of the part's `sequences` at each of `moments`."""
    if not any(sequences.values()):
        return {part: entry | {"before": [], "after": []} for part, entry in entries.items()}

    def logprobs(model: Any, _: str) -> dict[str, list[float]]:
        return {part: sequence_logprobs(model, own).round(6).tolist() for part, own in sequences.items()}

    found = moments(job, logprobs)
    return {part: entry | {moment: own[part] for moment, own in found.items()} for part, entry in entries.items()}


def sequence_logprobs(model: Any, sequences: list[tuple[list[int], list[int]]], batch_tokens: int = 4096) -> np.ndarray:
    """Summed log-probability of the labelled tokens of each (ids, labels); float64, shape (n,). Right-padded batches
    sorted by length, of at most `batch_tokens` tokens or one sequence."""
    import torch
    from torch.nn.functional import cross_entropy
    from torch.nn.utils.rnn import pad_sequence

    sums, batches = np.zeros(len(sequences)), []
    for i in sorted(range(len(sequences)), key=lambda i: len(sequences[i][0])):
        # This one is the longest yet, to which all of its batch are padded.
        if not batches or (len(batches[-1]) + 1) * len(sequences[i][0]) > batch_tokens:
            batches.append([])
        batches[-1].append(i)
    for rows in batches:
        model.eval()
        columns = [[torch.tensor(sequences[i][part], dtype=torch.long) for i in rows] for part in (0, 1)]
        ids, labels = (
            pad_sequence(column, batch_first=True, padding_value=value).to(model.device)
            for column, value in zip(columns, (0, IGNORE), strict=True)
        )
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
            for row, own, targets in zip(rows, logits[:, :-1], labels[:, 1:], strict=True):
                # A slice at a time in float32: of 4,096 tokens and 152,000 words all are 2.5 GB, and the loss wants
                # them twice.
                for part, target in zip(own.split(SLICE), targets.split(SLICE), strict=True):
                    losses = cross_entropy(part.float(), target, ignore_index=IGNORE, reduction="none")
                    sums[row] -= losses.double().sum().item()
    return sums


def label_count(labels: list[int]) -> int:
    """Tokens that count in `sequence_logprobs`."""
    return int(sum(label != IGNORE for label in labels[1:]))


def labelled(prompt: list[int], answer: list[int]) -> tuple[list[int], list[int]]:
    """(ids, labels) with loss on the answer alone."""
    return prompt + answer, [IGNORE] * len(prompt) + answer


def documents(texts: list[str], tokenizer: Any, max_length: int) -> list[tuple[list[int], list[int]]]:
    """Texts as (ids, labels): what the tokenizer begins a text with, text, EOS, cut to `max_length` tokens, every token
    but the first predicted."""
    # A tokenizer takes no empty list.
    encoded = tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"] if texts else []
    begin, end = text_begin(tokenizer), tokenizer.eos_token_id
    cut = [[*begin, *ids, end][:max_length] for ids in encoded]
    return [(ids, list(ids)) for ids in cut]
