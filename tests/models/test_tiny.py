"""The built-in base model is made once and is the same every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.models.load import load_model
from qilin_lib.models.tiny import tiny_base
from qilin_lib.schema_data import Tiny


def make(texts: list[str], shape: Tiny, seed: int, cache: Path) -> tuple[Path, list[str]]:
    lines: list[str] = []
    return tiny_base(texts, texts, shape, seed, cache, lines.append), lines


@pytest.fixture(scope="module")
def brief(tiny_shape: Tiny) -> Tiny:
    return tiny_shape.model_copy(update={"max_steps": 3})


def test_made_once_then_found(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    first, lines = make(sentences(40, 1), brief, 1, tmp_path)
    stamp = (first / "model.safetensors").stat().st_mtime_ns
    second, silence = make(sentences(40, 1), brief, 1, tmp_path)
    assert first == second and (second / "model.safetensors").stat().st_mtime_ns == stamp
    assert len(lines) == 1 and lines[0].startswith("tiny base model: step 3/3, loss ") and silence == []
    assert [path.name for path in tmp_path.iterdir()] == [first.name]


def test_same_bytes_in_another_cache(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    one, other = (make(sentences(40, 1), brief, 1, tmp_path / name)[0] for name in ("a", "b"))
    assert one.name == other.name
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


def test_seed_texts_and_shape_each_make_another_model(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    texts, wider = sentences(40, 1), brief.model_copy(update={"intermediate_size": 192})
    made = [(texts, brief, 1), (texts, brief, 2), (sentences(40, 2), brief, 1), (texts, wider, 1)]
    assert len({make(*each, tmp_path)[0] for each in made}) == 4


def test_an_interrupted_making_is_not_taken_for_a_model(brief: Tiny, sentences: Callable, tmp_path: Path) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    texts = sentences(40, 1)
    with pytest.raises(KeyboardInterrupt):
        tiny_base(texts, texts, brief, 1, tmp_path, interrupt)
    assert (make(texts, brief, 1, tmp_path)[0] / "model.safetensors").exists()


def test_pretraining_learns(tiny_model_dir: Path, tiny_shape: Tiny) -> None:
    losses = [row["loss"] for row in files.read_jsonl(tiny_model_dir / "log.jsonl")]
    assert len(losses) == tiny_shape.max_steps // 10
    assert losses[-1] < losses[0] - 1


def test_the_model_has_the_shape_asked_for(tiny_model_dir: Path, tiny_shape: Tiny) -> None:
    config = load_model(tiny_model_dir).config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (64, 2, 128)
    assert config.max_position_embeddings == tiny_shape.max_position_embeddings
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 3, 0)
