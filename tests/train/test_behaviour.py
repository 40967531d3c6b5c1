"""Greedy answers against a plain loop, and the repetition rate against counted examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qilin_lib.models.load import load_model
from qilin_lib.train import behaviour


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir)


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


def test_the_models_own_repetition_penalty_is_set_aside(
    model: Any, tiny_tokenizer: Any, prompts: list[list[int]]
) -> None:
    """Baichuan's generation_config.json has one; it would hide the repetition that is measured here."""
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.min_new_tokens = 14
    expected = [one_by_one(model, prompt, 14, tiny_tokenizer.eos_token_id) for prompt in prompts]
    assert behaviour.greedy(model, tiny_tokenizer, prompts, 14) == expected


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
