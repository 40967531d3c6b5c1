"""Will it fit, and how long will it take? Memory by term and hours, before anything is loaded; the error afterwards."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qilin_lib import files, params, runs
from qilin_lib.models.base import base_path
from qilin_lib.models.load import quiet_libraries
from qilin_lib.models.shapes import Census, census, shape
from qilin_lib.train import flops, launch, memory
from qilin_lib.train.memory import Batch

GIB = 2**30
# Resident memory of a process that imported torch, transformers, trl and peft; of a CUDA context with cuBLAS.
PYTHON, CUDA_CONTEXT = 0.6 * GIB, 0.5 * GIB
# DeepSpeed's default for stage3_max_live_parameters.
LIVE = 10**9
# GPUs whose hours are shown where the machine at hand has none.
EXAMPLES = ("A100", "H100", "RTX 3090")


@dataclass(frozen=True)
class Time:
    """Tokens a second of all processes together, and hours for `tokens` input tokens of the whole stage (None: not
    known). `processor` names whose peak it is."""

    processor: str
    tokens_per_second: float | None
    tokens: int | None

    @property
    def hours(self) -> float | None:
        return self.tokens / self.tokens_per_second / 3600 if self.tokens and self.tokens_per_second else None

    def __str__(self) -> str:
        if self.tokens_per_second is None:
            return f"{self.processor}: time unknown"
        rate = f"{self.processor}: about {self.tokens_per_second:,.0f} tokens/s"
        if self.hours is None:
            return f"{rate}, {_duration(1e6 / self.tokens_per_second / 3600)} per million tokens"
        return f"{rate}, {_duration(self.hours)} for {self.tokens:,} tokens"


@dataclass(frozen=True)
class Preflight:
    """Estimated GiB of one process by term, what is there, time, and what was assumed.

    `terms` are of the GPU, or of the process on the CPU; `host` is what offloading puts into the machine's memory, per
    process. `available` is None where the GPU is not in this machine.
    """

    terms: dict[str, float]
    host: dict[str, float]
    available: float | None
    place: str
    times: tuple[Time, ...]
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        return sum(self.terms.values())

    @property
    def measurable(self) -> float:
        """The part that the peak measured after training covers: CUDA's allocator does not see its own context."""
        return self.total - self.terms.get("CUDA context", 0.0)

    @property
    def verdict(self) -> str:
        if self.available is None:
            return f"{self.place}; needs {self.total:.1f} GiB per GPU"
        fits = "fits" if self.total < self.available else "does NOT fit"
        return f"{self.place} has {self.available:.1f} GiB a process; {self.total:.1f} GiB: it {fits}"

    def rows(self) -> list[tuple[str, str]]:
        found = [(name, f"{value:.2f}") for name, value in (*self.terms.items(), ("sum", self.total))]
        return found + [(f"host memory: {name}", f"{value:.2f}") for name, value in self.host.items()]

    def lines(self) -> list[str]:
        return [self.verdict + ".", *(f"{time}." for time in self.times), *(f"{note}." for note in self.notes)]

    def __repr__(self) -> str:
        return _as_text([("memory per process", "GiB"), *self.rows()], self.lines())

    def _repr_html_(self) -> str:
        return _as_html([("memory per process", "GiB"), *self.rows()], self.lines())


@dataclass(frozen=True)
class Error:
    """The estimate beside what was measured: {quantity: (predicted, measured)}; None where one is not known."""

    pairs: dict[str, tuple[float | None, float | None]]

    def facts(self) -> dict[str, dict[str, float | None]]:
        """{quantity: {predicted, measured, error_percent}} for the manifest; error: of predicted against measured."""
        return {
            name: {
                "predicted": None if predicted is None else round(predicted, 3),
                "measured": measured,
                "error_percent": round(100 * (predicted - measured) / measured, 1) if predicted and measured else None,
            }
            for name, (predicted, measured) in self.pairs.items()
        }

    def rows(self) -> list[tuple[str, ...]]:
        def cell(value: float | None, sign: str = "") -> str:
            return "unknown" if value is None else f"{value:{sign},.{0 if abs(value) >= 1000 else 2}f}"

        return [("", "predicted", "measured", "error")] + [
            (
                name.replace("_", " "),
                cell(row["predicted"]),
                cell(row["measured"]),
                "unknown" if row["error_percent"] is None else f"{row['error_percent']:+.1f} %",
            )
            for name, row in self.facts().items()
        ]

    def __repr__(self) -> str:
        return _as_text(self.rows(), [])

    def _repr_html_(self) -> str:
        return _as_html(self.rows(), [])


