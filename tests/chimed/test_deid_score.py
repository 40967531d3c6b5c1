"""The labelled sentences are what they claim to be, the score counts right, the rules reach what is asked of them."""

from __future__ import annotations

import re
from unicodedata import normalize

import pytest

from qilin_lib.chimed.deid_numbers import valid_identity_number
from qilin_lib.chimed.deid_score import Case, labelled_cases, score

# First two digits of identity numbers that exist (GB/T 2260).
PROVINCES = {place for first, last in ((11, 15), (21, 23), (31, 37), (41, 46), (50, 54), (61, 65), (81, 83))
             for place in range(first, last + 1)} | {71}  # fmt: skip


def spans_of(kind: str) -> list[str]:
    return [case.text[start:end] for case in labelled_cases("tune") for start, end, this in case.spans if this == kind]


def test_spans_lie_in_order_inside_their_sentence() -> None:
    for case in labelled_cases():
        borders = [place for start, end, _ in case.spans for place in (start, end)]
        assert borders == sorted(borders) and all(place <= len(case.text) for place in borders)
        assert all(start < end for start, end, _ in case.spans)
        assert all(case.text[start:end].strip() == case.text[start:end] for start, end, _ in case.spans)


def test_identity_numbers_are_well_formed_and_nobodys() -> None:
    numbers = [re.sub(r"[^\dXx]", "", normalize("NFKC", number)) for number in spans_of("身份证号")]
    # A few are mistyped, as happens, and those of other hands hold invented check digits.
    mistyped = [number for number in numbers if len(number) != 15 and not valid_identity_number(number)]
    assert len(mistyped) <= len(numbers) / 6
    assert not [number for number in numbers if int(number[:2]) in PROVINCES]


def test_mail_goes_to_reserved_domains() -> None:
    assert not [address for address in spans_of("邮箱") if not re.search(r"[@.]example\.", address, re.IGNORECASE)]


def test_precision_and_recall_reach_what_is_asked() -> None:
    # The split "test" is measured in notebook 01, not asserted: nobody may tune the rules until it passes.
    *rows, overall = score(labelled_cases("tune"))
    assert overall.type == "all" and overall.labelled > 700
    assert overall.true_positives / (overall.true_positives + overall.false_positives) >= 0.99
    assert overall.true_positives / overall.labelled >= 0.95
    # Names that no cue stands beside are what is missed.
    others = [row for row in rows if row.type != "姓名"]
    found, labelled = sum(row.true_positives for row in others), sum(row.labelled for row in others)
    assert found / labelled >= 0.98


PHONE, WRONG = ((2, 13, "电话"),), ((0, 13, "电话"), (14, 15, "姓名"))


@pytest.mark.parametrize(
    "cases, kind, counts",
    [
        # A border that is not found, a span that should not be there, a name that no rule knows.
        ({"电话13912345678": PHONE, "电话13912345678，李医生": WRONG, "打13912345678": ()}, "电话", (1, 2, 1, 1)),
        ({"电话13912345678，李医生": WRONG, "小名花椒": ((2, 4, "姓名"),)}, "姓名", (1, 0, 1, 1)),
        ({"电话13912345678，李医生": WRONG, "小名花椒": ((2, 4, "姓名"),), "打13912345678": ()}, "all", (1, 2, 2, 1)),
        # Spaces at the ends of a label do not count.
        ({"手机 13912345678 ": ((2, 15, "电话"),)}, "电话", (1, 0, 0, 1)),
        # Covered asks for every character and no type.
        ({"支付宝账号：13912345678": ((6, 17, "电话"),), "姓名：王小": ((2, 5, "姓名"),)}, "all", (0, 2, 2, 1)),
    ],
)
def test_score_counts_found_wrong_missed_and_covered(cases: dict, kind: str, counts: tuple) -> None:
    rows = {row.type: row for row in score(Case(text, spans, "tune") for text, spans in cases.items())}
    assert rows[kind] == (kind, *counts)
