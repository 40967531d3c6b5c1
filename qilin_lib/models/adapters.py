"""Adapters on the weights they were trained on. What a stage trained is loaded as it was trained: weights, NF4 under
QLoRA, and the live adapter; merging (`models.merge`) makes another model, by the quantisation error (trl#1193).

An adapter says which weights it sits on, and goes on no others (huggingface/alignment-handbook#188, #99). It is LoRA,
or prefix tuning (Li & Liang 2021; P-Tuning v2: Liu et al. 2022, arXiv 2110.07602): keys and values before every text.
"""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from qilin_lib import files, runs
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.load import REWARD_HEAD, load_model, weight_files
from qilin_lib.models.shapes import is_named

# What an adapter's own configuration says of the model it belongs to.
REWARD_TASK = "SEQ_CLS"
ADAPTER = "adapter_config.json"
# Beside an adapter: which weights it sits on.
NOTE = "qilin.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def add_lora(model: Any, parameters: Any, quantised: bool, rewards: bool = False) -> Any:
    """Wrap `model` with a fresh adapter: LoRA (paper §4.2: r, alpha, dropout) with a stage's further fields of `peft`,
    or a prefix of `prefix_tokens` positions, without projection, as P-Tuning v2's code has it.

    With `rewards` the head that gives the reward is trained as a whole, and there is no lm_head to train. QilinError
    as for `check_modules`, and for a prefix on heads that peft would give another width than they have.
    """
    from peft import LoraConfig, PrefixTuningConfig, get_peft_model, prepare_model_for_kbit_training

    if parameters.finetuning == "prefix":
        text = model.config.get_text_config()
        usual = text.hidden_size // text.num_attention_heads
        if (getattr(text, "head_dim", None) or usual) != usual:
            raise QilinError(
                f"finetuning: prefix: heads of {text.model_type} are {text.head_dim} wide, not hidden_size / heads = "
                f"{usual}, as peft's prefixes are; nearest valid: finetuning: lora"
            )
        prefix = PrefixTuningConfig(num_virtual_tokens=parameters.prefix_tokens, task_type="CAUSAL_LM")
        return get_peft_model(model, prefix)
    check_modules(model, parameters, rewards)
    if quantised:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=parameters.gradient_checkpointing)
    whole = [name for name in parameters.modules_to_save if name != "lm_head"] + [REWARD_HEAD]
    lora = LoraConfig(
        r=parameters.lora_r,
        lora_alpha=parameters.lora_alpha,
        lora_dropout=parameters.lora_dropout,
        target_modules=parameters.target_modules,
        modules_to_save=whole if rewards else parameters.modules_to_save or None,
        task_type=REWARD_TASK if rewards else "CAUSAL_LM",
        **parameters.peft,
    )
    _refuse_experts(model, lora, parameters)
    return get_peft_model(model, lora)


def _refuse_experts(model: Any, lora: Any, parameters: Any) -> None:
    """QilinError if peft would put `lora` on experts that transformers stacks in one parameter: in the files they are
    matrices of other names, which `models.merge` would look for in vain once all is trained."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    meant = copy.deepcopy(lora)
    convert_peft_config_for_transformers(meant, model, None)
    if meant.target_parameters:
        raise QilinError(
            f"{parameters.notebook}: target_modules: {parameters.target_modules} means the stacked experts of a "
            f"{model.config.model_type} too, whose LoRA cannot be merged; nearest valid: {sorted(meant.target_modules)}"
        )


def check_modules(model: Any, parameters: Any, rewards: bool = False) -> None:
    """QilinError for an entry of target_modules or modules_to_save that names no module of `model` (weights not read),
    or embeddings that are also the head: peft trains a copy of one of the two uses.

    peft leaves out an entry that matches nothing as long as another one matches. LoRA goes on layers with a matrix.
    """
    modules = {name: one for name, one in model.named_modules() if name}
    targets, whole, tied = parameters.target_modules, parameters.modules_to_save, set()
    if getattr(model.config.get_text_config(), "tie_word_embeddings", False):
        tied = {model.get_input_embeddings(), model.get_output_embeddings()}
    names = [name for name, one in modules.items() if one in tied] if None not in tied else []
    for entry in [*(targets if isinstance(targets, list) else []), *whole]:
        if any(is_named(name, [entry]) for name in names):
            raise QilinError(
                f"{parameters.notebook}: '{entry}': the base model uses one matrix for embeddings and head, which an "
                f"adapter cannot train as one; nearest valid: leave {[name.rpartition('.')[2] for name in names]} out"
            )
    matrices = [name for name, one in modules.items() if getattr(getattr(one, "weight", None), "ndim", 0) == 2]
    if isinstance(targets, str):
        # peft takes any text but "all-linear" for a regular expression over whole names.
        words = [word.strip() for word in targets.split(",")]
        targets = [] if any(is_named(name, targets) for name in matrices) else [targets]
        if targets and all(any(is_named(name, [word]) for name in matrices) for word in words):
            raise QilinError(
                f"{parameters.notebook}: target_modules: '{targets[0]}' is read as a regular expression of whole names "
                f"and matches none; nearest valid: {words}"
            )
    # A reward model has no lm_head, and `add_lora` leaves it out.
    whole = [entry for entry in whole if not (rewards and entry == "lm_head")]
    for parameter, entries, names in (("target_modules", targets, matrices), ("modules_to_save", whole, [*modules])):
        known = sorted({name.rsplit(".", 1)[-1] for name in names} - set("0123456789"))
        for entry in entries:
            if not any(is_named(name, [entry]) for name in names):
                near = nearest(entry, ["all-linear", *known] if parameter == "target_modules" else known)
                raise QilinError(
                    f"{parameters.notebook}: {parameter}: '{entry}' is no module of the model{near}; there are {known}"
                )


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds an adapter, not full weights."""
    return (Path(folder) / ADAPTER).exists()