def error(estimate: Preflight, facts: Mapping[str, Any]) -> Error:
    """Predicted against measured peak memory and speed; `facts` are those of the training (`speed.Meter.facts`)."""
    speeds = [time.tokens_per_second for time in estimate.times if estimate.available is not None]
    return Error(
        {
            "peak_memory_gib": (estimate.measurable, facts.get("peak_memory_gib")),
            "input_tokens_per_second": (speeds[0] if speeds else None, facts.get("input_tokens_per_second")),
        }
    )


def estimate(parameters: Any, tokenize: Any = None) -> Preflight:
    """What a DCPT, SFT or DPO stage (`parameters`: a loaded `schema.Training`) will need; nothing need be finished.

    Shape and block size are those of `tokenize`, 02's parameters; without them those of the run's 02_tokenize if it is
    there, else of the profile. Raises QilinError if the shape of the base model is not to be had on this machine.
    """
    quiet_libraries()
    stage = runs.runs_dir() / parameters.run / "02_tokenize"
    made = tokenize is None and (stage / "base.json").exists()
    tokenize = tokenize or params.load("02_tokenize", {"profile": parameters.profile})
    weights = census(shape(base_path(stage)) if made else shape(tokenize.base, tokenize.tiny), parameters)
    packing = files.read_json(stage / "packing.json") if (stage / "packing.json").exists() else {}
    batch = _batch(parameters, packing.get("block_size", tokenize.block_size))
    terms, host = needed(weights, parameters, batch)
    place, available = _room(parameters)
    return Preflight(
        {name: value / GIB for name, value in terms.items()},
        {name: value / GIB for name, value in host.items()},
        available,
        place,
        _times(weights, parameters, batch, _tokens(parameters, stage, packing, batch)),
        tuple(_notes(parameters, batch)),
    )


def _batch(parameters: Any, block_size: int) -> Batch:
    """The largest batch that can come up: every row full, turns as long as they may be."""
    rows = parameters.per_device_train_batch_size
    if parameters.notebook == "03_dcpt":
        return Batch(rows, block_size)
    share = parameters.max_target_length / (parameters.max_source_length + parameters.max_target_length)
    if parameters.notebook == "04_sft":
        return Batch(rows, parameters.max_length, share)
    return Batch(2 * rows, parameters.max_source_length + parameters.max_target_length, share)


def needed(weights: Census, parameters: Any, batch: Batch) -> tuple[dict[str, float], dict[str, float]]:
    """(bytes by term of one process, bytes by term that offloading keeps in host memory for it).

    Without DeepSpeed, AdamW keeps two numbers a trained weight in that weight's type, and data-parallel training copies
    gradients into buckets. With it, an fp32 copy and two fp32 moments a trained weight are sharded, under ZeRO-2 the
    gradients too, under ZeRO-3 also the weights (Rajbhandari et al. 2020, arXiv:1910.02054, §3).
    """
    processes = launch.processes(parameters)
    zero = _zero(parameters.deepspeed)
    trained, stored = memory.trained_bytes(weights, parameters), memory.stored(weights, parameters)
    full = parameters.finetuning == "full"
    width = trained / weights.trained
    terms = {
        "weights": stored,
        "adapter": 0.0 if full else trained,
        "gradients": trained * (2 if processes > 1 else 1),
        "optimizer": 2 * trained,
        "reference": stored if _second_model(parameters) else 0.0,
        "activations": memory.activations(weights, parameters, batch),
        "logits": memory.logits(weights, parameters, batch),
        "CUDA context" if parameters.gpus else "Python": CUDA_CONTEXT if parameters.gpus else PYTHON,
    }
    host: dict[str, float] = {}
    if zero:
        terms["gradients"] = trained / processes + width * _number(zero, "reduce_bucket_size", weights)
        terms["optimizer"] = 12 * weights.trained / processes
        if zero["stage"] == 3:
            gathered = min(stored, LIVE * stored / weights.total)
            terms["weights"] = stored / processes + gathered
            terms["reference"] /= processes
        if "offload_optimizer" in zero:
            host["optimizer"], terms["optimizer"] = terms["optimizer"] + 4 * weights.trained / processes, 0.0
        if "offload_param" in zero:
            host["weights"], terms["weights"] = stored / processes, gathered
    return terms, host


def _zero(name: str | None) -> dict[str, Any]:
    """The `zero_optimization` part of params/deepspeed/<name>.json."""
    return files.read_json(params.ROOT / "params" / "deepspeed" / f"{name}.json")["zero_optimization"] if name else {}


def _number(zero: Mapping[str, Any], key: str, weights: Census) -> float:
    """A bucket's size in weights; "auto" is the square of the hidden size (transformers' DeepSpeed integration)."""
    value = zero.get(key, 5e8)
    return min(weights.config.hidden_size**2 if value == "auto" else value, weights.trained)


def _second_model(parameters: Any) -> bool:
    """Under LoRA the reference is the same weights with the adapter off; full DPO loads it unless it is precomputed."""
    return (
        parameters.notebook == "05_dpo" and parameters.finetuning == "full" and not parameters.precompute_ref_log_probs
    )


