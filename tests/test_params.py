"""Parameters: papermill's and YAML's traps, notebooks' namespaces, profiles, impossible combinations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pydantic
import pytest

from qilin_lib import params
from qilin_lib.errors import QilinError


def load(**overrides: Any) -> Any:
    return params.load("05_dpo", overrides)


def notebook(*cells: str) -> dict[str, Any]:
    """The namespace of a kernel that has run `cells`."""
    namespace: dict[str, Any] = {}
    for cell in cells:
        try:
            exec(cell, namespace)
        except Exception as error:  # a cell that fails is in `In` all the same
            namespace["error"] = error
    return {**namespace, "In": ["", *cells]}


# --- names and values that papermill hands over -----------------------------------------------------------------------


def test_parameter_that_does_not_exist_is_refused_even_as_a_string() -> None:
    with pytest.raises(QilinError, match=r"unknown parameter 'smoke'.*known are \['allow_high_lr'"):
        load(smoke="false")


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("allow_high_lr", "true", True),
        ("precompute_ref_log_probs", "false", False),
        ("precompute_ref_log_probs", "False", False),
        ("learning_rate", "2e-5", 2e-5),
        ("learning_rate", "1E-5", 1e-5),
        ("beta", "1", 1.0),
        ("per_device_train_batch_size", "8", 8),
        ("max_steps", "-1", -1),
        ("max_heldout", "12", 12),
        ("modules_to_save", '["lm_head"]', ["lm_head"]),
        ("target_modules", "all-linear", "all-linear"),
    ],
)
def test_strings_with_one_reading_are_read(name: str, given: str, meant: Any) -> None:
    value = getattr(load(**{name: given}), name)
    assert value == meant and type(value) is type(meant)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allow_high_lr", "no"),
        ("allow_high_lr", "0"),
        ("allow_high_lr", 1),
        ("per_device_train_batch_size", "four"),
        ("per_device_train_batch_size", 8.0),
        ("per_device_train_batch_size", "8.0"),
        ("per_device_train_batch_size", True),
        ("per_device_train_batch_size", 0),
        ("max_steps", 0),
        ("learning_rate", "fast"),
        ("learning_rate", 2),
        ("beta", [0.1]),
        ("beta", 0),
        ("modules_to_save", "lm_head"),
        ("modules_to_save", "[lm_head"),
        ("target_modules", "*.q_proj"),
        ("target_modules", []),
        ("finetuning", "QLoRA"),
        ("seed", "1e3"),
        ("run", "../elsewhere"),
        ("run", "a b"),
    ],
)
def test_other_values_are_refused_by_name_and_value(name: str, value: Any) -> None:
    with pytest.raises(QilinError) as refused:
        load(**{name: value})
    assert f"{name} = {value!r}: " in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mapping_of_parameters_is_typed_as_yaml() -> None:
    """papermill hands `-p retrieval '{k: 5}'` over as a string; the cell calls the parameter a dict."""
    assert params.load("06_eval", {"retrieval": "{k: 5}"}).retrieval.k == 5
    assert load(constructed="{strategies: {broken_order: 3}}").constructed.strategies == {"broken_order": 3}
    with pytest.raises(QilinError, match=r"retrieval\.kk = 5: unknown key \(did you mean 'k'\?\)"):
        params.load("06_eval", {"retrieval": "{kk: 5}"})


@pytest.mark.parametrize(("given", "meant"), [("lm_head", "['lm_head']"), ("lm_head,norm", "['lm_head', 'norm']")])
def test_a_list_typed_as_words_is_told_how_lists_are_written(given: str, meant: str) -> None:
    with pytest.raises(QilinError) as refused:
        load(modules_to_save=given)
    assert f"modules_to_save = '{given}': " in str(refused.value) and f"nearest valid: {meant}" in str(refused.value)


def test_unknown_notebook_names_the_nearest() -> None:
    with pytest.raises(QilinError, match=r"'05_dop': unknown .*'05_dpo'"):
        params.load("05_dop", {})


def test_either_form_of_decontaminate() -> None:
    for given, meant in (("report", "report"), ("false", False), (True, True)):
        assert params.load("01_build_chimed", {"decontaminate": given}).decontaminate == meant


# --- a notebook's namespace -------------------------------------------------------------------------------------------

CELL = 'profile = "smoke"\nrun = None\nbeta = None\nmax_steps = None\nseed = None'


def test_cells_of_literals_are_parameters_and_nothing_else_is() -> None:
    namespace = notebook(
        f"{CELL}\nmax_heldout = 5",
        '# Parameters\nprofile = "qlora_24gb"\nbeta = 0.2\n',
        "from pathlib import Path",
        "ledger = {'kept': len('abc')}\nrows = [1, 2]",
        "for max_steps in range(3): pass",
        "%matplotlib inline",
    )
    loaded = params.load("05_dpo", namespace)
    assert (loaded.profile, loaded.beta, loaded.seed) == ("qlora_24gb", 0.2, 42)
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        loaded.beta = 0.5
    assert loaded.max_heldout == 5, "papermill's cell adds to the one above it"


def test_a_mended_cell_starts_anew() -> None:
    """Rerunning the corrected cell in the same kernel must not complain of the old one, nor apply it."""
    namespace = notebook(CELL + "\nbacth = 8\nmax_heldout = 3", "P = params.load()", CELL + "\nlora_r = 4")
    loaded = params.load("05_dpo", namespace)
    assert loaded.lora_r == 4
    assert loaded.max_heldout == load().max_heldout


@pytest.mark.parametrize(
    "line",
    [
        "learning_rate = 2 * 1e-6",
        "learning_rate: float = 2e-6",
        "beta = beta or 0.3",
        "import os",
        "beta = max_steps = 1",
    ],
)
def test_a_derived_value_in_the_parameters_cell_is_refused_not_ignored(line: str) -> None:
    """papermill injects after the cell, so whatever is derived in it would be stale."""
    with pytest.raises(QilinError) as refused:
        params.load("05_dpo", notebook(f"{CELL}\n{line}"))
    assert f"`{line}`" in str(refused.value)


def test_a_later_variable_of_the_same_name_is_no_parameter() -> None:
    """02 has a parameter `base` and later a variable `base`; running its load cell again must give the same."""
    cells = (CELL, "# Parameters\nmax_steps = 7", "P = 1 + 1", "beta = max([0.3, 0.4])\nmax_steps = beta * 2")
    loaded = params.load("05_dpo", notebook(*cells))
    assert (loaded.beta, loaded.max_steps) == (load().beta, 7)


# --- papermill itself -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A notebook of a parameters cell, the load, and what came of it."""
    made = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    )
    first = nbformat.v4.new_code_cell('profile = "smoke"\nrun = None\nlearning_rate = None')
    first.metadata["tags"] = ["parameters"]
    made.cells = [
        first,
        nbformat.v4.new_code_cell('from qilin_lib import params\n\nP = params.load("05_dpo", globals())'),
        nbformat.v4.new_code_cell('print("rate", P.learning_rate * 2, "held out", P.max_heldout)'),
    ]
    nbformat.write(made, tmp_path / "small.ipynb")
    return tmp_path / "small.ipynb"


