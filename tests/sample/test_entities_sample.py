"""The sample's annotated sentences: places hold their mentions, some nest, one row of each file is wrong."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from qilin_lib.chimed import sources
from qilin_lib.sample.entities import CCKS, CMEEE, RECORDS, SENTENCES, sheets
from qilin_lib.sample.knowledge import load

Rendered = tuple[Path, dict[str, int]]
# CMeEE's nine types.
CODES = {"dis", "sym", "pro", "equ", "dru", "ite", "bod", "dep", "mic"}


def cmeee(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / CMEEE).read_text(encoding="utf-8"))


def ccks(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / CCKS).read_text(encoding="utf-8").splitlines()]


def cmeee_holds(row: dict[str, Any]) -> bool:
    return all(row["text"][e["start_idx"] : e["end_idx"] + 1] == e["entity"] for e in row["entities"])


def ccks_holds(row: dict[str, Any]) -> bool:
    places = [(e["entity_index"]["begin"], e["entity_index"]["end"], e["entity"]) for e in row["entity_list"]]
    return all(row["text"][begin:end] == mention and end <= len(row["text"]) for begin, end, mention in places)


def test_every_place_holds_its_mention_but_in_the_last_row(rendered: Rendered) -> None:
    assert rendered[1][CMEEE] == SENTENCES == 40 and rendered[1][CCKS] == RECORDS == 30
    assert [cmeee_holds(row) for row in cmeee(rendered[0])] == [True] * 39 + [False]
    assert [ccks_holds(row) for row in ccks(rendered[0])] == [True] * 29 + [False]


def test_types_are_the_sets_own_and_several(rendered: Rendered) -> None:
    kinds = Counter(entity["type"] for row in cmeee(rendered[0]) for entity in row["entities"])
    assert set(kinds) == {"dis", "sym", "pro", "ite", "dru", "dep", "bod"} <= CODES and min(kinds.values()) >= 3
    kinds = Counter(entity["entity_type"] for row in ccks(rendered[0]) for entity in row["entity_list"])
    assert {"解剖部位", "疾病和诊断", "手术", "药物"} < set(kinds) and kinds["疾病和诊断"] == 30


def test_entities_nest_in_cmeee_and_never_in_ccks(rendered: Rendered) -> None:
    def overlaps(spans: list[tuple[int, int]]) -> int:
        return sum(a[1] > b[0] for a, b in zip(sorted(spans), sorted(spans)[1:], strict=False))

    nested = [[(e["start_idx"], e["end_idx"] + 1) for e in row["entities"]] for row in cmeee(rendered[0])[:-1]]
    flat = [[tuple(e["entity_index"].values()) for e in row["entity_list"]] for row in ccks(rendered[0])[:-1]]
    assert sum(map(overlaps, nested)) >= 8 and sum(map(overlaps, flat)) == 0


def test_sentences_come_from_the_sample_s_diseases_and_are_all_different(rendered: Rendered) -> None:
    names = {disease["name"] for disease in load().diseases}
    for rows, key in ((cmeee(rendered[0]), "entities"), (ccks(rendered[0]), "entity_list")):
        assert len({row["text"] for row in rows}) == len(rows)
        assert all(names & {entity["entity"] for entity in row[key]} for row in rows)
        assert all(len(row["text"]) <= 120 for row in rows)


def test_another_seed_gives_other_sentences() -> None:
    diseases = load().diseases
    here, there = ([row["text"] for row in sheets(diseases, seed)[0].records] for seed in (17, 18))
    assert here != there and here == [row["text"] for row in sheets(diseases, 17)[0].records]


def test_notebook_01_reads_neither_folder(rendered: Rendered) -> None:
    state = sources.inventory(rendered[0])
    assert "present" not in (state["cmeee_v2"], state["ccks2019"])
    assert not {"cmeee_v2", "ccks2019"} & set(sources.BY_NAME)
