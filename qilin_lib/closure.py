"""Which code a notebook uses: its imports, followed through qilin_lib, hashed without comments or docstrings.

A module's own data (sources.yaml beside sources.py) counts as its code.
"""

from __future__ import annotations

import ast
import json
from functools import cache
from pathlib import Path

from qilin_lib.files import sha256_text
from qilin_lib.params import ROOT

LIBRARY = Path(__file__).resolve().parent
# Showing a result does not make it: a changed figure must not retrain a model. Two notebooks make pages.
SHOWS = "qilin_lib.report"
PAGES = ("07_case_study", "09_bias")
# The machinery of runs and parameters decides when to work, not what comes out.
MACHINERY = {
    "qilin_lib",
    "qilin_lib.runs",
    "qilin_lib.params",
    "qilin_lib.schema",
    "qilin_lib.closure",
    "qilin_lib.pipeline",
    "qilin_lib.progress",
}


def code_hash(notebook: str) -> str:
    """sha256 over the modules that notebook `notebook` uses, directly or through another module."""
    paths = {name: _path(name) for name in sorted(modules(notebook) - MACHINERY)}
    code = [[name, _bare_source(path)] for name, path in paths.items()]
    beside = [path.with_suffix(".yaml") for path in paths.values()]
    return sha256_text(json.dumps([code, [path.read_text(encoding="utf-8") for path in beside if path.exists()]]))


def modules(notebook: str) -> set[str]:
    """Names of all qilin_lib modules that a notebook reaches; report modules count for those that write a page."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    todo, seen = set(_imports(source, "")), set()
    while todo:
        name = todo.pop()
        if name in seen or (name.startswith(SHOWS) and notebook not in PAGES):
            continue
        seen.add(name)
        todo |= set(_imports(_path(name).read_text(encoding="utf-8"), name))
    return seen


def _path(name: str) -> Path:
    base = LIBRARY.parent.joinpath(*name.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _imports(source: str, importer: str) -> list[str]:
    """Modules of qilin_lib named in import statements anywhere in `source`, with the packages they live in."""
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
    found = [name for name in found if name.split(".")[0] == "qilin_lib" and _path(name).exists()]
    return sorted({".".join(name.split(".")[:n]) for name in found for n in range(1, name.count(".") + 2)} - {importer})


@cache
def _bare_source(path: Path) -> str:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            del body[0]
    return ast.dump(tree)
