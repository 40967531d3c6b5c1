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

import numpy as np
import pandas as pd

from qilin_lib import files, runs
from qilin_lib.errors import QilinError
from qilin_lib.evaluate.intervals import percentiles, resample_counts
from qilin_lib.evaluate.replies import spoken
from qilin_lib.train.questions import is_question

BENCHMARKS = ("cmtmedqa", "meddialog", "mc")
RESAMPLES, SEED = 1000, 0


def scores(records: Sequence[dict[str, Any]], resamples: int = RESAMPLES, seed: int = SEED) -> dict[str, Any]:
    """{precision, recall, f1: (value, low, high) in percent, None without a case; n, doctor, model: turns that ask}.

    The intervals are 95 % bootstraps over turns.
    """
    asked = np.array(
        [[is_question(row["reference"]), is_question(spoken(row["output"]))] for row in records], dtype=bool
    )
    doctor, model = asked.reshape(-1, 2).T
    both = doctor & model
    found: dict[str, Any] = {"n": len(records), "doctor": int(doctor.sum()), "model": int(model.sum())}
    counts = resample_counts(len(records), resamples, seed)
    parts = {"precision": (both, model), "recall": (both, doctor), "f1": (2 * both, 1 * model + doctor)}
    for name, (part, whole) in parts.items():
        found[name] = None
        if whole.any():
            drawn, drawn_of = counts @ part, counts @ whole
            rates = 100 * drawn[drawn_of > 0] / drawn_of[drawn_of > 0]
            found[name] = (float(100 * part.sum() / whole.sum()), *percentiles(rates))
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


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code, 2 after an error (one sentence on stderr)."""
    parser = argparse.ArgumentParser(prog="python -m qilin_lib.evaluate.asks", description=__doc__)
    parser.add_argument("run", help="a folder of runs/, e.g. bianque")
    run = parser.parse_args(arguments).run
    try:
        print(table(runs.find(run).dir).to_string(index=False))
    except QilinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
