"""What the sample holds for 06 beside the three benchmarks, and what 01 makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from qilin_lib.chimed import sources
from qilin_lib.chimed.decontaminate import Index, item_of
from qilin_lib.chimed.records import Record, content
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.chimed.sources import TRAINING_SETS
from qilin_lib.evaluate import dialogue, exams
from qilin_lib.sample.further import SUBJECTS

Rendered = tuple[Path, dict[str, int]]


def test_cmmlu_has_every_subject_with_five_examples_and_one_flawed_row(rendered: Rendered) -> None:
    folder = rendered[0] / "cmmlu"
    items, invalid = exams.cmmlu_items(folder)
    assert Counter(item.subject for item in items) == dict.fromkeys(SUBJECTS, 6) | {"anatomy": 5}
    assert [(row["file"], row["detail"]) for row in invalid] == [("anatomy.csv", "answer is no option: E")]
    assert set(SUBJECTS) == set(exams.CMMLU_SUBJECTS)
    assert {name: len(shots) for name, shots in exams.cmmlu_dev(folder, sorted(SUBJECTS), 5).items()} == dict.fromkeys(
        SUBJECTS, 5
    )


def test_rates_are_counted_right(rendered: Rendered) -> None:
    items, _ = exams.cmmlu_items(rendered[0] / "cmmlu")
    for item in (item for item in items if item.subject == "college_medical_statistics"):
        people, ill = (int("".join(filter(str.isdigit, part))) for part in item.question.split("，")[:2])
        assert item.options[item.gold] == f"{100 * ill // people}%" and 100 * ill % people == 0


def test_medqa_has_four_options_and_five_and_one_flawed_row(rendered: Rendered) -> None:
    items, invalid = exams.medqa_items(rendered[0] / "medqa")
    assert Counter(len(item.options) for item in items) == {4: 7, 5: 12}
    assert len({item.gold for item in items}) >= 4 and len({item.question for item in items}) == 19
    assert [row["detail"] for row in invalid] == ["answer is no option: F"]


def test_mc_has_dialogues_of_two_to_four_exchanges_and_one_flawed(rendered: Rendered) -> None:
    items, invalid = dialogue.dialogue_items("mc", rendered[0] / "mc", None)
    assert Counter(len(item.history) for item in items) == {1: 7, 2: 6, 3: 6}
    assert [row["detail"] for row in invalid] == ["the dialogue does not end with the doctor"]
    joined = [item for item in items if "\n" in item.reference]
    assert len(joined) == 7  # the doctor's last answer came in two pieces


def test_cmtmedqas_test_file_has_dialogues_of_two_to_four_exchanges_and_one_flawed(rendered: Rendered) -> None:
    items, invalid = dialogue.dialogue_items("cmtmedqa", rendered[0] / "cmtmedqa", None)
    assert Counter(len(item.history) for item in items) == {1: 7, 2: 6, 3: 6}
    assert [row["detail"] for row in invalid] == ["empty field: output"]
    assert {item.split for item in items} == {"test"}


def test_nothing_of_these_files_is_training_data(rendered: Rendered) -> None:
    for name in ("cmmlu", "medqa"):
        assert {kind for feed in sources.BY_NAME[name].feeds for kind in feed.rows} == {"eval"}
    assert "mc" not in sources.BY_NAME
    read = {
        kind: Counter(unit.read.file for unit in units_of(rendered[0], "cmtmedqa", kind)) for kind in ("sft", "eval")
    }
    assert set(read["sft"]) == {"CMtMedQA.json"} and read["eval"] == {"CMtMedQA_test.json": 20}


def units_of(folder: Path, name: str, *sets: str) -> list[sources.Unit]:
    return list(sources.units(sources.BY_NAME[name], folder, sets))


def test_no_training_record_holds_a_new_benchmark_item(rendered: Rendered) -> None:
    """The new benchmarks must not cost the sample training data."""
    reads = [unit.read for name in ("cmmlu", "medqa", "cmtmedqa") for unit in units_of(rendered[0], name, "eval")]
    items = [item for read in reads if isinstance(read, Record) and (item := item_of(read))]
    assert len(items) == 7 * 11 - 1 + 19 + 19
    training = [
        unit.read.payload
        for source in sources.REGISTRY
        for unit in units_of(rendered[0], source.name, *TRAINING_SETS)
        if isinstance(unit.read, Record)
    ]
    hits = Index(items).hits(training, [skeleton(content(payload)) for payload in training], 0.6)
    assert len(training) > 2000 and not any(hits)
