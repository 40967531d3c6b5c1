"""The sample's files: byte for byte the same after git and after packaging, and what README says of them is true."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from qilin_lib import sample
from qilin_lib.chimed import sources
from qilin_lib.chimed.readers.stream import Stream
from qilin_lib.files import sha256_text

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "qilin_lib" / "sample"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
# Change it in a commit that says which files changed and why: golden numbers of runs rest on these bytes.
SHA256 = "8e681098573689c3f425c6b47c64614b6171c90a15c82b1f4e41676d5a41724a"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_files_are_the_ones_that_every_number_was_measured_on() -> None:
    lines = [f"{name} {hashlib.sha256(content).hexdigest()}\n" for name, content in contents(sample.raw_dir()).items()]
    assert len(lines) == 101 and sha256_text("".join(sorted(lines))) == SHA256


def test_the_tiny_base_learns_from_the_same_texts_in_the_same_order() -> None:
    texts = json.dumps(sample.base_texts({"今天练习几件小事。"}), ensure_ascii=False)
    assert sha256_text(texts) == "4adc15028972a564034eb83324e97edbbe650d2c8ddb71e0cee2a7f262058b02"


@pytest.mark.skipif(not shutil.which("git"), reason="no git here")
@pytest.mark.parametrize("line_ends", ["true", "input"])
def test_git_hands_on_every_byte_whatever_line_ends_it_is_told_to_write(line_ends: str, tmp_path: Path) -> None:
    def git(*words: str, within: Path) -> None:
        subprocess.run(["git", *words], cwd=within, check=True, capture_output=True)

    copied, cloned = tmp_path / "copied", tmp_path / "cloned"
    shutil.copytree(FOLDER, copied / "qilin_lib" / "sample", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".gitattributes", copied)
    git("init", "--quiet", within=copied)
    settings = ("-c", f"core.autocrlf={line_ends}", "-c", "user.name=n", "-c", "user.email=n@example.com")
    git(*settings, "add", "--all", within=copied)
    git(*settings, "commit", "--quiet", "--message=files", within=copied)
    git("clone", "--quiet", "--config", f"core.autocrlf={line_ends}", str(copied), str(cloned), within=tmp_path)
    assert contents(cloned / "qilin_lib" / "sample" / "raw") == contents(sample.raw_dir())


def test_every_planted_flaw_is_in_its_file() -> None:
    for flaw in json.loads(Path(__file__).with_name("planted.json").read_text(encoding="utf-8")):
        text = "".join(Stream.of((sample.raw_dir() / flaw["file"]).read_bytes()).pieces())
        assert flaw["text"] in text, flaw


@pytest.mark.slow
def test_a_wheel_ships_every_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "qilin_lib", tmp_path / "qilin_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index", "."]
    done = subprocess.run([*command, "--wheel-dir", "out"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))) as wheel:
        shipped = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("qilin_lib/sample/")}
    there = {f"qilin_lib/sample/{name}": content for name, content in contents(tmp_path / "qilin_lib/sample").items()}
    assert shipped == there and "qilin_lib/sample/vocabulary.txt" in there


def test_readme_names_every_folder_and_counts_the_planted_flaws() -> None:
    of_01, of_06 = (re.findall("`([a-z0-9_]+)`", part) for part in README.split("- read by notebook")[1:])
    folders = sorted(path.name for path in sample.raw_dir().iterdir())
    assert sorted(of_01 + of_06[:3]) == folders
    assert sorted(of_01) == sorted(set(folders) & set(sources.BY_NAME))
    planted = json.loads((Path(__file__).with_name("planted.json")).read_text(encoding="utf-8"))
    told = {kind: int(number) for kind, number in re.findall(r"^\| (\w+):.* \| (\d+) \|$", README, re.MULTILINE)}
    assert told == Counter(flaw["kind"] for flaw in planted)
