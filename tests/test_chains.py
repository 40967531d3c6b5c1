"""Chains of trainings: what they may be and what stands on what (test_pipeline.py: a run goes through one)."""

from __future__ import annotations

import pytest

from qilin_lib import chains, params, runs
from qilin_lib.errors import QilinError
from qilin_lib.models import names

FOUR = ["dcpt", "sft", "dpo", "sft2"]
BASE = {"name": "baichuan-inc/Baichuan-7B", "source": "hub", **names.PAPER_SIZE}


def test_the_default_chain_is_the_paper_s() -> None:
    graph = chains.graph(chains.DEFAULT)
    assert list(graph) == list(params.NOTEBOOKS)
    assert graph["03_dcpt"] == ("02_tokenize",)
    assert graph["05_dpo"] == ("01_build_chimed", "02_tokenize", "04_sft")
    assert graph["08_rlhf"] == ("01_build_chimed", "02_tokenize", "04_sft", "05_dpo")
    assert graph["09_bias"] == ("02_tokenize", "03_dcpt", "04_sft", "05_dpo", "08_rlhf")
    loaded = params.load("04_sft")
    assert loaded.chain == list(chains.DEFAULT) and loaded.folder == "04_sft"


@pytest.mark.parametrize(
    ("chain", "stage", "start"),
    [
        (FOUR, "04_sft2", "05_dpo"),
        (["sft", "dcpt"], "03_dcpt", "04_sft"),
        (["sft", "dcpt"], "04_sft", "02_tokenize"),
        (["dpo", "dpo2"], "05_dpo2", "05_dpo"),
        (FOUR, "08_rlhf", "04_sft2"),
        (["dcpt"], "08_rlhf", "03_dcpt"),
    ],
)
def test_each_training_starts_from_the_one_before(chain: list[str], stage: str, start: str) -> None:
    assert chains.start(chain, stage) == start and start in chains.graph(chain)[stage]


@pytest.mark.parametrize(
    ("chain", "reason"),
    [
        (["sft", "sft"], "'sft' stands twice; nearest valid: 'sft2'"),
        (["sft2", "sft"], "'sft2' comes before any 'sft'"),
        (["stf"], "'stf': no training; nearest valid: dcpt, sft, dpo, or one with a number: sft2"),
        (["sft1"], "'sft1': no training"),
        ([], "at least 1 item"),
    ],
)
def test_a_chain_that_cannot_be_is_a_sentence(chain: list[str], reason: str) -> None:
    with pytest.raises(QilinError) as refused:
        params.load("04_sft", {"chain": chain})
    assert reason in str(refused.value) and "chain" in str(refused.value)


def test_chain_and_stage_are_no_part_of_a_key() -> None:
    given = ({}, {"stage": "sft"}, {"chain": ["sft"]})
    assert len({runs.key(params.load("04_sft", one), {"02_tokenize": "x"}) for one in given}) == 1


def test_rows_are_called_by_the_trainings_of_the_chain() -> None:
    told = names.describe(BASE, {"dpo": {"method": "kto"}}, FOUR)["names"]
    assert told["sft2"].endswith("+ DCPT + SFT + KTO + SFT2") and told["rl"].endswith("+ SFT2 + RL")
    assert names.describe(BASE, {}, ["sft", "dcpt"])["as_paper"] == ["base"]
    assert list(names.places(FOUR)) == ["base", *FOUR, "rejection_sampling", "rl"]
    assert names.places(FOUR)["sft2"] == "04_sft2"
    assert not chains.conversed(["dcpt", "sft"], "dcpt") and chains.conversed(["sft", "dcpt"], "dcpt")
