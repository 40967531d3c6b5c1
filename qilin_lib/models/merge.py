"""An adapter merged into the weights below it: what the next stage starts from, and what is exported.

The product of an adapter is added in float32 to the *unquantised* weights. Merging into dequantised NF4 is undone by
the next quantisation: those weights lie on its grid, and an update of a hundredth of their deviation snaps back.
Rounding the sum to the nearest bfloat16 loses the small updates as well; stochastic rounding keeps each of them in the
mean (Gupta et al. 2015, arXiv 1502.02551). One file of weights (`load.write_shards`) is in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models import adapters
from qilin_lib.models.adapters import base_of, described, weights_sha256
from qilin_lib.models.load import load_tokenizer, weight_files, write_shards

PREFIX = "base_model.model."
# Below this share of an update the next stage starts from something else than what was trained.
KEPT = 0.95
# Matrices that are quantised to measure what NF4 keeps; a 7B model has 224, and one takes a second on a CPU.
QUANTISED = 32


class Projection:
    """The share of the updates in what was stored: <stored - before, update> / <update, update> over all matrices."""

    along = whole = 0.0

    def add(self, moved: Any, update: Any) -> None:
        self.along += (moved * update).sum().item()
        self.whole += update.square().sum().item()

    @property
    def share(self) -> float | None:
        return round(self.along / self.whole, 4) if self.whole else None


def merge(base: str | Path, adapter: str | Path, target: Path, quantised: bool | None = None) -> dict[str, Any]:
    """Write base plus adapter with tokenizer and template to `target`.

    Stored in float32, or in bfloat16 by seeded stochastic rounding if the adapter was trained in bfloat16; the same
    adapter always gives the same bytes. Returns {update_kept, update_kept_nf4, warnings}: the share of the update in
    the merged weights and, if `quantised` (None: as the adapter was trained), in their NF4 image (None: no LoRA
    matrix); a sentence for a share below 0.95. QilinError if `base` is not what the adapter was trained on.
    """
    base, adapter, target = Path(base), Path(adapter), Path(target)
    note = described(base, adapter)
    kept = {"update_kept": Projection()}
    if note["quantised"] if quantised is None else quantised:
        kept["update_kept_nf4"] = Projection()
    write_shards(target, _merged(base, adapter, note["dtype"], kept))
    # Without configuration and tokenizer it is another model (LLaMA-Factory#2771).
    if (base / "generation_config.json").exists():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")
    files.write_json(target / "config.json", files.read_json(base / "config.json") | {"dtype": note["dtype"]})
    load_tokenizer(adapter).save_pretrained(target)
    shares = {name: one.share for name, one in kept.items()}
    low = [f"{name} = {share}" for name, share in shares.items() if share is not None and share < KEPT]
    told = f"of what the stage before learned only a part is in the weights that this one starts from: {low}"
    return shares | ({"warnings": [told]} if low else {})


def start(weights: Path, folder: Path, quantised: bool, siblings: list[Path]) -> tuple[Path, dict[str, Any]]:
    """(folder of full weights to train from, facts of the hand-over): `weights` itself, or base plus adapter.

    A merged model lies in `folder` under the digest of its adapter, whole or not at all; one that another stage of the
    run made (`siblings`) is linked, not written again. `quantised`: the training will see the weights as NF4.
    """
    if not adapters.is_adapter(weights):
        return weights, {}
    if adapters.is_prefix(weights):
        raise QilinError(f"{weights}: a prefix is part of no weights; nearest valid: a stage trained by lora or full")
    name = weights_sha256(weights)[:16] + "-nf4" * quantised
    target, work = folder / name, folder / f".{name}.tmp"
    if not target.exists():
        shutil.rmtree(work, ignore_errors=True)
        there = next((one / name for one in siblings if (one / name).exists()), None)
        if there is None:
            files.write_json(work / "survival.json", merge(base_of(weights), weights, work, quantised))
        else:
            shutil.copytree(there, work, copy_function=os.link)
        work.replace(target)
    return target, files.read_json(target / "survival.json")


def _merged(base: Path, adapter: Path, dtype: str, kept: dict[str, Projection]) -> Iterator[tuple[str, Any]]:
    """(name, tensor as it is stored) of all weights; `kept` measures the updates on the way."""
    from safetensors import safe_open

    changes, seed = _changes(adapter), weights_sha256(adapter)
    left, measured = set(changes), sorted(changes)[:: max(1, len(changes) // QUANTISED)]
    for path in weight_files(base):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                before = stored = file.get_tensor(name)
                # Some checkpoints leave out the model's own prefix.
                key = next((key for key in (name, f"model.{name}", f"transformer.{name}") if key in left), None)
                change = changes[key] if key else None
                left.discard(key)
                if isinstance(change, partial):
                    update = change(before.float())
                    stored = rounded(before.float() + update, dtype, seed + key)
                    kept["update_kept"].add(stored.float() - before.float(), update)
                    if key in measured and "update_kept_nf4" in kept and before.ndim == 2:
                        kept["update_kept_nf4"].add(nf4(stored) - nf4(before), update)
                elif change is not None:
                    stored = rounded(change, dtype, seed + key)
                yield name, stored
    if left:
        raise QilinError(f"{adapter}: changes {sorted(left)[:3]}, which the weights in {base} do not hold")


def _changes(adapter: Path) -> dict[str, Any]:
    """{name of a weight: its change} of all that an adapter holds: what computes the update of LoRA's two matrices, or
    the tensor that takes the weight's place (modules_to_save)."""
    from safetensors.torch import load_file

    config, stored = files.read_json(adapter / adapters.ADAPTER), load_file(adapter / adapters.ADAPTER_WEIGHTS)
    changes: dict[str, Any] = {}
    for key, tensor in stored.items():
        layer, _, kind = key.rpartition(".lora_")
        if kind in ("A.weight", "embedding_A"):
            changes[f"{layer.removeprefix(PREFIX)}.weight"] = partial(_update, config, stored, layer, kind)
        # Of embeddings and head that have LoRA, peft stores the weights below it too.
        elif kind not in ("B.weight", "embedding_B", "magnitude_vector") and not key.endswith(".base_layer.weight"):
            changes[key.removeprefix(PREFIX)] = tensor
    return changes


