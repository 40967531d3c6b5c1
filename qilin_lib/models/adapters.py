"""LoRA on, LoRA merged. A QLoRA adapter was trained against dequantised NF4 weights, so it is merged into those.

Merging in 4 bit rounds again and ruins or undoes the training (huggingface/transformers#31293, peft#2321); merging
into the original weights is off by the quantisation error (trl#1193). There is no 4-bit merge here. An adapter says
which weights it sits on, and goes on no others (huggingface/alignment-handbook#188, #99).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from qilin_lib import files
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.load import REWARD_HEAD, load_model, load_tokenizer, weight_files

# What an adapter's own configuration says of the model it belongs to.
REWARD_TASK = "SEQ_CLS"


def lora_config(parameters: Any, rewards: bool = False) -> Any:
    """peft's LoraConfig from a stage's parameters (paper §4.2: r, alpha, dropout).

    With `rewards` the head that gives the reward is trained as a whole, and there is no lm_head to train.
    """
    from peft import LoraConfig

    whole = [name for name in parameters.modules_to_save if name != "lm_head"] + [REWARD_HEAD]
    return LoraConfig(
        r=parameters.lora_r,
        lora_alpha=parameters.lora_alpha,
        lora_dropout=parameters.lora_dropout,
        target_modules=parameters.target_modules,
        modules_to_save=whole if rewards else parameters.modules_to_save or None,
        task_type=REWARD_TASK if rewards else "CAUSAL_LM",
    )


def check_modules(model: Any, parameters: Any, rewards: bool = False) -> None:
    """QilinError for an entry of target_modules or modules_to_save that names no module of `model` (weights not read).

    peft leaves out an entry that matches nothing as long as another one matches. LoRA goes on layers with a matrix.
    """
    every = [name for name, _ in model.named_modules() if name]
    matrices = [name for name, one in model.named_modules() if getattr(getattr(one, "weight", None), "ndim", 0) == 2]
    targets, whole = parameters.target_modules, parameters.modules_to_save
    if targets == "all-linear":
        targets = []
    elif isinstance(targets, str):
        # peft takes any other text for a regular expression over whole names.
        targets = [] if any(re.fullmatch(targets, name) for name in matrices) else [targets]
    for parameter, entries, names in (("target_modules", targets, matrices), ("modules_to_save", whole, every)):
        for entry in entries:
            # A reward model has no lm_head, and `lora_config` leaves it out.
            if not any(f".{name}".endswith(f".{entry}") for name in names) and not (rewards and entry == "lm_head"):
                known = sorted({name.rsplit(".", 1)[-1] for name in names} - set("0123456789"))
                near = nearest(entry, ["all-linear", *known] if parameter == "target_modules" else known)
                raise QilinError(
                    f"{parameters.notebook}: {parameter}: '{entry}' is no module of the model{near}; there are {known}"
                )


def add_lora(model: Any, parameters: Any, quantised: bool, rewards: bool = False) -> Any:
    """Wrap `model` with a fresh adapter; `rewards` as in `lora_config`."""
    from peft import get_peft_model, prepare_model_for_kbit_training

    check_modules(model, parameters, rewards)
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=parameters.gradient_checkpointing)
    return get_peft_model(model, lora_config(parameters, rewards))


def weight_hashes(folder: str | Path) -> dict[str, str]:
    """sha256 by name of the files that say what a model computes: those of its weights, and config.json.

    QilinError if `folder` holds no safetensors.
    """
    found = {path: path.stat() for path in weight_files(folder)}
    hashes = {path.name: _sha256(path, status.st_size, status.st_mtime_ns) for path, status in found.items()}
    return {**hashes, "config.json": files.sha256_file(Path(folder) / "config.json")}


def weights_sha256(folder: str | Path) -> str:
    """Hex sha256 over the names and bytes of a model's weight files and config.json: the exact weights, and no others.

    QilinError if `folder` holds no safetensors.
    """
    return files.sha256_text(json.dumps(weight_hashes(folder), sort_keys=True))


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Gigabytes are read once a process: saving an adapter and merging it both ask."""
    return files.sha256_file(path)


def describe(adapter: str | Path, base: str | Path, quantised: bool, dtype: str, template_sha256: str) -> None:
    """Write qilin.json beside an adapter: hash of the weights it sits on, whether they were NF4, dtype, template."""
    files.write_json(
        Path(adapter) / "qilin.json",
        {
            "base_sha256": weights_sha256(base),
            "quantised": quantised,
            "dtype": dtype,
            "template_sha256": template_sha256,
        },
    )


def described(base: str | Path, adapter: str | Path) -> dict[str, Any]:
    """What qilin.json says of an adapter; QilinError unless `base` holds the very weights that it was trained on."""
    note = files.read_json(Path(adapter) / "qilin.json")
    found = weights_sha256(base)
    if note["base_sha256"] != found:
        raise QilinError(
            f"{adapter}: the adapter sits on weights {note['base_sha256'][:12]}, but {base} holds {found[:12]}; "
            "nearest valid: the model/ folder of the stage before, as it was when the adapter was trained"
        )
    return note


def merged_model(base: str | Path, adapter: str | Path) -> Any:
    """Base plus adapter as one ordinary model in the adapter's dtype; an NF4 base is dequantised first.

    QilinError if `base` is not what the adapter was trained on.
    """
    from peft import PeftModel

    note = described(base, adapter)
    rewards = files.read_json(Path(adapter) / "adapter_config.json")["task_type"] == REWARD_TASK
    model = load_model(base, note["dtype"], quantised=note["quantised"], rewards=rewards)
    if note["quantised"]:
        model = model.dequantize()
    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()


def merge(base: str | Path, adapter: str | Path, target: Path) -> None:
    """Write the merged model with tokenizer and template: without them it is another model (LLaMA-Factory#2771)."""
    model = merged_model(base, adapter)
    model.config.quantization_config = None
    delattr(model.config, "quantization_config")
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
