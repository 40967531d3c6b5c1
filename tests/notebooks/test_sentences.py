"""What README, DEVIATIONS and the notebooks' prose say, held against the files that they speak of."""

from __future__ import annotations

import importlib
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml

from qilin_lib.report import training
from qilin_lib.schema import SECTIONS

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "qilin_lib"
DOCUMENTS = [name for name in ("README.md", "README.zh.md", "DEVIATIONS.md") if (ROOT / name).exists()]
PARAMETERS = {name for _, model in SECTIONS.values() for name in model.model_fields}
FILE = re.compile(r"[\w.*<>{},/-]+(?:/|\.(?:py|ya?ml|md|jsonl?|html|csv|ipynb|sbatch|log|lock|toml))")
IDENTIFIER = re.compile(r"[A-Za-z]\w*_[\w.]*")


def cells(notebook: str) -> list[str]:
    read = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    return [cell.source for cell in read.cells if cell.cell_type == "markdown"]


def our_words(document: str) -> str:
    """The prose of a document; of DEVIATIONS' tables only the last column, since the others speak of other code."""
    if document in SECTIONS:
        return "\n".join(cells(document))
    text = (ROOT / document).read_text(encoding="utf-8")
    if document == "DEVIATIONS.md":
        text = re.sub(r"^\|.*\|([^|]*)\|$", r"\1", text.split("`released` reproduces:")[0], flags=re.MULTILINE)
    return text


