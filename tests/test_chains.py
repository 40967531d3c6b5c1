"""Chains of trainings: what they may be, what stands on what, and that a run goes through one like any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import chains, files, params, pipeline, runs, stages
from qilin_lib.errors import QilinError
from qilin_lib.models import names

FOUR = ["dcpt", "sft", "dpo", "sft2"]
BASE = {"name": "baichuan-inc/Baichuan-7B", "source": "hub", **names.PAPER_SIZE}


@pytest.fixture
def call(tmp_path: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`call(*arguments)`: the exit code of `pipeline longer …`, a profile of chain FOUR, without papermill."""
    folder = tmp_path / "params"
    folder.mkdir()
    (folder / "smoke.yaml").write_bytes((params.ROOT / "params" / "smoke.yaml").read_bytes())
    text = f"extends: smoke\nchain: {json.dumps(FOUR)}\nsft: {{lora_r: 4}}\nsft2: {{finetuning: full, max_steps: 7}}\n"
    files.write_text(folder / "longer.yaml", f"{text}eval: {{models: {json.dumps(['base', *FOUR])}}}\n")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(folder))
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "{}\n")
    monkeypatch.setattr(pipeline, "_execute", execute)
    monkeypatch.setattr("test_chains.DONE", [])
    return lambda *arguments: pipeline.main(["longer", "-p", "raw_dir", str(tmp_path / "raw"), *arguments])


DONE: list[str] = []


def execute(name: str, values: dict[str, Any], run_dir: Path) -> None:
    """In papermill's place: the stage of notebook and parameters writes one file and is finished."""
    stage = stages.open_stage(params.load(pipeline._notebook(name), values))
    assert stage.name == name
    stage.begin()
    files.write_text(stage.dir / "out.txt", f"{name} {json.dumps(stage.inputs)} {stage.key}")
    stage.finish()
    DONE.append(name)


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


def test_a_further_training_has_the_first_s_values_but_for_its_own(call: Callable[..., int]) -> None:
    first, second = (params.load("04_sft", {"profile": "longer", "stage": name}) for name in (None, "sft2"))
    ours, theirs = second.model_dump(), first.model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage", "finetuning", "max_steps"}
    assert (second.lora_r, second.finetuning, second._origins["finetuning"]) == (4, "full", "longer")


def test_what_a_chain_lacks_is_refused_by_name(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for given, reason in (
        ({"stage": "sft3"}, "stage: sft3 is no training of notebook 04_sft"),
        ({"stage": "dpo"}, "nearest valid: sft, sft2"),
        ({"chain": ["dcpt", "sft"]}, "'sft2:' is no training of its chain"),
    ):
        with pytest.raises(QilinError, match=reason):
            params.load("04_sft", {"profile": "longer", **given})
    with pytest.raises(QilinError, match="'dpo' is no model of this run.*there are"):
        params.load("06_eval", {"chain": ["dcpt", "sft"]})
    with pytest.raises(QilinError, match="no such training"):
        stages.inspect_stage(params.load("03_dcpt", {"chain": ["sft"]}))
    assert call("-p", "learning_rate", "1e-5") == 2
    assert "dcpt.learning_rate, sft.learning_rate, dpo.learning_rate, sft2.learning_rate" in capsys.readouterr().err


def test_a_run_goes_through_its_chain_and_resumes(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--only", "04_sft2") == 2
    assert "run notebooks/01_build_chimed.ipynb first" in capsys.readouterr().err
    for number in ("01", "02", "03", "04", "05"):
        assert call("--only", number) == 0
    assert DONE == ["01_build_chimed", "02_tokenize", "03_dcpt", "04_sft", "05_dpo"]
    assert call("--only", "06") == 2
    assert "run notebooks/04_sft.ipynb with stage = 'sft2' first" in capsys.readouterr().err
    assert call() == 0, "the same command goes on where it stopped"
    assert DONE[5:] == ["04_sft2", "06_eval", "07_case_study", "08_rlhf", "09_bias"]
    manifest = runs.read_manifest(runs.runs_dir() / "longer", "04_sft2")
    assert list(manifest["inputs"]) == ["01_build_chimed", "02_tokenize", "05_dpo"]
    assert manifest["parameters"]["finetuning"] == "full"
    run = runs.Run(runs.runs_dir() / "longer")
    assert run.chain == FOUR and run.parents("04_sft2") == ("01_build_chimed", "02_tokenize", "05_dpo")
    assert call("--verify") == 0 and "04_sft2: 1 files" in capsys.readouterr().out


def test_the_plan_names_every_stage(call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--plan") == 0
    assert "04_sft2: disk: " in capsys.readouterr().out


def test_a_change_moves_what_stands_on_it_alone(call: Callable[..., int]) -> None:
    call()
    DONE.clear()
    assert call("-p", "sft2.learning_rate", "1e-5") == 0
    assert DONE == ["04_sft2", "06_eval", "07_case_study", "08_rlhf", "09_bias"]


def test_another_run_stands_on_the_stages_that_both_chains_have(call: Callable[..., int], capsys: Any) -> None:
    call()
    DONE.clear()
    assert call("--run", "other", "--from-run", "longer", "-p", "sft2.learning_rate", "1e-5") == 0
    assert DONE == ["04_sft2", "06_eval", "07_case_study", "08_rlhf", "09_bias"]
    assert capsys.readouterr().out.count("shared with run 'longer'") == 5


def test_a_stage_of_another_chain_is_not_stood_upon(call: Callable[..., int]) -> None:
    call()
    given = {"run": "longer", "chain": ["sft", "dpo"]}
    with pytest.raises(QilinError, match="04_sft of run 'longer' stands on 03_dcpt, as another chain has it"):
        stages.inspect_stage(params.load("05_dpo", given))


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
