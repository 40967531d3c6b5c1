"""Supervised fine-tuning: assistant tokens a second, ours (packed) against TRL's SFTTrainer, padded and packed.

Run by hand or by `make bench-train`, with QILIN_RAW_DIR set and nothing else on the machine. Same conversations in the
same order with the same tokens and loss mask, same LLaMA (four layers, hidden 256, vocabulary 4096, random weights),
same LoRA (r 8, all linear layers), fp32, two threads. TRL renders the template's jinja form with assistant_only_loss
and keeps its other defaults but two: no activation checkpointing (ours has none either), and a batch size whose area
is nearest to ours. Packed it fills rows to max_length (best fit) and restarts positions at every conversation. Rounds
alternate; the first steps of each are not timed. The ratio carries over to other machines.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from qilin_lib import params
from qilin_lib.chimed.compose import compose
from qilin_lib.chimed.records import Record
from qilin_lib.chimed.sources import REGISTRY, units
from qilin_lib.models.adapters import add_lora
from qilin_lib.models.tiny import new_model
from qilin_lib.tokens.template import BAICHUAN, IGNORE, text_ids
from qilin_lib.tokens.tokenizer import train_tokenizer
from qilin_lib.train import fit
from qilin_lib.train.methods import sft

Messages = list[dict[str, str]]
WARM_UP = 2
PER_SOURCE = 1000
SIZES = range(2, 33)


def conversations(raw_dir: Path) -> Iterator[tuple[str, Messages]]:
    """(source, messages) of every instruction source that is there, the first thousand of each."""
    for source in REGISTRY:
        left = PER_SOURCE
        for unit in units(source, raw_dir, ("sft",)):
            made = compose("sft", unit.read.payload) if isinstance(unit.read, Record) and left else None
            if made:
                left -= 1
                yield source.name, made["messages"]


def cut(messages: Messages, tokenizer: Any, most: int) -> Messages:
    """Turns of at most `most` tokens, as text: TRL has no limit for a turn."""
    return [{**m, "content": tokenizer.decode(text_ids(tokenizer, m["content"])[:most])} for m in messages]


def same(messages: Messages, tokenizer: Any, parameters: Any) -> bool:
    """Whether TRL's road (jinja form and generation mask) gives the tokens and labels that ours gives."""
    example = sft.encode(messages, BAICHUAN, tokenizer, parameters)
    theirs = tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    mask = [int(label != IGNORE) for label in example[1]] if example else []
    return bool(example) and theirs["input_ids"] == example[0] and theirs["assistant_masks"] == mask


def padded_area(lengths: list[int], size: int) -> float:
    """Mean tokens, padding included, of a batch of `size` conversations in the given order."""
    batches = [lengths[i : i + size] for i in range(0, len(lengths) - size + 1, size)]
    return statistics.mean(len(batch) * max(batch) for batch in batches)


def packed_area(examples: list[sft.Example], job: SimpleNamespace, size: int) -> float:
    batches = [examples[i : i + size] for i in range(0, len(examples) - size + 1, size)]
    return statistics.mean(
        sft.collate(batch, 0, job.parameters.max_length, True)["input_ids"].numel() for batch in batches
    )


def clock() -> Any:
    """A callback that notes when every step ended."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.ends: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter())

    return Clock()


def rate(trainer: Any, useful: list[int], size: int) -> float:
    """Assistant tokens a second of the steps after the warm-up; `useful` counts those of each conversation."""
    from transformers import PrinterCallback

    watch = clock()
    trainer.add_callback(watch)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    steps = len(watch.ends)
    return sum(useful[WARM_UP * size : steps * size]) / (watch.ends[-1] - watch.ends[WARM_UP - 1])


def ours(job: SimpleNamespace, model: Any, tokenizer: Any, examples: list[sft.Example]) -> Any:
    trainer = sft.make_trainer(job, model, tokenizer, examples)
    trainer.args.train_sampling_strategy = "sequential"
    return trainer


def theirs(
    job: SimpleNamespace, model: Any, tokenizer: Any, messages: list[Messages], size: int, packing: bool = False
) -> Any:
    """TRL's trainer; `size` conversations a batch, or packed rows of max_length."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    settings = SFTConfig(
        **fit.arguments(job.parameters, job.out) | {"per_device_train_batch_size": size},
        activation_checkpointing=False,
        assistant_only_loss=True,
        packing=packing,
        max_length=job.parameters.max_length,
        train_sampling_strategy="sequential",
    )
    data = Dataset.from_list([{"messages": conversation} for conversation in messages])
    return SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)


