"""The estimate on bases of other makes, in a kernel that stays light, and of the whole stage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.train import preflight

pytestmark = pytest.mark.slow

SMALL = {"vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
# What config.json says of a small model of each make.
MAKES: dict[str, dict[str, Any]] = {
    "llama": {**SMALL, **HEADS},
    "tied": {**SMALL, **HEADS, "model_type": "llama", "tie_word_embeddings": True},
    "glm4": {**SMALL, **HEADS},
    "phi3": {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0},
    "qwen3_moe": {**SMALL, **HEADS, **EXPERTS},
    "gpt2": {"vocab_size": 320, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
}


def base(make: str, folder: Path) -> Any:
    """A random model of this make, saved in `folder`; returned as well."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = {"model_type": make, **MAKES[make]}
    config = AutoConfig.for_model(kind.pop("model_type"), **kind)
    model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    return model


def term(found: preflight.Preflight, where: str, what: str) -> float:
    """Bytes of one row of the table."""
    return found.frame.set_index(["where", "what"])["GiB"][where, what] * preflight.GIB


def stage_on(folder: Path, runs_dir: Path) -> None:
    files.write_json(runs_dir / "r" / "02_tokenize" / "base.json", {"path": str(folder)})


@pytest.mark.parametrize("make", MAKES)
def test_a_base_of_any_make_has_an_estimate(make: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    model = base(make, tmp_path / "base")
    stage_on(tmp_path / "base", tmp_path)
    count = sum(weight.numel() for weight in model.parameters())
    for notebook in ("03_dcpt", "04_sft", "05_dpo"):
        chosen = {"run": "r", "finetuning": "lora", "lora_dropout": 0.05, "modules_to_save": []}
        try:
            found = term(preflight.estimate(params.load(notebook, chosen)), "training", "weights")
        except Exception as crash:  # noqa: BLE001 - whatever it is, it would end the notebook
            found = f"{type(crash).__name__}: {crash}"
        assert found == pytest.approx(4 * count)


def imported(statements: str, runs_dir: Path) -> list[str]:
    """Which heavy libraries a fresh Python has imported after `statements`."""
    heavy = "[name for name in ('torch', 'transformers', 'peft', 'trl') if name in sys.modules]"
    program = f"import sys, json\nfrom qilin_lib import params\n{statements}\nprint(json.dumps({heavy}))"
    environment = {**os.environ, "QILIN_RUNS_DIR": str(runs_dir)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True, cwd=params.ROOT
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_an_estimate_for_the_cpu_imports_no_heavy_library(tmp_path: Path) -> None:
    statements = "from qilin_lib.train import preflight\nrepr(preflight.estimate(params.load('04_sft')))"
    assert imported(statements, tmp_path) == []


def test_the_plan_of_a_run_on_the_cpu_imports_no_heavy_library(tmp_path: Path) -> None:
    statements = (
        "from qilin_lib.train.plan import plan\nrepr(plan({name: params.load(name) for name in params.NOTEBOOKS}))"
    )
    assert imported(statements, tmp_path) == []


def test_the_estimate_is_of_the_whole_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    shown = repr(preflight.estimate(params.load("04_sft", {"profile": "qlora_24gb"})))
    assert "scoring" in shown and "disk" in shown and "at most" in shown


def test_checks_of_module_names_import_no_heavy_library(tiny_model_dir: Path, tmp_path: Path) -> None:
    files.write_json(tmp_path / "02_tokenize" / "base.json", {"path": str(tiny_model_dir)})
    statements = (
        "from pathlib import Path\nfrom types import SimpleNamespace as Of\nfrom qilin_lib.train import checks\n"
        "p = params.load('03_dcpt', {'target_modules': ['q_proj', 'v_proj']})\n"
        f"checks.check(Of(name='03_dcpt', parameters=p, parent=Path({str(tmp_path)!r}).joinpath))"
    )
    assert imported(statements, tmp_path) == []
