from __future__ import annotations

import math
import random
from typing import Any

import pytest

from qilin_lib.errors import QilinError
from qilin_lib.evaluate.backends import TransformersBackend, single_token


def prompts(n: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(5)
    return [[rng.randrange(2, 640) for _ in range(rng.randrange(1, longest))] for _ in range(n)]


@pytest.fixture
def make(tiny_llama: Any, tokenizer: Any, template: Any) -> Any:
    model = tiny_llama()
    return lambda batch_size: TransformersBackend(model, tokenizer, template, batch_size, "cpu")


def test_generation_does_not_depend_on_the_batch(make: Any):
    asked = prompts(16)
    one, seven = make(1).generate(asked, 20), make(7).generate(asked, 20)
    assert one == seven and len(set(one)) > 8


def test_padding_stands_left_is_masked_and_takes_no_position(make: Any):
    # Rotary positions are relative, so a shift would not show in this model's answers; it would in learned positions.
    inputs = make(2)._padded([[7, 8, 9], [5]])
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert inputs["input_ids"][1, -1] == 5 and inputs["position_ids"][:, -1].tolist() == [2, 0]


def test_generation_is_what_a_cacheless_loop_gives_and_stops_at_the_end_token(make: Any, tokenizer: Any):
    import torch

    backend, asked = make(3), prompts(5)
    backend.stop_ids = {backend.model(torch.tensor([asked[2]])).logits[0, -1].argmax().item()}
    expected = []
    for ids in asked:
        written = list(ids)
        for _ in range(12):
            token = backend.model(torch.tensor([written])).logits[0, -1].argmax().item()
            if token in backend.stop_ids:
                break
            written.append(token)
        expected.append(tokenizer.decode(written[len(ids) :]))
    assert backend.generate(asked, 12) == expected and expected[2] == ""


def test_choices_do_not_depend_on_the_batch_and_equal_the_softmax(make: Any, tokenizer: Any):
    import torch

    asked, letters = prompts(16), list("ABCD")
    one, seven = make(1).choice_logprobs(asked, letters), make(7).choice_logprobs(asked, letters)
    for ids, a, b in zip(asked, one, seven, strict=True):
        exact = make(1).model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        for letter in letters:
            assert math.isclose(a[letter], b[letter], abs_tol=1e-4)
            assert math.isclose(a[letter], exact[tokenizer.encode(letter)[0]].item(), abs_tol=1e-4)


def test_a_choice_of_two_tokens_is_refused(make: Any, tokenizer: Any):
    with pytest.raises(QilinError, match="'AB' after '答案：' is 2 tokens"):
        make(1).choice_logprobs([[5]], ["AB"], "答案：")
    assert single_token(tokenizer, "答案：", "A") == tokenizer.encode("A")[0]


def test_a_choice_that_melts_into_the_prefix_is_refused():
    class Merging:
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            return {"答案：": [1, 2], "答案：A": [1, 3, 4]}[text]

    with pytest.raises(QilinError, match="needs one"):
        single_token(Merging(), "答案：", "A")


def test_a_prompt_beyond_the_context_is_refused(make: Any):
    with pytest.raises(QilinError, match="prompt 0 has 510 tokens"):
        make(1).generate([[5] * 510], 10)


def test_progress_counts_every_prompt_once(make: Any):
    seen: list[int] = []
    make(4).choice_logprobs(prompts(10), ["A"], progress=seen.append)
    assert seen == [4, 4, 2]


def test_the_fingerprint_tells_models_apart(make: Any, tiny_llama: Any, tokenizer: Any, template: Any):
    other = TransformersBackend(tiny_llama(1), tokenizer, template, 1, "cpu")
    assert make(1).fingerprint() == make(2).fingerprint() != other.fingerprint()
