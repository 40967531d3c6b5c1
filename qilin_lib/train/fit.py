"""What the trainings share: one way to prepare a model, to train, log, resume and save.

A training leaves adapter/ (LoRA, in float32) or model/ (full weights), with tokenizer and template.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import chains, files
from qilin_lib.errors import QilinError
from qilin_lib.models import adapters, attention
from qilin_lib.models.base import base_path
from qilin_lib.models.examine import context
from qilin_lib.models.load import load_model, load_tokenizer, padding
from qilin_lib.models.merge import rounded
from qilin_lib.models.shapes import shape, sizes
from qilin_lib.params import ROOT
from qilin_lib.runs import Stage
from qilin_lib.tokens.own_template import written
from qilin_lib.train import alarms, checkpoints, launch, speed

Collate = Callable[[Any], dict[str, Any]]
# In trackers.
PROJECT = "qilin-med"
# Parameters that TrainingArguments has by the same name.
SAME = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "weight_decay",
    "max_grad_norm",
    "gradient_checkpointing",
    "logging_steps",
    "save_steps",
    "seed",
)


class EvenPairs:
    """Mixin for TRL's trainers of pairs that our template has tokenised: a step is the mean over its pairs, also where
    the last micro-batch of an epoch holds fewer. `counted` names the part of a batch whose rows are its pairs, or a
    multiple of them."""

    counted = "input_ids"

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        # TRL would render the pairs again, with the tokenizer's own template.
        return dataset

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        return loss * (len(inputs[self.counted]) / self.rows_a_batch) if self.model.training else loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        batches, items = super().get_batch_samples(*args, **kwargs)
        self.rows_a_batch = sum(len(batch[self.counted]) for batch in batches) / max(1, len(batches))
        return batches, items


def without_copy(model: Any, parameters: Any) -> None:
    """Undo what TRL's trainers do to a `model` with an adapter when they are made: they round a quantised model's to
    bfloat16, whole modules too, and keep a frozen copy of the fresh one, which would go into every checkpoint. Without
    it they switch the adapter off.
    """
    if parameters.finetuning != "full":
        model.delete_adapter("ref")
    for name, weight in model.named_parameters():
        if (whole := ".modules_to_save.default.") in name:
            weight.data = model.get_parameter(name.replace(whole, ".original_module.")).data.clone()
    full_precision(model, parameters)


def weights_of(stage: Stage, parent: str) -> Path:
    """Folder of what a stage starts from: 02's base model, or a trained stage's full weights or adapter."""
    folder = stage.parent(parent)
    return base_path(folder) if parent == "02_tokenize" else adapters.trained(folder)


def start_of(stage: Stage) -> Path:
    """Folder of what a training of the chain, or 08, starts from."""
    return weights_of(stage, chains.start(stage.parameters.chain, stage.name))


def reads(weights: Path) -> float:
    """Tokens that the model in a folder, or the one that its adapter is of, can read at once."""
    return context(shape(adapters.base_of(weights) if adapters.is_adapter(weights) else weights)) or math.inf


def prepare_model(parameters: Any, weights: Path, rewards: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) ready to train: full, LoRA, or LoRA on NF4; with `rewards` a sequence classifier with one
    output, whose new head is drawn with `seed`."""
    import torch

    quantised = parameters.finetuning == "qlora"
    torch.manual_seed(parameters.seed)
    # AdamW on bfloat16 weights loses small updates to rounding: full training keeps fp32 weights under autocast. With
    # DeepSpeed the optimizer has its own fp32 copy.
    kind = "float32" if parameters.finetuning == "full" and not parameters.deepspeed else parameters.dtype
    kernel = attention.loadable(wanted := parameters.attn_implementation)
    try:
        model = load_model(weights, kind, quantised, launch.device(parameters), kernel, rewards)
    # transformers' words for a kernel that the model or the machine lacks.
    except (ImportError, ValueError) as reason:
        if kernel is None:
            raise
        why = " ".join(str(reason).split())[:160]
        raise QilinError(f"{parameters.notebook}: attn_implementation: {wanted}: {why}; nearest valid: auto") from None
    if parameters.finetuning != "full":
        model = adapters.add_lora(model, parameters, quantised, rewards)
    full_precision(model, parameters)
    return model, padding(load_tokenizer(weights))


def full_precision(model: Any, parameters: Any) -> None:
    """Make float32 of every weight that learns, unless DeepSpeed does: it keeps a float32 copy of its own.

    AdamW loses an update below 1/256 of a bfloat16 weight to rounding; peft leaves `modules_to_save` in bfloat16, and
    TRL's trainers cast the adapter of a quantised model to it when they are made. The frozen originals of
    `modules_to_save`, DPO's reference, get the same precision: before step 1 both must compute the same.
    """
    for name, weight in model.named_parameters():
        if not parameters.deepspeed and (weight.requires_grad or ".original_module." in name):
            weight.data = weight.data.float()


