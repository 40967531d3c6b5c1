"""An adapter merged into the weights below it: what the next stage starts from, and what is exported.

The product of an adapter is added in float32 to the *unquantised* weights. Merging into dequantised NF4 is undone by
the next quantisation: those weights lie on its grid, and an update of a hundredth of their deviation snaps back.
Rounding the sum to the nearest bfloat16 loses the small updates as well; stochastic rounding keeps each of them in the
mean (Gupta et al. 2015, arXiv 1502.02551). One file of weights (`shards`) is in memory at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import base_of, described, is_adapter, weights_sha256
from qilin_lib.models.load import load_tokenizer, weight_files
from qilin_lib.models.shards import ShardWriter

PREFIX = "base_model.model."

# Below this share of an update the next stage starts from something else than what was trained.
KEPT = 0.95
# Matrices that are quantised to measure what NF4 keeps; a 7B model has 224, and one takes a second on a CPU.
QUANTISED = 32


@dataclass
class Projection:
    """How much of the updates is in what was stored: <stored - before, update> / <update, update> over all matrices."""

    along: float = 0.0
    whole: float = 0.0

    def add(self, moved: Any, update: Any) -> None:
        self.along += (moved * update).sum().item()
        self.whole += update.square().sum().item()

    @property
    def share(self) -> float | None:
        return round(self.along / self.whole, 4) if self.whole else None


@dataclass
class Survival:
    """The share of an adapter's update in the merged weights, and in their NF4 image if `quantised`."""

    quantised: bool
    merged: Projection = field(default_factory=Projection)
    nf4: Projection = field(default_factory=Projection)

    def facts(self) -> dict[str, Any]:
        """{update_kept, update_kept_nf4, warnings}: shares of 1 (None: no LoRA matrix), a sentence for one below
        0.95."""
        shares = {"update_kept": self.merged.share} | ({"update_kept_nf4": self.nf4.share} if self.quantised else {})
        low = [f"{name} = {share}" for name, share in shares.items() if share is not None and share < KEPT]
        told = f"of what the stage before learned only a part is in the weights that this one starts from: {low}"
        return shares | ({"warnings": [told]} if low else {})


