"""What a whole run will need, said before anything starts: disk, memory and hours of each notebook.

A number stands here only if arithmetic gives one; `basis` says from what, `not_known` what no number covers and why.
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

GB = 10**9
# 01's work folder at its peak against the raw text, and its pace: 3 GB in 22 minutes on two cores (README).
SCRATCH, RAW_PER_HOUR = 8, 3 * GB / (22 / 60)
SIZES = ["disk_peak_gb", "disk_stays_gb", "host_gb", "gpu_gb"]
NUMBERS = [*SIZES, "hours"]
LACKING = {"08_rlhf": "answers; memory of their sampling, and of the judge beside the policy in RL"}
# The row of one notebook: sizes in bytes here; what is not in it is not known.
Need = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """`frame`: one row per notebook, NaN = not known; `host_gb` of one machine, `gpu_gb` of one card. `sentences`: the
    sums, and whether they fit this machine."""

    frame: pd.DataFrame
    sentences: tuple[str, ...]

    def __repr__(self) -> str:
        numbers = self.frame[NUMBERS].map(lambda value: "not known" if pd.isna(value) else _short(value))
        rows = [f"{row.Index}: {row.basis or '-'}. Not known: {row.not_known}." for row in self.frame.itertuples()]
        note = "GB = 10^9 bytes; what has unknown parts is given as the least that it can be."
        return "\n".join([numbers.to_string(), *self.sentences, *rows, note])


def plan(parameters: Mapping[str, Strict]) -> Plan:
    """The needs of the notebooks in `parameters` ({notebook: its loaded parameters}, in order), beside what is there.

    Starts nothing and writes nothing. What this machine does not know (a base model, a raw folder) raises nothing.
    """
    profile = next(iter(parameters.values())).profile
    tokenize = parameters.get("02_tokenize") or params.load("02_tokenize", {"profile": profile})
    rows = [_need(one, tokenize) for one in parameters.values()]
    frame = pd.DataFrame(rows, list(parameters), [*NUMBERS, "basis", "not_known"]).astype(dict.fromkeys(NUMBERS, float))
    frame[SIZES] /= GB
    return Plan(frame, tuple(_sentences(frame)))


def _need(parameters: Strict, tokenize: Tokenize) -> Need:
    try:
        return NEEDS[parameters.notebook](parameters, tokenize)
    except QilinError as reason:
        return Need(basis="", not_known=str(reason))


def _build(parameters: Build, tokenize: Tokenize) -> Need:
    raw = (params.ROOT / parameters.raw_dir).resolve() if parameters.raw_dir else sample.raw_dir()
    if not raw.is_dir():
        why = f"raw_dir = '{raw}': no such folder"
        return Need(basis="", not_known=f"disk and hours, because {why}; memory", gpu_gb=0)
    size = sum(path.stat().st_size for path in sources.files_read(raw, parameters.sources).values() if path.is_file())
    basis = f"{SCRATCH} x {_short(size / GB)} GB of raw files (compressed ones count as they lie), 3 GB in 22 minutes"
    lacking = "what stays and memory: not known before 01 has run"
    return Need(basis=basis, not_known=lacking, disk_peak_gb=SCRATCH * size, gpu_gb=0, hours=size / RAW_PER_HOUR)


def _tokens(parameters: Tokenize, tokenize: Tokenize) -> Need:
    packing = runs.runs_dir() / parameters.run / "02_tokenize" / "packing.json"
    lacking, count = "memory and hours; what a base from elsewhere takes in the cache", None
    if packing.exists():
        packed = files.read_json(packing)
        count, basis = packed["blocks"] * packed["block_size"], "ids, positions, labels of the tokens packed last"
    elif parameters.max_cpt_tokens:
        count = parameters.max_cpt_tokens / (1 - parameters.replay_share)
        basis = "ids, positions, labels of at most max_cpt_tokens and the replayed share"
    else:
        basis, lacking = "the base", f"tokens: not known before 01 has run; {lacking}"
    tiny = 4 * sizes(tokenize.base, tokenize.tiny).total if parameters.base == "tiny" else 0
    # Three int32 a token.
    size = None if count is None and not tiny else 12 * (count or 0) + tiny
    return Need(basis=basis, not_known=lacking, disk_peak_gb=size, disk_stays_gb=size, gpu_gb=0)


def _training(parameters: Trained, tokenize: Tokenize) -> Need:
    """Memory without what only has a bound: activations and logits."""
    found, gb = preflight.estimate(parameters, tokenize), preflight.GIB / GB
    disk = found.frame[found.frame["where"] == "disk"].set_index("what")["GiB"] * preflight.GIB
    least, most = (found.gib("training", "scoring", bounds=bounds) for bounds in (False, True))
    terms = ", ".join(f"{what} {_short(size / GB)} GB" for what, size in disk.items())
    processes = launch.processes(parameters) // parameters.nodes
    hours = None if found.available is None else found.hours
    why = "without a device" if found.available is None else "before 02 has run" if found.rate else "on this processor"
    bounds = f"activations and logits (at most {_short((most - least) * gb)} GB per process)"
    host = preflight.PYTHON + found.gib("host memory") * preflight.GIB if parameters.gpus else least * preflight.GIB
    return Need(
        basis=f"disk: {terms}; {found.lines()[2][:-1]}",
        not_known=f"hours: not known {why}; " * (not hours) + f"{bounds}; {LACKING.get(parameters.notebook, 'scores')}",
        disk_peak_gb=disk.sum(),
        disk_stays_gb=disk.drop("checkpoints").sum(),
        host_gb=processes * host,
        gpu_gb=least * preflight.GIB if parameters.gpus else 0,
        hours=hours,
    )


def _answering(parameters: Evaluate | Bias, tokenize: Tokenize) -> Need:
    """06 and 09: one model at a time in every process, of which at least the weights are in memory."""
    weights, width = sizes(tokenize.base, tokenize.tiny).total, WIDTH[parameters.dtype]
    processes = parameters.gpus or parameters.processes or cores()
    lacking = "caches of keys and values, baselines; hours; records (a few kB each): not known before 01 has run"
    host = processes * (preflight.PYTHON + (0 if parameters.gpus else width * weights))
    card = preflight.CUDA_CONTEXT + width * weights if parameters.gpus else 0
    basis = f"{processes} at a time, each at least {weights:,} weights x {width} bytes"
    return Need(basis=basis, not_known=lacking, host_gb=host, gpu_gb=card)


NEEDS = {
    "01_build_chimed": _build,
    "02_tokenize": _tokens,
    **dict.fromkeys(("03_dcpt", "04_sft", "05_dpo", "08_rlhf"), _training),
    **dict.fromkeys(("06_eval", "09_bias"), _answering),
    "07_case_study": lambda *_: Need(basis="loads no model", not_known="memory, minutes, the report's size", gpu_gb=0),
}


def _sentences(frame: pd.DataFrame) -> Iterator[str]:
    stays, memory = frame["disk_stays_gb"].fillna(0), psutil.virtual_memory()
    # A notebook's peak stands on what the notebooks before it have left.
    peaks = stays.cumsum() - stays + frame["disk_peak_gb"]
    folder = next(path for path in (runs.runs_dir(), *runs.runs_dir().parents) if path.exists())
    free, total = shutil.disk_usage(folder).free / GB, memory.total / GB
    beside = f"{_short(stays.sum())} GB stay; {folder} (QILIN_RUNS_DIR) has {_short(free)} GB free"
    yield _sentence("Disk at its peak", peaks, free, beside)
    beside = f"this machine has {_short(total)} GB, {_short(memory.available / GB)} of them free"
    yield _sentence("Memory", frame["host_gb"], total, beside)
    found = speed.card()
    card = found and found[1] * preflight.GIB / GB
    beside = f"a card here has {_short(card)} GB" if card else "this machine has no GPU"
    yield _sentence("GPU memory per card", frame["gpu_gb"], card, beside)
    lacking = ", ".join(frame.index[frame["hours"].isna()])
    yield f"Hours: {_short(frame['hours'].sum())} as far as known" + f"; not known of {lacking}" * bool(lacking) + "."


def _sentence(what: str, needs: pd.Series, room: float | None, beside: str) -> str:
    most, least = needs.fillna(0).max(), bool(needs.isna().any())
    if not most:
        return f"{what}: 0, as far as it is known; {beside}."
    fits = "it fits" + ", as far as it is known" * least
    if room is None or most > room:
        fits = "whether it fits is not known without the device" if room is None else "it does NOT fit"
    return f"{what}: {'at least ' * least}{_short(most)} GB ({needs.fillna(0).idxmax()}); {beside}: {fits}."


def _short(value: float) -> str:
    return f"{value:,.1f}" if value >= 1 else f"{value:.2g}"
