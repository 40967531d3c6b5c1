"""Seeded sampling: one answer to each prompt, drawn from the model at a temperature, cut to a nucleus.

A draw is the argmax of log p plus Gumbel noise, which is a sample of p (Gumbel-max); the noise of a prompt comes from a
generator of its own, seeded by seed and key. So nobody's answer depends on who else is in the batch, and an answer that
is asked for again is the same one.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from qilin_lib.errors import QilinError
from qilin_lib.models import decode

TIE = 1e-4
"""A gap between two scores, relative to the largest, that float32 arithmetic in another batch could turn round."""


def sample(
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    keys: list[str],
    *,
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
) -> list[list[int]]:
    """One draw a prompt: at most `max_new_tokens` ids, without the end token. K draws of a prompt are K keys.

    In float32 on a CPU the draw depends on the model, `seed`, the prompt's key and its tokens alone; in other
    precisions also on the batch, through rounding. The nucleus is what transformers' TopPLogitsWarper keeps after the
    temperature (tokens as likely as its last one stay in too). The model's own generation_config is set aside; the
    tokenizer's end token ends an answer. QilinError for a prompt that is empty or longer than the context allows, for a
    temperature or top_p out of range, for as many keys as there are not prompts, and for logits that are no numbers.
    """
    _check(model, prompts, keys, temperature, top_p, max_new_tokens)
    model.eval()
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    answers: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        choose = _chooser(model, [generator(seed, keys[place]) for place in places], temperature, top_p)
        asked = [prompts[place] for place in places]
        written = decode.write(model, asked, {tokenizer.eos_token_id}, max_new_tokens, choose)
        for place, ids in zip(places, written, strict=True):
            answers[place] = ids
    return answers


def generator(seed: int, key: str) -> np.random.Generator:
    """The source of one prompt's noise. numpy's takes the whole hash as its seed, torch's on a CPU 32 bits of it; and a
    GPU's noise would be another than a CPU's."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest(), "big"))


def gumbel(sources: list[np.random.Generator], size: int, device: Any) -> Any:
    """Standard Gumbel numbers, the next `size` of each source, (sources, size) in float64: float32 uniforms end at
    2^-24, and tokens rarer than that with them. A uniform of 0 gives minus infinity, which is never drawn."""
    import torch

    uniform = torch.from_numpy(np.stack([source.random(size) for source in sources]))
    return -torch.log(-torch.log(uniform.to(device)))


def draw(logits: Any, noise: Any, temperature: float, top_p: float, slack: Any) -> tuple[Any, Any]:
    """(tokens, sure) of each row of `logits`, both (rows,): argmax of log p plus `noise` inside the nucleus.

    `slack` (rows, 1): how far off a log-probability may be, in nats; `sure` says that no such error would change the
    token. With 0 the draw is exact. QilinError for logits that are no numbers.
    """
    import torch

    logp = (logits.double() / temperature).log_softmax(-1)
    p, noisy = logp.exp(), logp + noise
    while True:
        best, tokens = noisy.topk(2)
        if not torch.isfinite(best[:, 0]).all():
            raise QilinError("the model's logits are not finite numbers (NaN or infinity): its weights are broken")
        own = logp.gather(-1, tokens[:, :1])
        # What is surely likelier than the token fills the nucleus already: out goes the token, and what is less likely
        # still. A few rounds of this cost less than to sort the vocabulary.
        outside = (p * (logp > own + 2 * slack)).sum(-1, keepdim=True) >= top_p + slack
        if top_p >= 1 or not outside.any():
            break
        noisy = noisy.masked_fill(outside & (logp <= own), float("-inf"))
    # Two scores may be off in opposite directions.
    sure = best[:, 0] - best[:, 1] >= 2 * slack[:, 0]
    if top_p < 1:
        rivals = (logp >= own - 2 * slack).scatter(-1, tokens[:, :1], False)
        sure &= ((p * rivals).sum(-1) < top_p - slack[:, 0]) | ~rivals.any(-1)
    return tokens[:, 0], sure


def _chooser(model: Any, sources: list[np.random.Generator], temperature: float, top_p: float) -> decode.Choose:
    """What draws the next token of each row; in float32 a close call is settled by reading the row alone."""
    import torch

    def choose(logits: Any, contexts: dict[int, list[int]]) -> list[int]:
        noise = gumbel([sources[row] for row in contexts], logits.shape[-1], logits.device)
        exact = torch.zeros(len(logits), 1, dtype=torch.float64, device=logits.device)
        if model.dtype != torch.float32:
            return draw(logits, noise, temperature, top_p, exact)[0].tolist()
        slack = TIE * logits.double().abs().amax(-1, keepdim=True) / temperature
        tokens, sure = draw(logits, noise, temperature, top_p, slack)
        chosen = tokens.tolist()
        for place, (settled, context) in enumerate(zip(sure.tolist(), contexts.values(), strict=True)):
            if not settled:
                alone = decode.alone(model, context)
                chosen[place] = draw(alone, noise[place : place + 1], temperature, top_p, exact[:1])[0].item()
        return chosen

    return choose


def _check(
    model: Any, prompts: list[list[int]], keys: list[str], temperature: float, top_p: float, new_tokens: int
) -> None:
    if len(keys) != len(prompts):
        raise QilinError(f"keys: {len(keys)} for {len(prompts)} prompts; nearest valid: one a prompt")
    if not temperature > 0:
        raise QilinError(f"temperature: {temperature} is no temperature to sample at; nearest valid: 0.01")
    if not 0 < top_p <= 1:
        raise QilinError(f"top_p: {top_p} is no share of probability; nearest valid: {1.0 if top_p > 1 else 0.01}")
    context = getattr(model.config, "max_position_embeddings", None)
    for key, prompt in zip(keys, prompts, strict=True):
        if not prompt:
            raise QilinError(f"prompt {key} has no token; nearest valid: 1")
        if context and len(prompt) + new_tokens > context:
            raise QilinError(
                f"prompt {key} has {len(prompt)} tokens; the model's context of {context} takes {context - new_tokens} "
                f"beside {new_tokens} new ones"
            )
