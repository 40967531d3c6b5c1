"""LoRA on, LoRA merged. A QLoRA adapter was trained against dequantised NF4 weights, so it is merged into those.

Merging in 4 bit rounds again and ruins or undoes the training (huggingface/transformers#31293, peft#2321); merging
into the original weights is off by the quantisation error (trl#1193). There is no 4-bit merge here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_lib.models.load import load_model, load_tokenizer


def lora_config(parameters: Any) -> Any:
    """peft's LoraConfig from a stage's parameters (paper §4.2: r, alpha, dropout)."""
    from peft import LoraConfig

    return LoraConfig(
        r=parameters.lora_r,
        lora_alpha=parameters.lora_alpha,
        lora_dropout=parameters.lora_dropout,
        target_modules=parameters.target_modules,
        modules_to_save=parameters.modules_to_save or None,
        task_type="CAUSAL_LM",
    )


def add_lora(model: Any, parameters: Any, quantised: bool) -> Any:
    """Wrap `model` with a fresh adapter."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=parameters.gradient_checkpointing)
    return get_peft_model(model, lora_config(parameters))


def merged_model(base: str | Path, adapter: str | Path, quantised: bool, dtype: str = "float32") -> Any:
    """Base plus adapter as one ordinary model; an NF4 base is dequantised first."""
    from peft import PeftModel

    model = load_model(base, dtype, quantised=quantised)
    if quantised:
        model = model.dequantize()
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def merge(base: str | Path, adapter: str | Path, target: Path, quantised: bool, dtype: str = "float32") -> None:
    """Write the merged model with tokenizer and template: without them it is another model (LLaMA-Factory#2771)."""
    model = merged_model(base, adapter, quantised, dtype)
    model.config.quantization_config = None
    delattr(model.config, "quantization_config")
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
