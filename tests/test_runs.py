"""Stages: what makes one up to date, what a manifest says, what is said when a parent is missing or stale; nothing that
was finished is lost, and nothing is made again without need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from qilin_lib import chains, files, params, pipeline, runs, stages
from qilin_lib.errors import QilinError
from qilin_lib.runs import environment

ORDER = tuple(runs.PARENTS)
BUILD, TOKENIZE, DCPT = ORDER[:3]


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


def up_to_date(name: str, raw: Path | None = None, **overrides: Any) -> bool:
    return stages.inspect_stage(loaded(name, raw, **overrides)).up_to_date


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


def make_all(raw: Path, until: int = len(ORDER)) -> dict[str, dict[str, Any]]:
    return {name: make(name, raw if name == BUILD else None) for name in ORDER[:until]}


def contents(place: Path) -> set[str]:
    """What stands in the out.txt of any folder of the run."""
    return {path.read_text(encoding="utf-8") for path in place.rglob("out.txt")}


# --- one stage --------------------------------------------------------------------------------------------------------


def test_folders_follow_the_environment(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runs.runs_dir() == (tmp_path / "runs").resolve() and runs.cache_dir() == (tmp_path / "cache").resolve()
    files.write_text(tmp_path / "file", "x")
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "file"))
    with pytest.raises(QilinError, match="QILIN_RUNS_DIR"):
        make(BUILD)
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path))
    with pytest.raises(QilinError, match="file.* cannot be written"):
        make(BUILD, run="file")
    # An empty placeholder of an environment file names no folder.
    monkeypatch.setenv("QILIN_RUNS_DIR", "")
    monkeypatch.delenv("QILIN_CACHE_DIR")
    assert runs.runs_dir() == params.ROOT / "runs" and runs.cache_dir() == params.ROOT / ".cache"
    # Only a stage's own name says that it was moved aside.
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "kit.old-2025" / "runs"))
    make(BUILD, raw, chain=["sft"])
    assert runs.Run(runs.runs_dir() / "r").chain == ["sft"]


def test_a_stage_happened_only_when_it_is_finished_and_then_changes_no_more(raw: Path, place: Path) -> None:
    assert not up_to_date(BUILD, raw) and not place.exists(), "looking touches nothing"
    stage = opened(BUILD, raw)
    files.write_text(stage.dir / "out.txt", "x")
    assert not stage.up_to_date and not opened(BUILD, raw).up_to_date
    first, before = stage.finish(), (stage.dir / "manifest.json").read_bytes()
    assert opened(BUILD, raw).up_to_date and make(BUILD, raw) == first
    assert (stage.dir / "manifest.json").read_bytes() == before and contents(place) == {"x"}


def test_the_manifest_is_written_last(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = opened(BUILD, raw)
    files.write_text(stage.dir / "out.txt", "x")

    def fails(path: Path) -> str:
        raise OSError("disk gone")

    monkeypatch.setattr(files, "sha256_file", fails)
    with pytest.raises(OSError, match="disk gone"):
        stage.finish()
    assert not (stage.dir / "manifest.json").exists()


def test_manifest_fields(raw: Path) -> None:
    """Parameters with defaults, hashes of inputs and outputs, parents, git, versions, hardware, time, memory."""
    first, second = make_all(raw, until=2).values()
    assert first["stage"] == BUILD
    assert first["inputs"] == {"raw": {"cmd/a.jsonl": files.sha256_text("{}\n")}}
    entry = first["outputs"]["out.txt"]
    assert entry.pop("mtime_ns") > 0 and entry == {"sha256": files.sha256_text("out"), "bytes": 3}
    assert first["parameters"] == loaded(BUILD, raw).model_dump(mode="json")
    assert first["parameters"]["seed"] == 17 and first["parameters"]["profile"] == "smoke"
    assert first["facts"] == {"answer": 42}
    assert second["inputs"] == {BUILD: first["digest"]}
    recorded = first["environment"]
    assert recorded["packages"].keys() == set(environment.PACKAGES) and recorded["packages"]["numpy"]
    assert {"python", "platform", "cpus", "memory_gb", "gpus", "code", "git_commit", "git_dirty"} <= recorded.keys()
    assert first["wall_seconds"] >= 0 and first["peak_memory_mb"] > 10
    assert len(first["digest"]) == len(first["key"]) == 64
    assert files.read_json(runs.runs_dir() / "r" / BUILD / "manifest.json")["digest"] == first["digest"]


@pytest.mark.parametrize("change", ["parameter", "raw"])
def test_partial_work_of_another_key_is_moved_aside_and_comes_back(raw: Path, capsys: Any, change: str) -> None:
    files.write_text(opened(BUILD, raw).dir / "checkpoints" / "1", "half")
    if change == "raw":
        files.write_text(raw / "cmd" / "a.jsonl", '{"new": 1}\n')
    again = opened(BUILD, raw, seed=5 if change == "parameter" else None)
    assert not (again.dir / "checkpoints").exists()
    told = {"parameter": "seed was 17, is 5", "raw": "its input raw changed"}[change]
    assert f"{BUILD}: {told}; what was there is now {BUILD}.old-" in capsys.readouterr().out
    files.write_text(raw / "cmd" / "a.jsonl", "{}\n")
    back = opened(BUILD, raw)
    assert (back.dir / "checkpoints" / "1").read_text(encoding="utf-8") == "half"


def test_a_finished_stage_comes_back_when_its_parameters_do(raw: Path, place: Path) -> None:
    first = make(BUILD, raw)
    second = make(BUILD, raw, content="other", seed=5)
    for given, manifest in (({}, first), ({"seed": 5}, second)):
        assert opened(BUILD, raw, **given).up_to_date
        assert files.read_json(place / "r" / BUILD / "manifest.json") == manifest
    assert [path.name for path in runs.Run(place / "r").old()] == [f"{BUILD}.old-{first['digest'][:8]}"]


def test_a_finished_stage_survives_force(raw: Path, place: Path) -> None:
    make(BUILD, raw, "weights of three days")
    # The notebook fails after the force: nothing it could write replaces what was there.
    pipeline.main(
        ["smoke", "--run", "r", "--only", "01", "--force", "-p", "raw_dir", str(raw), "-p", "sources", '["x"]']
    )
    assert contents(place) == {"weights of three days"}


# --- what makes a stage stale -----------------------------------------------------------------------------------------


# Two GPUs at an equal batch per device double the global batch.
QUIET = [
    *({"logging_steps": 1}, {"save_steps": 7}, {"max_heldout": 3}, {"report_to": "tensorboard"}),
    *({"gpus": 2, "per_device_train_batch_size": 2}, {"gradient_checkpointing": True}),
    {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
]
LOUD = [{"learning_rate": 1e-3}, {"gpus": 2}, {"seed": 3}, {"dtype": "bfloat16"}]


@pytest.mark.parametrize("change", [*QUIET, *LOUD], ids=str)
def test_logging_scoring_and_hardware_retrain_nothing(raw: Path, change: dict[str, Any]) -> None:
    make_all(raw, until=3)
    assert up_to_date(DCPT, **change) == (change in QUIET)
    assert up_to_date(BUILD, raw, workers=2) and not up_to_date(BUILD, raw, min_chars=9)


@pytest.mark.parametrize(
    "name",
    [
        *("cmd/a.jsonl", "cmd/b.jsonl"),
        *(".DS_Store", "README.md", ".ipynb_checkpoints/x.json", "cmd/.DS_Store", "notes.docx"),
    ],
)
def test_a_raw_file_counts_if_it_is_read(raw: Path, name: str) -> None:
    make(BUILD, raw)
    files.write_text(raw / name, '{"new": 1}\n')
    assert up_to_date(BUILD, raw) == (not name.endswith(".jsonl"))


def test_a_source_counts_by_its_name_also_through_a_link(raw: Path, tmp_path: Path) -> None:
    (raw / "cmd").rename(tmp_path / "elsewhere")
    (raw / "cmd").symlink_to(tmp_path / "elsewhere")
    make(BUILD, raw)
    assert up_to_date(BUILD, raw)
    (tmp_path / "elsewhere" / "a.jsonl").rename(tmp_path / "elsewhere" / "b.jsonl")
    assert not up_to_date(BUILD, raw)


def test_a_base_folder_counts_by_its_bytes(raw: Path, tmp_path: Path) -> None:
    files.write_text(tmp_path / "base" / "config.json", "{}")
    make(BUILD, raw)
    make(TOKENIZE, base=str(tmp_path / "base"))
    assert up_to_date(TOKENIZE, base=str(tmp_path / "base"))
    files.write_text(tmp_path / "base" / "config.json", '{"a": 1}')
    assert not up_to_date(TOKENIZE, base=str(tmp_path / "base"))


def test_a_raised_version_makes_a_stage_stale(raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make(BUILD, raw)
    monkeypatch.setitem(runs.VERSION, BUILD, runs.VERSION[BUILD] + 1)
    assert not opened(BUILD, raw).up_to_date
    assert f"this version of the kit makes {BUILD} in another way" in capsys.readouterr().out


def test_other_code_is_told_and_makes_nothing_stale(raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    make(BUILD, raw)
    now = environment.describe()
    packages = now["packages"] | {"torch": "9.9"}
    monkeypatch.setattr(environment, "describe", lambda: now | {"code": "other", "packages": packages})
    assert opened(BUILD, raw).up_to_date
    told = capsys.readouterr().out
    assert "made by other code: commit" in told and f"torch {now['packages']['torch']} (now 9.9)" in told


def test_names_of_run_and_profile_do_not_count(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(BUILD, raw)
    text = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    files.write_text(tmp_path / "params" / "mine.yaml", text)
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path / "params"))
    other = make(BUILD, raw, profile="mine", run="other")
    assert (other["key"], other["digest"]) == (first["key"], first["digest"])


def test_digest_covers_outputs_but_not_logs_and_facts(raw: Path) -> None:
    """Logs and facts hold timings; equal bytes elsewhere keep the children valid."""

    def digest(run: str, weights: str, log: str, **facts: Any) -> str:
        stage = opened(BUILD, raw, run=run)
        for name, text in (("weights", weights), ("train.log", log), ("log.jsonl", log)):
            files.write_text(stage.dir / name, text)
        return stage.finish(**facts)["digest"]

    one = digest("a", "w", "12 s", seconds=12)
    assert digest("b", "w", "13 s", seconds=13) == one
    assert digest("c", "v", "12 s", seconds=12) != one


def test_raw_folder_missing_or_empty(tmp_path: Path) -> None:
    with pytest.raises(QilinError, match=r"raw_dir = '.*nowhere': .*is not a folder"):
        opened(BUILD, tmp_path / "nowhere")
    (tmp_path / "empty" / "cmd").mkdir(parents=True)
    with pytest.raises(QilinError, match=r"raw_dir = '.*empty': the folder holds no file"):
        opened(BUILD, tmp_path / "empty")


def test_a_raw_file_that_cannot_be_read_does_not_stop_the_notebook(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(files, "sha256_file", refuse)
    inputs = stages.inspect_stage(loaded(BUILD, raw)).inputs
    assert inputs == {"raw": {"cmd/a.jsonl": "unreadable: Permission denied"}}


def test_a_raw_file_that_changes_during_the_build_is_noticed(raw: Path) -> None:
    stage = opened(BUILD, raw)
    files.write_text(raw / "cmd" / "a.jsonl", '{"other": 1}\n')
    with pytest.raises(QilinError, match=rf"cmd/a\.jsonl changed while {BUILD} was working"):
        stage.finish()


# --- the chain --------------------------------------------------------------------------------------------------------


def test_a_missing_parent_names_the_first_missing_notebook(raw: Path) -> None:
    with pytest.raises(QilinError, match="^05_dpo needs 01_build_chimed, which run 'r' .*: run .*/01_[^/]* first$"):
        opened("05_dpo")
    make_all(raw, until=2)
    for missing in (DCPT, "04_sft"):
        with pytest.raises(QilinError, match=rf"needs 04_sft, .* run notebooks/{missing}\.ipynb first"):
            opened("05_dpo")
        make(missing)


def test_a_parent_remade_with_equal_bytes_keeps_its_children(raw: Path) -> None:
    make_all(raw)
    stages.force("r", [BUILD])
    make(BUILD, raw)
    assert opened(TOKENIZE).up_to_date and opened("07_case_study").up_to_date


def test_a_stale_parent_names_the_notebook_to_run_again_also_from_further_below(raw: Path) -> None:
    make_all(raw)
    make(DCPT, content="other", seed=5)
    with pytest.raises(QilinError, match=r"04_sft of run 'r' was made from an older 03_dcpt"):
        opened("07_case_study")
    make(BUILD, raw, content="other", seed=5)
    with pytest.raises(QilinError) as refused:
        opened(DCPT)
    assert str(refused.value) == (
        "03_dcpt needs 02_tokenize, but 02_tokenize of run 'r' was made from an older 01_build_chimed: "
        "run notebooks/02_tokenize.ipynb again"
    )
    make(TOKENIZE, content="other")
    with pytest.raises(QilinError, match=r"05_dpo needs 04_sft, but .*run notebooks/0[34]_\w+\.ipynb again"):
        opened("05_dpo")


@pytest.mark.parametrize("change", ["deleted", "edited", "edited with equal size and time"])
def test_a_damaged_output_is_noticed_when_a_child_opens(raw: Path, place: Path, change: str) -> None:
    make(BUILD, raw, "genuine")
    out = place / "r" / BUILD / "out.txt"
    state = out.stat()
    if change == "deleted":
        out.unlink()
    else:
        out.write_text("genuinE" if "equal" in change else "forged scores", encoding="utf-8")
    if "equal" in change:
        os.utime(out, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    with pytest.raises(QilinError, match=r"01_build_chimed/out\.txt"):
        opened(TOKENIZE)


@pytest.mark.parametrize("name", runs.NOTES)
@pytest.mark.parametrize("broken", ["", '{"key": "a', "{}", "null"])
def test_a_note_that_a_copy_cut_is_a_sentence_and_force_makes_the_stage_again(
    raw: Path, place: Path, broken: str, name: str
) -> None:
    finished = name == "manifest.json"
    (make if finished else opened)(BUILD, raw)
    (place / "r" / BUILD / name).write_text(broken, encoding="utf-8")
    if finished:
        with pytest.raises(QilinError, match=r"01_build_chimed/manifest\.json.*--force --only 01"):
            opened(TOKENIZE)
    assert runs.Run(place / "r").chain == list(chains.DEFAULT)
    stages.force("r", [BUILD])
    make(BUILD, raw)
    assert not opened(TOKENIZE).up_to_date


def test_what_a_killed_process_was_writing_is_no_output_and_checkpoints_are_none(raw: Path) -> None:
    """The same bytes as a run that was not killed, and no gigabytes that nobody reads."""
    stage = opened(BUILD, raw)
    files.write_text(stage.dir / "tokens" / ".ids.npy.4711.tmp", "half")
    files.write_text(stage.dir / "checkpoints" / "step-1" / "weights", "big")
    assert set(make(BUILD, raw)["outputs"]) == {"out.txt"}
    assert {path.name for path in stage.dir.rglob("*")} == {"manifest.json", "out.txt", "tokens"}


# --- accepted, shared, verified ---------------------------------------------------------------------------------------


def test_an_accepted_stage_is_up_to_date_and_keeps_its_manifest(raw: Path, place: Path) -> None:
    first = make(BUILD, raw)
    make(TOKENIZE)
    reason = stages.accept(loaded(BUILD, raw, seed=5))
    assert reason == "seed was 17, is 5"
    assert opened(BUILD, raw, seed=5).up_to_date and opened(TOKENIZE).up_to_date
    assert files.read_json(place / "r" / BUILD / "manifest.json") == first
    (note,) = runs.Run(place / "r").acceptances(BUILD)
    assert note["stage"] == BUILD and note["reason"] == reason and note["when"]
    assert stages.accept(loaded(BUILD, raw)) == "", "its own parameters need no acceptance"


def test_an_accepted_change_by_hand_passes_and_the_next_one_does_not(raw: Path, place: Path) -> None:
    make(BUILD, raw)
    out = place / "r" / BUILD / "out.txt"
    files.write_text(out, "by hand")
    assert "changed by hand: out.txt" in stages.accept(loaded(BUILD, raw))
    make(TOKENIZE)
    files.write_text(out, "again")
    with pytest.raises(QilinError, match=r"out\.txt is not what 01_build_chimed wrote"):
        opened(TOKENIZE)


def test_a_parent_that_was_made_again_can_be_accepted(raw: Path) -> None:
    make_all(raw, until=2)
    make(BUILD, raw, content="other", seed=5)
    assert stages.accept(loaded(TOKENIZE)) == "its input 01_build_chimed changed"
    make(DCPT)
    assert opened(TOKENIZE).up_to_date


def test_two_runs_share_what_is_equal_and_write_what_is_not_for_themselves(raw: Path, place: Path) -> None:
    make_all(raw)
    assert stages.open_stage(loaded("04_sft", run="b", from_run="r")).up_to_date
    assert not stages.open_stage(loaded("05_dpo", run="b", from_run="r", beta=0.2)).up_to_date
    assert [path.name for path in sorted((place / "b").iterdir())] == list(ORDER[:4])
    assert all(path.is_symlink() for path in (place / "b").iterdir())
    make("05_dpo", run="b", from_run="r", beta=0.2, content="two")
    assert (place / "r" / "05_dpo" / "out.txt").read_text(encoding="utf-8") == "out"
    before = (place / "r" / "04_sft" / "manifest.json").read_bytes()
    make("04_sft", run="b", from_run="r", content="own", seed=5)
    assert (place / "r" / "04_sft" / "manifest.json").read_bytes() == before
    assert not (place / "b" / "04_sft").is_symlink() and not runs.Run(place / "b").old("04_sft"), "a link is dropped"
    with pytest.raises(QilinError, match=r"from_run 'rr': no such run .*did you mean 'r'"):
        stages.open_stage(loaded("04_sft", run="b", from_run="rr"))


def test_a_run_on_another_disk_shares_too(raw: Path, place: Path, tmp_path: Path) -> None:
    """runs/b is a link to a larger disk, and so is the run that it stands on."""
    make_all(raw, until=2)
    (tmp_path / "disk" / "b").mkdir(parents=True)
    (place / "b").symlink_to(tmp_path / "disk" / "b")
    assert stages.open_stage(loaded(TOKENIZE, run="b", from_run="r")).up_to_date
    (place / "r").rename(tmp_path / "disk" / "r")
    (place / "r").symlink_to(tmp_path / "disk" / "r")
    assert stages.open_stage(loaded(TOKENIZE, run="c", from_run="r")).up_to_date


def test_verify_reads_every_byte(raw: Path, place: Path) -> None:
    make_all(raw)
    assert len(list(stages.verify("r"))) == len(ORDER)
    out = place / "r" / DCPT / "out.txt"
    state = out.stat()
    out.write_text("tuo", encoding="utf-8")
    os.utime(out, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(QilinError, match=r"03_dcpt/out\.txt is not what 03_dcpt wrote"):
        list(stages.verify("r"))


def test_a_file_system_without_locks_is_a_sentence(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lustre that is mounted without them, on many a cluster."""

    def none(*_: Any) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.raises(QilinError, match=r"\.01_build_chimed\.lock.*Function not implemented.*QILIN_RUNS_DIR"):
        opened(BUILD, raw)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_runs
