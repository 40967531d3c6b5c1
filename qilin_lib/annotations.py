"""What a parameter's field says of itself: its choices, its meaning in one line."""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

SILENT = "; paper: not stated"


def members(annotation: Any) -> list[Any]:
    """What an annotation allows, unions opened: [list[str], NoneType] for `list[str] | None`."""
    if get_origin(annotation) in (Union, UnionType):
        return [kind for one in get_args(annotation) for kind in members(one)]
    return members(get_args(annotation)[0]) if get_origin(annotation) is Annotated else [annotation]


def outside_key(model: type[BaseModel]) -> frozenset[str]:
    """The parameters that change no result: names, hardware, logging, how much is shown."""
    return frozenset(name for name, field in model.model_fields.items() if field.json_schema_extra)


def choices(field: FieldInfo) -> list[str]:
    """The words that a parameter, or an entry of it, may be; none if it is free."""
    kinds = [get_args(kind)[0] if get_origin(kind) is list else kind for kind in members(field.annotation)]
    return [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]


def describe(field: FieldInfo) -> str:
    """Meaning of a parameter in one line: its choices, its description, what the paper says if it is of any result."""
    words = choices(field)
    listed = " | ".join(words) + ": " if 0 < len(words) < 8 else ""
    known = field.json_schema_extra or "paper" in field.description.lower()
    return f"{listed}{field.description}{'' if known else SILENT}"
