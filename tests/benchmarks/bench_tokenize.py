"""Notebook 02's tokenising and packing at growing sizes: wall time, memory, and whether the cost per GB stays.

    python tests/benchmarks/bench_tokenize.py RUN --sizes 0.3 3 [--work FOLDER]

RUN is the folder of a finished run (runs/smoke): the sample's records in it are the pattern, its tokenizer counts. A
size is GB of raw text, which becomes 5/3 of it as JSON lines over all sets. Sentences are shuffled and 3 % of the
characters exchanged, else a tokenizer's cache would do the work. Each size is measured in a fresh process, memory as in
bench_build.py. The exit status is 1 when a target is missed.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_build import GIB, measured, stop_cleanly

from qilin_lib import files, params
from qilin_lib.models.load import load_tokenizer
from qilin_lib.tokens import corpus, store

# At 3 GB on two free cores.
MOST_MINUTES, MOST_GIB, TARGET_GB = 12.0, 4.0, 3.0
JSON_SHARE = 5 / 3
CHANGED = 0.03


def amplify(pattern: Path, out: Path, size: float) -> None:
    """Write `size` bytes of JSON lines like those of the sets in `pattern`, each set as large a part as there."""
    whole = sum((pattern / f"{name}.jsonl").stat().st_size for name in corpus.SETS)
    for number, name in enumerate(corpus.SETS):
        path = pattern / f"{name}.jsonl"
        rows = list(files.read_jsonl(path))
        draw, wanted = np.random.default_rng(number), size * path.stat().st_size / whole
        files.write_jsonl(out / path.name, limited(rows, wanted, path.stat().st_size, draw))


def limited(
    rows: list[dict[str, Any]], wanted: float, size: int, draw: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Copies of `rows`, which take `size` bytes, with other texts, until they take `wanted` bytes."""
    sentences = [s for row in rows for *_, text in store.contents(row) for s in split(text)]
    for copy in range(int(wanted // size) + 1):
        share = min(1.0, wanted / size - copy)
        pool = changed(sentences, draw)
        for number, row in enumerate(rows[: round(share * len(rows))]):
            yield {
                **row,
                "id": f"{copy}-{number}",
                **{f: other(row[f], pool) for f in (*store.TURNS, "text") if f in row},
            }


def split(text: str) -> list[str]:
    return re.findall(r"[^。！？\n]*[。！？\n]|[^。！？\n]+", text)


def changed(sentences: list[str], draw: np.random.Generator) -> Iterator[str]:
    """The sentences in another order, with some of their characters exchanged for others of them."""
    text = "\0".join(sentences[i] for i in draw.permutation(len(sentences)))
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32).copy()
    places = np.flatnonzero((draw.random(len(points)) < CHANGED) & (points != 0))
    points[places] = points[draw.permutation(places)]
    return iter(points.tobytes().decode("utf-32-le").split("\0"))


def other(value: Any, pool: Iterator[str]) -> Any:
    """A text, or turns, of as many sentences from the pool."""
    if isinstance(value, str):
        return "".join(next(pool) for _ in split(value)).strip() or "无"
    return [turn | {"content": other(turn["content"], pool)} for turn in value]


def child(chimed: str, tokenizer: str, out: str) -> None:
    """What the fresh process does; a line a step."""
    coder, start = load_tokenizer(tokenizer), time.perf_counter()
    corpus.tokenise(Path(chimed), Path(out), coder, params.load("02_tokenize", {"profile": "full_a100"}))
    print(f"{time.perf_counter() - start:.1f}", flush=True)


def one_size(gigabytes: float, run: Path, work: Path) -> bool:
    """Generate, tokenise, print a line; whether the targets are met where they are set."""
    chimed, out = work / f"chimed-{gigabytes:g}", work / "out"
    if not (chimed / "general.jsonl").exists():
        amplify(run / "01_build_chimed", chimed, gigabytes * JSON_SHARE * 1e9)
    size = sum(path.stat().st_size for path in chimed.glob("*.jsonl")) / 1e9
    command = [sys.executable, __file__, "child", str(chimed), str(run / "02_tokenize" / "base"), str(out)]
    found = measured(command)
    if found.status:
        print(found.errors)
        return False
    seconds, gib = float(found.lines[-1][1]), found.peak / GIB
    counts = files.read_json(out / "token_counts.json")
    tokens = sum(entry["tokens"] for name in corpus.SETS for entry in counts[name].values())
    print(
        f"{gigabytes:g} GB of raw text, {size:.2f} GB of JSON lines, {tokens / 1e6:,.0f} M tokens: {seconds:.0f} s, "
        f"{seconds / size:.0f} s per GB, peak {gib:.2f} GiB ({found.kind})",
        flush=True,
    )
    shutil.rmtree(out)
    return gib <= MOST_GIB and seconds <= 60 * MOST_MINUTES * max(1.0, gigabytes / TARGET_GB)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.3, 3.0])
    parser.add_argument("--work", type=Path, help="keeps the generated sets for the next time")
    given = parser.parse_args()
    stop_cleanly()
    with tempfile.TemporaryDirectory() as folder:
        return int(not all([one_size(size, given.run, given.work or Path(folder)) for size in given.sizes]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        child(*sys.argv[2:])
    else:
        sys.exit(main())
