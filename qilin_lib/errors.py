"""The one exception that a user of the kit is meant to read, and how foreign text is shown."""

from __future__ import annotations

import difflib
import functools
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

# Control characters but tab and line end, those that turn the direction of reading, and halves of characters.
UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]|\r(?!\n)"
)


def visible(text: object) -> str:
    r"""`text` with what a terminal or a page would obey spelled out: \x1b, \u202e."""
    return UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), str(text))


class QilinError(Exception):
    """Something the user can mend: names the file or parameter, the value, the reason and the nearest valid choice."""

    def __str__(self) -> str:
        return visible(super().__str__())

    def _render_traceback_(self) -> list[str]:
        # IPython and JupyterLab call this hook: a notebook cell shows the sentence, not forty lines of library frames.
        return [f"QilinError: {self}"]


def as_command(main: Callable[..., int]) -> Callable[..., int]:
    """`main` of a command; after a QilinError, said in one sentence on stderr, its exit code is 2."""

    @functools.wraps(main)
    def run(*arguments: Any) -> int:
        try:
            return main(*arguments)
        except QilinError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2

    return run


def sentence(reason: Exception) -> str:
    """What an error says in one line: its own sentence, or the library's behind its type."""
    said = " ".join(str(reason).split())
    return said if isinstance(reason, QilinError) else f"{type(reason).__name__}: {said[:300]}"


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns " (did you mean 'x'?)" for the closest of `choices`, or the empty string when none is near.

    Names are compared whole and part by part, so that `bacth` finds `per_device_train_batch_size`.
    """
    best, likeness = "", 0.6
    for choice in map(str, choices):
        for part in (choice, *choice.split("_")):
            found = difflib.SequenceMatcher(None, str(word), part).ratio()
            if found > likeness:
                best, likeness = choice, found
    return f" (did you mean '{best}'?)" if best else ""
