"""The command: which notebooks, which parameters, what is skipped, which exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qilin_lib import files, params, pipeline, runs, stages
from qilin_lib.errors import QilinError

Executed = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def call(tmp_path: Path, empty_runs: Path) -> Callable[..., int]:
    """`call(*arguments)`: the exit code of `pipeline smoke -p raw_dir … *arguments` in a temporary runs folder."""
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "{}\n")
    return lambda *arguments: pipeline.main(["smoke", "-p", "raw_dir", str(tmp_path / "raw"), *arguments])


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> Executed:
    """Stands in for papermill: every notebook opens its stage, writes one file and finishes. Lists what ran."""
    done: Executed = []

    def execute(notebook: str, values: dict[str, Any], run_dir: Path) -> None:
        parameters = params.load(notebook, values)
        stage = stages.open_stage(parameters)
        stage.begin()
        files.write_text(stage.dir / "out.txt", str(parameters))
        stage.finish()
        done.append((notebook, values))

    monkeypatch.setattr(pipeline, "_execute", execute)
    return done


def names(executed: Executed) -> list[str]:
    return [notebook[:2] for notebook, _ in executed]


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_choose() -> None:
    assert pipeline.choose(None, None) == list(params.NOTEBOOKS)
    assert pipeline.choose("06", None) == ["06_eval"]
    assert pipeline.choose("06_eval", None) == ["06_eval"]
    assert [name[:2] for name in pipeline.choose(None, "05")] == ["05", "06", "07", "08", "09"]


@pytest.mark.parametrize("prefix", ["10", "0", "dpo"])
def test_choose_names_the_choices(prefix: str) -> None:
    with pytest.raises(QilinError, match=rf"notebook '{prefix}': expected one of \['01', .*'09'\]"):
        pipeline.choose(prefix, None)


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo.learning_rate", "05.learning_rate"])
def test_a_section_or_number_says_which(name: str) -> None:
    overrides = pipeline.split_overrides("smoke", [[name, "1e-6"]])
    assert {notebook for notebook, values in overrides.items() if values} == {"05_dpo"}


def test_common_names_go_everywhere() -> None:
    overrides = pipeline.split_overrides("smoke", [["seed", "7"], ["gpus", "0"]])
    assert all(values["seed"] == "7" for values in overrides.values())
    assert [n[:2] for n, values in overrides.items() if "gpus" in values] == ["03", "04", "05", "06", "08", "09"]


def test_an_ambiguous_name_lists_the_choices() -> None:
    with pytest.raises(QilinError) as refused:
        pipeline.split_overrides("smoke", [["learning_rate", "1e-6"]])
    assert str(refused.value).endswith("say which: dcpt.learning_rate, sft.learning_rate, dpo.learning_rate")


@pytest.mark.parametrize(
    ("name", "near"), [("bacth", "batch_size"), ("betta", "beta"), ("dpo.betta", "beta"), ("sft.beta", "beta")]
)
def test_an_unknown_name_names_the_nearest(name: str, near: str) -> None:
    with pytest.raises(QilinError, match=rf"-p {name}: no notebook has this parameter \(did you mean '\w*{near}'\?\)"):
        pipeline.split_overrides("smoke", [[name, "8"]])


@pytest.mark.parametrize("name", ["run", "profile", "notebook", "dpo.run", "05.profile"])
def test_run_and_profile_are_no_overrides(name: str) -> None:
    with pytest.raises(QilinError, match=rf"-p {name}: not a parameter here; .*--run NAME"):
        pipeline.split_overrides("smoke", [[name, "x"]])


def test_bad_values_are_refused_before_anything_runs(call: Callable[..., int], executed: Executed, capsys) -> None:
    assert call("-p", "eval.shots", "nine") == 2
    assert call("-p", "dpo.learning_rate", "2e-5", "-p", "allow_high_lr", "no") == 2
    errors = capsys.readouterr().err
    assert "error: 06_eval (profile smoke): shots = 'nine'" in errors
    assert "allow_high_lr = 'no'" in errors
    assert executed == []


@pytest.mark.parametrize("run", ["../elsewhere", "a/b", "", ".."])
def test_a_run_that_is_no_folder_name_is_refused_before_force_deletes(
    call: Callable[..., int], executed: Executed, tmp_path: Path, capsys, run: str
) -> None:
    files.write_text(tmp_path / "elsewhere" / "01_build_chimed" / "precious.txt", "x")
    files.write_text(tmp_path / "01_build_chimed" / "precious.txt", "x")
    (tmp_path / "runs").mkdir()
    code = call("--run", run, "--force")
    assert code == (2 if run else 0), "an empty name means the profile's"
    assert ("run = " in capsys.readouterr().err) == bool(run)
    assert (tmp_path / "elsewhere" / "01_build_chimed" / "precious.txt").exists()
    assert (tmp_path / "01_build_chimed" / "precious.txt").exists()


# --- running ----------------------------------------------------------------------------------------------------------


def test_nine_notebooks_in_order_then_nothing_to_do(call: Callable[..., int], executed: Executed, capsys) -> None:
    assert call() == 0
    assert names(executed) == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]
    assert capsys.readouterr().out.count("done in") == 9
    assert call() == 0
    assert len(executed) == 9, "a second call runs nothing"
    out = capsys.readouterr().out
    assert out.count("up to date\n") == 9 and "Nothing to do" in out


def test_only_what_stands_on_a_change_runs_again(call: Callable[..., int], executed: Executed) -> None:
    call()
    executed.clear()
    assert call("-p", "beta", "0.2") == 0
    assert names(executed) == ["05", "06", "07", "08", "09"]


def test_values_reach_the_notebook_with_profile_and_run(call: Callable[..., int], executed: Executed) -> None:
    assert call("--run", "mine", "-p", "beta", "0.2") == 0
    assert dict(executed)["05_dpo"] == {"profile": "smoke", "run": "mine", "beta": "0.2"}
    assert runs.read_manifest(runs.runs_dir() / "mine", "05_dpo")["parameters"]["beta"] == 0.2


def test_force_runs_the_chosen_again(call: Callable[..., int], executed: Executed) -> None:
    call()
    executed.clear()
    assert call("--force", "--only", "04") == 0
    assert names(executed) == ["04"]
    executed.clear()
    assert call("--force", "--from", "06") == 0
    assert names(executed) == ["06", "07", "08", "09"]


def test_force_moves_aside_and_loses_nothing(call: Callable[..., int], executed: Executed, capsys) -> None:
    call()
    before = (runs.runs_dir() / "smoke" / "04_sft" / "manifest.json").read_bytes()
    assert call("--force", "--only", "04") == 0
    capsys.readouterr()
    assert call("--old") == 0
    (line,) = capsys.readouterr().out.splitlines()
    (old,) = runs.Run(runs.runs_dir() / "smoke").old()
    assert old.name in line and (old / "manifest.json").read_bytes() == before
    assert call("--old", old.name) == 0 and not old.exists()
    assert call("--old", old.name) == 2


def test_the_terminal_says_what_changed(call: Callable[..., int], executed: Executed, capsys) -> None:
    call()
    assert call("-p", "dcpt.learning_rate", "0.003", "--only", "03") == 0
    assert "03_dcpt          (learning_rate was 0.006, is 0.003) " in capsys.readouterr().out


def test_two_betas_share_the_first_four_stages(call: Callable[..., int], executed: Executed, capsys) -> None:
    call("--run", "beta1")
    executed.clear()
    assert call("--run", "beta2", "--from-run", "beta1", "-p", "beta", "0.2") == 0
    assert names(executed) == ["05", "06", "07", "08", "09"]
    assert capsys.readouterr().out.count("shared with run 'beta1'") == 4
    executed.clear()
    assert call("--run", "beta2", "--from-run", "beta1", "-p", "beta", "0.2") == 0
    assert names(executed) == []


def test_an_accepted_stage_does_not_run_again(call: Callable[..., int], executed: Executed, capsys) -> None:
    call()
    executed.clear()
    assert call("--accept", "05", "-p", "beta", "0.2") == 0
    assert "05_dpo is taken as it is: beta was 0.1, is 0.2" in capsys.readouterr().out
    assert call("-p", "beta", "0.2") == 0
    assert executed == []


def test_verify_finds_a_score_edited_by_hand(call: Callable[..., int], executed: Executed, capsys) -> None:
    call()
    assert call("--verify") == 0
    assert capsys.readouterr().out.count("files are what the manifest says") == 9
    files.write_text(runs.runs_dir() / "smoke" / "06_eval" / "out.txt", "99.9")
    assert call("--verify") == 2
    assert "06_eval/out.txt is not what 06_eval wrote" in capsys.readouterr().err
    assert call("--only", "07") == 2, "and the report does not show it"


def test_tables_are_printed_and_the_report_named(call: Callable[..., int], executed: Executed, capsys) -> None:
    call()
    files.write_text(runs.runs_dir() / "smoke" / "07_case_study" / "tables.txt", "Table 1\n")
    capsys.readouterr()
    call()
    out = capsys.readouterr().out
    assert "Table 1" in out
    assert f"Report: {runs.runs_dir() / 'smoke' / '07_case_study' / 'report.html'}" in out
    assert "attitude scales:" not in out, "no such page yet"
    second = runs.runs_dir() / "smoke" / "09_bias" / "report.html"
    files.write_text(second, "page")
    call()
    assert f"Reward model, policies, attitude scales: {second}" in capsys.readouterr().out


# --- exit codes -------------------------------------------------------------------------------------------------------


def test_exit_code_2_for_a_call_that_was_wrong(call: Callable[..., int], executed: Executed, capsys) -> None:
    assert pipeline.main(["smok"]) == 2
    assert call("--only", "99") == 2
    assert call("--only", "05") == 2
    errors = capsys.readouterr().err
    assert "did you mean 'smoke'?" in errors and "expected one of" in errors
    assert "run notebooks/01_build_chimed.ipynb first" in errors
    assert executed == []


def test_exit_code_1_and_the_notebook_s_sentence(call: Callable[..., int], capsys, monkeypatch) -> None:
    import papermill

    def fail(*_: Any, **__: Any) -> None:
        sentence = "raw_dir = 'x': the folder holds no file"
        raise papermill.PapermillExecutionError(3, 2, "P = …", "QilinError", sentence, ["QilinError: " + sentence])

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    assert call() == 1
    printed = capsys.readouterr()
    assert "01_build_chimed  FAILED" in printed.out
    assert "error: 01_build_chimed: QilinError: raw_dir = 'x': the folder holds no file" in printed.err
    assert "smoke/01_build_chimed.ipynb" in printed.err
    assert "Traceback" not in printed.err


def test_a_kernel_that_died_is_one_sentence(call: Callable[..., int], capsys, monkeypatch) -> None:
    """As the kernel's out-of-memory killer ends one."""
    import papermill
    from nbclient.exceptions import DeadKernelError

    def died(*_: Any, **__: Any) -> None:
        raise DeadKernelError("Kernel died")

    monkeypatch.setattr(papermill, "execute_notebook", died)
    assert call() == 1
    printed = capsys.readouterr().err
    assert "error: 01_build_chimed: its Python process was killed" in printed and "memory" in printed


