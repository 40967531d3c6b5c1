"""SFT examples: what is cut, what is dropped, what is counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib.tokens.template import BAICHUAN, IGNORE
from qilin_lib.train.sft import examples

TURNS = [
    {"role": "user", "content": "咳嗽三天"},
    {"role": "assistant", "content": "多喝水"},
    {"role": "user", "content": "头痛"},
    {"role": "assistant", "content": "休息"},
]


def limits(max_length: int, source: int = 100, target: int = 100) -> SimpleNamespace:
    return SimpleNamespace(max_source_length=source, max_target_length=target, max_length=max_length)


def made(messages: list[dict[str, str]], tokenizer: Any, parameters: Any) -> tuple[list[Any], int]:
    return examples([{"messages": messages}], BAICHUAN, tokenizer, parameters)


def test_a_conversation_that_fits_is_kept_whole(tiny_tokenizer: Any) -> None:
    whole = BAICHUAN.encode_with_labels(TURNS, tiny_tokenizer)
    assert made(TURNS, tiny_tokenizer, limits(len(whole[0]))) == ([whole], 0)


@pytest.mark.parametrize("short_of", [1, 3])
def test_whole_turns_go_from_the_front(short_of: int, tiny_tokenizer: Any) -> None:
    length = len(BAICHUAN.encode(TURNS, tiny_tokenizer))
    kept, left_out = made(TURNS, tiny_tokenizer, limits(length - short_of))
    assert kept == [BAICHUAN.encode_with_labels(TURNS[2:], tiny_tokenizer)] and left_out == 0
    assert kept[0][0][0] == tiny_tokenizer.convert_tokens_to_ids("<reserved_102>")


def test_long_turns_are_cut_before_turns_are_dropped(tiny_tokenizer: Any) -> None:
    cut = BAICHUAN.encode_with_labels(TURNS, tiny_tokenizer, 1, 1)
    assert made(TURNS, tiny_tokenizer, limits(len(cut[0]), 1, 1)) == ([cut], 0)


def test_what_cannot_be_learned_from_is_left_out_and_counted(tiny_tokenizer: Any) -> None:
    good, too_long = {"messages": TURNS}, {"messages": [TURNS[0], {"role": "assistant", "content": "水" * 300}]}
    unanswered, empty = {"messages": TURNS[:1]}, {"messages": []}
    kept, left_out = examples([good, too_long, unanswered, empty, good], BAICHUAN, tiny_tokenizer, limits(60, 100, 500))
    assert len(kept) == 2 and left_out == 3
    assert all(len(ids) <= 60 and any(label != IGNORE for label in labels) for ids, labels in kept)


def test_an_unanswered_last_question_keeps_the_answers_before_it(tiny_tokenizer: Any) -> None:
    kept, left_out = made(TURNS[:3], tiny_tokenizer, limits(200))
    assert left_out == 0 and kept[0][1].count(tiny_tokenizer.eos_token_id) == 1
