"""Seeded sampling: one answer to each prompt, drawn from the model at a temperature, cut to a nucleus.

A draw is the argmax of log p plus Gumbel noise, which is a sample of p; the noise of a prompt comes from a generator of
its own, seeded by seed and key. So up to rounding an answer is the same in any batch, whenever it is drawn again.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError
from qilin_lib.models import decode


def sample(
    model: Any, tokenizer: Any, prompts: list[list[int]], keys: list[str], *, temperature: float, top_p: float,
    max_new_tokens: int, seed: int, batch_size: int,
) -> list[list[int]]:  # fmt: skip
    """One draw per prompt: at most `max_new_tokens` ids, without the end token. K draws of a prompt are K keys. The
    model's own generation_config is set aside. QilinError for a prompt longer than the context allows, and for logits
    that are no numbers."""
    context = getattr(model.config, "max_position_embeddings", None)
    for key, prompt in zip(keys, prompts, strict=True):
        if context and len(prompt) + max_new_tokens > context:
            raise QilinError(
                f"prompt {key} has {len(prompt)} tokens; the model's context of {context} takes "
                f"{context - max_new_tokens} beside {max_new_tokens} new ones"
            )
    sources = [generator(seed, key) for key in keys]

    def choose(logits: Any, places: list[int]) -> list[int]:
        noise = gumbel([sources[place] for place in places], logits.shape[-1], logits.device)
        return draw(logits, noise, temperature, top_p).tolist()

    return decode.in_batches(model, prompts, {tokenizer.eos_token_id}, max_new_tokens, choose, batch_size)


def generator(seed: int, key: str) -> np.random.Generator:
    """The source of one prompt's noise; numpy's, for a GPU's would be another than a CPU's."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest(), "big"))


def gumbel(sources: list[np.random.Generator], size: int, device: Any) -> Any:
    """Standard Gumbel numbers, the next `size` of each source, (sources, size); float64, for float32 uniforms end at
    2^-24, and tokens rarer than that with them."""
    import torch

    uniform = torch.from_numpy(np.stack([source.random(size) for source in sources]))
    return -torch.log(-torch.log(uniform.to(device)))


def draw(logits: Any, noise: Any, temperature: float, top_p: float) -> Any:
    """The token of each row of `logits`, (rows,): argmax of log p plus `noise` inside the nucleus (transformers')."""
    from transformers import TopPLogitsWarper

    logp = TopPLogitsWarper(top_p)(None, logits.double() / temperature).log_softmax(-1)
    tokens = (logp + noise).argmax(-1, keepdim=True)
    if not logp.gather(-1, tokens).isfinite().all():
        raise QilinError("the model's logits are not finite numbers (NaN or infinity): its weights are broken")
    return tokens[:, 0]
