"""The tokenizer trained on the spot loses nothing, keeps answers apart, and is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qilin_lib.tokens.tokenizer import SPECIAL, train_tokenizer


@settings(max_examples=150, deadline=None)
@given(text=st.text())
def test_round_trip_of_any_text(text: str, tiny_tokenizer: Any) -> None:
    ids = tiny_tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.unk_token_id not in ids


@pytest.mark.parametrize("prefix", ["答案：", "答案:", "患者咳嗽。答案：", "正确的是"])
@pytest.mark.parametrize("letter", "ABCDE")
def test_an_answer_letter_is_one_more_id(prefix: str, letter: str, tiny_tokenizer: Any) -> None:
    before = tiny_tokenizer.encode(prefix, add_special_tokens=False)
    after = tiny_tokenizer.encode(prefix + letter, add_special_tokens=False)
    assert after[:-1] == before


def test_special_tokens_have_fixed_ids(tiny_tokenizer: Any) -> None:
    assert tiny_tokenizer.convert_tokens_to_ids(SPECIAL) == list(range(6))
    assert tiny_tokenizer.decode([3, 4, 5], skip_special_tokens=True) == ""


def test_same_texts_give_the_same_bytes(tmp_path: Path, sentences: Callable) -> None:
    made = []
    for name, texts in (("a", sentences(60, 3)), ("b", sentences(60, 3)), ("c", sentences(60, 4))):
        train_tokenizer(texts, 600, 128).save_pretrained(tmp_path / name)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1] and made[0]["tokenizer.json"] != made[2]["tokenizer.json"]


def test_characters_of_equal_frequency_are_kept_by_code_point() -> None:
    """Where the vocabulary has no room for all: the library would draw which of them stay; the others are bytes."""
    texts = [chr(0x4E00 + i) for i in range(3000)] + ["病" * 3, "症" * 2]
    made = [train_tokenizer(iter(texts), 1000, 128) for _ in range(2)]
    kept = [set(one.get_vocab()) for one in made]
    assert kept[0] == kept[1] and len(kept[0]) <= 1000
    assert {"病", "症", "一", chr(0x4E00 + 400)} <= kept[0]
    assert not {chr(0x4E00 + 1000), chr(0x4E00 + 2999)} & kept[0]
    assert made[0].decode(made[0].encode("".join(texts), add_special_tokens=False)) == "".join(texts)