def test_exit_code_130_when_the_notebook_was_interrupted(call: Callable[..., int], capsys, monkeypatch) -> None:
    """Ctrl-C reaches the kernel as well, and papermill reports a failed cell."""
    import papermill

    def interrupted(*_: Any, **__: Any) -> None:
        raise papermill.PapermillExecutionError(
            3, 2, "dpo.train(stage)", "KeyboardInterrupt", "", ["KeyboardInterrupt"]
        )

    monkeypatch.setattr(papermill, "execute_notebook", interrupted)
    assert call() == 130
    assert "the same command continues from here" in capsys.readouterr().err


def test_a_failure_stops_the_notebooks_after_it_and_drives_no_terminal(
    call: Callable[..., int], executed: Executed, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed = pipeline._execute

    def execute(notebook: str, values: dict[str, Any], run_dir: Path) -> None:
        if notebook == "03_dcpt":
            raise pipeline.NotebookFailed("03_dcpt: ServerError: no \x1b[2J\u202emodel")
        succeed(notebook, values, run_dir)

    monkeypatch.setattr(pipeline, "_execute", execute)
    assert call() == 1
    assert names(executed) == ["01", "02"]
    assert r"error: 03_dcpt: ServerError: no \x1b[2J\u202emodel" in capsys.readouterr().err


def test_exit_code_130_when_interrupted_and_the_same_command_goes_on(
    call: Callable[..., int], executed: Executed, capsys, monkeypatch
) -> None:
    succeed = pipeline._execute

    def interrupt(notebook: str, values: dict[str, Any], run_dir: Path) -> None:
        if notebook == "04_sft":
            raise KeyboardInterrupt
        succeed(notebook, values, run_dir)

    monkeypatch.setattr(pipeline, "_execute", interrupt)
    assert call() == 130
    assert "the same command continues from here" in capsys.readouterr().err
    monkeypatch.setattr(pipeline, "_execute", succeed)
    assert call() == 0
    assert names(executed) == ["01", "02", "03", "04", "05", "06", "07", "08", "09"]
