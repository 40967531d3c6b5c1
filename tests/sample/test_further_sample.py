"""What the sample holds for 06 beside the three benchmarks, and what 01 makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qilin_lib.chimed import sources
from qilin_lib.chimed.compose import general_text
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import item_of
from qilin_lib.chimed.records import Record
from qilin_lib.chimed.sources import TRAINING_SETS
from qilin_lib.evaluate.benchmarks import exams
from qilin_lib.sample import raw_dir

RAW = raw_dir()
SUBJECTS = exams.CMMLU_SUBJECTS


def test_cmmlu_has_every_subject_with_five_examples_and_one_flawed_row() -> None:
    folder = RAW / "cmmlu"
    items, invalid = exams.cmmlu_items(folder)
    assert Counter(item.subject for item in items) == dict.fromkeys(SUBJECTS, 6) | {"anatomy": 5}
    assert [(row["file"], row["detail"]) for row in invalid] == [("anatomy.csv", "answer is no option: E")]
    assert {name: len(shots) for name, shots in exams.cmmlu_dev(folder, sorted(SUBJECTS), 5).items()} == dict.fromkeys(
        SUBJECTS, 5
    )


def test_medqa_has_four_options_and_five_and_one_flawed_row() -> None:
    items, invalid = exams.medqa_items(RAW / "medqa")
    assert Counter(len(item.options) for item in items) == {4: 7, 5: 12}
    assert len({item.gold for item in items}) >= 4 and len({item.question for item in items}) == 19
    assert [row["detail"] for row in invalid] == ["answer is no option: F"]


def test_nothing_of_these_files_is_training_data() -> None:
    for name in ("cmmlu", "medqa"):
        assert {kind for feed in sources.BY_NAME[name].feeds for kind in feed.rows} == {"eval"}
    assert "mc" not in sources.BY_NAME
    read = {kind: Counter(unit.read.file for unit in units_of(RAW, "cmtmedqa", kind)) for kind in ("sft", "eval")}
    assert set(read["sft"]) == {"CMtMedQA.json"} and read["eval"] == {"CMtMedQA_test.json": 20}


def units_of(folder: Path, name: str, *sets: str) -> list[sources.Unit]:
    return list(sources.units(sources.BY_NAME[name], folder, sets))


def test_no_training_record_holds_a_new_benchmark_item() -> None:
    """The new benchmarks must not cost the sample training data."""
    reads = [unit.read for name in ("cmmlu", "medqa", "cmtmedqa") for unit in units_of(RAW, name, "eval")]
    items = [item for read in reads if isinstance(read, Record) and (item := item_of(read))]
    assert len(items) == 7 * 11 - 1 + 19 + 19
    training = [
        unit.read.payload
        for source in sources.REGISTRY
        for unit in units_of(RAW, source.name, *TRAINING_SETS)
        if isinstance(unit.read, Record)
    ]
    hits = Index(items).hits([[general_text(payload)] for payload in training], 0.6)
    assert len(training) > 2000 and not any(hits)


# --- annotated sentences ----------------------------------------------------------------------------------------------
