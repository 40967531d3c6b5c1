"""Profiles: files as editors save them, strict YAML, one parent each, headers that say what the values are."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import chains, params
from qilin_lib.errors import QilinError
from qilin_lib.schema import SECTIONS

FOLDER = params.ROOT / "params"
PROFILES = (
    *("baselines", "bianque", "chat_24gb", "chimed_gpt", "full_a100", "huatuogpt2", "named_systems", "one_stage"),
    *("pediatricsgpt", "qlora_24gb", "released_code", "rulealign", "smoke", "smollm2_cpu", "zhongjing"),
)
SMOKE = (FOLDER / "smoke.yaml").read_text(encoding="utf-8")


def load(**overrides: Any) -> Any:
    return params.load("05_dpo", overrides)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """`folder(name=text, …)`: a params folder with smoke.yaml and these profiles; returns it."""
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path))
    (tmp_path / "smoke.yaml").write_text(SMOKE, encoding="utf-8")

    def make(**texts: str | bytes) -> Path:
        for name, text in texts.items():
            (tmp_path / f"{name}.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return make


def refusal(notebook: str = "05_dpo", **overrides: Any) -> str:
    """The one sentence with which a load is refused."""
    with pytest.raises(QilinError) as refused:
        params.load(notebook, overrides)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 900
    return str(refused.value)


# --- extends ----------------------------------------------------------------------------------------------------------


def test_a_profile_takes_its_parent_s_values_and_says_what_differs(folder) -> None:
    folder(mine="extends: smoke\ndpo: {beta: 0.3}\n")
    ours, theirs = load(profile="mine").model_dump(), load().model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"profile", "run", "beta"}
    assert (ours["beta"], ours["run"]) == (0.3, "mine")


def test_train_refines_the_parent_and_a_section_refines_train(folder) -> None:
    folder(
        parent="extends: smoke\ntrain: {lora_r: 4, save_steps: 7}\nsft: {lora_r: 5, weight_decay: 0.3}\n",
        child="extends: parent\ntrain: {lora_r: 6, dry_run: true}\ndpo: {lora_r: 9}\n",
    )
    values = {n: params.load(n, {"profile": "child"}) for n in ("03_dcpt", "04_sft", "05_dpo", "08_rlhf")}
    assert {n: p.lora_r for n, p in values.items()} == {"03_dcpt": 6, "04_sft": 6, "05_dpo": 9, "08_rlhf": 6}
    assert {p.save_steps for p in values.values()} == {7}, "the parent's train, above its own parent's sections"
    assert values["04_sft"].weight_decay == 0.3 and values["05_dpo"].weight_decay == 0.05
    assert values["04_sft"].dry_run and not hasattr(values["08_rlhf"], "dry_run")
    assert params.load("04_sft", {"profile": "parent"}).lora_r == 5


def test_a_mapping_is_replaced_whole(folder) -> None:
    folder(
        a="extends: smoke\neval: {baselines: {one: {model: base}}}\n",
        b="extends: a\neval: {baselines: {two: {model: sft}}}\n",
    )
    assert list(params.load("06_eval", {"profile": "b"}).baselines) == ["two"]


def test_a_run_s_name_is_not_inherited(folder) -> None:
    folder(a="extends: smoke\nrun: mine\n", b="extends: a\n")
    assert load(profile="a").run == "mine" and load(profile="b").run == "b"


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ({"mine": "extends: mine\n"}, "extends goes round: mine -> mine"),
        ({"mine": "extends: b\n", "b": "extends: mine\n"}, "extends goes round: mine -> b -> mine"),
        ({"mine": "extends: smok\n"}, "no such file .*did you mean 'smoke'"),
        ({"mine": "extends: [smoke, b]\n"}, r"mine.yaml: extends = \['smoke', 'b'\]: names one profile"),
        ({"mine": "extends: smoke\ntrain: {lora_rr: 4}\n"}, r"unknown key 'lora_rr' in 'train:' .*'lora_r'"),
        ({"mine": "extends: smoke\ntrain: {beta: 4}\n"}, "unknown key 'beta' in 'train:'"),
        ({"mine": "extends: smoke\ntrain: 3\n"}, "'train:' must hold 'key: value' lines, found 3"),
        ({"mine": "extends: smoke\nfrom_run: other\n"}, "unknown key 'from_run'"),
        (
            {"mine": "extends: a\n"} | {x: f"extends: {y}\n" for x, y in zip("abcde", "bcdef", strict=True)},
            "more than 5 profiles",
        ),
    ],
)
def test_parents_that_cannot_be_are_a_sentence(folder, texts: dict[str, str], sentence: str) -> None:
    folder(**texts)
    assert re.search(sentence, refusal(profile="mine"))


# --- the profiles of the kit ------------------------------------------------------------------------------------------


def test_the_profiles_together_are_seven_hundred_and_fifty_lines_at_most() -> None:
    lines = {path.name: path.read_text(encoding="utf-8").splitlines() for path in FOLDER.glob("*.yaml")}
    assert sum(map(len, lines.values())) <= 750
    assert all(len(line) <= 140 for text in lines.values() for line in text)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("notebook", SECTIONS)
def test_every_profile_loads_in_every_notebook(profile: str, notebook: str) -> None:
    loaded = params.load(notebook, {"profile": profile})
    assert isinstance(loaded, SECTIONS[notebook][1])
    assert loaded.notebook == notebook and loaded.profile == profile == loaded.run
    written = params.read_profile(profile).get(SECTIONS[notebook][0]) or {}
    assert {name: loaded.model_dump(exclude_unset=True)[name] for name in written} == written


def test_full_a100_is_the_paper() -> None:
    """Paper §4.2."""
    dcpt, sft, dpo = (params.load(n, {"profile": "full_a100"}) for n in ("03_dcpt", "04_sft", "05_dpo"))
    assert (dcpt.gpus, dcpt.per_device_train_batch_size, dcpt.num_train_epochs) == (8, 1, 3.0)
    assert (dcpt.learning_rate, dcpt.warmup_ratio, dcpt.weight_decay) == (2e-4, 0.05, 0.01)
    assert params.load("02_tokenize", {"profile": "full_a100"}).block_size == 1024
    assert (sft.per_device_train_batch_size, sft.learning_rate, sft.weight_decay) == (64, 2e-5, 0.05)
    assert (sft.lora_r, sft.lora_alpha, sft.lora_dropout) == (8, 32, 0.05)
    assert (dpo.gpus, dpo.per_device_train_batch_size, dpo.learning_rate) == (4, 8, 2e-5)
    assert (dpo.lora_r, dpo.lora_alpha, dpo.lora_dropout) == (8, 16, 0.05)


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize("profile", [name for name in PROFILES if name not in ("smoke", "full_a100", "smollm2_cpu")])
def test_a_header_s_numbers_are_those_of_the_values(profile: str) -> None:
    """`dcpt differs from full_a100 in: gpus 8 -> 1, …;` as params.compare finds it; every difference of a training."""
    parent = params.read_profile(profile)["extends"]
    changed = params.compare(parent, profile)
    assert list(changed.columns) == ["parameter", parent, profile]
    needed = {str(name).partition(".")[0] for name in changed["parameter"]} & {"dcpt", "sft", "dpo"}
    shown = re.findall(r"(\w+) differs from (\w+) in: (.*?);", params.head(profile))
    assert {section for section, _, _ in shown} >= needed and {parents for _, parents, _ in shown} <= {parent}
    for section, _, listed in shown:
        rows = params.compare(parent, profile, section).itertuples(index=False)
        assert listed == ", ".join(f"{n.removeprefix(section + '.')} {plain(a)} -> {plain(b)}" for n, a, b in rows)


def test_the_batches_of_the_24_gb_profile_are_those_that_its_header_says() -> None:
    batches = [params.load(n, {"profile": "qlora_24gb"}) for n in ("03_dcpt", "04_sft", "05_dpo")]
    sizes = [max(p.gpus, 1) * p.per_device_train_batch_size * p.gradient_accumulation_steps for p in batches]
    said = re.findall(r"(\d+) (?:pairs )?in (?:DCPT|SFT|DPO)", params.head("qlora_24gb"))
    assert list(map(int, said)) == sizes


REGIMES = ("bianque", "chimed_gpt", "huatuogpt2", "pediatricsgpt", "rulealign", "zhongjing")


@pytest.mark.parametrize("profile", REGIMES)
def test_a_regime_says_where_it_is_from_what_stands_here_and_what_is_not_available(profile: str) -> None:
    told = params.head(profile)
    assert re.search(r"arXiv \d{4}\.\d{5}", told) and "Paper" in told
    assert "Here:" in told and ("Not available" in told or "Not built" in told)
    assert profile in (params.ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("profile", REGIMES)
def test_every_stage_of_a_regime_loads(profile: str) -> None:
    chain = params.load("06_eval", {"profile": profile}).chain
    for name in chain:
        loaded = params.load(chains.NOTEBOOKS[chains.method(name)], {"profile": profile, "stage": name})
        assert loaded.folder == chains.folder(name)


def test_compare_is_a_table_of_what_differs() -> None:
    assert params.compare("smoke", "smoke").empty
    table = params.compare("smoke", "one_stage", "sft").set_index("parameter")
    assert table.loc["sft.max_steps"].tolist() == [210, -1] and set(table.index) == {"sft.max_steps", "sft.one_stage"}
    with pytest.raises(QilinError, match="section 'dop': unknown .*did you mean 'dpo'"):
        params.compare("smoke", "full_a100", "dop")


@pytest.mark.parametrize("profile", ["full_a100", "qlora_24gb", "released_code", "chat_24gb"])
def test_a_large_profile_s_base_is_what_the_one_command_of_its_header_writes(profile: str) -> None:
    """A hub id in Baichuan's own layout cannot be loaded, and its 13B has no LLaMA layout."""
    base = params.load("02_tokenize", {"profile": profile}).base
    command = r"(python -m qilin_lib\.models\.baichuan \S+ |hf download \S+ --local-dir )(\S+)"
    commands = re.findall(command, params.head(profile))
    assert [target for _, target in commands] == [base]
    assert base.startswith("models/") and "13B" not in commands[0][0]


