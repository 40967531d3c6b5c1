"""What a whole run needs before it starts: every number against its arithmetic, and what cannot be known said so."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.schema import Strict
from qilin_lib.train import plan as planning
from qilin_lib.train import speed
from qilin_lib.train.plan import Plan, plan

# LLaMA-7B's weights, and those of LoRA of rank 8 on its seven linear layers in 32 layers.
WEIGHTS = 6_738_415_616
LORA = 32 * 8 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
ADAPTER = {"finetuning": "lora", "dtype": "bfloat16", "gpus": 1, "lora_r": 8, "modules_to_save": []}
TRAININGS = ("03_dcpt", "04_sft", "05_dpo")

pytestmark = pytest.mark.usefixtures("nowhere")


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of this test alone, and a machine without a GPU."""
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("QILIN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(speed, "card", lambda: None)


def loaded(overrides: dict[str, dict[str, Any]] | None = None) -> dict[str, Strict]:
    """The smoke profile's parameters of every notebook with `overrides` by notebook."""
    return {name: params.load(name, (overrides or {}).get(name, {})) for name in params.NOTEBOOKS}


@pytest.fixture(scope="module")
def seven_billion(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """LoRA in 03, full training in 04, LoRA under DeepSpeed in 05, all of LLaMA-7B in bfloat16 on one GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QILIN_RUNS_DIR", str(tmp_path_factory.mktemp("runs")))
        patch.setattr(speed, "card", lambda: None)
        return plan(
            loaded(
                {
                    "02_tokenize": {"base": "huggyllama/llama-7b", "max_cpt_tokens": 10**9, "replay_share": 0.0},
                    "03_dcpt": ADAPTER,
                    "04_sft": {**ADAPTER, "finetuning": "full"},
                    "05_dpo": {**ADAPTER, "deepspeed": "zero2", "learning_rate": 1e-5},
                    "06_eval": {"dtype": "bfloat16", "gpus": 1},
                    "08_rlhf": {**ADAPTER, "rounds": 2, "method": "rloo"},
                }
            )
        )


def test_an_adapter_stays_small_and_merged_weights_are_whole(seven_billion: Plan) -> None:
    stays = seven_billion.frame["disk_stays_gb"] * 1e9
    assert 2 * WEIGHTS / 1e9 == pytest.approx(13.5, abs=0.03)
    assert stays["03_dcpt"] == pytest.approx(4 * LORA), "an adapter on the base"
    assert stays["04_sft"] == pytest.approx(2 * 2 * WEIGHTS), "03's adapter merged into the base, and the result"
    assert stays["05_dpo"] == pytest.approx(2 * WEIGHTS + 2 * LORA), "DeepSpeed keeps the adapter in bfloat16"
    eight = 2 * 2 * WEIGHTS + 4 * 4 * LORA
    assert stays["08_rlhf"] == pytest.approx(eight), "a reward model, two rounds, and what RL ends with"


def test_memory_of_7b(seven_billion: Plan) -> None:
    frame = seven_billion.frame
    gpu, host = frame["gpu_gb"] * 1e9, frame["host_gb"] * 1e9
    assert gpu["03_dcpt"] > 2 * WEIGHTS + 4 * 4 * LORA, "weights, adapter, its gradient and two moments, activations"
    assert gpu["04_sft"] > 4 * 4 * WEIGHTS
    assert 2 * WEIGHTS < gpu["06_eval"] < 2 * WEIGHTS + 1e9
    assert host["03_dcpt"] < 3e9, "an adapter is merged tensor by tensor"
    assert host["04_sft"] < 2e9
    assert gpu["07_case_study"] == 0


def test_the_whole_run_adds_up(seven_billion: Plan) -> None:
    frame = seven_billion.frame
    stays, peak = frame["disk_stays_gb"].fillna(0), frame["disk_peak_gb"].fillna(0)
    at_04 = stays["02_tokenize"] + stays["03_dcpt"] + peak["04_sft"]
    assert at_04 == pytest.approx(12 + 0.08 + 161.7 + 27.0, abs=0.1), "04's checkpoints beside what 02 and 03 left"
    assert f"at least {at_04:,.1f} GB (04_sft); {stays.sum():,.1f} GB stay" in str(seven_billion)
    assert frame.loc[list(TRAININGS), "hours"].isna().all() and "tokens/s" in frame["note"]["03_dcpt"]
    assert "this machine has no GPU: whether it fits is not known without the device" in str(seven_billion)


def test_a_bound_alone_does_not_say_that_a_card_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full rows of 160 conversations of 1,024 tokens would not fit; few batches are such."""
    monkeypatch.setattr(speed, "card", lambda: ("NVIDIA A100-SXM4-80GB", 79.0))
    found = plan({"04_sft": params.load("04_sft", {"profile": "full_a100", "per_device_train_batch_size": 160})})
    assert 14 < found.frame["gpu_gb"]["04_sft"] < 20 and "GPU memory per card: 14" in str(found)
    assert "NOT fit" not in found.sentences[2] and "at most 1" in found.frame["note"]["04_sft"]


def test_the_smoke_run_fits_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: SimpleNamespace(total=8e9, available=8e9))
    found = plan(loaded())
    assert "NOT fit" not in str(found) and found.frame["disk_peak_gb"].max() < 1 and (found.frame["gpu_gb"] == 0).all()
    assert list(found.frame.index) == list(params.NOTEBOOKS)
    assert found.frame["disk_peak_gb"]["01_build_chimed"] == pytest.approx(0.016, abs=0.003), "of the sample's 2 MB"
    stays = found.frame["disk_stays_gb"]["04_sft"] * 1e9
    assert 9e6 < stays < 3e7, "2.2 million weights in fp32, and an adapter that repeats embeddings and head"
    assert "it fits, as far as it is known" in str(found)
    assert "not known before 01 has run" in str(found) and "time unknown" in str(found)
    assert not list(tmp_path.rglob("*.json"))


def test_scratch_of_01_is_eight_times_the_raw_text(tmp_path: Path) -> None:
    """Of the files that 01 reads: links are followed, notes beside the data do not count."""
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "x" * 3_000_000)
    files.write_text(tmp_path / "elsewhere" / "b.jsonl", "x" * 1_000_000)
    (tmp_path / "raw" / "meddialog_cn").symlink_to(tmp_path / "elsewhere")
    files.write_text(tmp_path / "raw" / "cmd" / "README.md", "x" * 500_000)
    whole = plan({"01_build_chimed": params.load("01_build_chimed", {"raw_dir": str(tmp_path / "raw")})})
    assert whole.frame["disk_peak_gb"]["01_build_chimed"] == pytest.approx(0.032)
    assert whole.frame["hours"]["01_build_chimed"] == pytest.approx(22 / 60 * 4e6 / 3e9)
    none = plan({"01_build_chimed": params.load("01_build_chimed", {"raw_dir": str(tmp_path / "no")})})
    assert math.isnan(none.frame["disk_peak_gb"]["01_build_chimed"])
    assert "no such folder" in none.frame["note"]["01_build_chimed"]


