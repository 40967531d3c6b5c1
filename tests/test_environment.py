"""What is noted of the machine and the code that made a stage."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.runs import environment


def test_what_a_program_complains_of_is_no_fact(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose driver does not answer has no GPU called "NVIDIA-SMI has failed"."""
    for name in ("nvidia-smi", "git"):
        files.write_text(tmp_path / name, "#!/bin/sh\necho NVIDIA-SMI has failed\nexit 9\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = environment.describe.__wrapped__()
    assert (found["gpus"], found["git_commit"], found["git_dirty"]) == ([], "", False)


@pytest.mark.parametrize(("changed", "dirty"), [("notebooks/01.ipynb", False), ("qilin_lib/a.py", True)])
def test_a_notebook_saved_with_its_outputs_is_no_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, dirty: bool
) -> None:
    """JupyterLab saves the notebook in which a stage is made: the commit still says which code made it."""
    root = tmp_path / "checkout"
    for name in ("notebooks/01.ipynb", "qilin_lib/a.py", "params/smoke.yaml"):
        files.write_text(root / name, "{}")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    files.write_text(root / changed, "{1}")
    monkeypatch.setattr(environment, "ROOT", root)
    assert environment.describe.__wrapped__()["git_dirty"] == dirty
