"""The bundle of a bug report: what it holds, and that planted keys and texts are not inside."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from qilin_lib import files
from qilin_lib.report import bundle

KEY, OTHER, TEXT, NAME = (
    'sk-proj-abc"defghijklmnop',
    "plain-words-of-mine",
    "患者反复头痛三天，服药后好转",
    "病历-王小明.jsonl",
)
TRACE = [
    "Traceback (most recent call last):",
    '  File "/opt/me/kit/qilin_lib/train/fit.py", line 12, in train',
    f"    raise QilinError({TEXT})",
    f"\x1b[31mqilin_lib.errors.QilinError: {TEXT}",
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QILIN_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("MY_LLM_API_KEY", KEY)
    monkeypatch.setenv("LLM_NUMBER", OTHER)
    folder = tmp_path / "runs" / "night"
    parameters = {"raw_dir": "/opt/me/raw", "learning_rate": 2e-5, "url": "https://me:hunter22@host/v1", "echo": KEY}
    parameters["baselines"] = {"GPT": {"api_key_env": "LLM_NUMBER", "note": OTHER}}
    facts = {"steps": 7, "told": [TEXT]}
    manifest = {"inputs": {"raw": {NAME: "0"}}, "parameters": parameters, "facts": facts, "outputs": {}}
    files.write_json(folder / "03_dcpt" / "manifest.json", manifest)
    row = {"source": "cmexam", "read": 9, "kept": 8, "rejected": {"no answer": 1}}
    files.write_json(folder / "01_build_chimed" / "ledger.json", {"sources": [row], "unread": {NAME: TEXT}})
    files.write_jsonl(folder / "01_build_chimed" / "sft.jsonl", [{"text": TEXT}])
    files.write_jsonl(folder / "03_dcpt" / "log.jsonl", [{"step": 1, "loss": 2.5, "sample": TEXT}])
    files.write_text(folder / "03_dcpt" / "train.log", "\n".join([*TRACE, f"Authorization: Bearer {KEY}"]))
    files.write_text(folder / "03_dcpt" / "adapter" / "adapter_model.safetensors", TEXT)
    files.write_jsonl(folder / "06_eval" / "predictions" / "fixed" / "cmexam" / "dpo.jsonl", [{"output": TEXT + KEY}])
    files.write_text(folder / "07_case_study" / "table_5.csv", "model,ours\ntiny,39.0\n")
    files.write_text(folder / "09_bias" / "table_b1i.csv", f"item,Statement,ours\n1,{TEXT[:5]},3\n2,x,{TEXT * 2}\n")
    output = {"output_type": "error", "ename": "QilinError", "evalue": TEXT, "traceback": ["\n".join(TRACE)]}
    shown = {"output_type": "stream", "text": TEXT}
    files.write_json(folder / "03_dcpt.ipynb", {"cells": [{}, {"outputs": [shown, output]}]})
    (folder / "03_dcpt" / "way_out.log").symlink_to("/etc/passwd")
    (folder / "04_sft").mkdir()
    files.write_text(folder / "04_sft" / "in_progress.json", "{")
    return folder


def content(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as made:
        return {name: made.read(name).decode("utf-8") for name in made.namelist()}


def test_it_holds_what_a_bug_report_needs_and_nothing_that_was_planted(run: Path, tmp_path: Path) -> None:
    made = content(bundle.write("night", tmp_path / "b.zip"))
    everything = "\n".join([*made, *made.values()])
    for planted in (KEY, json.dumps(KEY)[1:-1], OTHER, "hunter22", TEXT[:5], "王小明", "/opt/me", "root:", "raise"):
        assert planted not in everything, planted
    assert json.loads(made["03_dcpt/manifest.json"])["parameters"]["learning_rate"] == 2e-5
    assert json.loads(made["03_dcpt/manifest.json"])["inputs"] == {"raw": "1 files"}
    assert json.loads(made["01_build_chimed/ledger.json"])["sources"][0]["rejected"] == {"no answer": 1}
    assert json.loads(made["03_dcpt/log.jsonl"]) == {"step": 1, "loss": 2.5}
    where = "  qilin_lib/train/fit.py:12 train\nqilin_lib.errors.QilinError"
    assert made["03_dcpt/train.log.errors"] == where and made["03_dcpt.ipynb.errors"] == f"cell 1: QilinError\n{where}"
    assert made["07_case_study/table_5.csv"].endswith("tiny,39.0\n") and "python" in made["environment.json"]
    assert made["09_bias/table_b1i.csv"] == "item,ours\n1,3\n2,[text]\n"
    assert made["04_sft/in_progress.json"] == "damaged: JSONDecodeError"
    assert "03_dcpt/adapter/adapter_model.safetensors" in made["files.txt"] and "03_dcpt/way_out.log" not in made


def test_what_leads_out_of_the_runs_is_left_out_and_named(run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "disk" / "08_rlhf"
    files.write_jsonl(elsewhere / "reward" / "log.jsonl", [{"step": 1}])
    (run / "08_rlhf").symlink_to(elsewhere)
    made = content(bundle.write("night", tmp_path / "b.zip"))
    assert "08_rlhf/reward/log.jsonl" not in made
    left = [line.split() for line in made["files.txt"].splitlines() if "leads out of the runs" in line]
    assert [words[-1] for words in left] == ["03_dcpt/way_out.log", "08_rlhf"]
    # A run that lies on another disk as a whole is the one that was asked for.
    (run.parent / "far").symlink_to(run.rename(tmp_path / "disk" / "night"))
    assert "03_dcpt/log.jsonl" in content(bundle.write("far", tmp_path / "far.zip"))


def test_stages_that_another_run_made_are_in_it(run: Path, tmp_path: Path) -> None:
    (run.parent / "day").mkdir()
    (run.parent / "day" / "03_dcpt").symlink_to(run / "03_dcpt")
    made = content(bundle.write("day", tmp_path / "b.zip"))
    assert {"03_dcpt/manifest.json", "03_dcpt/log.jsonl"} <= made.keys()
    assert "03_dcpt/manifest.json" in made["files.txt"]


def test_texts_come_when_asked_for_but_no_keys_weights_or_training_data(run: Path, tmp_path: Path) -> None:
    made = content(bundle.write("night", tmp_path / "b.zip", texts=True))
    assert TEXT in made["texts/06_eval/predictions/fixed/cmexam/dpo.jsonl"] and TEXT in made["texts/03_dcpt/train.log"]
    assert not any("safetensors" in name or "sft.jsonl" in name for name in made)
    everything = "\n".join(made.values())
    for planted in (KEY, json.dumps(KEY)[1:-1], OTHER, "hunter22", "root:"):
        assert planted not in everything, planted


def test_the_command_lists_what_it_wrote_and_overwrites_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bundle.main(["night"]) == 0 and "environment.json\n" in capsys.readouterr().out
    assert bundle.main(["night"]) == 2 and "exists; choose a new file" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["night-bundle.zip"]
    assert bundle.main(["night", "new/folder/b.zip"]) == 0 and (tmp_path / "new" / "folder" / "b.zip").exists()
    assert bundle.main(["night", "night-bundle.zip/b.zip"]) == 2 and "cannot be written" in capsys.readouterr().err