# --- files as editors save them ---------------------------------------------------------------------------------------

TEXT = "# 配置 profile\nextends: smoke\ndpo: {beta: 0.3}\n"


@pytest.mark.parametrize("data", [b"\xef\xbb\xbf" + TEXT.encode(), TEXT.replace("\n", "\r\n").encode()])
def test_a_bom_and_windows_line_ends_are_read(folder, data: bytes) -> None:
    folder(mine=data)
    assert load(profile="mine").beta == 0.3


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_a_sentence(folder, encoding: str) -> None:
    path = folder(mine=TEXT.encode(encoding)) / "mine.yaml"
    assert re.match(rf"{re.escape(str(path))}.*UTF-8", refusal(profile="mine"))


# 500 bytes that are a list of 10**8 strings once every alias is followed.
NAMES = "abcdefghi"
BOMB = ", ".join(
    ["&a [x, x, x, x, x, x, x, x, x]"]
    + [f"&{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip(NAMES, NAMES[1:], strict=False)]
)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bomb in a value", SMOKE.replace("  sources: null", f"  sources: [[{BOMB}]]")),
        ("bomb in a section", "extends: smoke\nbuild: &a {x: [y, y]}\ndpo: {b: &b [*a, *a], c: [*b, *b]}\n"),
        ("recursive alias", "extends: smoke\nbuild: &a\n  sources: [*a]\n"),
        ("deep nesting", "extends: smoke\nbuild: {sources: " + "[" * 5000 + "]" * 5000 + "}\n"),
        ("list as key", "extends: smoke\n? [a, b]\n: 3\n"),
        ("integer tag", "extends: smoke\nseed: !!int 0x10\n"),
        ("python tag", "extends: smoke\ndpo: {report_to: !!python/object/apply:os.getcwd []}\n"),
        ("tag of a mapping on a scalar", "extends: smoke\ndpo: !!map 3\n"),
        ("5,000 digits", "extends: smoke\nseed: " + "9" * 5000 + "\n"),
        ("a long string", "extends: smoke\ndpo: {report_to: " + "k" * 100_000 + "}\n"),
        ("a large file", "extends: smoke\n# " + "k" * 2**20 + "\n"),
        ("nothing but NUL", "\0\0"),
        ("a section of one word", "extends: smoke\ndpo: false\n"),
    ],
)
def test_hostile_yaml_is_refused_at_once_with_one_short_sentence(folder, name: str, text: str) -> None:
    path = folder(mine=text) / "mine.yaml"
    started = time.perf_counter()
    sentence = refusal("01_build_chimed" if "build" in text else "05_dpo", profile="mine")
    assert time.perf_counter() - started < 3, name
    assert str(path) in sentence or "profile mine" in sentence


