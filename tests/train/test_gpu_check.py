"""The check of a GPU: the whole of it at a small shape on the CPU, and one sentence where it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import files, params
from qilin_lib.train import gpu_check

pytestmark = pytest.mark.slow


def run(*arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "qilin_lib.gpu_check", *arguments],
        capture_output=True, text=True, check=True, cwd=params.ROOT, env={**os.environ, **environment},
    )  # fmt: skip
    return done.stdout


def test_every_case_runs_at_a_small_shape(tmp_path: Path) -> None:
    shown = run("--tiny", "--out", str(tmp_path / "table.json"))
    found = files.read_json(tmp_path / "table.json")
    rows = found["rows"]
    assert found["device"] == "CPU" and not [row["note"] for row in rows.values() if "note" in row]
    for name in gpu_check.CASES:
        assert rows[name]["tokens/s"] > 0 and rows[name]["at least"] <= rows[name]["at most"] and name in shown
    assert rows["LoRA SFT"]["batch"] == "8 x 64" and rows["LoRA DPO, live reference"]["batch"] == "16 x 48"
    assert rows["generation"]["tokens/s"] > 0
    small, large = rows["update of 0.05%"], rows["update of 1.00%"]
    # To nearest a small update is mostly lost; stochastic rounding keeps it in the mean.
    assert small["nearest bf16"] < 0.5 and abs(small["stochastic bf16"] - 1) < 0.2
    assert abs(large["nearest bf16"] - 1) < 0.05 and abs(large["stochastic bf16"] - 1) < 0.05


def test_without_a_gpu_it_is_one_sentence() -> None:
    shown = run(CUDA_VISIBLE_DEVICES="")
    assert shown == "gpu_check: skipped, because torch sees no GPU here; --tiny runs the same code on the CPU.\n"


def test_a_missing_package_is_named(tmp_path: Path) -> None:
    """Also one that the kit itself cannot be imported without."""
    (tmp_path / "pydantic.py").write_text("raise ModuleNotFoundError(name='pydantic')")
    shown = run("--tiny", PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"], str(params.ROOT)]))
    assert shown == "gpu_check: skipped, because the Python package pydantic is not installed.\n"


@pytest.mark.parametrize(("memory", "free", "why"), [(16, 99, "less than 22 GiB"), (80, 9, "no 16 GiB free")])
def test_a_machine_that_is_too_small_is_told(memory: int, free: int, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = SimpleNamespace(total_memory=memory * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: device)
    monkeypatch.setattr(gpu_check.shutil, "disk_usage", lambda _: SimpleNamespace(free=free * 2**30))
    assert why in gpu_check.lacking(False)


def test_a_case_that_fails_or_lasts_too_long_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    def fail() -> dict[str, Any]:
        raise MemoryError("CUDA out of memory")

    now = time.monotonic()
    assert gpu_check.row(fail, now + 100) == {"note": "MemoryError: CUDA out of memory"}
    assert gpu_check.row(fail, now + 5) == {"note": "skipped: no time left"}
