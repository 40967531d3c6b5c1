"""The embedded sample: every flaw that it plants is caught by the build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qilin_lib.chimed.shingles import skeleton
from qilin_lib.sample import raw_dir

pytestmark = pytest.mark.slow

SETS = ("cpt", "sft", "dpo", "general")
PLANTED = json.loads((Path(__file__).parents[1] / "sample" / "planted.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(build_of, tmp_path_factory):
    return build_of(raw_dir(), tmp_path_factory.mktemp("sample"))


@pytest.fixture(scope="module")
def text(built):
    return "\n".join(json.dumps(line, ensure_ascii=False) for name in SETS for line in getattr(built, name))


def planted(*kinds):
    found = [flaw for flaw in PLANTED if flaw["kind"] in kinds]
    assert {flaw["kind"] for flaw in found} == set(kinds)
    return found


def test_no_personal_datum_survives(text):
    assert not [flaw for flaw in planted("personal_data") if flaw["text"] in text]


def test_no_benchmark_item_survives(built, text):
    bones = skeleton(text)
    assert not [flaw for flaw in planted("test_leak") if skeleton(flaw["text"]) in bones]
    assert sum(sum(hits.values()) for hits in built.ledger["hits"].values()) >= len(planted("test_leak"))


def test_broken_rows_are_rejected_in_their_source(built):
    # A dialogue whose last question nobody answered loses that question and keeps its answered turns.
    flaws = [
        flaw for flaw in planted("broken_row") if "odd dialogue" not in flaw["detail"] and "val" not in flaw["file"]
    ]
    for source in {flaw["source"] for flaw in flaws}:
        rejected = [sum(row["rejected"].values()) for row in built.ledger["sources"] if row["source"] == source]
        assert max(rejected) >= sum(flaw["source"] == source for flaw in flaws), source


def test_copies_are_dropped_as_duplicates(built):
    dropped = {(line["source"], line["file"], line["line"]) for line in built.dropped if line["reason"] == "duplicate"}
    # A triple's copy disappears in its disease entity, so that it is nobody's duplicate.
    copies = [flaw for flaw in planted("exact_duplicate", "near_duplicate") if flaw["source"] != "kg_cpubmed"]
    assert len(dropped) >= len(copies) * 0.9


def test_sample_feeds_every_set_and_table_row_and_holds_out_the_share(built):
    rows = {row["table_row"] for row in built.ledger["sources"]}
    assert {"CMD", "CMExam", "MedQA-textbooks", "Xywy-KG", "Zhongjing_rlhf"} <= rows
    for name in SETS:
        splits, share = [line["split"] for line in getattr(built, name)], 0.2 if name == "dpo" else 0.04
        # Drawn one by one: within four standard deviations of a binomial.
        assert abs(splits.count("heldout") - share * len(splits)) < 4 * (share * (1 - share) * len(splits)) ** 0.5
        assert len(splits) > 30
