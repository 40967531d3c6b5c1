"""The bytes of a build: any number of workers, any interruption, a full disk; its shards, its pool, its balance."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest
from raw_files import settings

from qilin_lib.chimed import batches
from qilin_lib.chimed.build import build_sets
from qilin_lib.chimed.ledger import Ledger, Row
from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts, write_texts
from qilin_lib.errors import QilinError
from qilin_lib.sample import raw_dir

FILES = ("cpt.jsonl", "sft.jsonl", "dpo.jsonl", "general.jsonl", "ledger.json", "dropped.jsonl")
SCRIPT = """
import sys
from qilin_lib import params
from qilin_lib.chimed import build
build.BATCH_UNITS = 300
if __name__ == "__main__":
    build.build_sets(params.load("01_build_chimed", {"workers": 2}), sys.argv[1], sys.argv[2])
"""


def made(out):
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


def built(raw, out, **changed):
    build_sets(settings(**changed), raw, out, progress=lambda line: None)
    return made(out)


def start(out):
    script = out.parent / "run_build.py"
    script.write_text(SCRIPT)
    return subprocess.Popen([sys.executable, script, raw_dir(), out], stdout=subprocess.DEVNULL)


@pytest.mark.slow
def test_two_workers_five_kills_and_the_size_of_a_batch_change_no_byte(tmp_path, monkeypatch):
    smoke = {"max_records_per_source": 1500, "near_dup_threshold": 0.8}
    plain = built(raw_dir(), tmp_path / "plain", **smoke)
    begun = time.monotonic()
    assert start(tmp_path / "two").wait() == 0
    seconds = time.monotonic() - begun
    assert made(tmp_path / "two") == plain
    dice, killed = random.Random(3), 0
    for _ in range(5):
        child = start(tmp_path / "killed")
        time.sleep(dice.uniform(0.3, 0.9) * seconds)
        os.kill(child.pid, signal.SIGKILL)
        killed += child.wait() == -signal.SIGKILL
    assert killed >= 3, "the build was over before it could be killed"
    assert start(tmp_path / "killed").wait() == 0
    assert made(tmp_path / "killed") == plain
    monkeypatch.setattr("qilin_lib.chimed.build.BATCH_UNITS", 37)
    assert built(raw_dir(), tmp_path / "small", **smoke) == plain


def test_a_build_goes_on_with_its_batches_but_not_with_those_of_other_parameters(tiny_raw, tmp_path):
    with pytest.MonkeyPatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(batches, "lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        built(tiny_raw, tmp_path / "out")
    assert list((tmp_path / "out/checkpoints/build").glob("*.candidates.npy"))
    with pytest.MonkeyPatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(batches, "lines", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        broken.setattr(batches, "_write_entries", lambda *_: pytest.fail("a finished batch is made again"))
        built(tiny_raw, tmp_path / "out")
    assert built(tiny_raw, tmp_path / "out", min_chars=30) == built(tiny_raw, tmp_path / "fresh", min_chars=30)


def test_a_full_disk_is_one_sentence_and_can_be_gone_on_from(tiny_raw, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    said = "out cannot be written: No space left.*again"
    with monkeypatch.context() as broken, pytest.raises(QilinError, match=said):
        broken.setattr(batches, "write_array", full)
        built(tiny_raw, tmp_path / "out")
    assert built(tiny_raw, tmp_path / "out") == built(tiny_raw, tmp_path / "fresh")


@pytest.mark.parametrize("texts", [[], [""], ["头痛", "", "𠮷野家 B超\n", "a" * 5000]])
def test_round_trip(tmp_path, texts):
    write_texts(tmp_path / "00001", texts)
    shard = Texts(tmp_path / "00001")
    assert list(shard) == texts and len(shard) == len(texts)
    with pytest.raises(IndexError):
        shard[len(texts)]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_few_are_asked_for_ahead(workers):
    asked = []
    with Pool(workers) as pool:
        for number, result in enumerate(pool.map(divmod, ((asked.append(n) or n, 7) for n in range(40)))):
            assert result == divmod(number, 7) and len(asked) <= number + 2 * workers + 1
    with Pool(workers) as pool, pytest.raises(ZeroDivisionError):
        list(pool.map(divmod, [(1, 1), (1, 0)]))


def test_workers_die_with_a_killed_parent():
    script = "import time; from qilin_lib.chimed.pool import Pool\nwith Pool(2) as pool:\n"
    script += "    for _ in pool.map(time.sleep, ((s,) for s in (0, 0, 60, 60, 60, 60))): print(1, flush=True)\n"
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"1\n"
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) >= 2
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not [child for child in alive if child.status() != psutil.STATUS_ZOMBIE], "a worker outlived its parent"


@pytest.mark.parametrize("name", ["read", "kept", "duplicate", "contaminated", "excluded", "merged"])
def test_an_unbalanced_ledger_names_the_source(name):
    row = Row("cmd", "sft", "CMD", "original", "MIT", read=10, kept=4, duplicate=2, contaminated=1, excluded=1)
    row.rejected["empty field"] = 2
    book = Ledger()
    book.add(row)
    book.check()
    (written,) = book.as_dict()["sources"]
    agreed = (
        "source set table_row read kept rejected duplicate contaminated excluded deidentified bytes_kept chars_kept"
    )
    assert {*agreed.split()} <= set(written) and written["rejected"] == {"empty field": 2}
    setattr(row, name, 99)
    with pytest.raises(QilinError, match="cmd in sft"):
        book.check()
