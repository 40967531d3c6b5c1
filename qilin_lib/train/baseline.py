"""06: a baseline learns a benchmark's train split before it answers (paper §4.2: the "-CMExam" models, LoRA r 8).

The pairs come from ChiMed-SFT as notebook 01 left it: train splits only, every near-duplicate of a test item removed.
One form of answer for every question: CMExam's own script takes another prompt for a long gold answer, which tells.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files, strict_yaml
from qilin_lib.errors import QilinError
from qilin_lib.models.adapters import is_adapter, trained, weights_sha256
from qilin_lib.models.load import from_files, load_tokenizer, padding
from qilin_lib.progress import Show
from qilin_lib.runs import Stage
from qilin_lib.runs.settings import LATER
from qilin_lib.schema import SECTIONS, Finetune
from qilin_lib.tokens import store
from qilin_lib.tokens.template import IGNORE, Template, text_ids
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import launch
from qilin_lib.train.methods import METHODS, sft

DEFAULTS: dict[str, Any] = strict_yaml.read(Path(__file__).with_name("baseline.yaml"))


def named(stage: Stage, name: str) -> str:
    """A baseline as its profile spells it: eval.baselines.<name>, or bias.baselines.<name> in 09."""
    return f"{SECTIONS[stage.name][0]}.baselines.{name}"


def folder(stage: Stage, name: str) -> Path:
    """Where a fine-tuned baseline lies: adapter/ or model/, key.json (last), facts.json, the pairs and the logs."""
    return stage.dir / "baselines" / name


def finetune(stage: Stage, name: str, spec: Finetune, template: Template, weights: Path, show: Show) -> Path:
    """The folder of the model in `weights` after training on `spec.on` in a child process, once per key (parameters,
    template, hashes of pairs and weights). QilinError when the run has no such pairs, or when training fails."""
    target, rows = folder(stage, name), pairs(stage, spec.on)
    if not rows:
        raise QilinError(
            f"{named(stage, name)}.finetune.on = '{spec.on}': ChiMed-SFT of run '{stage.run_dir.name}' has no "
            "training conversation of that kind; nearest valid: finetune: null, or a raw_dir and sources that hold some"
        )
    own = {field: getattr(stage.parameters, field) for field in ("notebook", "run", "seed", "gpus", "dtype")}
    own["max_length"] = sft.longest(spec, template, load_tokenizer(weights))
    parameters = {**DEFAULTS, **spec.model_dump(exclude={"on"}), **own}
    key = {
        # A renamed run is the same training, and so is one from before the last defaults came.
        "parameters": {n: v for n, v in parameters.items() if n not in ("run", *LATER) or LATER.get(n, v) != v},
        "template": template.sha256,
        "data": files.sha256_text(json.dumps(rows, ensure_ascii=False)),
        "weights": weights_sha256(weights),
    }
    note = target / "key.json"
    for old in stage.run.old(stage.name):
        # A stage that was moved aside may hold this very training.
        earlier = old / "baselines" / name
        if not note.exists() and (earlier / "key.json").exists() and files.read_json(earlier / "key.json") == key:
            shutil.copytree(earlier, target, copy_function=os.link, dirs_exist_ok=True)
    if not (note.exists() and files.read_json(note) == key):
        shutil.rmtree(target, ignore_errors=True)
        files.write_jsonl(target / "train.jsonl", rows)
        paths = {"weights": weights, "data": target / "train.jsonl"}
        told = lambda text: show(f"training {name}: {text}")  # noqa: E731
        jobs.run(stage, METHODS["baseline"], target, parameters, paths, told, template)
        shutil.rmtree(target / "checkpoints", ignore_errors=True)
        files.write_json(note, key)
    return trained(target)


def pairs(stage: Stage, on: str) -> list[dict[str, Any]]:
    """Training conversations {id, source, messages} of one question and one answer, in the order of sft.jsonl: CMExam's
    ("cmexam"), or all other medical ones ("huatuo")."""
    rows = files.read_jsonl(stage.parent("01_build_chimed") / "sft.jsonl")
    return [
        {name: row[name] for name in ("id", "source", "messages")}
        for row in rows
        if row["split"] == "train" and row["part"] == "medical" and len(row["messages"]) == 2
        if (row["source"] == "cmexam") == (on == "cmexam")
    ]


def work(job: SimpleNamespace) -> None:
    """The child's part: tokenise, train, save; facts.json says what was read, left out and trained."""
    p, weights = job.parameters, job.paths.weights
    sequences, rows = is_sequence_model(weights), list(files.read_jsonl(job.paths.data))
    if sequences:
        # fp32 weights under autocast, as full training of a stage has them.
        model, tokenizer = load_sequence_model(weights, "float32", launch.device(p)), padding(load_tokenizer(weights))
        training = [sequence_example(row, job.template, tokenizer, p) for row in rows]
        read = Counter(row["source"] for row in rows)
        counts = {source: {"read": count, "used": count} for source, count in read.items()}
    else:
        model, tokenizer = shared.prepare_model(sft.within_context(job), weights)
        coded = store.rows(job.paths, tokenizer)
        training, counts = sft.examples(coded, [1] * len(coded), job.template, tokenizer, p)
    if not training:
        raise QilinError(f"{job.paths.data}: no pair fits max_source_length and max_target_length; by source: {counts}")
    trainer = (make_sequence_trainer if sequences else sft.make_trainer)(job, model, tokenizer, training)
    shared.fit(trainer, job, {"examples": len(training), "sources": counts})


