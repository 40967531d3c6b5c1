"""Which changes of code make a stage stale: a statement does, a comment or another notebook's module does not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qilin_lib import closure

SOURCE = '"""About."""\n\nimport math\n\n\ndef area(r):\n    """Area."""\n    return math.pi * r**2\n'


@pytest.fixture
def bare(tmp_path: Path) -> Callable[[str], str]:
    """`bare(source)`: what the hash sees of a module's source."""
    made = []

    def look(source: str) -> str:
        path = tmp_path / f"module{len(made)}.py"
        path.write_text(source, encoding="utf-8")
        made.append(path)
        return closure._bare_source(path)

    return look


@pytest.mark.parametrize(
    "same",
    [
        SOURCE.replace("import math", "import math  # for pi\n# and more"),
        SOURCE.replace("Area.", "Area of a circle of radius `r`."),
        SOURCE.replace("About.", "Circles."),
        SOURCE.replace('    """Area."""\n', ""),
        SOURCE.replace("math.pi * r**2", "(math.pi * r ** 2)"),
        "\n\n" + SOURCE,
    ],
)
def test_comments_docstrings_and_layout_do_not_count(bare: Callable[[str], str], same: str) -> None:
    assert same != SOURCE
    assert bare(same) == bare(SOURCE)


@pytest.mark.parametrize(
    "other",
    [
        SOURCE.replace("r**2", "r**3"),
        SOURCE.replace("area", "surface"),
        SOURCE.replace("def area(r)", "def area(r=1)"),
        SOURCE + 'UNIT = "cm"\n',
    ],
)
def test_code_counts(bare: Callable[[str], str], other: str) -> None:
    assert bare(other) != bare(SOURCE)


def test_a_changed_string_that_is_no_docstring_counts(bare: Callable[[str], str]) -> None:
    assert bare('def ask():\n    """Ask."""\n    return "问：%s"\n') != bare('def ask():\n    return "问题：%s"\n')


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A copy of library and notebooks, which a test may change; the hash of each notebook before any change."""
    folder = tmp_path_factory.mktemp("copy")
    ignore = shutil.ignore_patterns("__pycache__", "*.jsonl", ".ipynb_checkpoints")
    for name in ("qilin_lib", "notebooks"):
        shutil.copytree(closure.ROOT / name, folder / name, ignore=ignore)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closure, "LIBRARY", folder / "qilin_lib")
        patch.setattr(closure, "ROOT", folder)
        yield {path.stem: closure.code_hash(path.stem) for path in sorted(folder.glob("notebooks/*.ipynb"))}
    closure._bare_source.cache_clear()


def stale_after(before: dict[str, str], addition: str, *names: str) -> set[str]:
    """Numbers of the notebooks whose hash changes while `addition` stands at the end of the modules `names`."""
    old = {path: path.read_text(encoding="utf-8") for path in (closure.LIBRARY / name for name in names)}
    try:
        for path, source in old.items():
            path.write_text(source + addition, encoding="utf-8")
        closure._bare_source.cache_clear()
        return {name[:2] for name in before if closure.code_hash(name) != before[name]}
    finally:
        for path, source in old.items():
            path.write_text(source, encoding="utf-8")


def test_a_figure_touches_the_notebooks_that_make_a_page_alone(copy: dict[str, str]) -> None:
    assert len(copy) == 9
    assert stale_after(copy, "\nEXTRA = 1\n", "report/figures.py") == {"07", "09"}


def test_dpo_touches_05_and_rl_which_checks_its_adapters_alike(copy: dict[str, str]) -> None:
    assert stale_after(copy, "\nEXTRA = 1\n", "train/dpo.py") == {"05", "08"}


def test_the_template_touches_all_that_render_or_read_it(copy: dict[str, str]) -> None:
    stale = stale_after(copy, "\nEXTRA = 1\n", "tokens/template.py")
    assert stale >= {"02", "04", "05", "06"}
    assert "01" not in stale


def test_comments_and_the_machinery_of_runs_touch_nothing(copy: dict[str, str]) -> None:
    assert stale_after(copy, "\n# a remark\n", "tokens/template.py", "chimed/build.py") == set()
    machinery = ("runs.py", "params.py", "schema.py", "pipeline.py", "closure.py")
    assert stale_after(copy, "\nEXTRA = 1\n", *machinery) == set()


def test_the_registry_s_data_count_as_code_of_01(copy: dict[str, str]) -> None:
    assert "01" in stale_after(copy, "\n# another home\n", "chimed/sources.yaml")


def test_modules_of_05() -> None:
    found = closure.modules("05_dpo")
    assert found >= {"qilin_lib.train.dpo", "qilin_lib.models.load", "qilin_lib.tokens.template", "qilin_lib.files"}
    assert not [
        name for name in found if name.startswith(("qilin_lib.evaluate", "qilin_lib.report", "qilin_lib.chimed"))
    ]


def test_modules_of_06_and_07() -> None:
    assert {"qilin_lib.evaluate.run", "qilin_lib.evaluate.metrics"} <= closure.modules("06_eval")
    assert not [name for name in closure.modules("06_eval") if name.startswith("qilin_lib.report")]
    assert {"qilin_lib.report.whole", "qilin_lib.report.figures"} <= closure.modules("07_case_study")


def test_imports_inside_functions_and_from_packages_are_found(tmp_path: Path) -> None:
    source = (
        "def late():\n    from qilin_lib import files\n    import qilin_lib.train.sft\n    from numpy import array\n"
    )
    found = closure._imports(source, "")
    assert found == ["qilin_lib", "qilin_lib.files", "qilin_lib.train", "qilin_lib.train.sft"]