def execute(path: Path, values: dict[str, Any]) -> nbformat.NotebookNode:
    import papermill

    return papermill.execute_notebook(path, path.with_name("done.ipynb"), values, progress_bar=False, cwd=path.parent)


def test_papermill_run_with_a_misspelt_parameter_fails_with_our_sentence(small: Path) -> None:
    from papermill import PapermillExecutionError

    with pytest.raises(PapermillExecutionError) as failure:
        execute(small, {"bacth": 8})
    assert failure.value.ename == "QilinError"
    assert "unknown parameter 'bacth' (did you mean 'per_device_train_batch_size'?)" in failure.value.evalue


def test_papermill_file_of_parameters_with_a_rate_of_yaml_1_1_succeeds(small: Path) -> None:
    """`papermill -f rate.yaml` reads `2e-5` as a string, `papermill -p max_heldout null` reads "null"."""
    from papermill.cli import _resolve_type
    from papermill.iorw import read_yaml_file

    (small.parent / "rate.yaml").write_text("learning_rate: 2e-5\n", encoding="utf-8")
    values = read_yaml_file(str(small.parent / "rate.yaml"))
    assert values == {"learning_rate": "2e-5"}, "papermill reads YAML 1.2 now: this guard can go"
    done = execute(small, values | {"max_heldout": _resolve_type("null")})
    assert "rate 4e-05 held out None" in done.cells[-1].outputs[0].text
