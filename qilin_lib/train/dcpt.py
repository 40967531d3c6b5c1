"""03: domain continued pre-training, next-token prediction on packed blocks (paper §3.1.2, §4.2)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import files
from qilin_lib.models.load import load_model, load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens.pack import Blocks, load_blocks
from qilin_lib.train import fit as shared
from qilin_lib.train.heldout import documents, label_count, sequence_logprobs


def train(stage: Stage) -> dict[str, Any]:
    """Continue the base model's pre-training on ChiMed-CPT in a child process; returns its facts."""
    tokens = stage.parent("02_tokenize")
    return shared.train_in_child(
        stage,
        __name__,
        {
            "weights": shared.weights_of(stage, "02_tokenize"),
            "blocks": tokens / "cpt_train.npy",
            "medical": tokens / "cpt_heldout.jsonl",
            "general": tokens / "general_heldout.jsonl",
        },
    )


def work(job: SimpleNamespace) -> None:
    """The child's part: train, then compare base and trained model on held-out medical and general documents."""
    from transformers import Trainer, TrainingArguments

    parameters = job.parameters
    model, _ = shared.prepare_model(parameters, job.paths.weights)
    blocks = load_blocks(job.paths.blocks)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(**shared.arguments(parameters, job.out)),
        train_dataset=BlockRows(blocks),
        data_collator=stack,
    )
    facts = shared.fit(trainer, job, job.paths.weights)
    if trainer.is_world_process_zero():
        facts["tokens_seen"] = round(
            blocks.useful_tokens * facts["steps_done"] * facts["global_batch_size"] / len(blocks.ids)
        )
        facts["tokens_per_second"] = round(facts["tokens_seen"] / facts["train_seconds"])
        files.write_json(job.out / "heldout.json", heldout(job))
        files.write_json(job.out / "facts.json", facts)


def heldout(job: SimpleNamespace) -> dict[str, Any]:
    """Per-document log-likelihoods: {"medical"|"general": {before, after, tokens, chars}}."""
    device = "cuda:0" if job.parameters.gpus else "cpu"
    tokenizer = load_tokenizer(job.paths.weights)
    result: dict[str, Any] = {}
    for moment, weights in (("before", job.paths.weights), ("after", job.out / "model")):
        model = load_model(weights, job.parameters.dtype, device=device)
        for kind, path in (("medical", job.paths.medical), ("general", job.paths.general)):
            texts = [row["text"] for row in files.read_jsonl(path)][: job.parameters.max_heldout]
            sequences = documents(texts, tokenizer, _context(model))
            entry = result.setdefault(
                kind, {"tokens": [label_count(labels) for _, labels in sequences], "chars": [len(t) for t in texts]}
            )
            entry[moment] = sequence_logprobs(model, sequences).round(6).tolist()
    return result


def _context(model: Any) -> int:
    return min(model.config.max_position_embeddings, 2048)


class BlockRows:
    """A map-style dataset over packed blocks."""

    def __init__(self, blocks: Blocks) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks.ids)

    def __getitem__(self, index: int) -> tuple[Any, Any, Any]:
        return self.blocks.ids[index], self.blocks.positions[index], self.blocks.labels[index]


def stack(rows: list[tuple[Any, Any, Any]]) -> dict[str, Any]:
    """Batch of blocks; position ids that restart keep attention inside a document, so no mask is passed."""
    import numpy as np
    import torch

    ids, positions, labels = (torch.from_numpy(np.stack(part).astype(np.int64)) for part in zip(*rows, strict=True))
    return {"input_ids": ids, "position_ids": positions, "labels": labels}


if __name__ == "__main__":
    work(shared.read_job(str(Path(sys.argv[1]))))
