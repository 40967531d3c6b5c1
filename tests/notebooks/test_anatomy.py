"""How a notebook is built (see README): checked on the files, nothing is executed."""

from __future__ import annotations

import ast
import contextlib
import importlib
from pathlib import Path
from types import ModuleType

import nbformat
import pytest

from qilin_lib.schema import SECTIONS

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
Notebook = nbformat.NotebookNode


@pytest.fixture(params=sorted(SECTIONS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def notebook(name: str) -> Notebook:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


@pytest.fixture
def code(notebook: Notebook) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def test_there_is_one_notebook_for_each_parameter_class() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(SECTIONS)


def test_notebook_is_valid_and_asks_for_the_kernel_that_everybody_has(notebook: Notebook) -> None:
    """Not the author's own kernel name (nteract/papermill#251, #382)."""
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.kernelspec.language == "python"


def test_notebook_is_stored_without_results(notebook: Notebook) -> None:
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


def test_first_cell_is_the_title_with_the_number(notebook: Notebook, name: str) -> None:
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith(f"# {name[:2]} · ")
    assert "**The paper**" in first.source and "§" in first.source or name == "02_tokenize"
    assert "**Here**" in first.source, "what we do differently"


def test_one_tagged_cell_the_first_of_code_names_run_and_seed(notebook: Notebook, code: list[str]) -> None:
    """Its lines are held against the schema in test_schema.py."""
    tagged = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    names = [line.split(" = ")[0] for line in code[0].splitlines()]
    assert tagged == code[:1] and {"profile", "run", "seed"} <= set(names) and "notebook" not in names


def test_next_code_cell_loads_this_notebook_s_parameters_and_shows_them(code: list[str], name: str) -> None:
    body = ast.parse(code[1]).body
    calls = [ast.unparse(line) for line in body if isinstance(line, ast.Assign)]
    assert calls == [f"P = params.load('{name}', globals())"]
    assert isinstance(body[-1], ast.Expr) and ast.unparse(body[-1]) == "P"


def test_code_is_little(code: list[str]) -> None:
    assert len(code) <= 14
    assert sum(bool(line.strip()) for source in code for line in source.splitlines()) <= 45
    assert all(len(line) <= 140 for source in code for line in source.splitlines())


def test_code_defines_nothing_and_calls_no_shell(code: list[str]) -> None:
    for source in code:
        assert not [line for line in source.splitlines() if line.lstrip().startswith(("!", "%"))]
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, "module", None) or node.names[0].name]
                assert not {"subprocess", "os", "torch", "transformers"} & {n.split(".")[0] for n in names}


def test_code_follows_prose(notebook: Notebook) -> None:
    row = 0
    for cell in notebook.cells:
        row = row + 1 if cell.cell_type == "code" else 0
        assert row <= 2, f"three code cells in a row: {cell.source[:60]}"
        assert cell.source.strip(), "an empty cell"
    assert notebook.cells[0].cell_type == "markdown"


def test_only_literal_cell_is_the_parameters_cell(code: list[str]) -> None:
    """`params.load` takes any cell of plain `name = literal` lines for parameters."""
    for source in code[1:]:
        lines = ast.parse(source).body
        assert not all(isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant) for line in lines)


def test_last_code_cell_finishes_the_stage(code: list[str]) -> None:
    opened = [source for source in code if ".open_stage(P" in source]
    finished = [source for source in code if "stage.finish(" in source]
    assert len(opened) == 1 and finished == code[-1:]


def test_every_name_of_the_library_exists(code: list[str]) -> None:
    """So that a renamed function fails here and not after an hour of training."""
    modules: dict[str, ModuleType] = {}
    for node in (node for source in code for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qilin_lib"):
            for alias in node.names:
                with contextlib.suppress(ModuleNotFoundError):
                    importlib.import_module(f"{node.module}.{alias.name}")
                found = getattr(importlib.import_module(node.module), alias.name, None)
                assert found is not None, f"{node.module} has no {alias.name}"
                modules |= {alias.asname or alias.name: found} if isinstance(found, ModuleType) else {}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            modules.pop(node.targets[0].id, None)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert hasattr(modules[node.value.id], node.attr), f"{node.value.id} has no {node.attr}"
