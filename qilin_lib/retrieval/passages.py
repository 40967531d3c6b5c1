"""A corpus in passages of a few sentences, each with its origin, none that gives a test item away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from qilin_lib.chimed.clean import clean
from qilin_lib.chimed.records import Rejection, content
from qilin_lib.chimed.sources import Feed, Source, units, unread
from qilin_lib.errors import QilinError
from qilin_lib.files import read_jsonl

PASSAGE_CHARS = 300
GLOBS = ("**/*.txt", "**/*.jsonl")
# Where a passage may end: behind a sentence, else behind a clause, else anywhere.
_ENDS = (re.compile(r"(?<=[。！？!?；;\n])"), re.compile(r"(?<=[，,、：:\s])"))


@dataclass(frozen=True, slots=True)
class Document:
    """A text of a corpus; origin: "file:line" below the corpus."""

    origin: str
    text: str


def there(corpus: Path) -> None:
    """QilinError for a corpus that is not there."""
    if not corpus.is_dir():
        raise QilinError(f"retrieval: corpus: {corpus} is no folder; nearest valid: 'chimed', or a folder of texts")


def documents(corpus: Path) -> Iterator[Document | Rejection]:
    """The texts of 01's folder (its cpt.jsonl), or of a folder of .txt and row files, packed ones among them.

    A file or line that cannot be read, or that nothing reads, is a Rejection. QilinError: a corpus that is not there.
    """
    there(corpus)
    if (corpus / "cpt.jsonl").exists():
        rows = enumerate(read_jsonl(corpus / "cpt.jsonl"), start=1)
        yield from (Document(f"cpt.jsonl:{line}", row["text"]) for line, row in rows)
        return
    feeds = [Feed(glob=glob, reader="text.textbook", rows={"cpt": "passages"}) for glob in GLOBS]
    home = Source(name=corpus.name, type="text", licence="not stated", citation="-", home=str(corpus), feeds=feeds)
    for unit in units(home, corpus.parent):
        if isinstance(read := unit.read, Rejection):
            yield read
        else:
            # Of what cleaning leaves half a surrogate pair is no text that a file could hold.
            text = clean(content(read.payload)).encode("utf-8", "replace").decode("utf-8")
            yield Document(f"{read.file}:{read.line}", text)
    for file, why in unread(home, corpus.parent).items():
        yield Rejection(home.name, file, 0, why, "", "")


def passages(text: str, most: int = PASSAGE_CHARS) -> list[str]:
    """`text` in pieces of at most `most` characters that begin and end at sentences as far as these allow it."""
    return [piece.strip() for piece in _joined(_pieces(text, most), most) if piece.strip()]


def _pieces(text: str, most: int, ends: Sequence[re.Pattern] = _ENDS) -> Iterator[str]:
    if len(text) <= most:
        yield text
    elif ends:
        for piece in ends[0].split(text):
            yield from _pieces(piece, most, ends[1:])
    else:
        yield from (text[at : at + most] for at in range(0, len(text), most))


def _joined(pieces: Iterator[str], most: int) -> Iterator[str]:
    held = ""
    for piece in pieces:
        if held and len(held) + len(piece) > most:
            yield held
            held = ""
        held += piece
    yield held
