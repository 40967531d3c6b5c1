"""01 as datatrove stages writes what the notebook's build writes; the Slurm and Ray executors are built as asked."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from raw_files import settings

from qilin_lib.chimed import build
from qilin_lib.chimed.build import build_sets
from qilin_lib.errors import QilinError

pytestmark = pytest.mark.slow

STAGES = {"index": 1, "refine": 3, "decide": 1, "write": 3, "glue": 1}
WRITTEN = ("cpt.jsonl", "sft.jsonl", "dpo.jsonl", "general.jsonl", "dropped.jsonl", "ledger.json")


def scale_out():
    """The module; a test that needs it is skipped where datatrove, an extra, is not installed."""
    pytest.importorskip("datatrove")
    from qilin_lib.chimed import scale_out as module

    return module


def run_of(raw: Path, out: Path):
    return scale_out().Run(settings(), raw, out)


def same_files(one: Path, other: Path) -> None:
    for name in WRITTEN:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


def test_local_writes_what_a_build_writes_and_nothing_twice(tiny_raw, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "BATCH_UNITS", 2)
    build_sets(settings(), tiny_raw, tmp_path / "alone", lambda line: None)
    run = run_of(tiny_raw, tmp_path / "shared")
    made = scale_out().pipeline(run, 3, "local", workers=1)
    assert [executor.tasks for executor in made] == [*STAGES.values()]
    made[-1].run()
    same_files(tmp_path / "alone", tmp_path / "shared")
    assert len([*run.work.glob("*.lines.pickle")]) > 6
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "shared").rglob("*.*") if "logs" not in path.parts}
    (run.work / "logs" / "write" / "completions" / "00001").unlink()
    scale_out().pipeline(run_of(tiny_raw, tmp_path / "shared"), 3, "local", workers=1)[-1].run()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_command_runs_its_stages_in_processes(tiny_raw, tmp_path):
    scale_out()
    command = [sys.executable, "-m", "qilin_lib.chimed.scale_out", str(tiny_raw), str(tmp_path / "shared")]
    given = ["--tasks=2", "--set", "workers=2", "--param", "near_dup_threshold=0.9", "--param", "workers=2"]
    done = subprocess.run([*command, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    alone = settings(near_dup_threshold=0.9, max_records_per_source=1500)
    build_sets(alone, tiny_raw, tmp_path / "alone", lambda line: None)
    same_files(tmp_path / "alone", tmp_path / "shared")
    assert subprocess.run([*command, "--executor=slrum"], capture_output=True, text=True).returncode == 2


def test_slurm_submits_a_job_a_stage_that_waits_for_the_one_before(tiny_raw, tmp_path, monkeypatch):
    """A stand-in for sbatch notes what it is given; what a node would run is the pickled stage."""
    import dill

    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f"#!/bin/sh\nn=$(ls {tmp_path}/sent-* 2>/dev/null | wc -l)\nfor script; do :; done\n"
        f'(echo "$@"; cat "$script") > {tmp_path}/sent-$(printf %02d "$n")\necho Submitted batch job $((100 + n))\n'
    )
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    options = {"partition": "cpu", "time": "04:00:00", "mem_per_cpu_gb": 6, "workers": 50}
    options["sbatch_args"] = {"account": "x"}
    run = run_of(tiny_raw, tmp_path / "shared")
    made = scale_out().pipeline(run, 3, "slurm", **options)
    made[-1].run()
    # datatrove submits for each stage the stage, and a small job that sums up its statistics.
    sent = [path.read_text() for path in sorted(tmp_path.glob("sent-*"))][::2]
    assert len(sent) == len(STAGES)
    for number, (script, (stage, tasks)) in enumerate(zip(sent, STAGES.items(), strict=True)):
        assert f"#SBATCH --job-name=chimed-{stage}\n" in script
        assert f"#SBATCH --array=0-{tasks - 1}%50\n" in script
        for line in ("--partition=cpu", "--time=04:00:00", "--mem-per-cpu=6G", "--account=x"):
            assert f"#SBATCH {line}\n" in script
        assert f"launch_pickled_pipeline {run.work}/logs/{stage}/executor.pik" in script
        waits = script.splitlines()[0].partition("--dependency=")[2].split(" ")[0]
        assert waits == (f"afterok:{98 + 2 * number}" if number else "")
    (tmp_path / "stage.pik").write_bytes(dill.dumps(made[0].pipeline, fmode=dill.CONTENTS_FMODE))
    code = "import dill, sys; [step] = dill.load(open(sys.argv[1], 'rb')); step(None, 0, 1)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "stage.pik")], check=True)
    assert (run.work / "index.pickle").exists()


def test_what_stands_in_the_way_is_named(tiny_raw, tmp_path):
    pipeline, out = scale_out().pipeline, tmp_path / "out"
    with pytest.raises(QilinError, match="did you mean 'slurm'"):
        pipeline(run_of(tiny_raw, out), 1, "slurmm")
    with pytest.raises(QilinError, match="'partition' is missing"):
        pipeline(run_of(tiny_raw, out), 1, "slurm", time="1:00:00")
    with pytest.raises(QilinError, match="no training source"):
        run_of(tmp_path, out)
