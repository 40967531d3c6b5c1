"""What a training leaves: adapter/ (LoRA, in float32) or model/ (full weights), with tokenizer and template."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models import adapters
from qilin_lib.models.load import load_tokenizer
from qilin_lib.models.merge import rounded
from qilin_lib.tokens.own_template import written


def save(trainer: Any, job: SimpleNamespace) -> None:
    """Write adapter/ or model/ below `job.out`; called by every process (ZeRO gathers), written by the first. Nothing
    is pickled: the trainer's own `save_model` would add training_args.bin. No training step may follow."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    parameters, full = job.parameters, job.parameters.finetuning == "full"
    model, dtype = trainer.accelerator.unwrap_model(trainer.model), parameters.dtype if full else "float32"
    state = trained_state(model, dtype, str(parameters.seed), trainer.is_deepspeed_enabled)
    # Under ZeRO-3 transformers would split every model loaded from now on among the processes.
    unset_hf_deepspeed_config()
    if not trainer.is_world_process_zero():
        return
    folder, quantised = job.out / ("model" if full else "adapter"), parameters.finetuning == "qlora"
    if full:
        save_full(model, state, parameters.dtype, folder)
    else:
        # DPO's frozen reference is an adapter too, and no part of the result.
        model.save_pretrained(folder, selected_adapters=["default"], state_dict=state)
        adapters.describe(folder, job.paths.weights, quantised, parameters.dtype, job.template.sha256)
    save_tokenizer(job, folder)


def save_tokenizer(job: SimpleNamespace, folder: Path) -> None:
    """Write the tokenizer of what a job starts from into `folder`, with the template that the job trains with. Its end
    token is the one that ends an answer; a job without `turns` keeps the one that ends a document."""
    tokenizer = load_tokenizer(job.paths.weights)
    if getattr(job, "turns", True) and job.template.end(tokenizer) != tokenizer.eos_token_id:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(job.template.end(tokenizer))
    tokenizer.chat_template = written(job.template, tokenizer)
    tokenizer.save_pretrained(folder)


def trained_state(model: Any, dtype: str, seed: str, deepspeed: bool = False) -> dict[str, Any]:
    """The trained weights by name as they are stored (`merge.rounded`), on the CPU. DeepSpeed trains a float32 copy, of
    which each process holds a part: the copy counts, and all processes must call this."""
    if deepspeed:
        from deepspeed.utils import safe_get_full_fp32_param as whole
    state = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            state[name] = rounded((whole(weight) if deepspeed else weight.detach()).cpu(), dtype, seed + name)
    return state


def save_full(model: Any, state: dict[str, Any], dtype: str, target: Path) -> None:
    """Write a model's weights, given by name as they are to be stored, and say their type in config.json."""
    buffers = dict(model.named_buffers())
    state = {name: one for name, one in model.state_dict().items() if name in buffers} | state
    model.save_pretrained(target, state_dict=state)
    config = files.read_json(target / "config.json")
    files.write_json(target / "config.json", config | {"dtype": dtype})
