"""What a training learns from, and what its profile asks of the libraries, looked at before anything is started.

`trainer: {…}` and `peft: {…}` of a profile are fields of the libraries' own configurations, checked by their types.
What the kit sets itself (fields.yaml) is refused with the name of the parameter that says it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

from qilin_lib import files, strict_yaml
from qilin_lib.errors import QilinError, nearest
from qilin_lib.models.adapters import add_lora, check_modules
from qilin_lib.models.base import base_path
from qilin_lib.models.load import skeleton
from qilin_lib.models.shapes import WIDTH, shape, sizes
from qilin_lib.runs import Stage
from qilin_lib.schema import SECTIONS, Trained
from qilin_lib.train import fit, methods, vllm_client

# What a GPU of 24 GB can hold of weights before they are split. With transformers' own way of loading split models, the
# judge and the model that an adapter is merged into would come split too.
ZERO3_GIB = 20
FIELDS: dict[str, Any] = strict_yaml.read(Path(__file__).with_name("fields.yaml"))


def check(stage: Stage) -> None:
    """QilinError, one sentence, if the training of `stage` (03-05, 08) would have nothing to learn from, names a field
    or a module that is not there, or is to split a model by ZeRO-3 that is too large to be loaded whole."""
    refuse_empty(stage)
    check_fields(stage)
    parameters = stage.parameters
    if python := getattr(parameters, "vllm_python", None):
        vllm_client.check(stage.name, python)
    if (tracker := parameters.report_to) != "none" and importlib.util.find_spec(tracker) is None:
        raise QilinError(
            f"{parameters.notebook}: report_to = '{tracker}', but the package {tracker} is not installed; nearest "
            f"valid: report_to = 'none', or pip install {tracker}"
        )
    base = base_path(stage.parent("02_tokenize"))
    targets, whole = parameters.target_modules, parameters.modules_to_save
    split = (parameters.deepspeed or "").startswith("zero3")
    size = sizes(base).total * WIDTH[parameters.dtype] / 2**30 if split else 0
    if size > ZERO3_GIB:
        raise QilinError(
            f"{parameters.notebook}: deepspeed: {parameters.deepspeed}: each process loads the whole model before "
            f"DeepSpeed splits it, and its weights in {parameters.dtype} are {size:.1f} GiB, more than the {ZERO3_GIB} "
            f"GiB that a GPU of 24 GB holds; nearest valid: deepspeed: {parameters.deepspeed.replace('3', '2')} on "
            "larger GPUs, or finetuning: qlora with deepspeed: null"
        )
    if parameters.finetuning == "full" or (targets == "all-linear" and not whole and not parameters.peft):
        return
    # The headers of the weight files name most modules; a look at all of them imports transformers.
    found = sizes(base)
    if parameters.peft or not (found.names(targets) and found.names(whole)):
        model = skeleton(shape(base))
        check_modules(model, parameters, rewards=hasattr(parameters, "reward"))
        check_adapter(model, parameters)


def refuse_empty(stage: Stage) -> None:
    """QilinError naming the empty set and the reason that 01's ledger gives, if there is no row to train on."""
    name = methods.of(stage.parameters).data
    # Without CPT text 03 hands the base model on: conversations alone can be learned from too.
    if name == "cpt":
        return
    # Pairs can be made from conversations.
    if getattr(stage.parameters, "constructed", None):
        name = "sft"
    chimed = stage.parent("01_build_chimed")
    if any(row["split"] == "train" for row in files.read_jsonl(chimed / f"{name}.jsonl")):
        return
    rows = [row for row in files.read_json(chimed / "ledger.json")["sources"] if row["set"] == name]
    kept, rejected = sum(row["kept"] for row in rows), sum(sum(row["rejected"].values()) for row in rows)
    read, duplicate, contaminated = (sum(row[fate] for row in rows) for fate in ("read", "duplicate", "contaminated"))
    why = f"of {read} read none was kept ({rejected} rejected, {duplicate} duplicate, {contaminated} contaminated)"
    if not rows:
        why = f"no source of its raw folder feeds {name}"
    elif kept:
        why = f"all {kept} records that were kept are held out (heldout_share_{name})"
    raise QilinError(
        f"{stage.name}: {name}.jsonl of run '{stage.parameters.run}' has nothing to train on: {why}; nearest valid: a "
        f"raw_dir with a source of {name} (python -m qilin_lib.chimed.sources lists them)"
    )