def _update(config: dict[str, Any], stored: dict[str, Any], layer: str, kind: str, before: Any) -> Any:
    """What an adapter adds to a weight: α / r times the product of its matrices, with rsLoRA α / √r (Kalajdzievski
    2023, arXiv 2312.03732). With DoRA's magnitude (Liu et al. 2024, arXiv 2402.09353, Eq. 5) each row of the sum gets
    that length."""
    from peft.utils.other import get_pattern_key

    module = layer.removeprefix(PREFIX)
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    rank = ranks.get(get_pattern_key(ranks, module), config["r"])
    alpha = alphas.get(get_pattern_key(alphas, module), config["lora_alpha"])
    first, second = stored[f"{layer}.lora_{kind}"], stored[f"{layer}.lora_{kind.replace('A', 'B')}"]
    product = alpha / (rank**0.5 if config.get("use_rslora") else rank) * (second.float() @ first.float())
    # transformers' Conv1D (GPT-2) and embeddings keep their matrices the other way round.
    turned = kind == "embedding_A" or config.get("fan_in_fan_out", False)
    product = product.T if turned else product
    if (magnitude := stored.get(f"{layer}.lora_magnitude_vector")) is None:
        return product
    whole, axis = before + product, 0 if turned else 1
    return whole * (magnitude.float().flatten() / whole.norm(dim=axis)).unsqueeze(axis) - before


def rounded(tensor: Any, dtype: str, seed: str) -> Any:
    """A tensor as it is stored: bfloat16 by stochastic rounding where that is the arithmetic, else float32.

    Of each number the lower 16 bits are dropped after a random number below 2^16 was added to them: it is rounded up
    with the probability of its distance from the smaller neighbour.
    """
    import torch

    if dtype != "bfloat16":
        return tensor.float().contiguous()
    draw = torch.Generator().manual_seed(int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16))
    bits = tensor.float().contiguous().cpu().view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, generator=draw, dtype=torch.int32)
    return ((bits + noise) & ~0xFFFF).view(torch.float32).bfloat16()


def nf4(weight: Any) -> Any:
    """A matrix as a QLoRA stage sees it, in float32: quantised to NF4 in bfloat16's or float32's arithmetic, and
    back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).float()