from qilin_lib import files
from qilin_lib.runs import locks
stage = test_runs.opened("01_build_chimed", Path(sys.argv[1]))
print("open", flush=True)
locks.report("step 7/9")
time.sleep(4)
if sys.argv[3] == "finishes":
    files.write_text(stage.dir / "out.txt", "of the first process")
    stage.finish()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["finishes", "dies"])
def test_who_follows_sees_the_progress_and_takes_what_is_left(raw: Path, place: Path, end: str) -> None:
    """A notebook opened beside a running training of the same stage: papermill in tmux, then Run All in a browser. Who
    asks for other parameters does not follow."""
    call = [sys.executable, "-c", HOLDER, str(raw), str(Path(__file__).parent), end]
    holder = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(QilinError, match=rf"is being made by process {holder.pid} on .* since 20"):
        stages.open_stage(loaded(BUILD, raw, seed=5)).begin([].append)
    shown: list[str] = []
    stage = stages.open_stage(loaded(BUILD, raw))
    stage.begin(shown.append)
    holder.wait()
    assert f"process {holder.pid}" in shown[-1] and "step 7/9" in shown[-1]
    assert stage.up_to_date == (end == "finishes")
    assert contents(place) == ({"of the first process"} if stage.up_to_date else set())


def test_predictions_outlive_a_changed_parameter_of_another_benchmark(raw: Path) -> None:
    from qilin_lib.evaluate import answering, items, plan, prompts, store

    class One(plan.Task):
        def prompts(self, *_: Any) -> list[prompts.Prompt]:
            return [prompts.Prompt([], "", [1], "q", 0, False)]

        def answer(self, items: Any, prompts: Any, backend: Any) -> list[dict]:
            asked.extend(items)
            return [{"output": "x", "prediction": "x"} for _ in items]

    make_all(raw, until=5)
    asked: list[Any] = []
    item, named = items.Item("cmexam", "1", "test", None, "q", None, None, "r"), SimpleNamespace(name="plain")
    about = {"tokenizer": named, "template": named, "likelihood": False, "batch_size": 1}
    backend = SimpleNamespace(**about, fingerprint=lambda: "weights")
    for cap in (5, 6):
        stage = opened("06_eval", max_items_huatuo=cap)
        path = store.predictions(stage.dir, "fixed", "cmexam", "base")
        answering.answer(One("cmexam", plan.FIXED, "test", 1, [item], [], {}), "base", backend, 0, path)
        store.finish(path, ["1"])
        assert path.exists() and len(asked) == 1, "a prediction that is on disk is not asked for again"
        stage.finish()
