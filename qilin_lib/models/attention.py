"""Causal attention inside every document of packed rows, at the price of plain causal attention.

transformers isolates packed documents with a mask of (tokens, tokens) a row, and with a mask torch's
`scaled_dot_product_attention` computes all pairs of a row and discards most. Here a row is cut where a document begins,
and each document is a causal sequence of its own: the same numbers, and a row of many documents costs less than one.
"varlen" gives all documents to one kernel of torch's, on a GPU in half precision; "documents" calls one per document.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import accumulate
from typing import Any

from qilin_lib.errors import QilinError, sentence

NAME = "documents"
KERNEL = "varlen"
# Of what neighbours change in the logits this much may be left: rounding of another kernel, but no leak.
LEAK = 0.1
ONLY = f'attention "{NAME}" is for training on packed rows: load the model with attention="sdpa" for anything else'


def register() -> None:
    """Make "documents" and "varlen" values of transformers' `attn_implementation` in this process. For training on
    batches whose positions restart at every document: an attention mask or a filled cache raises ValueError."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name, function in ((NAME, document_attention), (KERNEL, varlen_attention)):
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, window_mask)


def isolate(model: Any, parameters: Any) -> None:
    """Set how `model` keeps the documents of a packed row apart: of the ways that `attn_implementation` allows the
    first that gives each document the numbers it has alone. Called before training, on the device.

    QilinError if there is none: a model that takes no positions, or whose layers carry a state along the row.
    """
    import torch

    register()
    own, was_training = model.config._attn_implementation, model.training
    why = "sdpa would leave out the soft caps or sinks of its layers"
    vocabulary = model.config.get_text_config().vocab_size
    texts = torch.arange(12, device=model.device).view(2, 6) * 7 % vocabulary
    rows = torch.cat([texts, texts.flip(0)], dim=1)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=parameters.dtype == "bfloat16"):
        alone = model.eval()(input_ids=texts, use_cache=False).logits
        expected = torch.cat([alone, alone.flip(0)], dim=1)
        leak = (model(input_ids=rows, use_cache=False).logits - expected).float().norm()
        for name in _candidates(model, parameters.attn_implementation):
            try:
                model.set_attn_implementation(name)
                distance = (_apart(model, rows) - expected).float().norm()
            # Whatever a kernel or a model says that does not know this way.
            except Exception as reason:
                why = sentence(reason)
                continue
            # Weights with NaN are no matter of attention: training's own check names them.
            if distance <= LEAK * leak or leak.isnan():
                model.train(was_training)
                return
            why = "neighbours show in the logits"
    model.set_attn_implementation(own)
    raise QilinError(
        f"{parameters.notebook}: attn_implementation: {parameters.attn_implementation}: a {model.config.model_type} "
        f"does not keep the documents of a packed row apart that way ({why}); nearest valid: packing: false (04_sft), "
        "packing: naive (02_tokenize), or attn_implementation: auto"
    )


