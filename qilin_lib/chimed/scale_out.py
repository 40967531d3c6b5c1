"""Notebook 01 past one machine: the steps of build.py as a datatrove pipeline for its local, Slurm and Ray executors.

    python -m qilin_lib.chimed.scale_out RAW OUT --param profile=full_a100 \\
        --executor slurm --tasks 200 --set partition=cpu --set time=04:00:00

Stages, with their tasks: index (1) -> refine (n) -> decide (1) -> write (n) -> glue (1). OUT gets the files that the
notebook writes, byte for byte, whatever the number of tasks. Everything between lies in OUT/checkpoints, on a file
system that every node mounts; remove it when OUT/ledger.json is there. A task that is done is not done again. Each task
of refine, and decide, reads all raw files to number their units, a fifth of the work, so that more than some ten tasks
gain little. decide finds near-duplicates and repeated substrings on the cores of one node.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from qilin_lib import files, params
from qilin_lib.chimed import batches, build, sources
from qilin_lib.chimed.ledger import Ledger
from qilin_lib.chimed.pool import Pool, cores
from qilin_lib.chimed.verdicts import Corpus
from qilin_lib.errors import QilinError, as_command, nearest
from qilin_lib.schema import Build

try:
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
except ModuleNotFoundError as missing:
    raise QilinError(f"scale_out needs {missing.name}: pip install 'qilin-lib[scale-out]'") from missing

EXECUTORS = {"local": LocalPipelineExecutor, "slurm": SlurmPipelineExecutor, "ray": RayPipelineExecutor}


class Run:
    """A build from `raw` to `out`; its stages are what datatrove calls, with (data, rank, number of tasks)."""

    def __init__(self, params: Build, raw: Path, out: Path) -> None:
        self.params, self.raw, self.out = params, raw.resolve(), out.resolve()
        chosen = build.chosen_sources(params, self.raw)
        self.work = build.work_dir(params, self.raw, self.out)
        self.batches = partial(build.read_batches, params, chosen, self.raw, self.work, print)

    def index(self, *_: object) -> None:
        """The index of the benchmarks, and the ledger, which begins with them."""
        ledger = Ledger(unread=sources.all_unread(self.raw))
        self._save("index", (ledger, build.index_benchmarks(self.raw, ledger, self.work, print)))

    def refine(self, data: object, rank: int, size: int) -> None:
        """The batches rank, rank + size, ..."""
        for task in islice(self.batches({}), rank, None, size):
            batches.refine(*task)

    def decide(self, *_: object) -> None:
        """What becomes of every candidate, and what is cut out of running text."""
        notes: build.Notes = {}
        corpus = Corpus((stem, source) for stem, source, *_ in self.batches(notes))
        with Pool(self.params.workers) as pool:
            cuts = build.decide(self.params, corpus, self.work, pool, print)
        self._save("decide", (corpus, cuts, notes))

    def write(self, data: object, rank: int, size: int) -> None:
        """The lines of the batches rank, rank + size, ..."""
        corpus, cuts, _ = self._load("decide")
        for stem, *judged in islice(corpus.judged(self.params, cuts), rank, None, size):
            if not stem.with_suffix(".lines.pickle").exists():
                self._save(f"{stem.name}.lines", batches.lines(stem, *judged))

    def glue(self, *_: object) -> None:
        """The four sets, dropped.jsonl and ledger.json."""
        (ledger, dropped), (corpus, _, notes) = self._load("index"), self._load("decide")
        for source, found in notes.items():
            ledger.notes.setdefault(source, {}).update(found)
        written = (self._load(f"{stem.name}.lines") for stem in corpus.stems)
        build.write_sets(written, ledger, dropped, self.out)
        ledger.check()
        files.write_json(self.out / "ledger.json", ledger.as_dict())

    def _save(self, name: str, value: Any) -> None:
        with files.atomic(self.work / f"{name}.pickle", binary=True) as handle:
            pickle.dump(value, handle)

    def _load(self, name: str) -> Any:
        return pickle.loads((self.work / f"{name}.pickle").read_bytes())  # noqa: S301 - what another task has saved


def pipeline(run: Run, tasks: int, executor: str, **options: Any) -> list[Any]:
    """The executors of all stages in order, each depending on the one before; `options` go to each of them.

    QilinError: no such executor, or a missing option: Slurm needs `partition` and `time`.
    """
    if executor not in EXECUTORS:
        raise QilinError(f"executor: '{executor}' is none of {', '.join(EXECUTORS)}{nearest(executor, EXECUTORS)}")
    for name in ("partition", "time") if executor == "slurm" else ():
        if name not in options:
            raise QilinError(f"executor slurm: the option '{name}' is missing; give for example --set {name}=...")
    options = ({"workers": cores()} if executor == "local" else {}) | options
    made: list[Any] = []
    for name in ("index", "refine", "decide", "write", "glue"):
        own = {"tasks": tasks if name in ("refine", "write") else 1, "depends": made[-1] if made else None}
        own |= {"job_name": f"chimed-{name}"} if executor == "slurm" else {}
        # Completed tasks are noted here and not run again; datatrove takes no Path.
        own["logging_dir"] = str(run.work / "logs" / name)
        made.append(EXECUTORS[executor]([getattr(run, name)], **own | options))
    return made


@as_command
def main(arguments: list[str]) -> int:
    """Run, or for Slurm submit, all stages; 2 when something the user can mend stands in the way."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m qilin_lib.chimed.scale_out", None, __doc__, formatter_class=form)
    parser.add_argument("raw", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--executor", default="local", help=f"{', '.join(EXECUTORS)} (%(default)s)")
    parser.add_argument("--tasks", type=int, default=cores(), help="tasks of refine and write (cores)")
    for name, help in (("--set", "an option of the executor"), ("--param", "a parameter of notebook 01, or profile")):
        parser.add_argument(name, action="append", default=[], metavar="NAME=VALUE", help=help)
    given = parser.parse_args(arguments)
    options, asked = (dict(pair.partition("=")[::2] for pair in pairs) for pairs in (given.set, given.param))
    options = {name: int(value) if value.lstrip("-").isdecimal() else value for name, value in options.items()}
    loaded = params.load("01_build_chimed", {name: yaml.safe_load(value) for name, value in asked.items()})
    pipeline(Run(loaded, given.raw, given.out), given.tasks, given.executor, **options)[-1].run()
    return 0


if __name__ == "__main__":
    # Under its own name: other processes and nodes find the stages by it, and not in "__main__".
    from qilin_lib.chimed.scale_out import main as named

    sys.exit(named(sys.argv[1:]))