def _room(parameters: Any) -> tuple[str, float | None]:
    """(place, GiB for one process; None without the GPU that is asked for)."""
    import torch

    if not parameters.gpus:
        each = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
        return "this machine", each / (launch.processes(parameters) // parameters.nodes)
    if torch.cuda.is_available():
        return torch.cuda.get_device_name(0), torch.cuda.mem_get_info(0)[1] / GIB
    return "this machine has no GPU", None


def _times(weights: Census, parameters: Any, batch: Batch, tokens: int | None) -> tuple[Time, ...]:
    """One line for the processor at hand, or one for each of some GPUs where there is none."""
    import torch

    operations = flops.per_token([*weights.layers, weights.head], batch.length, parameters, batch.share)

    def time(processor: str, tflops: float | None, share: float) -> Time:
        if tflops is None:
            return Time(processor, None, tokens)
        each = tflops * 1e12 * share / operations.hardware
        return Time(processor, each * launch.processes(parameters), tokens)

    if not parameters.gpus:
        return (time("this CPU", flops.peak(parameters.dtype, False)[0], flops.ASSUMED_CPU),)
    names = [torch.cuda.get_device_name()] if torch.cuda.is_available() else EXAMPLES
    return tuple(
        time(
            f"{parameters.gpus * parameters.nodes} x {name}",
            flops.datasheet(name, parameters.dtype)[0],
            flops.ASSUMED_GPU,
        )
        for name in names
    )


def _tokens(parameters: Any, stage: Path, packing: Mapping[str, Any], batch: Batch) -> int | None:
    """Input tokens of the whole stage, from what 02_tokenize counted; None if it has not run and epochs decide."""
    counts = stage / "token_counts.json"
    if parameters.max_steps > 0:
        rows = parameters.per_device_train_batch_size * parameters.gradient_accumulation_steps
        samples = parameters.max_steps * rows * launch.processes(parameters)
        mean = _mean_length(files.read_json(counts), parameters.notebook) if counts.exists() else None
        known = batch.length if parameters.notebook == "03_dcpt" else mean
        return None if known is None else round(samples * known)
    if parameters.notebook == "03_dcpt":
        return round(packing["tokens"] * parameters.num_train_epochs) if "tokens" in packing else None
    if not counts.exists():
        return None
    entries = _entries(files.read_json(counts), parameters.notebook)
    # In one stage the passages of DCPT are learned here too; a DPO stage has no such parameter.
    passages = packing.get("tokens", 0) if getattr(parameters, "one_stage", None) else 0
    return round((sum(entry["tokens"] for entry in entries) + passages) * parameters.num_train_epochs)


def _entries(counts: Mapping[str, Any], notebook: str) -> list[Mapping[str, int]]:
    """Token counts by source of the set that a notebook trains on."""
    return list(counts[{"04_sft": "sft", "05_dpo": "dpo"}[notebook]].values())


def _mean_length(counts: Mapping[str, Any], notebook: str) -> float | None:
    if notebook == "03_dcpt":
        return None
    entries = _entries(counts, notebook)
    samples = sum(entry["samples"] for entry in entries)
    return sum(entry["tokens"] for entry in entries) / samples if samples else None


def _notes(parameters: Any, batch: Batch) -> Iterable[str]:
    yield f"Estimated for full rows ({batch.rows} x {batch.length} tokens); the sum assumes that all terms peak at once"
    if batch.share < 1:
        yield f"{batch.share:.0%} of the tokens carry loss when every turn is at its limit"
    if parameters.notebook == "04_sft" and parameters.packing:
        yield "With packing a batch has at most as many rows as conversations; most batches have far fewer"
    if parameters.notebook == "05_dpo":
        yield "A prompt of several turns is longer than max_source_length, which cuts single turns"
    share, what = (flops.ASSUMED_GPU, "the data sheet's") if parameters.gpus else (flops.ASSUMED_CPU, "a measured")
    yield f"Time assumes {share:.0%} of {what} peak for matrix products, and no padding"


def _duration(hours: float) -> str:
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{math.ceil(hours * 3600)} s"


def _as_text(rows: list[tuple[str, ...]], lines: list[str]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    table = [
        "  ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return "\n".join([*table, *lines])


def _as_html(rows: list[tuple[str, ...]], lines: list[str]) -> str:
    body = ""
    for i, cells in enumerate(rows):
        tag = "td" if i else "th"
        columns = [
            f"<{tag} style='text-align:{'right' if j else 'left'}'>{html.escape(c)}" for j, c in enumerate(cells)
        ]
        body += f"<tr>{f'</{tag}>'.join([*columns, ''])}</tr>"
    return f"<table>{body}</table>" + "".join(f"<p>{html.escape(line)}</p>" for line in lines)