def merge(base: str | Path, adapter: str | Path, target: Path, quantised: bool | None = None) -> Survival:
    """Write base plus adapter with tokenizer and template to `target`; returns how much of the update is in it.

    Stored in float32, or in bfloat16 by seeded stochastic rounding if the adapter was trained in bfloat16; the same
    adapter always gives the same bytes. `quantised`: also measure what NF4 keeps of the update (None: as the adapter
    was trained). QilinError if `base` is not what the adapter was trained on.
    """
    from safetensors import safe_open

    base, adapter, target = Path(base), Path(adapter), Path(target)
    note, changes = described(base, adapter), _changes(adapter)
    survival = Survival(note["quantised"] if quantised is None else quantised)
    seed, left = weights_sha256(adapter), set(changes)
    measured = set(sorted(changes)[:: max(1, len(changes) // QUANTISED)])
    writer = ShardWriter(target)
    for path in weight_files(base):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118
                before = stored = file.get_tensor(name)
                if (key := _named(name, left)) is not None:
                    left.remove(key)
                    update, lora = changes[key](), changes[key].func is _product
                    stored = rounded(before.float() + update if lora else update, note["dtype"], seed + key)
                    if lora:
                        _measure(survival, before, stored, update, key in measured)
                writer.add(name, stored)
    writer.close()
    if left:
        raise QilinError(f"{adapter}: changes {sorted(left)[:3]}, which the weights in {base} do not hold")
    _beside(base, adapter, target, note)
    return survival


def start(weights: Path, folder: Path, quantised: bool, siblings: list[Path]) -> tuple[Path, dict[str, Any]]:
    """(folder of full weights to train from, facts of the hand-over): `weights` itself, or base plus adapter.

    A merged model lies in `folder` under the digest of its adapter, whole or not at all; one that another stage of the
    run made (`siblings`) is linked, not written again. `quantised`: the training will see the weights as NF4.
    """
    if not is_adapter(weights):
        return weights, {}
    name = weights_sha256(weights)[:16] + "-nf4" * quantised
    target, work = folder / name, folder / f".{name}.tmp"
    if not target.exists():
        shutil.rmtree(work, ignore_errors=True)
        there = next((one / name for one in siblings if (one / name).exists()), None)
        if there is None:
            survival = merge(base_of(weights), weights, work, quantised)
            files.write_json(work / "survival.json", survival.facts())
        else:
            shutil.copytree(there, work, copy_function=os.link)
        work.replace(target)
    return target, files.read_json(target / "survival.json")


def _changes(adapter: Path) -> dict[str, partial]:
    """{name of a weight: what makes the trained one of the one before}, of all that an adapter holds."""
    from safetensors.torch import load_file

    config, stored = files.read_json(adapter / "adapter_config.json"), load_file(adapter / "adapter_model.safetensors")
    if config.get("use_dora"):
        raise QilinError(f"{adapter}: use_dora: such an adapter is no product to add; nearest valid: use_dora: false")
    root = config["r"] ** 0.5 if config.get("use_rslora") else config["r"]
    changes: dict[str, partial] = {}
    for key, tensor in stored.items():
        name, kind = key.removeprefix(PREFIX), key.rpartition(".lora_")[2]
        if kind in ("A.weight", "embedding_A"):
            second = stored[f"{key.rpartition('.lora_')[0]}.lora_{kind.replace('A', 'B')}"]
            name = f"{name.rpartition('.lora_')[0]}.weight"
            # transformers' Conv1D (GPT-2) and embeddings keep their matrices the other way round.
            turned = kind == "embedding_A" or config.get("fan_in_fan_out", False)
            changes[name] = partial(_product, tensor, second, config["lora_alpha"] / root, turned)
        elif kind not in ("B.weight", "embedding_B"):
            changes[name] = partial(_whole, tensor)
    return changes


def _product(first: Any, second: Any, scale: float, turned: bool) -> Any:
    product = scale * (second.float() @ first.float())
    return product.T if turned else product


def _whole(tensor: Any) -> Any:
    """A module that was trained as a whole (modules_to_save)."""
    return tensor.float()


def _named(name: str, keys: set[str]) -> str | None:
    """The change that belongs to the tensor `name` of a file: some checkpoints leave out the model's own prefix."""
    return next((key for key in (name, f"model.{name}", f"transformer.{name}") if key in keys), None)


def rounded(tensor: Any, dtype: str, seed: str) -> Any:
    """A float32 tensor as it is stored: bfloat16 by stochastic rounding where that is the arithmetic, else float32.

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


def _measure(survival: Survival, before: Any, stored: Any, update: Any, quantise: bool) -> None:
    survival.merged.add(stored.float() - before.float(), update)
    if quantise and survival.quantised and before.ndim == 2:
        survival.nf4.add(nf4(stored) - nf4(before), update)


def nf4(weight: Any) -> Any:
    """A matrix as a QLoRA stage sees it, in float32: quantised to NF4 in bfloat16's or float32's arithmetic, and
    back."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    packed, state = quantize_4bit(weight.contiguous(), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).float()


def _beside(base: Path, adapter: Path, target: Path, note: dict[str, Any]) -> None:
    """Configuration and tokenizer, without which it is another model (LLaMA-Factory#2771)."""
    if (base / "generation_config.json").exists():
        shutil.copyfile(base / "generation_config.json", target / "generation_config.json")
    config = files.read_json(base / "config.json")
    files.write_json(target / "config.json", config | {"dtype": note["dtype"]})
    load_tokenizer(adapter if (adapter / "tokenizer_config.json").exists() else base).save_pretrained(target)
