"""04: supervised fine-tuning; loss on every assistant turn and its end token, on nothing else (paper §3.2.2, §4.2).

With `one_stage` it starts from the base model and learns DCPT's documents too, as instructions (`train.one_stage`).
"""

from __future__ import annotations

import math
import zlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_tokenizer
from qilin_lib.runs import Stage
from qilin_lib.tokens import bins, corpus, store
from qilin_lib.tokens.template import IGNORE, Message, Template, text_ids
from qilin_lib.train import fit as shared
from qilin_lib.train import job as jobs
from qilin_lib.train import one_stage, questions
from qilin_lib.train.heldout import label_count, measured
from qilin_lib.train.methods import METHODS

# Role tags and the end token need a few tokens beside two turns; a system text of the template's own more.
TAGS = 32
# ids and labels, equally long: lists, or the two rows of an array.
Example = tuple[Sequence[int], Sequence[int]]


def train(stage: Stage) -> dict[str, Any]:
    """Fine-tune what the stage starts from (`one_stage`: the base) on ChiMed-SFT in a child; returns its facts."""
    chimed, tokens = stage.parent("01_build_chimed"), stage.parent("02_tokenize")
    data = {"data": chimed / "sft.jsonl", "store": corpus.folder(tokens, "sft")}
    paths = {"weights": shared.start_of(stage), **data}
    if stage.parameters.one_stage:
        paths |= {"weights": shared.weights_of(stage, "02_tokenize"), "chimed": chimed, "tokens": tokens}
    return jobs.train_stage(stage, METHODS["sft"], paths)


def longest(limits: Any, template: Template, tokenizer: Any) -> int:
    """The `max_length` that a question and an answer, cut to their `limits`, always fit."""
    empty = [{"role": role, "content": ""} for role in ("user", "assistant")]
    return limits.max_source_length + limits.max_target_length + max(TAGS, len(template.encode(empty, tokenizer)))


def encode(messages: list[Message], template: Template, tokenizer: Any, parameters: Any) -> Example | None:
    """(ids, labels) of a conversation, or None if nothing can be learned from it.

    Long turns are cut inside; a conversation longer than `max_length` loses whole turns from its front, but
    for a system turn.
    """
    return fitting(messages, template, tokenizer, parameters)[1]


def fitting(
    messages: list[Message], template: Template, tokenizer: Any, parameters: Any
) -> tuple[list[Message], Example | None]:
    """(the turns that `encode` leaves, their ids and labels)."""
    limits = (parameters.max_source_length, parameters.max_target_length)
    system = [turn for turn in messages[:1] if turn["role"] == "system"]
    for start in range(len(system), len(messages), 2):
        kept = [*system, *messages[start:]]
        ids, labels = template.encode_with_labels(kept, tokenizer, *limits)
        if len(ids) <= parameters.max_length and any(label != IGNORE for label in labels):
            return kept, (ids, labels)
    return [], None


@dataclass(frozen=True)
class Examples(Sequence[np.ndarray]):
    """Conversations as int32 arrays of shape (2, tokens), ids and labels, each put together when it is read. `rows` are
    those of `tokens.store`; `places`, `tokens` and `learned`, shape (n,): an example's row, its tokens, those with
    loss."""

    rows: Sequence[Mapping[str, Any]]
    encode: Callable[[list[Message]], Example | None]
    places: np.ndarray
    tokens: np.ndarray
    learned: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> np.ndarray:
        return np.array(self.encode(self.rows[self.places[number]]["messages"]), dtype=np.int32)


def repeats(sources: Sequence[str], weights: Mapping[str, float] | None, seed: int) -> np.ndarray:
    """How often each training conversation is used, given the source of each; integers, shape (n,).

    Weight 2.5 takes each conversation of a source twice and a seeded half of them once more; no weight is 1. QilinError
    for a source that is not there, and for a weight that is negative or no number.
    """
    names = np.array(sources, dtype=object)
    result = np.ones(len(names), dtype=np.int64)
    one_stage.check_sources("source_weights", weights or (), sources, "the training split of sft.jsonl")
    for source, weight in (weights or {}).items():
        places = np.flatnonzero(names == source)
        if weight < 0 or not math.isfinite(weight):
            raise QilinError(f"source_weights: {source} = {weight} is no number of times; nearest valid: 0 (none)")
        result[places] = int(weight)
        draw = np.random.default_rng([seed, zlib.crc32(source.encode())])
        result[draw.choice(places, round((weight - int(weight)) * len(places)), replace=False)] += 1
    return result


