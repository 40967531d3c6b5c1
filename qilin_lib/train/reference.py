"""Log-probabilities of the frozen reference, computed once for a set of pairs and kept on disk.

DPO asks the reference (the SFT model) for the same numbers in every epoch and in every run that varies β or the
learning rate. The name of a cache file is a hash of all that these numbers depend on; equal name, equal numbers.
open-instruct keys its cache by configuration; here the key is content: weights, tokens, template, arithmetic.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from importlib import metadata
from types import SimpleNamespace
from typing import Any

from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import weight_hashes

COLUMNS = ("ref_chosen_logps", "ref_rejected_logps")


def arithmetic(trainer: Any, job: SimpleNamespace) -> dict[str, Any]:
    """How the numbers are computed: precision, quantisation, device, batch layout and versions.

    The layout counts because bfloat16 sums depend on padding: a cache is used only where its numbers would come out
    the same, so that the check before step 1 can ask for equality.
    """
    import torch

    return {
        "template": job.template.sha256,
        "dtype": str(trainer.model.dtype),
        "autocast": trainer.accelerator.mixed_precision,
        "quantised": job.parameters.finetuning == "qlora",
        # Their originals compute in the precision of the copies that learn.
        "modules_to_save": job.parameters.modules_to_save,
        "attention": trainer.model.config._attn_implementation,
        "device": torch.cuda.get_device_name() if job.parameters.gpus else "cpu",
        "batch": trainer.args.per_device_eval_batch_size,
        "processes": trainer.accelerator.num_processes,
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "trl", "peft", "bitsandbytes")},
    }


def key(weights: dict[str, str], how: dict[str, Any], pairs: list[dict[str, list[int]]]) -> str:
    """Hex sha256 over weights, arithmetic and the token ids of all pairs in their order."""
    digest = hashlib.sha256(json.dumps([weights, how], sort_keys=True).encode())
    for pair in pairs:
        digest.update(json.dumps([pair[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]).encode())
    return digest.hexdigest()


def columns(trainer: Any, compute: Callable[[Any], Any], dataset: Any, job: SimpleNamespace) -> tuple[Any, bool]:
    """(`dataset` with the reference log-probabilities TRL reads, whether they came from the cache).

    `compute` is TRL's own, which reads its cache file or writes it; by itself it lies in a temporary folder of each
    process, so the first process names one below `job.paths.cache` for all. `trainer` is a DPOTrainer whose reference
    is still what training starts from. QilinError for a file that cannot be read: it is never passed over in silence.
    """
    import torch
    from accelerate.utils import broadcast_object_list

    known: list[Any] = [None, None]
    if trainer.accelerator.is_main_process:
        name = key(weight_hashes(job.paths.weights), arithmetic(trainer, job), list(dataset))[:32]
        path = job.paths.cache / "reference" / f"{name}.arrow"
        path.parent.mkdir(parents=True, exist_ok=True)
        known = [path, path.exists()]
    broadcast_object_list(known)
    path, reused = known
    dataset._get_cache_file_path = lambda _: str(path)
    was_training = trainer.model.training
    trainer.model.eval()
    try:
        # A loader draws from the global generator, and dropout in training would then differ from a run without a
        # cache.
        with torch.random.fork_rng(devices=[]):
            dataset = compute(dataset)
    except (ValueError, OSError) as reason:
        if not reused:
            raise
        raise QilinError(f"{path}: not readable as reference log-probabilities ({reason}); delete it") from None
    trainer.model.train(was_training)
    broken = sum(not math.isfinite(value) for name in COLUMNS for value in dataset[name])
    if broken:
        path.unlink(missing_ok=True)
        raise RuntimeError(f"the reference gives {broken} log-probabilities not finite")
    return dataset, reused


def placed(trainer: Any) -> Any:
    """The policy where it can compute before training; DeepSpeed has not placed the weights yet (as in TRL)."""
    if not trainer.is_deepspeed_enabled:
        return trainer.model
    from trl.models import prepare_deepspeed

    if trainer._precompute_engine is None:
        trainer._precompute_engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    return trainer._precompute_engine