def prepared(raw_dir: Path, count: int, parameters: Any) -> tuple[Any, list[Messages], list[sft.Example]]:
    """Tokenizer, conversations in a shuffled order and their tokens: those that both roads render alike."""
    found = list(conversations(raw_dir))
    random.Random(17).shuffle(found)
    tokenizer = train_tokenizer((m["content"] for _, c in found for m in c), 4096, 10**6)
    learned = f"{{{{- m['content'] -}}}}{{{{- {tokenizer.eos_token!r} -}}}}"
    marked = f"{{%- generation -%}}{learned}{{%- endgeneration -%}}"
    tokenizer.chat_template = BAICHUAN.jinja(tokenizer.eos_token).replace(learned, marked)
    chosen, sources = [], {}
    for source, messages in found:
        short = cut(messages, tokenizer, 256)
        if len(chosen) < count and same(short, tokenizer, parameters):
            chosen.append(short)
            sources[source] = sources.get(source, 0) + 1
    print(f"{len(chosen)} conversations of {len(found)}: {sources}")
    return tokenizer, chosen, [sft.encode(messages, BAICHUAN, tokenizer, parameters) for messages in chosen]


def shown(name: str, rates: list[float]) -> float:
    median = statistics.median(rates)
    print(f"{name:<28} {median:8.0f} assistant tokens/s  ({min(rates):.0f}-{max(rates):.0f})")
    return median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16, help="our conversations a batch (paper: 64 a GPU)")
    parser.add_argument("--conversations", type=int, default=128, help="in a round")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    raw_dir = os.environ.get("QILIN_RAW_DIR")
    if not raw_dir:
        sys.exit("QILIN_RAW_DIR is not set: this benchmark needs the real instruction data")
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore", FutureWarning)
    full = params.load("04_sft", {"profile": "full_a100"}).model_dump(mode="json")
    small = {"gpus": 0, "dtype": "float32", "deepspeed": None, "gradient_checkpointing": False, "lora_dropout": 0.0}
    small |= {"per_device_train_batch_size": given.batch, "save_steps": 10**6, "logging_steps": 10}
    parameters = SimpleNamespace(**full | small)
    shape = params.load("02_tokenize", {"profile": "full_a100"}).tiny
    tokenizer, messages, examples = prepared(Path(raw_dir), given.rounds * given.conversations, parameters)
    with tempfile.TemporaryDirectory() as out:
        job = SimpleNamespace(parameters=parameters, out=Path(out))
        compare(
            job,
            lambda: add_lora(new_model(shape, tokenizer, 17), parameters, False),
            tokenizer,
            messages,
            examples,
            given,
        )


def compare(
    job: SimpleNamespace,
    model: Callable[[], Any],
    tokenizer: Any,
    messages: list[Messages],
    examples: list[sft.Example],
    given: Any,
) -> None:
    """Both trainers on the same slice of conversations, round after round."""
    lengths = [len(ids) for ids, _ in examples]
    useful = [sum(label != IGNORE for label in labels[1:]) for _, labels in examples]
    area = packed_area(examples, job, given.batch)
    size = min(SIZES, key=lambda size: abs(padded_area(lengths, size) - area))
    mean = statistics.mean(lengths)
    for name, batch, tokens in (("ours", given.batch, area), ("TRL", size, padded_area(lengths, size))):
        print(f"{name}: {batch} conversations a batch, {tokens:.0f} tokens, {1 - batch * mean / tokens:.0%} padding")
    rows = max(1, round(area / job.parameters.max_length))
    rates: dict[str, list[float]] = {"ours, packed": [], "TRL SFTTrainer, padded": [], "TRL SFTTrainer, packed": []}
    own, padded, packed = rates.values()
    for number in range(given.rounds):
        part = slice(number * given.conversations, (number + 1) * given.conversations)
        own.append(rate(ours(job, model(), tokenizer, examples[part]), useful[part], given.batch))
        padded.append(rate(theirs(job, model(), tokenizer, messages[part], size), useful[part], size))
        trainer = theirs(job, model(), tokenizer, messages[part], rows, packing=True)
        packed.append(
            rate(trainer, [sum(label != IGNORE for label in row["labels"]) for row in trainer.train_dataset], rows)
        )
    fast, *others = (shown(name, values) for name, values in rates.items())
    for name, slow, values in zip(("padded", "packed"), others, (padded, packed), strict=True):
        pairs = [a / b for a, b in zip(own, values, strict=True)]
        print(f"ratio to TRL {name} {fast / slow:.2f}  (rounds {min(pairs):.2f}-{max(pairs):.2f})")


if __name__ == "__main__":
    main()
