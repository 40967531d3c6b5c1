"""An estimate is of the whole stage, and what needs no model imports no library that loads one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qilin_lib import files, params
from qilin_lib.train import preflight

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


def test_the_estimate_is_of_the_whole_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    shown = repr(preflight.estimate(params.load("04_sft", {"profile": "qlora_24gb"})))
    assert "scoring" in shown and "disk" in shown and "at most" in shown
