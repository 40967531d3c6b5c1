"""Who asks when the doctor asked: precision, recall and F1 of questions over the turns of a run's dialogue benchmarks.

python -m qilin_lib.evaluate.asks RUN

Our definition, in place of BianQue's PQA, whose own is not public: a turn is a question as `train.questions` has it; a
model is right where it asks and the doctor asked. Read from the finished records of 06; nothing is asked again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from qilin_lib import files, runs
from qilin_lib.errors import QilinError, as_command
from qilin_lib.evaluate.intervals import wilson
from qilin_lib.evaluate.replies import spoken
from qilin_lib.train.questions import is_question

BENCHMARKS = ("cmtmedqa", "meddialog", "mc")


def scores(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{precision, recall, f1: (value, low, high) in percent, None without a case; n, doctor, model: turns that ask}.

    Wilson's 95 % intervals. F1 is 2J / (1 + J) of the share J of turns at which both ask, out of those where one does.
    """
    said = [(is_question(row["reference"]), is_question(spoken(row["output"]))) for row in records]
    both, doctor, model = sum(map(all, said)), sum(one for one, _ in said), sum(other for _, other in said)
    found: dict[str, Any] = {"n": len(said), "doctor": doctor, "model": model}
    for name, whole in {"precision": model, "recall": doctor, "f1": doctor + model - both}.items():
        shares = (both / whole, *wilson(both / whole, whole)) if whole else ()
        shares = [2 * share / (1 + share) if name == "f1" else share for share in shares]
        found[name] = tuple(100 * share for share in shares) or None
    return found


def table(run_dir: Path) -> pd.DataFrame:
    """A row per benchmark and model of a run; QilinError if no dialogue benchmark was answered."""
    rows = []
    for path in sorted(run_dir.glob("06_eval/predictions/fixed/*/*.jsonl")):
        if path.parent.name in BENCHMARKS:
            found = scores(list(files.read_jsonl(path)))
            turns = {"turns": found["n"], "doctor asks": found["doctor"], "model asks": found["model"]}
            rates = {name: found[name] for name in ("precision", "recall", "f1")}
            cells = {name: "{:.1f} [{:.1f}, {:.1f}]".format(*rate) if rate else "-" for name, rate in rates.items()}
            rows.append({"benchmark": path.parent.name, "model": path.stem, **turns, **cells})
    if not rows:
        raise QilinError(
            f"{run_dir}: no answers to {', '.join(BENCHMARKS)}; nearest valid: a run whose 06 has finished with them"
        )
    return pd.DataFrame(rows)


@as_command
def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code, 2 after an error (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.evaluate.asks", description=__doc__)
    parser.add_argument("run", help="a folder of runs/, e.g. bianque")
    run = parser.parse_args(arguments).run
    print(table(runs.find(run).dir).to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
