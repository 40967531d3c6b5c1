"""The datatrove stages keep what near_duplicates() keeps; the Slurm and Ray executors are built as asked."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from qilin_lib.chimed.neardup import near_duplicates
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shingles import skeleton
from qilin_lib.chimed.sketch import write_sketch
from qilin_lib.errors import QilinError

pytestmark = pytest.mark.slow

STAGES = ["sketch", "equal", "bands", "components", "filter"]


def scale_out():
    """The module; a test that needs it is skipped where datatrove, an extra, is not installed."""
    pytest.importorskip("datatrove")
    from qilin_lib.chimed import scale_out as module

    return module


def texts():
    """200 texts of twenty originals, most of them edited copies; one empty, one of punctuation."""
    draw = np.random.default_rng(3)
    originals = ["".join(map(chr, draw.integers(0x4E00, 0x5E00, 120))) for _ in range(20)]
    made = ["", "……"]
    for _ in range(198):
        chars = list(originals[draw.integers(20)])
        for at in draw.integers(0, 120, draw.choice([0, 1, 3, 6, 12])):
            chars[at] = "头痛发热"[at % 4]
        made.append("，".join(["".join(chars[:60]), "".join(chars[60:])]))
    return made


def write_corpus(folder: Path) -> list[str]:
    """Five files of unequal size, one of them empty and one in a folder of its own; the lines in corpus order."""
    lines = [
        json.dumps({"text": text, "id": f"d{number}", "metadata": {"n": number}, "more": 1}, ensure_ascii=False) + "\n"
        for number, text in enumerate(texts())
    ]
    cuts = {"a.jsonl": (0, 90), "b.jsonl": (90, 90), "c/d.jsonl": (90, 93), "e.jsonl": (93, 180), "f.jsonl": (180, 200)}
    for name, (start, end) in cuts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(lines[start:end]), encoding="utf-8")
    (folder / "notes.txt").write_text("not read")
    return lines


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for path in sorted(folder.rglob("*.jsonl")) for line in path.open(encoding="utf-8")]


@pytest.mark.parametrize("tasks", [1, 3])
def test_local_keeps_what_near_duplicates_keeps(tmp_path, monkeypatch, tasks):
    module = scale_out()
    monkeypatch.setattr(module, "_SHARD", 40)
    lines = write_corpus(tmp_path / "in")
    made = module.pipeline(tmp_path / "in", tmp_path / "shared", 0.8, 5, tasks, "local", workers=1)
    assert [executor.tasks for executor in made] == [tasks, 1, 21, 1, tasks]
    made[-1].run()

    write_sketch(tmp_path / "alone", [skeleton(text) for text in texts()], 5)
    first = near_duplicates(tmp_path, [tmp_path / "alone"], 0.8, 5, Pool(1), lambda line: None)
    kept = [line for number, line in enumerate(lines) if first[number] == number]
    assert 20 < len(kept) < 150
    out = sorted((tmp_path / "shared" / "kept").rglob("*.jsonl"))
    assert [path.relative_to(tmp_path / "shared" / "kept").as_posix() for path in out] == [
        "a.jsonl", "b.jsonl", "c/d.jsonl", "e.jsonl", "f.jsonl",
    ]  # fmt: skip
    assert "".join(path.read_text(encoding="utf-8") for path in out) == "".join(kept)

    dropped = rows(tmp_path / "shared" / "dropped")
    names = {"a.jsonl": 0, "c/d.jsonl": 90, "e.jsonl": 93, "f.jsonl": 180}
    said = {row["id"]: row["duplicate_of"] for row in dropped}
    assert all(f"d{names[row['file']] + row['document'] - 1}" == row["id"] for row in dropped)
    assert {name: names[of["file"]] + of["document"] - 1 for name, of in said.items()} == {
        f"d{number}": int(keeper) for number, keeper in enumerate(first) if keeper != number
    }


def test_the_command_runs_its_stages_in_processes(tmp_path):
    scale_out()
    lines = write_corpus(tmp_path / "in")
    command = [sys.executable, "-m", "qilin_lib.chimed.scale_out", str(tmp_path / "in"), str(tmp_path / "shared")]
    done = subprocess.run(
        [*command, "--threshold=1", "--tasks=2", "--set", "workers=2"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    bones = [skeleton(text) for text in texts()]
    kept = [line for number, line in enumerate(lines) if not bones[number] or bones.index(bones[number]) == number]
    assert rows(tmp_path / "shared" / "kept") == [json.loads(line) for line in kept]
    assert subprocess.run([*command, "--executor=slrum"], capture_output=True, text=True).returncode == 2


def test_slurm_submits_five_jobs_that_wait_for_each_other(tmp_path, monkeypatch):
    """A stand-in for sbatch notes what it is given; nothing is launched."""
    module = scale_out()
    write_corpus(tmp_path / "in")
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(
        f"#!/bin/sh\nn=$(ls {tmp_path}/sent-* 2>/dev/null | wc -l)\nfor script; do :; done\n"
        f'(echo "$@"; cat "$script") > {tmp_path}/sent-$(printf %02d "$n")\necho Submitted batch job $((100 + n))\n'
    )
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{sbatch.parent}{os.pathsep}{os.environ['PATH']}")
    options = {
        "partition": "cpu",
        "time": "04:00:00",
        "mem_per_cpu_gb": 6,
        "workers": 50,
        "sbatch_args": {"account": "x"},
    }
    module.pipeline(tmp_path / "in", tmp_path / "shared", 0.8, 5, 7, "slurm", **options)[-1].run()

    # datatrove submits for each stage the stage, and a small job that sums up its statistics.
    sent = [path.read_text() for path in sorted(tmp_path.glob("sent-*"))][::2]
    assert len(sent) == len(STAGES)
    for number, (script, stage, tasks) in enumerate(zip(sent, STAGES, [7, 1, 21, 1, 7], strict=True)):
        assert f"#SBATCH --job-name=neardup-{stage}\n" in script
        assert f"#SBATCH --array=0-{tasks - 1}%50\n" in script
        for line in ("--partition=cpu", "--time=04:00:00", "--mem-per-cpu=6G", "--account=x"):
            assert f"#SBATCH {line}\n" in script
        assert f"launch_pickled_pipeline {tmp_path}/shared/logs/{stage}/executor.pik" in script
        waits = script.splitlines()[0].partition("--dependency=")[2].split(" ")[0]
        assert waits == (f"afterok:{98 + 2 * number}" if number else "")


def test_a_submitted_stage_can_be_read_back_and_run(tmp_path, monkeypatch):
    """What Slurm runs on a node: the pickled executor, read in a new process, does its stage."""
    module = scale_out()
    import dill

    write_corpus(tmp_path / "in")
    stage = module.pipeline(tmp_path / "in", tmp_path / "shared", 0.8, 5, 2, "slurm", partition="cpu", time="1:00:00")[
        0
    ]
    (tmp_path / "stage.pik").write_bytes(dill.dumps(stage.pipeline, fmode=dill.CONTENTS_FMODE))
    code = "import dill, sys; [step] = dill.load(open(sys.argv[1], 'rb')); step(None, 0, 2); step(None, 1, 2)"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "stage.pik")], check=True)
    assert len(list((tmp_path / "shared" / "sketches").glob("*.marks.npy"))) == 4


def test_ray_executors_are_built(tmp_path):
    module = scale_out()
    pytest.importorskip("ray", reason="ray is not installed")
    write_corpus(tmp_path / "in")
    made = module.pipeline(tmp_path / "in", tmp_path / "shared", 0.8, 5, 3, "ray", mem_per_cpu_gb=4)
    assert [executor.world_size for executor in made] == [3, 1, 21, 1, 3]
    assert [executor.depends for executor in made] == [None, *made[:-1]]


def test_wrong_input_is_named(tmp_path):
    module = scale_out()
    with pytest.raises(QilinError, match="did you mean 'slurm'"):
        module.pipeline(tmp_path, tmp_path / "shared", 0.8, 5, 1, "slurmm")
    with pytest.raises(QilinError, match="'partition' is missing"):
        module.pipeline(tmp_path, tmp_path / "shared", 0.8, 5, 1, "slurm", time="1:00:00")
    with pytest.raises(QilinError, match="no .jsonl file"):
        module.pipeline(tmp_path, tmp_path / "shared", 0.8, 5, 1, "local")
    for bad in ("{", '{"id": "x"}', '"text"', '{"text": 3}'):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / "a.jsonl").write_text('{"text": "好"}\n\n' + bad + "\n", encoding="utf-8")
        work = tmp_path / f"work {len(bad)}"
        stage = module.pipeline(tmp_path / "in", work, 0.8, 5, 1, "local")[0]
        with pytest.raises(QilinError, match="a.jsonl, line 3"):
            stage.pipeline[0](None, 0, 1)
    with pytest.raises(QilinError, match="other threshold"):
        module.pipeline(tmp_path / "in", work, 0.7, 5, 1, "local")


def test_without_datatrove_the_extra_is_named():
    code = (
        "import sys; sys.modules['datatrove'] = None\n"
        "from qilin_lib.errors import QilinError\n"
        "try:\n    import qilin_lib.chimed.scale_out\n"
        "except QilinError as error:\n    print(error)\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'qilin-lib[scale-out]'" in said
