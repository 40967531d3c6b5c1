"""Will it fit, and how long will it take? Said before anything is loaded, and without torch.

Arithmetic where arithmetic is exact (weights, gradients, optimizer, disk); a bound, called one, for what no formula
knows for every architecture (activations, logits). What really peaks is measured on the device: `train.probe`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from qilin_lib import files, params, runs
from qilin_lib.models.base import base_path
from qilin_lib.models.shapes import WIDTH, Sizes, sizes
from qilin_lib.schema import Tokenize, Trained
from qilin_lib.train import heldout, launch, methods
from qilin_lib.train import speed as speeds
from qilin_lib.train.speed import GIB

# Resident memory of a process that imported torch, transformers, trl and peft; of a CUDA context with cuBLAS.
PYTHON, CUDA_CONTEXT = 0.6 * GIB, 0.5 * GIB
# DeepSpeed's default for stage3_max_live_parameters; tokens and words of a tile of TRL's fused head; tokens that
# `heldout` reads together.
LIVE, TILE, SCORED = 10**9, (4096, 32768), 4096
BOUNDS = ("activations", "logits")
# Where, what, bytes.
Need = tuple[str, str, float]


@dataclass(frozen=True)
class Preflight:
    """`frame`: where (training and scoring: one process; host memory: beside its GPU; disk: the stage's folder), what,
    GiB, basis. `available`: GiB for a process, None without the GPU; `rate`: tokens per second on `processor`."""

    frame: pd.DataFrame
    place: str
    available: float | None
    processor: str
    rate: float | None
    tokens: int | None
    note: str

    def gib(self, *where: str, bounds: bool = True) -> float:
        """The largest of the sums over these places, without what is only bounded if so told."""
        rows = self.frame if bounds else self.frame[self.frame["basis"] != "bound"]
        return float(rows.groupby("where")["GiB"].sum().reindex(where, fill_value=0.0).max())

    @property
    def hours(self) -> float | None:
        """Of the whole stage; None where speed or the number of tokens is not known."""
        return self.tokens / self.rate / 3600 if self.rate and self.tokens else None

    @property
    def speed(self) -> str:
        """Tokens per second and hours on the processor, as far as known."""
        rate = f"about {self.rate:,.0f} tokens/s" if self.rate else "time unknown"
        hours = f", {self.hours:,.2f} h for {self.tokens:,} tokens" if self.hours else ""
        return f"{self.processor}: {rate}{hours}"

    def lines(self) -> list[str]:
        """Verdict, disk, speed and notes, a sentence each."""
        least, most = (self.gib("training", "scoring", bounds=bounds) for bounds in (False, True))
        fits = "it fits" if most < (self.available or 0) else "whether it fits only a probe on the device can say"
        fits = "it does NOT fit" if self.available is not None and least > self.available else fits
        room = f"{self.place}, {self.available:.1f} GiB per process" if self.available is not None else self.place
        return [
            f"{room}: at least {least:.1f} and at most {most:.1f} GiB are needed, {fits}.",
            f"The stage's folder takes at most {self.gib('disk'):.1f} GiB of disk.",
            f"{self.speed}.",
            f"{self.note}.",
        ]

    def __repr__(self) -> str:
        return "\n".join([self.frame.to_string(index=False, float_format="{:.4g}".format), *self.lines()])


def error(estimate: Preflight, facts: Mapping[str, Any]) -> pd.DataFrame:
    """The bounds on the peak of training, GiB, beside what `facts` (`speed.Meter.facts`) measured (None: nothing).
    CUDA's allocator does not see its own context."""
    context = CUDA_CONTEXT / GIB if "CUDA context" in set(estimate.frame["what"]) else 0
    least, most = (round(estimate.gib("training", bounds=bounds) - context, 3) for bounds in (False, True))
    row = (least, most, facts.get("peak_memory_gib"))
    return pd.DataFrame([row], ["peak_memory_gib"], ["at_least", "at_most", "measured"], object)


def estimate(parameters: Trained, tokenize: Tokenize | None = None) -> Preflight:
    """What a stage of 03-05 or 08 will need; nothing need be finished. Base and block size are those of `tokenize`,
    else of the run's 02_tokenize, else of the profile. QilinError if this machine does not know the sizes of the base.
    """
    p, stage = parameters, runs.runs_dir() / parameters.run / "02_tokenize"
    prepared = tokenize is None and (stage / "base.json").exists()
    tokenize = tokenize or params.load("02_tokenize", {"profile": p.profile})
    model = sizes(base_path(stage)) if prepared else sizes(tokenize.base, tokenize.tiny)
    packing = files.read_json(stage / "packing.json") if (stage / "packing.json").exists() else {}
    rows, length = methods.batch(p, packing.get("block_size", tokenize.block_size))
    needs = [*training(model, p, rows, length), *afterwards(model, p)]
    table = [(*row, size / GIB, "bound" if row[1] in BOUNDS else "arithmetic") for *row, size in needs if size]
    many, card = launch.processes(p), None
    place, available = "this machine", psutil.virtual_memory().total / GIB / (many // p.nodes)
    if p.gpus:
        place, available = speeds.card() or ("this machine has no GPU", None)
        card = place if available else "A100"
    best, needed = speeds.peak(p.dtype, card), speeds.operations(model, length, p)
    rate = best * speeds.USUAL / needed[1] * many if best and needed else None
    return Preflight(
        pd.DataFrame(table, columns=["where", "what", "GiB", "basis"]),
        place,
        available,
        f"{p.gpus * p.nodes} x {card}" if card else "this CPU",
        rate,
        _input_tokens(p, stage, packing.get("tokens", 0), rows * length * many),
        f"For full rows ({rows} x {length} tokens), as if all terms peaked at once"
        + f"; time at {speeds.USUAL:.0%} of the data sheet's peak, no padding" * bool(rate),
    )


def _input_tokens(p: Any, tokenized: Path, packed: int, batch: int) -> int | None:
    """Input tokens of the whole stage as 02_tokenize counted them, or of `max_steps` full batches; None: not known."""
    # 08 has several trainings, each with steps of its own.
    if not hasattr(p, "max_steps"):
        return None
    if p.max_steps > 0:
        return p.max_steps * batch * p.gradient_accumulation_steps
    counts, name = tokenized / "token_counts.json", methods.of(p).data
    learned = packed if name == "cpt" or getattr(p, "one_stage", None) else 0
    if name != "cpt" and counts.exists():
        learned += sum(entry["tokens"] for entry in files.read_json(counts)[name].values())
    return round(learned * p.num_train_epochs) or None


def training(model: Sizes, p: Any, rows: int, length: int) -> Iterator[Need]:
    """What it takes while it trains. AdamW keeps two numbers a trained weight, data parallelism copies gradients into
    buckets; DeepSpeed shards an fp32 copy and two moments, gradients, in stage 3 weights too (Rajbhandari et al. 2020,
    arXiv:1910.02054, §3)."""
    (count, width), weights, over = model.trained(p), model.stored(p), launch.processes(p)
    gradients, optimizer, share, zero = width * count * (2 if over > 1 else 1), 8.0 * count, weights, {}
    if p.deepspeed:
        zero = files.read_json(params.ROOT / "params" / "deepspeed" / f"{p.deepspeed}.json")["zero_optimization"]
        bucket = zero.get("reduce_bucket_size", 5e8)
        bucket = min(model.hidden**2 if bucket == "auto" else bucket, count)
        gradients, optimizer = width * (count / over + bucket), 12 * count / over
    if zero.get("stage") == 3:
        share = weights / over
        gathered = min(weights, LIVE * weights / model.total)
        weights = gathered + (0 if "offload_param" in zero else share)
    if "offload_param" in zero:
        yield "host memory", "weights", share
    if "offload_optimizer" in zero:
        # With gradients in fp32.
        yield "host memory", "optimizer", optimizer + 4 * count / over
        optimizer = 0
    second = methods.of(p).start is not None and p.finetuning == "full" and not p.precompute_ref_log_probs
    yield "training", "weights", weights
    yield "training", "adapter", 0 if p.finetuning == "full" else width * count
    yield "training", "gradients", gradients
    yield "training", "optimizer", optimizer
    yield "training", "reference", second * share
    yield "training", "activations", activations(model, p, rows, length)
    yield "training", "logits", logits(model, p, rows * length)
    yield "training", *(("CUDA context", CUDA_CONTEXT) if p.gpus else ("Python", PYTHON))


def activations(model: Sizes, p: Any, rows: int, length: int) -> float:
    """Bytes at most, head and loss apart: what a layer saves (after Korthikanti et al. 2022, arXiv:2205.05198, §4.1,
    with LoRA's casts and dropout, and six fp32 numbers for each of the feed-forward); with checkpointing once, beside
    the input of every layer. Fused attention is assumed: no heads x length^2."""
    width = WIDTH[p.dtype]
    stream = 2 if width == 2 and (p.deepspeed or p.finetuning == "lora") else 4
    mask = (1 if p.gpus else 4) * (p.finetuning != "full" and p.lora_dropout > 0)
    wide = max(model.hidden, model.width)
    layer = wide * (16 + 12 * width + 6 * mask + 4 * width * model.routed) + model.inner * (24 + mask)
    flying = 4 * (2 * model.inner + wide) + 2 * stream * model.hidden
    kept = model.layers * model.hidden * stream + layer if p.gradient_checkpointing else model.layers * layer
    return rows * length * (kept + flying) + rows * length**2 * width


def logits(model: Sizes, p: Any, tokens: int) -> float:
    """Bytes at most of head and loss: logits, their fp32 copy, log-probabilities and two gradients of every token; with
    TRL's fused head (DPO, KTO, on a GPU SFT and DCPT) a tile of them with the gradients of states and head."""
    width = WIDTH[p.dtype]
    if not (methods.of(p).fused == "everywhere" or (methods.of(p).fused and p.gpus)):
        return tokens * model.vocabulary * (2 * width + 12)
    wide = TILE[1] * width + min(TILE[1], model.vocabulary) * (8 if p.gpus else 32)
    return min(TILE[0], tokens) * wide + tokens * model.hidden * (4 + width) + model.vocabulary * model.hidden * 4


def afterwards(model: Sizes, p: Any) -> Iterator[Need]:
    """What scoring takes (one model, without quantisation too), the merge (tensor by tensor) and the folder: start/,
    the checkpoints that are kept and one being written (DeepSpeed writes the weights twice), the result."""
    (count, width), full = model.trained(p), p.finetuning == "full"
    weights, adapter = WIDTH[p.dtype] * model.total, 0 if full else width * count
    yield "scoring", "weights", weights + adapter
    yield "scoring", "logits", (SCORED * WIDTH[p.dtype] + heldout.SLICE * 12) * model.vocabulary
    yield "host memory", "merge", 0 if full else 3 * 4 * model.largest
    # 08: one for what starts from SFT, one for each further round; what a reward model, rounds and RL leave.
    starts, results = (p.rounds, 1 + p.rounds + (p.method != "none")) if hasattr(p, "rounds") else (1, 1)
    yield "disk", "start/", weights * (methods.of(p).data != "cpt") * starts
    yield "disk", "checkpoints", (1 + p.save_total_limit) * count * (2 * width + 12 if p.deepspeed else 3 * 4)
    yield "disk", "result", results * (weights if full else adapter)