def spans(text: str) -> list[str]:
    """Everything in backticks, and each command of the shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in re.split(r"\n|&&", block)]
    return [line for line in lines if line] + re.findall(
        r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )


@cache
def words() -> frozenset[str]:
    """Every word of the library, the profiles and the Makefile: names of functions, parameters, outputs, profiles."""
    read = [*LIBRARY.rglob("*.py"), *(ROOT / "params").rglob("*.*"), *LIBRARY.rglob("*.yaml"), ROOT / "Makefile"]
    text = "\n".join([*(path.read_text(encoding="utf-8") for path in read), *(path.stem for path in read)])
    return frozenset(re.findall(r"\w+", text))


def file_exists(name: str) -> bool:
    """In the repository (`<…>` stands for any name), or the name of an output that the library writes."""
    pattern = re.sub(r"<[^>]*>", "*", name.strip("/"))
    if pattern.startswith((".cache", "runs")) or any(any(home.glob(pattern)) for home in (ROOT, LIBRARY)):
        return True
    stem = pattern.rstrip("*/").split("/")[-1].split(".")[0]
    return set(re.findall(r"[A-Za-z_]+", stem)) <= words() | SECTIONS.keys()


def unknown(span: str) -> list[str]:
    """The parts of a span that name no file, target, module, option or parameter."""
    missing = []
    if target := re.match(r"make (\S+)", span):
        missing += [] if re.search(rf"^{target[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE) else [target[0]]
    options = ""
    if module := re.search(r"python -m (qilin_lib[\w.]*)", span):
        path = ROOT.joinpath(*module[1].split(".")).with_suffix(".py")
        options = path.read_text(encoding="utf-8") if path.exists() else ""
        missing += [] if "__main__" in options else [module[0]]
    elif span.startswith("--"):
        options = "\n".join(path.read_text(encoding="utf-8") for path in LIBRARY.rglob("*.py"))
    if options:
        missing += [option for option in re.findall(r"--[a-z][\w-]*", span) if option not in options + "--help"]
    given = re.findall(r"-p ([a-z_.]+)", span)
    missing += [name for name in given if name.split(".")[-1] not in PARAMETERS | {"profile", "run"}]
    for word in re.split(r"[\s=]+", span.split("python -m")[0]):
        if "…" in word or "://" in word or word.startswith(("-", "/", '"')):
            continue
        if FILE.fullmatch(word):
            missing += [] if all(map(file_exists, alternatives(word))) else [word]
        elif IDENTIFIER.fullmatch(word):
            missing += [] if set(word.rstrip(".").split(".")) <= words() | {word} & {"MASTER_ADDR"} else [word]
    return missing


def alternatives(word: str) -> list[str]:
    """`{a,b}.jsonl` as a.jsonl and b.jsonl."""
    braces = re.fullmatch(r"(.*)\{(.*)\}(.*)", word)
    return [braces[1] + part + braces[3] for part in braces[2].split(",")] if braces else [word]


@pytest.mark.parametrize("document", [*DOCUMENTS, *SECTIONS])
def test_files_commands_and_names_in_backticks_exist(document: str) -> None:
    found = spans(our_words(document))
    assert found, "nothing in backticks"
    assert {span: missing for span in found if (missing := unknown(span))} == {}


@pytest.mark.parametrize(
    "span",
    [
        "make smok",
        "python -m qilin_lib.pipelines",
        "--onyl 01",
        "-p bta 0.2",
        "near_dup_treshold",
        "03_dcpt/heldot.json",
    ],
)
def test_a_misspelt_name_is_seen(span: str) -> None:
    assert unknown(span)


@pytest.mark.parametrize("notebook", SECTIONS)
def test_title_has_a_line_in_chinese(notebook: str) -> None:
    assert re.match(r"# .*\n+[^\n#]*[\u4e00-\u9fff]{4}", cells(notebook)[0])


# --- single sentences -------------------------------------------------------------------------------------------------


def test_01_says_which_command_names_the_source_folders() -> None:
    cell = next(cell for cell in cells("01_build_chimed") if cell.startswith("## The raw folder"))
    command = re.search(r"`python -m (qilin_lib[\w.]*) RAW_DIR`", cell)
    assert command, "README names no source's folder"
    assert importlib.import_module(command[1]).overview


def test_02_names_every_base_that_a_profile_uses_by_name() -> None:
    profiles = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "params").glob("*.yaml")]
    bases = {profile["tokenize"]["base"] for profile in profiles if "base" in profile.get("tokenize", {})}
    named = {base for base in bases if "/" not in base}
    assert named >= {"tiny", "smollm2"}
    assert [base for base in named if f"`{base}`" not in cells("02_tokenize")[0]] == []


def test_03_names_both_units_of_the_change() -> None:
    entry = {"tokens": [3, 4], "chars": [5, 6], "before": [-9.0, -8.0], "after": [-7.0, -6.0]}
    changes = [
        column
        for column in training.perplexity_table({"medical": entry}, {"seed": 17}).frame
        if "after / before" in column
    ]
    cell = next(cell for cell in cells("03_dcpt") if cell.startswith("## Held-out perplexity"))
    assert len(changes) == 2 and "token" in cell and "character" in cell


def test_cells_hold_for_any_profile_and_any_training_of_a_chain() -> None:
    """The cells and sentences of 03-05 and 07 know neither the smoke profile nor the default chain."""
    read = {name: nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells for name in SECTIONS}
    code = {name: "\n".join(cell.source for cell in of if cell.cell_type == "code") for name, of in read.items()}
    assert not [name for name, source in code.items() if "P.stage or" in source]
    assert "stage == '03_dcpt'" not in code["03_dcpt"] and 'compare("smoke"' not in code["05_dpo"]
    assert "(the DCPT model" not in "\n".join(cells("04_sft")) and "from base to DPO" not in cells("07_case_study")[0]


def test_05_and_deviations_name_each_reference_that_dpo_has() -> None:
    """LoRA and QLoRA switch the adapter off, full training loads a second model, and either may be computed before."""
    row = next(
        line for line in (ROOT / "DEVIATIONS.md").read_text().splitlines() if line.startswith("| DPO reference |")
    )
    for text in (cells("05_dpo")[0], row.split("|")[-2]):
        assert "fresh adapter" not in text
        assert "adapter switched off" in text and "second model" in text and "`precompute_ref_log_probs`" in text


def test_09_gives_the_range_of_mica_for_one_letter() -> None:
    """Sixteen items of six options, six of them reversed: one letter throughout has its points, or those reversed."""
    totals = [10 * (6 - letter) + 6 * (1 + letter) for letter in range(6)]
    named = {int(number) for number in re.findall(r"\b\d\d\b", cells("09_bias")[0].split("MICA")[0][-120:])}
    assert {min(totals), max(totals)} <= named
