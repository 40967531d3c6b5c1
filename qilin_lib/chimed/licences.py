"""Licences as the registry states them: which of them a parameter means, and which forbid to combine records."""

from __future__ import annotations

import re
from collections.abc import Iterable

from qilin_lib.errors import QilinError, nearest


def excluded(licence: str, words: Iterable[str]) -> bool:
    """Does one of `words` stand in `licence`? "CC BY-NC" stands in "CC BY-NC-SA 4.0", "MIT" in "MIT for the code"."""
    plain = f" {_plain(licence)} "
    return any(f" {_plain(word)} " in plain for word in words)


def check(words: Iterable[str], licences: Iterable[str]) -> None:
    """QilinError for a word that stands in none of `licences`; another Creative Commons licence is no near miss."""
    known = sorted(set(licences))
    for word in words:
        if not any(excluded(licence, [word]) for licence in known):
            hint = "" if _plain(word).startswith("cc") else nearest(word, known)
            raise QilinError(
                f"exclude_licences: '{word}' stands in no source's licence{hint}; the licences are {'; '.join(known)}"
            )


def forbids_derivatives(licence: str) -> bool:
    """Does the licence allow copies only, as CC BY-ND does?"""
    return excluded(licence, ("ND", "NoDerivatives", "NoDerivs"))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
