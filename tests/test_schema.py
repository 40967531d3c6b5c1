"""Every parameter is described once, for cells, `P` and errors alike; secrets and bad names are refused unshown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_origin

import nbformat
import papermill
import pytest
from pydantic import BaseModel

from qilin_lib import annotations, params, schema, schema_data
from qilin_lib.errors import QilinError
from qilin_lib.schema import SECTIONS

NOTEBOOKS = params.ROOT / "notebooks"
PARTS = (schema_data.Tiny, schema.OneStage, schema.Constructed, schema.Finetune, schema.Baseline, schema.Steps)
KEY = "sk-proj-" + "abc123XYZ" * 4
each_notebook = pytest.mark.parametrize("notebook", SECTIONS)


def refusal(notebook: str, **overrides: Any) -> str:
    with pytest.raises(QilinError) as refused:
        params.load(notebook, overrides)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900
    return str(refused.value)


def baseline(**values: Any) -> dict[str, Any]:
    return {"baselines": {"mine": {"model": "base", **values}}}


def cell_line(model: type[BaseModel], name: str) -> str:
    """The line of a parameter in a notebook's parameters cell, as papermill's own inspection reads it."""
    kinds = [kind for kind in annotations.members(model.model_fields[name].annotation) if kind is not NoneType]
    names = [str if get_origin(kind) is Literal else get_origin(kind) or kind for kind in kinds]
    types = "|".join(dict.fromkeys("dict" if issubclass(kind, BaseModel) else kind.__name__ for kind in names))
    default = '"smoke"' if name == "profile" else None
    return f"{name} = {default}  # type: {types} {annotations.describe(model.model_fields[name])}"


# --- one description, and what comes of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", [model for _, model in SECTIONS.values()] + list(PARTS))
def test_every_parameter_is_described_in_one_short_line(model: type[BaseModel]) -> None:
    for name, field in model.model_fields.items():
        assert field.description and len(field.description) <= 100, name
        assert not set("#=\n") & set(field.description), "papermill reads the cell's line up to these"


@each_notebook
def test_papermill_s_own_inspection_knows_type_and_meaning(notebook: str) -> None:
    """What `papermill --help-notebook` prints, and not "Unknown type"."""
    model = SECTIONS[notebook][1]
    found = papermill.inspect_notebook(NOTEBOOKS / f"{notebook}.ipynb")
    assert list(found)[:3] == ["profile", "run", "from_run"]
    for name, parameter in found.items():
        assert re.fullmatch(
            r"(bool|int|float|str|list|dict)(\|(bool|int|float|str|list|dict))*", parameter["inferred_type_name"]
        )
        assert model.model_fields[name].description in parameter["help"]
        assert parameter["default"] == ('"smoke"' if name == "profile" else "None")


@each_notebook
def test_the_parameters_cell_says_what_the_schema_says(notebook: str) -> None:
    content = nbformat.read(NOTEBOOKS / f"{notebook}.ipynb", as_version=4)
    cell = next(cell.source for cell in content.cells if "parameters" in cell.metadata.get("tags", []))
    model = SECTIONS[notebook][1]
    assert cell.splitlines() == [cell_line(model, line.split(" = ")[0]) for line in cell.splitlines()]


def test_a_choice_names_its_choices_and_what_the_paper_says() -> None:
    fields = schema.Dcpt.model_fields
    assert annotations.describe(fields["finetuning"]).startswith("full | lora | qlora: ")
    assert "2e-4" in annotations.describe(fields["learning_rate"]) and "2e-5" in annotations.describe(
        fields["learning_rate"]
    )
    assert annotations.describe(schema.Dpo.model_fields["beta"]).endswith("paper: not stated")
    assert "paper" not in annotations.describe(fields["report_to"]), "it changes no result"


def test_p_shows_value_origin_and_meaning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path))
    (tmp_path / "smoke.yaml").write_text(smoke, encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("extends: smoke\ndpo: {lora_r: 4}\n", encoding="utf-8")
    frame = params.load("05_dpo", {"profile": "mine", "beta": 0.4}).frame.set_index("parameter")
    assert set(frame.index) == schema.Dpo.model_fields.keys()
    for name, value, origin in (("beta", "0.4", "override"), ("lora_r", "4", "mine"), ("lora_alpha", "16", "smoke")):
        assert frame.loc[name].tolist() == [value, origin, annotations.describe(schema.Dpo.model_fields[name])]


def test_p_escapes_the_profile_s_name_and_every_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path))
    name = "<img src=x onerror=alert(1)>"
    smoke = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / f"{name}.yaml").write_text(smoke, encoding="utf-8")
    loaded = params.load("02_tokenize", {"profile": name, "run": "r", "base": "<b>&模型</b>" + "x" * 90})
    shown = loaded._repr_html_()
    assert all(f"<td>{parameter}</td>" in shown for parameter in loaded.model_dump())
    assert "<img" not in shown and "&lt;img" in shown
    assert "<b>&" not in shown and f"&lt;b&gt;&amp;模型&lt;/b&gt;{'x' * 90}" in shown


# --- null -------------------------------------------------------------------------------------------------------------


def test_null_is_said_where_the_type_allows_it_and_none_stays_as_the_profile_says() -> None:
    """papermill hands `-p max_heldout null` over as the string "null"."""
    assert params.load("05_dpo").max_heldout == 60
    assert params.load("05_dpo", {"max_heldout": "null"}).max_heldout is None
    assert params.load("05_dpo", dict.fromkeys(["max_heldout", "seed", "profile"])) == params.load("05_dpo")
    assert params.load("01_build_chimed", {"exact_substrings": "null"}).exact_substrings is None
    assert params.load("06_eval", {"further_benchmarks": "null", "max_items_huatuo": "null"}).max_items_huatuo is None
    assert "beta = 'null': " in refusal("05_dpo", beta="null")
    assert "max_heldout = 'none': " in refusal("05_dpo", max_heldout="none")


# --- misspelt entries -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notebook", "overrides", "nearest"),
    [
        ("01_build_chimed", {"sources": ["cmexam", "huatuo_encyclopedia"]}, "huatuo_encyclopedia_qa"),
        ("01_build_chimed", {"decontaminate": "raport"}, "report"),
        ("01_build_chimed", {"exact_substrings": "remov"}, "remove"),
        ("03_dcpt", {"finetuning": "loar"}, "lora"),
        ("03_dcpt", {"finetuning": "QLoRA"}, "qlora"),
        ("03_dcpt", {"lr_scheduler_type": "cosin"}, "cosine"),
        ("06_eval", {"benchmarks": ["cevl"]}, "ceval"),
        ("06_eval", {"benchmarks": '["cmexm"]'}, "cmexam"),
        ("06_eval", {"further_benchmarks": ["cmmmlu"]}, "cmmlu"),
        ("06_eval", {"models": ["base", "dp"]}, "dpo"),
        ("06_eval", {"protocols": ["relased"]}, "released"),
        ("06_eval", baseline(benchmarks=["medqaa"]), "medqa"),
        ("06_eval", baseline(tempalte="plain"), "template"),
        ("09_bias", {"models": ["rejection_sampl"]}, "rejection_sampling"),
        ("09_bias", {"labels": ["letter"]}, "letters"),
    ],
)
def test_a_misspelt_entry_is_found_at_load_with_the_nearest(notebook: str, overrides: dict, nearest: str) -> None:
    assert f"(did you mean '{nearest}'?)" in refusal(notebook, **overrides)


# --- numbers and names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["1e999", float("inf"), float("nan"), float("-inf")])
@pytest.mark.parametrize(
    ("notebook", "name"), [("05_dpo", "beta"), ("05_dpo", "num_train_epochs"), ("08_rlhf", "temperature")]
)
def test_a_number_that_is_not_finite_is_refused(notebook: str, name: str, value: Any) -> None:
    assert f"{name} = " in refusal(notebook, **{name: value})


@pytest.mark.parametrize(
    ("name", "value", "most"), [("seed", 2**32, 2**32 - 1), ("max_steps", 2**31, 2**31 - 1), ("seed", "9" * 5000, 1)]
)
def test_numbers_that_no_library_takes_are_refused(name: str, value: Any, most: int) -> None:
    assert f"{name} = " in refusal("05_dpo", **{name: value})
    assert getattr(params.load("05_dpo", {name: most}), name) == most


@pytest.mark.parametrize("name", ["run", "from_run"])
def test_a_long_name_of_a_run_is_refused_at_once(name: str) -> None:
    assert f"{name} = 'xxx" in refusal("05_dpo", **{name: "x" * 101})
    assert getattr(params.load("05_dpo", {name: "x" * 100}), name) == "x" * 100


@pytest.mark.parametrize("name", ["x" * 101, "base.part0", "GPT-4.part12", "a/b"])
def test_a_baseline_s_name_that_is_no_file_name_of_its_own_is_refused(name: str) -> None:
    """The parts in which processes answer are called <name>.part<n>."""
    assert "baselines." in refusal("06_eval", baselines={name: {"model": "base"}})
    assert params.load("06_eval", {"baselines": {"base.parts": {"model": "base"}}}).baselines


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"num_attention_heads": 5}, "hidden_size: 192 .*num_attention_heads: 5.*nearest valid: hidden_size: 200"),
        ({"hidden_size": 198}, "hidden_size: 198 .*nearest valid: hidden_size: 204"),
        ({"num_key_value_heads": 4}, "num_key_value_heads: 4 .*num_attention_heads: 6.*nearest valid: 3"),
        ({"num_key_value_heads": 12}, "num_key_value_heads: 12 .*nearest valid: 6"),
        ({"hidden_size": 0}, r"tiny\.hidden_size = 0: .*greater than or equal to 1"),
        ({"num_hidden_layers": 10**7}, r"tiny\.num_hidden_layers = 10000000: .*4096"),
        ({"learning_rate": 0.0}, r"tiny\.learning_rate = 0\.0"),
        ({"max_steps": 0}, r"tiny\.max_steps = 0"),
        ({"block_size": 4096}, "block_size: 4096 .*max_position_embeddings: 2048; nearest valid: 2048"),
    ],
)
def test_sizes_that_no_tiny_model_has_are_refused(sizes: dict[str, float], said: str) -> None:
    tiny = params.load("02_tokenize").tiny.model_dump()
    assert params.load("02_tokenize", {"tiny": tiny | {"num_attention_heads": 4, "num_key_value_heads": 2}})
    with pytest.raises(QilinError, match=said):
        params.load("02_tokenize", {"tiny": tiny | sizes})


def test_a_huge_value_is_shown_short() -> None:
    for value in ("x" * 10**6, ["x" * 1000] * 1000, {"x" * 10**6: 1}, 10**4000):
        assert len(refusal("05_dpo", finetuning=value)) < 600


def test_a_tilde_in_a_path_is_the_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    home = str(tmp_path)
    assert params.load("02_tokenize", {"base": "~/models/x"}).base == f"{home}/models/x"
    assert params.load("01_build_chimed", {"raw_dir": "~/raw"}).raw_dir == f"{home}/raw"
    assert params.load("09_bias", {"scales": ["example", "~/a.yaml"]}).scales == ["example", f"{home}/a.yaml"]
    assert params.load("06_eval", baseline(model="~/m")).baselines["mine"].model == f"{home}/m"


# --- secrets ----------------------------------------------------------------------------------------------------------

ENDPOINT = "http://localhost:8000/v1"


@pytest.mark.parametrize("notebook", ["06_eval", "09_bias"])
@pytest.mark.parametrize(
    "values",
    [
        {"endpoint": ENDPOINT, "api_key_env": KEY},
        {"endpoint": ENDPOINT, "api_key_env": KEY.replace("-", "_")},
        {"endpoint": ENDPOINT, "api_key_env": KEY.replace("sk-proj-", "hf_")},
        {"endpoint": f"https://user:{KEY}@example.org/v1"},
        {"endpoint": f"https://{KEY}@example.org/v1"},
        {"endpoint": f"https://example.org/v1?key={KEY}"},
        {"endpoint": f"ftp://user:{KEY}@example.org/v1"},
        {"endpoint": "localhost:8000"},
        {"endpoint": ENDPOINT, "api_key": KEY},
        {"endpoint": {"url": ENDPOINT, "key": KEY}},
        {"endpoint": ENDPOINT, "request": {"api_key": KEY}},
        {"endpoint": ENDPOINT, "request": {"extra_headers": [{"X-Api-Key": KEY}]}},
        {"endpoint": ENDPOINT, "request": {"headers": {"Authorization": f"Bearer {KEY}"}}},
        {"endpoint": ENDPOINT, "request": KEY},
        {"chat_template_kwargs": {"password": KEY}},
    ],
)
def test_a_secret_typed_into_a_baseline_is_refused_without_being_shown(notebook: str, values: dict) -> None:
    for given in (baseline(**values), {"baselines": {"mine": values}}, {"baselines": [values]}):
        assert KEY[8:] not in refusal(notebook, **given)
    assert KEY[8:] not in refusal(notebook, baselines=json.dumps({"mine": values}))
    assert KEY[8:] not in refusal(notebook, baselines={"mine": KEY})


@pytest.mark.parametrize(
    ("notebook", "given"),
    [
        ("06_eval", baseline(endpoint=ENDPOINT, request={"api_key": KEY})),
        ("06_eval", baseline(endpoint=ENDPOINT, request={"extra": [{"Authorization": f"Bearer {KEY}"}]})),
        ("06_eval", baseline(endpoint=ENDPOINT, request={"user": KEY})),
        ("06_eval", baseline(endpoint=ENDPOINT, request=KEY)),
        ("09_bias", baseline(chat_template_kwargs={"password": KEY})),
        ("06_eval", {"vllm": {"hf_token": KEY}}),
        ("03_dcpt", {"trainer": {"hub_token": KEY}}),
        ("04_sft", {"peft": {"secret": KEY}}),
        ("03_dcpt", {"trainer": json.dumps({"hub-token": KEY})}),
    ],
)
def test_a_secret_is_no_value_of_a_mapping_and_so_stands_in_no_run(notebook: str, given: dict) -> None:
    """Manifests, executed notebooks and tables show all parameters."""
    said = refusal(notebook, **given)
    assert KEY[8:] not in said and re.search("would be stored in the run|valid dictionary", said)


def test_a_field_that_only_sounds_like_a_secret_is_taken() -> None:
    request = {
        "max_completion_tokens": 5,
        "prompt_cache_key": "a",
        "logit_bias": {"7": 1},
        "stop_token_ids": [2],
        "tokenizer": "sk",
    }
    assert params.load("06_eval", baseline(request=request)).baselines["mine"].request == request


def test_a_variable_s_name_and_a_plain_url_are_taken() -> None:
    lines = params.load("06_eval", baseline(endpoint="https://example.org/v1", api_key_env="MY_KEY_2")).baselines
    assert (lines["mine"].api_key_env, lines["mine"].endpoint) == ("MY_KEY_2", "https://example.org/v1")


def test_a_secret_in_a_file_that_is_no_yaml_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"eval: {{baselines: [api_key: {KEY}, ]]\n", encoding="utf-8")
    with pytest.raises(QilinError) as refused:
        params.read_yaml(tmp_path / "a.yaml")
    assert KEY[8:] not in str(refused.value) and "line 1" in str(refused.value)
