"""The build's bytes: any number of workers, any interruption, hostile corpora, a full disk."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qilin_lib.chimed import batches
from qilin_lib.chimed.build import build_sets
from qilin_lib.errors import QilinError
from qilin_lib.sample import raw_dir

FILES = ("cpt.jsonl", "sft.jsonl", "dpo.jsonl", "general.jsonl", "ledger.json", "dropped.jsonl")
SCRIPT = """
import json, sys
from types import SimpleNamespace
from qilin_lib.chimed import build
build.BATCH_UNITS = 300
if __name__ == "__main__":
    build.build_sets(SimpleNamespace(**json.loads(sys.argv[1])), sys.argv[2], sys.argv[3])
"""


@pytest.fixture(scope="module")
def raw():
    return raw_dir()


def made(out: Path) -> dict[str, bytes]:
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


def start(params, raw, out, workers=2):
    settings = json.dumps(vars(params) | {"workers": workers})
    script = out.parent / "run_build.py"
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, script, settings, raw, out], stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_workers_and_five_kills_change_no_byte(params, raw, tmp_path):
    build_sets(params, raw, tmp_path / "plain", progress=lambda line: None)
    begun = time.monotonic()
    assert start(params, raw, tmp_path / "two").wait() == 0
    seconds = time.monotonic() - begun
    assert made(tmp_path / "two") == made(tmp_path / "plain")
    dice = random.Random(3)
    killed = 0
    for _ in range(5):
        child = start(params, raw, tmp_path / "killed")
        time.sleep(dice.uniform(0.3, 0.9) * seconds)
        os.kill(child.pid, signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 3, "the build was over before it could be killed"
    assert start(params, raw, tmp_path / "killed").wait() == 0
    assert made(tmp_path / "killed") == made(tmp_path / "plain")


@pytest.mark.slow
def test_the_size_of_a_batch_changes_no_byte(params, raw, tmp_path, monkeypatch):
    build_sets(params, raw, tmp_path / "one", progress=lambda line: None)
    monkeypatch.setattr("qilin_lib.chimed.build.BATCH_UNITS", 37)
    build_sets(params, raw, tmp_path / "other", progress=lambda line: None)
    assert made(tmp_path / "one") == made(tmp_path / "other")


def test_work_of_other_parameters_is_not_gone_on_with(params, tiny_raw, tmp_path, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(batches, "lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            build_sets(params, tiny_raw, tmp_path / "out", progress=lambda line: None)
    assert list((tmp_path / "out/checkpoints/build").glob("*.candidates.npy"))
    params.min_chars = 30
    build_sets(params, tiny_raw, tmp_path / "out", progress=lambda line: None)
    build_sets(params, tiny_raw, tmp_path / "fresh", progress=lambda line: None)
    assert made(tmp_path / "out") == made(tmp_path / "fresh")


def test_a_full_disk_is_one_sentence_and_can_be_gone_on_from(params, tiny_raw, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("qilin_lib.chimed.batches.write_array", full)
        with pytest.raises(QilinError, match="no room left on the disk"):
            build_sets(params, tiny_raw, tmp_path / "out", progress=lambda line: None)
    build_sets(params, tiny_raw, tmp_path / "out", progress=lambda line: None)
    build_sets(params, tiny_raw, tmp_path / "fresh", progress=lambda line: None)
    assert made(tmp_path / "out") == made(tmp_path / "fresh")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_device_without_room_says_so(tmp_path):
    with pytest.raises(OSError) as raised, open("/dev/full", "wb", buffering=0) as handle:
        handle.write(b"x")
    assert raised.value.errno == errno.ENOSPC


def corpus(folder: Path, answers: list[str]) -> Path:
    path = folder / "raw" / "huatuo_encyclopedia_qa" / "train_datasets.jsonl"
    path.parent.mkdir(parents=True)
    rows = [{"questions": [["头痛三天了怎么办才好"]], "answers": [text]} for text in answers]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return folder / "raw"


def test_one_document(params, tmp_path):
    ledger = build_sets(
        params, corpus(tmp_path, ["多休息，多喝水，三天不好再来。"]), tmp_path / "out", lambda line: None
    )
    assert {key: (row.read, row.kept) for key, row in ledger.rows.items()} == {
        ("huatuo_encyclopedia_qa", "cpt"): (1, 1),
        ("huatuo_encyclopedia_qa", "sft"): (1, 1),
    }


def test_nothing_but_duplicates(params, tmp_path):
    ledger = build_sets(
        params, corpus(tmp_path, ["多休息，多喝水，三天不好再来。"] * 3000), tmp_path / "out", lambda line: None
    )
    row = ledger.rows["huatuo_encyclopedia_qa", "sft"]
    assert (row.read, row.kept, row.duplicate) == (3000, 1, 2999)


def test_nothing_usable_leaves_empty_sets(params, tmp_path):
    ledger = build_sets(params, corpus(tmp_path, ["", " "]), tmp_path / "out", lambda line: None)
    assert ledger.rows["huatuo_encyclopedia_qa", "cpt"].rejected == {"empty field": 2}
    assert (tmp_path / "out" / "cpt.jsonl").read_bytes() == b""
