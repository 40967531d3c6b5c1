"""The sentence a user reads."""

from __future__ import annotations

import pytest

from qilin_lib.errors import QilinError, nearest

FIELDS = ["per_device_train_batch_size", "learning_rate", "beta", "gpus", "max_steps"]


@pytest.mark.parametrize(
    ("word", "choice"),
    [
        ("bacth", "per_device_train_batch_size"),
        ("learning_rte", "learning_rate"),
        ("lerning", "learning_rate"),
        ("gpu", "gpus"),
        ("bta", "beta"),
        ("zzz", ""),
    ],
)
def test_nearest_finds_whole_names_and_parts_or_says_nothing(word: str, choice: str) -> None:
    assert nearest(word, FIELDS) == (choice and f" (did you mean '{choice}'?)")


def test_a_notebook_shows_the_sentence_without_frames() -> None:
    assert QilinError("learning_rate = 2: too high")._render_traceback_() == ["QilinError: learning_rate = 2: too high"]
