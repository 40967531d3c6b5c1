"""What a reply means that calls nothing its answer, by the words of its question."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

from qilin_lib.evaluate.cues import CUES
from qilin_lib.evaluate.mentions import MARK, normal

LEAD, SHARED, LISTED, FOREIGN = 0.15, 0.5, 3, 0.7
"""The lead, in shares of the question's last words, of the option beside which most of them stand; what a share counts
in a sentence that names several options; the options of a list of verdicts; the share of ASCII in a reply that is in
English and so names in Chinese what it means."""
LONGEST = 200
"""Characters of a sentence on each side of an option; it bounds the work of a sentence that never ends."""
_END = re.compile(r"[。!?;\n]")
_REST = re.compile(rf"[。!?;\n{MARK}]")
# A text that stops within a sentence was cut or drifts on.
_ENDED = re.compile(r"[^\w、,;:]\s*\Z")


@lru_cache(maxsize=4096)
def asked(question: str) -> str:
    """The last clause of a question, which says what is wanted."""
    clauses = re.split(r"[。?;,]", normal(question).rstrip("。?:()_ "))
    return next((clause for clause in reversed(clauses) if clause.strip()), "")


def several(question: str) -> bool:
    """Whether a question asks for several options, as one that is not known may."""
    return not question or bool(CUES.several.search(asked(question)))


def negative(question: str) -> bool:
    """Whether a question asks for what is wrong or does not belong."""
    return bool(CUES.negative.search(asked(question)))


def fitting(text: str, said: list[Any], verdicts: dict[str, bool], question: str) -> str:
    """The one option that alone fits a question with one answer, "" where none stands out.

    `text` is marked, `said` its mentions (`extraction.Said`).
    """
    if not question or not _ENDED.search(text):
        return ""
    single = [one for one in said if one.open and len(one.letters) == 1]
    alone = {one.letters for one in single if not one.dismissed and not one.mention.own}
    if len(alone) == 1 and len(single) == len(said) and sum(map(str.isascii, text)) > FOREIGN * len(text):
        return alone.pop()
    if found := _unfit(text, single) if negative(question) else _fit(text, single, said, question):
        return found
    meant = [letter for letter, good in verdicts.items() if good != negative(question)]
    return meant[0] if len(meant) == 1 and len(verdicts) >= LISTED else ""


def _unfit(text: str, single: list[Any]) -> str:
    """The only option of which a sentence says something bad."""
    unfit = {
        one.letters
        for one in single
        if one.rejected
        or CUES.unfit.search(_REST.split(text[one.at + 1 : one.at + 60], maxsplit=1)[0])
        or CUES.forbids.search(one.before)
    }
    return unfit.pop() if len(unfit) == 1 else ""


def _fit(text: str, single: list[Any], said: list[Any], question: str) -> str:
    """The option in whose sentence most of what is wanted stands."""
    dismissed = {letter for one in said if one.dismissed for letter in one.letters}
    wanted, shares = _pairs(asked(question)), Counter({"": 0.0})
    for one in single:
        if one.letters not in dismissed:
            shares[one.letters] = max(shares[one.letters], _share(text, one.at, wanted))
    (first, most), *others = [*shares.most_common(2), ("", 0.0)]
    return first if most - others[0][1] >= LEAD else ""


def _share(text: str, place: int, wanted: set[str]) -> float:
    """How much of what is wanted stands in the sentence of a mention."""
    before = _END.split(text[max(0, place - LONGEST) : place])[-1]
    after = _END.split(text[place + 1 : place + LONGEST], maxsplit=1)[0]
    share = len(wanted & _pairs(before + MARK + after)) / max(1, len(wanted))
    return share * (SHARED if MARK in before + after else 1)


def _pairs(text: str) -> set[str]:
    words = re.sub(r"\W", "", text)
    return {words[at : at + 2] for at in range(len(words) - 1)}