def is_prefix(folder: str | Path) -> bool:
    """Whether a folder holds an adapter that is a prefix, which no weights can take up."""
    return is_adapter(folder) and files.read_json(Path(folder) / ADAPTER)["peft_type"] == "PREFIX_TUNING"


def is_quantised(folder: str | Path) -> bool:
    """Whether what a training left is an adapter on NF4 weights."""
    return is_adapter(folder) and files.read_json(Path(folder) / NOTE)["quantised"]


def trained(folder: Path) -> Path:
    """What a training left in `folder`: the adapter, or the full weights. Both are loaded by `load_trained`."""
    return folder / ("adapter" if is_adapter(folder / "adapter") else "model")


def weights_sha256(folder: str | Path) -> str:
    """Hex sha256 over the hashes of the files that say what a model computes: those of its weights, and config.json; of
    an adapter its own two files, and the hash of the weights below it. QilinError if there are no safetensors."""
    folder = Path(folder)
    if is_adapter(folder):
        # peft notes where the base lay, which says nothing of what it computes.
        config = files.read_json(folder / ADAPTER) | {"base_model_name_or_path": None}
        hashes = {ADAPTER_WEIGHTS: files.sha256_once(folder / ADAPTER_WEIGHTS)}
        hashes[ADAPTER] = files.sha256_text(json.dumps(config, sort_keys=True))
        below = described(base_of(folder), folder)
        hashes |= {name: str(below[name]) for name in ("base_sha256", "quantised")}
    else:
        hashes = {path.name: files.sha256_once(path) for path in [*weight_files(folder), folder / "config.json"]}
    return files.sha256_text(json.dumps(hashes, sort_keys=True))


def describe(adapter: str | Path, base: str | Path, quantised: bool, dtype: str, template_sha256: str) -> None:
    """Write qilin.json beside an adapter: place and hash of the weights it sits on, if they were NF4, dtype, template.

    Weights in the runs folder are named relative to the adapter, so that the folder can move.
    """
    adapter, base = Path(adapter), Path(base).resolve()
    inside = base.is_relative_to(runs.runs_dir())
    note = {"base": os.path.relpath(base, adapter.resolve()) if inside else str(base)}
    if is_adapter(adapter):
        named = {"base_model_name_or_path": note["base"]}
        files.write_json(adapter / ADAPTER, files.read_json(adapter / ADAPTER) | named)
    note |= {"base_sha256": weights_sha256(base), "quantised": quantised, "dtype": dtype}
    files.write_json(adapter / NOTE, note | {"template_sha256": template_sha256})


def base_of(adapter: str | Path) -> Path:
    """Folder of the weights that an adapter sits on, as qilin.json names it; QilinError if it is there no more."""
    adapter = Path(adapter).resolve()
    path = (adapter / files.read_json(adapter / NOTE)["base"]).resolve()
    if not path.is_dir():
        raise QilinError(
            f"{adapter / NOTE}: the weights below the adapter lay in {path}, which is no folder here; nearest valid: "
            "the same files there, or a link to them"
        )
    return path


def described(base: str | Path, adapter: str | Path) -> dict[str, Any]:
    """What qilin.json says of an adapter; QilinError unless `base` holds the very weights that it was trained on."""
    note, held = files.read_json(Path(adapter) / NOTE), weights_sha256(base)
    if note["base_sha256"] != held:
        raise QilinError(
            f"{adapter}: the adapter sits on weights {note['base_sha256'][:12]}, but {base} holds {held[:12]}; "
            "nearest valid: the weights as they were when the adapter was trained"
        )
    return note


def load_to_answer(folder: str | Path, dtype: str, device: str = "cpu") -> Any:
    """The model of `load_trained`, to be asked alone. On a CPU in float32 the adapter is added to the (dequantised)
    weights: the same sums up to float32's rounding, in a third of the time."""
    if device != "cpu" or dtype != "float32" or not is_adapter(folder) or is_prefix(folder):
        return load_trained(folder, dtype, device)[0]
    from peft import PeftModel

    base = base_of(folder)
    quantised = described(base, folder)["quantised"]
    model = load_model(base, dtype, quantised)
    return PeftModel.from_pretrained(model.dequantize() if quantised else model, str(folder)).merge_and_unload()


def load_trained(
    folder: str | Path, dtype: str, device: str = "cpu", quantised: bool | None = None, rewards: bool = False
) -> tuple[Any, Any]:
    """(model, how to switch its adapter off) of full weights, or of an adapter live on the weights below it.

    An adapter that was trained on NF4 is loaded on NF4: that is the model that was trained. `quantised` overrides it.
    The model is transformers' own, with the adapter inside its layers; the second is a context manager, in which the
    model is what training started from (full weights have none: None). QilinError if the base is another one.
    """
    if not is_adapter(folder):
        return load_model(folder, dtype, bool(quantised), device, rewards=rewards), None
    from peft import PeftModel

    base = base_of(folder)
    note = described(base, folder)
    below = load_model(base, dtype, note["quantised"] if quantised is None else quantised, device, rewards=rewards)
    model = PeftModel.from_pretrained(below, str(folder))
    if is_prefix(folder):
        return _with_prefix(below, model.eval()), None
    return model.get_base_model(), model.disable_adapter


def _with_prefix(model: Any, tuned: Any) -> Any:
    """`model` with the prefix of `tuned` before every text that it reads, whatever cache, mask, positions it gets.

    peft's own forward pass takes no cache of the caller's, with which the decoding loop and shared beginnings of
    prompts work.
    """
    import torch

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
