"""The files of the sample are what the generator renders, and what the tiny base learns from is unchanged."""

from __future__ import annotations

from pathlib import Path

import qilin_lib.sample
from qilin_lib.sample import corpus

Rendered = tuple[Path, dict[str, int]]
FOLDER = Path(qilin_lib.sample.__file__).parent


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_what_is_rendered(rendered: Rendered) -> None:
    made = contents(rendered[0])
    planted = made.pop("planted.json")
    assert contents(FOLDER / "raw") == made and len(made) == 101
    assert Path(__file__).with_name("planted.json").read_bytes() == planted


def test_vocabulary_is_what_the_tokenizer_of_the_tiny_base_is_trained_on(tmp_path: Path) -> None:
    documents, vocabulary = corpus.base_texts(tmp_path, set())
    lines = (FOLDER / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    assert documents + lines == vocabulary
