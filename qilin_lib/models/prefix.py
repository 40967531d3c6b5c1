"""Prefix tuning (Li & Liang 2021; P-Tuning v2: Liu et al. 2022, arXiv 2110.07602): keys and values before every text.

peft trains and stores them. Its own forward pass takes no cache of the caller's, so a model that is asked gets them by
a hook, which the decoding loop and shared beginnings of prompts work with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qilin_lib.errors import QilinError


def config(model: Any, parameters: Any) -> Any:
    """peft's PrefixTuningConfig of `prefix_tokens` positions, without projection, as P-Tuning v2's code has it.

    QilinError for a model whose heads peft would give another width than they have.
    """
    from peft import PrefixTuningConfig

    text = model.config.get_text_config()
    usual = text.hidden_size // text.num_attention_heads
    if (getattr(text, "head_dim", None) or usual) != usual:
        raise QilinError(
            f"finetuning: prefix: heads of {text.model_type} are {text.head_dim} wide, not hidden_size / heads = "
            f"{usual}, as peft's prefixes are; nearest valid: finetuning: lora"
        )
    return PrefixTuningConfig(num_virtual_tokens=parameters.prefix_tokens, task_type="CAUSAL_LM")


def attach(model: Any, folder: str | Path) -> Any:
    """`model` with the prefix in `folder` before every text that it reads, whatever cache, mask, positions it gets."""
    import torch
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(model, str(folder)).eval()
    count = tuned.active_peft_config.num_virtual_tokens

    def before(_: Any, arguments: tuple, named: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        ids = arguments[0] if arguments else named["input_ids"]
        cache = named.get("past_key_values")
        if cache is None:
            named["past_key_values"] = tuned.get_prompt(len(ids))
        elif not cache.get_seq_length():
            # The caller keeps this cache and reads it afterwards.
            for layer, states in enumerate(tuned.get_prompt(len(ids)).layers):
                cache.update(states.keys, states.values, layer)
        if (mask := named.get("attention_mask")) is not None:
            named["attention_mask"] = torch.cat([mask.new_ones(len(mask), count), mask], dim=1)
        if (places := named.get("position_ids")) is not None:
            named["position_ids"] = places + count
        return arguments, named

    model.register_forward_pre_hook(before, with_kwargs=True)
    return model
