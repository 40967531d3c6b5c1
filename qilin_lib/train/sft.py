"""04: supervised fine-tuning; loss on every assistant turn and its end token, on nothing else (paper §3.2.2, §4.2)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models.load import load_model
from qilin_lib.runs import Stage
from qilin_lib.tokens.template import IGNORE, Template
from qilin_lib.train import fit as shared
from qilin_lib.train.heldout import label_count, sequence_logprobs

Example = tuple[list[int], list[int]]


def train(stage: Stage) -> dict[str, Any]:
    """Fine-tune the DCPT model on ChiMed-SFT in a child process; returns its facts."""
    return shared.train_in_child(
        stage,
        __name__,
        {
            "weights": shared.weights_of(stage, "03_dcpt"),
            "data": stage.parent("01_build_chimed") / "sft.jsonl",
        },
    )


def examples(
    rows: list[dict[str, Any]], template: Template, tokenizer: Any, parameters: Any
) -> tuple[list[Example], int]:
    """((ids, labels) of each conversation, number left out). Long turns are cut inside; a conversation longer than
    `max_length` loses whole turns from its front; one that has no assistant token left is left out and counted."""
    kept: list[Example] = []
    for row in rows:
        messages = row["messages"]
        while messages:
            ids, labels = template.encode_with_labels(
                messages, tokenizer, parameters.max_source_length, parameters.max_target_length
            )
            if len(ids) <= parameters.max_length and any(label != IGNORE for label in labels):
                kept.append((ids, labels))
                break
            messages = messages[2:]
    return kept, len(rows) - len(kept)


def work(job: SimpleNamespace) -> None:
    """The child's part: tokenise, train with TRL's SFTTrainer, compare held-out assistant tokens before and after."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    parameters = job.parameters
    model, tokenizer = shared.prepare_model(parameters, job.paths.weights)
    rows = list(files.read_jsonl(job.paths.data))
    training, left_out = examples([row for row in rows if row["split"] == "train"], job.template, tokenizer, parameters)
    dataset = Dataset.from_dict(
        {"input_ids": [ids for ids, _ in training], "labels": [labels for _, labels in training]}
    )
    settings = SFTConfig(
        **shared.arguments(parameters, job.out),
        max_length=None,
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = SFTTrainer(model=model, args=settings, train_dataset=dataset, processing_class=tokenizer)
    facts = shared.fit(trainer, job, job.paths.weights)
    if trainer.is_world_process_zero():
        useful = sum(label_count(labels) for _, labels in training)
        facts |= {"examples": len(training), "examples_left_out": left_out, "assistant_tokens": useful}
        facts["tokens_seen"] = round(useful * facts["steps_done"] * facts["global_batch_size"] / len(training))
        facts["tokens_per_second"] = round(facts["tokens_seen"] / facts["train_seconds"])
        files.write_json(
            job.out / "heldout.json", heldout(job, [row for row in rows if row["split"] == "heldout"], tokenizer)
        )
        files.write_json(job.out / "facts.json", facts)


def heldout(job: SimpleNamespace, rows: list[dict[str, Any]], tokenizer: Any) -> dict[str, Any]:
    """Per-conversation log-likelihood of assistant tokens before and after, by part (general, medical)."""
    device = "cuda:0" if job.parameters.gpus else "cpu"
    models = {
        "before": load_model(job.paths.weights, job.parameters.dtype, device=device),
        "after": load_model(job.out / "model", job.parameters.dtype, device=device),
    }
    result: dict[str, Any] = {}
    for part in ("medical", "general"):
        chosen = [row for row in rows if row["part"] == part][: job.parameters.max_heldout]
        sequences, _ = examples(chosen, job.template, tokenizer, job.parameters)
        result[part] = {"tokens": [label_count(labels) for _, labels in sequences]}
        result[part] |= {
            moment: sequence_logprobs(model, sequences).round(6).tolist() for moment, model in models.items()
        }
    return result


if __name__ == "__main__":
    work(shared.read_job(str(Path(sys.argv[1]))))
