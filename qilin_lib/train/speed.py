"""What training really did a second: useful tokens, share of the processor's peak, peak memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from qilin_lib.models.shapes import linears
from qilin_lib.tokens.template import IGNORE
from qilin_lib.train import flops

GIB = 2**30


class Meter:
    """Counts the tokens of every training step of `trainer` from now on (this process), and the peak of its memory.

    A resumed training counts its own steps alone: those of earlier attempts never pass through here.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.counts: Any = 0
        self.steps = 0
        self._step = trainer.training_step
        trainer.training_step = self._counted
        reset_peak_memory()

    def _counted(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self.steps += 1
        if isinstance(inputs, list):
            # Reinforcement learning: the answers are written within the step, the batch is there after it.
            loss = self._step(model, inputs, *args, **kwargs)
            self.counts = self.counts + count(self.trainer.trained_on)
            return loss
        # Before the step: it may take the batch apart. Sums stay on the device, so nothing waits for it.
        self.counts = self.counts + count(inputs, getattr(self.trainer.model.config, "pad_token_id", None))
        return self._step(model, inputs, *args, **kwargs)

    def facts(self, seconds: float, parameters: Any) -> dict[str, Any]:
        """Tokens (of all processes), rates over `seconds` of training, memory; called by every process, once.

        `achieved_tflops` and `mfu` are of one process and count what the method needs, `hfu` also the forward pass that
        gradient checkpointing repeats. None where the peak of the processor is unknown.
        """
        del self.trainer.training_step
        useful, entered, area, rows = self._sums()
        operations = flops.per_token(
            linears(self.trainer.model), area / max(1, rows), parameters, _scored(useful, entered, parameters)
        )
        best, source = flops.peak(parameters.dtype, bool(parameters.gpus))
        each = entered / seconds / self.trainer.accelerator.num_processes / 1e12
        return {
            "train_seconds": round(seconds, 1),
            "tokens_seen": useful,
            "tokens_input": entered,
            "tokens_per_second": round(useful / seconds),
            "input_tokens_per_second": round(entered / seconds),
            "padding_share": round(1 - entered / max(1, area), 4),
            "flops_per_token": round(operations.model),
            "achieved_tflops": round(each * operations.model, 4),
            "mfu": round(each * operations.model / best, 4) if best else None,
            "hfu": round(each * operations.hardware / best, 4) if best else None,
            "peak_tflops": round(best, 3) if best else None,
            "peak_source": source,
            "peak_memory_gib": round(self._highest(peak_memory()) / GIB, 3),
        }

    def _sums(self) -> list[int]:
        """[useful, input, area, rows] of all processes."""
        import torch

        accelerator = self.trainer.accelerator
        counts = torch.as_tensor(self.counts, device=accelerator.device) + torch.zeros(4, dtype=torch.long).to(
            accelerator.device
        )
        return [int(n) for n in accelerator.reduce(counts, reduction="sum").tolist()]

    def _highest(self, value: int) -> int:
        import torch

        accelerator = self.trainer.accelerator
        return int(accelerator.gather(torch.tensor([value], device=accelerator.device)).max())


def count(inputs: dict[str, Any], pad_id: int | None = None) -> Any:
    """Tensor [tokens with loss, tokens that are no padding, area, rows] of a batch as a trainer gets it.

    Loss: labelled tokens, or DPO's completions; the first of a row is never predicted. Padding is what the attention
    mask says. Packed rows have none: there it is the end of a row that repeats one unlabelled token (a single one only
    if it is `pad_id`).
    """
    import torch

    ids = inputs["input_ids"]
    scored = inputs["completion_mask"].bool() if "completion_mask" in inputs else inputs["labels"] != IGNORE
    mask = inputs.get("attention_mask")
    if mask is not None and mask.dim() == 2:
        entered = mask.sum()
    else:
        last = ids[:, -1:]
        run = (~scored & (ids == last)).flip(1).long().cumprod(1).sum(1)
        alone = (run == 1) & (last[:, 0] != (-1 if pad_id is None else pad_id))
        entered = ids.numel() - torch.where(alone, 0, run).sum()
    constants = torch.tensor([ids.numel(), len(ids)], device=ids.device)
    return torch.cat([torch.stack([scored[:, 1:].sum(), entered]), constants])


def _scored(useful: int, entered: int, parameters: Any) -> float:
    """Share of the input that the output layer needs: all of a DCPT block, only the answers elsewhere."""
    return 1.0 if parameters.notebook == "03_dcpt" else useful / max(1, entered)


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
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