def has_fused_head(model: Any, parameters: Any, arguments: Any) -> bool:
    """Whether SFT and DCPT take TRL's fused head: on a GPU, where all logits in float32 would be the largest thing in
    memory (on a CPU its tiles are slower). An adapter on the head would not act; Liger brings a head of its own."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = isinstance(model.get_output_embeddings(), BaseTunerLayer)
    return bool(parameters.gpus) and not adapted and not arguments.use_liger_kernel


def headed(model: Any, parameters: Any, settings: Any, collate: Collate) -> Collate:
    """`collate` as the model's head wants its batches: a fused head and Liger (0.8.5) take all positions."""
    fused = has_fused_head(model, parameters, settings)
    if not fused and not settings.use_liger_kernel:
        return collate
    if fused:
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model.get_base_model() if hasattr(model, "peft_config") else model)

    def whole(rows: Any) -> dict[str, Any]:
        batch = {name: part for name, part in collate(rows).items() if name not in ("logits_to_keep", "shift_labels")}
        return batch | {"fused_lm_head": True} if fused else batch

    return whole


def causal_trainer(job: Any, model: Any, examples: Any, collate: Collate, packed: bool, **more: Any) -> Any:
    """transformers' Trainer; `packed`: texts share rows and do not see each other; `more` of its arguments. The loss of
    a step is the mean over all its labelled tokens, of all micro-batches and processes (transformers#34191).

    TRL's SFTTrainer (1.16) has the same loss, but on a CPU projects every position to the vocabulary, twice.
    """
    from transformers import Trainer, TrainingArguments

    if packed:
        attention.isolate(model, job.parameters)
        collate = attention.in_one_row(model, collate)
    settings = TrainingArguments(**arguments(job.parameters, job.out), **more)
    collate = headed(model, job.parameters, settings, collate)
    return Trainer(model=model, args=settings, train_dataset=examples, data_collator=collate)


def arguments(parameters: Any, out: Path) -> dict[str, Any]:
    """Keyword arguments for `TrainingArguments` and its TRL descendants, in the field's own names."""
    # TensorBoard's files lie beside the stage folders: they hold times of day, and a stage is known by its bytes.
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(out.parent / "tensorboard" / out.name))
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    zero = ROOT / "params" / "deepspeed" / f"{parameters.deepspeed}.json"
    return {
        "output_dir": str(out / "checkpoints"),
        **{name: getattr(parameters, name) for name in SAME},
        "per_device_eval_batch_size": parameters.per_device_train_batch_size,
        # transformers 5 reads a float below 1 as a share of all steps.
        "warmup_steps": parameters.warmup_ratio,
        "bf16": parameters.dtype == "bfloat16",
        "use_cpu": parameters.gpus == 0,
        "deepspeed": str(zero) if parameters.deepspeed else None,
        "ddp_find_unused_parameters": False,
        "logging_nan_inf_filter": False,
        # Seconds. The other ranks wait while the first forces a checkpoint to the disk (112 GB of a full 7B), and NCCL
        # gives up after half an hour. A rank that dies ends the others at once anyway.
        "ddp_timeout": 4 * 3600,
        "data_seed": parameters.seed,
        "report_to": parameters.report_to,
        "run_name": f"{parameters.run}-{getattr(parameters, 'stage', None) or parameters.notebook}",
        "project": PROJECT,
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": parameters.gpus > 0,
        **parameters.trainer,
    }