def examples(
    rows: Sequence[Mapping[str, Any]], often: Iterable[int], template: Template, tokenizer: Any, parameters: Any
) -> tuple[Examples, dict[str, dict[str, int]]]:
    """The examples of conversations, and the count of every source.

    A source's `read` conversations are those `not_drawn` by its weight, those left out because not even their last turn
    fits max_length (`too_long`) or because nobody answers (`no_answer`), and those `used`; `examples` counts repeats,
    `turns_cut` the turns of a used conversation that are longer than their limit.
    """
    made = array("q")
    names = ("read", "not_drawn", "too_long", "no_answer", "used", "examples", "turns_cut")
    counts: dict[str, dict[str, int]] = {}
    for place, (row, copies) in enumerate(zip(rows, often, strict=True)):
        count = counts.setdefault(row["source"], dict.fromkeys(names, 0))
        count["read"] += 1
        if not copies:
            count["not_drawn"] += 1
            continue
        kept, example = fitting(row["messages"], template, tokenizer, parameters)
        if example is None:
            answered = any(message["role"] == "assistant" for message in row["messages"])
            count["too_long" if answered else "no_answer"] += 1
            continue
        count["used"] += 1
        count["examples"] += int(copies)
        for turn in kept:
            own = turn["role"] == "assistant"
            limit = parameters.max_target_length if own else parameters.max_source_length
            count["turns_cut"] += len(text_ids(tokenizer, turn["content"])) > limit
        made.extend((place, len(example[0]), label_count(example[1])) * int(copies))
    found = partial(encode, template=template, tokenizer=tokenizer, parameters=parameters)
    return Examples(rows, found, *np.array(made, dtype=np.int64).reshape(-1, 3).T), counts


def collate(batch: Sequence[Example], pad_id: int, max_length: int, packing: bool | str) -> dict[str, Any]:
    """Conversations as the model's arguments: rows of at most `max_length` tokens, or a row each without `packing`.
    With "naive" they stand in a row in their order and see those before them, as in HuatuoGPT-II's released code.

    Attention stays inside a conversation because its positions restart. Only positions whose next token is labelled
    reach the vocabulary: `logits_to_keep`, boolean, (rows, tokens), and `shift_labels`, (labelled tokens,).
    """
    import torch

    lengths = [len(ids) for ids, _ in batch]
    fit = bins.in_order if packing == "naive" else bins.pack_rows
    rows = fit(lengths, max_length) if packing else [[i] for i in range(len(batch))]
    blocks = bins.fill(batch, rows, pad_id)
    ids, positions, labels = (torch.from_numpy(part.astype(np.int64)) for part in vars(blocks).values())
    if packing == "naive":
        positions = torch.arange(ids.shape[1]).expand_as(ids)
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    keep = following != IGNORE
    given = {"input_ids": ids, "position_ids": positions, "labels": labels}
    return given | {"logits_to_keep": keep, "shift_labels": following[keep]}


def make_trainer(
    job: SimpleNamespace, model: Any, tokenizer: Any, training: Sequence[Example], in_order: bool = False
) -> Any:
    """transformers' Trainer (`fit.causal_trainer`) on `training`, shuffled anew in every epoch, or `in_order`."""
    p, order = job.parameters, "sequential" if in_order else "random"
    rows = partial(collate, pad_id=tokenizer.pad_token_id, max_length=p.max_length, packing=p.packing)
    return shared.causal_trainer(job, model, training, rows, p.packing is True, train_sampling_strategy=order)


