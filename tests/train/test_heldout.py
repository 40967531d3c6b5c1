"""Held-out likelihoods: the batched sum is the sum over each sequence alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.trainings import token_logprobs

from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import IGNORE
from qilin_lib.train import behaviour
from qilin_lib.train.heldout import documents, label_count, sequence_logprobs

Sequence = tuple[list[int], list[int]]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir)


@pytest.fixture(scope="module")
def sequences() -> list[Sequence]:
    """Thirteen sequences of 1 to 40 tokens with labels here and there, ids 0 (the padding's) among them."""
    draw = random.Random(4)
    made = []
    for length in (1, 40, *(draw.randint(2, 39) for _ in range(11))):
        ids = [draw.randint(0, 399) for _ in range(length)]
        made.append((ids, [token if draw.random() < 0.6 else IGNORE for token in ids]))
    return made


def naive(model: Any, sequence: Sequence) -> float:
    ids, labels = sequence
    found = token_logprobs(model.eval(), ids).tolist() if len(ids) > 1 else []
    return sum(value for value, label in zip(found, labels[1:], strict=True) if label != IGNORE)


def test_equals_a_loop_over_sequences(model: Any, sequences: list[Sequence]) -> None:
    expected = [naive(model, sequence) for sequence in sequences]
    assert sequence_logprobs(model, sequences) == pytest.approx(expected, abs=1e-4)
    assert expected[0] == 0 and min(expected) < -10


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_does_not_depend_on_batch_size_or_order(size: int, model: Any, sequences: list[Sequence]) -> None:
    usual = sequence_logprobs(model, sequences)
    assert sequence_logprobs(model, sequences, size) == pytest.approx(usual, abs=1e-4)
    assert sequence_logprobs(model, sequences[::-1], size)[::-1] == pytest.approx(usual, abs=1e-4)


def test_documents_end_in_eos_and_are_cut(tiny_tokenizer: Any) -> None:
    eos = tiny_tokenizer.eos_token_id
    texts = ["患者咳嗽", "头痛" * 50, ""]
    made = documents(texts, tiny_tokenizer, 20)
    whole = tiny_tokenizer(texts, add_special_tokens=False)["input_ids"]
    assert made[0][0] == [*whole[0], eos] and made[1][0] == whole[1][:20] and made[2][0] == [eos]
    assert all(ids == labels for ids, labels in made)
    assert np.array([label_count(labels) for _, labels in made]).tolist() == [len(whole[0]), 19, 0]


def test_scoring_holds_a_slice_of_the_logits_in_float32(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    """Of 8 x 2047 tokens and 64,000 words they would be 4 GB, twice."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    model = load_model(tiny_model_dir, "bfloat16")
    words, largest = model.config.vocab_size, 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            for one in result if isinstance(result, tuple) else (result,):
                if isinstance(one, torch.Tensor) and one.dtype == torch.float32 and words in one.shape:
                    largest = max(largest, one.numel() // words)
            return result

    sequences = documents(["患者咳嗽发热三天。" * 160] * 16, tiny_tokenizer, 400)
    assert min(len(ids) for ids, _ in sequences) == 400
    with Largest():
        sequence_logprobs(model, sequences)
    assert 0 < largest <= 512


@pytest.fixture
def prompts(tiny_tokenizer: Any) -> list[list[int]]:
    texts = ["请问医生这是什么病", "患者咳嗽发热三天，头痛伴恶心，建议多喝水休息", "您好", "胃痛两周，可以服用奥美拉唑"]
    return [tiny_tokenizer.encode(text, add_special_tokens=False) for text in texts]


def one_by_one(model: Any, prompt: list[int], most: int, end: int) -> list[int]:
    """The likeliest token again and again, without padding or cache."""
    import torch

    written: list[int] = []
    while len(written) < most:
        with torch.no_grad():
            token = int(model.eval()(input_ids=torch.tensor([prompt + written])).logits[0, -1].argmax())
        if token == end:
            break
        written.append(token)
    return written


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_greedy_is_the_likeliest_token_again_and_again(
    batch_size: int, model: Any, tiny_tokenizer: Any, prompts: list[list[int]]
) -> None:
    expected = [one_by_one(model, prompt, 14, tiny_tokenizer.eos_token_id) for prompt in prompts]
    assert behaviour.greedy(model, tiny_tokenizer, prompts, 14, batch_size) == expected
    assert len({len(prompt) for prompt in prompts}) > 1 and all(expected)


def test_an_answer_ends_before_its_end_token(model: Any, tiny_tokenizer: Any, prompts: list[list[int]]) -> None:
    """The end token is the one that comes fifth in the first answer."""
    import copy

    answer = one_by_one(model, prompts[0], 14, -1)
    ender = copy.deepcopy(tiny_tokenizer)
    ender.eos_token = tiny_tokenizer.convert_ids_to_tokens(answer[4])
    expected = [one_by_one(model, prompt, 14, answer[4]) for prompt in prompts]
    assert expected[0] == answer[: answer.index(answer[4])] and len(expected[0]) < 14
    found = behaviour.answers(model, ender, prompts, 14)
    assert found["tokens"] == [len(ids) for ids in expected]
    assert found["cut"] == [len(ids) == 14 for ids in expected] and not found["cut"][0]
    assert found["texts"][0] == tiny_tokenizer.decode(expected[0], skip_special_tokens=True)


@pytest.mark.parametrize(
    "text, n, expected",
    [
        ("", 4, 0.0),
        ("高血压", 4, 0.0),
        ("高血压病", 4, 0.0),
        ("aaaaaa", 4, 2 / 3),
        ("abcdabcd", 4, 1 / 5),
        ("您好您好您好您好", 2, 5 / 7),
        ("头痛、发热、咳嗽", 2, 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_seen_before(text: str, n: int, expected: float) -> None:
    assert behaviour.repetition(text, n) == pytest.approx(expected)
