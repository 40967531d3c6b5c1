"""What a training really did: input tokens per second, share of the processor's peak, peak memory."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

from qilin_lib.models.shapes import Sizes

GIB = 2**30
# Dense bfloat16 with fp32 accumulation, TFLOP/s, from NVIDIA's data sheets; the first name that fits counts.
DATASHEET = {
    "H100 PCIe": 756.0, "H100 NVL": 835.0, "H100": 989.0, "H200": 989.0, "H800": 989.0, "A100": 312.0, "A800": 312.0,
    "L40S": 362.0, "RTX 4090": 165.2, "RTX 3090": 71.0,
}  # fmt: skip
# Share of the peak that hours assume (full 7B training on A100 reaches 0.5-0.64: llm-foundry's tables).
USUAL = 0.4


def operations(sizes: Sizes, length: float, parameters: Any) -> tuple[float, float] | None:
    """Floating-point operations per input token: (what the method needs, what runs with activations computed again).

    Two per weight forward, two for the gradient of a layer's input, two for that of a trained weight: 6 N in full
    training, 4 N under LoRA. Attention counts the whole row: 12 x its width x length per layer (PaLM, arXiv:2204.02311,
    Appendix B). DPO's live reference is one forward pass more. None for a mixture of experts.
    """
    if sizes.routed:
        return None
    attention = sizes.layers * sizes.width * length
    forward = 2 * sizes.matrices + 4 * attention
    backward = 2 * sizes.matrices * (1 + (parameters.finetuning == "full")) + 8 * attention
    needed = forward * (1 + (not getattr(parameters, "precompute_ref_log_probs", True))) + backward
    return needed, needed + forward * parameters.gradient_checkpointing


def peak(dtype: str, card: str | None) -> float | None:
    """Most operations per second of a GPU by its name; None where no data sheet says it, as for CPUs."""
    names = [key for key in DATASHEET if card and key.replace(" ", "").lower() in card.replace(" ", "").lower()]
    return DATASHEET[names[0]] * 1e12 if names and dtype == "bfloat16" else None


def card() -> tuple[str, float] | None:
    """(name, GiB) of the first GPU; nvidia-smi is asked, and no CUDA context made."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    command = ["nvidia-smi", "-i", first, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        name, mib = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rsplit(",", 1)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return name, float(mib) / 1024


class Meter:
    """Counts the input tokens of every training step of `trainer` from now on, and the peak of memory."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.counts, self._step = trainer, 0, trainer.training_step
        trainer.training_step = self._counted
        reset_peak_memory()

    def _counted(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        # ORPO's two sides are stacked within the step.
        for side in ("", "chosen_", "rejected_"):
            # Reinforcement learning writes its answers within the step, and TRL counts them.
            if isinstance(inputs, list) or (ids := inputs.get(f"{side}input_ids")) is None:
                continue
            mask = inputs.get(f"{side}attention_mask")
            masked = mask is not None and mask.dim() == 2
            entered = mask.sum() if masked else torch.tensor(ids.numel(), device=ids.device)
            # Sums stay on the device, so nothing waits for it.
            self.counts = self.counts + torch.stack([entered, torch.tensor(len(ids), device=ids.device)])
        return self._step(model, inputs, *args, **kwargs)

    def facts(self, seconds: float, parameters: Any, sizes: Sizes) -> dict[str, Any]:
        """Input tokens (of all processes; padding counts in rows without a mask), their rate, model FLOPs utilisation
        (what the method needs by what the processor can; None where either is unknown), peak memory. Called by every
        process, once."""
        import torch

        del self.trainer.training_step
        accelerator, device = self.trainer.accelerator, self.trainer.accelerator.device
        counts = torch.as_tensor(self.counts, device=device) + torch.zeros(2, device=device).long()
        tokens, rows = (int(n) for n in accelerator.reduce(counts, reduction="sum").tolist())
        if not rows:
            tokens = self.trainer.state.num_input_tokens_seen - self.trainer._initial_num_input_tokens_seen
        needed = operations(sizes, tokens / rows if rows else 0, parameters)
        best = peak(parameters.dtype, torch.cuda.get_device_name() if parameters.gpus else None)
        rate = tokens / seconds
        highest = accelerator.gather(torch.tensor([peak_memory()], device=device)).max()
        return {
            "train_seconds": round(seconds, 1),
            "tokens_input": tokens,
            "input_tokens_per_second": round(rate),
            "mfu": round(rate * needed[0] / accelerator.num_processes / best, 4) if best and needed else None,
            "peak_memory_gib": round(int(highest) / GIB, 3),
        }


def reset_peak_memory() -> None:
    """Start the peak of this process anew: CUDA's allocator, or Linux's high-water mark of resident memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    # Not everywhere allowed; the mark then includes the loading of the model.
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> int:
    """Bytes at the peak: allocated on the GPU, else resident in the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