def within_context(job: SimpleNamespace) -> Any:
    """The job's parameters, with a `max_length` of no more tokens than the model reads."""
    job.parameters.max_length = min(job.parameters.max_length, shared.reads(job.paths.weights))
    return job.parameters


def work(job: SimpleNamespace) -> None:
    """The child's part: train; facts.json last."""
    p = within_context(job)
    model, tokenizer = shared.prepare_model(p, job.paths.weights)
    rows = store.rows(job.paths, tokenizer, split="train")
    often = repeats(rows.sources(), p.source_weights, p.seed)
    more: dict[str, Any] = {}
    if p.question_share is not None:
        texts = [row["messages"] for row in store.lines(job.paths.data, rows.numbers)]
        often, more["questions"] = questions.drawn(texts, often, p.question_share, p.seed)
    if p.one_stage:
        often = often * p.one_stage["sft_epochs"]
    training, counts = examples(rows, often, job.template, tokenizer, p)
    useful = int(training.learned.sum())
    if not training:
        raise QilinError(f"{job.paths.data}: nothing to learn from; conversations by source: {counts}")
    if p.one_stage:
        training, said = with_passages(job, tokenizer, training)
        more |= said
    trainer = make_trainer(job, model, tokenizer, training, in_order=bool(p.one_stage))
    left_out = sum(count["too_long"] + count["no_answer"] for count in counts.values())
    facts = {
        "examples": len(training),
        "examples_left_out": left_out,
        "max_length": p.max_length,
        "assistant_tokens": useful,
        "sources": counts,
    }
    shared.fit(trainer, job, facts | more)


def with_passages(
    job: SimpleNamespace, tokenizer: Any, conversations: Examples
) -> tuple[Sequence[np.ndarray], dict[str, Any]]:
    """(examples, facts): DCPT's documents as instructions and `conversations`, in the order of priority sampling."""
    from torch.utils.data import ConcatDataset, Subset

    settings, seed = job.parameters.one_stage, job.parameters.seed
    passages, sources = one_stage.passages(job, tokenizer)
    rows = store.temporary(passages, tokenizer)
    made, _ = examples(rows, [1] * len(rows), job.template, tokenizer, job.parameters)
    if len(made) != len(rows):
        raise RuntimeError(f"{len(rows) - len(made)} passages were left out, though each was made to fit")
    weights = one_stage.weights(rows.sources(), settings)
    places = one_stage.order(np.concatenate([weights, np.ones(len(conversations))]), seed)
    facts = {
        **settings,
        "passages": one_stage.measured(made),
        "conversations": one_stage.measured(conversations),
        "sources": sources,
    }
    both = Subset(ConcatDataset([made, conversations]), places.tolist())
    return both, {"one_stage": facts, "assistant_tokens": int(made.learned.sum() + conversations.learned.sum())}


def score(job: SimpleNamespace) -> None:
    """heldout.json: log-likelihoods of assistant tokens, {"medical"|"general": {source, tokens, before, after,
    left_out}}.

    All but `left_out` are lists, one entry per conversation; at most `max_heldout` conversations per part.
    """
    chosen: dict[str, list[Example]] = {}
    result: dict[str, Any] = {}
    p, tokenizer = within_context(job), load_tokenizer(job.paths.weights)
    for part in ("medical", "general"):
        taken = spread(store.rows(job.paths, tokenizer, split="heldout", part=part), p.max_heldout)
        coded = [encode(row["messages"], job.template, tokenizer, p) for row in taken]
        chosen[part] = [example for example in coded if example]
        result[part] = {
            "source": [row["source"] for row, example in zip(taken, coded, strict=True) if example],
            "tokens": [label_count(labels) for _, labels in chosen[part]],
            "left_out": coded.count(None),
        }
    files.write_json(job.out / "heldout.json", measured(job, chosen, result))


def spread(rows: Sequence[Any], most: int | None) -> list[Any]:
    """At most `most` rows, evenly spaced: sft.jsonl is in order of sources, its head would be one source."""
    count = len(rows) if most is None else min(len(rows), most)
    return [rows[i * len(rows) // count] for i in range(count)]