def test_an_unknown_base_is_one_sentence_and_the_rest_stands(tmp_path: Path) -> None:
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "x" * 1000)
    found = plan(loaded({"01_build_chimed": {"raw_dir": str(tmp_path / "raw")}, "02_tokenize": {"base": "no/thing"}}))
    assert found.frame["disk_peak_gb"]["01_build_chimed"] > 0
    for notebook in (*TRAININGS, "06_eval", "08_rlhf"):
        assert found.frame.loc[notebook, ["disk_stays_gb", "host_gb", "hours"]].isna().all()
        assert "base = 'no/thing'" in found.frame["note"][notebook]


def test_a_run_that_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr(planning.psutil, "virtual_memory", lambda: SimpleNamespace(total=1e8))
    monkeypatch.setattr(speed, "card", lambda: ("a card", 0.2))
    found = plan(loaded({"06_eval": {"gpus": 1}}))
    for sentence, needed in zip(found.sentences, ("Disk", "Memory", "GPU memory"), strict=False):
        assert sentence.startswith(needed) and "it does NOT fit" in sentence


CHECK = """
from pathlib import Path
from types import SimpleNamespace as Of
from qilin_lib.train import checks
p = params.load("03_dcpt", {"target_modules": ["q_proj", "v_proj"]})
checks.check(Of(name="03_dcpt", parameters=p, parent=Path(os.environ["QILIN_RUNS_DIR"]).joinpath))
"""
STATEMENTS = [
    "from qilin_lib.train import preflight\nrepr(preflight.estimate(params.load('04_sft')))",
    "from qilin_lib.train.plan import plan\nrepr(plan({name: params.load(name) for name in params.NOTEBOOKS}))",
    CHECK,
]


@pytest.mark.parametrize("statements", STATEMENTS, ids=["estimate", "plan", "names of modules"])
def test_what_needs_no_model_imports_no_heavy_library(statements: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    """On the CPU, in a fresh Python."""
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    heavy = "[name for name in ('torch', 'transformers', 'peft', 'trl') if name in sys.modules]"
    program = f"import json, os, sys\nfrom qilin_lib import params\n{statements}\nprint(json.dumps({heavy}))"
    environment = {**os.environ, "QILIN_RUNS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, cwd=params.ROOT
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
