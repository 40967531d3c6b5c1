"""Every command ends a wrong call with exit code 2 and one sentence on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qilin_lib.params import ROOT

CALLS = {
    "pipeline smok": "profile 'smok': no such file",
    "chat nope": "run 'nope': no such run",
    "report.export nope sft out": "run 'nope': no such run",
    "report.bundle nope": "run 'nope': no such run",
    "train.probe 05_dpo smok": "profile 'smok': no such file",
    "train.probe 99_dpo smoke": "notebook '99_dpo': unknown",
    "train.probe 08_rlhf smoke": "notebook '08_rlhf': no training of a chain; nearest valid: 03_dcpt, 04_sft, 05_dpo",
    "models.baichuan /nowhere out": "nowhere",
    "chimed.dataset nope out": "run 'nope': no such run",
    "chimed.scale_out nowhere out": "nowhere",
    "evaluate.unification nope out gpt http://me:word@host/v1": "meaning: base URL of a server, no user",
    "evaluate.unification nope out gpt http://host/v1": "run 'nope': no such run",
}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_ends_with_2_and_one_sentence(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    command = [sys.executable, "-m", *f"qilin_lib.{call}".split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert CALLS[call] in done.stderr and not list(tmp_path.glob("*"))
    assert "me:word" not in done.stderr, "a password stays where it was typed"
