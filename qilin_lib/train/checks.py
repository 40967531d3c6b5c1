"""What a training learns from, looked at before anything is started: nothing, misspelt modules, a model too large."""

from __future__ import annotations

import importlib.util

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import check_modules
from qilin_lib.models.base import base_path
from qilin_lib.models.load import skeleton
from qilin_lib.models.shapes import WIDTH, shape, sizes
from qilin_lib.runs import Stage
from qilin_lib.train import fields, methods, vllm_client

# What a GPU of 24 GB can hold of weights before they are split. With transformers' own way of loading split models, the
# judge and the model that an adapter is merged into would come split too.
ZERO3_GIB = 20


def check(stage: Stage) -> None:
    """QilinError, one sentence, if the training of `stage` (03-05, 08) would have nothing to learn from, names a module
    that the base model lacks, or is to split a model by ZeRO-3 that is too large to be loaded whole."""
    refuse_empty(stage)
    fields.check(stage)
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
    if parameters.finetuning == "full" or (targets == "all-linear" and not whole):
        return
    # The headers of the weight files name most modules; a look at all of them imports transformers.
    found = sizes(base)
    if not (found.names(targets) and found.names(whole)):
        check_modules(skeleton(shape(base)), parameters, rewards=hasattr(parameters, "reward"))


def refuse_empty(stage: Stage) -> None:
    """QilinError naming the empty set and the reason that 01's ledger gives, if there is no row to train on."""
    # Without CPT text 03 hands the base model on (`dcpt.unchanged`): conversations alone can be learned from too.
    if (name := methods.of(stage.parameters).data) == "cpt":
        return
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
