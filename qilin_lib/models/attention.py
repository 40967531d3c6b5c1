"""Causal attention inside every document of packed rows, at the price of plain causal attention.

transformers isolates packed documents with a mask of (tokens, tokens) a row, and with a mask torch's
`scaled_dot_product_attention` computes all pairs of a row and discards most. Here a row is cut where a document begins,
and each document is a causal sequence of its own: the same numbers, and a row of many documents costs less than one.
"varlen" gives all documents to one kernel of torch's, on a GPU in half precision; "documents" calls one per document.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
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

    AttentionInterface.register(NAME, document_attention)
    AttentionInterface.register(KERNEL, partial(document_attention, one_kernel=True))
    for name in (NAME, KERNEL):
        AttentionMaskInterface.register(name, window_mask)


def isolate(model: Any, parameters: Any) -> None:
    """Set how `model` keeps the documents of a packed row apart: of the ways that `attn_implementation` allows the
    first that gives each document the numbers it has alone. Called before training, on the device.

    QilinError if there is none: a model that takes no positions, or whose layers carry a state along the row.
    """
    import torch

    register()
    own, wanted, was_training = model.config._attn_implementation, parameters.attn_implementation, model.training
    on_gpu, why = model.device.type == "cuda", "sdpa would leave out the soft caps or sinks of its layers"
    ways = [own] if wanted != NAME else []
    if wanted in ("auto", NAME) and model._supports_sdpa:
        # Else the layers have caps or sinks that these kernels would leave out.
        ways = [KERNEL, NAME, *ways] if on_gpu and wanted == "auto" else [NAME, *ways]
    elif wanted in ("auto", NAME) and on_gpu:
        ways = ["flash_attention_2", *ways]
    texts = torch.arange(12, device=model.device).view(2, 6) * 7 % model.config.get_text_config().vocab_size
    rows, places = torch.cat([texts, texts.flip(0)], dim=1), torch.arange(6, device=model.device).repeat(2, 2)
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=parameters.dtype == "bfloat16"):
        alone = model.eval()(input_ids=texts, use_cache=False).logits
        expected = torch.cat([alone, alone.flip(0)], dim=1)
        leak = (model(input_ids=rows, use_cache=False).logits - expected).float().norm()
        for name in ways:
            try:
                model.set_attn_implementation(name)
                batch = in_one_row(model, dict)({"input_ids": rows, "position_ids": places, "labels": rows})
                del batch["labels"]
                apart = model(**batch, use_cache=False).logits.reshape(expected.shape)
            # Whatever a kernel or a model says that does not know this way.
            except Exception as reason:
                why = sentence(reason)
                continue
            # Weights with NaN are no matter of attention: training's own check names them.
            if (apart - expected).float().norm() <= LEAK * leak or leak.isnan():
                model.train(was_training)
                return
            why = "neighbours show in the logits"
    model.set_attn_implementation(own)
    raise QilinError(
        f"{parameters.notebook}: attn_implementation: {wanted}: a {model.config.model_type} does not keep the "
        f"documents of a packed row apart that way ({why}); nearest valid: packing: false (04_sft), packing: naive "
        "(02_tokenize), or attn_implementation: auto"
    )


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
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    position_ids: Any = None,
    one_kernel: bool = False,
    **kwargs: Any,
) -> tuple[Any, None]:
    """Attention as transformers asks for it: (rows, heads, tokens, width) in, (rows, tokens, heads, width) out.

    Rows of one document each are plain causal attention. A layer with a window may have `window_mask`'s mask. With
    `one_kernel` torch's kernel for sequences of several lengths: one call a layer, half precision.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    (rows, _, tokens, _), masked = query.shape, attention_mask is not None
    if position_ids is None or key.shape[2] != tokens or (masked and kwargs.get("sliding_window") is None):
        raise ValueError(f"{ONLY}; it needs position_ids and keys of the same tokens as the queries")
    # Written in place the ids are another key: the cache must not answer for what they were.
    lengths = lengths_of(position_ids, rows, position_ids._version)
    if masked or len(lengths) == rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # All rows as one stream.
    streams = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    if one_kernel and not kwargs.get("dropout"):
        from torch.nn.attention.varlen import varlen_attn
        from transformers.integrations.flash_attention import get_target_dtype

        # Norms in float32 leave queries in float32 too, where sdpa would be cast by autocast.
        streams = [stream.to(get_target_dtype(query, module) or query.dtype) for stream in streams]
        ends, most = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=query.device), max(lengths)
        how = {"scale": kwargs.get("scaling"), "window_size": (-1, 0), "enable_gqa": True}
        return varlen_attn(*streams, ends, ends, most, most, **how).unflatten(0, (rows, tokens)), None
    parts = []
    # `split` and not slices: its gradient is one concatenation, a slice's is a whole stream.
    for document in zip(*(stream.split(lengths) for stream in streams), strict=True):
        states = (part[None].transpose(1, 2) for part in document)
        parts.append(sdpa_attention_forward(module, *states, None, **kwargs)[0][0])
    return torch.cat(parts).unflatten(0, (rows, tokens)), None


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
