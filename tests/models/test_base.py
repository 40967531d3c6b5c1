"""Which model a run starts from, and what base.json says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.base import base_path, prepare_base
from qilin_lib.models.load import load_tokenizer, parameter_count
from qilin_lib.schema_data import Tiny
from qilin_lib.tokens.template import BAICHUAN, PLAIN, template_of
from tests.helpers.chat import published, speaking_model


def never() -> tuple[list[str], list[str]]:
    raise AssertionError("texts are only needed for the tiny model")


def stage(folder: Path, up_to_date: bool = False) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    return SimpleNamespace(dir=folder, up_to_date=up_to_date)


def settings(base: str, shape: Tiny, template: str = "auto") -> SimpleNamespace:
    return SimpleNamespace(base=base, tiny=shape, template=template, seed=1, block_size=64)


def test_local_folder_is_named_where_it_lies(tiny_model_dir: Path, tiny_shape: Tiny, tmp_path: Path) -> None:
    here = stage(tmp_path / "02")
    described = prepare_base(settings(str(tiny_model_dir), tiny_shape), here, never, tmp_path / "cache")
    assert described == files.read_json(here.dir / "base.json")
    assert described["parameters"] == parameter_count(tiny_model_dir)
    assert (described["template"], described["template_sha256"]) == ("baichuan", BAICHUAN.sha256)
    assert (described["source"], described["converted"]) == ("folder", "")
    assert 0 < described["vocabulary"] <= tiny_shape.vocab_size
    assert base_path(here.dir) == tiny_model_dir.resolve()
    assert not (here.dir / "base").exists()


def test_template_can_be_chosen(tiny_model_dir: Path, tiny_shape: Tiny, tmp_path: Path) -> None:
    parameters = settings(str(tiny_model_dir), tiny_shape, "plain")
    described = prepare_base(parameters, stage(tmp_path / "02"), never, tmp_path / "cache")
    assert (described["template"], described["template_sha256"]) == ("plain", PLAIN.sha256)


def test_a_base_speaks_its_tokenizers_own_template(tiny_model_dir: Path, tiny_shape: Tiny, tmp_path: Path) -> None:
    base = speaking_model(tiny_model_dir, tmp_path / "qwen", published("qwen2_5"))
    described = prepare_base(settings(str(base), tiny_shape), stage(tmp_path / "02"), never, tmp_path / "cache")
    stored = files.read_json(tmp_path / "02" / "base.json")
    assert stored == described and described["template"] == "own"
    template, tokenizer = template_of(stored), load_tokenizer(base)
    turns = [{"role": role, "content": text} for role, text in [("user", "痛"), ("assistant", "休息"), ("user", "好")]]
    theirs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert template.encode(turns, tokenizer, add_generation_prompt=True) == theirs


def test_a_template_that_cannot_be_used_is_refused_with_a_way_out(
    tiny_model_dir: Path, tiny_shape: Tiny, tmp_path: Path
) -> None:
    base = speaking_model(tiny_model_dir, tmp_path / "gptoss", published("gptoss"))
    with pytest.raises(QilinError, match="template 'own': .* nearest valid: 'plain'"):
        prepare_base(settings(str(base), tiny_shape), stage(tmp_path / "02"), never, tmp_path / "cache")
    described = prepare_base(settings(str(base), tiny_shape, "plain"), stage(tmp_path / "02"), never, tmp_path / "c")
    assert described["template"] == "plain"


def test_tiny_moves_with_its_run(tiny_shape: Tiny, sentences: Callable, tmp_path: Path) -> None:
    brief = tiny_shape.model_copy(update={"max_steps": 2})
    here = stage(tmp_path / "run" / "02")
    texts = sentences(40, 1)
    described = prepare_base(settings("tiny", brief), here, lambda: (texts, texts), tmp_path / "cache")
    assert described["path"] == "base" and (described["name"], described["source"]) == ("tiny", "kit")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert (base_path(tmp_path / "moved" / "02") / "model.safetensors").exists()


@pytest.mark.parametrize("name", ["tinny", "./no/such/folder", "/no/such", "a/b/c", "../x", "./missing"])
def test_unknown_base_is_one_clear_sentence(name: str, tiny_shape: Tiny, tmp_path: Path) -> None:
    with pytest.raises(QilinError, match="neither 'tiny', nor an existing folder, nor a hub id") as error:
        prepare_base(settings(name, tiny_shape), stage(tmp_path / "02"), never, tmp_path / "cache")
    assert f"base = '{name}'" in str(error.value)
    assert not (tmp_path / "02" / "base.json").exists()


def test_up_to_date_stage_is_only_read(tiny_shape: Tiny, tmp_path: Path) -> None:
    here = stage(tmp_path / "02", up_to_date=True)
    files.write_json(here.dir / "base.json", {"name": "kept"})
    assert prepare_base(settings("tiny", tiny_shape), here, never, tmp_path / "cache") == {"name": "kept"}
