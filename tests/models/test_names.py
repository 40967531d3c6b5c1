"""Names of a run's models, the rule for the paper's base, and the sentences on accepted stages."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import chains, files, runs
from qilin_lib.models import names

ONE_STAGE = {"sft": {"one_stage": {}}}
HUB = {"name": "baichuan-inc/Baichuan-7B", "source": "hub", "parameters": 7_000_559_616, "vocabulary": 64_000}
FOLDER = HUB | {"name": "models/Baichuan-7B-llama", "source": "folder", "converted": "Baichuan-7B"}


@pytest.mark.parametrize(
    ("count", "short", "long"),
    [
        (2_263_296, "2.3M", "2.3 million weights"),
        (7_000_559_616, "7.0B", "7.0 billion weights"),
        (12_855_000_000, "13B", "13 billion weights"),
        (999_700_000, "1.0B", "1.0 billion weights"),
        (9_960_000, "10M", "10 million weights"),
        (12, "12", "12 weights"),
    ],
)
def test_sizes(count: int, short: str, long: str) -> None:
    assert (names.weights(count), names.weights(count, words=True)) == (short, long)


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ({"name": "tiny", "source": "kit"}, "tiny"),
        ({"name": "/secret/place/mine", "source": "folder"}, "mine"),
        ({"name": "../models/mine/", "source": "folder"}, "mine"),
        ({"name": "owner/name@abc", "source": "hub"}, "owner/name@abc"),
    ],
)
def test_a_base_is_called_by_its_id_or_its_folder(base: dict[str, Any], name: str) -> None:
    assert names.base_name(base) == name


def test_dcpt_is_no_part_of_the_one_stage_chain(tmp_path: Path) -> None:
    base = {"name": "tiny", "source": "kit", "parameters": 2_263_296}
    two, one = (names.describe(base, facts)["names"] for facts in ({}, ONE_STAGE))
    assert two["rl"] == "tiny 2.3M + DCPT + SFT + RL" and two["base"] == one["base"] == "tiny 2.3M"
    assert one["sft"] == "tiny 2.3M + one-stage SFT" and one["dpo"] == "tiny 2.3M + one-stage SFT + DPO"
    assert one["dcpt"] == "tiny 2.3M + DCPT" and one["rejection_sampling"].endswith("SFT + rejection sampling")
    assert names.describe(HUB)["as_paper"] == ["base", "dcpt", "sft", "dpo"]
    assert names.describe(HUB, ONE_STAGE)["as_paper"] == ["base", "dcpt"] and not names.describe(base)["as_paper"]
    files.write_json(tmp_path / "02_tokenize" / "base.json", base)
    files.write_json(tmp_path / "04_sft" / "facts.json", {"one_stage": {"passages": {}}})
    parameters = SimpleNamespace(chain=chains.DEFAULT)
    stage: Any = SimpleNamespace(parent=lambda name: tmp_path / name, run=runs.Run(tmp_path), parameters=parameters)
    assert names.describe_run(stage)["names"] == one


@pytest.mark.parametrize(
    ("base", "is_paper"),
    [
        (HUB, True),
        (HUB | {"name": "baichuan-inc/Baichuan-7B@main"}, True),
        (HUB | {"name": "someone/Baichuan-7B"}, False),
        (HUB | {"name": "baichuan-inc/Baichuan2-7B-Base", "vocabulary": 125_696}, False),
        (FOLDER, True),
        (FOLDER | {"converted": ""}, False),
        (FOLDER | {"converted": "Baichuan2-7B"}, False),
        (FOLDER | {"name": "models/my-sft"}, False),
        (FOLDER | {"parameters": 2_263_296}, False),
        ({"name": "Baichuan-7B", "parameters": 7_000_559_616}, False),
    ],
)
def test_the_papers_base_is_known_by_its_facts(base: dict[str, Any], is_paper: bool) -> None:
    assert names.is_paper_base(base) is is_paper


def test_acceptances_are_found_down_the_chain_and_nowhere_else(tmp_path: Path) -> None:
    for stage, when in (("05_dpo", "2026-02-01"), ("03_dcpt", "2026-01-01"), ("09_bias", "2026-03-01")):
        entry = {"stage": stage, "when": when, "reason": "only the log differs"}
        entry |= {"key": "", "inputs": {}, "files": {}}
        files.write_json(tmp_path / f"{stage}.accepted.json", [entry, entry])
    third = "03_dcpt was accepted as it is on 2026-01-01: only the log differs"
    assert names.accepted(tmp_path, "04_sft") == [third] and names.accepted(tmp_path, "02_tokenize") == []
    (tmp_path / "other").mkdir()
    (tmp_path / "03_dcpt").mkdir()
    (tmp_path / "other" / "03_dcpt").symlink_to(tmp_path / "03_dcpt")
    assert names.accepted(tmp_path / "other", "04_sft") == [third], "a shared stage brings its acceptance along"
    files.write_json(tmp_path / "06_eval" / "scores.json", {"ceval": {}})
    fifth = third.replace("03_dcpt", "05_dpo").replace("01-01", "02-01")
    assert names.read_scores(tmp_path / "06_eval" / "scores.json")["accepted"] == [third, fifth]
