"""Nothing that was finished is lost, and nothing is made again without need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params, pipeline, runs, stages
from qilin_lib.errors import QilinError

BUILD, DCPT = "01_build_chimed", "03_dcpt"


@pytest.fixture(autouse=True)
def place(empty_runs: Path) -> Path:
    """An empty runs folder."""
    return empty_runs


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    files.write_text(tmp_path / "raw" / "toyhom_dialogue" / "样例_内科.csv", "department,title,ask,answer\n")
    return tmp_path / "raw"


def opened(name: str, raw: Path, **overrides: Any) -> runs.Stage:
    given = params.load(name, {"run": "r", **({"raw_dir": str(raw)} if name == BUILD else {}), **overrides})
    return stages.open_stage(given)


def make(name: str, raw: Path, content: str = "out", **overrides: Any) -> dict[str, Any]:
    """Open a stage, write one file, finish it; returns the manifest."""
    stage = opened(name, raw, **overrides)
    stage.begin()
    if not stage.up_to_date:
        files.write_text(stage.dir / "out.txt", content)
    return stage.finish()


def contents(place: Path) -> set[str]:
    """What stands in the out.txt of any folder of the run."""
    return {path.read_text(encoding="utf-8") for path in place.rglob("out.txt")}


def up_to_date(name: str, raw: Path, **overrides: Any) -> bool:
    return opened(name, raw, **overrides).up_to_date


def test_a_finished_stage_survives_force(raw: Path, place: Path) -> None:
    make(BUILD, raw, "weights of three days")
    # The notebook fails after the force: nothing it could write replaces what was there.
    pipeline.main(
        ["smoke", "--run", "r", "--only", "01", "--force", "-p", "raw_dir", str(raw), "-p", "sources", '["x"]']
    )
    assert contents(place) == {"weights of three days"}


@pytest.mark.parametrize(
    "change",
    [
        {"logging_steps": 1},
        {"save_steps": 7},
        {"max_heldout": 3},
        {"report_to": "tensorboard"},
        {"gpus": 2, "per_device_train_batch_size": 2},
        {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_logging_scoring_and_hardware_retrain_nothing(raw: Path, change: dict[str, Any]) -> None:
    for name in (BUILD, "02_tokenize", DCPT):
        make(name, raw)
    assert up_to_date(DCPT, raw, **change)


@pytest.mark.parametrize("change", [{"learning_rate": 1e-3}, {"gpus": 2}, {"seed": 3}, {"dtype": "bfloat16"}], ids=str)
def test_what_moves_results_does_retrain(raw: Path, change: dict[str, Any]) -> None:
    """Two GPUs at an equal batch per device double the global batch."""
    for name in (BUILD, "02_tokenize", DCPT):
        make(name, raw)
    stage = params.load(DCPT, {"run": "r", **change})
    assert not stages.inspect_stage(stage).up_to_date


@pytest.mark.parametrize(
    "junk", [".DS_Store", "README.md", ".ipynb_checkpoints/x.json", "toyhom_dialogue/.DS_Store", "notes.docx"]
)
def test_a_file_that_nothing_reads_changes_no_key(raw: Path, junk: str) -> None:
    make(BUILD, raw)
    files.write_text(raw / junk, "x")
    assert up_to_date(BUILD, raw)


def test_a_linked_source_is_read_and_counts(raw: Path, tmp_path: Path) -> None:
    (raw / "toyhom_dialogue").rename(tmp_path / "elsewhere")
    (raw / "toyhom_dialogue").symlink_to(tmp_path / "elsewhere")
    make(BUILD, raw)
    assert up_to_date(BUILD, raw)
    files.write_text(tmp_path / "elsewhere" / "样例_内科.csv", "department,title,ask,answer\n内科,a,b,c\n")
    assert not up_to_date(BUILD, raw)


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
        opened("02_tokenize", raw)


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_kept
from qilin_lib import files
from qilin_lib.runs import locks
stage = test_kept.opened("01_build_chimed", Path(sys.argv[1]))
stage.begin()
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
    """A notebook opened beside a running training of the same stage: papermill in tmux, then Run All in a browser."""
    call = [sys.executable, "-c", HOLDER, str(raw), str(Path(__file__).parent), end]
    holder = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    shown: list[str] = []
    stage = opened(BUILD, raw)
    stage.begin(shown.append)
    holder.wait()
    assert f"process {holder.pid}" in shown[-1] and "step 7/9" in shown[-1]
    assert stage.up_to_date == (end == "finishes")
    assert contents(place) == ({"of the first process"} if stage.up_to_date else set())


@pytest.mark.slow
def test_who_asks_for_other_parameters_does_not_follow(raw: Path) -> None:
    call = [sys.executable, "-c", HOLDER, str(raw), str(Path(__file__).parent), "finishes"]
    holder = subprocess.Popen(call, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "open\n"
    with pytest.raises(QilinError, match=rf"is being made by process {holder.pid} on .* since 20"):
        opened(BUILD, raw, seed=5).begin([].append)
    holder.wait()


def test_a_run_folder_that_is_a_file_is_a_sentence(raw: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write_text(tmp_path / "file", "x")
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "file"))
    with pytest.raises(QilinError, match="QILIN_RUNS_DIR"):
        make(BUILD, raw)


@pytest.mark.parametrize("broken", ["{", "{}", "[]", "null"])
def test_a_manifest_without_its_fields_is_a_sentence(raw: Path, place: Path, broken: str) -> None:
    make(BUILD, raw)
    (place / "r" / BUILD / "manifest.json").write_text(broken, encoding="utf-8")
    with pytest.raises(QilinError, match=r"01_build_chimed/manifest\.json"):
        opened("02_tokenize", raw)


def test_a_full_disk_is_a_sentence_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(QilinError, match=r"scores\.json.*No space left on device"):
        files.write_text(tmp_path / "scores.json", "x")


class Backend:
    """Answers "x" to everything, or fails if it must not be asked."""

    tokenizer = template = type("Named", (), {"name": "plain"})()
    likelihood, batch_size = False, 1

    def __init__(self, silent: bool) -> None:
        self.silent = silent

    def fingerprint(self) -> str:
        return "weights"


def one_item_task(name: str, cap: int) -> Any:
    from qilin_lib.evaluate.items import Item
    from qilin_lib.evaluate.plan import FIXED, Task
    from qilin_lib.evaluate.prompts import Prompt

    class One(Task):
        def prompts(self, *_: Any) -> list[Prompt]:
            return [Prompt([], "", [1], "q", 0, False)]

        def answer(self, items: Any, prompts: Any, backend: Backend) -> list[dict]:
            assert not backend.silent, "a prediction that is on disk was asked for again"
            return [{"output": "x", "prediction": "x"} for _ in items]

    item = Item(name, "1", "test", None, "q", None, None, "r")
    return One(name, FIXED, "test", cap, [item], [], {})


def test_predictions_outlive_a_changed_parameter_of_another_benchmark(raw: Path, place: Path) -> None:
    from qilin_lib.evaluate import answering, store

    for name in params.NOTEBOOKS[:5]:
        make(name, raw)
    for number, cap in enumerate((5, 6)):
        stage = opened("06_eval", raw, max_items_huatuo=cap)
        stage.begin()
        task = one_item_task("cmexam", 1)
        path = store.predictions(stage.dir, "fixed", "cmexam", "base")
        answering.answer(task, "base", Backend(silent=number == 1), 0, path)
        store.finish(path, ["1"])
        assert path.exists()
        stage.finish()
