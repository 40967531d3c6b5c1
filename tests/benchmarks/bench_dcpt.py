"""Tokens with loss a second in DCPT: our isolated blocks against the grouping of the released pretraining.py.

    QILIN_RAW_DIR=raw python tests/benchmarks/bench_dcpt.py [--threads 2] [--rounds 5] [--steps 6] [--block-sizes 256]

Theirs: texts of 1,000 documents concatenated without an end token, cut into blocks, remainder dropped, transformers'
default collator, plain causal attention. Ours: `pack` and `dcpt.make_trainer`, isolated and (to see what isolation
costs) naive. Same text, same LLaMA (profile smoke's tiny), fp32, all weights trained; the ways take turns. A ratio is
that of the medians over the rounds; in brackets the smallest and the largest of a round. Target: 1.0 within noise.
Without QILIN_RAW_DIR the sample's questions and answers are the text.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qilin_lib import params
from qilin_lib.evaluate.benchmarks.huatuo import huatuo_items
from qilin_lib.models import attention
from qilin_lib.models.tiny import new_model
from qilin_lib.sample import raw_dir
from qilin_lib.tokens.pack import pack
from qilin_lib.tokens.tokenizer import train_tokenizer
from qilin_lib.train import fit
from qilin_lib.train.methods import dcpt

TOKENS_A_STEP = 4096
PASSAGE = 1500


def texts(characters: int) -> list[str]:
    """Passages of real books, `characters` long together, or what the sample has."""
    root = os.environ.get("QILIN_RAW_DIR")
    if not root:
        items, _ = huatuo_items(raw_dir())
        return [f"{item.question}\n{item.reference}" for item in items]
    books = sorted((Path(root) / "plain_text").rglob("*.txt"))
    found: list[str] = []
    for book in books:
        text = book.read_text(encoding="utf-8", errors="replace")
        found += [text[i : i + PASSAGE] for i in range(0, len(text), PASSAGE)]
        if sum(map(len, found)) > characters:
            break
    return found


def grouped(documents: list[list[int]], size: int) -> list[dict[str, list[int]]]:
    """`group_texts` of the released code, by thousands of documents."""
    rows: list[dict[str, list[int]]] = []
    for start in range(0, len(documents), 1000):
        stream = list(chain.from_iterable(documents[start : start + 1000]))
        for place in range(0, len(stream) // size * size, size):
            ids = stream[place : place + size]
            rows.append({"input_ids": ids, "attention_mask": [1] * size, "labels": list(ids)})
    return rows


def theirs(job: SimpleNamespace, model: Any, rows: list[dict[str, list[int]]]) -> Any:
    """transformers' Trainer as the released script makes it."""
    from transformers import Trainer, TrainingArguments, default_data_collator

    arguments = TrainingArguments(**fit.arguments(job.parameters, job.out))
    return Trainer(model=model, args=arguments, train_dataset=rows, data_collator=default_data_collator)


def stopwatch() -> Any:
    """A callback that knows how long the steps after the first took; the first pays for warming up."""
    from transformers import TrainerCallback

    class Stopwatch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

        @property
        def seconds_a_step(self) -> float:
            return (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)

    return Stopwatch()


def ways(size: int, steps: int, documents: list[list[int]], tokenizer: Any, shape: Any, out: Path) -> dict[str, Any]:
    """{name: (trainer, stopwatch, tokens with loss a step)}."""
    batch = max(1, TOKENS_A_STEP // size)
    settings = {
        "gpus": 0, "finetuning": "full", "dtype": "float32", "per_device_train_batch_size": batch, "max_steps": steps,
        "gradient_accumulation_steps": 1, "gradient_checkpointing": False, "save_steps": 9999, "logging_steps": 9999,
    }  # fmt: skip
    job = SimpleNamespace(
        parameters=SimpleNamespace(**params.load("03_dcpt", settings).model_dump(mode="json")), out=out
    )
    made: dict[str, Any] = {}
    rows = grouped(documents, size)
    made["pretraining.py"] = (theirs(job, new_model(shape, tokenizer, 1), rows), float(size - 1))
    for packing in ("isolated", "naive"):
        blocks = pack(documents, size, tokenizer.eos_token_id, tokenizer.pad_token_id, packing)
        useful = (blocks.labels[:, 1:] >= 0).sum() / len(blocks.ids)
        model = new_model(shape, tokenizer, 1)
        # What fit.prepare_model gives a model that is trained on blocks.
        model.set_attn_implementation("documents")
        made[packing] = (dcpt.make_trainer(job, model, blocks), float(useful))
    from transformers import PrinterCallback

    watched = {}
    for name, (trainer, useful) in made.items():
        watch = stopwatch()
        trainer.add_callback(watch)
        trainer.remove_callback(PrinterCallback)
        watched[name] = (trainer, watch, useful * batch)
    return watched


def rates(trainers: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Tokens with loss a second by way and round; who begins changes from round to round."""
    found: dict[str, list[float]] = {name: [] for name in trainers}
    for number in range(rounds):
        names = list(trainers)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            trainer, watch, tokens = trainers[name]
            trainer.train()
            found[name].append(tokens / watch.seconds_a_step)
    return found


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--characters", type=int, default=600_000)
    parser.add_argument("--block-sizes", type=int, nargs="+", default=[256, 1024])
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    attention.register()
    text = texts(given.characters)
    shape = params.load("02_tokenize", {"profile": "smoke"}).tiny
    tokenizer = train_tokenizer(text, shape.vocab_size, shape.max_position_embeddings)
    documents = tokenizer(text, add_special_tokens=False)["input_ids"]
    show(f"{len(documents)} documents, {sum(map(len, documents)):,} tokens, {given.threads} threads")
    for size in given.block_sizes:
        with tempfile.TemporaryDirectory() as folder:
            found = rates(ways(size, given.steps, documents, tokenizer, shape, Path(folder)), given.rounds)
        base = found["pretraining.py"]
        for name, values in found.items():
            ratios = [ours / other for ours, other in zip(values, base, strict=True)]
            show(
                f"block {size:>5}  {name:<15} {statistics.median(values):8,.0f} tokens/s   ratio "
                f"{statistics.median(values) / statistics.median(base):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"
            )


if __name__ == "__main__":
    main()