def fit(trainer: Any, job: SimpleNamespace, more: dict[str, Any], before: dict[str, Any] | None = None) -> None:
    """Train (resuming from the last whole checkpoint), save the adapter or the full weights, and write facts.json last:
    what was known `before`, what happened, and `more`. Called by every process.

    RuntimeError if another number of processes takes part than was asked for.
    """
    parameters, weights, accelerator = job.parameters, job.paths.weights, trainer.accelerator
    expected = launch.processes(parameters)
    if accelerator.num_processes != expected:
        raise RuntimeError(f"{expected} processes were asked for, {accelerator.num_processes} take part")
    if trainer.args.n_gpu > 1:
        raise RuntimeError(
            f"one process sees {trainer.args.n_gpu} GPUs and would split every batch over them (nn.DataParallel); set "
            "CUDA_VISIBLE_DEVICES, or gpus to their number"
        )
    full_precision(trainer.model, parameters)
    trainer.add_callback(log_callback(job.out))
    # Before sealing: a checkpoint with dead weights is never sealed, and the one before it stays.
    checkpoints.guard(trainer, weights)
    trainer.add_callback(checkpoints.sealing(parameters.save_total_limit, parameters.save_minutes))
    checkpoint = checkpoints.last(job.out / "checkpoints")
    # transformers takes a step more from a last checkpoint that lies in the middle of an epoch.
    epoch, done = trainer._run_epoch, lambda: trainer.state.global_step >= trainer.state.max_steps
    trainer._run_epoch = lambda **named: None if done() else epoch(**named)
    meter = speed.Meter(trainer)
    started = time.time()
    with checkpoints.naming_failed_writes(job.out / "checkpoints"):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        measured = meter.facts(time.time() - started, parameters, sizes(weights))
        save(trainer, job)
    accelerator.wait_for_everyone()
    if not trainer.is_world_process_zero():
        return
    log, opened, trained = read_log(job.out), dict(getattr(job, "opened", {})), list(trainer.model.parameters())
    warnings = opened.pop("warnings", [])
    # The mean over all steps: the trainer's own figure forgets what came before a resume. A row is of those since the
    # row before.
    logged = [row for row in log if "loss" in row]
    spans = np.diff([0, *(row["step"] for row in logged)])
    facts = {
        **(before or {}),
        "processes": expected,
        "global_batch_size": parameters.per_device_train_batch_size * parameters.gradient_accumulation_steps * expected,
        "steps_planned": trainer.state.max_steps,
        "steps_done": trainer.state.global_step,
        "resumed_from": checkpoint.name if checkpoint else None,
        "train_loss": round(np.average([row["loss"] for row in logged], weights=spans).item(), 4) if logged else None,
        "dtype_observed": sorted({str(weight.dtype).removeprefix("torch.") for weight in trained}),
        # Under ZeRO-3 a process holds a slice; `ds_numel` is the whole.
        "trainable_parameters": sum(getattr(one, "ds_numel", one.numel()) for one in trained if one.requires_grad),
        "finetuning": parameters.finetuning,
        **job.template.described,
        "optimizer": type(trainer.optimizer).__name__,
        "alarms": alarms.spikes(log, parameters.max_grad_norm) + warnings,
        **measured,
        **opened,
        **more,
    }
    files.write_json(job.out / "facts.json", facts)


def read_log(stage_dir: Path) -> list[dict[str, Any]]:
    """Rows of log.jsonl by step; after a resume the later row of a step counts."""
    rows: dict[int, dict[str, Any]] = {}
    for row in files.read_jsonl(stage_dir / "log.jsonl"):
        rows[row["step"]] = {**rows.get(row["step"], {}), **row}
    return [rows[step] for step in sorted(rows)]


def log_callback(out: Path) -> Any:
    """A trainer callback that appends every log to log.jsonl and tells the notebook where training is."""
    from transformers import TrainerCallback

    started = time.time()

    class JsonLog(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # Also the last step of a training that is no multiple of logging_steps, or shorter than it.
            control.should_log |= state.global_step >= state.max_steps

        def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
            if state.is_world_process_zero and logs and "train_runtime" not in logs:
                row = {"step": state.global_step, **logs}
                with open(out / "log.jsonl", "a", encoding="utf-8") as handle:
                    handle.write(json.dumps(row) + "\n")
                seconds = time.time() - started
                launch.report(step=state.global_step, steps=state.max_steps, loss=logs.get("loss"), seconds=seconds)

    return JsonLog()


def save(trainer: Any, job: SimpleNamespace) -> None:
    """Write adapter/ or model/ below `job.out`; called by every process (ZeRO gathers), written by the first. Nothing
    is pickled: the trainer's own `save_model` would add training_args.bin. No training step may follow."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    parameters = job.parameters
    full = parameters.finetuning == "full"
    model = trainer.accelerator.unwrap_model(trainer.model)
    dtype = parameters.dtype if full else "float32"
    state = trained_state(model, dtype, str(parameters.seed), trainer.is_deepspeed_enabled)
    # Under ZeRO-3 transformers would split every model loaded from now on among the processes.
    unset_hf_deepspeed_config()
    if not trainer.is_world_process_zero():
        return
    folder = job.out / ("model" if full else "adapter")
    if full:
        save_full(model, state, parameters.dtype, folder)
    else:
        # DPO's frozen reference is an adapter too, and no part of the result.
        model.save_pretrained(folder, selected_adapters=["default"], state_dict=state)
        quantised = parameters.finetuning == "qlora"
        adapters.describe(folder, job.paths.weights, quantised, parameters.dtype, job.template.sha256)
    save_tokenizer(job, folder)


def save_tokenizer(job: SimpleNamespace, folder: Path) -> None:
    """Write the tokenizer of what a job starts from into `folder`, with the template that the job trains with. Its end
    token is the one that ends an answer; a job without `turns` keeps the one that ends a document."""
    tokenizer = load_tokenizer(job.paths.weights)
    if getattr(job, "turns", True):
        job.template.ending(tokenizer)
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