def check_fields(stage: Stage) -> None:
    """QilinError for a field of `trainer` or `peft` that is unknown, of another type, or set by the kit."""
    parameters = stage.parameters
    if parameters.trainer:
        values = parameters.model_dump(mode="json")
        # 08's trainings have settings of their own in the same fields.
        values |= values.get("reward", {}) | {"trainer": {}}
        method = methods.of(parameters)
        library, _, name = method.config.rpartition(".")
        kind = getattr(importlib.import_module(library), name)
        managed = getattr(method.load(), "arguments", fit.arguments)(SimpleNamespace(**values), stage.dir)
        kit = re.compile("|".join(FIELDS["kit"]))
        _check(parameters, "trainer", kind, lambda name: name in managed or kit.fullmatch(name))
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
        _check(parameters, "peft", LoraConfig, lambda name: name not in FIELDS["lora"])
        if (start := parameters.peft.get("init_lora_weights", True)) not in FIELDS["starts"]:
            raise QilinError(
                f"{parameters.notebook}: peft: init_lora_weights = {start!r} changes the weights below the adapter, or "
                f"leaves no defined start; nearest valid: one of {FIELDS['starts']}"
            )
        if start == "orthogonal" and parameters.finetuning == "qlora":
            raise QilinError(
                f"{parameters.notebook}: peft: init_lora_weights = 'orthogonal' with finetuning: qlora: peft makes it "
                "in the type of the weights below, and NF4's are no numbers; nearest valid: true"
            )


def check_adapter(model: Any, parameters: Trained) -> None:
    """QilinError for an entry of `peft` that means no layer of `model` (weights not read), which peft would pass over,
    and for fields with which it makes no adapter."""
    where, names = f"{parameters.notebook}: peft: ", [name for name, _ in model.named_modules() if name]
    known = sorted({name.rpartition(".")[2] for name in names})
    try:
        for field in ("exclude_modules", "rank_pattern", "alpha_pattern"):
            entries = parameters.peft.get(field) or []
            for entry in [entries] if isinstance(entries, str) else entries:
                if not any(re.fullmatch(rf"(.*\.)?({entry})", name) for name in names):
                    raise QilinError(f"{where}{field}: '{entry}' is no module of the model{nearest(entry, known)}")
        layers, count = parameters.peft.get("layers_to_transform"), model.config.get_text_config().num_hidden_layers
        for number in [layers] if isinstance(layers, int) else layers or []:
            if not 0 <= number < count:
                raise QilinError(f"{where}layers_to_transform: {number}: the model has layers 0 to {count - 1}")
        if parameters.peft:
            add_lora(model, parameters, quantised=False)
    except (ValueError, TypeError, re.error) as reason:
        why = " ".join(str(reason).split())[:300]
        raise QilinError(f"{where}{parameters.peft}: LoraConfig says: {why}") from None


def _check(parameters: Trained, which: str, kind: type, managed: Callable[[str], Any]) -> None:
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
    own, section = FIELDS["names"].get(name, name), SECTIONS[parameters.notebook][0]
    fields = type(parameters).model_fields
    if own in fields:
        return f"the kit has a parameter for it; nearest valid: {section}.{own}"
    if "reward" in fields and own in fields["reward"].annotation.model_fields:
        return f"the kit has a parameter for it; nearest valid: {section}.reward.{own}"
    return "the kit sets it, or does not use it; nearest valid: leave it out"
