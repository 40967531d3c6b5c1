"""The embedded sample: every flaw that it plants is caught by the build."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from qilin_lib.chimed.build import build_sets
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.sample import raw_dir

pytestmark = pytest.mark.slow

PLANTED = Path(__file__).parents[1] / "sample" / "planted.json"
PARAMS = SimpleNamespace(
    sources=None,
    exclude_licences=[],
    near_dup_threshold=0.7,
    near_dup_ngram=5,
    exact_substrings="remove",
    exact_substring_length=75,
    workers=1,
    decontaminate=True,
    contamination_share=0.6,
    heldout_share_cpt=0.03,
    heldout_share_sft=0.03,
    heldout_share_dpo=0.15,
    heldout_share_general=0.03,
    general_share=None,
    ranked_answers="best_two",
    max_records_per_source=None,
    seed=42,
    min_chars=8,
)
SETS = ("cpt", "sft", "dpo", "general")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """(planted flaws, ledger, {set: lines}, dropped lines)."""
    out = tmp_path_factory.mktemp("sample")
    ledger = build_sets(PARAMS, raw_dir(), out, progress=lambda line: None)
    lines = {n: (out / f"{n}.jsonl").read_text(encoding="utf-8").splitlines() for n in (*SETS, "dropped")}
    planted = json.loads(PLANTED.read_text(encoding="utf-8"))
    return planted, ledger, {name: lines[name] for name in SETS}, [json.loads(line) for line in lines["dropped"]]


def planted(built, kind):
    found = [flaw for flaw in built[0] if flaw["kind"] == kind]
    assert found, f"the sample plants no {kind}"
    return found


def test_no_personal_datum_survives(built):
    text = "\n".join(line for lines in built[2].values() for line in lines)
    left = [f"{flaw['detail']}: {flaw['text']}" for flaw in planted(built, "personal_data") if flaw["text"] in text]
    assert not left


def test_no_benchmark_item_survives(built):
    bones = skeleton("\n".join(line for lines in built[2].values() for line in lines))
    left = [
        f"{flaw['file']}: {flaw['text']}" for flaw in planted(built, "test_leak") if skeleton(flaw["text"]) in bones
    ]
    hits = sum(sum(found.values()) for found in built[1].hits.values())
    assert not left and hits >= len(planted(built, "test_leak"))


def test_broken_rows_are_rejected_in_their_source(built):
    for source in {flaw["source"] for flaw in planted(built, "broken_row")}:
        flaws = [flaw for flaw in planted(built, "broken_row") if flaw["source"] == source]
        rejected = max(row.rejected.total() for (name, _), row in built[1].rows.items() if name == source)
        # A dialogue whose last question nobody answered loses that question and keeps its answered turns.
        assert rejected >= sum("odd dialogue" not in flaw["detail"] and "val" not in flaw["file"] for flaw in flaws), (
            source
        )


def test_copies_are_dropped_as_duplicates(built):
    copies = planted(built, "exact_duplicate") + planted(built, "near_duplicate")
    dropped = {(d["source"], d["file"], d["line"]) for d in built[3] if d["reason"] == "duplicate"}
    # A triple's copy disappears in its disease entity, so that it is nobody's duplicate.
    assert len(dropped) >= sum(flaw["source"] != "kg_cpubmed" for flaw in copies) * 0.9


def test_sample_feeds_every_set_and_table_row(built):
    assert all(len(lines) > 30 for lines in built[2].values())
    assert {"CMD", "CMExam", "MedQA-textbooks", "Xywy-KG", "Zhongjing_rlhf"} <= {
        row.table_row for row in built[1].rows.values()
    }


@pytest.mark.parametrize("name", SETS)
def test_as_many_are_held_out_as_the_share_says(built, name):
    splits = [json.loads(line)["split"] for line in built[2][name]]
    share = getattr(PARAMS, f"heldout_share_{name}")
    # Drawn one by one: within four standard deviations of a binomial.
    assert abs(splits.count("heldout") - share * len(splits)) < 4 * (share * (1 - share) * len(splits)) ** 0.5
