"""Stages: what makes one up to date, what a manifest says, and what is said when a parent is missing or stale."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params, runs, stages
from qilin_lib.errors import QilinError
from qilin_lib.runs import environment

ORDER = tuple(runs.PARENTS)


@pytest.fixture(autouse=True)
def place(empty_runs: Path) -> Path:
    """An empty runs folder."""
    return empty_runs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "{}\n")
    return tmp_path / "raw"


def loaded(name: str, raw: Path | None = None, **overrides: Any) -> Any:
    return params.load(name, {"run": "r", **({} if raw is None else {"raw_dir": str(raw)}), **overrides})


def opened(name: str, raw: Path | None = None, **overrides: Any) -> runs.Stage:
    """A stage whose work has begun."""
    stage = stages.open_stage(loaded(name, raw, **overrides))
    stage.begin()
    return stage


def make(name: str, raw: Path | None = None, content: str = "out", **overrides: Any) -> dict[str, Any]:
    """Open a stage, write one file, finish it; returns the manifest."""
    stage = opened(name, raw, **overrides)
    if not stage.up_to_date:
        files.write_text(stage.dir / "out.txt", content)
    return stage.finish(answer=42)


def make_all(raw: Path) -> dict[str, dict[str, Any]]:
    return {name: make(name, raw if name == ORDER[0] else None) for name in ORDER}


def test_folders_follow_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.runs_dir() == (tmp_path / "runs").resolve()
    assert runs.cache_dir() == (tmp_path / "cache").resolve()
    monkeypatch.delenv("QILIN_RUNS_DIR")
    monkeypatch.delenv("QILIN_CACHE_DIR")
    assert runs.runs_dir() == params.ROOT / "runs"
    assert runs.cache_dir() == params.ROOT / ".cache"


def test_a_stage_happened_only_when_it_is_finished(raw: Path) -> None:
    stage = opened("01_build_chimed", raw)
    assert not stage.up_to_date
    files.write_text(stage.dir / "out.txt", "x")
    assert not opened("01_build_chimed", raw).up_to_date
    stage.finish()
    assert opened("01_build_chimed", raw).up_to_date
    assert (stage.dir / "out.txt").read_text(encoding="utf-8") == "x"


def test_finishing_again_changes_nothing(raw: Path) -> None:
    first = make("01_build_chimed", raw)
    path = runs.runs_dir() / "r" / "01_build_chimed" / "manifest.json"
    before = path.read_bytes()
    assert make("01_build_chimed", raw) == first
    assert path.read_bytes() == before


def test_the_manifest_is_written_last(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = opened("01_build_chimed", raw)
    files.write_text(stage.dir / "out.txt", "x")

    def fails(path: Path) -> str:
        raise OSError("disk gone")

    monkeypatch.setattr(files, "sha256_file", fails)
    with pytest.raises(OSError, match="disk gone"):
        stage.finish()
    assert not (stage.dir / "manifest.json").exists()


def test_manifest_fields(raw: Path) -> None:
    """Parameters with defaults, hashes of inputs and outputs, parents, git, versions, hardware, time, memory."""
    first = make("01_build_chimed", raw)
    second = make("02_tokenize")
    assert first["stage"] == "01_build_chimed"
    assert first["inputs"] == {"raw": {"cmd/a.jsonl": files.sha256_text("{}\n")}}
    entry = first["outputs"]["out.txt"]
    assert entry.pop("mtime_ns") > 0 and entry == {"sha256": files.sha256_text("out"), "bytes": 3}
    assert first["parameters"] == loaded("01_build_chimed", raw).model_dump(mode="json")
    assert first["parameters"]["seed"] == 17 and first["parameters"]["profile"] == "smoke"
    assert first["facts"] == {"answer": 42}
    assert second["inputs"] == {"01_build_chimed": first["digest"]}
    recorded = first["environment"]
    assert recorded["packages"].keys() == set(environment.PACKAGES)
    assert recorded["packages"]["numpy"], "an installed package has a version"
    assert recorded.keys() == {
        *("python", "packages", "platform", "cpus", "memory_gb", "gpus", "code", "git_commit", "git_dirty")
    }
    assert first["wall_seconds"] >= 0 and first["peak_memory_mb"] > 10
    assert len(first["digest"]) == len(first["key"]) == 64
    on_disk = files.read_json(runs.runs_dir() / "r" / "01_build_chimed" / "manifest.json")
    assert on_disk["digest"] == first["digest"]


def test_a_finished_stage_keeps_no_checkpoints(raw: Path) -> None:
    stage = opened("01_build_chimed", raw)
    files.write_text(stage.dir / "checkpoints" / "step-1" / "weights", "big")
    files.write_text(stage.dir / "model" / "weights", "small")
    manifest = stage.finish()
    assert set(manifest["outputs"]) == {"model/weights"}
    assert {path.name for path in stage.dir.iterdir()} == {"manifest.json", "model"}


@pytest.mark.parametrize("change", ["parameter", "raw"])
def test_partial_work_of_another_key_is_moved_aside_and_comes_back(raw: Path, capsys: Any, change: str) -> None:
    files.write_text(opened("01_build_chimed", raw).dir / "checkpoints" / "1", "half")
    if change == "raw":
        files.write_text(raw / "cmd" / "a.jsonl", '{"new": 1}\n')
    again = opened("01_build_chimed", raw, seed=5 if change == "parameter" else None)
    assert not (again.dir / "checkpoints").exists()
    told = {"parameter": "seed was 17, is 5", "raw": "its input raw changed"}[change]
    assert f"01_build_chimed: {told}; what was there is now 01_build_chimed.old-" in capsys.readouterr().out
    files.write_text(raw / "cmd" / "a.jsonl", "{}\n")
    back = opened("01_build_chimed", raw)
    assert (back.dir / "checkpoints" / "1").read_text(encoding="utf-8") == "half"


def test_a_finished_stage_comes_back_when_its_parameters_do(raw: Path, place: Path) -> None:
    first = make("01_build_chimed", raw)
    second = make("01_build_chimed", raw, content="other", seed=5)
    assert opened("01_build_chimed", raw).up_to_date
    assert files.read_json(place / "r" / "01_build_chimed" / "manifest.json") == first
    assert opened("01_build_chimed", raw, seed=5).up_to_date
    assert files.read_json(place / "r" / "01_build_chimed" / "manifest.json") == second
    assert [path.name for path in runs.Run(place / "r").old()] == [f"01_build_chimed.old-{first['digest'][:8]}"]


def test_looking_touches_nothing(raw: Path, place: Path) -> None:
    assert not stages.inspect_stage(loaded("01_build_chimed", raw)).up_to_date
    assert not place.exists()


@pytest.mark.parametrize("overrides", [{"seed": 5}, {"min_chars": 9}, {"sources": ["cmd"]}])
def test_a_changed_parameter_makes_a_stage_stale(raw: Path, overrides: dict[str, Any]) -> None:
    make("01_build_chimed", raw)
    assert not stages.inspect_stage(loaded("01_build_chimed", raw, **overrides)).up_to_date


def test_a_raised_version_makes_a_stage_stale(raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make("01_build_chimed", raw)
    monkeypatch.setitem(runs.VERSION, "01_build_chimed", runs.VERSION["01_build_chimed"] + 1)
    assert not opened("01_build_chimed", raw).up_to_date
    assert "this version of the kit makes 01_build_chimed in another way" in capsys.readouterr().out


def test_other_code_is_told_and_makes_nothing_stale(raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make("01_build_chimed", raw)
    now = environment.describe()
    packages = now["packages"] | {"torch": "9.9"}
    monkeypatch.setattr(environment, "describe", lambda: now | {"code": "other", "packages": packages})
    assert opened("01_build_chimed", raw).up_to_date
    told = capsys.readouterr().out
    assert "made by other code: commit" in told and f"torch {now['packages']['torch']} (now 9.9)" in told


@pytest.mark.parametrize(("changed", "dirty"), [("notebooks/01.ipynb", False), ("qilin_lib/a.py", True)])
def test_a_notebook_saved_with_its_outputs_is_no_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, dirty: bool
) -> None:
    """JupyterLab saves the notebook in which a stage is made: the commit still says which code made it."""
    root = tmp_path / "checkout"
    for name in ("notebooks/01.ipynb", "qilin_lib/a.py", "params/smoke.yaml"):
        files.write_text(root / name, "{}")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    files.write_text(root / changed, "{1}")
    monkeypatch.setattr(environment, "ROOT", root)
    assert environment.describe.__wrapped__()["git_dirty"] == dirty


@pytest.mark.parametrize("change", ["content", "new file", "renamed file"])
def test_changed_raw_files_make_a_stage_stale(raw: Path, change: str) -> None:
    make("01_build_chimed", raw)
    if change == "content":
        files.write_text(raw / "cmd" / "a.jsonl", '{"new": 1}\n')
    elif change == "new file":
        files.write_text(raw / "cmd" / "b.jsonl", "{}")
    else:
        (raw / "cmd" / "a.jsonl").rename(raw / "cmd" / "b.jsonl")
    assert not stages.inspect_stage(loaded("01_build_chimed", raw)).up_to_date


def test_names_of_run_and_profile_do_not_count(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make("01_build_chimed", raw)
    (tmp_path / "params").mkdir()
    text = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    (tmp_path / "params" / "mine.yaml").write_text(text, encoding="utf-8")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path / "params"))
    other = make("01_build_chimed", raw, profile="mine", run="other")
    assert (other["key"], other["digest"]) == (first["key"], first["digest"])


def test_digest_covers_outputs_but_not_logs_and_facts(raw: Path) -> None:
    """Logs and facts hold timings; equal bytes elsewhere keep the children valid."""

    def digest(run: str, weights: str, log: str, **facts: Any) -> str:
        stage = opened("01_build_chimed", raw, run=run)
        files.write_text(stage.dir / "weights", weights)
        files.write_text(stage.dir / "train.log", log)
        files.write_text(stage.dir / "log.jsonl", log)
        return stage.finish(**facts)["digest"]

    one = digest("a", "w", "12 s", seconds=12)
    assert digest("b", "w", "13 s", seconds=13) == one
    assert digest("c", "v", "12 s", seconds=12) != one


def test_a_base_folder_counts_by_its_bytes(raw: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    files.write_text(base / "config.json", "{}")
    make("01_build_chimed", raw)
    make("02_tokenize", base=str(base))
    given = loaded("02_tokenize", base=str(base))
    assert stages.inspect_stage(given).up_to_date
    files.write_text(base / "config.json", '{"a": 1}')
    assert not stages.inspect_stage(given).up_to_date


# --- the chain --------------------------------------------------------------------------------------------------------


def test_a_missing_parent_names_the_first_missing_notebook(raw: Path) -> None:
    sentence = "05_dpo needs 01_build_chimed, which run 'r' does not have: run notebooks/01_build_chimed.ipynb first"
    with pytest.raises(QilinError) as refused:
        opened("05_dpo")
    assert str(refused.value) == sentence
    make("01_build_chimed", raw)
    make("02_tokenize")
    with pytest.raises(QilinError, match=r"needs 04_sft, .* run notebooks/03_dcpt\.ipynb first"):
        opened("05_dpo")
    make("03_dcpt")
    with pytest.raises(QilinError, match=r"needs 04_sft, .* run notebooks/04_sft\.ipynb first"):
        opened("05_dpo")


def test_a_parent_remade_with_equal_bytes_keeps_its_children(raw: Path) -> None:
    make_all(raw)
    stages.force("r", ["01_build_chimed"])
    make("01_build_chimed", raw)
    assert opened("02_tokenize").up_to_date and opened("07_case_study").up_to_date


def test_a_stale_parent_names_the_notebook_to_run_again(raw: Path) -> None:
    make_all(raw)
    make("01_build_chimed", raw, content="other", seed=5)
    with pytest.raises(QilinError) as refused:
        opened("03_dcpt")
    assert str(refused.value) == (
        "03_dcpt needs 02_tokenize, but 02_tokenize of run 'r' was made from an older 01_build_chimed: "
        "run notebooks/02_tokenize.ipynb again"
    )
    make("02_tokenize", content="other")
    with pytest.raises(QilinError, match=r"05_dpo needs 04_sft, but .*run notebooks/0[34]_\w+\.ipynb again"):
        opened("05_dpo")


def test_stale_further_up_is_seen_from_below(raw: Path) -> None:
    """07 of an old chain must not open when only 03 was made again."""
    make_all(raw)
    make("03_dcpt", content="other", seed=5)
    with pytest.raises(QilinError, match=r"04_sft of run 'r' was made from an older 03_dcpt"):
        opened("07_case_study")


def test_parents_by_name(raw: Path, place: Path) -> None:
    make("01_build_chimed", raw)
    stage = opened("02_tokenize")
    assert stage.parent("01_build_chimed") == place / "r" / "01_build_chimed"
    assert stage.facts("01_build_chimed") == {"answer": 42}
    with pytest.raises(QilinError, match=r"02_tokenize does not stand on 05_dpo; it stands on \['01_build_chimed'\]"):
        stage.parent("05_dpo")


def test_raw_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"raw_dir = '.*nowhere': .*is not a folder"):
        opened("01_build_chimed", tmp_path / "nowhere")
    (tmp_path / "empty" / "cmd").mkdir(parents=True)
    with pytest.raises(QilinError, match=r"raw_dir = '.*empty': the folder holds no file"):
        opened("01_build_chimed", tmp_path / "empty")


def test_a_raw_file_that_cannot_be_read_does_not_stop_the_notebook(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256_file", refuse)
    inputs = stages.inspect_stage(loaded("01_build_chimed", raw)).inputs
    assert inputs == {"raw": {"cmd/a.jsonl": "unreadable: Permission denied"}}


def test_a_raw_file_that_changes_during_the_build_is_noticed(raw: Path) -> None:
    stage = opened("01_build_chimed", raw)
    files.write_text(raw / "cmd" / "a.jsonl", '{"other": 1}\n')
    with pytest.raises(QilinError, match=r"cmd/a\.jsonl changed while 01_build_chimed was working"):
        stage.finish()


def test_the_number_of_workers_does_not_change_a_stage(raw: Path) -> None:
    keys = {stages.inspect_stage(loaded("01_build_chimed", raw, workers=workers)).key for workers in (1, 2, None)}
    assert len(keys) == 1
    assert stages.inspect_stage(loaded("01_build_chimed", raw, exact_substring_length=99)).key not in keys


# --- accepted, shared, verified, old ----------------------------------------------------------------------------------


def test_an_accepted_stage_is_up_to_date_and_keeps_its_manifest(raw: Path, place: Path) -> None:
    first = make("01_build_chimed", raw)
    make("02_tokenize")
    reason = stages.accept(loaded("01_build_chimed", raw, seed=5))
    assert reason == "seed was 17, is 5"
    assert opened("01_build_chimed", raw, seed=5).up_to_date and opened("02_tokenize").up_to_date
    assert files.read_json(place / "r" / "01_build_chimed" / "manifest.json") == first
    (note,) = runs.Run(place / "r").acceptances("01_build_chimed")
    assert note["stage"] == "01_build_chimed" and note["reason"] == reason and note["when"]
    assert stages.accept(loaded("01_build_chimed", raw)) == "", "its own parameters need no acceptance"


def test_an_accepted_change_by_hand_passes_and_the_next_one_does_not(raw: Path, place: Path) -> None:
    make("01_build_chimed", raw)
    out = place / "r" / "01_build_chimed" / "out.txt"
    files.write_text(out, "by hand")
    assert "changed by hand: out.txt" in stages.accept(loaded("01_build_chimed", raw))
    make("02_tokenize")
    files.write_text(out, "again")
    with pytest.raises(QilinError, match=r"out\.txt is not what 01_build_chimed wrote"):
        opened("02_tokenize")


def test_a_parent_that_was_made_again_can_be_accepted(raw: Path) -> None:
    make("01_build_chimed", raw)
    make("02_tokenize")
    make("01_build_chimed", raw, content="other", seed=5)
    assert stages.accept(loaded("02_tokenize")) == "its input 01_build_chimed changed"
    make("03_dcpt")
    assert opened("02_tokenize").up_to_date


def test_two_runs_share_what_is_equal(raw: Path, place: Path) -> None:
    make_all(raw)
    same = stages.open_stage(loaded("04_sft", run="b", from_run="r"))
    assert same.up_to_date
    other = stages.open_stage(loaded("05_dpo", run="b", from_run="r", beta=0.2))
    assert not other.up_to_date
    assert [path.name for path in sorted((place / "b").iterdir())] == list(ORDER[:4])
    assert all(path.is_symlink() for path in (place / "b").iterdir())
    make("05_dpo", run="b", from_run="r", beta=0.2, content="two")
    assert (place / "r" / "05_dpo" / "out.txt").read_text(encoding="utf-8") == "out"


def test_a_shared_stage_is_never_written_to(raw: Path, place: Path) -> None:
    make_all(raw)
    stages.open_stage(loaded("04_sft", run="b", from_run="r"))
    before = (place / "r" / "04_sft" / "manifest.json").read_bytes()
    make("04_sft", run="b", from_run="r", content="own", seed=5)
    assert (place / "r" / "04_sft" / "manifest.json").read_bytes() == before
    assert not (place / "b" / "04_sft").is_symlink()


def test_a_run_to_share_with_that_is_not_there(raw: Path) -> None:
    make_all(raw)
    with pytest.raises(QilinError, match=r"from_run = 'rr': no such run \(did you mean 'r'\?\)|from_run = 'rr'"):
        stages.open_stage(loaded("04_sft", run="b", from_run="rr"))


def test_verify_reads_every_byte(raw: Path, place: Path) -> None:
    make_all(raw)
    assert len(list(stages.verify("r"))) == len(ORDER)
    out = place / "r" / "03_dcpt" / "out.txt"
    state = out.stat()
    out.write_text("tuo", encoding="utf-8")
    os.utime(out, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(QilinError, match=r"03_dcpt/out\.txt is not what 03_dcpt wrote"):
        list(stages.verify("r"))
