"""Near-duplicates of a corpus past one machine: the functions of sketch.py and neardup.py as datatrove stages.

    python -m qilin_lib.chimed.scale_out INPUT WORK --executor slurm --tasks 200 --set partition=cpu --set time=04:00:00

Input: a folder of .jsonl files, a document a line, {"text": ..., "id": ..., "metadata": ...} as datatrove's JsonlReader
takes them; but where that one skips a broken line with a warning, here it ends the task with an error that names it.
Stages: sketch (a task some files) -> equal (1) -> bands (a task a band) -> components (1) -> filter (as sketch).
All share WORK, a folder on a file system that every node mounts, and find there

    run.json        the files and parameters of this run, which no other run may use
    kept/           the input files, less the duplicates; a kept line is the input's, byte for byte
    dropped/        for each input file the lines left out: id, file, line, and the first of their component
    sketches/ edges/ logs/

Of a component the first in order of file name and line is kept, whatever the number of tasks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.chimed import neardup
from qilin_lib.chimed.pool import cores
from qilin_lib.chimed.shards import write_array
from qilin_lib.chimed.shingles import identity
from qilin_lib.chimed.sketch import PERMUTATIONS, write_sketch
from qilin_lib.errors import QilinError, nearest

try:
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
except ModuleNotFoundError as missing:
    raise QilinError(f"scale_out needs {missing.name}: pip install 'qilin-lib[scale-out]'") from missing

EXECUTORS = {"local": LocalPipelineExecutor, "slurm": SlurmPipelineExecutor, "ray": RayPipelineExecutor}
_SHARD = 5000


def pipeline(
    input_dir: Path, work_dir: Path, threshold: float, ngram: int, tasks: int, executor: str, **options: Any
) -> list[Any]:
    """The five executors in order, each depending on the one before: running the last one runs all.

    `options` go to every datatrove executor, such as `workers`; Slurm needs `partition` and `time`.
    QilinError: no such executor, no input, a missing option, or `work_dir` holds a run with other files or parameters.
    """
    if executor not in EXECUTORS:
        raise QilinError(f"executor: '{executor}' is none of {', '.join(EXECUTORS)}{nearest(executor, EXECUTORS)}")
    for name in ("partition", "time") if executor == "slurm" else ():
        if name not in options:
            raise QilinError(f"executor slurm: the option '{name}' is missing; give for example --set {name}=...")
    input_dir, work_dir = Path(input_dir).resolve(), Path(work_dir).resolve()
    bands = PERMUTATIONS // neardup.band_rows(threshold)
    _claim(input_dir, work_dir, {"threshold": threshold, "ngram": ngram, "tasks": tasks})
    if executor == "local":
        options = {"workers": cores()} | options
    stages: list[tuple[str, Callable, int]] = [
        ("sketch", partial(sketch_files, work_dir), tasks),
        ("equal", partial(connect_equal, work_dir), 1),
        ("bands", partial(link_band, work_dir), bands),
        ("components", partial(merge_bands, work_dir), 1),
        ("filter", partial(filter_files, work_dir), tasks),
    ]
    made: list[Any] = []
    for name, step, size in stages:
        own = {"job_name": f"neardup-{name}"} if executor == "slurm" else {}
        depends = made[-1] if made else None
        # A plain string, since datatrove takes no Path. Completed tasks are noted here and not run again.
        logs = str(work_dir / "logs" / name)
        made.append(EXECUTORS[executor]([step], tasks=size, depends=depends, logging_dir=logs, **own | options))
    return made


def _claim(input_dir: Path, work_dir: Path, settings: dict[str, Any]) -> None:
    names = sorted(path.relative_to(input_dir).as_posix() for path in input_dir.rglob("*.jsonl"))
    if not names:
        raise QilinError(f"{input_dir} holds no .jsonl file")
    sizes = [(input_dir / name).stat().st_size for name in names]
    run = settings | {"input_dir": str(input_dir), "files": names, "bytes": sizes}
    path = work_dir / "run.json"
    if path.exists():
        before = files.read_json(path)
        for key, value in run.items():
            if before.get(key) != value:
                raise QilinError(f"{work_dir} holds a run with other {key}; name a new work folder or remove this one")
    files.write_json(path, run)


def sketch_files(work_dir: Path, data: object, rank: int, world_size: int) -> None:
    """Stage 1: sketch shards of the files rank, rank + world_size, ...; QilinError: a line that is no document."""
    run = files.read_json(work_dir / "run.json")
    for number, name in _mine(run, rank, world_size):
        texts = (identity(text) for _, text in _documents(Path(run["input_dir"]) / name))
        shard = 0
        while part := list(islice(texts, _SHARD)):
            write_sketch(work_dir / "sketches" / f"{number:06d}-{shard:06d}", part, run["ngram"])
            shard += 1


def connect_equal(work_dir: Path, data: object, rank: int, world_size: int) -> None:
    """Stage 2: equal skeletons."""
    neardup.collapse(work_dir / "sketches", _stems(work_dir))


def link_band(work_dir: Path, data: object, rank: int, world_size: int) -> None:
    """Stage 3: the links of band `rank`."""
    run = files.read_json(work_dir / "run.json")
    edges = neardup.band_edges(work_dir / "sketches", _stems(work_dir), rank, run["threshold"], run["ngram"])
    write_array(work_dir / "edges" / f"{rank:03d}.npy", edges)


def merge_bands(work_dir: Path, data: object, rank: int, world_size: int) -> None:
    """Stage 4: connected components of all links."""
    roots = np.load(work_dir / "sketches" / "roots.npy")
    for path in sorted((work_dir / "edges").glob("*.npy")):
        roots = neardup.joined(roots, np.load(path))
    write_array(work_dir / "components.npy", roots)


def filter_files(work_dir: Path, data: object, rank: int, world_size: int) -> None:
    """Stage 5: kept/<file> and dropped/<file> of the files rank, rank + world_size, ..."""
    run = files.read_json(work_dir / "run.json")
    stems = _stems(work_dir)
    first = np.load(work_dir / "components.npy", mmap_mode="r")
    # The number of each file's first document, and of the end.
    counts = np.bincount([_file_number(stem) for stem in stems], _counts(work_dir), len(run["files"]))
    starts = np.cumsum([0, *counts]).astype(np.int64)
    for number, name in _mine(run, rank, world_size):
        with files.atomic(work_dir / "kept" / name) as kept, files.atomic(work_dir / "dropped" / name) as dropped:
            for line, (raw, _) in enumerate(_documents(Path(run["input_dir"]) / name)):
                keeper = int(first[starts[number] + line])
                if keeper == starts[number] + line:
                    kept.write(raw)
                    continue
                home = int(np.searchsorted(starts, keeper, side="right")) - 1
                of = {"file": run["files"][home], "document": keeper - int(starts[home]) + 1}
                row = {"id": json.loads(raw).get("id"), "file": name, "document": line + 1, "duplicate_of": of}
                dropped.write(json.dumps(row, ensure_ascii=False) + "\n")


def _mine(run: dict[str, Any], rank: int, world_size: int) -> Iterator[tuple[int, str]]:
    return islice(enumerate(run["files"]), rank, None, world_size)


def _documents(path: Path) -> Iterator[tuple[str, str]]:
    """Each line that is not blank, ending in a line break, and its text."""
    with open(path, encoding="utf-8", newline="\n") as handle:
        for number, raw in enumerate(handle, start=1):
            if not raw.strip():
                continue
            try:
                text = json.loads(raw)["text"]
            except (ValueError, KeyError, TypeError) as reason:
                raise QilinError(f'{path}, line {number}: no JSON object with a "text" ({reason!r})') from None
            if not isinstance(text, str):
                raise QilinError(f'{path}, line {number}: "text" is {type(text).__name__}, not a string')
            yield raw.removesuffix("\n") + "\n", text


def _stems(work_dir: Path) -> list[Path]:
    # The facts are written last, so that a shard which has them is whole.
    paths = sorted((work_dir / "sketches").glob("*-*.facts.npy"))
    return [path.with_name(path.name.removesuffix(".facts.npy")) for path in paths]


def _file_number(stem: Path) -> int:
    return int(stem.name.split("-")[0])


def _counts(work_dir: Path) -> np.ndarray:
    return np.diff(np.load(work_dir / "sketches" / "starts.npy"))


def main(arguments: list[str]) -> int:
    """Run, or for Slurm submit, all stages; 2 when something the user can mend stands in the way."""
    parser = argparse.ArgumentParser(
        prog="python -m qilin_lib.chimed.scale_out",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("input_dir", type=Path)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--threshold", type=float, default=0.7, help="Jaccard similarity of a duplicate (%(default)s)")
    parser.add_argument("--ngram", type=int, default=5, help="characters in an n-gram (%(default)s)")
    parser.add_argument("--tasks", type=int, default=cores(), help="tasks of the stages sketch and filter (cores)")
    parser.add_argument("--executor", default="local", help=f"{', '.join(EXECUTORS)} (%(default)s)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the executor")
    given = parser.parse_args(arguments)
    pairs = [pair.partition("=") for pair in given.set]
    options = {name: int(value) if value.lstrip("-").isdecimal() else value for name, _, value in pairs}
    try:
        made = pipeline(
            given.input_dir, given.work_dir, given.threshold, given.ngram, given.tasks, given.executor, **options
        )
        made[-1].run()
    except QilinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    # Under its own name: other processes and nodes find the stages by it, and not in "__main__".
    from qilin_lib.chimed.scale_out import main as named

    sys.exit(named(sys.argv[1:]))
