"""The reward model: Bradley and Terry's loss in our template, no pair lost, and a reward that no other answer moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers import trainings

from qilin_lib import files, params
from qilin_lib.errors import QilinError
from qilin_lib.models import adapters
from qilin_lib.models.load import load_model
from qilin_lib.tokens.template import BAICHUAN
from qilin_lib.train import fit
from qilin_lib.train.methods import reward


def parameters(**overrides: Any) -> SimpleNamespace:
    """What the child gets from `jobs.train_step`, small and on the CPU."""
    small = {"finetuning": "lora", "logging_steps": 1, "max_source_length": 200, "max_target_length": 200}
    steps = {"per_device_train_batch_size": 4, "num_train_epochs": 1.0, "max_steps": 6, "learning_rate": 1e-2}
    own = {name: overrides.pop(name) for name in list(overrides) if name in steps}
    stage = params.load("08_rlhf", {**small, "method": "none", **overrides}).model_dump(mode="json")
    return SimpleNamespace(**{**stage, "dry_run": False, **steps, **own})


@pytest.fixture(scope="module")
def rows(sentences: Callable) -> list[dict[str, Any]]:
    """30 triplets of two sources, 22 to train on. A preferred answer ends politely: that can be learnt."""
    texts = zip(sentences(30, 31), sentences(30, 32), sentences(30, 33), strict=True)
    made = trainings.triplets(itertools.chain(*texts), 30, held=8)
    for row in made:
        row["chosen"][0]["content"] += "您好"
    return made


@pytest.fixture(scope="module")
def job(tiny_model_dir: Path, rows: list[dict[str, Any]], tmp_path_factory: Any) -> Callable[..., SimpleNamespace]:
    """`job(**overrides)`: a fresh folder with the pairs, and what `reward.work` is given."""

    def make(**overrides: Any) -> SimpleNamespace:
        folder = tmp_path_factory.mktemp("reward")
        files.write_jsonl(folder / "dpo.jsonl", rows)
        return trainings.job(parameters(**overrides), folder, tiny_model_dir, data=folder / "dpo.jsonl")

    return make


@pytest.fixture(scope="module")
def trained(job: Callable) -> Callable[[str], SimpleNamespace]:
    """`trained(finetuning)`: the job of a finished training of 18 steps."""

    @cache
    def make(kind: str) -> SimpleNamespace:
        done = job(finetuning=kind, max_steps=18, learning_rate=1e-3 if kind == "full" else 6e-3)
        reward.work(done)
        reward.score(done)
        return done

    return make


def rewards_by_the_book(model: Any, sequences: list[list[int]]) -> Any:
    """One sequence at a time, no padding: the head's output at the last token."""
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return torch.stack(
        [inner.score(inner.model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1])[0] for ids in sequences]
    )


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_loss_and_gradients_are_bradley_and_terrys(kind: str, job: Callable, rows: list[dict[str, Any]]) -> None:
    import torch

    made = job(finetuning=kind)
    model, tokenizer = reward.prepare_model(made.parameters, made.paths.weights)
    pairs = [reward.pair(row, BAICHUAN, tokenizer, made.parameters) for row in rows[:5]]
    trainer = reward.make_trainer(made, model, tokenizer, pairs)
    model = trainings.shifted(trainer.model, 0.03, 3).train()
    chosen, rejected = (rewards_by_the_book(model, [one[f"{side}_ids"] for one in pairs]) for side in reward.SIDES)
    expected = -torch.log(torch.sigmoid(chosen - rejected)).mean()
    expected.backward()
    book = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    trainer.rows_a_batch = 5
    loss = trainer.compute_loss(model, {k: v[:] for k, v in trainer.data_collator(pairs).items()})
    # The trainer's batch holds the five chosen and the five rejected rows.
    loss = loss * trainer.rows_a_batch / 10
    assert abs(expected.item() - math.log(2)) > 1e-3 and loss.item() == pytest.approx(expected.item(), rel=1e-4)
    loss.backward()
    largest = max(grad.abs().max() for grad in book.values())
    assert any("score" in name for name in book) and largest > 1e-3
    for name, weight in model.named_parameters():
        if name in book:
            torch.testing.assert_close(weight.grad, book[name], rtol=1e-3, atol=1e-4 * largest.item(), msg=name)


@pytest.mark.slow
def test_the_shape_of_a_step_does_not_matter(job: Callable) -> None:
    """22 pairs, 8 a step: the last step of an epoch has six, and its second micro-batch two."""
    losses = []
    for size, accumulated in ((8, 1), (4, 2)):
        shape = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulated}
        made = job(**shape, max_steps=-1, learning_rate=1e-3, max_heldout=1)
        reward.work(made)
        losses.append([row["loss"] for row in fit.read_log(made.out) if "loss" in row])
    assert len(losses[0]) == 3 and losses[0][2] != pytest.approx(losses[0][0], rel=1e-3)
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


