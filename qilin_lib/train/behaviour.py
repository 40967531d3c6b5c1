"""How a model answers: greedy answers to held-out prompts, their lengths, and how much they repeat themselves."""

from __future__ import annotations

from typing import Any

from qilin_lib.models import decode


def greedy(
    model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, batch_size: int = 8
) -> list[list[int]]:
    """The greedy continuation of each prompt as token ids, without the end token; at most `max_new_tokens`. The model's
    own generation_config plays no part: Baichuan's has a repetition penalty."""
    stops = {tokenizer.eos_token_id}
    likeliest = lambda logits, _: logits.argmax(-1).tolist()  # noqa: E731
    return decode.in_batches(model, prompts, stops, max_new_tokens, likeliest, batch_size)


def repetition(text: str, n: int = 4) -> float:
    """Share of character n-grams that occurred earlier in the text: seq-rep-n of Welleck et al. 2020 (arXiv
    1908.04319), on characters; 0 for a text below n."""
    grams = [text[i : i + n] for i in range(len(text) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def answers(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> dict[str, list[Any]]:
    """{texts, tokens, cut, repetition}, one entry a prompt; cut = no end token within `max_new_tokens`."""
    written = greedy(model, tokenizer, prompts, max_new_tokens)
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
    return {
        "texts": texts,
        "tokens": [len(ids) for ids in written],
        "cut": [len(ids) == max_new_tokens for ids in written],
        "repetition": [round(repetition(text), 4) for text in texts],
    }
