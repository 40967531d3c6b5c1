"""What a whole run will need, said before anything starts: disk, memory and hours of each notebook.

A number stands here only if arithmetic gives one; `note` says from what, and what no number covers.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import psutil

from qilin_lib import files, params, runs, sample
from qilin_lib.chimed import sources
from qilin_lib.chimed.pool import cores
from qilin_lib.errors import QilinError
from qilin_lib.models.shapes import WIDTH, sizes
from qilin_lib.schema import Bias, Build, Evaluate, Strict, Tokenize, Trained
from qilin_lib.train import launch, preflight, speed
from qilin_lib.train.preflight import GIB

GB = 10**9
# 01's work folder at its peak against the raw text, and its pace: 3 GB in 22 minutes on two cores (README).
SCRATCH, RAW_PER_HOUR = 8, 3 * GB / (22 / 60)
NUMBERS = ["disk_peak_gb", "disk_stays_gb", "host_gb", "gpu_gb", "hours"]
# The row of one notebook: sizes in GB; what is not in it is not known.
Need = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """`frame`: one row per notebook, NaN = not known; `host_gb` of one machine, `gpu_gb` of one card. `sentences`: the
    sums, and whether they fit this machine."""

    frame: pd.DataFrame
    sentences: tuple[str, ...]

    def __repr__(self) -> str:
        numbers = self.frame[NUMBERS].map(lambda value: "not known" if pd.isna(value) else _short(value))
        notes = [f"{name}: {note}." for name, note in self.frame["note"].items()]
        units = "GB = 10^9 bytes; what has unknown parts is given as the least that it can be."
        return "\n".join([numbers.to_string(), *self.sentences, *notes, units])


def plan(parameters: Mapping[str, Strict]) -> Plan:
    """The needs of the notebooks in `parameters` ({notebook: its loaded parameters}, in order), beside what is there.

    Starts nothing and writes nothing. What this machine does not know (a base model, a raw folder) raises nothing.
    """
    profile = next(iter(parameters.values())).profile
    tokenize = parameters.get("02_tokenize") or params.load("02_tokenize", {"profile": profile})
    rows = []
    for one in parameters.values():
        try:
            rows.append(NEEDS[one.notebook](one, tokenize))
        except QilinError as reason:
            rows.append(Need(note=f"not known: {reason}"))
    frame = pd.DataFrame(rows, list(parameters), [*NUMBERS, "note"]).astype(dict.fromkeys(NUMBERS, float))
    return Plan(frame, tuple(_sentences(frame)))


def _build(parameters: Build, tokenize: Tokenize) -> Need:
    raw = (params.ROOT / parameters.raw_dir).resolve() if parameters.raw_dir else sample.raw_dir()
    if not raw.is_dir():
        return Need(note=f"not known, because raw_dir = '{raw}': no such folder", gpu_gb=0)
    read = sources.files_read(raw, parameters.sources).values()
    size = sum(path.stat().st_size for path in read if path.is_file())
    note = f"{SCRATCH} x {_short(size / GB)} GB of raw files (compressed ones count as they lie), 3 GB in 22 minutes"
    note += "; what stays is not known before 01 has run"
    return Need(note=note, disk_peak_gb=SCRATCH * size / GB, gpu_gb=0, hours=size / RAW_PER_HOUR)


def _tokens(parameters: Tokenize, tokenize: Tokenize) -> Need:
    packing = runs.runs_dir() / parameters.run / "02_tokenize" / "packing.json"
    count, note = 0, "tokens are not known before 01 has run"
    if packing.exists():
        packed = files.read_json(packing)
        count, note = packed["blocks"] * packed["block_size"], "three int32 for each of the tokens packed last"
    elif parameters.max_cpt_tokens:
        count = parameters.max_cpt_tokens / (1 - parameters.replay_share)
        note = "three int32 for each of at most max_cpt_tokens and the replayed share"
    tiny = 4 * sizes(tokenize.base, tokenize.tiny).total if parameters.base == "tiny" else 0
    size = (12 * count + tiny) / GB or None
    return Need(note=note, disk_peak_gb=size, disk_stays_gb=size, gpu_gb=0)


def _training(parameters: Trained, tokenize: Tokenize) -> Need:
    """Memory without what only has a bound: activations and logits."""
    found, gb = preflight.estimate(parameters, tokenize), GIB / GB
    disk = found.frame[found.frame["where"] == "disk"].set_index("what")["GiB"] * gb
    least, most = (found.gib("training", "scoring", bounds=bounds) * gb for bounds in (False, True))
    host = preflight.PYTHON / GB + found.gib("host memory") * gb if parameters.gpus else least
    terms = ", ".join(f"{what} {_short(size)} GB" for what, size in disk.items())
    return Need(
        note=f"disk: {terms}; {found.speed}; not known: activations and logits (at most {_short(most - least)} GB per "
        f"process), scores{', sampled answers, the judge beside the policy' * (parameters.notebook == '08_rlhf')}",
        disk_peak_gb=disk.sum(),
        disk_stays_gb=disk.drop("checkpoints").sum(),
        host_gb=launch.processes(parameters) // parameters.nodes * host,
        gpu_gb=least if parameters.gpus else 0,
        # Without a device they would be another's.
        hours=None if found.available is None else found.hours,
    )


def _answering(parameters: Evaluate | Bias, tokenize: Tokenize) -> Need:
    """06 and 09: one model at a time in every process, of which at least the weights are in memory."""
    weights, width = sizes(tokenize.base, tokenize.tiny).total, WIDTH[parameters.dtype]
    processes = parameters.gpus or parameters.processes or cores()
    host = processes * (preflight.PYTHON + (0 if parameters.gpus else width * weights))
    card = preflight.CUDA_CONTEXT + width * weights if parameters.gpus else 0
    note = f"{processes} at a time, each at least {weights:,} weights x {width} bytes; not known: caches, baselines"
    return Need(note=note, host_gb=host / GB, gpu_gb=card / GB)


NEEDS = {
    "01_build_chimed": _build,
    "02_tokenize": _tokens,
    **dict.fromkeys(("03_dcpt", "04_sft", "05_dpo", "08_rlhf"), _training),
    **dict.fromkeys(("06_eval", "09_bias"), _answering),
    "07_case_study": lambda *_: Need(note="loads no model", gpu_gb=0),
}


def _sentences(frame: pd.DataFrame) -> Iterator[str]:
    stays, card = frame["disk_stays_gb"].fillna(0), speed.card()
    # A notebook's peak stands on what the notebooks before it have left.
    peaks = stays.cumsum() - stays + frame["disk_peak_gb"]
    folder = next(path for path in (runs.runs_dir(), *runs.runs_dir().parents) if path.exists())
    where = f"{_short(stays.sum())} GB stay; {folder} (QILIN_RUNS_DIR) has"
    for what, needs, room, place in (
        ("Disk at its peak", peaks, shutil.disk_usage(folder).free / GB, where),
        ("Memory", frame["host_gb"], psutil.virtual_memory().total / GB, "this machine has"),
        ("GPU memory per card", frame["gpu_gb"], card and card[1] * GIB / GB, "a card here has"),
    ):
        most, known = needs.fillna(0).max(), ", as far as it is known" * bool(needs.isna().any())
        needed = f"{what}: {'at least ' * bool(known)}{_short(most)} GB ({needs.fillna(0).idxmax()})"
        if not most:
            yield f"{what}: 0{known}."
        elif room is None:
            yield f"{needed}; this machine has no GPU: whether it fits is not known without the device."
        else:
            fits = "it does NOT fit" if most > room else f"it fits{known}"
            yield f"{needed}; {place} {_short(room)} GB: {fits}."
    lacking = ", ".join(frame.index[frame["hours"].isna()])
    yield f"Hours: {_short(frame['hours'].sum())} as far as known" + f"; not known of {lacking}" * bool(lacking) + "."


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
