"""Texts on disk come back as they went; a worker pool keeps order and dies with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import psutil
import pytest

from qilin_lib.chimed.pool import Pool
from qilin_lib.chimed.shards import Texts, write_texts


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
