"""The whole product, once: nine notebooks with the smoke profile, through the command that a person types.

The run is made in a temporary folder; a smoke run takes minutes, so every test below reads the same one. All of its
processes stand under the tests' guard (tests/guard), with nothing but the kit itself to keep libraries from the hub.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import no_network
import pandas as pd
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STAGES = ("01_build_chimed", "02_tokenize", "03_dcpt", "04_sft", "05_dpo", "06_eval", "07_case_study", "08_rlhf",
          "09_bias")  # fmt: skip


def start(*arguments: str, runs: Path, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "QILIN_RUNS_DIR": str(runs)}
    del environment["HF_HUB_DISABLE_TELEMETRY"]
    command = [sys.executable, "-m", "qilin_lib.pipeline", *arguments]
    return subprocess.Popen(command, text=True, cwd=ROOT, env=environment, **options)


def pipeline(*arguments: str, runs: Path) -> subprocess.CompletedProcess[str]:
    with start(*arguments, runs=runs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with one finished smoke run, whose third stage was killed once on its way."""
    folder = tmp_path_factory.mktemp("runs")
    killed = kill_during_dcpt(folder)
    done = pipeline("smoke", runs=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert no_network.attempts() == []
    (folder / "first.txt").write_text(done.stdout, encoding="utf-8")
    (folder / "killed.json").write_text(json.dumps(killed), encoding="utf-8")
    return folder


def kill_during_dcpt(folder: Path) -> dict[str, int]:
    """Start the pipeline and kill -9 all of it once DCPT has written a checkpoint; returns the checkpoint's step."""
    import psutil

    process = start("smoke", runs=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = folder / "smoke" / "03_dcpt" / "checkpoints"
    while process.poll() is None:
        # A checkpoint counts once it is sealed, a moment after its last file was written.
        whole = list(checkpoints.glob("checkpoint-*/sealed.json"))
        if whole:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            for member in family:
                member.send_signal(signal.SIGKILL)
            psutil.wait_procs(family, timeout=30)
            process.wait()
            return {"step": max(int(path.parent.name.split("-")[1]) for path in whole)}
        time.sleep(0.2)
    raise AssertionError("the pipeline ended before DCPT had written a checkpoint")


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_stage_has_a_manifest_and_the_chain_holds(runs: Path) -> None:
    manifests = {stage: read(runs / "smoke" / stage / "manifest.json") for stage in STAGES}
    for manifest in manifests.values():
        for parent, digest in manifest["inputs"].items():
            if parent in manifests:
                assert digest == manifests[parent]["digest"], f"{manifest['stage']} stands on another {parent}"
        assert manifest["parameters"]["seed"] == 17
    assert len(manifests["01_build_chimed"]["inputs"]["raw"]) > 50, "every raw file is named with its hash"


def test_killed_training_went_on_from_its_checkpoint(runs: Path) -> None:
    facts = read(runs / "smoke" / "03_dcpt" / "facts.json")
    assert facts["resumed_from"] == f"checkpoint-{read(runs / 'killed.json')['step']}"
    steps = {json.loads(line)["step"] for line in (runs / "smoke" / "03_dcpt" / "log.jsonl").open(encoding="utf-8")}
    assert facts["steps_done"] == facts["steps_planned"]
    planned = facts["steps_planned"]
    assert steps == {*range(5, planned + 1, 5), planned}, "every fifth step is in the log, and the last one"


def test_ledger_balances_and_caught_the_planted_flaws(runs: Path) -> None:
    rows = read(runs / "smoke" / "01_build_chimed" / "ledger.json")["sources"]
    for row in rows:
        lost = sum(row[fate] for fate in ("duplicate", "contaminated", "excluded", "merged"))
        assert row["read"] == row["kept"] + lost + sum(row["rejected"].values()), row["source"]
    for fate in ("duplicate", "contaminated", "merged"):
        assert sum(row[fate] for row in rows) > 0, f"the sample plants records that end as {fate}"
    assert sum(sum(row["rejected"].values()) for row in rows) > 0
    assert sum(sum(row["deidentified"].values()) for row in rows) > 0


STEPS = ("", " + DCPT", " + DCPT + SFT", " + DCPT + SFT + DPO")
PASSAGES = tuple(f"{STEPS[-1]} + {kind}" for kind in ("retrieval", "random", "gold"))


def test_tables_one_to_six_are_filled(runs: Path) -> None:
    folder = runs / "smoke" / "07_case_study"
    sources = set(pd.read_csv(folder / "table_1.csv", dtype=str)["our sources"])
    assert {"cmexam", "kg_xywy", "toyhom_dialogue"} <= sources
    for name in ("4", "5", "6", "4r", "5r"):
        ours = pd.read_csv(folder / f"table_{name}.csv").dropna(subset=["value"])
        more = PASSAGES if name == "5" else ()
        rows = {f"tiny 2.3M{step}" for step in (*STEPS, *more)}
        assert set(ours["model"]) == rows and set(ours["from"]) == {"this run"}, name
        assert ours[["low", "high", "n"]].notna().all(axis=None), f"table {name}: every score has interval and n"
        assert ours["value"].between(ours["low"], ours["high"]).all(), name
    assert "not available" in (folder / "tables.txt").read_text(encoding="utf-8")


def test_every_cell_leads_to_records_that_give_its_number(runs: Path) -> None:
    run = runs / "smoke"
    digest = read(run / "06_eval" / "manifest.json")["digest"]
    for name, protocol, rows in (("5", "fixed", 7), ("5r", "released", 4)):
        table = pd.read_csv(run / "07_case_study" / f"table_{name}.csv").dropna(subset=["value"])
        accuracy = table[table["column"] == "Accuracy"]
        assert len(accuracy) == rows and set(table["manifest"]) == {digest} and set(table["protocol"]) == {protocol}
        for cell in accuracy.itertuples():
            records = [json.loads(line) for line in (run / cell.records).open(encoding="utf-8")]
            right = sum(record["correct"] for record in records)
            assert math.isclose(cell.value, 100 * right / len(records)) and cell.n == len(records)
            assert all("E" not in r["prediction"] or r["n_options"] == 5 for r in records if r["prediction"])


def test_dpo_started_at_ln_two(runs: Path) -> None:
    assert abs(read(runs / "smoke" / "05_dpo" / "facts.json")["step_zero_loss"] - math.log(2)) < 1e-3


def test_training_learns_something_that_carries_over(runs: Path) -> None:
    """The floor under a smoke run: medical text gets likelier, held-out pairs are ranked better than by chance."""
    from qilin_lib.report import training

    assert training.improved(read(runs / "smoke" / "03_dcpt" / "heldout.json")["medical"], {"seed": 17})
    assert training.accuracy(read(runs / "smoke" / "05_dpo" / "heldout.json")).low > 50


def test_report_is_one_self_contained_page(runs: Path) -> None:
    page = (runs / "smoke" / "07_case_study" / "report.html").read_text(encoding="utf-8")
    assert "not for clinical use" in page and len(page) < 5_000_000
    for number in range(1, 7):
        assert f"Table {number}." in page
    assert "<script src" not in page and "<link" not in page and 'src="http' not in page


def test_further_benchmarks_are_answered_and_stand_beside_chimed_gpt(runs: Path) -> None:
    run = runs / "smoke"
    scores = read(run / "06_eval" / "scores.json")
    for name in ("cmeee", "ccks2019", "cmmlu", "medqa", "cmtmedqa", "mc"):
        assert set(scores[name]) == {"base", "dcpt", "sft", "dpo"}, name
    page = (run / "07_case_study" / "report.html").read_text(encoding="utf-8")
    assert "Table C1." in page and "40.82" in page, "ChiMed-GPT's published F1 on CCKS-2019"


def test_every_sampled_answer_is_kept_with_its_reward(runs: Path) -> None:
    folder = runs / "smoke" / "08_rlhf" / "rejection" / "round1"
    pool = [json.loads(line) for line in (folder / "pool.jsonl").open(encoding="utf-8")]
    asked: dict[str, list[dict]] = {}
    for row in pool:
        asked.setdefault(row["id"], []).append(row)
    parameters = read(runs / "smoke" / "08_rlhf" / "manifest.json")["parameters"]
    assert len(asked) == parameters["prompts"] and len(pool) == parameters["prompts"] * parameters["num_samples"]
    for rows in asked.values():
        kept = [row["reward"] for row in rows if row["kept"]]
        assert kept == sorted((row["reward"] for row in rows if row["answer"].strip()), reverse=True)[: len(kept)]


def test_policies_are_compared_on_the_same_questions(runs: Path) -> None:
    folder = runs / "smoke" / "08_rlhf"
    compared = read(folder / "policies.json")["policies"]
    assert list(compared) == ["sft", "dpo", "rejection_sampling", "rl"]
    files = [folder / "policies" / f"{name}.jsonl" for name in compared]
    ids = [[json.loads(line)["id"] for line in path.open(encoding="utf-8")] for path in files]
    assert all(found == ids[0] for found in ids) and len(ids[0]) > 0
    assert compared["sft"]["kl_token"]["value"] == 0 < compared["rl"]["kl_token"]["value"]


def test_attitudes_stand_on_one_page_with_their_controls(runs: Path) -> None:
    folder = runs / "smoke" / "09_bias"
    models = read(folder / "scores.json")["models"]
    assert all(set(found["example"]) == {"sft", "dpo", "rejection_sampling", "rl"} for found in models.values())
    totals = pd.read_csv(folder / "table_b1.csv").query("column == 'All forms'").dropna(subset=["value"])
    assert totals["value"].between(12, 60).all() and (folder / "table_r1.csv").exists()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "not for clinical use" in page and "<script src" not in page and "<link" not in page


def test_executed_notebooks_are_quiet(runs: Path) -> None:
    for stage in STAGES:
        notebook = nbformat.read(runs / "smoke" / f"{stage}.ipynb", as_version=4)
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                assert output.output_type != "error", f"{stage}: a cell failed"
                assert len(output.get("text", "").splitlines()) <= 20, f"{stage}: a wall of log"


def test_second_run_does_nothing_and_one_parameter_reruns_what_stands_on_it(runs: Path) -> None:
    started = time.time()
    again = pipeline("smoke", runs=runs)
    assert again.returncode == 0 and again.stdout.count("up to date") == len(STAGES) + 1, again.stdout
    assert "Nothing to do" in again.stdout and time.time() - started < 60
    changed = pipeline("smoke", "-p", "eval.bootstrap_resamples", "500", runs=runs)
    assert changed.returncode == 0, changed.stderr
    lines = {line.split()[0]: line for line in changed.stdout.splitlines() if line.startswith("0")}
    assert [name for name in STAGES if "done in" in lines[name]] == ["06_eval", "07_case_study"]
