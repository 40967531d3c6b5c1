"""One decoding loop, for the greedy answers of an evaluation and for seeded samples: they differ in who chooses."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from qilin_lib.tokens.bins import batches

Choose = Callable[[Any, dict[int, list[int]]], list[int]]
"""choose(logits, {row: its tokens so far}): the next token of each row; logits (rows, vocabulary) in float32."""


def takes_positions(model: Any) -> bool:
    """Whether the model's forward can be told where each token stands."""
    return "position_ids" in inspect.signature(model.forward).parameters


def in_batches(
    model: Any,
    prompts: list[list[int]],
    stop_ids: set[int],
    max_new_tokens: int,
    choose: Callable[[Any, list[int]], list[int]],
    batch_size: int,
) -> list[list[int]]:
    """`write` for any number of prompts, the longest first; choose(logits, places of the rows among `prompts`). For no
    prompt no model is needed."""
    written: dict[int, list[int]] = {}
    order = sorted(range(len(prompts)), key=lambda place: -len(prompts[place]))
    for places in batches(order, batch_size):
        some = [prompts[place] for place in places]
        here = lambda logits, rows, places=places: choose(logits, [places[row] for row in rows])  # noqa: E731
        written |= zip(places, write(model.eval(), some, stop_ids, max_new_tokens, here), strict=True)
    return [written[place] for place in range(len(prompts))]


def write(
    model: Any,
    prompts: list[list[int]],
    stop_ids: set[int],
    max_new_tokens: int,
    choose: Choose,
    prefix: Sequence[int] = (),
    cache: Any = None,
) -> list[list[int]]:
    """Continue one batch until each row has met one of `stop_ids` (left out); a row that has leaves the batch.

    `cache` holds keys and values of `prefix`, which all `prompts` begin with, in every row. transformers' generate()
    would mix in the model's own generation_config (repetition penalty, minimum length).
    """
    import torch

    device, rest = next(model.parameters()).device, [prompt[len(prefix) :] for prompt in prompts]
    # Padded on the left, whatever side the tokenizer pads.
    gaps = [max(map(len, rest)) - len(one) for one in rest]
    ids = torch.tensor([[0] * gap + one for gap, one in zip(gaps, rest, strict=True)], device=device)
    mask = torch.tensor([[0] * gap + [1] * len(one) for gap, one in zip(gaps, rest, strict=True)], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0) + len(prefix)
    mask = torch.cat([mask.new_ones(len(prompts), len(prefix)), mask], dim=1)
    places = takes_positions(model)
    written: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))
    for _ in range(max_new_tokens):
        place = {"position_ids": positions} if places else {}
        with torch.inference_mode():
            out = model(
                input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1, **place
            )
            chosen = choose(out.logits[:, -1].float(), {row: prompts[row] + written[row] for row in rows})
        going = [at for at, token in enumerate(chosen) if token not in stop_ids]
        rows, chosen = [rows[at] for at in going], [chosen[at] for at in going]
        for row, token in zip(rows, chosen, strict=True):
            written[row].append(token)
        if not rows:
            break
        cache, positions = out.past_key_values, positions[:, -1:] + 1
        if len(going) < len(mask):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
        mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        ids = torch.tensor(chosen, device=device)[:, None]
    return written


def alone(model: Any, tokens: list[int]) -> Any:
    """Logits after `tokens` in a batch of their own: (1, vocabulary). What a close call in a batch is settled by."""
    import torch

    ids = torch.tensor([tokens], device=next(model.parameters()).device)
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1]
