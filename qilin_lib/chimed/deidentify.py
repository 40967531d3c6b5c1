"""De-identification: personal identifiers become typed placeholders such as [电话], counted by type.

Covers what the paper's §6 asks for (HIPAA) in the form it takes in Chinese consultations. Clinical content stays:
dates of treatment, doses, lab values, ICD codes, drug approval numbers, hospital and department names. The rules
(deid_rules) are precise rather than greedy; how well they do is measured (deid_score).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from qilin_lib.chimed.deid_base import HIDDEN, KINDS, NAMED, Rule
from qilin_lib.chimed.deid_numbers import valid_identity_number
from qilin_lib.chimed.deid_rules import RULES

__all__ = ["KINDS", "Span", "deidentify", "deidentify_all", "find", "valid_identity_number"]

Span = tuple[int, int, str]

# Full-width digits, letters and signs, each with its plain character: positions stay as they are.
_WIDE = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_WIDE |= {ord(wide): plain for wide, plain in zip("＠．－＋＿", "@.-+_", strict=True)}
# What one rule takes is a cue for the next, but no text holds longer chains: time stays linear.
_PASSES = 8
_WIDE_MARKS = frozenset(map(chr, _WIDE))
_PLACEHOLDER = re.compile(rf"\[({'|'.join(KINDS)})\]")


def _openings(rules: tuple[Rule, ...]) -> re.Pattern[str]:
    """The first characters of all hints in a text.

    One pass tells which rules can apply; in most texts none. Each alternative begins with a plain character, so that
    the engine skips quickly from one of these characters to the next.
    """
    rest: dict[str, set[str]] = {}
    for rule in rules:
        for hint in rule.hints:
            rest.setdefault(hint[0], set()).add(hint[1:])
    plain = [f"{re.escape(first)}(?={'|'.join(sorted(rest[first]))})" for first in sorted(rest)]
    if len(rules) == 1:
        return re.compile("|".join(plain))
    return re.compile("|".join((*plain, *(f"{wide}(?=[０-９ａ-ｚＡ-Ｚ]{{3}})" for wide in map(chr, _WIDE)))))


Prepared = tuple[frozenset[str], Callable[[str], object], Rule]


def _prepared(rules: tuple[Rule, ...]) -> tuple[re.Pattern[str], tuple[Prepared, ...]]:
    """The openings, and each rule with the first characters of its hints and the search for these alone."""
    own = [(frozenset(hint[0] for hint in rule.hints), _openings((rule,)).search, rule) for rule in rules]
    return _openings(rules), tuple(own)


_MEDICAL = _prepared(RULES)
_DIRECT = _prepared(tuple(rule for rule in RULES if rule.kind in ("邮箱", "身份证号", "电话", "账号")))


def find(text: str, medical: bool = True) -> list[Span]:
    """Where identifiers stand in `text`: (start, end, type) in characters, half-open, in order, without overlap.

    In general-domain text (medical = False) only what reaches a person directly counts: e-mail, telephone, identity
    and account numbers. Its names, addresses and dates of birth are those of novels and encyclopedias, not of patients.
    """
    openings, rules = _MEDICAL if medical else _DIRECT
    present = frozenset(openings.findall(text))
    if not present:
        return []
    if not _WIDE_MARKS.isdisjoint(present):
        text = text.translate(_WIDE)
        present = frozenset(openings.findall(text))
    hidden = _PLACEHOLDER.sub(lambda mark: _mark(mark[1]) * len(mark[0]), text) if "[" in text else text
    spans: list[Span] = []
    # A rule sees what earlier rules took as one blot, whatever its length, just as it sees a placeholder. Going on
    # until nothing more is found is what makes a second call find nothing.
    for _ in range(_PASSES):
        new = _found(hidden, present, rules)
        if not new:
            break
        spans += new
        hidden = _hide(hidden, new)
        present = frozenset(openings.findall(hidden))
    return sorted(spans)


def deidentify(text: str, medical: bool = True) -> tuple[str, Counter[str]]:
    """`text` with what `find` finds replaced, and how many of each type. Applying it again changes nothing."""
    (text,), counts = deidentify_all([text], medical)
    return text, counts


def deidentify_all(texts: Sequence[str], medical: bool = True) -> tuple[list[str], Counter[str]]:
    """The texts of one record, de-identified together: what one turn asks for goes in the next.

    Returns as many texts, in the same order, and how many placeholders of each type were put in.
    """
    whole = "\n".join(texts)
    spans = find(whole, medical)
    if not spans:
        # Counter() takes ten times as long as looking at a short text, its bare constructor does not.
        return list(texts), Counter.__new__(Counter)
    left, counts = iter([*spans, (len(whole) + 1, 0, "")]), Counter(kind for *_, kind in spans)
    changed, offset, span = [], 0, next(left)
    for text in texts:
        pieces, last = [], 0
        # No rule takes a line end, so a span lies within one text.
        while span[0] < offset + len(text):
            pieces += [text[last : span[0] - offset], f"[{span[2]}]"]
            last, span = span[1] - offset, next(left)
        changed.append("".join((*pieces, text[last:])))
        offset += len(text) + 1
    return changed, counts


def _found(text: str, present: frozenset[str], rules: tuple[Prepared, ...]) -> list[Span]:
    found: list[Span] = []
    for openings, hinted, rule in rules:
        if not openings.isdisjoint(present) and hinted(text):
            new = [(start, end, rule.kind) for start, end in rule.spans(text)]
            if new:
                found += new
                text = _hide(text, new)
    return found


def _hide(text: str, spans: list[Span]) -> str:
    chars = list(text)
    for start, end, kind in spans:
        chars[start:end] = _mark(kind) * (end - start)
    return "".join(chars)


def _mark(kind: str) -> str:
    return NAMED if kind == "姓名" else HIDDEN
