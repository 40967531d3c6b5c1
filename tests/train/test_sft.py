"""SFT examples: what is cut, dropped, repeated and counted; packing changes nothing but the time; held-out scores."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.trainings import job as job_of

from qilin_lib import files
from qilin_lib.errors import QilinError
from qilin_lib.models.load import load_model
from qilin_lib.report import training as report
from qilin_lib.tokens.store import temporary
from qilin_lib.tokens.template import BAICHUAN, IGNORE, Template
from qilin_lib.train import fit
from qilin_lib.train.fit import prepare_model
from qilin_lib.train.heldout import label_count, sequence_logprobs
from qilin_lib.train.methods import sft
from qilin_lib.train.methods.sft import encode, examples, repeats, score, work

TURNS = [
    {"role": "user", "content": "咳嗽三天"},
    {"role": "assistant", "content": "多喝水"},
    {"role": "user", "content": "头痛"},
    {"role": "assistant", "content": "休息"},
]


def limits(max_length: int, source: int = 100, target: int = 100) -> SimpleNamespace:
    return SimpleNamespace(max_source_length=source, max_target_length=target, max_length=max_length)


@pytest.mark.parametrize("short_of", [1, 3])
def test_whole_turns_go_from_the_front(short_of: int, tiny_tokenizer: Any) -> None:
    length = len(BAICHUAN.encode(TURNS, tiny_tokenizer))
    kept = encode(TURNS, BAICHUAN, tiny_tokenizer, limits(length - short_of))
    assert kept == BAICHUAN.encode_with_labels(TURNS[2:], tiny_tokenizer)
    assert kept[0][0] == tiny_tokenizer.convert_tokens_to_ids("<reserved_102>")


def test_long_turns_are_cut_before_turns_are_dropped(tiny_tokenizer: Any) -> None:
    cut = BAICHUAN.encode_with_labels(TURNS, tiny_tokenizer, 1, 1)
    assert encode(TURNS, BAICHUAN, tiny_tokenizer, limits(len(cut[0]), 1, 1)) == cut


def row(source: str, messages: list[dict[str, str]]) -> dict[str, Any]:
    return {"source": source, "messages": messages}


def test_every_conversation_is_used_or_counted(tiny_tokenizer: Any) -> None:
    too_long = [TURNS[0], {"role": "assistant", "content": "水" * 300}]
    rows = [
        row("a", TURNS),
        row("b", too_long),
        row("a", TURNS[:1]),
        row("a", []),
        row("a", TURNS[:2]),
        row("b", TURNS),
    ]
    made, counts = examples(rows, [2, 1, 1, 1, 1, 0], BAICHUAN, tiny_tokenizer, limits(60, 100, 500))
    expected = [BAICHUAN.encode_with_labels(messages, tiny_tokenizer) for messages in (TURNS, TURNS, TURNS[:2])]
    assert [(ids.tolist(), labels.tolist()) for ids, labels in made] == expected
    assert counts == {
        "a": {"read": 4, "not_drawn": 0, "too_long": 0, "no_answer": 2, "used": 2, "examples": 3, "turns_cut": 0},
        "b": {"read": 2, "not_drawn": 1, "too_long": 1, "no_answer": 0, "used": 0, "examples": 0, "turns_cut": 0},
    }
    shown = report.sources_table(counts).words
    columns = ["Source", "read", "not drawn", "too long", "no answer", "used", "examples", "turns cut"]
    assert list(shown.columns) == columns
    assert shown.iloc[1].tolist() == ["b", "2", "1", "1", "0", "0", "0", "0"]


def test_turns_that_are_cut_are_counted(tiny_tokenizer: Any) -> None:
    """Four turns of two or more tokens and two of one; where only the last exchange fits, only its turns are cut."""
    long = [turn | {"content": turn["content"] * 3} for turn in TURNS]
    short = [{"role": "user", "content": "痛"}, {"role": "assistant", "content": "水"}]
    _, counts = examples([row("a", long + short)], [1], BAICHUAN, tiny_tokenizer, limits(500, 1, 1))
    assert counts["a"].get("turns_cut") == 4
    last = len(BAICHUAN.encode_with_labels(long[2:], tiny_tokenizer, 1)[0])
    _, counts = examples([row("a", long)], [1], BAICHUAN, tiny_tokenizer, limits(last, 1, 500))
    assert counts["a"].get("turns_cut") == 1


def test_what_02_tokenised_is_not_tokenised_again(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training looks at each conversation at its start, and puts it together anew in each epoch."""
    rows = temporary([row("a", TURNS)] * 3, tiny_tokenizer)
    made, _ = examples(rows, [1, 1, 1], BAICHUAN, tiny_tokenizer, limits(500))
    monkeypatch.setattr(type(tiny_tokenizer), "encode", lambda *_, **__: pytest.fail("the tokenizer was asked again"))
    again, _ = examples(rows, [1, 1, 1], BAICHUAN, tiny_tokenizer, limits(500))
    assert (again[0] == made[2]).all() and again.tokens.tolist() == [made[0].shape[1]] * 3


