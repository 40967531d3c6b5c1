"""Log-probabilities of the frozen reference, computed once for a set of pairs and kept on disk.

DPO asks the reference (the SFT model) for the same numbers in every epoch and in every run that varies β or the
learning rate. The name of a cache file is a hash of all that these numbers depend on; equal name, equal numbers.
open-instruct keys its cache by configuration; here the key is content: weights, tokens, template, arithmetic.
"""

from __future__ import annotations

import hashlib
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
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


def load(path: Path, count: int) -> np.ndarray | None:
    """The cached (chosen, rejected) log-probabilities, shape (count, 2); None if there are none.

    QilinError for a file that is not what `store` writes: it is never passed over in silence.
    """
    if not path.exists():
        return None
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as reason:
        raise QilinError(f"{path}: not readable as reference log-probabilities ({reason}); delete it") from None
    if values.shape != (count, 2) or not np.isfinite(values).all():
        raise QilinError(f"{path}: holds {values.shape} numbers, expected ({count}, 2), all finite; delete it")
    return values


def store(path: Path, values: np.ndarray, about: dict[str, Any]) -> None:
    """Write the numbers atomically, and beside them as JSON what they depend on."""
    files.write_json(path.with_suffix(".json"), about)
    with files.atomic(path, binary=True) as handle:
        np.save(handle, values, allow_pickle=False)


def columns(trainer: Any, dataset: Any, job: SimpleNamespace) -> tuple[Any, bool]:
    """(`dataset` with the reference log-probabilities TRL reads, whether they came from the cache).

    All processes compute, the first reads and writes `job.paths.cache` and tells the others, so that nodes without a
    common disk agree. `trainer` is a DPOTrainer whose reference is still what training starts from.
    """
    from accelerate.utils import broadcast_object_list

    known: list[Any] = [None, None]
    if trainer.accelerator.is_main_process:
        about = {"weights": weight_hashes(job.paths.weights), "how": arithmetic(trainer, job), "pairs": len(dataset)}
        path = job.paths.cache / "reference" / f"{key(about['weights'], about['how'], list(dataset))[:32]}.npy"
        known = [load(path, len(dataset)), None]
    broadcast_object_list(known)
    values = known[0]
    if values is None:
        values = compute(trainer, dataset)
        if trainer.accelerator.is_main_process:
            store(path, values, about)
    for name, column in zip(COLUMNS, values.T, strict=True):
        dataset = dataset.add_column(name, column.tolist())
    return dataset, known[0] is not None


def compute(trainer: Any, dataset: Any) -> np.ndarray:
    """(chosen, rejected) log-probabilities of the reference for every pair, float32, shape (n, 2).

    TRL's own `precompute_ref_log_probs` does the same but writes a file in a temporary folder of each process, which
    the other processes then do not find.
    """
    import torch
    from torch.utils.data import DataLoader

    size = trainer.args.per_device_eval_batch_size
    loader = trainer.accelerator.prepare(DataLoader(dataset, batch_size=size, collate_fn=trainer.data_collator))
    model = placed(trainer)
    was_training = model.training
    model.eval()
    parts = []
    # A loader draws from the global generator, and dropout in training would then differ from a run without a cache.
    with torch.random.fork_rng(devices=[]):
        for batch in loader:
            sides = trainer.accelerator.gather_for_metrics(trainer.compute_ref_log_probs(model, batch))
            parts.append(torch.stack(sides, dim=1).float().cpu())
    model.train(was_training)
    values = torch.cat(parts).numpy()
    if not np.isfinite(values).all():
        raise RuntimeError(f"the reference gives {int((~np.isfinite(values)).sum())} log-probabilities not finite")
    return values


def placed(trainer: Any) -> Any:
    """The policy where it can compute before training; DeepSpeed has not placed the weights yet (as in TRL)."""
    if not trainer.is_deepspeed_enabled:
        return trainer.model
    from trl.models import prepare_deepspeed

    if trainer._precompute_engine is None:
        trainer._precompute_engine = prepare_deepspeed(trainer.model, trainer.accelerator)
    return trainer._precompute_engine