def _apart(model: Any, rows: Any) -> Any:
    """Logits (rows, tokens, vocabulary) of rows of two equally long documents, as training passes them."""
    import torch

    places = torch.arange(rows.shape[1] // 2, device=rows.device).repeat(len(rows), 2)
    batch = in_one_row(model, dict)({"input_ids": rows, "position_ids": places, "labels": rows})
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    return logits.reshape(*rows.shape, -1)


def loadable(name: str) -> str | None:
    """What `load_model` takes for the parameter `attn_implementation`: transformers' own choice until `isolate`."""
    return None if name in ("auto", NAME) else name


def in_one_row(model: Any, collate: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """`collate`, its rows one after the other in a single one where the model's kernel is flash attention: of several
    rows transformers gives it none of the places where documents begin."""
    return (lambda rows: joined(collate(rows))) if "flash" in model.config._attn_implementation else collate


def joined(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of rows as a single row; the first token of each row gets no loss, as in a row of its own."""
    batch = {name: part.reshape(1, -1) if part.ndim == 2 else part for name, part in batch.items()}
    return batch | {"labels": batch["labels"].masked_fill(batch["position_ids"] == 0, -100)}


def _candidates(model: Any, wanted: str) -> Iterator[str]:
    """Ways to try: torch's one kernel, a kernel per document, flash attention (soft caps), transformers' own."""
    on_gpu = model.device.type == "cuda"
    if wanted in ("auto", NAME):
        # Else the layers have caps or sinks that this kernel would leave out.
        if model._supports_sdpa:
            yield from (KERNEL, NAME) if on_gpu and wanted == "auto" else (NAME,)
        elif on_gpu:
            yield "flash_attention_2"
    if wanted != NAME:
        yield model.config._attn_implementation


def window_mask(
    *_: Any, q_length: int, attention_mask: Any = None, local_size: Any = None, use_vmap: bool = False, **others: Any
) -> Any:
    """No mask, but where a window (tokens) is shorter than a row: transformers' own for sdpa, of window and documents.

    ValueError for what knows no documents: with an attention mask transformers ignores position ids that restart.
    """
    from transformers.masking_utils import sdpa_mask

    if attention_mask is not None or use_vmap:
        raise ValueError(f"{ONLY}; it takes no attention mask and no mask function")
    if local_size is None or local_size >= q_length:
        return None
    return sdpa_mask(*_, q_length=q_length, attention_mask=None, local_size=local_size, **others)


def document_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, position_ids: Any = None, **kwargs: Any
) -> tuple[Any, None]:
    """Attention as transformers asks for it: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out.

    Rows of one document each are plain causal attention. A layer with a window may have `window_mask`'s mask.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    lengths = _documents(query, key, attention_mask, position_ids, kwargs)
    rows, _, tokens, _ = query.shape
    if attention_mask is not None or len(lengths) == rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # All rows as one stream. `split` and not slices: its gradient is one concatenation, a slice's is a whole stream.
    streams = [states.transpose(1, 2).flatten(0, 1).split(lengths) for states in (query, key, value)]
    parts = []
    for document in zip(*streams, strict=True):
        states = (part[None].transpose(1, 2) for part in document)
        parts.append(sdpa_attention_forward(module, *states, None, **kwargs)[0][0])
    return torch.cat(parts).unflatten(0, (rows, tokens)), None


def varlen_attention(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, position_ids: Any = None, **kwargs: Any
) -> tuple[Any, None]:
    """`document_attention` by torch's kernel for sequences of several lengths: one call a layer, half precision."""
    import torch
    from torch.nn.attention.varlen import varlen_attn
    from transformers.integrations.flash_attention import get_target_dtype

    lengths = _documents(query, key, attention_mask, position_ids, kwargs)
    if attention_mask is not None or kwargs.get("dropout") or len(lengths) == len(query):
        return document_attention(module, query, key, value, attention_mask, position_ids, **kwargs)
    # Norms in float32 leave queries in float32 too, where sdpa would be cast by autocast.
    dtype = get_target_dtype(query, module) or query.dtype
    streams = [states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value)]
    ends, longest = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=query.device), max(lengths)
    output = varlen_attn(
        *streams, ends, ends, longest, longest, scale=kwargs.get("scaling"), window_size=(-1, 0), enable_gqa=True
    )
    return output.unflatten(0, (len(query), -1)), None


def _documents(query: Any, key: Any, mask: Any, position_ids: Any, kwargs: dict[str, Any]) -> list[int]:
    """`lengths_of` of a layer's rows; ValueError unless it passes what they are read from."""
    own_mask = mask is not None and kwargs.get("sliding_window") is None
    if own_mask or position_ids is None or key.shape[2] != query.shape[2]:
        raise ValueError(f"{ONLY}; it needs position_ids and keys of the same tokens as the queries")
    # Written in place the ids are another key: the cache must not answer for what they were.
    return lengths_of(position_ids, len(query), position_ids._version)


# The layers of a model, and their second pass under gradient checkpointing, ask with the same tensor: one copy from the
# device a batch instead of one a layer.
@lru_cache(maxsize=1)
def lengths_of(position_ids: Any, rows: int, version: int) -> list[int]:
    """Tokens of each document, through all rows; `position_ids`: (rows or 1, tokens).

    A document ends where the next position is not one more, which is transformers' own rule, and at a row's end.
    """
    import torch

    begins = torch.ones(rows, position_ids.shape[1], dtype=torch.bool, device=position_ids.device)
    begins[:, 1:] = position_ids.diff(dim=-1) != 1
    places = begins.flatten().nonzero().flatten()
    return places.diff(append=places.new_tensor([begins.numel()])).tolist()
