"""The command: which notebooks, which parameters, what is skipped, which exit code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import papermill
import pytest
from nbclient.exceptions import DeadKernelError

from qilin_lib import files, params, pipeline, runs, stages
from qilin_lib.errors import QilinError

FOUR = ["dcpt", "sft", "dpo", "sft2"]
# What stands on a training after the first three.
REST = ["06_eval", "07_case_study", "08_rlhf", "09_bias"]


@pytest.fixture
def call(tmp_path: Path, empty_runs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`call(*arguments)`: the exit code of `pipeline PROFILE -p raw_dir … *arguments` in a temporary runs folder.

    `profile` is smoke, or longer, whose chain is FOUR.
    """
    smoke = (params.ROOT / "params" / "smoke.yaml").read_text(encoding="utf-8")
    files.write_text(tmp_path / "params" / "smoke.yaml", smoke)
    text = f"extends: smoke\nchain: {json.dumps(FOUR)}\nsft: {{lora_r: 4}}\nsft2: {{finetuning: full, max_steps: 7}}\n"
    files.write_text(tmp_path / "params" / "longer.yaml", f"{text}eval: {{models: {json.dumps(['base', *FOUR])}}}\n")
    monkeypatch.setenv("QILIN_PARAMS_DIR", str(tmp_path / "params"))
    files.write_text(tmp_path / "raw" / "cmd" / "a.jsonl", "{}\n")

    def made(*arguments: str, profile: str = "smoke") -> int:
        return pipeline.main([profile, "-p", "raw_dir", str(tmp_path / "raw"), *arguments])

    return made


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for papermill: every notebook opens its stage, writes one file and finishes. Lists what ran."""
    done: list[str] = []

    def execute(name: str, values: dict[str, Any], run_dir: Path) -> None:
        stage = stages.open_stage(params.load(pipeline._notebook(name), values))
        assert stage.name == name
        stage.begin()
        files.write_text(stage.dir / "out.txt", f"{name} {json.dumps(stage.inputs)} {stage.key}")
        stage.finish(values=values)
        done.append(name)

    monkeypatch.setattr(pipeline, "_execute", execute)
    return done


def manifest(run: str, stage: str) -> dict[str, Any]:
    return runs.read_manifest(runs.runs_dir() / run, stage)


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dpo.learning_rate", "05.learning_rate"])
def test_a_section_or_number_says_which(name: str) -> None:
    overrides = pipeline.split_overrides("smoke", [[name, "1e-6"]])
    assert {notebook for notebook, values in overrides.items() if values} == {"05_dpo"}


def test_common_names_go_everywhere() -> None:
    overrides = pipeline.split_overrides("smoke", [["seed", "7"], ["gpus", "0"]])
    assert all(values["seed"] == "7" for values in overrides.values())
    assert [n[:2] for n, values in overrides.items() if "gpus" in values] == ["03", "04", "05", "06", "08", "09"]


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


def test_bad_values_are_refused_before_anything_runs(call: Callable[..., int], executed: list[str], capsys) -> None:
    assert call("-p", "eval.shots", "nine") == 2
    assert call("-p", "dpo.learning_rate", "2e-5", "-p", "allow_high_lr", "no") == 2
    errors = capsys.readouterr().err
    assert "error: 06_eval (profile smoke): shots = 'nine'" in errors
    assert "allow_high_lr = 'no'" in errors
    assert executed == []


@pytest.mark.parametrize("run", ["../elsewhere", "a/b", "", ".."])
def test_a_run_that_is_no_folder_name_is_refused_before_force_deletes(
    call: Callable[..., int], executed: list[str], tmp_path: Path, capsys, run: str
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


def test_nine_notebooks_in_order_then_nothing_to_do(call: Callable[..., int], executed: list[str], capsys) -> None:
    assert call() == 0
    assert executed == list(params.NOTEBOOKS)
    assert capsys.readouterr().out.count("done in") == 9
    assert call() == 0
    assert len(executed) == 9, "a second call runs nothing"
    out = capsys.readouterr().out
    assert out.count("up to date\n") == 9 and "Nothing to do" in out


def test_only_may_be_said_more_than_once(call: Callable[..., int], executed: list[str]) -> None:
    assert call("--only", "02", "--only", "01") == 0
    assert executed == ["01_build_chimed", "02_tokenize"]


def test_a_run_goes_through_its_chain_and_resumes(call: Callable[..., int], executed: list[str], capsys) -> None:
    assert call("--only", "04_sft2", profile="longer") == 2
    assert "run notebooks/01_build_chimed.ipynb first" in capsys.readouterr().err
    for number in ("01", "02_tokenize", "03", "04", "05"):
        assert call("--only", number, profile="longer") == 0
    assert executed == list(params.NOTEBOOKS[:5])
    assert call("--only", "06", profile="longer") == 2
    assert "run notebooks/04_sft.ipynb with stage = 'sft2' first" in capsys.readouterr().err
    assert call(profile="longer") == 0, "the same command goes on where it stopped"
    assert executed[5:] == ["04_sft2", *REST]
    made, run = manifest("longer", "04_sft2"), runs.Run(runs.runs_dir() / "longer")
    assert made["parameters"]["finetuning"] == "full"
    assert run.chain == FOUR and run.parents("04_sft2") == ("01_build_chimed", "02_tokenize", "05_dpo")
    assert call("--verify", profile="longer") == 0 and "04_sft2: 1 files" in capsys.readouterr().out
    assert call("--plan", profile="longer") == 0 and "04_sft2: disk: " in capsys.readouterr().out
    given = {"run": "longer", "chain": ["sft", "dpo"]}
    with pytest.raises(QilinError, match="04_sft of run 'longer' stands on 03_dcpt, as another chain has it"):
        stages.inspect_stage(params.load("05_dpo", given))


def test_only_what_stands_on_a_change_runs_again_and_another_run_shares_the_rest(
    call: Callable[..., int], executed: list[str], capsys
) -> None:
    call(profile="longer")
    changed = ("-p", "sft2.learning_rate", "1e-5")
    for arguments in (("--run", "other", "--from-run", "longer", *changed), changed):
        executed.clear()
        assert call(*arguments, profile="longer") == 0
        assert executed == ["04_sft2", *REST]
        executed.clear()
        assert call(*arguments, profile="longer") == 0 and executed == []
    assert capsys.readouterr().out.count("shared with run 'longer'") == 5


def test_a_further_training_has_the_first_s_values_but_for_its_own(call: Callable[..., int]) -> None:
    first, second = (params.load("04_sft", {"profile": "longer", "stage": name}) for name in (None, "sft2"))
    ours, theirs = second.model_dump(), first.model_dump()
    assert {name for name in ours if ours[name] != theirs[name]} == {"stage", "finetuning", "max_steps"}
    assert (second.lora_r, second.finetuning, second._origins["finetuning"]) == (4, "full", "longer")


def test_what_a_chain_lacks_is_refused_by_name(call: Callable[..., int], capsys) -> None:
    for notebook, given, reason in (
        ("04_sft", {"stage": "sft3"}, "stage: sft3 is no training of notebook 04_sft"),
        ("04_sft", {"stage": "dpo"}, "nearest valid: sft, sft2"),
        ("04_sft", {"chain": ["dcpt", "sft"]}, "'sft2:' is no training of its chain"),
        ("06_eval", {"profile": "smoke", "chain": ["dcpt", "sft"]}, "'dpo' is no model of this run.*there are"),
    ):
        with pytest.raises(QilinError, match=reason):
            params.load(notebook, {"profile": "longer", **given})
    with pytest.raises(QilinError, match="no such training"):
        stages.inspect_stage(params.load("03_dcpt", {"chain": ["sft"]}))
    assert call("-p", "learning_rate", "1e-5", profile="longer") == 2
    assert "dcpt.learning_rate, sft.learning_rate, dpo.learning_rate, sft2.learning_rate" in capsys.readouterr().err


def test_values_reach_the_notebook_with_profile_and_run(call: Callable[..., int], executed: list[str], capsys) -> None:
    assert call("--run", "mine") == 0
    assert call("--run", "mine", "-p", "beta", "0.2", "--only", "05") == 0
    assert "05_dpo           (beta was 0.1, is 0.2) " in capsys.readouterr().out
    made = manifest("mine", "05_dpo")
    assert made["facts"]["values"] == {"profile": "smoke", "run": "mine", "beta": "0.2"}
    assert made["parameters"]["beta"] == 0.2


def test_force_moves_the_chosen_aside_and_loses_nothing(call: Callable[..., int], executed: list[str], capsys) -> None:
    call()
    before = (runs.runs_dir() / "smoke" / "04_sft" / "manifest.json").read_bytes()
    executed.clear()
    assert call("--force", "--only", "04") == 0
    assert executed == ["04_sft"]
    capsys.readouterr()
    assert call("--old") == 0
    (line,) = capsys.readouterr().out.splitlines()
    (old,) = runs.Run(runs.runs_dir() / "smoke").old()
    assert old.name in line and (old / "manifest.json").read_bytes() == before
    assert call("--old", old.name) == 0 and not old.exists()
    assert call("--old", old.name) == 2
    executed.clear()
    assert call("--force", "--from", "06") == 0
    assert executed == REST


def test_an_accepted_stage_does_not_run_again(call: Callable[..., int], executed: list[str], capsys) -> None:
    call()
    executed.clear()
    assert call("--accept", "05", "-p", "beta", "0.2") == 0
    assert "05_dpo is taken as it is: beta was 0.1, is 0.2" in capsys.readouterr().out
    assert call("-p", "beta", "0.2") == 0
    assert executed == []


def test_verify_finds_a_score_edited_by_hand(call: Callable[..., int], executed: list[str], capsys) -> None:
    call()
    assert call("--verify") == 0
    assert capsys.readouterr().out.count("files are what the manifest says") == 9
    files.write_text(runs.runs_dir() / "smoke" / "06_eval" / "out.txt", "99.9")
    assert call("--verify") == 2
    assert "06_eval/out.txt is not what 06_eval wrote" in capsys.readouterr().err
    assert call("--only", "07") == 2, "and the report does not show it"
    for look in ("--verify", "--old"):
        assert call("--run", "smokee", look) == 2, "nothing was looked at, and nothing is well"
        assert "run 'smokee': no such run" in capsys.readouterr().err
    (runs.runs_dir() / "empty" / "01_build_chimed.old-1").mkdir(parents=True)
    assert call("--run", "empty", "--verify") == 2
    assert "run 'empty' has no finished stage" in capsys.readouterr().err


def test_tables_are_printed_and_the_report_named(call: Callable[..., int], executed: list[str], capsys) -> None:
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


@pytest.mark.parametrize("prefix", ["99", "0", "dpo"])
def test_exit_code_2_for_a_call_that_was_wrong(call: Callable[..., int], executed: list[str], capsys, prefix) -> None:
    assert call(profile="smok") == 2
    assert call("--only", prefix) == 2
    assert call("--only", "05") == 2
    errors = capsys.readouterr().err
    assert "did you mean 'smoke'?" in errors and f"notebook '{prefix}': expected one of ['01', " in errors
    assert "run notebooks/01_build_chimed.ipynb first" in errors
    assert executed == []


SENTENCE = "raw_dir = 'x': the folder holds no file"


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (
            papermill.PapermillExecutionError(3, 2, "P = …", "QilinError", SENTENCE, [f"QilinError: {SENTENCE}"]),
            1,
            rf"error: 01_build_chimed: QilinError: {SENTENCE}\n.*smoke/01_build_chimed\.ipynb",
        ),
        # As the kernel's out-of-memory killer ends one.
        (DeadKernelError("Kernel died"), 1, "error: 01_build_chimed: its Python process was killed.*memory"),
        # Ctrl-C reaches the kernel as well, and papermill reports a failed cell.
        (
            papermill.PapermillExecutionError(3, 2, "dpo.train(stage)", "KeyboardInterrupt", "", []),
            130,
            "the same command continues from here",
        ),
        # papermill writes the executed notebook into the run.
        (OSError(28, "No space left on device"), 2, "smoke cannot be written: No space left on device; make room"),
    ],
)
def test_a_notebook_that_failed_is_a_sentence_and_an_exit_code(
    failure: Exception, code: int, said: str, call: Callable[..., int], capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise failure

    monkeypatch.setattr(papermill, "execute_notebook", fail)
    assert call() == code
    printed = capsys.readouterr()
    assert re.search(said, printed.err, re.DOTALL) and "Traceback" not in printed.err
    assert ("FAILED" in printed.out) == (code == 1)


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (pipeline.NotebookFailed("04_sft: no \x1b[2J\u202emodel"), 1, r"error: 04_sft: no \x1b[2J\u202emodel"),
        (KeyboardInterrupt(), 130, "the same command continues from here"),
    ],
)
def test_a_failure_stops_what_comes_after_it_and_the_same_command_goes_on(
    failure: BaseException, code: int, said: str, call: Callable[..., int], executed: list[str], capsys, monkeypatch
) -> None:
    """Nor does it drive the terminal."""
    succeed = pipeline._execute

    def execute(notebook: str, values: dict[str, Any], run_dir: Path) -> None:
        if notebook == "04_sft":
            raise failure
        succeed(notebook, values, run_dir)

    monkeypatch.setattr(pipeline, "_execute", execute)
    assert call() == code and executed == list(params.NOTEBOOKS[:3])
    assert said in capsys.readouterr().err
    monkeypatch.setattr(pipeline, "_execute", succeed)
    assert call() == 0 and executed == list(params.NOTEBOOKS)
