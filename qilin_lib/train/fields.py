"""`trainer: {…}` and `peft: {…}` of a profile: fields of the libraries' own configurations, checked by their types.

What the kit sets itself is refused with the name of the parameter that says it.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from qilin_lib.errors import QilinError, nearest
from qilin_lib.runs import Stage
from qilin_lib.schema import SECTIONS, Trained
from qilin_lib.train import fit, methods

# Fields of peft's LoraConfig that load, merge and switch off as plain LoRA does. A `bias` would stay with the adapter
# off, and DPO's reference would be another model.
LORA = (
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "rank_pattern",
    "alpha_pattern",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
)
# Starts of an adapter that leave the weights below as they are.
STARTS = (True, "gaussian", "orthogonal")
# Where the kit's parameter has another name than the library's field.
NAMES = {
    "warmup_steps": "warmup_ratio",
    "fp16": "dtype",
    "bf16": "dtype",
    "use_cpu": "gpus",
    "data_seed": "seed",
    "per_device_eval_batch_size": "per_device_train_batch_size",
    "activation_checkpointing": "gradient_checkpointing",
    "loss_type": "label_smoothing",
    "loss_weights": "rpo_alpha",
    "r": "lora_r",
}
# Another value would undo a promise of the kit (what is resumed, scored, hashed, counted), or never take effect.
KIT = re.compile(
    "(eval|save|hub|log(ging)?|do|fsdp|trackio|dataset|ref|sync|precompute|model_init|generate|teacher|vllm)_.*"
    "|fp16.*|bf16.*|.*length.*|activation_checkpointing.*|parallelism_config|accelerator_config|push_to_hub|packing.*"
    "|load_best_model_at_end|metric_for_best_model|greater_is_better|batch_eval_metrics|include_for_metrics"
    "|prediction_loss_only|label_names|label_smoothing_factor|remove_unused_columns|resume_from_checkpoint|use_cache"
    "|ignore_data_skip|restore_callback_states_from_checkpoint|local_rank|auto_find_batch_size|train_sampling_strategy"
    "|dataloader_drop_last|trust_remote_code|chat_template.*|(eos|pad)_token|padding.*|is_encoder_decoder|debug"
)


def check(stage: Stage) -> None:
    """QilinError for a field of `trainer` or `peft` that is unknown, of another type, or set by the kit."""
    parameters = stage.parameters
    if parameters.trainer:
        kind, managed = configuration(parameters, stage.dir)
        _check(parameters, "trainer", kind, lambda name: name in managed or KIT.fullmatch(name))
        try:
            # What only the library's own check of the values finds, such as an optimizer that it does not know.
            kind(output_dir=str(stage.dir), report_to="none", use_cpu=True, **parameters.trainer)
        except (ValueError, TypeError, ImportError) as reason:
            given = ", ".join(f"{name} = {value!r}" for name, value in parameters.trainer.items())
            why = " ".join(str(reason).split())[:300]
            raise QilinError(f"{parameters.notebook}: trainer: {given}: {kind.__name__} says: {why}") from None
    if parameters.peft:
        from peft import LoraConfig

        if parameters.finetuning == "full":
            raise QilinError(
                f"{parameters.notebook}: peft: {parameters.peft}: finetuning: full makes no adapter; nearest valid: "
                "peft: {}, or finetuning: lora"
            )
        _check(parameters, "peft", LoraConfig, lambda name: name not in LORA)
        if (start := parameters.peft.get("init_lora_weights", True)) not in STARTS:
            raise QilinError(
                f"{parameters.notebook}: peft: init_lora_weights = {start!r} changes the weights below the adapter, or "
                f"leaves no defined start; nearest valid: one of {list(STARTS)}"
            )


def configuration(parameters: Trained, out: Path) -> tuple[type, set[str]]:
    """(the class that holds a method's arguments, the fields of it that the kit sets)."""
    values = parameters.model_dump(mode="json")
    # 08's trainings have settings of their own in the same fields.
    values |= values.get("reward", {}) | {"trainer": {}}
    method = methods.of(parameters)
    library, _, name = method.config.rpartition(".")
    arguments = getattr(method.load(), "arguments", fit.arguments)
    return getattr(importlib.import_module(library), name), set(arguments(SimpleNamespace(**values), out))


def _check(parameters: Trained, which: str, kind: type, managed: Any) -> None:
    import pydantic

    where, hints = f"{parameters.notebook}: {which}: ", get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for name, value in getattr(parameters, which).items():
        if name not in known:
            raise QilinError(f"{where}'{name}' is no field of {kind.__name__}{nearest(name, known)}")
        if managed(name):
            raise QilinError(f"{where}'{name}': {_instead(parameters, name)}")
        try:
            # Text is never taken for a number or for true; a list may be a tuple.
            pydantic.TypeAdapter(hints[name]).validate_python(value, strict=isinstance(value, str))
        except pydantic.ValidationError as failure:
            reasons = " or ".join(dict.fromkeys(error["msg"] for error in failure.errors(include_url=False)))
            raise QilinError(f"{where}{name} = {value!r}: {reasons} (transformers, trl or peft)") from None


def _instead(parameters: Trained, name: str) -> str:
    own, section = NAMES.get(name, name), SECTIONS[parameters.notebook][0]
    fields = type(parameters).model_fields
    if own in fields:
        return f"the kit has a parameter for it; nearest valid: {section}.{own}"
    if "reward" in fields and own in fields["reward"].annotation.model_fields:
        return f"the kit has a parameter for it; nearest valid: {section}.reward.{own}"
    return "the kit sets it, or does not use it; nearest valid: leave it out"