def test_a_profile_that_is_a_folder_and_a_params_folder_that_is_a_file_are_sentences(folder, monkeypatch) -> None:
    path = folder()
    (path / "mine.yaml").mkdir()
    assert "mine.yaml" in refusal(profile="mine")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(path / "smoke.yaml"))
    assert re.search("QILIN_PARAMS_DIR = '.*smoke.yaml': not a folder", refusal(profile="smoke"))


def test_a_profile_may_be_named_with_its_suffix() -> None:
    assert load(profile="smoke.yaml") == load(profile="smoke")
    assert params.load("07_case_study", {"profile": "smoke.yaml"}).run == "smoke"


# --- one profile, read strictly ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("  beta: 0.1", "  betta: 0.1", "^{path}: unknown key 'betta' in 'dpo:' .did you mean 'beta'.."),
        ("\ndpo:", "\ndop:", "^{path}: unknown key 'dop' .did you mean 'dpo'.."),
        ("  beta: 0.1", "  beta: 0.1\n  seed: 3", "unknown key 'seed' in 'dpo:'"),
        ("  beta: 0.1", "", "05_dpo .profile mine.: beta: Field required"),
        ("  beta: 0.1", "  beta: 0.2\n  beta: 0.1", r"^{path}, line \d+: key 'beta' stands twice .first in line \d+"),
        ("log_probs: false", "log_probs: NO", "precompute_ref_log_probs = 'NO': .*valid boolean"),
    ],
)
def test_a_line_that_cannot_be_is_named(folder, old: str, new: str, sentence: str) -> None:
    assert SMOKE.count(old) >= 1, f"smoke.yaml no longer has {old!r}"
    path = folder(mine=SMOKE.replace(old, new, 1)) / "mine.yaml"
    assert re.search(sentence.replace("{path}", re.escape(str(path))), refusal(profile="mine"))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("2e-5", 2e-5),
        ("1.5E3", 1500.0),
        (".5", 0.5),
        ("NO", "NO"),
        ("on", "on"),
        ("yes", "yes"),
        ("true", True),
        ("True", "True"),
        ("017", 17),
        ("12:30", "12:30"),
        ("0x1F", "0x1F"),
        ("2023-12-01", "2023-12-01"),
        ("-1", -1),
        ("null", None),
        ("~", None),
        ("", None),
        ('"2e-5"', "2e-5"),
        ("1_000", "1_000"),
    ],
)
def test_yaml_scalars_are_those_of_yaml_1_2(tmp_path: Path, written: str, read: Any) -> None:
    (tmp_path / "a.yaml").write_text(f"key: {written}\n", encoding="utf-8")
    value = params.read_yaml(tmp_path / "a.yaml")["key"]
    assert value == read and type(value) is type(read)
