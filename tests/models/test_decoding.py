"""The decoding loop against the same model read without batch, padding and cache."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import families

from qilin_lib.models import decode

PROMPTS = [[9, 10, 11], [9, 10, 300, 301, 302, 303, 40], [9, 10], [9, 10, *range(20, 40)]]


@pytest.fixture(scope="module")
def model(tiny_shape: Any, tiny_tokenizer: Any) -> Any:
    return families.wide_weights(tiny_shape, tiny_tokenizer)


def likeliest(logits: Any, _: dict[int, list[int]]) -> list[int]:
    return logits.argmax(-1).tolist()


def one_by_one(model: Any, prompt: list[int], stop_ids: set[int], limit: int) -> list[int]:
    written: list[int] = []
    while len(written) < limit:
        token = int(decode.alone(model, prompt + written).argmax())
        if token in stop_ids:
            break
        written.append(token)
    return written


def test_a_batch_writes_what_each_prompt_writes_alone(model: Any) -> None:
    """Prompts of other lengths, some of which meet the stop token early and leave the batch."""
    free = [one_by_one(model, prompt, set(), 12) for prompt in PROMPTS]
    assert decode.write(model, PROMPTS, set(), 12, likeliest) == free
    # Any token will do that ends some rows and not all of them: the batch shrinks, and goes on.
    stop = next(token for ids in free for token in ids if 0 < sum(token in other for other in free) < len(free))
    expected = [one_by_one(model, prompt, {stop}, 12) for prompt in PROMPTS]
    assert 12 in map(len, expected) and min(map(len, expected)) < 12
    assert decode.write(model, PROMPTS, {stop}, 12, likeliest) == expected
    chosen = decode.in_batches(model, PROMPTS, {stop}, 12, likeliest, batch_size=2)
    assert chosen == expected and decode.in_batches(None, [], {stop}, 12, likeliest, 2) == []


def test_a_prefix_that_was_read_before(model: Any) -> None:
    """The cache of the common tokens in every row: the same text as without it."""
    import torch

    with torch.inference_mode():
        cache = model(input_ids=torch.tensor([[9, 10]] * 2), use_cache=True).past_key_values
    found = decode.write(model, PROMPTS[:2], set(), 10, likeliest, [9, 10], cache)
    assert found == [one_by_one(model, prompt, set(), 10) for prompt in PROMPTS[:2]]


def test_the_chooser_is_told_each_rows_tokens(model: Any) -> None:
    """By the row's place among the prompts, also after other rows have left."""
    seen: list[dict[int, list[int]]] = []

    def choose(logits: Any, contexts: dict[int, list[int]]) -> list[int]:
        seen.append({row: list(tokens) for row, tokens in contexts.items()})
        assert len(logits) == len(contexts)
        return [1 if len(tokens) == 4 else 50 + row for row, tokens in contexts.items()]

    assert decode.write(model, PROMPTS[:3], {1}, 3, choose) == [[50], [51, 51, 51], [52, 52]]
    second = {0: [9, 10, 11, 50], 1: [*PROMPTS[1], 51], 2: [9, 10, 52]}
    assert seen == [dict(enumerate(PROMPTS[:3])), second, {1: [*PROMPTS[1], 51, 51], 2: [9, 10, 52, 52]}]
