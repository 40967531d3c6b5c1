"""Causal attention inside every document of packed rows, at the price of plain causal attention.

transformers isolates packed documents with a mask of (tokens, tokens) a row, and with a mask torch's
`scaled_dot_product_attention` computes all pairs of a row and discards most. Here a row is cut where a document begins,
and each document is a causal sequence of its own: the same numbers, and a row of many documents costs less than one.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any

NAME = "documents"


def register() -> None:
    """Make "documents" a value of transformers' `attn_implementation` in this process.

    For training on batches whose positions restart at every document, and nothing else: a batch with an attention mask,
    a cache that already holds tokens (generation), sliding windows or layers that pass no positions raise ValueError.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, document_attention)
    AttentionMaskInterface.register(NAME, no_mask)


def no_mask(*_: Any, attention_mask: Any = None, local_size: Any = None, use_vmap: bool = False, **__: Any) -> None:
    """The mask of `document_attention`: none. ValueError if one would be needed (padding, windows, own mask functions).

    With an attention mask transformers ignores position ids that restart, so documents would see each other.
    """
    if attention_mask is not None or local_size is not None or use_vmap:
        raise ValueError(
            f'attention "{NAME}" reads where documents begin from position_ids and takes no attention mask, sliding '
            'window or mask function: load the model with attention="sdpa" for that'
        )


def document_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, position_ids: Any = None, **kwargs: Any
) -> tuple[Any, None]:
    """Attention as transformers asks for it: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out.

    Documents of one length that follow each other are one call; rows of one document each are plain causal attention.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if attention_mask is not None or position_ids is None or key.shape[2] != query.shape[2]:
        raise ValueError(
            f'attention "{NAME}" needs position_ids, keys of the same tokens as the queries and no mask: load the '
            'model with attention="sdpa" for anything but training on packed rows'
        )
    rows, _, tokens, _ = query.shape
    # Written in place the ids are another key: the cache must not answer for what they were.
    documents = runs(position_ids, rows, position_ids._version)
    if documents == ((rows, tokens),):
        return sdpa_attention_forward(module, query, key, value, None, **kwargs)
    # All rows as one stream. `split` and not slices: its gradient is one concatenation, a slice's is a whole stream.
    sizes = [count * length for count, length in documents]
    streams = [states.transpose(1, 2).flatten(0, 1).split(sizes) for states in (query, key, value)]
    parts = []
    for (count, length), *states in zip(documents, *streams, strict=True):
        cut = (part.unflatten(0, (count, length)).transpose(1, 2) for part in states)
        output, _ = sdpa_attention_forward(module, *cut, None, **kwargs)
        parts.append(output.flatten(0, 1))
    return torch.cat(parts).unflatten(0, (rows, tokens)), None


# The layers of a model, and their second pass under gradient checkpointing, ask with the same tensor: one copy from the
# device a batch instead of one a layer.
@lru_cache(maxsize=1)
def runs(position_ids: Any, rows: int, version: int) -> tuple[tuple[int, int], ...]:
    """(count, length) of neighbouring documents of equal length, through all rows; `position_ids`: (rows or 1, tokens).

    A document ends where the next position is not one more, which is transformers' own rule, and at a row's end.
    """
    import torch

    begins = torch.ones(rows, position_ids.shape[1], dtype=torch.bool, device=position_ids.device)
    begins[:, 1:] = position_ids.diff(dim=-1) != 1
    places = begins.flatten().nonzero().flatten()
    lengths = places.diff(append=places.new_tensor([begins.numel()])).tolist()
    return tuple((len(list(same)), length) for length, same in groupby(lengths))
