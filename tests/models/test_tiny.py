"""The built-in base model is made once and is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.models import tiny
from qilin_lib.models.tiny import tiny_base
from qilin_lib.schema_data import Tiny


@pytest.fixture(scope="module")
def brief(tiny_shape: Tiny) -> Tiny:
    return tiny_shape.model_copy(update={"max_steps": 3})


def test_made_once_and_the_same_bytes_in_another_cache(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    texts, lines = sentences(40, 1), []
    first = tiny_base(texts, texts, brief, 1, tmp_path / "a", lines.append)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    assert tiny_base(texts, texts, brief, 1, tmp_path / "a", lines.append) == first
    assert (first / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(lines) == 1 and lines[0].startswith("tiny base model: step 3/3, loss ")
    other = tiny_base(texts, texts, brief, 1, tmp_path / "b")
    assert other.name == first.name
    for path in first.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_seed_texts_and_shape_each_make_another_model(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    texts, wider = sentences(40, 1), brief.model_copy(update={"intermediate_size": 192})
    made = [(texts, brief, 1), (texts, brief, 2), (sentences(40, 2), brief, 1), (texts, wider, 1)]
    assert len({tiny_base(some, some, shape, seed, tmp_path) for some, shape, seed in made}) == 4


def test_half_a_model_is_never_left_and_two_runs_may_make_it_at_once(
    brief: Tiny, sentences: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, usual, made = sentences(40, 1), tiny._make, []

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_base(texts, texts, brief, 1, tmp_path, interrupt)
    assert not list(tmp_path.iterdir())

    def overtaken(*arguments: object) -> None:
        monkeypatch.undo()
        made.append(tiny_base(texts, texts, brief, 1, tmp_path))
        usual(*arguments)

    monkeypatch.setattr(tiny, "_make", overtaken)
    made.append(tiny_base(texts, texts, brief, 1, tmp_path))
    assert made[0] == made[1] and [path.name for path in tmp_path.iterdir()] == [made[0].name]


def test_ten_steps_rise_in_one(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    """A tenth of ten steps is one, and torch's schedule divides by the steps between."""
    ten = brief.model_copy(update={"max_steps": 10})
    log = tiny_base(sentences(40, 1), [], ten, 1, tmp_path) / "log.jsonl"
    assert [row["step"] for row in files.read_jsonl(log)] == [10]


def test_pretraining_learns(tiny_model_dir: Path, tiny_shape: Tiny) -> None:
    losses = [row["loss"] for row in files.read_jsonl(tiny_model_dir / "log.jsonl")]
    assert len(losses) == tiny_shape.max_steps // 10
    assert losses[-1] < losses[0] - 1
