"""What a finished training leaves: adapter/ (LoRA) and model/ (full weights, tokenizer, template)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models import adapters
from qilin_lib.models.load import load_tokenizer


def save(trainer: Any, job: SimpleNamespace, weights: Path) -> None:
    """Write adapter/ and model/ below `job.out`; called by every process (ZeRO-3 gathers), written by the first.

    Nothing is pickled: the trainer's own `save_model` would add training_args.bin. After this call DeepSpeed's
    configuration is forgotten: no further training step.
    """
    refuse_apart(trainer)
    state = _whole_weights(trainer)
    _forget_deepspeed()
    if not trainer.is_world_process_zero():
        return
    parameters = job.parameters
    model = trainer.accelerator.unwrap_model(trainer.model)
    if parameters.finetuning == "full":
        _save_full(model, state, parameters.dtype, job.out / "model")
    else:
        # DPO's frozen reference is an adapter too, and no part of the result.
        model.save_pretrained(job.out / "adapter", selected_adapters=["default"], state_dict=state)
        adapters.describe(
            job.out / "adapter", weights, parameters.finetuning == "qlora", parameters.dtype, job.template.sha256
        )
        adapters.merge(weights, job.out / "adapter", job.out / "model")
    save_tokenizer(job, weights)


def save_tokenizer(job: SimpleNamespace, weights: Path) -> None:
    """Write the tokenizer of `weights` into model/, with the template that the job trains with."""
    tokenizer = load_tokenizer(weights)
    # A base from elsewhere brings a chat template of its own, which this model was not trained with.
    tokenizer.chat_template = job.template.jinja(tokenizer.eos_token)
    tokenizer.save_pretrained(job.out / "model")


def refuse_apart(trainer: Any) -> None:
    """RuntimeError unless all processes hold the same trained weights (under ZeRO-3 each holds a part: not looked at).

    An evaluation before training marks a model as prepared (accelerate: `_is_accelerate_prepared`), and the training
    that follows exchanges no gradients: every process trains alone and only the first one's work is saved.
    """
    import torch

    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    if any(hasattr(weight, "ds_id") for weight in trained):
        return
    own = sum(torch.linalg.vector_norm(weight.detach(), dtype=torch.float64) for weight in trained)
    sums = trainer.accelerator.gather(torch.as_tensor(own).reshape(1))
    if (sums - sums[0]).abs().max() > 1e-9 * sums[0].abs():
        raise RuntimeError(f"the {len(sums)} processes trained apart: the norms of their weights are {sums.tolist()}")


def _whole_weights(trainer: Any) -> dict[str, Any] | None:
    """The weights by name on the first process. Under ZeRO-3 every process holds a part of each tensor, and what a
    model saves by itself is empty (deepspeedai/DeepSpeed#3620): all processes must call this to gather them."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        return trainer.accelerator.get_state_dict(trainer.deepspeed)
    return model.state_dict()


def _forget_deepspeed() -> None:
    """Models that are loaded from now on are whole: under ZeRO-3 transformers would split them among the processes,
    and the first process, which alone merges and scores, would wait for the others for ever."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()


def _save_full(model: Any, state: dict[str, Any], dtype: str, target: Path) -> None:
    """Without DeepSpeed full training keeps fp32 weights for its optimizer; the result is in the asked-for dtype."""
    import torch

    cast: dict[tuple[int, Any], Any] = {}
    for name, tensor in state.items():
        # Tied weights stay tied: they are two names of one storage.
        key = (tensor.data_ptr(), tensor.shape)
        state[name] = cast.setdefault(key, tensor.to(getattr(torch, dtype)))
    model.save_pretrained(target, state_dict=state)
    config = files.read_json(target / "config.json")
    files.write_json(target / "config.json", config | {"dtype": dtype})
