"""What the sample holds for 06 beside the three benchmarks, and what 01 makes of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from qilin_lib.chimed import sources
from qilin_lib.chimed.compose import general_text
from qilin_lib.chimed.decontaminate import Index
from qilin_lib.chimed.items import item_of
from qilin_lib.chimed.records import Record
from qilin_lib.chimed.sources import TRAINING_SETS
from qilin_lib.evaluate.benchmarks import dialogue, exams
from qilin_lib.evaluate.lineage import Lineage
from qilin_lib.files import read_json, read_jsonl
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


def test_rates_are_counted_right() -> None:
    items, _ = exams.cmmlu_items(RAW / "cmmlu")
    for item in (item for item in items if item.subject == "college_medical_statistics"):
        people, ill = (int("".join(filter(str.isdigit, part))) for part in item.question.split("，")[:2])
        assert item.options[item.gold] == f"{100 * ill // people}%" and 100 * ill % people == 0


def test_medqa_has_four_options_and_five_and_one_flawed_row() -> None:
    items, invalid = exams.medqa_items(RAW / "medqa")
    assert Counter(len(item.options) for item in items) == {4: 7, 5: 12}
    assert len({item.gold for item in items}) >= 4 and len({item.question for item in items}) == 19
    assert [row["detail"] for row in invalid] == ["answer is no option: F"]


def test_mc_has_dialogues_of_two_to_four_exchanges_and_one_flawed() -> None:
    items, invalid = dialogue.dialogue_items("mc", RAW / "mc", Lineage(None, []))
    assert Counter(len(item.history) for item in items) == {1: 7, 2: 6, 3: 6}
    assert [row["detail"] for row in invalid] == ["the dialogue does not end with the doctor"]
    joined = [item for item in items if "\n" in item.reference]
    assert len(joined) == 7  # the doctor's last answer came in two pieces


def test_cmtmedqas_test_file_has_dialogues_of_two_to_four_exchanges_and_one_flawed() -> None:
    items, invalid = dialogue.dialogue_items("cmtmedqa", RAW / "cmtmedqa", Lineage(None, []))
    assert Counter(len(item.history) for item in items) == {1: 7, 2: 6, 3: 6}
    assert [row["detail"] for row in invalid] == ["empty field: output"]
    assert {item.split for item in items} == {"test"}


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


def test_every_place_holds_its_mention_but_in_the_last_row() -> None:
    def spans(text: str, places: list[tuple[int, int, str]]) -> bool:
        return all(text[begin:end] == mention for begin, end, mention in places)

    rows = read_json(RAW / "cmeee_v2/CMeEE-V2_dev.json")
    holds = [
        spans(row["text"], [(e["start_idx"], e["end_idx"] + 1, e["entity"]) for e in row["entities"]]) for row in rows
    ]
    assert holds == [True] * 39 + [False]
    rows = list(read_jsonl(RAW / "ccks2019/test.json"))
    places = [[(*e["entity_index"].values(), e["entity"]) for e in row["entity_list"]] for row in rows]
    assert [spans(row["text"], own) for row, own in zip(rows, places, strict=True)] == [True] * 29 + [False]


def test_entities_nest_in_cmeee_and_never_in_ccks() -> None:
    def overlaps(spans: list[tuple[int, ...]]) -> int:
        return sum(a[1] > b[0] for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False))

    def spans(row: dict[str, Any]) -> list[tuple[int, ...]]:
        if "entities" in row:
            return [(e["start_idx"], e["end_idx"] + 1) for e in row["entities"]]
        return [tuple(e["entity_index"].values()) for e in row["entity_list"]]

    nested = map(spans, read_json(RAW / "cmeee_v2/CMeEE-V2_dev.json")[:-1])
    flat = map(spans, list(read_jsonl(RAW / "ccks2019/test.json"))[:-1])
    assert sum(map(overlaps, nested)) >= 8 and sum(map(overlaps, flat)) == 0