# --- what is saved ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_the_saved_model_needs_the_libraries_alone(kind: str, trained: Callable, rows: list[dict[str, Any]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = trained(kind)
    folder = adapters.trained(made.out)
    if kind == "full":
        model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    else:
        base = load_model(made.paths.weights, quantised=kind == "qlora", rewards=True)
        model = PeftModel.from_pretrained(base, folder).eval()
        model.config.pad_token_id = AutoTokenizer.from_pretrained(folder).pad_token_id
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.num_labels == 1 and model.config.pad_token_id == tokenizer.pad_token_id is not None
    held = [row for row in rows if row["split"] == "heldout"]
    known = files.read_json(made.out / "heldout.json")
    assert known["ids"] == [row["id"] for row in held] and known["sources"] == [row["source"] for row in held]
    for side in reward.SIDES:
        texts = [tokenizer.apply_chat_template(row["prompt"] + row[side], tokenize=False) for row in held]
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
        assert rewards_by_the_book(model, ids).tolist() == pytest.approx(known[side], abs=1e-4)
    assert (made.out / "adapter").exists() == (kind != "full")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", "qlora", "full"])
def test_what_separates_the_answers_is_learnt_and_carries_over(kind: str, trained: Callable) -> None:
    facts = files.read_json(trained(kind).out / "facts.json")
    scores = files.read_json(trained(kind).out / "heldout.json")
    assert facts["accuracy"] >= 0.85 and facts["n"] == 8 and facts["mean_margin"] > 0.3
    assert facts["accuracy"] == sum(c > r for c, r in zip(scores["chosen"], scores["rejected"], strict=True)) / 8
    assert (facts["pairs"], facts["pairs_heldout"], facts["pairs_alike"]) == (22, 8, 0)
    assert (facts["steps_done"], facts["finetuning"], facts["template"]) == (18, kind, "baichuan")


def test_a_tie_of_held_out_rewards_is_wrong() -> None:
    assert reward.summary({"chosen": [1.0, 2.0, 0.5], "rejected": [1.0, 0.0, 1.0]}) == {
        "accuracy": 0.333333,
        "n": 3,
        "mean_margin": 0.5,
    }
    assert reward.summary({"chosen": [], "rejected": []}) == {"accuracy": None, "n": 0, "mean_margin": None}


# --- scoring ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_reward_depends_on_no_other_sequence(trained: Callable, tiny_tokenizer: Any, sentences: Callable) -> None:
    model = reward.load(trained("lora").out / "adapter", "float32", "cpu")
    ids = [BAICHUAN.encode([{"role": "user", "content": text}], tiny_tokenizer, True) for text in sentences(17, 40)]
    ids = [one + [7 + n] * (1 + 3 * n) for n, one in enumerate(ids)]
    end = tiny_tokenizer.eos_token_id
    alone = reward.rewards(model, ids, 1)
    assert alone == pytest.approx(rewards_by_the_book(model, [[*one, end] for one in ids]).tolist(), abs=1e-4)
    for size in (3, 16, 64):
        assert reward.rewards(model, ids, size) == pytest.approx(alone, abs=1e-4)
    assert reward.rewards(model, ids[::-1], 5)[::-1] == pytest.approx(alone, abs=1e-4)
    assert reward.rewards(model, [[*one, end] for one in ids], 4) == pytest.approx(alone, abs=1e-4)
    assert max(alone) - min(alone) > 1e-2 and reward.rewards(model, [], 4) == []


def test_another_kind_of_model_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(QilinError, match="holds a LlamaForCausalLM, not a reward model; nearest valid: what 08 left"):
        reward.load(tiny_model_dir, "float32", "cpu")


def test_a_held_out_pair_whose_rejected_answer_is_trained_on_is_kept_apart(
    job: Callable, rows: list[dict[str, Any]]
) -> None:
    made = job(finetuning="full", max_steps=1, max_heldout=4)
    made.parameters.max_target_length = 2
    mixed = list(rows)
    mixed[24] = mixed[24] | {"rejected": mixed[3]["rejected"]}
    files.write_jsonl(made.paths.data, mixed)
    reward.work(made)
    reward.score(made)
    facts, scores = (files.read_json(made.out / name) for name in ("facts.json", "heldout.json"))
    assert scores["ids"] == ["22", "23", "26", "28"] and facts["n"] == 4
    assert (facts["pairs"], facts["pairs_heldout"], facts.get("pairs_heldout_apart")) == (22, 7, 1)
    assert facts.get("answers_cut") == 44
