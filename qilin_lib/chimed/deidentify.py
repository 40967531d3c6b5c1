"""De-identification: personal identifiers become typed placeholders such as [电话], counted by type.

Covers what the paper's §6 asks for (HIPAA) in the form it takes in Chinese consultations. Clinical content stays:
dates of treatment, doses, lab values, ICD codes, drug approval numbers, hospital and department names. Numbers and
places go by label, shape and unit (deid_numbers, deid_places), names by a trained model of what stands around them and
how they read (deid_cues, deid_names, deid_model, deid_train); how well that does is measured (deid_score).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from qilin_lib.chimed.deid_base import HIDDEN, KINDS, NAMED, Rule
from qilin_lib.chimed.deid_names import NAME_RULES
from qilin_lib.chimed.deid_numbers import NUMBER_GROUPS
from qilin_lib.chimed.deid_places import PLACE_GROUPS

Span = tuple[int, int, str]

# What contains digits of another rule's shape goes first: an identity number holds a date, a record's may hold a phone.
GROUPS = (*NUMBER_GROUPS, *PLACE_GROUPS)
_DIRECT = {"邮箱", "身份证号", "电话", "账号"}
_DIRECT_GROUPS = tuple(
    group._replace(rules=kept)
    for group in GROUPS
    if (kept := tuple(rule for rule in group.rules if rule.kind in _DIRECT))
)
# One search tells that a text holds the hint of no group, as most do.
_hinted, _hinted_direct = (
    re.compile("|".join(group.hint for group in groups)).search for groups in (GROUPS, _DIRECT_GROUPS)
)
# Full-width digits, letters and signs, each with its plain character: positions stay as they are.
_WIDE = {code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
_WIDE |= {ord(wide): plain for wide, plain in zip("＠．－＋＿／｜", "@.-+_/|", strict=True)}
_wide = re.compile(f"[{''.join(map(chr, sorted(_WIDE)))}]").search
_placeholders = re.compile(rf"\[({'|'.join(KINDS)})\]").finditer
# So long is a value that means the same wherever it stands.
_REPEATED = {"姓名": 3, "电话": 7, "账号": 6, "身份证号": 15, "邮箱": 6, "证件号": 7, "病历号": 7, "车牌": 6}
# What one rule takes is a cue for the next, but no text holds longer chains: time stays linear.
_PASSES = 8


def find(text: str, medical: bool = True) -> list[Span]:
    """Where identifiers stand in `text`: (start, end, type) in characters, half-open, in order, without overlap.

    In general-domain text (medical = False) only what reaches a person directly counts: e-mail, telephone, identity
    and account numbers. Its names, addresses and dates of birth are those of novels and encyclopedias, not of patients.
    """
    groups, hinted = (GROUPS, _hinted) if medical else (_DIRECT_GROUPS, _hinted_direct)
    plain = text.translate(_WIDE) if _wide(text) else text
    marks = [(*mark.span(), mark[1]) for mark in _placeholders(text)] if "[" in text else []
    view, at = blotted(plain, range(len(text) + 1), marks) if marks else (plain, range(len(text) + 1))
    spans: list[Span] = []
    # Going on until nothing more is found is what makes a second call find nothing.
    for _ in range(_PASSES):
        rules = [rule for group in groups if group.search(view) for rule in group.rules] if hinted(view) else []
        view, at, new = _taken(view, at, [*rules, *NAME_RULES] if medical else rules)
        spans += new
        if repeated := _again(text, spans):
            spans += repeated
            view, at = blotted(plain, range(len(text) + 1), sorted(marks + spans))
        elif not new:
            break
    return sorted(spans)


def blotted_numbers(text: str) -> tuple[str, Sequence[int]]:
    """`text` as the rules for names see it: numbers and places that were found are one character each."""
    view = text.translate(_WIDE)
    rules = [rule for group in GROUPS if group.search(view) for rule in group.rules]
    return _taken(view, range(len(text) + 1), rules)[:2]


def _taken(view: str, at: Sequence[int], rules: Sequence[Rule]) -> tuple[str, Sequence[int], list[Span]]:
    """What the rules find, in characters of the text; each sees what those before it took as one character."""
    spans: list[Span] = []
    for kind, finder in rules:
        if new := [(start, end, kind) for start, end in finder(view)]:
            spans += [(at[start], at[end], kind) for start, end, _ in new]
            view, at = blotted(view, at, new)
    return view, at, spans


def _again(text: str, spans: list[Span]) -> list[Span]:
    """Where the text repeats what was found: numbers and accounts, and names that are too long to be a word."""
    kinds = {text[start:end]: kind for start, end, kind in spans if end - start >= _REPEATED.get(kind, len(text))}
    if not any(text.count(value) > 1 for value in kinds):
        return []
    taken = {place for start, end, _ in spans for place in range(start, end)}
    # A number is repeated as a whole, not as a part of a longer one.
    whole = (rf"(?<![0-9A-Za-z]){re.escape(value)}(?![0-9A-Za-z])" for value in sorted(kinds, key=len, reverse=True))
    values = re.compile("|".join(whole)).finditer(text)
    return [(*value.span(), kinds[value[0]]) for value in values if taken.isdisjoint(range(*value.span()))]


def blotted(view: str, at: Sequence[int], spans: list[Span]) -> tuple[str, Sequence[int]]:
    """`view` with one character for each span, and where in the text its characters begin."""
    pieces, places, last = [], [], 0
    for start, end, kind in spans:
        pieces += [view[last:start], NAMED if kind == "姓名" else HIDDEN]
        places += at[last : start + 1]
        last = end
    return "".join((*pieces, view[last:])), [*places, *at[last:]]


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
        return list(texts), Counter()
    pieces, last = [], 0
    for start, end, kind in spans:
        pieces += [whole[last:start], f"[{kind}]"]
        last = end
    # No rule takes a line end, so each text keeps its number of lines.
    lines = iter("".join((*pieces, whole[last:])).split("\n"))
    changed = ["\n".join(islice(lines, text.count("\n") + 1)) for text in texts]
    return changed, Counter(kind for *_, kind in spans)
