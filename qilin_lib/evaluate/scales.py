"""Attitude scales as data: one YAML file a scale, read strictly.

data/scales/example.yaml shows and explains every key. The wording of a published scale belongs to its authors: such a
file stays with whoever may use it, and a profile names its path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, PrivateAttr, StringConstraints, ValidationError, model_validator

from qilin_lib.errors import QilinError, nearest
from qilin_lib.files import sha256_text
from qilin_lib.params import ROOT, failure_sentence, read_yaml
from qilin_lib.schema import Part

FOLDER = Path(__file__).resolve().parent / "data" / "scales"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def _named(name: str) -> str:
    if not NAME.fullmatch(name):
        near = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "my-scale"
        raise ValueError(f"is no file name; nearest valid: '{near}'")
    return name


def _placed(instruction: str) -> str:
    for placeholder in ("{options}", "{item}"):
        if (count := instruction.count(placeholder)) != 1:
            raise ValueError(f"holds {placeholder} {count} times; write it exactly once")
    return instruction


def _once(values: list) -> list:
    if again := [value for at, value in enumerate(values) if value in values[:at]]:
        raise ValueError(f"{again[0]!r} stands there twice; keep one")
    return values


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], AfterValidator(_once)]


class Statement(Part):
    """One item of a scale."""

    number: int = Field(ge=1, description="whole number, not used twice")
    text: Text = Field(description="the statement; write it in quotes where YAML would read another kind")
    subscale: Text | None = Field(default=None, description="what it belongs to; of all items or of none")
    paraphrases: Texts = Field(default=[], description="the statement in other words")

    @property
    def wordings(self) -> tuple[str, ...]:
        """The original, then its paraphrases."""
        return (self.text, *self.paraphrases)

    @model_validator(mode="after")
    def _other_words(self) -> Self:
        if self.text in self.paraphrases:
            raise ValueError("a paraphrase repeats the statement, which would count it twice; leave it out")
        return self


class Scale(Part):
    """One scale. Content n of `options` (1, 2, …) is n points, or counted from the end where an item is reversed."""

    name: Annotated[Text, AfterValidator(_named)] = Field(description="the records' benchmark")
    title: Text = Field(description="for tables")
    citation: Text = Field(description="where the wording comes from")
    licence: Text = Field(description="on what terms the wording may be used")
    language: Text = Field(description="of the statements (BCP 47)")
    instruction: Annotated[Text, AfterValidator(_placed)] = Field(description="what a model is asked")
    high_total: Text = Field(description="what a high total means")
    low_total: Text = Field(description="what a low total means")
    options: Texts = Field(min_length=2, description="texts in order; the first gives 1 point")
    reversed: Annotated[list[int], AfterValidator(_once)] = Field(description="numbers of items; [] for none")
    items: list[Statement] = Field(min_length=1, description="the statements")

    # Of the file: records of another version are not taken for this one's.
    _sha256: str = PrivateAttr("")

    @model_validator(mode="after")
    def _numbers(self) -> Self:
        numbers = _once([statement.number for statement in self.items])
        for number in self.reversed:
            if number not in numbers:
                near = min(numbers, key=lambda other: abs(other - number))
                raise ValueError(f"reversed names {number}, which is no item; nearest valid: {near}")
        bare = [statement.number for statement in self.items if statement.subscale is None]
        if 0 < len(bare) < len(numbers):
            raise ValueError(f"item {bare[0]} has no subscale, but others have; give one to all or to none")
        return self

    @property
    def sha256(self) -> str:
        """Hash of the file."""
        return self._sha256

    @property
    def range(self) -> tuple[int, int]:
        """The lowest and the highest total possible."""
        return len(self.items), len(self.items) * len(self.options)

    @property
    def midpoint(self) -> float:
        """The total half-way: what neutral answers give, and answers that cancel out."""
        return sum(self.range) / 2

    def points(self, statement: Statement, content: int) -> int:
        """Points of choosing option `content` (1, 2, …)."""
        return len(self.options) + 1 - content if statement.number in self.reversed else content

    def always(self, content: int) -> int:
        """The total of who answers every item with option `content` (1, 2, …)."""
        return sum(self.points(statement, content) for statement in self.items)


def read(name: str) -> Scale:
    """The scale `name` of the kit, or the one in the YAML file at path `name` (relative to the repository).

    Raises QilinError naming file, key and the nearest valid choice: no such scale, what `read_yaml` refuses, and what
    is no `Scale`.
    """
    inside = FOLDER / f"{name}.yaml"
    path = inside if NAME.fullmatch(name) and inside.exists() else ROOT / name
    if not path.is_file():
        known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
        raise QilinError(
            f"bias.scales names '{name}'{nearest(name, known)}: no scale of the kit ({', '.join(known)}) and "
            "no path of a YAML file"
        )
    try:
        scale = Scale.model_validate(read_yaml(path))
    except ValidationError as failure:
        raise QilinError(f"{path.name}: {failure_sentence(Scale, failure)}") from None
    scale._sha256 = sha256_text(path.read_text(encoding="utf-8"))
    return scale