def is_sequence_model(weights: str | Path) -> bool:
    """Whether a model folder holds an encoder-decoder (T5, BART); the kit makes no adapters of such."""
    return not is_adapter(weights) and bool(files.read_json(Path(weights) / "config.json").get("is_encoder_decoder"))


def load_sequence_model(path: str | Path, dtype: str = "float32", device: str = "cpu") -> Any:
    """An encoder-decoder in evaluation mode; QilinError when its configuration does not say with which token an answer
    starts, and as for `from_files`."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    model = from_files(AutoModelForSeq2SeqLM, path, dtype=getattr(torch, dtype), device_map={"": device})
    if getattr(model.config, "decoder_start_token_id", None) is None:
        raise QilinError(f"{path}/config.json: no decoder_start_token_id; T5's is that of its pad token")
    return model


def sequence_example(row: dict[str, Any], template: Template, tokenizer: Any, parameters: Any) -> dict[str, list[int]]:
    """{input_ids, labels} for an encoder-decoder: the question in the template up to the opening of the answer, and the
    answer, each with an end token. Long texts are cut."""
    (question, answer), end = row["messages"], tokenizer.eos_token_id
    limits = (parameters.max_source_length, parameters.max_target_length)
    asked, _ = template.encode_with_labels([question], tokenizer, limits[0], add_generation_prompt=True)
    answered = text_ids(tokenizer, answer["content"])[: limits[1]]
    return {"input_ids": [*asked, end], "labels": [*answered, end]}


def make_sequence_trainer(job: SimpleNamespace, model: Any, tokenizer: Any, training: list[dict[str, Any]]) -> Any:
    """transformers' Trainer for an encoder-decoder; its Seq2SeqTrainer adds evaluation by generation, which 06 does."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    return Trainer(
        model=model,
        args=TrainingArguments(**shared.arguments(job.parameters, job.out)),
        train_dataset=training,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model, label_pad_token_id=IGNORE),
        compute_loss_func=token_loss,
    )


def token_loss(outputs: Any, labels: Any, num_items_in_batch: Any = None) -> Any:
    """Mean loss over the labelled tokens of a whole step. The Trainer takes T5's own mean, that of one process's part,
    for it, and multiplies it by the number of processes (transformers 5.23, compute_loss)."""
    from transformers.loss.loss_utils import fixed_cross_entropy

    return fixed_cross_entropy(outputs.logits.flatten(0, 1).float(), labels.flatten(), num_items_in_batch, IGNORE)