# --- weights ----------------------------------------------------------------------------------------------------------

SOURCES = ["a"] * 10 + ["b"] * 7 + ["c"] * 5


def test_weights_draw_and_repeat() -> None:
    often = repeats(SOURCES, {"a": 0.5, "b": 2.0}, 3)
    assert sorted(often[:10]) == [0] * 5 + [1] * 5 and set(often[10:17]) == {2} and set(often[17:]) == {1}
    assert sorted(repeats(SOURCES, {"a": 1.5}, 3)[:10]) == [1] * 5 + [2] * 5
    assert repeats(SOURCES, {"c": 0.0}, 3).tolist() == [1] * 17 + [0] * 5
    assert repeats(SOURCES, None, 3).tolist() == repeats(SOURCES, {}, 3).tolist() == [1] * 22


def test_what_is_drawn_depends_on_the_seed_and_on_no_other_source() -> None:
    first = repeats(SOURCES, {"a": 0.5}, 3)
    assert first.tolist() == repeats(SOURCES, {"a": 0.5}, 3).tolist()
    assert first[:10].tolist() == repeats(SOURCES[:10], {"a": 0.5}, 3).tolist()
    assert first[:10].tolist() == repeats(SOURCES, {"b": 1.5, "a": 0.5}, 3)[:10].tolist()
    assert len({tuple(repeats(SOURCES, {"a": 0.5}, seed)) for seed in range(20)}) > 10
    drawn = np.mean([repeats(SOURCES, {"a": 0.5}, seed)[:10] for seed in range(400)], axis=0)
    assert drawn == pytest.approx(np.full(10, 0.5), abs=0.12), "every conversation is as likely as any other"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"cmexan": 1.0}, r"'cmexan' is no source .* \(did you mean 'cmexam'\?\); there are \['cmexam', 'remedi'\]"),
        ({"remedi": -1.0}, "remedi = -1.0 is no number of times; nearest valid: 0"),
        ({"remedi": float("inf")}, "remedi = inf is no number of times"),
        ({"remedi": float("nan")}, "remedi = nan is no number of times"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(QilinError, match=message):
        repeats(["cmexam", "remedi"], weights, 3)


# --- held-out ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def job(tiny_model_dir: Path, training: Callable, sentences: Callable, tmp_path: Path) -> SimpleNamespace:
    """Two medical sources and a general one: one conversation each to train on, three each held out, one unanswered."""
    texts = sentences(40, 5)

    def rows_of(source: str, part: str) -> list[dict[str, Any]]:
        said = [[{"role": role, "content": texts.pop()} for role in ("user", "assistant")] for _ in range(4)]
        splits = ["train", "heldout", "heldout", "heldout"]
        return [row(source, m) | {"part": part, "split": split} for m, split in zip(said, splits, strict=True)]

    rows = [*rows_of("m1", "medical"), *rows_of("m2", "medical"), *rows_of("g", "general")]
    rows.append(row("g", TURNS[:1]) | {"part": "general", "split": "heldout"})
    files.write_jsonl(tmp_path / "sft.jsonl", rows)
    parameters = training("04_sft", max_heldout=4, max_steps=2, source_weights={"m2": 3.0})
    return job_of(parameters, tmp_path, tiny_model_dir, data=tmp_path / "sft.jsonl")


def test_heldout_scores_by_part_and_by_source(job: SimpleNamespace, tiny_tokenizer: Any) -> None:
    rows = list(files.read_jsonl(job.paths.data))
    load_model(job.paths.weights).save_pretrained(job.out / "model")
    score(job)
    scores = files.read_json(job.out / "heldout.json")
    assert scores["medical"]["source"] == ["m1", "m1", "m2", "m2"] and scores["medical"]["left_out"] == 0
    assert scores["general"]["source"] == ["g"] * 3 and scores["general"]["left_out"] == 1

    grouped = report.by_source(scores)
    assert list(grouped) == ["m1", "m2", "g"]
    model = load_model(job.paths.weights)
    for source, entry in grouped.items():
        mine = [r["messages"] for r in rows if (r["source"], r["split"]) == (source, "heldout")][: len(entry["tokens"])]
        sequences = [BAICHUAN.encode_with_labels(messages, tiny_tokenizer) for messages in mine]
        assert entry["tokens"] == [label_count(labels) for _, labels in sequences]
        assert entry["before"] == pytest.approx(sequence_logprobs(model, sequences).tolist(), abs=1e-3)
        assert entry["after"] == entry["before"]
    assert report.perplexity_table(grouped, {"seed": 17}).frame["Type"].tolist() == ["m1", "m2", "g"]


def test_the_child_leaves_facts_and_scores(job: SimpleNamespace, tiny_tokenizer: Any) -> None:
    work(job)
    score(job)
    facts, scores = (files.read_json(job.out / name) for name in ("facts.json", "heldout.json"))
    taken = [
        r
        for r in files.read_jsonl(job.paths.data)
        if r["split"] == "train"
        for _ in range(1 + 2 * (r["source"] == "m2"))
    ]
    lengths = [label_count(BAICHUAN.encode_with_labels(r["messages"], tiny_tokenizer)[1]) for r in taken]
    assert (facts["examples"], facts["examples_left_out"], facts["assistant_tokens"]) == (5, 0, sum(lengths))
    assert facts["sources"]["m2"] == {**facts["sources"]["m1"], "examples": 3} and facts["steps_done"] == 2
    assert all(entry["before"] != entry["after"] for entry in scores.values())
    job.parameters.source_weights = dict.fromkeys(("m1", "m2", "g"), 0.0)
    with pytest.raises(QilinError, match="nothing to learn from"):
        work(job)


@pytest.mark.parametrize("packing", [False, "naive"])
def test_no_text_is_longer_than_the_model_reads(packing: bool | str, job: SimpleNamespace) -> None:
    """512 tokens here: learned positions end there in an IndexError, and rotary ones were never trained beyond. Naive
    rows are one text, as long as max_length."""
    long = [TURNS[0], {"role": "assistant", "content": "水" * 600}]
    rows = [row("m1", long) | {"part": "medical", "split": split} for split in ("train", "heldout")]
    files.write_jsonl(job.paths.data, [*files.read_jsonl(job.paths.data), *rows])
    vars(job.parameters).update({"max_length": 700, "max_target_length": 690, "packing": packing, "max_heldout": 99})
    work(job)
    score(job)
    facts, scores = (files.read_json(job.out / name) for name in ("facts.json", "heldout.json"))
    assert facts["max_length"] == 512 and facts["sources"]["m1"]["too_long"] == scores["medical"]["left_out"] == 1


def test_a_system_turn_stays_when_a_conversation_is_shortened(tiny_tokenizer: Any) -> None:
    own = Template("own", "U", "\n", "A", system_open="S", system_close="\n")
    turn = lambda role, text: {"role": role, "content": text}  # noqa: E731
    system, last = turn("system", "简短"), [turn("user", "头痛"), turn("assistant", "休息")]
    long = [turn("user", "咳嗽" * 20), turn("assistant", "多喝水" * 20)]
    limits = SimpleNamespace(max_source_length=200, max_target_length=200, max_length=40)
    expected = own.encode([system, *last], tiny_tokenizer)
    assert list(encode([system, *long, *long, *last], own, tiny_tokenizer, limits)[0]) == expected
    assert encode([system, *long], own, tiny_tokenizer, limits) is None
    assert encode([system], own, tiny_tokenizer, limits) is None


# --- packing ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conversations(sentences: Callable, tiny_tokenizer: Any) -> list[sft.Example]:
    """Twenty-four conversations of one to three turns and very different lengths, the longest 300 tokens at most."""
    texts, draw = iter(sentences(400, 21)), random.Random(3)
    made = []
    for _ in range(24):
        messages = [
            {"role": role, "content": next(texts)} for _ in range(draw.choice([1, 1, 1, 2, 3])) for role in ROLES
        ]
        made.append(BAICHUAN.encode_with_labels(messages, tiny_tokenizer, 40, 40))
    assert max(len(ids) for ids, _ in made) > 3 * min(len(ids) for ids, _ in made)
    return made


ROLES = ("user", "assistant")


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Any:
    return load_model(tiny_model_dir).eval()


def batch(examples: list[sft.Example], packing: bool = True, max_length: int = 300) -> dict[str, Any]:
    return sft.collate(examples, pad_id=0, max_length=max_length, packing=packing)


def test_liger_gets_all_positions_and_the_same_loss(
    model: Any, conversations: list[sft.Example], training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    """Its forward pass indexes states by the second dimension alone: a choice of positions per row would not fit."""
    import torch
    from transformers import TrainingArguments

    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    arguments.use_liger_kernel = True
    rows = fit.headed(model, training("04_sft"), arguments, batch)
    given, usual = rows(conversations[:5]), batch(conversations[:5])
    assert given.keys() == {"input_ids", "position_ids", "labels"}
    with torch.no_grad():
        assert model(**given).loss.item() == pytest.approx(model(**usual).loss.item(), abs=1e-5)


def test_naive_rows_are_as_they_come_and_let_conversations_see_each_other(
    model: Any, conversations: list[sft.Example]
) -> None:
    import torch

    some = conversations[:7]
    naive = sft.collate(some, pad_id=0, max_length=300, packing="naive")
    first = naive["input_ids"][0].tolist()
    joined = [token for ids, _ in some for token in ids]
    filled = len(list(naive["input_ids"][0].nonzero()))
    assert first[: filled // 2] == joined[: filled // 2], "in their order"
    assert naive["position_ids"][0].tolist() == list(range(len(first)))
    rows = sft.bins.in_order([len(ids) for ids, _ in some], 300)
    assert [i for row in rows for i in row] == list(range(7))
    with torch.no_grad():
        logits = model(input_ids=naive["input_ids"], position_ids=naive["position_ids"]).logits
        start, end = len(some[0][0]), len(some[0][0]) + len(some[1][0])
        alone = model(input_ids=torch.tensor([some[1][0]])).logits
    assert not torch.allclose(logits[0, start:end], alone[0], atol=1e-3)
    apart = sft.collate(some, pad_id=0, max_length=300, packing=True)
    assert (naive["labels"] != IGNORE).sum() == (apart["labels"] != IGNORE).sum()


def trained(
    packing: bool, examples: list[sft.Example], parameters: SimpleNamespace, weights: Path, out: Path
) -> tuple[list[float], list[Any], list[int]]:
    """Loss and gradient norm of every step, weights after the last, and the rows of each micro-batch."""
    parameters.packing = packing
    job = SimpleNamespace(parameters=parameters, out=out)
    model, tokenizer = prepare_model(parameters, weights)
    trainer = sft.make_trainer(job, model, tokenizer, examples)
    rows: list[int] = []
    model.register_forward_pre_hook(lambda _, __, given: rows.append(len(given["input_ids"])) or None, with_kwargs=True)
    trainer.train()
    steps = [row[name] for row in trainer.state.log_history if "loss" in row for name in ("loss", "grad_norm")]
    return steps, [weight.detach() for weight in model.parameters() if weight.requires_grad], rows


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"finetuning": "full", "learning_rate": 1e-4},
        {"finetuning": "full", "learning_rate": 1e-4, "gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True, "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
    ids=["lora", "lora-accumulated", "full", "full-accumulated", "lora-checkpointing-head"],
)
def test_packed_training_is_unpacked_training(
    changed: dict[str, Any], conversations: list[sft.Example], training: Callable, tiny_model_dir: Path, tmp_path: Path
) -> None:
    runs = []
    for packing in (False, True):
        parameters = training(
            "04_sft", **{"max_steps": 4, "learning_rate": 1e-3, "lr_scheduler_type": "constant"} | changed
        )
        parameters.max_length = 300
        runs.append(trained(packing, conversations, parameters, tiny_model_dir, tmp_path))
    (steps, weights, rows), (packed_steps, packed_weights, packed_rows) = runs
    assert len(steps) == 8 and packed_steps == pytest.approx(steps, rel=1e-4, abs=1e-5)
    assert max((a - b).abs().max().item() for a, b in zip(weights, packed_weights, strict=True)) < 2e-5
    micro = 4 * changed.get("gradient_accumulation_steps", 1)
    assert rows == [4] * micro and len(packed_rows) == micro and sum(packed_rows) < 3 * micro
